"""Every call to the system that writes fails once, in turn, or is the last of its process."""

import errno
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.jobs import Job
from tests.faults.judge import Case, goes_on, told, whole
from tests.faults.processes import ended
from tests.faults.shim import FAILS, FAILS_FROM_THEN_ON, KILLS, KILLS_HALFWAY, loaded

WAYS = {
    "no space": (FAILS, errno.ENOSPC),
    "not allowed": (FAILS, errno.EACCES),
    "the disk is gone": (FAILS_FROM_THEN_ON, errno.EIO),
    "killed": (KILLS, errno.EIO),
    "killed halfway": (KILLS_HALFWAY, errno.EIO),
}
# Of these every call is disturbed in every way, of others some at random, which are as many again.
THROUGHOUT = ("state", "run", "table", "figure png", "figure pdf", "figure svg", "report", "cache")
OTHERS = 300


def number_of_calls(case: Case, folder: Path) -> int:
    """How many calls that write a work makes under its folder."""
    shim = loaded()
    case.work.prepare(folder)
    count = folder.with_name("count")

    def begin() -> Callable[[], int]:
        work = case.work.begin(folder)

        def do() -> int:
            shim.fault_arm(str(folder).encode(), 0, FAILS, 0)
            code = work()
            count.write_text(str(shim.fault_calls()))
            return code

        return do

    assert ended(begin).code == 0
    return int(count.read_text())


def inject(case: Case, n: int, way: str, folder: Path) -> list[str]:
    """Disturb the n-th call (from 1); returns what was lost."""
    shim = loaded()
    mode, number = WAYS[way]
    case.work.prepare(folder)

    def begin() -> Callable[[], int]:
        work = case.work.begin(folder)

        def do() -> int:
            shim.fault_arm(str(folder).encode(), n, mode, number)
            try:
                return work()
            finally:
                shim.fault_calls()

        return do

    outcome = ended(begin)
    losses = told(outcome) + whole(case, folder, outcome) + goes_on(case, folder)
    return [f"{case.work.name}, call {n}, {way}: {loss}" for loss in losses]


def jobs(cases: list[Case], scratch: Path, limit: int | None, generator: random.Random) -> list[Job]:
    """A job for each call and way; with a limit, as many of them at random."""
    throughout, others = [], []
    for case in cases:
        calls = number_of_calls(case, scratch / "counted")
        print(f"calls: {case.work.name} makes {calls} that write", flush=True)
        found = [partial(inject, case, n, way) for n in range(1, calls + 1) for way in WAYS]
        (throughout if case.work.name in THROUGHOUT else others).extend(found)
    if limit is None:
        return throughout + generator.sample(others, min(OTHERS, len(others)))
    return generator.sample(throughout + others, min(limit, len(throughout + others)))
