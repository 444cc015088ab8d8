"""The errors of studies and their tables. Loads nothing, so that readers of tables need no torch."""

from collections.abc import Iterable


class StudyError(ValueError):
    """A mistake in the input of a study or of a table, told in one sentence.

    The twin of `core.errors.UserError`, which cannot be imported without loading torch.
    """


def unknown_name(kind: str, name: object, known: Iterable[str]) -> StudyError:
    """The error for a misspelt `name` of a `kind`; it lists the names that are `known`."""
    return StudyError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")
