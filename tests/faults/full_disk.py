"""A disk that is full: a small one of its own for root (tmpfs), else a limit on the size of a file."""

import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.faults.jobs import Job
from tests.faults.judge import Case, goes_on, told, whole
from tests.faults.processes import ended

PAGE = 4096
LARGE = 64 << 20  # bytes: as good as endless here
LEAST = 1024  # bytes that a limited file may have, so that the sentence can be said, which goes into a file here, too


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, mounted at `folder`; root only."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, option: str) -> None:
    """Change an option of the disk at `folder`."""
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def fill(case: Case, share: float, folder: Path) -> list[str]:
    """Leave `share` of the bytes that the work puts on the disk."""
    with disk(folder):
        case.work.prepare(folder)
        before = _used(folder)
        ended(lambda: case.work.begin(folder))
        needed = _used(folder) - before + 2 * PAGE  # a temporary file beside the old one
        case.work.prepare(folder)
        # Of 0 bytes it would be a disk without a limit.
        size = max(PAGE, _used(folder)) + round(share * max(needed, 8 * PAGE) / PAGE) * PAGE
        remount(folder, f"size={size}")
        outcome = ended(lambda: case.work.begin(folder))
        losses = told(outcome) + whole(case, folder, outcome)
        remount(folder, f"size={LARGE}")
        losses += goes_on(case, folder)
        return [f"{case.work.name}, {size - before} bytes left: {loss}" for loss in losses]


def limit(case: Case, share: float, folder: Path) -> list[str]:
    """Let no file become larger than `share` of the largest that the work writes."""
    case.work.prepare(folder)
    ended(lambda: case.work.begin(folder))
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    case.work.prepare(folder)
    size = max(LEAST, round(share * largest))

    def begin() -> Callable[[], int]:
        work = case.work.begin(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return work

    outcome = ended(begin)
    losses = told(outcome) + whole(case, folder, outcome) + goes_on(case, folder)
    return [f"{case.work.name}, files of {size} bytes at most: {loss}" for loss in losses]


def _used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def jobs(cases: list[Case], scratch: Path, number: int, generator: random.Random) -> list[Job]:
    """The point at which the disk is full moves through what is written, of each work in turn."""
    is_root = os.geteuid() == 0
    found: list[Job] = []
    for k in range(number):
        how = fill if is_root and k % 4 else limit
        found.append(partial(how, cases[k % len(cases)], generator.random()))
    return found
