"""Accuracy along meta-training: what the figures of curves share, from the rows of a study to lines on axes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis.statistics import seed_spread
from figures import estimation, style
from figures.data import Runs
from figures.style import Look

STUDY = "training_curves"
NEEDED = ("iteration", "split", "accuracy", "num_tasks")
BAND = "range (smallest to largest) over seeds"
_APART = 0.12  # of the panel's diagonal: markers tell lines apart without colour, at any density of points
_LINEAR_PART = 10  # iterations: the axis is linear up to here, and logarithmic beyond
_LINEAR_SCALE = 0.6  # decades: length of the linear part
_CHANGED = 2.0  # points: what a curve has to rise or fall by to be worth a word
_ROOM = 2.2  # times the last iteration is where the axis ends: the paper's values stand beyond the curves
_PUBLISHED_AT = 0.965  # of the panel's width
_PUBLISHED_SIZE = (0.04, 0.065)  # of the panel: how far apart two stars have to be, to stay two


@dataclass(frozen=True)
class Line:
    """The curve of one model and method, in percent.

    Attributes:
        model, method: what was trained.
        points: one row an iteration: iteration, mean over the runs, low and high: smallest and largest of a run.
        num_seeds: runs behind each point.
        num_tasks: tasks behind each point of a run.
        lost: (run, what happened) of each run that is left out.
        holes: (run, what happened) of each run that has no value at some iterations, at which the line has none.
        configs: configuration of every run, lost ones included.
        published: what the paper says of the end, None if nothing.
        tables: the tables of all these runs, study/id.
    """

    model: str
    method: str
    points: pd.DataFrame
    num_seeds: int
    num_tasks: int
    lost: tuple[tuple[str, str], ...]
    holes: tuple[tuple[str, str], ...]
    configs: tuple[Mapping[str, Any], ...]
    published: float | None
    tables: tuple[str, ...]

    @property
    def band(self) -> str:
        """What the band is."""
        return f"{BAND} ({self.num_seeds})" if self.num_seeds > 1 else "none, one seed"

    @property
    def look(self) -> Look:
        """How it is drawn."""
        return style.look_of(self.model, self.method)

    @property
    def name(self) -> str:
        """Model and method on paper, with the number of convolutional layers."""
        return style.name_of(self.model, self.method, self.configs[0].get("depth"))


def line(group: Runs, published: float | None = None, *, split: str = "test") -> Line:
    """The curve of runs that differ in their seed only, at the iterations that all of them have.

    Args:
        group: rows of `training_curves`.
        published: the paper's value.
        split: "train", "validation" or "test": the tasks that the accuracy is of.
    """
    configs = tuple(group.configs.values())
    frame = group.frame
    of_split, ok = frame["split"].eq(split), frame["status"].eq("ok")
    good = frame[of_split & ok]
    # A finished run may have a point at which a task diverged, as at the start: that says nothing of the others.
    lost = tuple(one for one in estimation.lost_runs(frame, ["run"]) if one[0] not in set(good["run"]))
    rest = frame[of_split & frame["run"].isin(good["run"])]
    holes = tuple(
        (str(run), f"{(~ok[at.index]).sum()} of {len(at)} points, at which tasks diverged")
        for run, at in rest.groupby("run", observed=True)
        if not ok[at.index].all()
    )
    num_seeds = good["run"].nunique()
    rows = []
    for iteration, at in good.groupby("iteration"):
        # A mean whose runs change along the line would jump for no reason of the method's.
        if at["run"].nunique() == num_seeds:
            spread = seed_spread(at.assign(accuracy=100 * at["accuracy"]))
            rows.append((iteration, spread.mean, spread.low, spread.high))
    points = pd.DataFrame(rows, columns=["iteration", "mean", "low", "high"])
    num_tasks = int(good["num_tasks"].min()) if len(good) else 0
    one = configs[0]
    return Line(
        one["model"], one["method"], points, num_seeds, num_tasks, lost, holes, configs, published, group.tables
    )


@dataclass(frozen=True)
class Rise:
    """How far a mean curve rose over the end of training: `points` of accuracy (negative: it fell) from `since` on."""

    since: int
    points: float


def rise(points: pd.DataFrame, share: float) -> Rise | None:
    """How far a curve rose over the last `share` of its iterations, from the last point before; None without one.

    Args:
        points: as those of `Line`.
        share: between 0 and 1.
    """
    if not len(points):
        return None
    end = points.iloc[-1]
    before = points[points["iteration"] <= (1 - share) * end["iteration"]]
    if not len(before) or end["iteration"] == 0:
        return None
    return Rise(int(before.iloc[-1]["iteration"]), float(end["mean"] - before.iloc[-1]["mean"]))


def highest(points: pd.DataFrame) -> "pd.Series[float]":
    """The point at which a mean curve is highest, as a row of the points of a `Line`."""
    return points.iloc[int(points["mean"].to_numpy().argmax())]


def describe_end(one: Line) -> list[str]:
    """What the end of a curve says of the number it leads to: that it still rose, or that it was higher before."""
    told = []
    late = rise(one.points, 0.5)
    if late is not None and late.points >= _CHANGED:
        last = int(one.points.iloc[-1]["iteration"])
        told.append(f"still rising: {late.points:.1f} points from iteration {late.since:,} to {last:,}")
    if len(one.points):
        best, end = highest(one.points), one.points.iloc[-1]
        if best["mean"] - end["mean"] >= _CHANGED:
            told.append(
                f"it had {best['mean']:.1f} % at iteration {int(best['iteration']):,}, and {end['mean']:.1f} at its "
                "end, on the tasks of the curve"
            )
    return told


def describe_band(lines: Iterable[Line]) -> str:
    """What the caption calls the bands of these lines."""
    return BAND if any(one.num_seeds > 1 for one in lines) else "none, one seed"


def describe_missing_runs(lines: Iterable[Line]) -> list[str]:
    """A sentence for each line that lacks runs, such as "LR w/ KFC: 1 of 2 diverged"."""
    return [f"{one.look.name}: {estimation.lost_text(one.lost, one.num_seeds)}" for one in lines if one.lost]


def handles(looks: Iterable[tuple[Look, str]]) -> list[Line2D]:
    """What a legend shows of methods, each with its label."""
    return [Line2D([], [], color=k.colour, marker=k.marker, markersize=4, label=label) for k, label in looks]


def draw_lines(ax: Axes, lines: Iterable[Line]) -> None:
    """Each line, with its band if it has more than one seed."""
    for one in lines:
        if not len(one.points):
            continue
        x = one.points["iteration"].to_numpy()
        if one.num_seeds > 1:
            low, high = one.points["low"].to_numpy(), one.points["high"].to_numpy()
            ax.fill_between(x, low, high, color=one.look.colour, alpha=0.2, linewidth=0, zorder=2)
        ax.plot(
            x, one.points["mean"], color=one.look.colour, marker=one.look.marker, markersize=3.6, markeredgewidth=0,
            zorder=3, markevery=_APART,
        )  # fmt: skip


def draw_published(ax: Axes, lines: Iterable[Line], size: float = style.PAPER["markersize"]) -> None:
    """The paper's values, side by side where they would cover one another; the vertical axis has to have its limits."""
    width, height = _PUBLISHED_SIZE
    bottom, top = ax.get_ylim()
    placed: list[tuple[float, float]] = []
    for one in sorted((one for one in lines if one.published is not None), key=lambda one: one.published or 0.0):
        assert one.published is not None
        # At the right edge and not at an iteration: the paper says where its curves end, not where they pass.
        x = _PUBLISHED_AT
        while any(at == x and abs(value - one.published) < height * (top - bottom) for at, value in placed):
            x -= width
        placed.append((x, one.published))
        outline = {**style.PAPER, "markeredgecolor": one.look.colour, "markersize": size}
        ax.plot([x], [one.published], transform=ax.get_yaxis_transform(), zorder=5, **outline)


