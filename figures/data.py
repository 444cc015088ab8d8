"""From stored tables to estimates: which runs a figure may put together, and what they say, in percent.

Two kinds of repetition are kept apart. The mean and the single dots are of runs, one a seed; the interval is over test
tasks, within these runs. A run with a diverged loss is counted and named, and never averaged in.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.statistics import KINDS, Interval, interval, seed_spread, task_interval
from analysis.store import read_study
from figures.errors import FigureError, MissingTable, unknown_name
from figures.paper import CNN_LENGTHS, CNN_SETTINGS, LENGTHS, Length
from figures.style import CEILINGS, dataset_name, name_of

Panel = TypeVar("Panel")

# The linear models of the paper, in its order.
LINEAR = (("lr", "maml"), ("linnet", "maml"), ("lr", "klin"), ("lr", "kfc"))
# Data sets on which the paper's Omniglot experiment can be run, the paper's own first.
OMNIGLOT_LIKE = ("omniglot", "omniglot_small", "glyphs")
# Data sets of the nonlinear experiments.
IMAGES = (*OMNIGLOT_LIKE, "cifar_fs", "mini_imagenet")
# What the paper's linear experiments fix; runs with other settings are of other experiments, and are left out.
_SYNTHETIC_SETTING = {"steps": 1}
_IMAGE_SETTING = {"ways": 5, "shots": 1, "steps": 2}
# Settings that a run may leave to the data set or the model, and what it then has. Tests hold them against `core`.
SYNTHETIC_DEFAULTS = {"points": 1000, "same_points": True}
CNN_DEFAULTS = {"depth": 4, "filters": 64, "norm_mode": "batch", "downsample": "stride"}
# What the models of one panel have to share; lengths and learning rates are each method's own.
_TASK_SETTINGS = (
    "ways",
    "shots",
    "query_shots",
    "rotations",
    "normalize",
    "endless",
    "points",
    "input_scale",
    "same_points",
    "steps",
    "adapted",
    "dataset_fingerprint",
)
# And of the convolutional networks of one panel, which are compared with one another: a longer training, or another
# network of as many layers, would pass for the merit of a method.
_CNN_SHARED = (
    *_TASK_SETTINGS, "iterations", "tasks_per_iteration", "meta_optimizer", "first_order", "lr_scope", "filters",
    "bias", "norm_mode", "downsample",
)  # fmt: skip
# What tells networks of as many layers apart, and the tasks of one data set: where a bound of no run says so of itself,
# it is that of the runs that agree.
_OF_A_BOUND = (
    "ways", "shots", "query_shots", "rotations", "normalize", "endless", "filters", "bias", "norm_mode", "downsample",
)  # fmt: skip
# What a method may set for each depth of its own.
_OF_A_DEPTH = {"depth", "adapt_lr", "meta_lr", "seed", "eval_every", "eval_tasks"}
_NORMS = {
    "batch": "batch norm with the statistics of the batch at hand",
    "instance": "batch norm's statistics taken of each example alone",
    "none": "no normalisation",
}
POINTS_SEEN = {"same": "own points", "fresh": "fresh points", "": ""}


@dataclass(frozen=True)
class Where:
    """A choice of runs: those of `dataset` (None: of all) whose configuration has `key` at `value`."""

    dataset: str | None
    key: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> "Where":
        """Read `[DATASET:]KEY=VALUE`, the value as JSON or else as a word.

        Raises:
            FigureError: if there is no `KEY=VALUE`.
        """
        left, equals, right = text.partition("=")
        dataset, colon, key = left.rpartition(":")
        if not equals or not key or not right or (colon and not dataset):
            raise FigureError(f"a choice of runs is [DATASET:]KEY=VALUE, such as glyphs:iterations=600, not {text!r}")
        try:
            value = json.loads(right)
        except (ValueError, RecursionError):
            value = right
        return cls(dataset or None, key, value)

    def __str__(self) -> str:
        return f"{self.dataset + ':' if self.dataset else ''}{self.key}={_shown(self.value)}"


@dataclass(frozen=True)
class Runs:
    """The rows of a study, and the configuration of each run in them; each run has a table of its own.

    A configuration has two entries more, of the table: `dataset_fingerprint` and `code_version`.
    """

    frame: pd.DataFrame
    configs: Mapping[str, Mapping[str, Any]]
    study: str

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that the rows are from: study/id."""
        return tuple(f"{self.study}/{run}" for run in self.configs)

    def where(self, keep: Iterable[str]) -> "Runs":
        """Only these runs."""
        kept = set(keep)
        frame = self.frame[self.frame["run"].isin(kept)]
        return Runs(frame, {run: config for run, config in self.configs.items() if run in kept}, self.study)


