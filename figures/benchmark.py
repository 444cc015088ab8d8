"""The benchmark: speedups by workload and engine as a picture and as Markdown, and time and memory along each axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from analysis.store import table_paths
from figures import style
from figures.data import Where, check_columns, read_named
from figures.errors import MissingTable
from figures.style import Look

STUDY = "benchmark"
OVERHEAD = "outer_loop"
REFERENCE = "naive"
# In this order; a workload that is not listed comes last, under its own name.
WORKLOADS = {
    "linnet_1_seed": "LinNet, synthetic, 1 seed",
    "linnet_5_seeds": "LinNet, synthetic, 5 seeds",
    "klin_1_seed": "LR w/ KLin, synthetic, 1 seed",
    "klin_5_seeds": "LR w/ KLin, synthetic, 5 seeds",
    "lr_kfc_5way_1shot": "LR w/ KFC, 784 x 5, 32 tasks, 2 steps",
    "cnn4_maml_5way_1shot": "CNN-4, 5-way 1-shot, 32 tasks, 1 step",
    "cnn4_maml_10way_5shot_8": "CNN-4, 10-way 5-shot, 8 tasks, 4 steps",
    "cnn4_maml_10way_5shot_32": "CNN-4, 10-way 5-shot, 32 tasks, 4 steps",
    "cnn2_kfc_10way_5shot": "CNN-2 w/ KFC, 10-way 5-shot, 8 tasks, 4 steps",
    "cnn4_kfc_10way_5shot": "CNN-4 w/ KFC, 10-way 5-shot, 8 tasks, 4 steps",
    "evaluation_600": "CNN-4, evaluation of 600 tasks",
    "layer_roles": "CNN-4, study layer_roles, 100 tasks",
    "fc_noise": "CNN-4, study fc_noise, 100 tasks",
}
# Of the muted and light colours of Tol (2021); none is a method's.
ENGINES = {
    "naive": Look("naive", "#111111", "|"),
    "eager": Look("ours", "#332288", "o"),
    "compiled": Look("ours, compiled", "#44aa99", "D"),
    "rematerialised": Look("ours, rematerialised", "#88ccee", "P"),
    "bfloat16": Look("ours, bfloat16", "#999933", "X"),
    "higher": Look("higher", "#aa4499", "^"),
    "torchopt": Look("TorchOpt", "#882255", "v"),
    "jax": Look("JAX", "#ee8866", "s"),
}
AXES = {"tasks": "tasks", "steps": "adaptation steps", "width": "width of the layers", "seeds": "seeds"}
_LEAST: dict[str, Any] = {"color": "black", "linewidth": 1.2}
NEEDED = (
    "workload", "axis", "value", "engine", "status", "seconds", "speedup", "speedup_low", "speedup_high", "least",
    "aim", "gflop", "fraction_of_peak", "peak_memory_mib", "compile_seconds", "compile_seconds_again", "rounds",
    "share", "cpu", "threads", "peak_gflop_per_second", "load", "notes",
)  # fmt: skip


@dataclass(frozen=True)
class Speedups:
    """The workloads, first to last: their rows of the table, less the curves.

    Attributes:
        frame: a row for each workload and engine.
        overhead: of each training (workload, engine), what an iteration spends beside its meta-step, a fraction of it.
        caption: paragraphs below.
        tables: where it is from, study/id.
    """

    frame: pd.DataFrame
    overhead: dict[tuple[str, str], float]
    caption: tuple[str, ...]
    tables: tuple[str, ...]

    @property
    def workloads(self) -> list[str]:
        """In the order drawn."""
        return list(dict.fromkeys(self.frame["workload"]))


@dataclass(frozen=True)
class Curves:
    """Time and memory of each workload along each axis: (workload, axis) to its rows."""

    frames: dict[tuple[str, str], pd.DataFrame]
    caption: tuple[str, ...]
    tables: tuple[str, ...]


def traces(results: str | Path, where: Sequence[Where] = ()) -> dict[str, Speedups | Curves]:
    """The figures, by file name; `where` chooses runs, of which there are none here.

    Raises:
        MissingTable: if nothing was measured.
        FigureError, StudyError: for a missing column, or tables that cannot be read.
    """
    if not table_paths(results, STUDY):
        raise MissingTable(f"no table in {Path(results) / STUDY}; make it with: make bench")
    frame = read_named(results, STUDY)
    check_columns(frame, NEEDED, STUDY)
    order = {name: i for i, name in enumerate(WORKLOADS)}
    frame = frame.sort_values(
        "workload", key=lambda names: names.map(lambda n: order.get(n, len(order))), kind="stable"
    )
    own, points = frame[frame["axis"].eq("")], frame[frame["axis"].ne("")]
    found: dict[str, Speedups | Curves] = {}
    if len(own):
        overhead, behind = _overhead(results)
        tables = (*own["table"].unique(), *behind)
        found["benchmark"] = Speedups(own.reset_index(drop=True), overhead, (_machine(own), _asked(own)), tables)
    if len(points):
        frames = {
            (str(name), str(axis)): part for (name, axis), part in points.groupby(["workload", "axis"], sort=False)
        }
        notes = points[points["notes"].ne("")].groupby("axis", sort=False)["notes"].unique()
        caption = (
            _machine(points),
            f"Seconds are medians of {_rounds(points)} rounds; memory is the most of one call.",
            *(f"Over {AXES.get(str(axis), axis)}: {' '.join(texts)}" for axis, texts in notes.items()),
        )
        found["benchmark_scaling"] = Curves(frames, caption, tuple(points["table"].unique()))
    return found


def _overhead(results: str | Path) -> tuple[dict[tuple[str, str], float], tuple[str, ...]]:
    """The parts of the outer loop added up, by workload and engine, and their tables; none where not measured."""
    if not table_paths(results, OVERHEAD):
        return {}, ()
    frame = read_named(results, OVERHEAD)
    groups = frame.groupby(["workload", "engine"], sort=False)
    parts = {(str(name), str(engine)): float(part["fraction"].sum()) for (name, engine), part in groups}
    return parts, tuple(frame["table"].unique())


def _machine(frame: pd.DataFrame) -> str:
    """What measured."""
    peaks, loads = frame["peak_gflop_per_second"], frame["load"]
    cpus = " and ".join(dict.fromkeys(frame["cpu"]))
    threads = " or ".join(str(n) for n in sorted(set(frame["threads"])))
    return (
        f"{cpus}, PyTorch with threads: {threads}. Float32 matrix products reached {_range(peaks)} GFLOP/s before each "
        f"workload, and {_range(loads, 1)} processes were running or waiting."
    )


def _rounds(frame: pd.DataFrame) -> str:
    measured = frame[frame["status"].eq("ok")]
    return _range(measured["rounds"]) if len(measured) else "no"


def _asked(frame: pd.DataFrame) -> str:
    """How speedups were measured, and what they are to be."""
    return (
        "Speedups are over the naive reference in the same round, one process, order shuffled: medians of "
        f"{_rounds(frame)} rounds, with their range. At least, aim: what is asked of our engine, and what it is to "
        "come to; the first of two is for the engine that is not compiled."
    )


def _range(values: pd.Series, digits: int = 0) -> str:
    low, high = f"{values.min():.{digits}f}", f"{values.max():.{digits}f}"
    return low if low == high else f"{low} to {high}"


def draw(trace: Speedups | Curves) -> tuple[Figure, dict[str, Axes]]:
    """The figure, and its axes by name."""
    return _draw_speedups(trace) if isinstance(trace, Speedups) else _draw_curves(trace)


def _draw_speedups(trace: Speedups) -> tuple[Figure, dict[str, Axes]]:
    with style.context():
        height = 0.9 + 0.36 * len(trace.workloads)
        figure, (ax,) = style.panels(1, height=height, caption=trace.caption, top=0.62)
        engines = [name for name in ENGINES if name != REFERENCE]
        offsets = dict(zip(engines, np.linspace(-0.28, 0.28, len(engines)), strict=True))
        for y, workload in enumerate(trace.workloads):
            rows = trace.frame[trace.frame["workload"].eq(workload)]
            for _, row in rows[rows["engine"].isin(engines) & rows["status"].eq("ok")].iterrows():
                look, at = ENGINES[row["engine"]], y + offsets[row["engine"]]
                ax.plot([row["speedup_low"], row["speedup_high"]], [at, at], color=look.colour, linewidth=1.0, zorder=2)
                ax.plot(row["speedup"], at, color=look.colour, marker=look.marker, markersize=4.5, zorder=3)
                for name, line in (("least", "-"), ("aim", ":")):
                    if np.isfinite(row[name]):
                        ax.plot([row[name]] * 2, [at - 0.16, at + 0.16], linestyle=line, zorder=1, **_LEAST)
        ax.axvline(1, zorder=0.5, **style.CHANCE)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_yticks(range(len(trace.workloads)), [WORKLOADS.get(name, name) for name in trace.workloads])
        ax.set_ylim(len(trace.workloads) - 0.4, -0.6)
        ax.set_xlabel("speed, as a multiple of the naive reference's")
        shown = set(trace.frame.loc[trace.frame["status"].eq("ok"), "engine"])
        handles = [_handle(name) for name in engines if name in shown]
        handles += [Line2D([], [], label="at least", **_LEAST), Line2D([], [], label="aim", linestyle=":", **_LEAST)]
        figure.legend(handles=handles, loc="upper center", ncols=4, borderaxespad=0.3)
    return figure, {"speedups": ax}


def _draw_curves(trace: Curves) -> tuple[Figure, dict[str, Axes]]:
    quantities = {"seconds": "seconds", "peak_memory_mib": "peak memory (MiB)"}
    axes: dict[str, Axes] = {}
    with style.context():
        figure, flat = style.panels(
            len(quantities), height=1.6 * len(trace.frames), caption=trace.caption, top=0.3, num_rows=len(trace.frames)
        )
        places = iter(flat)
        for (workload, axis), frame in trace.frames.items():
            for quantity, label in quantities.items():
                ax = axes[f"{workload} {axis} {quantity}"] = next(places)
                for engine, rows in frame[frame["status"].eq("ok")].groupby("engine", sort=False):
                    rows = rows[rows[quantity] > 0].sort_values("value")
                    look = ENGINES[str(engine)]
                    marker = "o" if look.marker == "|" else look.marker
                    ax.plot(
                        rows["value"].astype(float), rows[quantity], color=look.colour, marker=marker, markersize=3.5
                    )  # fmt: skip
                ax.set_xscale("log", base=2)
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_minor_locator(NullLocator())
                ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                ax.set_xticks(sorted(set(frame["value"].astype(int))))
                ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                ax.set_xlabel(AXES.get(axis, axis))
                ax.set_ylabel(label)
            axes[f"{workload} {axis} seconds"].set_title(_held_fixed(workload, axis), fontsize=8.5)
        engines = dict.fromkeys(engine for frame in trace.frames.values() for engine in frame["engine"])
        figure.legend(handles=[_handle(name) for name in engines], loc="upper center", ncols=len(engines))
    return figure, axes


def _held_fixed(workload: str, axis: str) -> str:
    """The name of a workload without the number that is varied along the axis."""
    parts = WORKLOADS.get(workload, workload).split(", ")
    return ", ".join(part for part in parts if part.rstrip("s").split(" ")[-1] != axis.rstrip("s"))


def _handle(engine: str) -> Line2D:
    look = ENGINES[engine]
    marker = "o" if look.marker == "|" else look.marker
    return Line2D([], [], color=look.colour, marker=marker, markersize=4.5, linestyle="none", label=look.name)


def texts(trace: Speedups | Curves) -> dict[str, str]:
    """The table as Markdown: a row for each workload, a column for each engine, and what is behind the numbers."""
    return {"md": markdown(trace)} if isinstance(trace, Speedups) else {}


def markdown(trace: Speedups) -> str:
    """Speedups; arithmetic, memory and compilation of each engine; the outer loop; and why a number is missing."""
    engines = [name for name in ENGINES if name in set(trace.frame["engine"])]
    by_cell = {(row["workload"], row["engine"]): row for _, row in trace.frame.iterrows()}
    lines = [_line("workload", *(ENGINES[name].name for name in engines), "at least", "aim"), _rule(len(engines) + 3)]
    for workload in trace.workloads:
        rows = [by_cell[workload, name] for name in engines if (workload, name) in by_cell]
        cells = [_speedup(by_cell.get((workload, name))) for name in engines]
        ends = [" / ".join(dict.fromkeys(f"{row[end]:g}" for row in rows if np.isfinite(row[end])))
                for end in ("least", "aim")]  # fmt: skip
        lines.append(_line(WORKLOADS.get(workload, workload), *cells, *ends))
    heads = ("workload", "engine", "seconds", "GFLOP", "of peak", "peak memory, MiB", "compiling, s", "again, s")
    lines += ["", _line(*heads), _rule(len(heads))]
    for row in (by_cell[w, e] for w in trace.workloads for e in engines if (w, e) in by_cell):
        if row["status"] == "ok":
            lines.append(
                _line(
                    WORKLOADS.get(row["workload"], row["workload"]), ENGINES[row["engine"]].name,
                    f"{row['seconds']:.3g}", _number(row["gflop"], ".3g"),
                    _number(100 * row["fraction_of_peak"], ".0f", " %"),
                    _number(row["peak_memory_mib"], ".0f"), _number(row["compile_seconds"], ".0f"),
                    _number(row["compile_seconds_again"], ".0f"),
                )
            )  # fmt: skip
    lines += ["", *(f"- {note}" for note in _notes(trace))]
    return "\n".join(lines) + "\n"


def _notes(trace: Speedups) -> list[str]:
    notes = list(trace.caption)
    for (workload, engine), fraction in trace.overhead.items():
        name = WORKLOADS.get(workload, workload)
        notes.append(
            f"{name}, {ENGINES[engine].name}: sampling, logging, evaluation and checkpoints take "
            f"{100 * fraction:.1f} % of a meta-step."
        )
    for workload in trace.workloads:
        rows = trace.frame[trace.frame["workload"].eq(workload)]
        name = WORKLOADS.get(workload, workload)
        if (share := rows["share"].iloc[0]) < 1:
            notes.append(f"{name}: measured on {100 * share:.0f} % of the tasks, by all engines alike, and scaled.")
        for _, row in rows[~rows["status"].eq("ok")].iterrows():
            notes.append(f"{name}, {ENGINES[row['engine']].name}: {row['status']}.")
        notes += [f"{name}: {note}" for note in dict.fromkeys(rows["notes"]) if note]
    return notes


def _speedup(row: pd.Series | None) -> str:
    if row is None or row["status"] != "ok":
        return "" if row is None else str(row["status"]).partition(":")[0]
    if row["engine"] == REFERENCE:
        return "1"
    return f"{row['speedup']:.2f} [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]"


def _number(value: float, how: str, unit: str = "") -> str:
    return f"{value:{how}}{unit}" if np.isfinite(value) else ""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(num_cells: int) -> str:
    return f"|{'---|' * num_cells}"
