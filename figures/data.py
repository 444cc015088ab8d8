"""From stored tables to runs that a figure may put together: what is chosen of them, and what they have to share."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.store import read_study, table_paths
from figures.errors import FigureError, MissingTable, unknown_name
from figures.paper import CNN_SETTINGS
from figures.style import DATASETS, name_of

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
SYNTHETIC_DEFAULTS = {"points": 1000, "same_points": True, "input_scale": 0.1}
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
    require_tables(results, study, first)
    frame = read_study(results, study)
    check_columns(frame, ["run", "dataset", "model", "method", "seed", "status", *needed], study)
    provenance = frame.attrs["provenance"]
    configs: dict[str, Mapping[str, Any]] = {}
    for run in frame["run"].unique():
        if run not in provenance:
            raise FigureError(f"no table in {study} is named {run}.parquet, after its run: was it renamed?")
        config = provenance[run].get("config")
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
    """The runs that fit all choices; one of a data set of which there are none here does not concern them.

    Raises:
        FigureError: for an unknown setting or data set.
        MissingTable: for a choice that no run fits.
    """
    for choice in where:
        datasets = sorted({str(config["dataset"]) for config in runs.configs.values()})
        if choice.dataset is not None and choice.dataset not in datasets:
            if choice.dataset in DATASETS:  # which another figure of the same call may show
                continue
            raise unknown_name("dataset", choice.dataset, [*datasets, *DATASETS])
        concerned = {r: c for r, c in runs.configs.items() if choice.dataset in (None, c["dataset"])}
        settings = sorted({key for config in concerned.values() for key in config})
        if choice.key not in settings:
            raise unknown_name("setting", choice.key, settings)
        fitting = {run for run, config in concerned.items() if setting(config, choice.key) == choice.value}
        if not fitting:
            values = sorted({_shown(setting(config, choice.key)) for config in concerned.values()})
            raise MissingTable(f"no run has {choice}; there are runs with {', '.join(values)}")
        runs = runs.where(run for run in runs.configs if run not in concerned or run in fitting)
    return runs


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


def setting(config: Mapping[str, Any], key: str) -> Any:
    """A run's setting, the data set's own where the run leaves it to that; None if there is no such setting."""
    value = config.get(key)
    return SYNTHETIC_DEFAULTS.get(key) if value is None and config["dataset"] == "synthetic" else value


def synthetic_setting(config: Mapping[str, Any]) -> tuple[int, str]:
    """Points of a synthetic run's tasks, and whether its query points are the "same" or "fresh"."""
    return int(setting(config, "points")), "same" if setting(config, "same_points") else "fresh"


def panels_of(
    panel: Callable[[Runs, str, pd.DataFrame | None], Panel | None], runs: Runs, ceilings: pd.DataFrame | None
) -> list[list[Panel]]:
    """The panels of each figure: the synthetic one beside that of each data set of characters; none if neither is."""
    synthetic = panel(runs, "synthetic", ceilings)
    left = [] if synthetic is None else [synthetic]
    characters = [found for name in OMNIGLOT_LIKE if (found := panel(runs, name, None)) is not None]
    return [[*left, other] for other in characters] or ([left] if left else [])


def paper_dataset(dataset: str) -> str:
    """The paper's data set that ours stands beside."""
    return "omniglot" if dataset in OMNIGLOT_LIKE else dataset


def require_tables(results: str | Path, study: str, first: str = "") -> None:
    """See that a study has a table; `first` is what has to be typed before the study, for the message.

    Raises:
        MissingTable: if it has none.
    """
    if not table_paths(results, study):
        command = f"python -m analysis {study} --results {results}"
        make = f"{first}, then: {command}" if first else command
        raise MissingTable(f"no table in {Path(results) / study}; make it with: {make}")


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