@dataclass(frozen=True)
class Estimate:
    """What the runs of one model, method and data set say, in percent.

    Attributes:
        model, method: what was trained.
        mean: mean over seeds of the runs' mean accuracies, NaN if all diverged.
        std: their standard deviation (ddof 1), NaN for one seed.
        low, high: ends of the interval over test tasks, NaN if there is none.
        interval: what kind of interval that is, in words; empty if it has no length.
        seeds: (seed, mean accuracy) of each run that is averaged.
        num_tasks: test tasks of each run.
        lost: (run, what happened) of each run that is not averaged.
        configs: configuration of every run, lost ones included.
        level: confidence level of the interval, 0.95 for 95 %; NaN if there is none.
        tables: the tables of all these runs, study/id.
    """

    model: str
    method: str
    mean: float
    std: float
    low: float
    high: float
    interval: str
    seeds: tuple[tuple[int, float], ...]
    num_tasks: int
    lost: tuple[tuple[str, str], ...]
    configs: tuple[Mapping[str, Any], ...]
    level: float = math.nan
    tables: tuple[str, ...] = ()

    @property
    def layers(self) -> int | None:
        """Convolutional layers, None for linear models."""
        return self.configs[0].get("depth")

    @property
    def name(self) -> str:
        """Model and method, on paper."""
        return name_of(self.model, self.method, self.layers)

    @property
    def lost_text(self) -> str:
        """Such as "3 of 5 diverged"; empty if no run was lost."""
        return lost_text(self.lost, len(self.seeds))


@dataclass(frozen=True)
class Ceiling:
    """Accuracy of a classifier that is no run, in percent, with its interval over test tasks; `tables` are study/id."""

    name: str
    evaluated_on: str
    mean: float
    low: float
    high: float
    interval: str
    num_tasks: int
    tables: tuple[str, ...]


def check_columns(frame: pd.DataFrame, needed: Sequence[str], table: str) -> None:
    """Refuse a table that lacks a column.

    Raises:
        FigureError: naming the missing columns.
    """
    if missing := [name for name in needed if name not in frame.columns]:
        raise FigureError(f"table {table} lacks column {', '.join(missing)}")


def read_runs(
    results: str | Path, study: str, needed: Sequence[str], where: Sequence[Where] = (), *, first: str = ""
) -> Runs:
    """The tables of a study of runs, less the runs that `where` leaves out.

    Args:
        results: folder of results.
        study: name of the study.
        needed: columns that the figure uses.
        where: choices of runs; those of other data sets do not concern a run.
        first: what has to be typed before the study, for the message.

    Raises:
        MissingTable: if there is no table.
        FigureError: for a missing column or configuration, or a choice that no run fits.
        StudyError: for a damaged table.
    """
    _must_exist(results, study, first)
    frame = read_study(results, study)
    check_columns(frame, ["run", "dataset", "model", "method", "seed", "status", *needed], study)
    provenance = frame.attrs["provenance"]
    configs: dict[str, Mapping[str, Any]] = {}
    for run in frame["run"].unique():
        config = provenance.get(run, {}).get("config")
        if not config:
            raise FigureError(f"table {study}/{run} does not say how the run was configured, so it cannot be labelled")
        if wrong := wrong_settings(config):
            raise FigureError(f"table {study}/{run} does not say as it should how the run was configured: {wrong}")
        stated = {key: value for key, value in config.items() if value is not None}
        whole = {**config, **CNN_DEFAULTS, **stated} if config["model"] == "cnn" else config
        configs[run] = {**whole, **{key: provenance[run][key] for key in ("dataset_fingerprint", "code_version")}}
    frame.attrs.clear()  # pandas copies them, deeply, with every selection
    return choose(Runs(frame, configs, study), where)


