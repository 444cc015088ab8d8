"""Ctrl-C, SIGTERM and SIGKILL at random moments; the same call then goes on."""

import random
import signal
import time
from functools import partial
from pathlib import Path

from tests.faults.jobs import Job
from tests.faults.judge import Case, goes_on, told, whole
from tests.faults.processes import Process

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def strike(case: Case, blows: list[tuple[signal.Signals, float]], folder: Path) -> list[str]:
    """Disturb the work, and the calls that go on with it, each by a signal at a share of the time that it takes."""
    case.work.prepare(folder)
    losses = []
    for number, share in blows:
        process = Process(lambda: case.work.begin(folder))
        time.sleep(share * case.seconds)
        process.kill(number)
        outcome = process.wait()
        losses += [f"{number.name} at {share:.2f}: {loss}" for loss in told(outcome) + whole(case, folder, outcome)]
    return [f"{case.work.name}, {loss}" for loss in losses + goes_on(case, folder)]


def jobs(cases: list[Case], scratch: Path, number: int, generator: random.Random) -> list[Job]:
    """Each work in turn; the moments are random, and a little later than the end is one of them."""
    found: list[Job] = []
    for k in range(number):
        blow = (generator.choice(SIGNALS), generator.uniform(0, 1.05))
        found.append(partial(strike, cases[k % len(cases)], [blow]))
    return found
