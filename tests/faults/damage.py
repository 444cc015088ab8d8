"""A file that vanishes between two steps, or is cut short, or has one bit changed."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import analysis.__main__
import core.__main__
import figures.__main__
from tests.faults.contents import contents, stale_records
from tests.faults.jobs import Job
from tests.faults.judge import Case, told
from tests.faults.processes import ended
from tests.faults.works import Work, train, whole_chain

WAYS = ("vanishes", "is cut short", "has a bit changed")


def steps(folder: Path) -> dict[str, Callable[[], int]]:
    """What a user calls next, by name."""
    results = ["--results", str(folder)]
    return {
        "list": lambda: core.__main__.main(["list", *results]),
        "train": lambda: train(folder, "--seeds", "0", "1"),
        "analysis": lambda: analysis.__main__.main(["post_adaptation", "--quiet", "--num-tasks", "2", *results]),
        "figures": lambda: figures.__main__.main(["table1", *results]),
        "chain": lambda: whole_chain(folder),
    }


def hurt(path: Path, way: str, generator: random.Random) -> None:
    """Do to a file what disks do."""
    if way == "vanishes":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    if way == "is cut short":
        del content[generator.randrange(len(content)) :]
    else:
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def damage(work: Work, step: str, way: str, seed: float, folder: Path) -> list[str]:
    """Damage a file, take a step, and compare with the same step without the damage."""
    generator = random.Random(seed)
    work.prepare(folder)
    assert ended(lambda: steps(folder)[step]).code == 0
    # Of two seeds that were trained together one is trained again, alone.
    undisturbed = contents(folder, rounded=True)
    work.prepare(folder)
    # Of pictures only the chain asks whether they are there; nothing reads them.
    paths = [
        p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".lock", ".png") and p.stat().st_size
    ]
    path = generator.choice(paths)
    name = str(path.relative_to(folder))
    hurt(path, way, generator)
    damaged = path.read_bytes() if path.exists() else None
    outcome = ended(lambda: steps(folder)[step])
    losses = told(outcome)
    if outcome.code == 0:
        if path.exists() and path.read_bytes() == damaged:
            path.unlink()  # not of this step, or found to be damaged and left out
            undisturbed.pop(name)
        try:
            found = contents(folder, rounded=True)
            others = {key for key in found.keys() | undisturbed.keys() if found.get(key) != undisturbed.get(key)}
            said = any(word in outcome.said for word in ("skipped", "unreadable", "missing"))
            # A figure is of the tables that there are, and says of how many runs.
            said = said or (step == "figures" and way == "vanishes")
            # One of two seeds is trained again, alone: its digest, which tables and the chain name, is another.
            said = said or (step == "chain" and name.startswith("runs/") and way == "vanishes")
            # A run that is said to be unreadable has no table, nor has what is drawn of it.
            if step == "chain":
                losses += [f"{record} is of other files than are there" for record in stale_records(folder)]
            losses += [] if said else [f"it said nothing, and {key} is another" for key in sorted(others - {name})]
        except Exception as error:  # whatever it is, something is not whole
            losses.append(f"after a step that succeeded: {error}")
    return [f"{name} {way}, then {step}: {loss}" for loss in losses]


def jobs(cases: list[Case], scratch: Path, number: int, generator: random.Random) -> list[Job]:
    """Each step and each way in turn, each on a file at random."""
    chosen = {case.work.name: case.work for case in cases}
    if "chain draw" not in chosen:
        return []
    work = chosen["chain draw"]  # what it finds: runs, tables and the chain's records
    pairs = [(step, way) for step in steps(scratch) for way in WAYS]
    return [partial(damage, work, *pairs[k % len(pairs)], generator.random()) for k in range(number)]
