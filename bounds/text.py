"""JSON, of bounded size and depth."""

import json
import re
from pathlib import Path
from typing import Any

from bounds import MAX_JSON_BYTES, MAX_JSON_DEPTH, Refused, check, read_bytes

# Possessive: what could be gone back to is kept otherwise, a hundred bytes a letter.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        Refused: if it is too large or too deep, no regular file, or not JSON.
        OSError: if it cannot be read.
    """
    return parse_json(read_bytes(path, MAX_JSON_BYTES), path)


def parse_json(text: str | bytes, name: object) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        text: the text.
        name: what to call it in an error.

    Raises:
        Refused: if it is too large or too deep, not JSON, or has half a character in it, which could not be printed.
    """
    check(name, len(text), MAX_JSON_BYTES, "bytes")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        _check_depth(text, name)
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except Refused:
        raise
    except ValueError as error:
        raise Refused(f"{name} is not valid JSON: {error}") from error
    return value


def _check_depth(text: str, name: object) -> None:
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = found.group()
        if bracket in ("[", "{"):
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise Refused(f"{name} has JSON that is more than {MAX_JSON_DEPTH} deep")
        elif bracket in ("]", "}"):
            depth -= 1
