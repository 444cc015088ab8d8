"""The errors of figures."""

from analysis.errors import StudyError, unknown_name

__all__ = ["FigureError", "MissingTable", "StudyError", "unknown_name"]


class FigureError(StudyError):
    """A figure cannot be drawn, told in one sentence."""


class MissingTable(FigureError):
    """What a figure would show was never measured; the sentence says what makes it."""
