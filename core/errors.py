"""The one exception that means: what you asked for cannot be done, and here is why in a sentence."""

from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """A mistake in the input (a name, a file, a shape), told in one sentence.

    The command lines print it without a traceback and exit with code 2.
    """


def shown(value: object) -> str:
    """A value in a sentence: in one line, and short, whatever a file has there."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: in one line, and the first ten of many, whatever a file calls what it has."""
    told = ", ".join(name if name.isprintable() and len(name) <= 80 else shown(name) for name in names[:10])
    return told if len(names) <= 10 else f"{told} and {len(names) - 10} more"


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a misspelt `name` of a `kind`; it lists the names that are `known`."""
    return UserError(f"unknown {kind} {shown(name)}; known: {', '.join(sorted(known))}")
