"""What the jobs at work say of their progress, told by the process that runs them: their own words go into logs."""

import io
import re
import sys
import threading
from pathlib import Path
from typing import TextIO

from bounds import Refused, open_file

EVERY_SECONDS = 15.0
_TAIL_BYTES = 4096
_PROGRESS = re.compile(r".*\d+/\d+ .*\(\d+ %\), .* left")  # a line of core.progress, up to its numbers


def watch(logs: Path, stream: TextIO | None = None, *, every: float = EVERY_SECONDS) -> threading.Event:
    """Tell what is new in the logs of jobs from now on, until the event that is returned is set, or the process ends.

    Args:
        logs: folder of the logs, one folder a rule in it.
        stream: where it is told; default stderr.
        every: seconds between two looks.
    """
    stop, told = threading.Event(), dict(_progress_in(logs))

    def look() -> None:
        while not stop.wait(every):
            for line in news(logs, told):
                print(line, file=stream or sys.stderr, flush=True)

    threading.Thread(target=look, daemon=True).start()
    return stop


def news(logs: Path, told: dict[Path, str]) -> list[str]:
    """A line for each log whose last line tells of progress, and that was not `told`; now it is."""
    found = {path: line for path, line in _progress_in(logs).items() if told.get(path) != line}
    told.update(found)
    return [f"{path.parent.name} {path.stem}: {line}" for path, line in found.items()]


def _progress_in(logs: Path) -> dict[Path, str]:
    found = {}
    for path in sorted(logs.glob("*/*.log")):
        try:
            with open_file(path, sys.maxsize) as file:
                file.seek(max(0, file.seek(0, io.SEEK_END) - _TAIL_BYTES))
                last = file.read().decode(errors="replace").rstrip().rpartition("\n")[2]
        except (OSError, Refused):  # a job that begins again replaces its log; what is no file never ends
            continue
        if told := _PROGRESS.match(last):
            found[path] = told[0]
    return found
