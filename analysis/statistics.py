"""Intervals and spreads, each saying which repetition it speaks for.

Two questions are kept apart, because one interval cannot answer both:

- *new tasks*: how would these very runs do on other tasks of the same distribution? `task_interval` and
  `paired_task_interval` resample tasks and leave the runs as they are.
- *new seeds*: how would the method do if it were meta-trained again? `seed_spread` shows the means of the runs, one a
  seed, as mean, standard deviation and extremes. Three to five seeds are too few to resample.

Nothing here loads torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from analysis.errors import StudyError

NUM_RESAMPLES = 9_999
_BATCH_NUMBERS = 2**22  # numbers resampled at once: 32 MiB
_TIE = 1e-12  # of the largest deviation

KINDS = {"bca": "BCa bootstrap", "percentile": "percentile bootstrap"}


@dataclass(frozen=True)
class Interval:
    """A mean and how far it can be trusted.

    Attributes:
        mean: mean of the values.
        low: lower end, NaN if there is no interval.
        high: upper end, NaN if there is no interval.
        level: confidence level, 0.95 for 95 %.
        kind: "bca" or "percentile", which bootstrap made it; "none" if one value cannot tell.
        n: how many values were resampled.
        over: what one value is, such as "tasks": the interval speaks for new ones of these.
    """

    mean: float
    low: float
    high: float
    level: float
    kind: str
    n: int
    over: str = "values"


@dataclass(frozen=True)
class Spread:
    """How runs of different seeds differ.

    Attributes:
        mean: mean of the runs' means, each run counting once.
        std: standard deviation of the runs' means (ddof 1), NaN for one run.
        low: smallest mean of a run.
        high: largest mean of a run.
        n: how many seeds.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int


