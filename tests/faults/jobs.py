"""Injections, shared by two processes."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.faults.processes import Process

# Called with a folder of its own; returns what was lost.
Job = Callable[[Path], list[str]]
WORKERS = 2
LONGEST = 3600.0  # seconds


def carry_out(jobs: Sequence[Job], scratch: Path) -> list[list[str]]:
    """What was lost by each job; the workers take turns. A worker that fails is a loss, too."""
    files = [scratch / f"worker {rank}.json" for rank in range(WORKERS)]
    workers = [
        Process(partial(_begin, jobs[rank::WORKERS], scratch / f"{rank}", files[rank])) for rank in range(WORKERS)
    ]
    found = []
    for worker, file in zip(workers, files, strict=True):
        outcome = worker.wait(LONGEST)
        if outcome.code != 0:
            found.append([f"the process that injects ended with {outcome.code}: {outcome.said[-900:]}"])
        found += json.loads(file.read_text()) if file.exists() else []
        file.unlink(missing_ok=True)
    return found


def _begin(jobs: Sequence[Job], folder: Path, file: Path) -> Callable[[], int]:
    def do() -> int:
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for job in jobs:
            found.append(job(folder / "here"))
            file.write_text(json.dumps(found))
        return 0

    return do
