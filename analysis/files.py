"""Files that are whole or absent, for tables and figures; loads no torch, unlike its twin `core.files`."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.errors import StudyError
from bounds import Refused, text


def write_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary file beside `path`, rename it when it is whole and on the disk, and return `path`.

    Raises:
        StudyError: if the file cannot be written; what was at `path` before is left as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        write(Path(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any other file of its user.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        StudyError: if it is missing, unreadable, not JSON, or beyond `bounds`.
    """
    try:
        return text.read_json(path)
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror or error}") from error
    except Refused as error:
        raise StudyError(str(error)) from error
