"""Intervals as they are drawn: a whisker at a mark, a band along a line. One that has no ends is not drawn."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes


class Ends(Protocol):
    """What has a mean and the ends of an interval about it, NaN if there is none."""

    @property
    def mean(self) -> float:
        """In the units of the axis."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


def whisker(ax: Axes, x: float, y: float, over: Ends, *, horizontal: bool = False, **look: Any) -> None:
    """An interval's ends about (x, y), unless it has none."""
    if np.isfinite(over.low):
        ends = [[over.mean - over.low], [over.high - over.mean]]
        x_ends, y_ends = (ends, None) if horizontal else (None, ends)
        ax.errorbar(x, y, yerr=y_ends, xerr=x_ends, linestyle="none", **look)


def band(ax: Axes, x: Sequence[float], over: Sequence[Ends], colour: Any, *, alpha: float = 0.2) -> None:
    """The intervals along a line, where they have ends."""
    low, high = (np.array([getattr(one, end) for one in over], dtype=float) for end in ("low", "high"))
    ax.fill_between(list(x), low, high, where=np.isfinite(low).tolist(), color=colour, alpha=alpha, linewidth=0)
