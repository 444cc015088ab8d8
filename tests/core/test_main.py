"""The command line, as a person uses it."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from core import TrainConfig
from core.__main__ import UNITS, main
from core.group import Group
from core.tasks import DATASETS

TRAIN = [
    "train", "--dataset", "synthetic", "--model", "lr", "--method", "klin", "--steps", "1", "--adapt-lr", "1.0",
    "--first-order", "false", "--meta-optimizer", "adam", "--meta-lr", "0.01", "--iterations", "3",
    "--tasks-per-iteration", "2", "--points", "8", "--eval-tasks", "2", "--device", "cpu", "--quiet",
]  # fmt: skip


def test_train_list_show_resume(tmp_path, capsys):
    assert main([*TRAIN, "--seeds", "0", "--seeds", "1", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count(": ok, test accuracy 0.") == 2
    assert main(["list", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(" ok ") == 2
    (tmp_path / "runs" / "empty").mkdir()
    assert main(["list", "--results", str(tmp_path)]) == 0
    *rows, why = capsys.readouterr().out.splitlines()
    assert rows[1].split() == ["empty", "unreadable"], "nothing but the id and that"
    assert why.startswith("empty is unreadable: ")
    assert why.endswith("it has no config.json")
    folder = next((tmp_path / "runs").glob("*-klin-*"))
    assert main(["show", str(folder)]) == 0
    assert '"method": "klin"' in capsys.readouterr().out
    assert main(["show", folder.name, "--results", str(tmp_path)]) == 0
    assert f'"id": "{folder.name}"' in capsys.readouterr().out
    for named in ([str(folder)], [folder.name, "--results", str(tmp_path)]):
        assert main(["resume", *named, "--device", "cpu", "--quiet"]) == 0
        assert "is finished already" in capsys.readouterr().out


def test_a_regression_says_its_loss(tmp_path, capsys):
    changed = {"synthetic": "sinusoid", "--points": "--shots"}
    command = [changed.get(word, word) for word in TRAIN if word != "--quiet"]
    assert main([*command, "--results", str(tmp_path)]) == 0
    out, progress = capsys.readouterr()
    assert re.search(r"ok, test loss \d+\.\d{3} \(mean over 2 tasks\) after 3 iterations", out)
    assert re.search(r"test loss \d+\.\d{3} at 3", progress)
    assert "nan" not in out + progress


def test_who_reads_the_beginning_alone_sees_no_traceback(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "core", "list", "--results", str(tmp_path)],
            stdout=closed, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_stopped_run_is_shown_as_far_as_it_was_saved(tmp_path, capsys, monkeypatch):
    def stop(group, episodes):
        if group.iteration == 2:
            signal.raise_signal(signal.SIGINT)
        step(group, episodes)

    step = Group.step
    monkeypatch.setattr(Group, "step", stop)
    assert main([*TRAIN, "--iterations", "20", "--eval-every", "1", "--results", str(tmp_path)]) == 130
    (folder,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    told, end = json.JSONDecoder().raw_decode(out)
    assert (told["status"], told["iterations_done"], told["config"]["steps"]) == ("unfinished", 3, 1)
    assert [line.split()[:2] for line in out[end:].split("\n")[2:]][-3:-1] == [["3", "validation"], ["3", "test"]]
    (folder / "state.safetensors").unlink()
    assert main(["show", str(folder)]) == 0
    assert '"iterations_done": 0' in capsys.readouterr().out


def test_the_list_tells_networks_of_other_depths_apart(tmp_path, capsys):
    main([*TRAIN, "--results", str(tmp_path)])
    deep = [
        *TRAIN,
        "--dataset",
        "glyphs",
        "--model",
        "cnn",
        "--method",
        "maml",
        "--depth",
        "3",
        "--ways",
        "2",
        "--shots",
        "1",
    ]
    deep = [word for i, word in enumerate(deep) if word != "--points" and deep[i - 1] != "--points"]
    assert main([*deep, "--results", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["list", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3:6] for line in lines[1:]] == [["cnn", "3", "maml"], ["lr", "klin", "0"]]


def test_an_experiment_states_its_reductions(tmp_path, capsys):
    code = main([
        "experiment", "synthetic_linear", "--iterations", "2", "--num-seeds", "1", "--device", "cpu", "--quiet",
        "--results", str(tmp_path),
    ])  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    assert "reduced: synthetic_linear: 2 iterations in place of 30,000" in out
    assert out.count(": ok, test accuracy") == 4


def test_divergence_has_an_exit_code_of_its_own(tmp_path, capsys):
    wild = [
        "--model", "linnet", "--hidden", "64", "64", "64", "--method", "maml", "--adapt-lr", "1.9", "--meta-lr", "1.9",
        "--meta-optimizer", "sgd", "--input-scale", "1.0", "--iterations", "100",
    ]  # fmt: skip
    assert main([*TRAIN, *wild, "--results", str(tmp_path)]) == 1
    assert "diverged at iteration" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "--dataset", "omniglut"], "unknown dataset 'omniglut'; known: cifar_fs, "),
        ([*TRAIN, "--method", "mamal"], "unknown method 'mamal'"),
        ([*TRAIN, "--steps", "-1"], "steps must be at least 0"),
        ([*TRAIN, "--ways", "5"], "data set 'synthetic' has no option ways"),
        (["experiment", "lineer"], "unknown experiment 'lineer'; known: "),
        (["experiment", "synthetic_linear", "--preset", "full"], "unknown preset 'full'; known: paper, quick"),
        (["experiment", "synthetic_linear", "--num-seeds", "0"], "seeds must be at least 1, got 0"),
        (["experiment", "synthetic_linear", "--tasks-per-iteration", "4"], "has a fixed number of tasks per iteration"),
        (["experiment", "synthetic_linear", "--eval-tasks", "4"], "has a fixed number of eval tasks"),
        ([*TRAIN, "--device", "abacus"], "there is no device 'abacus' here"),
        ([*TRAIN, "--device", "meta"], "device 'meta' is of a kind that is not supported: give cpu or cuda"),
        (["show", "nowhere"], "nowhere is no run: there is no such folder in {here}, nor in results/runs"),
        (["resume", "nowhere"], "nowhere is no run: there is no such folder in {here}, nor in results/runs"),
        (["show", "/nowhere/runs/a"], "error: /nowhere/runs/a is no run: there is no such folder\n"),
    ],
)
def test_mistakes_end_with_one_sentence_and_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message.replace("{here}", str(Path.cwd())) in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_a_setting_of_the_wrong_kind_is_told_in_two_lines(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*TRAIN, "--steps", "few"])
    usage, mistake = capsys.readouterr().err.strip().splitlines()
    assert usage.startswith("usage: python -m core train --dataset DATASET ")
    assert mistake == "python -m core train: error: argument --steps: invalid int value: 'few'"


def test_a_renamed_run_is_not_resumed_elsewhere(tmp_path, capsys):
    main([*TRAIN, "--results", str(tmp_path)])
    folder = next((tmp_path / "runs").iterdir())
    renamed = folder.rename(folder.with_name("mine"))
    assert main(["resume", str(renamed)]) == 2
    assert "cannot be resumed" in capsys.readouterr().err
    assert json.loads((renamed / "run.json").read_text())["status"] == "ok"


def test_every_setting_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(TrainConfig):
        assert field.name in ("seed", "own") or UNITS[field.name].split(":")[0][:30] in text, field.name


def test_download(tmp_path, monkeypatch, capsys):
    asked = []

    def with_files(ways, shots, *, root=None, download=False):
        asked.append((root, download))

    monkeypatch.setitem(DATASETS, "omniglot", with_files)
    assert main(["download", "omniglot", "--data-dir", str(tmp_path)]) == 0
    assert asked == [(str(tmp_path), True)]
    assert capsys.readouterr().out == f"omniglot is in {tmp_path}\n"
    for name, message in (("glyphs", "nothing to download"), ("omniglott", "unknown dataset 'omniglott'")):
        assert main(["download", name, "--data-dir", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", ["config.json", "run.json", "curve.parquet", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[" * 5000, b"\xff" * 100, b"PAR1" * 10, bytes(100)])
def test_a_damaged_file_is_told_in_a_line_with_exit_code_2(tmp_path, capsys, file, content):
    assert main([*TRAIN, "--results", str(tmp_path)]) == 0
    folder = next((tmp_path / "runs").iterdir())
    (folder / file).write_bytes(content)
    capsys.readouterr()
    assert main(["show", str(folder)]) == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert told.startswith("error: ")
    assert file in told
    assert told.rstrip("\n").isprintable()
    assert main(["list", "--results", str(tmp_path)]) == 0
