"""Files dated ahead of the clock, which Snakemake takes for newer than whatever is made now. Loads no torch."""

import os
import time
from contextlib import suppress
from pathlib import Path


def ahead_of_the_clock(results: Path) -> list[Path]:
    """The files in a results folder that are dated later than now, as after a copy from a machine that is ahead."""
    now, found = time.time(), []
    for path in results.rglob("*"):
        with suppress(FileNotFoundError):  # put in its place, or taken away, by another process
            if path.is_file() and path.stat().st_mtime > now:
                found.append(path)
    return found


def set_back(paths: list[Path]) -> None:
    """Date files a second ago, all alike: none is newer than another, and whatever is made from now on is."""
    then = time.time_ns() - 10**9
    for path in paths:
        os.utime(path, ns=(then, then))
