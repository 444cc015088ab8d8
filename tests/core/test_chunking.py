"""The choice of a chunk: against clocks whose best size is known, and what is kept of it."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from core import TrainConfig, meta_train
from core.chunking import checked_chunk, fastest_chunk, kept_chunk
from core.errors import UserError


class Clock:
    """A clock that only the work moves: a chunk takes so many seconds a task, by its size."""

    def __init__(self, seconds_of_a_task: dict[int, float]) -> None:
        self.seconds_of_a_task, self.now, self.sizes = seconds_of_a_task, 0.0, []

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def run(self, size: int) -> None:
        """The work of one chunk."""
        self.sizes.append(size)
        self.now += size * self.seconds_of_a_task[size]


@pytest.mark.parametrize(
    ("seconds", "num_tasks", "best"),
    [
        ({1: 8, 2: 4, 4: 2, 8: 1, 16: 3, 32: 3}, 32, 8),
        ({1: 8, 2: 4, 4: 3, 7: 2}, 7, 7),
        ({1: 1.02, 2: 1.0, 4: 1.0}, 4, 1),  # as good as the best, in less memory
        ({1: 1}, 1, 1),
    ],
)
def test_the_fastest_size(seconds: dict[int, float], num_tasks: int, best: int):
    clock = Clock({size: 0.01 * one for size, one in seconds.items()})
    assert fastest_chunk(clock.run, num_tasks, clock) == best


def test_slower_and_slower_sizes_are_not_tried():
    clock = Clock({1: 1, 2: 2, 4: 4, 8: 8, 16: 16})
    assert fastest_chunk(clock.run, 16, clock) == 1
    assert max(clock.sizes) == 4


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_where_the_memory_ends(error: Exception):
    def run(size: int) -> None:
        if size > 2:
            raise error

    assert fastest_chunk(run, 16) in (1, 2)


def test_a_choice_is_kept_and_a_damaged_one_made_again(tmp_path: Path):
    chosen = iter([3, 5, 7])
    assert [kept_chunk({"a": 1}, lambda: next(chosen), tmp_path) for _ in range(2)] == [3, 3]
    assert kept_chunk({"a": 2}, lambda: next(chosen), tmp_path) == 5
    (path,) = (path for path in tmp_path.iterdir() if json.loads(path.read_text())["of"] == {"a": 1})
    path.write_text('{"tasks_per_chunk": 0}')
    assert kept_chunk({"a": 1}, lambda: next(chosen), tmp_path) == 7


def test_where_nothing_can_be_kept(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot write .*; every process will choose its chunks again"):
        assert kept_chunk({}, lambda: 4, tmp_path / "file") == 4


@pytest.mark.parametrize("mistake", [0, -1, "all", 1.5, True])
def test_what_is_no_chunk(mistake: object):
    with pytest.raises(UserError, match="tasks_per_chunk must be at least 1, or 'auto', got"):
        checked_chunk(mistake)


def test_training_with_a_chosen_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The weights are those with that chunk given, bit for bit; and the run says which it was."""
    monkeypatch.setenv("ADAPTLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("core.group.fastest_chunk", lambda run, num_tasks: run(1) or 2)
    config = TrainConfig(
        dataset="synthetic", points=20, model="lr", method="klin", steps=2, adapt_lr=0.1, first_order=False,
        meta_optimizer="sgd", meta_lr=0.1, iterations=3, tasks_per_iteration=5,
    )  # fmt: skip
    chosen = meta_train(config, results=tmp_path / "chosen", tasks_per_chunk="auto", progress=False)
    given = meta_train(config, results=tmp_path / "given", tasks_per_chunk=2, progress=False)
    assert chosen.info["tasks_per_chunk"] == given.info["tasks_per_chunk"] == 2
    assert all(torch.equal(tensor, given.theta[name]) for name, tensor in chosen.theta.items())
    # Measured in chunks of their own, the curves differ by rounding.
    pd.testing.assert_frame_equal(chosen.curve, given.curve, rtol=1e-6)
