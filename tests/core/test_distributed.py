"""Several processes give what one gives, stop together, and none waits for ever."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from core import load_run
from core.__main__ import main
from core.distributed import ALONE, Team, join, own_device, rank_of_environment, size_of_environment
from core.errors import UserError
from core.runs import load_tensors
from tests.core import processes
from tests.core.processes import on_processes

ROOT = Path(__file__).parents[2]
TRAIN = [
    "train", "--dataset", "synthetic", "--model", "lr", "--method", "klin", "--steps", "1", "--adapt-lr", "1.0",
    "--first-order", "false", "--meta-optimizer", "adam", "--meta-lr", "0.01", "--iterations", "6", "--eval-every", "2",
    "--tasks-per-iteration", "3", "--points", "8", "--eval-tasks", "5", "--seeds", "0", "1", "--device", "cpu",
    "--quiet",
]  # fmt: skip
CASES = [
    ("maml cnn", torch.float32, None),
    ("maml cnn", torch.float64, 1),
    ("kfc lr", torch.float32, None),  # 5 tasks of each of two replicas: 2 and 3
    ("kfc lr", torch.float64, 2),
    ("reptile lr", torch.float32, None),
]


def runs_in(results):
    return [load_run(folder) for folder in sorted((results / "runs").iterdir())]


def assert_same_runs(results, expected):
    """The same runs, up to the roundings of sums in another order, which Adam's first steps make larger."""
    for run, other in zip(runs_in(results), expected, strict=True):
        assert (run.id, run.status) == (other.id, other.status)
        torch.testing.assert_close({**run.theta, **run.xi}, {**other.theta, **other.xi}, rtol=1e-4, atol=1e-5)
        pd.testing.assert_frame_equal(run.curve, other.curve, rtol=1e-4)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """What one process makes of it."""
    results = tmp_path_factory.mktemp("single")
    assert main([*TRAIN, "--results", str(results)]) == 0
    return runs_in(results)


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    return on_processes(tmp_path_factory.mktemp("gradients"), processes.meta_gradients, CASES)


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: f"{CASES[case][0]}, {CASES[case][1]}")
def test_the_meta_gradient_of_two_processes_is_that_of_one(gradients, case):
    values = [ended.value[case] for ended in gradients]
    num_tasks = [computed for _, _, computed in values]
    assert num_tasks == ([2, 2] if CASES[case][0] == "maml cnn" else [2 * 2, 2 * 3])
    tolerance = 1e-6 if CASES[case][1] == torch.float32 else 1e-13
    for together, alone, _ in values:
        assert together.keys() == alone.keys()
        whole = torch.cat([alone[name].flatten() for name in alone])
        apart = torch.cat([(together[name] - alone[name]).flatten() for name in alone])
        assert apart.norm() <= tolerance * whole.norm()
        for name, tensor in alone.items():
            assert together[name].dtype == tensor.dtype
            assert (together[name] - tensor).norm() <= tolerance * tensor.norm(), name
    assert all(torch.equal(values[0][0][name], values[1][0][name]) for name in values[0][0]), "parted"


def test_what_one_process_wishes_or_finds_all_learn(tmp_path):
    for rank, ended in enumerate(on_processes(tmp_path, processes.agreements)):
        assert ended.code == 0, ended.out
        learnt = ended.value
        assert (learnt["any"], learnt["none"], learnt["first"]) == (True, False, 0)
        assert learnt["called"] == ([0] if rank == 0 else [])
        assert learnt["error"] == "no such file"
        assert learnt["granted"] == [
            (False, False), (False, False), (True, False), (False, True), (True, True),
        ]  # fmt: skip
        for num_tasks, points in zip((1, 3), learnt["points"], strict=True):
            expected = processes.first_number(processes.random_episodes((6,), num_tasks, 2, 1))
            assert torch.equal(points, expected)


def test_torchrun_gives_the_runs_of_one_process(tmp_path, single):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "core", *TRAIN, "--results", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": ok, test accuracy 0.") == 2, "one line a run, of the first process alone"
    assert_same_runs(tmp_path, single)
    for folder in (tmp_path / "runs").iterdir():
        assert {path.name for path in folder.iterdir()} == {
            "config.json", "run.json", "curve.parquet", "weights.safetensors",
        }  # fmt: skip
        assert json.loads((folder / "run.json").read_text())["processes"] == 2
    assert single[0].info["processes"] == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_iteration(tmp_path, single, rank):
    results = tmp_path / "results"
    arguments = [*TRAIN, "--results", str(results)]
    number = signal.SIGINT if rank else signal.SIGTERM
    ended = on_processes(tmp_path, processes.train, arguments, processes.signal_in_step, rank, 2, number)
    assert [process.code for process in ended] == [130, 130]
    assert ended[0].out.strip() == (
        "stopped after 3 of 6 iterations; the state is saved; the same command goes on from there"
    )
    assert ended[1].out == ""
    for run in single:
        assert load_tensors(results / "runs" / run.id / "state.safetensors")[1]["iteration"] == 3
    if rank:
        assert main(arguments) == 0
    else:
        again = on_processes(tmp_path, processes.train, arguments, size=3)
        assert [process.code for process in again] == [0, 0, 0], again
    assert_same_runs(results, single)


