"""What files hold, as it stands in a sentence: in one line, and short."""

from collections.abc import Sequence


def shown(value: object) -> str:
    """A value in a sentence: in one line, and short, whatever a file has there."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: in one line, and the first ten of many, whatever a file calls what it has."""
    told = ", ".join(name if name.isprintable() and len(name) <= 80 else shown(name) for name in names[:10])
    return told if len(names) <= 10 else f"{told} and {len(names) - 10} more"


def one_line(error: BaseException) -> str:
    """What an error of another library says, in one line of a readable length; its type where it says nothing."""
    words = " ".join(str(error).split()) or type(error).__name__
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words[:201])
    return text if len(text) <= 200 else f"{text[:200]}..."


def told(path: object, fault: str, error: BaseException) -> str:
    """The sentence on a file that could not be read: of an error of ours, which names the file, its own words."""
    words = str(error)
    return words if words.startswith(f"{path} ") else f"{path} {fault}: {one_line(error)}"
