"""Two processes at one run, one table, or one figure at the same time."""

import random
import time
from functools import partial
from pathlib import Path

from tests.faults.jobs import Job
from tests.faults.judge import Case, goes_on, told, whole
from tests.faults.processes import Process

AT_ONCE = ("core train", "analysis", "figures", "chain train", "chain study", "chain draw")


def race(case: Case, later: float, folder: Path) -> list[str]:
    """The second begins at a share of the first one's time, which may be at once."""
    case.work.prepare(folder)
    first = Process(lambda: case.work.begin(folder))
    time.sleep(later * case.seconds)
    second = Process(lambda: case.work.begin(folder))
    outcomes = [first.wait(), second.wait()]
    losses = [loss for outcome in outcomes for loss in told(outcome) + whole(case, folder, outcome)]
    codes = [outcome.code for outcome in outcomes]
    if 0 not in codes:
        losses.append(f"nobody won: {codes}, {[outcome.said[-200:] for outcome in outcomes]}")
    losers = [outcome for outcome in outcomes if outcome.code != 0]
    losses += [
        f"the loser was not told why: {outcome.said}" for outcome in losers if "another process is" not in outcome.said
    ]
    return [f"{case.work.name}, begun {later:.2f} later: {loss}" for loss in losses + goes_on(case, folder)]


def jobs(cases: list[Case], scratch: Path, number: int, generator: random.Random) -> list[Job]:
    """A third of them at a run that is trained, the others in turn."""
    chosen = {case.work.name: case for case in cases}
    names = [name for name in AT_ONCE if name in chosen]
    found: list[Job] = []
    for k in range(number if names else 0):
        name = names[0] if k % 3 == 0 else names[k % len(names)]
        found.append(partial(race, chosen[name], generator.choice((0.0, generator.random() * 0.9))))
    return found