def interval(
    values: ArrayLike, level: float = 0.95, seed: int = 0, *, over: str = "values", num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Bootstrap interval of the mean: BCa (bias-corrected and accelerated), percentile where BCa is undefined.

    Values are drawn with replacement, one by one, so they must be independent: one a task, not one an example and not
    several of the same task. The claim is about other draws of what one value is.

    Args:
        values: (n,) finite numbers.
        level: confidence level, between 0 and 1.
        seed: seed of the resampling; the same seed gives the same interval.
        over: what one value is, for the interval's name.
        num_resamples: resamples.

    Returns:
        The interval; with n = 1 its ends are NaN and its kind is "none". If all values are equal, BCa does not exist
        and the percentile interval has length zero: it says that the sample did not vary, not that the mean is known.

    Raises:
        StudyError: for no value, a value that is not finite, or a level outside (0, 1).

    Reference:
        B. Efron, "Better bootstrap confidence intervals", JASA 1987.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise StudyError(f"an interval needs a list of at least one number, got shape {numbers.shape}")
    if bad := int((~np.isfinite(numbers)).sum()):
        raise StudyError(f"{bad} of {len(numbers)} values are not finite; choose the rows whose status is ok")
    if not 0 < level < 1:
        raise StudyError(f"level must lie between 0 and 1, got {level}")
    n, mean = len(numbers), float(numbers.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, level, "none", n, over)
    ((low, high, kind),) = _means_interval(numbers[:, None], level, seed, num_resamples)
    return Interval(mean, low, high, level, kind, n, over)


def paired_interval(
    a: "pd.Series[Any]",
    b: "pd.Series[Any]",
    level: float = 0.95,
    seed: int = 0,
    *,
    over: str = "pairs",
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Interval of the mean of `a - b`, each value of `a` against the value of `b` with the same key.

    The differences are resampled, not the two lists: what makes a task hard for both cancels. The claim is about new
    tasks, met by both.

    Args:
        a: values, indexed by what they share, such as the task.
        b: the values to subtract, with the same keys in any order.
        level: confidence level.
        seed: seed of the resampling.
        over: what one pair is, for the interval's name.
        num_resamples: resamples.

    Raises:
        StudyError: if a key appears twice or in one list only, and as `interval`.
    """
    for name, series in (("first", a), ("second", b)):
        if not series.index.is_unique:
            raise StudyError(f"a key appears twice in the {name} list, so pairs cannot be formed")
    if alone := len(a.index.symmetric_difference(b.index)):
        raise StudyError(f"{alone} keys appear in one of the two lists only, so pairs cannot be formed")
    return interval(a - b.reindex(a.index), level, seed, over=over, num_resamples=num_resamples)


def task_interval(
    table: pd.DataFrame,
    value: str = "accuracy",
    level: float = 0.95,
    seed: int = 0,
    *,
    task: Sequence[str] = ("task_seed", "task"),
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Interval over tasks, within the runs of `table`. Claims: these runs on *new tasks*; says nothing of new seeds.

    Runs that met the same tasks are averaged task by task first, so that a task counts once however many runs met it.

    Args:
        table: one row a run and task (choose step, split and status before).
        value: column to average.
        level: confidence level.
        seed: seed of the resampling.
        task: columns that name a task.
        num_resamples: resamples.

    Raises:
        StudyError: if the runs did not all meet the same tasks once, and as `interval`.
    """
    return interval(_per_task(table, value, task), level, seed, over="tasks", num_resamples=num_resamples)


def task_intervals(
    table: pd.DataFrame,
    by: Sequence[str],
    value: str = "accuracy",
    level: float = 0.95,
    seed: int = 0,
    *,
    task: Sequence[str] = ("task_seed", "task"),
    num_resamples: int = NUM_RESAMPLES,
) -> dict[tuple[Any, ...], Interval]:
    """`task_interval` of every cell of a table, in one pass: a figure has hundreds of them.

    Cells of equally many tasks are resampled together, by the random numbers that `task_interval` draws for each.

    Args:
        table: one row a run, cell and task; a cell may lack tasks that others have.
        by: columns that name a cell, such as the layer and the step.
        value, level, seed, task, num_resamples: as `task_interval`.

    Returns:
        The intervals by the values of `by`, in the order in which cells appear in the table.

    Raises:
        StudyError: as `task_interval`.
    """
    cell, keys = list(by), list(task)
    _need(table, [value, "run", *cell, *keys])
    if table.duplicated(["run", *cell, *keys]).any():
        raise StudyError("a run has more than one row for a task; choose one step, split and kind of points first")
    if bad := int((~np.isfinite(table[value])).sum()):
        raise StudyError(f"{bad} of {len(table)} values are not finite; choose the rows whose status is ok")
    runs = table.groupby(cell, observed=True)["run"].transform("nunique")
    met = (
        table.assign(runs=runs)
        .groupby([*cell, *keys], observed=True, sort=False)
        .agg(mean=(value, "mean"), size=(value, "size"), runs=("runs", "first"))
    )
    if (met["size"] != met["runs"]).any():
        raise StudyError("the runs did not meet the same tasks, so they cannot be averaged task by task")
    by_cell = met["mean"].groupby(level=list(range(len(cell))), observed=True, sort=False)
    # Tasks in their order, whatever that of the rows is: a resample is of positions.
    samples = {
        name if isinstance(name, tuple) else (name,): part.sort_index().to_numpy(np.float64) for name, part in by_cell
    }
    found: dict[tuple[Any, ...], Interval] = {}
    for n in {len(values) for values in samples.values()}:
        names = [name for name, values in samples.items() if len(values) == n]
        ends = _means_interval(np.stack([samples[name] for name in names], axis=1), level, seed, num_resamples)
        for name, (low, high, kind) in zip(names, ends, strict=True):
            found[name] = Interval(float(samples[name].mean()), low, high, level, kind, n, "tasks")
    return {name: found[name] for name in samples}


def _means_interval(values: np.ndarray, level: float, seed: int, num_resamples: int) -> list[tuple[float, float, str]]:
    """Ends and kind of the bootstrap interval of the mean of each column of values (n, k), as in `interval`.

    A resample is told by how often it has each row, so that the means of all columns are one product.
    """
    n, k = values.shape
    if n == 1:
        return [(math.nan, math.nan, "none")] * k
    centred = values - values.mean(axis=0)
    parts = [counts @ centred / n for counts in _resamples(n, seed, num_resamples)]
    means = np.concatenate(parts)
    # A resample whose mean is that of the values is a tie, and rounding must not take sides.
    means[np.abs(means) < _TIE * np.abs(centred).max(axis=0)] = 0.0
    alpha = (1 - level) / 2
    bias = ndtri(((means < 0).mean(axis=0) + (means <= 0).mean(axis=0)) / 2)
    found = []
    for j in range(k):
        levels, kind = np.array([alpha, 1 - alpha]), "percentile"
        if np.ptp(values[:, j]):  # else there is no BCa interval
            x = centred[:, j]
            acceleration = (x**3).sum() / (6 * (x**2).sum() ** 1.5)
            z = bias[j] + ndtri(levels)
            with np.errstate(invalid="ignore"):  # a bias that is not finite, for which there is none either
                corrected = ndtr(bias[j] + z / (1 - acceleration * z))
            if np.isfinite(corrected).all():
                levels, kind = corrected, "bca"
        low, high = np.quantile(means[:, j], levels) + values[:, j].mean()
        found.append((float(low), float(high), kind))
    return found


@lru_cache(maxsize=8)
def _resamples(n: int, seed: int, num_resamples: int) -> tuple[np.ndarray, ...]:
    """How often each of n rows is in each resample, (resamples, n) in parts, which bound the memory of drawing them.

    Kept, as a figure asks for the same ones again and again: they hang on nothing but these numbers.
    """
    rng, rows = np.random.default_rng(seed), max(1, _BATCH_NUMBERS // n)
    parts = []
    for first in range(0, num_resamples, rows):
        drawn = rng.integers(0, n, (min(rows, num_resamples - first), n))
        counts = np.bincount((drawn + n * np.arange(len(drawn))[:, None]).ravel(), minlength=drawn.size)
        parts.append(counts.reshape(drawn.shape).astype(np.uint16 if n > 255 else np.uint8))
    return tuple(parts)


def paired_task_interval(
    a: pd.DataFrame,
    b: pd.DataFrame,
    value: str = "accuracy",
    level: float = 0.95,
    seed: int = 0,
    *,
    task: Sequence[str] = ("task_seed", "task"),
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Interval of the difference `a - b` of two groups of runs that met the same tasks. Claims: *new tasks*.

    Arguments as `task_interval`.

    Raises:
        StudyError: as `task_interval` and `paired_interval`.
    """
    return paired_interval(
        _per_task(a, value, task), _per_task(b, value, task), level, seed, over="tasks", num_resamples=num_resamples
    )


def seed_spread(table: pd.DataFrame, value: str = "accuracy", *, seed_column: str = "seed") -> Spread:
    """How the runs of `table` differ, one a seed. Speaks for *new seeds* on these tasks; it is no interval.

    Args:
        table: rows of runs that differ in nothing but their seed (choose step, split and status before).
        value: column to average within each seed.
        seed_column: what tells the runs apart.

    Raises:
        StudyError: for an empty table or a value that is not finite.
    """
    _need(table, [value, seed_column])
    if not len(table) or not np.isfinite(table[value]).all():
        raise StudyError(f"column {value!r} is empty or not finite; choose the rows whose status is ok")
    means = table.groupby(seed_column, observed=True)[value].mean()
    std = float(means.std(ddof=1)) if len(means) > 1 else math.nan
    return Spread(float(means.mean()), std, float(means.min()), float(means.max()), len(means))


def _per_task(table: pd.DataFrame, value: str, task: Sequence[str]) -> "pd.Series[Any]":
    keys = list(task)
    _need(table, [value, "run", *keys])
    if table.duplicated(["run", *keys]).any():
        raise StudyError("a run has more than one row for a task; choose one step, split and kind of points first")
    groups = table.groupby(keys, observed=True)[value]
    sizes = groups.size()
    if (sizes != table["run"].nunique()).any():
        raise StudyError("the runs did not meet the same tasks, so they cannot be averaged task by task")
    # pandas skips NaN, but a diverged task must be seen by `interval`, which refuses it.
    return groups.mean().where(groups.count() == sizes)


def _need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    if absent := [name for name in columns if name not in table.columns]:
        raise StudyError(f"the table lacks column {', '.join(absent)}")
