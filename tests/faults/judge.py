"""What counts as a loss."""

import time
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import StudyError
from core.errors import UserError
from tests.faults.contents import contents, leftovers, stale_records
from tests.faults.processes import Ended, Process, ended
from tests.faults.works import Work

# Characters of what a call says that fails, paths included, and the fifty settings that there are.
LONGEST_SENTENCE = 1_500


@dataclass(frozen=True)
class Case:
    """A work with what is there before it, and after it when nothing disturbs it, and the seconds that this takes."""

    work: Work
    old: dict[str, str]
    new: dict[str, str]
    seconds: float


def make_case(work: Work, folder: Path) -> Case:
    """Do the work once, undisturbed.

    Raises:
        AssertionError: if it fails, or leaves something behind.
    """
    old = contents(work.prepare(folder), rounded=work.rounds)
    process = Process(lambda: work.begin(folder))
    outcome = process.wait()
    seconds = time.monotonic() - process.began
    assert outcome.code == 0, f"{work.name}, undisturbed, ended with {outcome.code}: {outcome.said}"
    assert not leftovers(folder), f"{work.name}, undisturbed, leaves {leftovers(folder)}"
    return Case(work, old, contents(folder, rounded=work.rounds), seconds)


def told(outcome: Ended) -> list[str]:
    """What is wrong with how a call ended that was disturbed: hung, a traceback, or no sentence."""
    if outcome.code is None:
        return [f"it hung: {outcome.said[-300:]}"]
    if outcome.shows_traceback:
        return [f"a traceback: {outcome.said[-900:]}"]
    if outcome.code < 0 or outcome.code == 0:
        return []
    if outcome.code not in (2, 130):
        return [f"exit code {outcome.code}: {outcome.said[-300:]}"]
    if (outcome.code == 2 and not outcome.said.strip()) or len(outcome.said) > LONGEST_SENTENCE:
        return [f"no sentence: {outcome.said[:300]!r}"]
    return []


def whole(case: Case, folder: Path, outcome: Ended) -> list[str]:
    """What is wrong with the files: each has to be the old one or the new one; after a success, the new one."""
    try:
        found = contents(folder, rounded=case.work.rounds)
    except (UserError, StudyError, ValueError) as error:
        return [f"half-written: {error}"]
    lost = [path for path, content in case.old.items() if path not in found and path in case.new]
    strange = [
        path
        for path, content in found.items()
        if content not in (case.old.get(path), case.new.get(path)) and Path(path).name not in case.work.moving
    ]
    problems = [f"lost: {path}" for path in lost] + [f"neither old nor new: {path}" for path in strange]
    # A cache that cannot be written is told of, and is no error.
    if outcome.code == 0 and case.work.name != "cache":
        problems += [
            f"it said that all is well, without {path}" for path in case.new if found.get(path) != case.new[path]
        ]
    return problems


def goes_on(case: Case, folder: Path) -> list[str]:
    """What is wrong with the next call, which nothing disturbs: it has to come to the same, and to clean up."""
    outcome = ended(lambda: case.work.begin(folder))
    if outcome.code != 0:
        return [f"the next call ended with {outcome.code}: {outcome.said[-900:]}"]
    try:
        found = contents(folder, rounded=case.work.rounds)
    except (UserError, StudyError, ValueError) as error:
        return [f"the next call left half a file: {error}"]
    problems = [
        f"after the next call {path} is not as undisturbed"
        for path in sorted(found.keys() | case.new.keys())
        if found.get(path) != case.new.get(path)
    ]
    problems += [f"after the next call {path} is of other files than are there" for path in stale_records(folder)]
    return problems + [f"the next call leaves {name}" for name in leftovers(folder)]