# What a configuration has to say, and what the rest of it may be.
_REQUIRED = {"dataset": str, "model": str, "method": str, "seed": int, "steps": int, "iterations": int,
             "tasks_per_iteration": int}  # fmt: skip
_OPTIONAL: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("norm_mode", "downsample", "lr_scope", "meta_optimizer", "own"), (str,)),
    **dict.fromkeys(("ways", "shots", "query_shots", "depth", "filters", "points", "eval_every", "eval_tasks"), (int,)),
    **dict.fromkeys(("adapt_lr", "meta_lr", "input_scale", "init_scale"), (int, float)),
    **dict.fromkeys(("same_points", "first_order", "rotations", "normalize", "endless", "bias"), (bool,)),
}


def wrong_settings(config: Mapping[str, Any]) -> str:
    """The names of settings that a configuration lacks, or that are nothing that they can be; empty if there are none.

    What a table says of its run may be anything, as that of another program; it is compared, counted with and shown.
    """
    wrong = [key for key, kind in _REQUIRED.items() if type(config.get(key)) is not kind]
    for key, value in config.items():
        if value is None or key in _REQUIRED:
            continue
        parts = value if isinstance(value, list) else [value]
        if (
            not all(type(part) in (str, int, float, bool) for part in parts)
            or not key.isprintable()
            or (key in _OPTIONAL and type(value) not in _OPTIONAL[key])
        ):
            wrong.append(key)
    numbers = {key: value for key, value in config.items() if type(value) is int}
    wrong += [key for key, value in numbers.items() if abs(value) >= 1 << 63 or (key != "seed" and value < 0)]
    wrong += [key for key in ("ways", "shots") if config.get(key) == 0]
    return ", ".join(key if key.isprintable() else repr(key) for key in wrong[:10])


def choose(runs: Runs, where: Sequence[Where]) -> Runs:
    """The runs that fit all choices.

    Raises:
        FigureError: for an unknown setting or data set, or a choice that no run fits.
    """
    for choice in where:
        datasets = sorted({str(config["dataset"]) for config in runs.configs.values()})
        if choice.dataset is not None and choice.dataset not in datasets:
            raise unknown_name("dataset", choice.dataset, datasets)
        concerned = {r: c for r, c in runs.configs.items() if choice.dataset in (None, c["dataset"])}
        settings = sorted({key for config in concerned.values() for key in config})
        if choice.key not in settings:
            raise unknown_name("setting", choice.key, settings)
        fitting = {run for run, config in concerned.items() if setting(config, choice.key) == choice.value}
        if not fitting:
            values = sorted({_shown(setting(config, choice.key)) for config in concerned.values()})
            raise FigureError(f"no run has {choice}; there are runs with {', '.join(values)}")
        runs = runs.where(run for run in runs.configs if run not in concerned or run in fitting)
    return runs


def read_ceilings(results: str | Path) -> pd.DataFrame | None:
    """The table `ceilings`, None if it was not made; as `read_named` reads it.

    Raises:
        FigureError: for a missing column.
        StudyError: for a damaged table.
    """
    try:
        _must_exist(results, "ceilings")
    except MissingTable:
        return None
    return read_named(results, "ceilings")


