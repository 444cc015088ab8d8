"""Figure A.3: training and testing accuracy of convolutional networks along meta-training, on mini-ImageNet."""

from collections.abc import Sequence
from pathlib import Path

from figures import fig_a2
from figures.data import Where
from figures.fig_a2 import Trace, draw, texts

__all__ = ["DATASET", "draw", "texts", "traces"]

DATASET = "mini_imagenet"


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Trace]:
    """The figure, by file name.

    Raises:
        MissingTable: if there is no curve.
        FigureError, StudyError: for runs that cannot be compared, or tables that cannot be read.
    """
    return {f"fig_a3_{name}": found for name, found in fig_a2.measured(results, [DATASET], DATASET, where).items()}
