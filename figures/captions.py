"""What captions and titles say of runs: their tasks, length, seeds and versions, and what is missing or lost."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from figures.data import paper_dataset, setting, synthetic_setting
from figures.estimation import Estimate
from figures.paper import CNN_LENGTHS, INPUT_SCALE, LENGTHS, Length
from figures.style import dataset_name, name_of

POINTS_SEEN = {"same": "own points", "fresh": "fresh points", "": ""}
_NORMS = {
    "batch": "batch norm with the statistics of the batch at hand",
    "instance": "batch norm's statistics taken of each example alone",
    "none": "no normalisation",
}


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
        scale = setting(one, "input_scale")
        scaled = "" if scale == INPUT_SCALE else f", standard normal times {scale:g} (paper: {INPUT_SCALE:g})"
        parts = [f"2 classes, {points:,} points a task{scaled}{', ' + seen if seen else ''}; {steps}"]
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


def missing_runs(experiment: str, results: str | Path, study: str) -> str:
    """What makes the runs of an experiment that are missing, and their tables."""
    return (
        f"make them with: python -m core experiment {experiment} --results {results}, "
        f"then: python -m analysis {study} --results {results}"
    )


def heading(dataset: str, config: Mapping[str, Any]) -> tuple[str, float]:
    """A panel's title, and the accuracy of guessing in percent, NaN where that is not known."""
    name = dataset_name(dataset)
    steps = f"{config['steps']} step{'s' if config['steps'] != 1 else ''}"
    if dataset == "synthetic":
        return f"{name}\n{steps}", 50.0
    if pd.isna(config.get("ways")):  # regression, or tasks from outside
        return f"{name}\n{steps}", math.nan
    return f"{name}\n{config['ways']}-way {config['shots']}-shot, {steps}", 100.0 / config["ways"]


def paper_length(config: Mapping[str, Any]) -> Length:
    """How long the paper trained what stands beside a run."""
    lengths = CNN_LENGTHS if config["model"] == "cnn" else LENGTHS
    return lengths[paper_dataset(config["dataset"])]


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
