import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis.__main__ import main
from analysis.registry import STANDALONE, STUDIES, shallow
from analysis.store import read_study
from analysis.when_shallow_fails import QUICK
from core import list_runs, meta_train
from core.side_by_side import Interrupted
from core.tasks import DATASETS
from core.tasks.synthetic import SyntheticTasks


def tables(results):
    return sorted(str(path.relative_to(results)) for path in results.glob("[!r]*/*.parquet"))


def test_all_studies_of_all_runs_and_then_nothing_to_do(saved, capsys):
    command = ["all", "--results", str(saved), "--num-tasks", "2", "--quiet"]
    assert main(command) == 0
    made = tables(saved)
    assert [name.split("/")[0] for name in made] == (
        ["ceilings"] + ["linear_collapse"] * 2 + ["post_adaptation"] * 3 + ["training_curves"] * 3
    )
    assert read_study(saved, "post_adaptation")["run"].nunique() == 3
    before = {name: (saved / name).stat().st_mtime_ns for name in made}
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("made before, with the same settings") == len(made)
    assert {name: (saved / name).stat().st_mtime_ns for name in made} == before
    assert main([*command, "--force"]) == 0
    assert all((saved / name).stat().st_mtime_ns > before[name] for name in made)


@pytest.mark.filterwarnings("ignore:. of .* tasks diverged")
def test_all_studies_leave_out_what_no_figure_draws_unless_the_run_is_named(saved_cnn, capsys):
    path = list_runs(saved_cnn).query("model == 'cnn'")["path"].item()  # two layers, trained with KFC
    of_figures = {"training_curves", "depth_sweep", "optimizer_comparison", "upper_bound"}
    command = ["all", "--results", str(saved_cnn), "--num-tasks", "1", "--quiet"]
    assert main(command) == 0
    assert {name.split("/")[0] for name in tables(saved_cnn) if "cnn" in name} == of_figures
    told = "layer_roles: no run to measure for the paper's figures; name others with --run (2 suit it)\n"
    assert told in capsys.readouterr().out
    assert main([*command, "--run", Path(path).name]) == 0
    assert {name.split("/")[0] for name in tables(saved_cnn) if "cnn" in name} == of_figures | {
        "layer_roles",
        "fc_noise",
        "similarity",
        "adaptation_path",
        "loss_line",
        "label_permutation",
        "inside_optimizer",
    }


def test_the_command_is_kept_with_the_table(saved):
    command = ["training_curves", "--results", str(saved), "--quiet"]
    assert main(command) == 0
    for origin in read_study(saved, "training_curves").attrs["provenance"].values():
        assert origin["command"] == f"python -m analysis training_curves --results {saved} --quiet"


def test_one_run_by_its_folder(saved):
    path = list_runs(saved).query("model == 'linnet'")["path"].item()
    assert main(["linear_collapse", "--run", path, "--results", str(saved / "out"), "--num-tasks", "2", "--quiet"]) == 0
    assert len(list((saved / "out" / "linear_collapse").iterdir())) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_some_runs_named_at_once_or_one_after_the_other(saved, times):
    first, second, _ = list_runs(saved)["path"]
    named = ["--run", first, *["--run"] * (times - 1), second]
    assert main(["training_curves", *named, "--results", str(saved / "out"), "--quiet"]) == 0
    assert len(list((saved / "out" / "training_curves").iterdir())) == 2


