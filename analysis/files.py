"""Files that are whole or absent, for tables and figures; loads no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.errors import StudyError
from bounds import Refused, text
from bounds.whole import write_whole


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, rename it when it is whole, and return `path`.

    Raises:
        StudyError: if the file cannot be written.
    """
    try:
        write_whole(path, write)
    except OSError as error:
        raise StudyError(f"cannot write {path}: {error.strerror or error}") from error
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
