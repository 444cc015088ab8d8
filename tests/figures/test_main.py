"""The command line, as typed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from figures.__main__ import main
from figures.registry import FIGURES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def filled(results):
    for seed in (0, 1):
        results.measured("synthetic", "lr", "maml", seed, [0.5, 0.54, 0.52 + 0.01 * seed])
        results.measured("glyphs", "lr", "kfc", seed, [0.6, 0.7, 0.75 + 0.01 * seed])
        results.measured("omniglot_small", "linnet", "maml", seed, [0.6, 0.7, 0.75 + 0.01 * seed])
        results.curve("glyphs", "lr", "kfc", seed, {0: 0.2, 10: 0.3 + 0.1 * seed, 600: 0.7})
    results.ceilings({("mean classifier", "same"): [0.9, 0.94]})
    return results


def test_all_draws_everything_without_torch(filled):
    code = (
        "import sys; from figures.__main__ import main; code = main(sys.argv[1:]);"
        "print('TORCH' if {'torch', 'core'} & set(sys.modules) else 'LIGHT'); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "all", "--results", filled.folder, "--format", "png", "svg", "pdf"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("LIGHT\n")
    written = sorted(path.name for path in (filled.folder / "figures").iterdir())
    stems = ("fig1_omniglot_small", "fig_a1_glyphs", "table1")
    assert written == sorted([f"{s}.{e}" for s in stems for e in ("png", "svg", "pdf")] + ["table1.md", "table1.tex"])


def test_the_same_tables_give_the_same_files(filled, tmp_path):
    for out in ("a", "b"):
        assert (
            main(["fig1", "--results", str(filled.folder), "--out", str(tmp_path / out), "--format", "svg", "png"]) == 0
        )
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_report_is_one_file_without_torch(filled, tmp_path):
    code = (
        "import sys; from figures.__main__ import main; code = main(sys.argv[1:]);"
        "print('TORCH' if {'torch', 'core'} & set(sys.modules) else 'LIGHT'); sys.exit(code)"
    )
    out = tmp_path / "new" / "page.html"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "report", "--results", filled.folder, "--out", out],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\nLIGHT\n"
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert "fig_a3 is missing: no CNN of 1 to 4 layers" in done.stderr
    assert main(["report", "--results", str(filled.folder)]) == 0
    assert (filled.folder / "report.html").read_bytes() == out.read_bytes()


def test_a_report_of_runs_that_do_not_belong_together_says_so_with_exit_code_2(filled, capsys):
    filled.curve("glyphs", "lr", "kfc", 5, {0: 0.2, 60: 0.7}, iterations=60)
    assert main(["report", "--results", str(filled.folder)]) == 2
    assert "fig_a1 cannot be drawn: runs of LR w/ KFC on glyphs differ in iterations" in capsys.readouterr().err
    assert "Cannot be drawn: runs of LR w/ KFC" in (filled.folder / "report.html").read_text(encoding="utf-8")
    assert main(["report", "--results", str(filled.folder), "--where", "glyphs:iterations=600"]) == 0
    assert "Chosen runs: glyphs:iterations=600." in (filled.folder / "report.html").read_text(encoding="utf-8")


def test_a_damaged_table_leaves_the_older_report(filled, capsys):
    assert main(["report", "--results", str(filled.folder)]) == 0
    before = (filled.folder / "report.html").read_bytes()
    table = next((filled.folder / "ceilings").iterdir())
    table.write_bytes(table.read_bytes()[:100])
    assert main(["report", "--results", str(filled.folder)]) == 2
    assert "truncated" in capsys.readouterr().err
    assert (filled.folder / "report.html").read_bytes() == before


def test_one_figure_writes_its_own_files_only(filled, tmp_path, capsys):
    assert main(["table1", "--results", str(filled.folder), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table1.png", "table1.md", "table1.tex"}
    assert "table1.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fig9"], "unknown figure 'fig9'; known: adaptation_path, all, benchmark, fig1, .*report"),
        (["fig1", "--format", "bmp"], "unknown format 'bmp'; known: pdf, png, svg"),
        (["fig1", "--where", "iterations"], r"\[DATASET:\]KEY=VALUE"),
        (["fig1"], "python -m analysis post_adaptation"),
        (["all"], "fig_a1 is missing: no table in"),
        (["report"], "no table in .*python -m analysis all --results"),
        (["report", "--format", "png"], "the report is one HTML page"),
        (["report", "--where", "iterations"], r"\[DATASET:\]KEY=VALUE"),
    ],
)
def test_mistakes_are_told_in_a_sentence_with_exit_code_2(results, capsys, arguments, told):
    assert main([*arguments, "--results", str(results.folder)]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error)
    assert "Traceback" not in error
    assert error.startswith("error: ") or " is missing: " in error


def test_all_draws_what_there_is_and_says_what_is_missing(results, capsys):
    results.measured("synthetic", "lr", "maml", 0, [0.5, 0.54])
    assert main(["all", "--results", str(results.folder)]) == 0
    out, error = capsys.readouterr()
    assert "fig1_synthetic.png" in out
    assert "fig_a1 is missing: no table in" in error
    assert "python -m analysis training_curves" in error


def test_runs_that_do_not_belong_together_fail_but_the_rest_is_drawn(filled, capsys):
    filled.curve("glyphs", "lr", "kfc", 5, {0: 0.2, 60: 0.7}, iterations=60)
    assert main(["all", "--results", str(filled.folder)]) == 2
    out, error = capsys.readouterr()
    assert "table1.md" in out
    assert "fig_a1 cannot be drawn: runs of LR w/ KFC on glyphs differ in iterations" in error
    assert main(["fig_a1", "--results", str(filled.folder), "--where", "glyphs:iterations=60"]) == 0


def test_a_damaged_table_is_told_and_nothing_is_overwritten(filled, capsys, tmp_path):
    out = tmp_path / "out"
    assert main(["fig1", "--results", str(filled.folder), "--out", str(out)]) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    table = next((filled.folder / "post_adaptation").iterdir())
    table.write_bytes(table.read_bytes()[:100])
    assert main(["fig1", "--results", str(filled.folder), "--out", str(out)]) == 2
    assert "truncated" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_told(filled, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["fig1", "--results", str(filled.folder), "--out", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_folder_for_the_report_is_told_before_it_is_drawn(filled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("figures.__main__.collect", lambda *_: pytest.fail("it was drawn"))
    assert main(["report", "--results", str(filled.folder), "--out", str(tmp_path)]) == 2
    assert f"is a folder; say --out {tmp_path / 'report.html'}" in capsys.readouterr().err


def test_help_says_what_each_draws(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for name, entry in FIGURES.items():
        assert f"{name}" in shown
        assert entry.shows in shown


def test_a_name_is_required_with_exit_code_2(capsys):
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 2
