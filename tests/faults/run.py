"""Faults, injected for real: `python -m tests.faults.run`, which `make test-faults` calls.

After each fault everything on the disk has to be the old thing whole or the new thing whole, the call that failed has
to say so in a sentence, and the next call has to come to what an undisturbed one comes to. All else is a loss.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import shim
from tests.faults.record import Record

KINDS = ("calls", "full disk", "read-only", "damage", "signals", "memory", "races")
# How many of each kind; None: every call in every way.
NUMBERS: dict[str, int | None] = {
    "calls": None, "full disk": 300, "read-only": 60, "damage": 300, "signals": 300, "memory": 60, "races": 150,
}  # fmt: skip
QUICK = {"calls": 40, "full disk": 12, "read-only": 6, "damage": 16, "signals": 12, "memory": 4, "races": 6}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument(
        "--kind", nargs="+", metavar="KIND", default=list(KINDS), help=f"of {', '.join(KINDS)} (default all)"
    )
    parser.add_argument("--injections", type=int, help="of each kind (default: what the kind needs)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default 0)")
    parser.add_argument("--quick", action="store_true", help="a few of each kind")
    parser.add_argument("--work", nargs="+", help="only these works (default all)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Inject faults and print the record; the exit code is 1 if anything was lost."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    if unknown := [kind for kind in options.kind if kind not in KINDS]:
        print(f"error: unknown kind {', '.join(unknown)}; known: {', '.join(KINDS)}", file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"  # what is forked from a process with such threads waits for them for ever
    shim.start_again_with_shim("tests.faults.run", arguments)
    shim.loaded()
    with tempfile.TemporaryDirectory(prefix="adaptlens-faults-") as folder:
        record = inject(Path(folder), options)
    shim.remove()
    print(record)
    return 1 if record.num_losses else 0


def inject(scratch: Path, options: argparse.Namespace) -> Record:
    """Inject what is asked for."""
    # Not above: they load everything, which the process that starts again would do twice.
    from tests.faults import calls, damage, full_disk, memory, races, read_only, signals
    from tests.faults.jobs import carry_out
    from tests.faults.judge import make_case
    from tests.faults.works import make_works

    modules = {
        "calls": calls, "full disk": full_disk, "read-only": read_only, "damage": damage, "signals": signals,
        "memory": memory, "races": races,
    }  # fmt: skip
    record = Record()
    started = time.monotonic()
    works = make_works(scratch / "templates")
    chosen = [work for work in works.values() if not options.work or work.name in options.work]
    cases = [make_case(work, scratch / "case") for work in chosen]
    print(f"{len(cases)} works made ready in {time.monotonic() - started:.0f} s", flush=True)
    for kind in options.kind:
        if kind == "calls" and shim.loaded() is None:
            record.notes.append("calls: nothing was injected: no C compiler, or not Linux")
            continue
        number = options.injections or (QUICK if options.quick else NUMBERS)[kind]
        started = time.monotonic()
        jobs = modules[kind].jobs(cases, scratch, number, random.Random(f"{options.seed} {kind}"))
        for losses in carry_out(jobs, scratch):
            record.add(kind, losses)
            print("".join(f"LOSS ({kind}) {loss}\n" for loss in losses), end="", flush=True)
        record.seconds[kind] = time.monotonic() - started
        print(f"{kind}: {record.injections[kind]:,} injections, {len(record.losses[kind]):,} losses", flush=True)
    return record


if __name__ == "__main__":
    sys.exit(main())
