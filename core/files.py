"""Files that are whole or absent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bounds import Refused, text
from bounds.whole import write_whole
from core.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, and rename it when it is whole, see `bounds.whole`.

    Raises:
        UserError: if the file cannot be written.
    """
    try:
        write_whole(path, write)
    except (OSError, SafetensorError) as error:  # safetensors wraps what the system says, such as a full disk
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all.

    Raises:
        UserError: if the file cannot be written.
    """
    write_atomically(path, lambda temporary: _dump(temporary, value))


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: if it is missing, unreadable, not JSON, or beyond `bounds`.
    """
    try:
        return text.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Refused as error:
        raise UserError(str(error)) from error
