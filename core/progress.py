"""Progress for people: a bar on a terminal or in a notebook, and elsewhere, as in a log, a line from time to time."""

import io
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm.auto import tqdm

LINE_SECONDS = 10.0
LINE = "{desc} {n_fmt}/{total_fmt} {unit} ({percentage:.0f} %), {elapsed} gone, {remaining} left{postfix}"


class Lines(io.TextIOBase):
    """A stream for tqdm, which writes over its last line: each is a line of its own here, written at once."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write what is no blank, which tqdm wipes a line out with."""
        if line := text.strip():
            self.stream.write(f"{line}\n")
            self.stream.flush()
        return len(text)


def progress_bar(steps: Iterable[Any] | None = None, *, shown: bool, **options: Any) -> "tqdm[Any]":
    """A bar of tqdm, or lines.

    Args:
        steps: what to go through; None: the caller says `update`.
        shown: whether there is anything to see.
        options: as tqdm takes them.
    """
    if shown and not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        lines = {"file": Lines(sys.stderr), "bar_format": LINE, "mininterval": LINE_SECONDS, "miniters": 1}
        options = {**options, **lines, "dynamic_ncols": False}
    return tqdm(steps, disable=not shown, **options)