@pytest.mark.parametrize("named", ["on the command line", "in the environment"])
def test_studies_find_the_data_where_they_are_told(saved, monkeypatch, named):
    roots = []

    def with_files(*, root=None, points=1000, same_points=True, seed=0, device="cpu"):
        roots.append(root)
        return SyntheticTasks(points=points, same_points=same_points, seed=seed, device=device)

    monkeypatch.setitem(DATASETS, "synthetic", with_files)
    monkeypatch.setenv("DATA_DIR", "elsewhere" if named == "on the command line" else "mine")
    path = list_runs(saved).query("model == 'linnet'")["path"].item()
    arguments = ["--data-dir", "mine"] if named == "on the command line" else []
    assert main(["post_adaptation", "--run", path, "--results", str(saved), "--num-tasks", "2", *arguments]) == 0
    assert set(roots) == {"mine"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["post"],
            f"error: unknown study 'post'; known: {', '.join(sorted(['all', *STUDIES, *STANDALONE]))}",
        ),
        (["all", "--num-tasks", "0"], "error: --num-tasks must be at least 1, got 0"),
        (["all", "--device", "abacus"], "error: there is no device 'abacus' here"),
        (
            ["all", "--run", "nowhere"],
            f"error: nowhere is no run: there is no such folder in {Path.cwd()}, nor in RUNS",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(saved, capsys, arguments, told):
    before = sorted(saved.rglob("*"))
    assert main([*arguments, "--results", str(saved)]) == 2
    assert capsys.readouterr().err.strip() == told.replace("RUNS", str(saved / "runs"))
    assert sorted(saved.rglob("*")) == before


def test_an_empty_folder_has_no_runs(tmp_path, capsys):
    assert main(["all", "--results", str(tmp_path)]) == 2
    assert "there is no finished run in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_that_do_not_suit_are_told(saved, capsys):
    unsuited = list_runs(saved).query("model == 'lr' and method == 'maml'")["path"].item()
    assert main(["linear_collapse", "--run", unsuited, "--results", str(saved)]) == 2
    assert "does not suit study 'linear_collapse'" in capsys.readouterr().err
    for path in list_runs(saved)["path"]:
        if path != unsuited:
            shutil.rmtree(path)
    assert main(["linear_collapse", "--results", str(saved)]) == 2
    assert "suits study 'linear_collapse'" in capsys.readouterr().err
    assert main(["all", "--results", str(saved), "--num-tasks", "2", "--quiet"]) == 0
    assert "linear_collapse: no run to measure\n" in capsys.readouterr().out


def test_unfinished_runs_are_skipped_and_named(saved, capsys):
    path = list_runs(saved)["path"][0]
    (saved / "runs" / path.split("/")[-1] / "run.json").unlink()
    assert main(["training_curves", "--results", str(saved), "--quiet"]) == 0
    assert f"skipped {path}: unfinished" in capsys.readouterr().err
    assert len(tables(saved)) == 2


@pytest.mark.parametrize("file", ["weights.safetensors", "curve.parquet", "run.json"])
def test_a_damaged_run_is_told_of_and_the_others_are_measured(saved, capsys, file):
    damaged, *others = list_runs(saved)["path"]
    (Path(damaged) / file).write_bytes(b"")
    assert main(["training_curves", "--results", str(saved), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert f"skipped {damaged}: " in told
    assert told.splitlines()[-1] == f"error: left out, as they cannot be read (see above): {Path(damaged).name}"
    assert len(tables(saved)) == len(others)


def test_a_table_of_another_study_is_not_taken_for_this_one(saved, capsys):
    options = ["--results", str(saved), "--quiet", "--num-tasks", "2"]
    assert main(["post_adaptation", *options]) == 0
    for path in (saved / "post_adaptation").glob("*.parquet"):
        target = saved / "training_curves" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    capsys.readouterr()
    assert main(["training_curves", *options]) == 2
    assert "is a table of study 'post_adaptation'; --force replaces it" in capsys.readouterr().err
    assert main(["training_curves", *options, "--force"]) == 0


def test_runs_of_ones_own_modules_are_skipped_and_named(saved, tiny, capsys):
    run = meta_train(tiny(model="own:net", method="maml"), model=torch.nn.Linear(100, 1), results=saved, progress=False)
    assert main(["training_curves", "--results", str(saved), "--quiet"]) == 0
    assert f"skipped {run.path}: of a module of your own" in capsys.readouterr().err
    assert len(tables(saved)) == 3
    assert main(["training_curves", "--results", str(saved), "--run", str(run.path)]) == 2
    assert "is a run of a module of your own, 'own:net'" in capsys.readouterr().err


def test_a_refusal_comes_before_the_first_table(saved, capsys):
    options = ["--results", str(saved), "--quiet", "--num-tasks"]
    assert main(["linear_collapse", *options, "2"]) == 0
    before = tables(saved)
    capsys.readouterr()
    assert main(["all", *options, "3"]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert tables(saved) == before


@pytest.mark.parametrize("how", [KeyboardInterrupt, Interrupted])
def test_stopping_is_no_traceback(saved, capsys, monkeypatch, how):
    def stop(*arguments, **options):
        raise how

    monkeypatch.setattr("analysis.__main__.carry_out", stop)
    assert main(["training_curves", "--results", str(saved), "--quiet"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_help_states_units_and_defaults():
    out = subprocess.run(
        [sys.executable, "-m", "analysis", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for text in ("post_adaptation", "default 100", "default 0", "default results", "test tasks"):
        assert text in out


def test_a_study_without_a_run_needs_no_folder_of_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(STANDALONE, "when_shallow_fails", shallow(QUICK))
    command = ["when_shallow_fails", "--results", str(tmp_path), "--num-tasks", "2", "--quiet"]
    assert main(command) == 0
    assert tables(tmp_path) == ["when_shallow_fails/synthetic-20-iterations-s0.parquet"]
    (origin,) = read_study(tmp_path, "when_shallow_fails").attrs["provenance"].values()
    assert origin["command"] == f"python -m analysis when_shallow_fails --results {tmp_path} --num-tasks 2 --quiet"
    capsys.readouterr()
    assert main(command) == 0
    assert "skipped when_shallow_fails/synthetic-20-iterations-s0: made before" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--run", "--data-dir", "--device"])
def test_a_study_without_a_run_refuses_what_is_of_runs(tmp_path, capsys, option):
    assert main(["when_shallow_fails", "--results", str(tmp_path), option, "cpu"]) == 2
    assert f"trains its own runs, on the CPU: leave out {option}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
