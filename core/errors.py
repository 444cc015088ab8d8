"""The one exception that means: what you asked for cannot be done, and here is why in a sentence."""

from collections.abc import Iterable

from bounds.words import shown


class UserError(ValueError):
    """A mistake in the input (a name, a file, a shape), told in one sentence.

    The command lines print it without a traceback and exit with code 2.
    """


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a misspelt `name` of a `kind`; it lists the names that are `known`."""
    return UserError(f"unknown {kind} {shown(name)}; known: {', '.join(sorted(known))}")