def read_named(results: str | Path, study: str) -> pd.DataFrame:
    """The tables of a study that is of no run, with three more columns of where a row is from.

    They are `table`, study/id, `dataset_fingerprint`, which may be missing, and `config`, what the table says of the
    model and the tasks, as JSON; tables of older versions say nothing of them: "{}".

    Raises:
        StudyError: if there is no table, or for a damaged one.
    """
    frame = read_study(results, study)
    num_rows, provenance = frame.attrs["num_rows"], frame.attrs["provenance"]
    frame.attrs.clear()
    origin = {
        "table": [f"{study}/{id}" for id in num_rows],
        "dataset_fingerprint": [provenance[id].get("dataset_fingerprint") for id in num_rows],
        "config": [json.dumps(provenance[id].get("config") or {}) for id in num_rows],
    }
    return frame.assign(**{key: np.repeat(values, list(num_rows.values())) for key, values in origin.items()})


def is_bound_of(stated: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a bound is of a run's convolutional network and tasks, as far as its table states what they are."""
    whole = {**CNN_DEFAULTS, **stated}
    return not stated or all(whole.get(key) == config.get(key) for key in _OF_A_BOUND)


def ceiling_estimates(frame: pd.DataFrame | None, *, points: int, evaluated_on: str) -> tuple[Ceiling, ...]:
    """The ceilings of synthetic tasks with so many support points; none if they were not measured.

    Args:
        frame: the table `ceilings`, or None.
        points: support points a task.
        evaluated_on: "same" or "fresh".

    Raises:
        FigureError: for a missing column.
    """
    if frame is None:
        return ()
    check_columns(frame, ["dataset", "ceiling", "evaluated_on", "points", "task_seed", "task", "accuracy"], "ceilings")
    fits = frame["dataset"].eq("synthetic") & frame["points"].eq(points) & frame["evaluated_on"].eq(evaluated_on)
    found = []
    for name in CEILINGS:
        # Tables of 100 and of 600 tasks may share their first 100, and a task counts once.
        rows = frame[fits & frame["ceiling"].eq(name)].drop_duplicates(["task_seed", "task"])
        if len(rows):
            over = interval(100 * rows["accuracy"], over="tasks")
            ends, tables = (over.low, over.high, interval_name(over)), tuple(rows["table"].unique())
            found.append(Ceiling(name, evaluated_on, over.mean, *ends, len(rows), tables))
    return tuple(found)


def in_setting(runs: Runs, dataset: str, models: Sequence[tuple[str, str]] = LINEAR) -> Runs:
    """The runs of the paper's linear experiment on `dataset`: its models, ways, shots and steps."""
    fixed = _SYNTHETIC_SETTING if dataset == "synthetic" else _IMAGE_SETTING
    return runs.where(
        run
        for run, config in runs.configs.items()
        if config["dataset"] == dataset
        and (config["model"], config["method"]) in models
        and all(config.get(key) == value for key, value in fixed.items())
    )


def by_method(runs: Runs, models: Sequence[tuple[str, str]] = LINEAR) -> dict[tuple[str, str], Runs]:
    """Runs of one data set by (model, method), in the order of `models`; those of a group differ in their seed only.

    Raises:
        FigureError: if runs of a group differ in another setting, such as their length, or if groups differ in the
            tasks: they are not one experiment.
    """
    groups = {}
    _must_agree(runs, _TASK_SETTINGS)
    for model, method in models:
        group = runs.where(r for r, c in runs.configs.items() if (c["model"], c["method"]) == (model, method))
        if group.configs:
            _must_agree(group)
            groups[model, method] = group
    return groups


def by_depth(
    runs: Runs, dataset: str, models: Sequence[tuple[int, str]], *, of_any_length: bool = False
) -> dict[tuple[int, str], Runs]:
    """Runs of the paper's nonlinear experiment on `dataset` by (layers, method), in the order of `models`.

    Args:
        runs: runs of any experiments.
        dataset: its name in the tables.
        models: convolutional layers and method of each.
        of_any_length: whether models may differ in their iterations, for figures that show these.

    Raises:
        FigureError: if the runs of one (layers, method) differ in more than their seed, those of one method in more
            than their depth and learning rates, or any in the tasks, the network, or how long they were trained.
    """
    fixed = CNN_SETTINGS[paper_dataset(dataset)]
    chosen = runs.where(
        run
        for run, config in runs.configs.items()
        if config["dataset"] == dataset
        and config["model"] == "cnn"
        and (config.get("depth"), config["method"]) in models
        and all(config.get(key) == value for key, value in fixed.items())
    )
    free = {"iterations"} if of_any_length else set()
    _must_agree(chosen, [key for key in _CNN_SHARED if key not in free])
    settings = {key for config in chosen.configs.values() for key in config}
    for name in {method: None for _, method in models}:
        of_method = chosen.where(r for r, c in chosen.configs.items() if c["method"] == name)
        _must_agree(of_method, sorted(settings - _OF_A_DEPTH - free))
    groups = {}
    for layers, method in models:
        group = chosen.where(r for r, c in chosen.configs.items() if (c["depth"], c["method"]) == (layers, method))
        if group.configs:
            _must_agree(group)
            groups[layers, method] = group
    return groups


def estimate(group: Runs, points_seen: str = "") -> Estimate | None:
    """Query accuracy after the last adaptation step.

    Args:
        group: runs of one model, method and data set, which differ in their seed only, of a study of accuracy by task.
        points_seen: "same" or "fresh" for synthetic tasks, "" for others.

    Returns:
        The estimate, None if no run was measured on such points.

    Raises:
        StudyError: if the runs did not meet the same test tasks.
    """
    frame = group.frame
    if "points_seen" in frame:  # a column of `post_adaptation`, which alone has synthetic tasks
        frame = frame[frame["points_seen"].eq(points_seen)]
    if not len(frame):
        return None
    configs = tuple(group.configs[run] for run in frame["run"].unique())
    lost, percent = lost_runs(frame, ["task_seed", "task"]), final_accuracies(frame)
    model, method = configs[0]["model"], configs[0]["method"]
    num_tasks = len(percent[["task_seed", "task"]].drop_duplicates())
    tables = tuple(f"{group.study}/{run}" for run in frame["run"].unique())
    if not len(percent):
        nothing = (math.nan,) * 4
        return Estimate(model, method, *nothing, "", (), num_tasks, lost, configs, tables=tables)
    spread, over = seed_spread(percent), task_interval(percent)
    means = percent.groupby("seed")["accuracy"].mean()
    seeds = tuple((int(seed), float(mean)) for seed, mean in means.items())  # type: ignore[call-overload]  # int keys
    ends = (over.low, over.high, interval_name(over))
    return Estimate(model, method, spread.mean, spread.std, *ends, seeds, num_tasks, lost, configs, over.level, tables)


def final_accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """The query rows after the last adaptation step, in percent, of the runs that did not diverge or fail."""
    bad = [run for run, _ in lost_runs(frame, ["task_seed", "task"])]
    last = frame[~frame["run"].isin(bad) & frame["split"].eq("query") & frame["step"].eq(frame["steps"])]
    return last.assign(accuracy=100 * last["accuracy"])


def interval_name(over: Interval) -> str:
    """What kind of interval it is, without the count that captions state once; empty if it is a point or none."""
    if over.kind == "none" or over.low == over.high:
        return ""
    return f"{100 * over.level:g} % {KINDS[over.kind]} interval over test {over.over}"


def interval_label(estimates: Iterable[Estimate]) -> str:
    """The whisker's name in a legend, whose caption says the kind; empty if none of them has an interval."""
    levels = sorted({e.level for e in estimates if e.interval})
    return f"{' or '.join(f'{100 * level:g} %' for level in levels)} interval over tasks" if levels else ""


def lost_runs(frame: pd.DataFrame, repetition: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(run, what happened) of each run with a row that is not ok, in order of their names.

    Args:
        frame: rows of runs.
        repetition: columns that name what a status may belong to, such as the task; a run of which some are ok says
            how many are not.
    """
    found = []
    for run, rows in frame.groupby("run", observed=True):
        bad = rows[rows["status"].ne("ok")]
        if len(bad):
            what = str(bad["status"].iloc[0])
            num_bad, num_all = (len(part[list(repetition)].drop_duplicates()) for part in (bad, rows))
            found.append((str(run), what if num_bad == num_all else f"{what} on {num_bad} of {num_all} tasks"))
    return tuple(found)


def lost_text(lost: Sequence[tuple[str, str]], num_good: int) -> str:
    """Such as "3 of 5 diverged", or "diverged in part" where only on some tasks; empty if no run was lost."""
    counts: dict[str, int] = {}
    for _, what in lost:
        word = "failed" if not what.startswith("diverged") else "diverged"
        word += " in part" if what.endswith(" tasks") else ""
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} of {len(lost) + num_good} {word}" for word, count in counts.items())


def setting(config: Mapping[str, Any], key: str) -> Any:
    """A run's setting, the data set's own where the run leaves it to that; None if there is no such setting."""
    value = config.get(key)
    return SYNTHETIC_DEFAULTS.get(key) if value is None and config["dataset"] == "synthetic" else value


def synthetic_setting(config: Mapping[str, Any]) -> tuple[int, str]:
    """Points of a synthetic run's tasks, and whether its query points are the "same" or "fresh"."""
    return int(setting(config, "points")), "same" if setting(config, "same_points") else "fresh"


def describe(dataset: str, estimates: Sequence[Estimate], points_seen: str = "") -> str:
    """What a caption says of a data set: the tasks, the length against the paper's, seeds and test tasks."""
    return describe_runs(
        dataset,
        {e.name: e.configs for e in estimates},
        points_seen=points_seen,
        tasks=f"{in_words(e.num_tasks for e in estimates if e.seeds)} test tasks",
        num_tasks=max((e.num_tasks for e in estimates), default=0),
    )


def describe_runs(
    dataset: str,
    configs: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    points_seen: str,
    tasks: str,
    num_tasks: int,
) -> str:
    """As `describe`, from configurations by name; `tasks` is how the test tasks are worded."""
    one = next(iter(configs.values()))[0]
    steps = f"{one['steps']} adaptation step{'s' if one['steps'] != 1 else ''}"
    if dataset == "synthetic":
        points, _ = synthetic_setting(one)
        seen = {"same": "measured on the points adapted to", "fresh": "measured on fresh points"}.get(points_seen, "")
        parts = [f"2 classes, {points:,} points a task{', ' + seen if seen else ''}; {steps}"]
    else:
        parts = [f"{one['ways']}-way {one['shots']}-shot, {steps}"]
    length = paper_length(one)
    iterations = {name: group[0]["iterations"] for name, group in configs.items()}
    parts.append(f"{_by_method(iterations)} iterations ({_against(set(iterations.values()), length.iterations)})")
    batch = {name: group[0]["tasks_per_iteration"] for name, group in configs.items()}
    if length.iterations is None:
        parts.append(
            f"{_by_method(batch)} tasks an iteration ({_against(set(batch.values()), length.tasks_per_iteration)})"
        )
    elif set(batch.values()) != {length.tasks_per_iteration}:
        parts.append(f"{_by_method(batch)} tasks an iteration (paper: {length.tasks_per_iteration})")
    seeds = {name: len(group) for name, group in configs.items()}
    parts.append(f"{_by_method(seeds)} seed{'s' if set(seeds.values()) != {1} else ''}")
    parts.append(tasks + (f" (paper: {length.test_tasks})" if length.test_tasks not in (None, num_tasks) else ""))
    told = describe_versions(config for group in configs.values() for config in group)
    return " ".join([f"{dataset_name(dataset)}: {'; '.join(parts)}.", *told])


def describe_versions(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The caption's sentence on tables that several versions of the code made; none if one made all."""
    counts = Counter(str(config["code_version"]) for config in configs if config.get("code_version"))
    if len(counts) < 2:
        return []
    named = [f"{version[:9]}{version[40:]} ({count})" for version, count in sorted(counts.items())]
    return [f"Tables of {len(counts)} versions of the code: {', '.join(named)}."]


def describe_missing(dataset: str, wanted: Iterable[tuple[str, str]], found: Iterable[tuple[str, str]]) -> list[str]:
    """The caption's sentence on models and methods that were not measured on a data set; none if all were."""
    there = set(found)
    absent = [name_of(model, method, None) for model, method in wanted if (model, method) not in there]
    return [f"Not measured on {dataset_name(dataset)}: {', '.join(absent)}."] if absent else []


def in_words(numbers: Iterable[int]) -> str:
    """One number if all are equal, else the range of them."""
    found = sorted(set(numbers))
    if not found:
        return "0"
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def written(value: float, form: str) -> str:
    """A number as `form` has it, with a true minus, and none (and no plus) where it rounds to zero."""
    text = format(value, form)
    if float(text) == 0:
        return text.lstrip("+-")
    return f"−{text[1:]}" if text.startswith("-") else text


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign."""
    return written(value, f"+.{digits}f")


def describe_norm(config: Mapping[str, Any]) -> list[str]:
    """The caption's sentence on a network's normalisation, on which accuracies depend; none if it has no word."""
    known = _NORMS.get(config.get("norm_mode") or "")
    return [f"Normalisation: {known}."] if known else []


def describe_absent(wanted: Iterable[tuple[int, str]], found: Iterable[tuple[int, str]]) -> list[str]:
    """The caption's sentence on convolutional networks (layers, method) that were not measured; none if all were."""
    there = set(found)
    absent = [name_of("cnn", method, layers) for layers, method in wanted if (layers, method) not in there]
    return [f"Not measured: {', '.join(absent)}."] if absent else []


def describe_lost(lost: Iterable[tuple[str, str]]) -> list[str]:
    """The caption's paragraph on runs that are not averaged in; none if there are none."""
    named = [f"{run} ({what})" for run, what in dict.fromkeys(lost)]
    return [f"Not averaged in: {', '.join(named)}."] if named else []


def paper_label(datasets: Sequence[str]) -> str:
    """How the paper's values are called beside panels of these data sets, left to right."""
    other = [d for d in datasets if d != paper_dataset(d)]
    if not other:
        return "paper"
    return "paper (full Omniglot)" if len(datasets) == len(other) else "paper (right: full Omniglot)"


def missing_cnns(experiment: str, results: str | Path, study: str, dataset: str = "glyphs") -> str:
    """What makes the runs of convolutional networks that are missing, and their tables."""
    return (
        f"make them with: python -m core experiment {dataset}_{experiment} --results {results}, "
        f"then: python -m analysis {study} --results {results}"
    )


def missing_runs(dataset: str, results: str | Path, study: str) -> str:
    """What makes the runs and the tables that are missing."""
    return (
        f"make them with: python -m core experiment {dataset}_linear --results {results}, "
        f"then: python -m analysis {study} --results {results}"
    )


def panels_of(
    panel: Callable[[Runs, str, pd.DataFrame | None], Panel | None], runs: Runs, ceilings: pd.DataFrame | None
) -> list[list[Panel]]:
    """The panels of each figure: the synthetic one beside that of each data set of characters; none if neither is."""
    synthetic = panel(runs, "synthetic", ceilings)
    left = [] if synthetic is None else [synthetic]
    characters = [found for name in OMNIGLOT_LIKE if (found := panel(runs, name, None)) is not None]
    return [[*left, other] for other in characters] or ([left] if left else [])


def heading(dataset: str, config: Mapping[str, Any]) -> tuple[str, float]:
    """A panel's title, and the accuracy of guessing in percent, NaN where that is not known."""
    name = dataset_name(dataset)
    steps = f"{config['steps']} step{'s' if config['steps'] != 1 else ''}"
    if dataset == "synthetic":
        return f"{name}\n{steps}", 50.0
    if pd.isna(config.get("ways")):  # regression, or tasks from outside
        return f"{name}\n{steps}", math.nan
    return f"{name}\n{config['ways']}-way {config['shots']}-shot, {steps}", 100.0 / config["ways"]


def paper_dataset(dataset: str) -> str:
    """The paper's data set that ours stands beside."""
    return "omniglot" if dataset in OMNIGLOT_LIKE else dataset


def paper_length(config: Mapping[str, Any]) -> Length:
    """How long the paper trained what stands beside a run."""
    lengths = CNN_LENGTHS if config["model"] == "cnn" else LENGTHS
    return lengths[paper_dataset(config["dataset"])]


def _must_exist(results: str | Path, study: str, first: str = "") -> None:
    folder = Path(results) / study
    if not any(not path.name.startswith(".") for path in folder.glob("*.parquet")):
        command = f"python -m analysis {study} --results {results}"
        raise MissingTable(f"no table in {folder}; make it with: {first + ', then: ' if first else ''}{command}")


def belong_together(studies: Iterable[Runs]) -> None:
    """See that the runs of several studies differ in nothing but their seed, within each and from one to another.

    Raises:
        FigureError: naming the setting in which they differ.
    """
    first: dict[str, Mapping[str, Any]] = {}
    others: dict[str, Mapping[str, Any]] = {}
    for runs in studies:
        _must_agree(runs)
        for run, config in runs.configs.items():
            # A run is in two studies by right, but not on other data.
            if first.setdefault(run, config)["dataset_fingerprint"] != config["dataset_fingerprint"]:
                others[f"{runs.study}/{run}"] = config
    _must_agree(Runs(pd.DataFrame(), first | others, ""))


def alike(runs: Runs) -> Runs:
    """The same runs, once they are seen to differ in nothing but their seed.

    Raises:
        FigureError: naming the setting in which they differ.
    """
    _must_agree(runs)
    return runs


def _must_agree(group: Runs, keys: Sequence[str] | None = None) -> None:
    """Refuse runs that differ in one of `keys`; by default in anything but their seed, in which they have to.

    Versions of the code may differ, and are named by `describe_versions`.
    """
    configs = group.configs
    if keys is None:
        seeds: dict[int, str] = {}
        for run, config in configs.items():
            if (other := seeds.setdefault(config["seed"], run)) != run:
                others = {key for key in config if setting(config, key) != setting(configs[other], key)}
                if not others - {"code_version"}:
                    raise FigureError(
                        f"{other} and {run} are one run, with seed {config['seed']}, and would count twice"
                    )
    every = sorted({key for config in configs.values() for key in config} - {"seed"}) if keys is None else keys
    for key in [key for key in every if key != "code_version"]:
        values: dict[str, list[str]] = {}
        for run, config in configs.items():
            values.setdefault(_shown(setting(config, key)), []).append(run)
        if len(values) > 1:
            one = next(iter(configs.values()))
            told = "; ".join(f"{value}: {', '.join(runs)}" for value, runs in sorted(values.items()))
            looks = dict.fromkeys(name_of(c["model"], c["method"], c.get("depth")) for c in configs.values())
            raise FigureError(
                f"runs of {', '.join(looks)} on {one['dataset']} differ in {key} and do not belong together ({told}); "
                f"choose with --where {one['dataset']}:{key}=VALUE"
            )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _by_method(values: Mapping[str, int]) -> str:
    """One number if all methods agree, else each method's."""
    if len(set(values.values())) == 1:
        return f"{next(iter(values.values())):,}"
    return ", ".join(f"{name} {value:,}" for name, value in values.items())


def _against(ours: set[int], paper: int | None) -> str:
    if paper is None:
        return "paper: not stated"
    if ours == {paper}:
        return "as in the paper"
    return f"{'reduced; ' if max(ours) < paper else ''}paper: {paper:,}"