@pytest.mark.parametrize(
    ("rank", "number", "trouble", "saved_at"),
    [
        (1, signal.SIGKILL, processes.signal_in_step, 3),  # what the first process has, no checkpoint being due
        (0, signal.SIGKILL, processes.signal_and_save_always, 3),
        (1, signal.SIGSTOP, processes.signal_and_wait_briefly, 3),
    ],
)
def test_a_process_that_dies_or_hangs_ends_the_others_and_the_run_goes_on(
    tmp_path, single, rank, number, trouble, saved_at
):
    results = tmp_path / "results"
    arguments = [*TRAIN, "--results", str(results)]
    hangs = rank if number == signal.SIGSTOP else None
    ended = on_processes(tmp_path, processes.train, arguments, trouble, rank, 3, number, hangs=hangs)
    lost, left = ended[rank], ended[1 - rank]
    assert lost.code == (-signal.SIGKILL if number == signal.SIGKILL else None)
    assert left.code == 2, left.out
    assert left.out.startswith(
        f"error in process {1 - rank}: another of the 2 processes has ended or does not answer, which ends this one; "
        "the same command goes on from the last state saved ("
    )
    assert len(left.out.strip().splitlines()) == 1
    for run in single:
        assert load_tensors(results / "runs" / run.id / "state.safetensors")[1]["iteration"] == saved_at
    assert main(arguments) == 0
    assert_same_runs(results, single)


def test_a_loss_that_one_process_finds_not_finite_is_a_divergence_for_all(tmp_path, single):
    results = tmp_path / "results"
    arguments = [*TRAIN, "--results", str(results)]
    ended = on_processes(tmp_path, processes.train, arguments, processes.not_finite, 1, 3, 1)
    assert [process.code for process in ended] == [1, 1], ended
    assert {run.config.seed: run.status for run in runs_in(results)} == {0: "ok", 1: "diverged at iteration 3"}
    one, expected = (next(run for run in runs if run.config.seed == 0) for runs in (runs_in(results), single))
    torch.testing.assert_close(one.xi, expected.xi, rtol=1e-4, atol=1e-5)


def test_a_compiled_meta_gradient_is_of_a_share_and_summed_as_any(tmp_path, single):
    results = tmp_path / "results"
    arguments = [*TRAIN, "--compile", "--results", str(results)]
    ended = on_processes(tmp_path, processes.train, arguments, processes.compile_nothing)
    assert [process.code for process in ended] == [0, 0], ended
    assert_same_runs(results, single)


def test_parameters_that_part_are_seen_at_the_next_checkpoint(tmp_path):
    arguments = [*TRAIN, "--results", str(tmp_path / "results")]
    for ended in on_processes(tmp_path, processes.train, arguments, processes.part_in_step, 1, 4):
        assert ended.code == 2
        assert "the processes' parameters have parted, which was seen at iteration 4: " in ended.out
    for folder in (tmp_path / "results" / "runs").iterdir():
        assert load_tensors(folder / "state.safetensors")[1]["iteration"] == 3, "what has parted is not saved"


@pytest.mark.parametrize(
    ("changes", "trouble", "message"),
    [
        (["--tasks-per-iteration", "1"], None, "2 processes cannot share the 1 tasks of an iteration of synthetic-lr-"),
        (["--device", "cuda:0"], None, "cuda:0 is one GPU for several processes; say cuda, and each takes its own"),
        ([], processes.other_runs, "process 1 was asked for other runs than process 0; all train the same ones"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_sentence(tmp_path, changes, trouble, message):
    results = tmp_path / "results"
    arguments = [*TRAIN, *changes, "--results", str(results)]
    ended = on_processes(tmp_path, processes.train, arguments, trouble)
    assert [process.code for process in ended] == [2, 2]
    assert ended[1].out.startswith(f"error in process 1: {message}")
    assert len(ended[1].out.strip().splitlines()) == 1


def test_a_damaged_state_is_told_by_all(tmp_path, single):
    results = tmp_path / "results"
    folder = results / "runs" / single[0].id
    folder.mkdir(parents=True)
    (folder / "state.safetensors").write_text("half a fi")
    for rank, ended in enumerate(on_processes(tmp_path, processes.train, [*TRAIN, "--results", str(results)])):
        assert ended.code == 2
        assert ended.out.startswith(f"error in process {rank}: {folder / 'state.safetensors'} is damaged")


def test_shares_are_contiguous_and_differ_by_one_task_at_the_most():
    for size in (1, 2, 3, 5):
        for num_tasks in (5, 6, 7, 32):
            teams = [object.__new__(Team) for _ in range(size)]
            for rank, team in enumerate(teams):
                team.rank, team.size = rank, size
            shares = [team.share(num_tasks) for team in teams]
            assert [task for start, stop in shares for task in range(start, stop)] == list(range(num_tasks))
            lengths = [stop - start for start, stop in shares]
            assert max(lengths) - min(lengths) <= 1


def test_the_environment_says_who_this_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank_of_environment(), size_of_environment()) == (0, 1)
    assert join(torch.device("cpu")) is ALONE
    assert [own_device(device) for device in (None, "cuda", "cuda:1", "cpu")] == [None, "cuda", "cuda:1", "cpu"]
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert (rank_of_environment(), size_of_environment()) == (5, 8)
    assert [own_device(device) for device in ("cuda", torch.device("cuda"), "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device(None) == "cuda:1"
    with pytest.raises(UserError, match="cuda:3 is one GPU for several processes; say cuda"):
        own_device("cuda:3")
