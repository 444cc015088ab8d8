"""One at a time: a lock that the system takes back when its process dies, however it dies."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from analysis.errors import StudyError
from bounds import open_lock


def lock(path: Path, what: str) -> IO[str]:
    """Wait until no other process holds the lock `path`, and hold it as long as the file that is returned is open.

    Children of this process do not inherit it. It spans machines where their file system does (NFS 4, Lustre with
    `flock`); one that knows no locks is told of, and then nothing is held.

    Args:
        path: a file of the lock's own, made if it is not there and left behind.
        what: what is done under the lock, for the message to those who wait.

    Raises:
        StudyError: if the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_lock(path)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process is at {what}; waiting for it", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        print(f"{path} cannot be locked ({error.strerror}): start no second process at {what}", file=sys.stderr)
    return file


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock `path` in a block; see `lock`.

    Raises:
        StudyError: if the file cannot be made.
    """
    with lock(path, what):
        yield
