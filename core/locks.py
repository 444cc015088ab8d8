"""Claims: one process at a run. The system takes a claim back when its process dies, however it dies."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from bounds import open_lock
from core.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
ATTEMPTS = 100  # to make a folder that others take away as often


class Claim:
    """A folder that this process alone works in, until `release`.

    Children of this process do not inherit it. It spans machines where their file system does (NFS 4, Lustre with
    `flock`).

    Args:
        folder: the folder.
        file: its open lock file, None where there are no locks.
        made: the folders that were made for the lock, innermost first.
    """

    def __init__(self, folder: Path, file: IO[str] | None, made: list[Path]) -> None:
        self.folder = folder
        self._file, self._made = file, made

    def release(self) -> None:
        """Give it back; of the lock nothing is left behind, nor of folders that nothing was put into."""
        if self._file is None:
            return
        # Removed while it is held: who opened the file before, finds out that it is gone, see `claim`.
        with suppress(OSError):
            (self.folder / LOCK).unlink(missing_ok=True)
        self._file.close()
        with suppress(OSError):  # one that is not empty, and then those that it is in
            for folder in self._made:
                folder.rmdir()


def claim(folder: Path) -> Claim | None:
    """Claim a folder, which is made if it is not there; None if another process has it.

    Where the system or the file system knows no locks, this is said once for each folder, and nothing is held.

    Raises:
        UserError: if the folder cannot be written.
    """
    if fcntl is None:
        print(f"no locks on this system: start no second process at {folder}", file=sys.stderr)
        return Claim(folder, None, [])
    attempts = 0
    while True:
        attempts += 1
        try:
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            file = open_lock(folder / LOCK)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempts < ATTEMPTS:
                continue  # another has given it back, and taken the folder away
            raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            print(f"{folder} cannot be locked ({error.strerror}): start no second process at it", file=sys.stderr)
            return Claim(folder, file, made)
        # A lock on a file that was removed in the meantime keeps nobody out.
        if os.fstat(file.fileno()).st_nlink:
            return Claim(folder, file, made)
        file.close()
