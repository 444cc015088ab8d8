"""Files that are whole or absent."""

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as `tempfile.mkstemp` names them here


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, and rename it when it is whole and on the disk.

    A process that is killed, or a disk that is full, leaves what was at `path` before. The temporary files that
    processes leave when they are killed are removed by the next that writes into the folder.

    Raises:
        OSError: if the file cannot be written, or whatever `write` raises.
    """
    descriptor, temporary = None, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _make_temporary(path)
        write(Path(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any other file of its user.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    finally:
        # What is left where even that fails, the next writer removes.
        with suppress(OSError):
            if temporary is not None:
                os.unlink(temporary)
        with suppress(OSError):
            if descriptor is not None:
                os.close(descriptor)
    _remove_leftovers(path.parent)


def _make_temporary(path: Path) -> tuple[int | None, str]:
    """A new file beside `path`, and the open descriptor whose lock says that its writer lives (None: no locks here)."""
    while True:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        if fcntl is None:
            os.close(descriptor)
            return None, temporary
        with suppress(OSError):  # a file system without locks: there nobody removes what others left
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # One who cleans up may have been faster than the lock.
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files whose writers have died; one that lives holds the lock of its file."""
    if fcntl is None:
        return
    with suppress(OSError):
        for name in os.listdir(folder):
            if not _TEMPORARY.fullmatch(name):
                continue
            with suppress(OSError):
                with open(folder / name, "rb+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(folder / name)