def draw_chance(ax: Axes, chance: float) -> None:
    """The accuracy of guessing."""
    ax.axhline(chance, zorder=1.5, **style.CHANCE)
    ax.text(
        0.92, chance - 0.8, "chance", fontsize=7.5, color="#777777", va="top", ha="right",
        transform=ax.get_yaxis_transform(),
    )  # fmt: skip


def set_linear_iterations(ax: Axes, lines: Iterable[Line], room: float) -> None:
    """A linear horizontal axis, on which one sees whether a curve still rises.

    Args:
        ax: the panel.
        lines: those that have to fit.
        room: share of the panel's width beyond the last iteration, where the paper's values stand.
    """
    end = _last_iteration(lines)
    ax.set_xlim(0, max(end, 1) / (1 - room))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    # No number where nothing was measured.
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= end])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def set_iterations(ax: Axes, lines: Iterable[Line]) -> None:
    """A logarithmic horizontal axis, 2.2 times as long as the longest of these lines."""
    end = _last_iteration(lines)
    ax.set_xscale("symlog", linthresh=_LINEAR_PART, linscale=_LINEAR_SCALE)
    ax.set_xlim(0, end * _ROOM)
    # No number where nothing was measured; the last one would stick out of the panel.
    ticks = [0, *(10**k for k in range(1, 7) if 10**k <= end)]
    ax.set_xticks([*ticks, end] if len(ticks) < 3 and end >= 2 * ticks[-1] else ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _last_iteration(lines: Iterable[Line]) -> int:
    return max((int(one.points["iteration"].max()) for one in lines if len(one.points)), default=_LINEAR_PART)
