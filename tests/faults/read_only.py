"""A folder that cannot be written: a disk mounted read-only, or one of another user's."""

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.contents import contents
from tests.faults.full_disk import disk, remount
from tests.faults.jobs import Job
from tests.faults.judge import Case, goes_on, told, whole
from tests.faults.processes import Ended, ended

NOBODY = 65534


def mounted_read_only(case: Case, folder: Path) -> list[str]:
    """The disk is mounted read-only."""
    with disk(folder):
        case.work.prepare(folder)
        remount(folder, "ro")
        outcome = ended(lambda: case.work.begin(folder))
        losses = _judged(case, outcome, folder)
        remount(folder, "rw")
        return [f"{case.work.name}, mounted read-only: {loss}" for loss in losses + goes_on(case, folder)]


def of_another_user(case: Case, folder: Path) -> list[str]:
    """The folder is root's, and the process is nobody's."""
    case.work.prepare(folder)
    for parent in (folder, *folder.parents[:4]):
        if parent.stat().st_uid == 0 and str(parent).count("/") > 1:
            parent.chmod(0o755)

    def begin() -> Callable[[], int]:
        work = case.work.begin(folder)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return work

    outcome = ended(begin)
    return [
        f"{case.work.name}, of another user: {loss}" for loss in _judged(case, outcome, folder) + goes_on(case, folder)
    ]


def bits(case: Case, folder: Path) -> list[str]:
    """No write bit, where the process is not root's, whom no bit stops."""
    case.work.prepare(folder)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    outcome = ended(lambda: case.work.begin(folder))
    losses = _judged(case, outcome, folder)
    for path in folders:
        path.chmod(0o755)
    return [f"{case.work.name}, no write bit: {loss}" for loss in losses + goes_on(case, folder)]


def _judged(case: Case, outcome: Ended, folder: Path) -> list[str]:
    # Without a cache every process makes the data again, which is told, and is no error.
    losses = told(outcome) + (whole(case, folder, outcome) if case.work.name != "cache" else [])
    if outcome.code == 0 and case.work.name != "cache":
        losses.append("it said that all is well")
    return losses + ["something was written" for _ in range(contents(folder, rounded=case.work.rounds) != case.old)]


def jobs(cases: list[Case], scratch: Path, number: int, generator: random.Random) -> list[Job]:
    """Each work in turn."""
    ways = (mounted_read_only, of_another_user) if os.geteuid() == 0 else (bits,)
    pairs = [(case, way) for case in cases for way in ways]
    generator.shuffle(pairs)
    return [partial(way, case) for k in range(number) for case, way in [pairs[k % len(pairs)]]]
