"""Processes that do one thing and may die of it, forked from one that has imported everything."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

LONGEST = 120.0  # seconds that a process may take; one that takes longer hangs


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code, minus the signal that killed it, or None if it hung; and what it said."""

    code: int | None
    said: str

    @property
    def shows_traceback(self) -> bool:
        return "Traceback (most recent" in self.said or "Exception ignored" in self.said


class Process:
    """What `begin` returns, called in a process of its own; it gives the exit code, and an error is shown as usual.

    The constructor returns when `begin` has returned there.
    """

    def __init__(self, begin: Callable[[], Callable[[], int]]) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed when it is read
        beginning, begins = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.id = os.fork()
        if self.id == 0:
            _live(begin, self._output.fileno(), begins)
        os.close(begins)
        os.read(beginning, 1)  # nothing, if it died before
        os.close(beginning)
        self.began = time.monotonic()

    def kill(self, number: int) -> None:
        os.kill(self.id, number)

    def wait(self, longest: float = LONGEST) -> Ended:
        """Wait for its end; one that hangs is killed."""
        end = time.monotonic() + longest
        pause = 0.0005
        while True:
            found, status = os.waitpid(self.id, os.WNOHANG)
            if found:
                return Ended(os.waitstatus_to_exitcode(status), self._said())
            if time.monotonic() > end:
                os.kill(self.id, signal.SIGKILL)
                os.waitpid(self.id, 0)
                return Ended(None, self._said())
            time.sleep(pause)
            pause = min(2 * pause, 0.01)

    def _said(self) -> str:
        with self._output:
            self._output.seek(0)
            return self._output.read().decode(errors="replace")


def ended(begin: Callable[[], Callable[[], int]]) -> Ended:
    """How a process ends that does what `begin` returns."""
    return Process(begin).wait()


def _live(begin: Callable[[], Callable[[], int]], output: int, begins: int) -> None:
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Not closed with the object: a child of this process has its own in the same places.
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        # Whoever started this one in the background may have had it ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work = begin()
        os.write(begins, b"!")
        code = work()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and error.__traceback__ and error.__traceback__.tb_next is None:
            code = 130  # between two lines of this function: before the work began, or after its end
        else:
            traceback.print_exc()
    finally:
        # Whatever happens now: a child must not go on as its parent.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
