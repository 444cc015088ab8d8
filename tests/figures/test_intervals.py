"""Whiskers and bands end where their intervals do."""

import matplotlib.pyplot as plt
import numpy as np

from analysis.statistics import Interval
from figures.intervals import band, whisker


def test_intervals_are_drawn_with_their_ends():
    over = [Interval(5, 4, 7, 0.95, "bca", 3, "tasks"), Interval(6, 5.5, 9, 0.95, "bca", 3, "tasks")]
    _, ax = plt.subplots()
    whisker(ax, 1, 5, over[0])
    whisker(ax, 6, 2, over[1], horizontal=True)
    whisker(ax, 3, 3, Interval(3, np.nan, np.nan, 0.95, "none", 1, "tasks"))
    segments = [segment.tolist() for c in ax.collections for segment in c.get_segments()]
    assert segments == [[[1, 4], [1, 7]], [[5.5, 2], [9, 2]]]
    _, ax = plt.subplots()
    band(ax, [1, 2], over, "black")
    (polygon,) = ax.collections[0].get_paths()
    assert {tuple(point) for point in polygon.vertices} == {(1, 4), (1, 7), (2, 5.5), (2, 9)}
    plt.close("all")
