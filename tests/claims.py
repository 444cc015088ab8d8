"""What README.md and results/README.md claim of results, each with how it follows from the tables of record.

A claim is a piece of the text with `{}` for each number, and a function that computes them; a claim without numbers
("costs nothing") has a function that says whether it holds. Numbers are taken from the tables by plain pandas, or by
what the figures draw where that has the interval, too.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis import read_study
from analysis.statistics import Interval, interval, paired_task_interval, task_interval
from analysis.when_shallow_fails import centre, predicted_accuracy, predicted_start
from core import load_run
from core.experiments import experiment
from core.side_by_side import CHECKPOINT_SECONDS
from figures import (
    adaptation_path,
    fig2,
    fig3,
    inside_optimizer,
    label_permutation,
    loss_line,
    similarity,
    table2,
)
from figures.paper import CNN_LENGTHS, CNN_PARAMETERS, LENGTHS, PUBLISHED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
LONGER, LONGEST = "longer/", "longest/"
README, RECORD = "README.md", "results/README.md"
OMNIGLOT, GLYPHS = "omniglot_small", "glyphs"
NOTHING = 0.5  # points that "nothing" stands for: the largest end of an interval is 0.5


@dataclass(frozen=True)
class Claim:
    """A piece of a text, and what it has to agree with.

    Attributes:
        file: the text.
        words: the piece, `{}` for each number; white space counts as one space.
        numbers: what the numbers are, in order, compared to the digits shown; or, of a claim without any, whether it
            holds.
    """

    file: str
    words: str
    numbers: Callable[[], Sequence[float] | bool]


# --- where the numbers are


def read(name: str) -> pd.DataFrame:
    """All tables of a study, or of one in a folder beside, such as `longer/depth_sweep`, with their provenance."""
    folder, _, alone = name.rpartition("/")
    return read_study(RESULTS / folder, alone)


@cache
def study(name: str) -> pd.DataFrame:
    """The tables that `read` has, read once."""
    table = read(name)
    table.attrs.clear()  # pandas copies them, deeply, with every selection
    return table


@cache
def seconds(name: str) -> dict[str, float]:
    """How long each table of a study took, by its run."""
    provenance = read_study(RESULTS, name).attrs["provenance"]
    return {table: one["wall_seconds"] for table, one in provenance.items()}


@cache
def configs(name: str, dataset: str) -> list[dict[str, Any]]:
    """The configurations of the runs that a study measured on a data set; of a folder beside as `study`."""
    provenance = read(name).attrs["provenance"].values()
    return [one["config"] for one in provenance if one["config"]["dataset"] == dataset]


def length(name: str, dataset: str) -> tuple[int, int, int]:
    """Iterations, seeds and test tasks of the runs that a study measured on a data set."""
    found, table = configs(name, dataset), study(name)
    (iterations,) = {config["iterations"] for config in found}
    seeds = {config["seed"] for config in found}
    return iterations, len(seeds), table.loc[table["dataset"].eq(dataset), "task"].nunique()


def cnn_lengths() -> tuple[int, int, int]:
    """`length` of the convolutional networks, the same on both data sets."""
    (found,) = {
        length(name, dataset) for name in ("depth_sweep", "optimizer_comparison") for dataset in (OMNIGLOT, GLYPHS)
    }
    return found


def full(*settings: str) -> set[Any]:
    """What the runs of the synthetic experiment have, as `make reproduce` trains it."""
    found, _ = experiment("synthetic_linear", "quick")
    return {tuple(getattr(c, name) for name in settings) if settings[1:] else getattr(c, settings[0]) for c in found}


def hours(dataset: str) -> float:
    """What measuring the convolutional networks on a data set took, by the tables."""
    studies = (
        "depth_sweep", "optimizer_comparison", "upper_bound", "layer_roles", "fc_noise", "similarity",
        "adaptation_path", "loss_line", "label_permutation",
    )  # fmt: skip
    return sum(s for name in studies for table, s in seconds(name).items() if table.startswith(dataset)) / 3600


def megabytes_not_kept() -> float:
    """Of the weights of the convolutional networks that were measured, without those that are kept."""
    runs = pd.concat([study("depth_sweep"), study("optimizer_comparison")]).drop_duplicates("run")
    runs = runs[~runs["run"].isin([path.name for path in (RESULTS / "runs").iterdir()])]
    return float(4 * (runs["model_parameters"] + runs["rule_parameters"]).sum() / 1e6)


def run_seconds(run: str) -> float:
    """How long a kept run was trained."""
    return float(json.loads((RESULTS / "runs" / run / "run.json").read_text())["wall_seconds"])


def ends(over: Interval, sign: int = 1) -> tuple[float, float, float]:
    """Mean, lower and upper end; with sign -1 those of the number with the other sign."""
    low, high = (over.low, over.high)[::sign]
    return sign * over.mean, sign * low, sign * high


def published(source: str, model: str, method: str, layers: int = 0, dataset: str = "omniglot") -> float:
    asked = (source, dataset, model, method, layers)
    return next(p.accuracy for p in PUBLISHED if (p.source, p.dataset, p.model, p.method, p.layers) == asked)


def final(name: str, dataset: str, model: str, method: str, layers: int | None = None) -> pd.DataFrame:
    """Query accuracy in percent after the last step, of the runs that did not diverge."""
    table = study(name)
    rows = table[table["dataset"].eq(dataset) & table["model"].eq(model) & table["method"].eq(method)]
    rows = rows[rows["layers"].eq(layers)] if layers else rows
    rows = rows[~rows["run"].isin(rows.loc[rows["status"].ne("ok"), "run"])]
    rows = rows[rows["split"].eq("query") & rows["step"].eq(rows["steps"])]
    if dataset == "synthetic":
        rows = rows[rows["points_seen"].eq("same")]
    return rows.assign(accuracy=100 * rows["accuracy"])


def of_seeds(rows: pd.DataFrame) -> "pd.Series[float]":
    """Mean accuracy of each seed."""
    return rows.groupby("seed")["accuracy"].mean()


def linear(dataset: str, model: str, method: str = "maml") -> Interval:
    return task_interval(final("post_adaptation", dataset, model, method))


BEST_FIRST = ("kfc", "meta_curvature", "meta_sgd", "maml")  # in Table 2 of the paper
BETWEEN = ("meta_curvature", "meta_sgd")  # the best and MAML


def of_two(method: str, dataset: str, folder: str = "") -> pd.DataFrame:
    """`final` of the CNNs of two layers."""
    return final(f"{folder}optimizer_comparison", dataset, "cnn", method)


def one_of_two(method: str, dataset: str, folder: str = "") -> float:
    """Their mean accuracy."""
    return float(of_two(method, dataset, folder)["accuracy"].mean())


def by_seed(method: str, dataset: str) -> "pd.Series[float]":
    """Their mean accuracies."""
    return of_seeds(of_two(method, dataset))


def lead(better: str, worse: str, dataset: str, folder: str = "") -> tuple[float, float, float]:
    """Points between them, paired by task."""
    return ends(paired_task_interval(of_two(better, dataset, folder), of_two(worse, dataset, folder)))


def best_first(*numbers: float) -> bool:
    return list(numbers) == sorted(numbers, reverse=True)


@cache
def ceiling(name: str, evaluated_on: str) -> Interval:
    table = study("ceilings")
    rows = table[table["ceiling"].eq(name) & table["evaluated_on"].eq(evaluated_on) & table["points"].eq(1000)]
    return interval(100 * rows["accuracy"])


def handwriting_curves(model: str, method: str, split: str, value: str = "accuracy") -> pd.DataFrame:
    """Of linear models on handwriting, by iteration and seed."""
    table = study("training_curves")
    rows = table[table["dataset"].eq(OMNIGLOT) & table["model"].eq(model) & table["method"].eq(method)]
    return rows[rows["split"].eq(split)].pivot(index="iteration", columns="seed", values=value)


def handwriting_curve(model: str, method: str, split: str, value: str = "accuracy") -> "pd.Series[float]":
    """Of linear models on handwriting, means over seeds, by iteration."""
    return handwriting_curves(model, method, split, value).mean(axis=1)


def best_of_curve(model: str, method: str) -> tuple[float, int]:
    """The best test accuracy, in percent, and its iteration."""
    accuracies = handwriting_curve(model, method, "test")
    return 100 * accuracies.max(), int(accuracies.idxmax())


def at_the_end(model: str, method: str, split: str) -> float:
    """Accuracy in percent."""
    return 100 * float(handwriting_curve(model, method, split).iloc[-1])


def stopped_early(model: str, method: str) -> float:
    """Test accuracy, in percent, of runs that are each stopped where their validation loss is least."""
    least = handwriting_curves(model, method, "validation", "loss").idxmin()
    accuracies = handwriting_curves(model, method, "test")
    return 100 * float(np.mean([accuracies.loc[at, seed] for seed, at in least.items()]))


def along_seeds(value: str, folder: str = "") -> pd.DataFrame:
    """Of KLin on glyphs, by iteration and seed, on the test split."""
    table = study(f"{folder}training_curves")
    rows = table[table["dataset"].eq(GLYPHS) & table["method"].eq("klin") & table["split"].eq("test")]
    return rows.pivot(index="iteration", columns="seed", values=value)


# Settings of the paper, which a cell of `when_shallow_fails` has where nothing else is said.
_PAPER = {"input_scale": 0.1, "meta_lr": 0.01, "points": 1000, "init_scale": 1.0, "iterations": 3000}
_OWN = {"lr": {"adapt_lr": 0.5}, "linnet": {"adapt_lr": 1.9, "meta_lr": 1.9}}


def cell(model: str, evaluated_on: str = "fresh", **moved: float) -> pd.DataFrame:
    """The rows of one cell, in percent, of runs that did not diverge."""
    table = study("when_shallow_fails")
    rows = table[table["model"].eq(model) & table["evaluated_on"].eq(evaluated_on)]
    for name, value in {**_PAPER, **_OWN[model], **moved}.items():
        rows = rows[np.isclose(rows[name], value, rtol=1e-3)]
    assert len(rows), moved
    rows = rows[rows["status"].eq("ok")]
    return rows.assign(
        accuracy=100 * rows["accuracy"],
        predicted_accuracy=100 * rows["predicted_accuracy"],
        mean_classifier=100 * rows["mean_classifier"],
        run=rows["seed"],
    )


def at(model: str, evaluated_on: str = "fresh", **moved: float) -> tuple[float, float, float]:
    return ends(task_interval(cell(model, evaluated_on, **moved)))


def fails(model: str, column: str, **moved: float) -> float:
    return float(cell(model, **moved)[column].mean())


@cache
def cells(model: str) -> pd.DataFrame:
    """Means of every cell of a model, NaN where all runs diverged."""
    table = study("when_shallow_fails")
    by = ["input_scale", "adapt_lr", "meta_lr", "points", "init_scale", "iterations"]
    rows = table[table["model"].eq(model) & table["evaluated_on"].eq("fresh")]
    columns = ["accuracy", "predicted_accuracy", "predicted_start", "start_size", "mean_classifier"]
    found = rows.groupby(by)[columns].mean().reset_index()
    return found.assign(below=100 * (found["predicted_accuracy"] - found["accuracy"]))


def missed() -> pd.DataFrame:
    """The settings of LinNet whose starts have logits above 5, with 1,000 points."""
    found = cells("linnet")
    return found[found["start_size"].gt(5) & found["points"].eq(1000)]


def shallow_ceiling(column: str) -> tuple[float, float, float]:
    """Accuracy of a ceiling on the test tasks of 1,000 points, each task once."""
    table = study("when_shallow_fails")
    rows = table[table["evaluated_on"].eq("fresh") & table["points"].eq(1000)].drop_duplicates("task")
    return ends(interval(100 * rows[column]))


def ceiling_gap(points: int) -> float:
    """Points that LinNet stays below the mean classifier."""
    return fails("linnet", "mean_classifier", points=points) - fails("linnet", "accuracy", points=points)


def mean_classifier_in_closed_form(points: int, dimension: int = 100) -> float:
    """1 - phi / pi: the mean of y z is sqrt(2 / pi) along the truth, and noise across it."""
    return 1 - math.atan(math.sqrt((dimension - 1) / points) / math.sqrt(2 / math.pi)) / math.pi


def recursion_misses() -> float:
    """The largest relative error of the start of LR that the recursion predicts, where it may be asked."""
    found = cells("lr")
    found = found[(found["adapt_lr"] * found["input_scale"] ** 2).le(0.5)]
    return float((found["predicted_start"] / found["start_size"] - 1).abs().max())


def best_by_recursion() -> float:
    """The best accuracy in percent that LR can have after 30,000 iterations at any outer rate."""
    config, size = centre("lr"), fails("lr", "initial_size")
    longer = [replace(config, meta_lr=rate, iterations=30_000) for rate in np.geomspace(1e-3, 1, 300)]
    start = min(predicted_start(one, size) for one in longer)
    # The step is adapt_lr input_scale^2 |m| / 2, |m| that of the mean classifier.
    step = config.adapt_lr * 0.1**2 * math.sqrt(2 / math.pi + (100 - 2 / math.pi) / 1000) / 2
    turn = torch.tensor([step / start], dtype=torch.float64)
    return 100 * float(predicted_accuracy(turn, mean_classifier_in_closed_form(1000)))


@cache
def roles(dataset: str) -> dict[str, fig2.Mark]:
    """What Figure 2 draws, by intervention; of noise, by its strength."""
    trace = fig2.traces(RESULTS)[f"fig2_{dataset}"]
    assert trace.as_trained is not None
    marks = [trace.as_trained, *trace.frozen, *trace.alone]
    return {mark.name: mark for mark in marks} | {f"noise {mark.std:g}": mark for mark in trace.noise}


def costs(dataset: str, intervention: str) -> tuple[float, float, float]:
    """Points lost, with the paired interval."""
    return ends(roles(dataset)[intervention].against, -1)


def costs_by_seed(dataset: str, intervention: str) -> list[float]:
    """Points lost, by seed, least first."""
    table = study("layer_roles")
    rows = table[table["dataset"].eq(dataset) & table["split"].eq("query") & table["step"].eq(table["steps"])]
    means = rows.astype({"intervention": str}).groupby(["seed", "intervention"])["accuracy"].mean().unstack()
    return sorted(100 * (means["none"] - means[intervention]))


@cache
def before(dataset: str) -> float:
    """Accuracy in percent before adaptation, of the runs of Figure 2."""
    table = study("layer_roles")
    rows = table[table["dataset"].eq(dataset) & table["kind"].eq("none")]
    return float(100 * rows.loc[rows["split"].eq("query") & rows["step"].eq(0), "accuracy"].mean())


@cache
def depth(dataset: str) -> dict[tuple[int, str], float]:
    """Mean accuracies of Figure 3 by layers and method; runs that diverged on some tasks are not averaged."""
    points = fig3.measured(RESULTS)[dataset].points
    return {(point.layers, point.method): point.estimate.mean for point in points}


def kfc_worth(dataset: str, layers: int, more: int = 0, folder: str = "") -> tuple[float, float, float]:
    """Points that so many layers under KFC are above MAML with as many, or some more; in the seeds that both have."""
    kfc, maml = (
        final(f"{folder}depth_sweep", dataset, "cnn", method, n)
        for method, n in (("kfc", layers), ("maml", layers + more))
    )
    kfc, maml = kfc[kfc["seed"].isin(maml["seed"])], maml[maml["seed"].isin(kfc["seed"])]
    return ends(paired_task_interval(kfc, maml))


def kfc_worth_by_seed(dataset: str, layers: int) -> "pd.Series[float]":
    """Points that so many layers under KFC are above one more under MAML."""
    kfc, maml = (
        of_seeds(final("depth_sweep", dataset, "cnn", method, n))
        for method, n in (("kfc", layers), ("maml", layers + 1))
    )
    return kfc - maml


def below(dataset: str, layers: int) -> tuple[float, float, float]:
    """Points that so many layers under KFC are below one more under MAML."""
    mean, low, high = kfc_worth(dataset, layers, more=1)
    return -mean, -high, -low


def rises(dataset: str, method: str, layers: int, folder: str = "", last: int = 500) -> "pd.Series[float]":
    """What the last iterations bring, in points of test accuracy, by seed; without those that diverged."""
    measured = f"{folder}{'optimizer_comparison' if method.startswith('meta_') else 'depth_sweep'}"
    curve = cnn_curves(final(measured, dataset, "cnn", method, layers)["run"], folder)
    return curve.iloc[-1] - curve.loc[curve.index[-1] - last]


def cnn_curves(runs: "pd.Series[str]", folder: str = "") -> pd.DataFrame:
    """Test accuracy in percent of runs, by iteration and seed."""
    table = study(f"{folder}training_curves")
    rows = table[table["run"].isin(runs) & table["split"].eq("test")]
    return 100 * rows.pivot(index="iteration", columns="seed", values="accuracy")


def end_of_curve(dataset: str, method: str, layers: int, seed: int) -> list[float]:
    """The last two points of a curve: test accuracy in percent and iteration of each, as they are told."""
    curve = cnn_curves(final("depth_sweep", dataset, "cnn", method, layers)["run"])[seed].iloc[-2:]
    return [number for iteration, accuracy in curve.items() for number in (accuracy, iteration)]


def of_three_layers() -> pd.DataFrame:
    """`final` of the longer trainings of CNN-3 with KFC on glyphs."""
    return final(f"{LONGER}depth_sweep", GLYPHS, "cnn", "kfc", 3)


def lowest_after(runs: "pd.Series[str]", iteration: int, folder: str) -> tuple[float, int]:
    """The least test accuracy of a seed from an iteration on, in percent, and where it is."""
    least = cnn_curves(runs, folder).loc[iteration:].min(axis=1)
    return float(least.min()), int(least.idxmin())


def by_thousands(method: str) -> "pd.Series[float]":
    """Median test accuracy of each thousand iterations' points, of the longest training on glyphs."""
    curve = cnn_curves(of_two(method, GLYPHS, LONGEST)["run"], LONGEST)[0].drop(0)
    return curve.groupby((curve.index - 1) // 1000).median()


def first_seed(method: str, folder: str) -> pd.DataFrame:
    """`final` of two layers on glyphs, of seed 0."""
    return of_two(method, GLYPHS, folder).query("seed == 0")


def longest_lead() -> tuple[float, float, float]:
    """Points that Meta-SGD, trained the longest, is above MAML, trained longer: seed 0, paired by task."""
    return ends(paired_task_interval(first_seed("meta_sgd", LONGEST), first_seed("maml", LONGER)))


def still_rises(dataset: str, method: str, layers: int, folder: str = "", last: int = 500) -> float:
    return float(rises(dataset, method, layers, folder, last).mean())


def one_layer_seeds(dataset: str) -> list[float]:
    """Mean accuracies of CNN-1 with KFC, best first, without the runs that diverged."""
    return sorted(of_seeds(final("depth_sweep", dataset, "cnn", "kfc", 1)), reverse=True)


def diverged_depths(dataset: str, folder: str = "") -> list[int]:
    """Layers of the networks that diverged, once each; all are under KFC."""
    table = study(f"{folder}depth_sweep")
    rows = table[table["dataset"].eq(dataset) & table["status"].ne("ok")]
    assert rows["method"].eq("kfc").all()
    return sorted(rows.groupby("run")["layers"].first())


def bound(dataset: str) -> float:
    found = table2.bound(table2.read_bounds(RESULTS), dataset, {"norm_mode": "batch"})
    assert found is not None
    return found.mean


@cache
def alike(dataset: str) -> similarity.Trace:
    return similarity.traces(RESULTS)[f"similarity_{dataset}_cnn4_maml"]


def layers_of(dataset: str, measure: str) -> list[float]:
    """Similarity of each layer before to after adaptation."""
    return [over.mean for over in alike(dataset).panels["adapted"][measure].values()]


@cache
def line(dataset: str) -> loss_line.Trace:
    return loss_line.traces(RESULTS)[f"loss_line_{dataset}_cnn4_maml"]


def beyond(dataset: str, position: float) -> tuple[float, float, float]:
    """The query loss there, less that where adaptation ends, paired by task."""
    table = study("loss_line")
    rows = table[table["dataset"].eq(dataset) & table["split"].eq("query")]
    there, end = (rows[np.isclose(rows["position"], p)] for p in (position, 1.0))
    return ends(paired_task_interval(there, end, "loss"))


def lowest_at_the_end(dataset: str) -> float:
    """Percent of the tasks whose query loss is lowest where adaptation ends, of the positions measured."""
    table = study("loss_line")
    rows = table[table["dataset"].eq(dataset) & table["split"].eq("query")].reset_index()
    return float(100 * np.isclose(rows.loc[rows.groupby("task")["loss"].idxmin(), "position"], 1).mean())


def spread(dataset: str) -> Interval:
    """Standard deviation of a task's accuracy over orders of its classes, mean over tasks."""
    found = orders(dataset).mean_spread
    assert found is not None
    return found


@cache
def orders(dataset: str) -> label_permutation.Trace:
    return label_permutation.traces(RESULTS)[f"label_permutation_{dataset}_cnn4_maml"]


@cache
def path(dataset: str) -> adaptation_path.Trace:
    return adaptation_path.traces(RESULTS)[f"adaptation_path_{dataset}_cnn4_maml"]


def moved(dataset: str, probe: str, layer: str, step: int) -> tuple[float, float, float]:
    return ends(path(dataset).panels[probe][layer][step])


@cache
def inside(name: str) -> inside_optimizer.Trace:
    return inside_optimizer.traces(RESULTS)[f"inside_optimizer_{name}"]


def aligned(name: str, layer: str, step: int) -> inside_optimizer.Aligned:
    return next(one for one in inside(name).aligned if (one.layer, one.step) == (layer, step))


def adapts(name: str, adaptation: str) -> inside_optimizer.Compared:
    return next(one for one in inside(name).compared if one.adaptation == adaptation)


def steps_of(what: str, *layers: str) -> list[float]:
    """Cosine, ratio or descent of the CNN's updates of these layers' weights, step by step."""
    found = [getattr(one, what) for one in inside("glyphs_cnn2_kfc").aligned if one.layer in layers]
    return [one if isinstance(one, float) else one.mean for one in found]


def klin(quantity: str) -> "pd.Series[float]":
    """Of R^T (x) L of KLin on synthetic tasks, one value a seed."""
    return factors("synthetic", "klin", quantity, r"R\d?\^T \(x\) L\d?").reset_index(drop=True)


def descends() -> pd.DataFrame:
    """Share of the tasks in which the CNN's update of a tensor (columns) is a descent direction, by step."""
    table = study("inside_optimizer")
    rows = table[table["dataset"].eq(GLYPHS) & table["quantity"].eq("descent")].astype({"tensor": str})
    return rows.groupby(["step", "tensor"])["value"].mean().unstack()


def idle_factors() -> float:
    """How far the factors of the biases before batch norm are from the identity at most."""
    return float(
        factors(GLYPHS, "kfc", "distance from the start", r"[LR]\d", ("C1.conv.bias", "C2.conv.bias")).abs().max()
    )


def reaches(name: str, adaptation: str) -> tuple[float, float, float]:
    over = adapts(name, adaptation).over
    assert over is not None
    return ends(over)


def less(adaptation: str) -> tuple[float, float, float]:
    """Points that a way to adapt loses to both, of the CNN."""
    over = adapts("glyphs_cnn2_kfc", adaptation).against
    assert over is not None
    return ends(over, -1)


def adds(more: str, fewer: str) -> tuple[float, float, float]:
    """Points that one way to adapt has over another, of the CNN, paired by task."""
    table = study("inside_optimizer")
    rows = table[
        table["dataset"].eq(GLYPHS) & table["aspect"].eq("comparison") & table["quantity"].eq("accuracy")
        & table["split"].eq("query")
    ]  # fmt: skip
    rows = rows.assign(accuracy=100 * rows["value"])
    a, b = (
        mine[mine["step"].eq(mine["step"].max())]
        for mine in (rows[rows["adaptation"].eq(name)] for name in (more, fewer))
    )
    return ends(paired_task_interval(a, b))


def factors(dataset: str, method: str, quantity: str, part: str, tensors: Sequence[str] = ()) -> "pd.Series[float]":
    """Values of the factors of one part, of the tensors that end in one of these."""
    table = study("inside_optimizer")
    rows = table[
        table["dataset"].eq(dataset) & table["method"].eq(method) & table["aspect"].eq("factor")
        & table["quantity"].eq(quantity) & table["part"].astype(str).str.fullmatch(part)
    ]  # fmt: skip
    return rows.loc[rows["tensor"].astype(str).isin(tensors) if tensors else rows.index, "value"]


def spectrum(part: str, first: bool) -> tuple[list[float], list[float]]:
    """Of KFC on synthetic tasks, over seeds: the largest (or smallest) singular values, and all others."""
    strip = next(s for s in inside("synthetic_lr_kfc").strips if s.part == part and s.quantity == "singular value")
    alone = [values[0 if first else -1] for values in strip.runs]
    return alone, [value for values in strip.runs for value in (values[1:] if first else values[:-1])]


@cache
def read_off() -> pd.DataFrame:
    """Of KFC's weights on synthetic tasks, a row a seed: what R0 reads and adds, and what R1 takes out, as cosines."""
    found = []
    for folder in sorted((RESULTS / "runs").glob("synthetic-lr-kfc-*")):
        run = load_run(folder)
        start = run.theta["fc.weight"].flatten()
        first, last = (torch.linalg.svd(run.xi[f"fc.weight.{part}"]) for part in ("R0", "R1"))
        pairs = {"reads": (first[0][:, 0], start), "adds": (first[2][0], torch.ones_like(start)),
                 "takes": (last[0][:, -1], torch.ones_like(start))}  # fmt: skip
        found.append({name: float((a @ b).abs() / a.norm() / b.norm()) for name, (a, b) in pairs.items()})
    return pd.DataFrame(found)


@cache
def hidden() -> tuple[float, float]:
    """Share in percent of positive hidden units of KFC on synthetic tasks, and of positive numbers of the gradient."""
    units, numbers = [], []
    for folder in sorted((RESULTS / "runs").glob("synthetic-lr-kfc-*")):
        run = load_run(folder)
        tasks, weight = run.tasks(seed=0).sample("test", 100), run.theta["fc.weight"]
        logits = tasks.support_x @ weight.T  # of class 1, against 0: see core.models.linear
        slope = (torch.sigmoid(logits) - tasks.support_y[..., None]) / tasks.support_x.shape[1]
        gradient = slope.mT @ tasks.support_x
        units.append((run.xi["fc.weight.L0"] @ gradient @ run.xi["fc.weight.R0"] > 0).float().mean())
        numbers.append((gradient > 0).float().mean())
    return 100 * float(np.mean(units)), 100 * float(np.mean(numbers))


# --- what the texts claim

LINEAR = [
    Claim(
        RECORD,
        "Synthetic: LR stays near chance, LinNet reaches {} % where the paper says {} %; the ceiling of one step by "
        "a rule that favours no direction, the mean classifier, is {} %",
        lambda: (
            linear("synthetic", "linnet").mean,
            published("prose, section 3.2", "linnet", "maml", dataset="synthetic"),
            ceiling("mean classifier", "same").mean,
        ),
    ),
    Claim(RECORD, "LR stays near chance", lambda: abs(linear("synthetic", "lr").mean - 50) < 5),
    Claim(
        RECORD,
        "LR w/ KLin reaches it within half a point",
        lambda: abs(linear("synthetic", "lr", "klin").mean - ceiling("mean classifier", "same").mean) <= 0.5,
    ),
    Claim(
        RECORD,
        "LR w/ KFC ends at {} % [{}, {}], and is the best by far. LinNet ends at {} [{}, {}], above LR's {} [{}, {}], "
        "intervals apart, where the paper has {} and {}; LR w/ KLin at {} [{}, {}]",
        lambda: (
            *ends(linear(OMNIGLOT, "lr", "kfc")),
            *ends(linear(OMNIGLOT, "linnet")),
            *ends(linear(OMNIGLOT, "lr")),
            *(published("prose, section 3.2", model, "maml", 0) for model in ("linnet", "lr")),
            *ends(linear(OMNIGLOT, "lr", "klin")),
        ),
    ),
    Claim(
        RECORD,
        "is the best by far. LinNet",
        lambda: linear(OMNIGLOT, "lr", "kfc").low > linear(OMNIGLOT, "linnet").high > linear(OMNIGLOT, "lr").high,
    ),
    Claim(RECORD, "intervals apart, where", lambda: linear(OMNIGLOT, "linnet").low > linear(OMNIGLOT, "lr").high),
    Claim(
        RECORD,
        "LinNet's test accuracy is at its best, {} %, after {} iterations and KLin's, {} %, after {}; they fall to {} "
        "and {} % while on training tasks they rise to {} and {} %.",
        lambda: (
            *best_of_curve("linnet", "maml"),
            *best_of_curve("lr", "klin"),
            *(at_the_end(*kind, split) for split in ("test", "train") for kind in (("linnet", "maml"), ("lr", "klin"))),
        ),
    ),
    Claim(
        RECORD,
        "KFC fits most of all, {} %, and its test loss is {} times its least, but its test accuracy is only {} points "
        "below its best.",
        lambda: (
            at_the_end("lr", "kfc", "train"),
            handwriting_curve("lr", "kfc", "test", "loss").iloc[-1]
            / handwriting_curve("lr", "kfc", "test", "loss").min(),
            best_of_curve("lr", "kfc")[0] - at_the_end("lr", "kfc", "test"),
        ),
    ),
    Claim(
        RECORD,
        "Whoever stops each run where its validation loss is least has KFC {}, LinNet {}, KLin {} and LR {} %",
        lambda: tuple(
            stopped_early(*kind) for kind in (("lr", "kfc"), ("linnet", "maml"), ("lr", "klin"), ("lr", "maml"))
        ),
    ),
    Claim(
        RECORD,
        "LR, LinNet and KFC order as above",
        lambda: best_first(*(linear(GLYPHS, *m).mean for m in (("lr", "kfc"), ("linnet", "maml"), ("lr", "maml")))),
    ),
    Claim(
        RECORD,
        "from iteration {} on its test loss swings between {} and {} nats, and its seeds end between {} % and {} %",
        lambda: (
            along_seeds("loss").index[1],
            along_seeds("loss").iloc[1:].min().min(),
            along_seeds("loss").iloc[1:].max().max(),
            100 * along_seeds("accuracy").loc[300].min(),
            100 * along_seeds("accuracy").loc[300].max(),
        ),
    ),
    Claim(
        RECORD,
        "at half of it (`half_rate/`, the same otherwise)",
        lambda: all(
            {key for key, value in one.items() if value != other.get(key)} <= {"adapt_lr", "seed"}
            and other["adapt_lr"] == 2 * one["adapt_lr"]
            for one in configs("half_rate/post_adaptation", GLYPHS)
            for other in configs("post_adaptation", GLYPHS)
            if other["method"] == "klin"
        ),
    ),
    Claim(
        RECORD,
        "the loss stays below 2.7 nats",
        lambda: bool(along_seeds("loss", "half_rate/").max().max() < 2.7),
    ),
    Claim(
        RECORD,
        "and KLin reaches {} % [{}, {}], where LinNet has {}",
        lambda: (
            *ends(task_interval(final("half_rate/post_adaptation", GLYPHS, "lr", "klin"))),
            linear(GLYPHS, "linnet").mean,
        ),
    ),
]

SHALLOW = [
    Claim(
        RECORD,
        "the mean classifier, the ceiling of isotropic one-step rules, reaches {} [{}, {}] there, and the Bayes "
        "classifier {} [{}, {}]",
        lambda: (*shallow_ceiling("mean_classifier"), *shallow_ceiling("bayes")),
    ),
    Claim(
        RECORD,
        "LR reaches {} [{}, {}], after {} iterations {} [{}, {}]; LinNet {} [{}, {}], and {} [{}, {}].",
        lambda: (
            *at("lr"),
            30_000,
            *at("lr", iterations=30_000),
            *at("linnet"),
            *at("linnet", iterations=30_000),
        ),
    ),
    Claim(
        RECORD,
        "From {} to {} points a task nothing changes in that: LR stays below {}, LinNet within {} to {} points of "
        "the mean classifier.",
        lambda: (
            30,
            1000,
            math.ceil(max(at("lr", points=n)[0] for n in (30, 100, 300, 1000))),
            min(ceiling_gap(n) for n in (30, 100, 300, 1000)),
            max(ceiling_gap(n) for n in (30, 100, 300, 1000)),
        ),
    ),
    Claim(RECORD, "With {} points every LinNet diverges.", lambda: (10,) if not len(cell("linnet", points=10)) else ()),
    Claim(
        RECORD,
        "(On a task's own points LR has {} [{}, {}] with {} points: it remembers them.)",
        lambda: (*at("lr", "same", points=10), 10),
    ),
    Claim(
        RECORD,
        "At its learning rates, LR reaches {} [{}, {}] with standard normal points, and {} [{}, {}] on a task's own, "
        "and LinNet diverges in every seed.",
        lambda: (
            (*at("lr", input_scale=1), *at("lr", "same", input_scale=1))
            if not len(cell("linnet", input_scale=1))
            else ()
        ),
    ),
    Claim(
        RECORD,
        "With {} times the adaptation rate LR reaches {} [{}, {}], with {} times {} [{}, {}], the ceiling.",
        lambda: (100, *at("lr", adapt_lr=50), 1000, *at("lr", adapt_lr=500)),
    ),
    Claim(
        RECORD,
        "it stays at chance with initial weights of {} times the default ({} [{}, {}])",
        lambda: (0.3, *at("linnet", init_scale=0.3)),
    ),
    Claim(
        RECORD,
        "with a tenth of its adaptation rate, or with points a tenth as large again.",
        lambda: all(abs(at("linnet", **where)[0] - 50) < 0.5 for where in ({"adapt_lr": 0.19}, {"input_scale": 0.01})),
    ),
    Claim(RECORD, "The step is {} of the start's length.", lambda: (cell("lr")["step_ratio"].median(),)),
    Claim(
        RECORD,
        "within {} points in all {} settings of LR with {} points, from chance to the ceiling.",
        lambda: (
            math.ceil(10 * cells("lr").loc[cells("lr")["points"].eq(1000), "below"].abs().max()) / 10,
            cells("lr")["points"].eq(1000).sum(),
            1000,
        ),
    ),
    Claim(RECORD, "(here a factor of e takes {})", lambda: (4 / (0.01 * 0.1**2),)),  # 4 / (meta_lr input_scale^2)
    Claim(
        RECORD,
        "within {} % wherever adapt_lr x input_scale^2 is at most {}",
        lambda: (math.ceil(100 * recursion_misses()), 0.5),
    ),
    Claim(
        RECORD,
        "{} for the {} logits measured after {} iterations.",
        lambda: (
            fails("lr", "predicted_start", iterations=30_000),
            fails("lr", "start_size", iterations=30_000),
            30_000,
        ),
    ),
    Claim(
        RECORD,
        "at {} LR has {} [{}, {}] after {} iterations, at {} {} [{}, {}].",
        lambda: (
            0.1,
            *at("lr", meta_lr=0.1, iterations=30_000),
            30_000,
            1,
            *at("lr", meta_lr=1, iterations=30_000),
        ),
    ),
    Claim(
        RECORD,
        "By the recursion and the geometry, no outer rate gives LR more than some {} after {}.",
        lambda: (best_by_recursion(), 30_000),
    ),
    Claim(
        RECORD,
        "LinNet's start *grows*, from {} to {} logits, and its step grows faster: from {} of the start (at an outer "
        "rate of {}, which changes little) to {}.",
        lambda: (
            fails("linnet", "initial_size"),
            fails("linnet", "start_size"),
            cell("linnet", meta_lr=0.001)["step_ratio"].median(),
            0.001,
            cell("linnet")["step_ratio"].median(),
        ),
    ),
    Claim(
        RECORD,
        "At an outer rate of {}, LR's own, LinNet takes longer ({} [{}, {}] after {} iterations) and ends better: {} "
        "[{}, {}] after {}.",
        lambda: (
            0.01,
            *at("linnet", meta_lr=0.01),
            3000,
            *at("linnet", meta_lr=0.01, iterations=30_000),
            30_000,
        ),
    ),
    Claim(
        RECORD,
        "LinNet is below it by {} to {} points in the three settings whose starts have logits of {} to {}",
        lambda: (
            (
                missed()["below"].min(),
                missed()["below"].max(),
                missed()["start_size"].min(),
                missed()["start_size"].max(),
            )
            if len(missed()) == 3
            else ()
        ),
    ),
    Claim(
        RECORD,
        "and {} points allow {} in closed form, not {}; measured are {} to {}.",
        lambda: (
            500,
            100 * mean_classifier_in_closed_form(500),
            shallow_ceiling("mean_classifier")[0],
            100 * missed()["accuracy"].min(),
            100 * missed()["accuracy"].max(),
        ),
    ),
    Claim(
        RECORD,
        "At an adaptation rate of {}, where one of three seeds diverges, it is {} below",
        lambda: (
            (19, fails("linnet", "predicted_accuracy", adapt_lr=19) - fails("linnet", "accuracy", adapt_lr=19))
            if cell("linnet", adapt_lr=19)["seed"].nunique() == 2
            else ()
        ),
    ),
]

CONVOLUTIONAL = [
    Claim(
        README,
        "KFC for two layers has {} parameters, and {} in the paper",
        lambda: (
            study("depth_sweep").query("model == 'cnn' and method == 'kfc' and layers == 2")["rule_parameters"].iloc[0],
            CNN_PARAMETERS["omniglot", 2][1],
        ),
    ),
    Claim(
        README,
        "freezing any of the first three costs nothing",
        lambda: all(costs(OMNIGLOT, f"freeze {layer}")[2] <= NOTHING for layer in ("C1", "C2", "C3")),
    ),
    Claim(
        README,
        "the fourth, C4, does most of the work",
        # Alone, it brings more than half of what all layers bring; and nothing else costs as much when it is frozen.
        lambda: (
            roles(OMNIGLOT)["adapt only C4"].over.mean - before(OMNIGLOT)
            > (roles(OMNIGLOT)["none"].over.mean - before(OMNIGLOT)) / 2
            and costs(OMNIGLOT, "freeze C4")[1]
            > max(costs(OMNIGLOT, f"freeze {layer}")[2] for layer in ("C1", "C2", "C3", "FC"))
        ),
    ),
    Claim(
        RECORD,
        "(`omniglot_small`, one run, {} % [{}, {}] after adaptation) freezing C1, C2 or C3 costs nothing (the paired "
        "intervals lie between {} and {} points) and freezing C4 costs {} [{}, {}] points, as the paper has it.",
        lambda: (
            *ends(roles(OMNIGLOT)["none"].over),
            min(costs(OMNIGLOT, f"freeze {layer}")[1] for layer in ("C1", "C2", "C3")),
            max(costs(OMNIGLOT, f"freeze {layer}")[2] for layer in ("C1", "C2", "C3")),
            *costs(OMNIGLOT, "freeze C4"),
        ),
    ),
    Claim(
        RECORD,
        "Adapting only C4 reaches {} %. What it lacks is FC's: it has {} [{}, {}] points less, and freezing FC alone "
        "costs {} [{}, {}].",
        lambda: (
            roles(OMNIGLOT)["adapt only C4"].over.mean,
            *costs(OMNIGLOT, "adapt only C4"),
            *costs(OMNIGLOT, "freeze FC"),
        ),
    ),
    Claim(
        RECORD,
        "(three runs, {} % [{}, {}]) the order is the same: freezing C1, C2 or C3 costs nothing (between {} and {}), "
        "C4 {} [{}, {}] (its seeds: {} to {}) and FC {} [{}, {}] points, and C4 alone reaches {} %, {} [{}, {}] less.",
        lambda: (
            *ends(roles(GLYPHS)["none"].over),
            min(costs(GLYPHS, f"freeze {layer}")[1] for layer in ("C1", "C2", "C3")),
            max(costs(GLYPHS, f"freeze {layer}")[2] for layer in ("C1", "C2", "C3")),
            *costs(GLYPHS, "freeze C4"),
            *(costs_by_seed(GLYPHS, "freeze C4")[i] for i in (0, -1)),
            *costs(GLYPHS, "freeze FC"),
            roles(GLYPHS)["adapt only C4"].over.mean,
            *costs(GLYPHS, "adapt only C4"),
        ),
    ),
    Claim(
        RECORD,
        "the order is the same: freezing C1, C2 or C3 costs nothing",
        lambda: all(
            costs(d, "freeze C4")[1] > costs(d, "freeze FC")[2] > costs(d, "freeze FC")[1] > NOTHING
            and all(costs(d, f"freeze {layer}")[2] <= NOTHING for layer in ("C1", "C2", "C3"))
            for d in (OMNIGLOT, GLYPHS)
        ),
    ),
    Claim(
        RECORD,
        "at the layer's own scale it costs {} [{}, {}] points on `omniglot_small`, at {} times that scale {} [{}, "
        "{}], and at {} times {} % are left, where chance is {} %.",
        lambda: (
            *costs(OMNIGLOT, "noise 1"),
            32,
            *costs(OMNIGLOT, "noise 32"),
            128,
            roles(OMNIGLOT)["noise 128"].over.mean,
            100 / study("fc_noise")["ways"].iloc[0],
        ),
    ),
    Claim(
        RECORD,
        "On `glyphs` it is {} [{}, {}] and {} [{}, {}] points, and {} %.",
        lambda: (
            *costs(GLYPHS, "noise 1"),
            *costs(GLYPHS, "noise 32"),
            roles(GLYPHS)["noise 128"].over.mean,
        ),
    ),
    Claim(
        RECORD,
        "two layers reach {} % under KFC, three {} under MAML (a difference of {} [{}, {}] points, paired by task), "
        "and three under KFC are {} [{}, {}] points above four under MAML (by seed {}, {} and {}; in the first of "
        "these MAML dips at its end, from {} % at iteration {} to {} at {} on its curve). One layer under KFC is {} "
        "[{}, {}] points below two under MAML, where the paper has {} above, but by one seed that got stuck at {} %: "
        "the others are {} and {} below. At equal depth KFC is ahead by {}, {}, {} and {} points",
        lambda: (
            depth(OMNIGLOT)[2, "kfc"],
            depth(OMNIGLOT)[3, "maml"],
            *kfc_worth(OMNIGLOT, 2, more=1),
            *kfc_worth(OMNIGLOT, 3, more=1),
            *kfc_worth_by_seed(OMNIGLOT, 3),
            *end_of_curve(OMNIGLOT, "maml", 4, int(kfc_worth_by_seed(OMNIGLOT, 3).idxmax())),
            *below(OMNIGLOT, 1),
            published("Table A1", "cnn", "kfc", 1) - published("Table A1", "cnn", "maml", 2),
            one_layer_seeds(OMNIGLOT)[-1],
            *-kfc_worth_by_seed(OMNIGLOT, 1).sort_values()[1:],
            *(kfc_worth(OMNIGLOT, layers)[0] for layers in (1, 2, 3, 4)),
        ),
    ),
    Claim(
        RECORD,
        "but for MAML at two layers of `omniglot_small` ({} %, and {} there)",
        lambda: (depth(OMNIGLOT)[2, "maml"], published("Table A1", "cnn", "maml", 2)),
    ),
    Claim(
        RECORD,
        "The paper's accuracies are higher",
        lambda: (
            [
                (dataset, method, layers)
                for dataset in (OMNIGLOT, GLYPHS)
                for layers, method in depth(dataset)
                if depth(dataset)[layers, method] > published("Table A1", "cnn", method, layers)
            ]
            == [(OMNIGLOT, "maml", 2)]
        ),
    ),
    Claim(
        RECORD,
        "it is ahead by {}, {}, {} and {} points, and worth a layer at three layers alone: {} [{}, {}] points above "
        "four under MAML, but at two layers {} [{}, {}] below three, and at one {} [{}, {}] below two.",
        lambda: (
            *(kfc_worth(GLYPHS, layers)[0] for layers in (1, 2, 3, 4)),
            *kfc_worth(GLYPHS, 3, more=1),
            *below(GLYPHS, 2),
            *below(GLYPHS, 1),
        ),
    ),
    Claim(
        RECORD,
        "the last {} iterations bring MAML {}, {} and {} points at two, three and four layers, and KFC {}, {} and {};",
        lambda: (
            500,
            *(still_rises(OMNIGLOT, method, layers) for method in ("maml", "kfc") for layers in (2, 3, 4)),
        ),
    ),
    Claim(
        RECORD,
        "on `glyphs` they bring MAML {}, {} and {} points, and KFC {}, {} and {}.",
        lambda: [still_rises(GLYPHS, method, layers) for method in ("maml", "kfc") for layers in (2, 3, 4)],
    ),
    Claim(
        RECORD,
        "(These are of {} tasks, and seeds dip: the median over seeds of MAML at four layers is {} and {}.)",
        lambda: (
            study("training_curves").query("model == 'cnn' and split == 'test'")["num_tasks"].unique().item(),
            *(float(rises(dataset, "maml", 4).median()) for dataset in (OMNIGLOT, GLYPHS)),
        ),
    ),
    Claim(
        RECORD,
        "They bring Meta-SGD and Meta-Curvature, at two layers, {} and {} on `omniglot_small`, and {} and {} on "
        "`glyphs`.",
        lambda: [
            still_rises(dataset, method, 2)
            for dataset in (OMNIGLOT, GLYPHS)
            for method in ("meta_sgd", "meta_curvature")
        ],
    ),
    Claim(
        RECORD,
        "**After {} iterations** (`longer/`) two layers on `glyphs` reach {} % [{}, {}] under KFC, {} [{}, {}] under "
        "Meta-Curvature, {} [{}, {}] under Meta-SGD and {} [{}, {}] under MAML, where the paper has {}, {}, {} and "
        "{} on Omniglot; the last {} bring {}, {}, {} and {}. (A seed of Meta-Curvature fell to {} % after {}, and "
        "came back.) The lead of KFC over MAML has grown to {} points.",
        lambda: (
            study(f"{LONGER}depth_sweep")["iterations"].unique().item(),
            *(end for method in BEST_FIRST for end in ends(task_interval(of_two(method, GLYPHS, LONGER)))),
            *(published("Table 2", "cnn", method, 2) for method in BEST_FIRST),
            500,
            *(still_rises(GLYPHS, method, 2, LONGER) for method in BEST_FIRST),
            *lowest_after(of_two("meta_curvature", GLYPHS, LONGER)["run"], 500, LONGER),
            lead("kfc", "maml", GLYPHS, LONGER)[0],
        ),
    ),
    Claim(
        RECORD,
        "**After {} iterations** (`longest/`, one seed on `glyphs`) two layers reach {} % [{}, {}] under "
        "Meta-Curvature and {} [{}, {}] under Meta-SGD, where this seed had {} and {} after {}, and the paper has {} "
        "and {}. So Meta-SGD is ahead of MAML now, by {} [{}, {}] points over the same seed of it after {};",
        lambda: (
            study(f"{LONGEST}training_curves")["iteration"].max(),
            *(end for method in BETWEEN for end in ends(task_interval(of_two(method, GLYPHS, LONGEST)))),
            *(float(first_seed(method, LONGER)["accuracy"].mean()) for method in BETWEEN),
            study(f"{LONGER}optimizer_comparison")["iterations"].unique().item(),
            *(published("Table 2", "cnn", method, 2) for method in BETWEEN),
            *longest_lead(),
            study(f"{LONGER}optimizer_comparison")["iterations"].unique().item(),
        ),
    ),
    Claim(
        RECORD,
        "The last {} iterations bring {} and {}; by the median of the points within, which dips do not move, they are "
        "{} and {} above the {} before, where the second {} were {} and {} above the first. Meta-Curvature dips to {} "
        "% at {}, and Meta-SGD to {} at {}; both come back.",
        lambda: (
            1000,
            *(still_rises(GLYPHS, method, 2, LONGEST, last=1000) for method in BETWEEN),
            *(by_thousands(method).diff().iloc[-1] for method in BETWEEN),
            1000,
            1000,
            *(by_thousands(method).diff().iloc[1] for method in BETWEEN),
            *(at for method in BETWEEN for at in lowest_after(of_two(method, GLYPHS, LONGEST)["run"], 2500, LONGEST)),
        ),
    ),
    Claim(
        RECORD,
        "one seed of it that trained on is.",
        lambda: longest_lead()[1] > 0,
    ),
    Claim(
        RECORD,
        "trained again, for {} iterations, one seed each, in `longest/`",
        lambda: (study(f"{LONGEST}optimizer_comparison")["iterations"].unique().item(),),
    ),
    Claim(
        RECORD,
        "Three layers under MAML reach {} % [{}, {}], of which the last {} bring {}: KFC is worth a layer at two "
        "layers now, by {} [{}, {}] points.",
        lambda: (
            *ends(task_interval(final(f"{LONGER}depth_sweep", GLYPHS, "cnn", "maml", 3))),
            500,
            still_rises(GLYPHS, "maml", 3, LONGER),
            *kfc_worth(GLYPHS, 2, more=1, folder=LONGER),
        ),
    ),
    Claim(
        RECORD,
        "its seeds had {}, {} and {} % at best, two of them fell to {} and {} % within {} iterations, and they end at "
        "{}, {} and {} %.",
        lambda: (
            *cnn_curves(of_three_layers()["run"], LONGER).max(),
            *cnn_curves(of_three_layers()["run"], LONGER).loc[500:].min()[:2],
            300,
            *of_seeds(of_three_layers()),
        ),
    ),
    Claim(
        RECORD,
        "two of them fell to",
        # Within 300 iterations from above 90 %.
        lambda: bool(
            (cnn_curves(of_three_layers()["run"], LONGER).loc[500:].pipe(lambda c: c - c.shift(3)) < -75).any().sum()
            == 2
        ),
    ),
    Claim(
        RECORD,
        "Two of the three seeds with two layers under KFC diverged on the way; the third reaches {} % [{}, {}], of "
        "which the last {} bring {}. Three layers under KFC have {} % [{}, {}] in two seeds, of which the last {} "
        "bring {}; the third diverged.",
        lambda: (
            (
                *ends(task_interval(final(f"{LONGER}depth_sweep", OMNIGLOT, "cnn", "kfc", 2))),
                500,
                still_rises(OMNIGLOT, "kfc", 2, LONGER),
                *ends(task_interval(final(f"{LONGER}depth_sweep", OMNIGLOT, "cnn", "kfc", 3))),
                500,
                still_rises(OMNIGLOT, "kfc", 3, LONGER),
            )
            if diverged_depths(OMNIGLOT, LONGER) == [1, 2, 2, 3]
            else ()
        ),
    ),
    Claim(
        RECORD,
        "On `omniglot_small` two layers reach {} % [{}, {}] under Meta-Curvature and {} [{}, {}] under Meta-SGD, where "
        "the paper has {} and {}, and the last {} bring {} and {}, the latter from a dip: {} since {}.",
        lambda: (
            *(
                end
                for method in ("meta_curvature", "meta_sgd")
                for end in ends(task_interval(of_two(method, OMNIGLOT, LONGER)))
            ),
            *(published("Table 2", "cnn", method, 2) for method in ("meta_curvature", "meta_sgd")),
            500,
            *(still_rises(OMNIGLOT, method, 2, LONGER) for method in ("meta_curvature", "meta_sgd")),
            still_rises(OMNIGLOT, "meta_sgd", 2, LONGER, last=1000),
            1500,
        ),
    ),
    Claim(
        RECORD,
        "trained again, for {} iterations, the seeds on `omniglot_small` have {} % and {} %, and one diverged; on "
        "`glyphs` they have {} % and {} %, and one diverged.",
        lambda: (
            (
                study(f"{LONGER}depth_sweep")["iterations"].unique().item(),
                *of_seeds(final(f"{LONGER}depth_sweep", OMNIGLOT, "cnn", "kfc", 1)),
                *of_seeds(final(f"{LONGER}depth_sweep", GLYPHS, "cnn", "kfc", 1)),
            )
            if 1 in diverged_depths(OMNIGLOT, LONGER) and 1 in diverged_depths(GLYPHS, LONGER)
            else ()
        ),
    ),
    Claim(
        RECORD,
        "The curves that are low are flat",
        # Those below 50 % gained less than 2 points in the last 500 iterations.
        lambda: all(
            rise < 2
            for dataset in (OMNIGLOT, GLYPHS)
            for seed, rise in rises(dataset, "kfc", 1, LONGER).items()
            if of_seeds(final(f"{LONGER}depth_sweep", dataset, "cnn", "kfc", 1))[seed] < 50
        ),
    ),
    Claim(
        RECORD,
        "One layer under KFC still rises by {} and {}.",
        lambda: [still_rises(dataset, "kfc", 1) for dataset in (OMNIGLOT, GLYPHS)],
    ),
    Claim(
        RECORD,
        "where its seeds reach {} %, {} % and {} % on `omniglot_small`, and {} % and {} % on `glyphs`, where the third "
        "diverged. So did one of the three seeds with three layers on `glyphs`,",
        lambda: (*one_layer_seeds(OMNIGLOT), *one_layer_seeds(GLYPHS)) if diverged_depths(GLYPHS) == [1, 3] else (),
    ),
    Claim(
        RECORD,
        "the order is the paper's: KFC ({} %), Meta-Curvature ({}), Meta-SGD ({}), MAML ({}).",
        lambda: (
            tuple(one_of_two(method, OMNIGLOT) for method in BEST_FIRST)
            if best_first(*(one_of_two(method, OMNIGLOT) for method in BEST_FIRST))
            and best_first(*(published("Table 2", "cnn", method, 2) for method in BEST_FIRST))
            else ()
        ),
    ),
    Claim(
        RECORD,
        "On `glyphs` the mean of KFC ({} %) is {} [{}, {}] points above that of Meta-Curvature ({}), by one seed alone "
        "({} against {}; the others are {} and {} below), and Meta-SGD ({}) is not ahead of MAML ({}).",
        lambda: (
            one_of_two("kfc", GLYPHS),
            *lead("kfc", "meta_curvature", GLYPHS),
            one_of_two("meta_curvature", GLYPHS),
            *(by_seed(method, GLYPHS)[0] for method in ("kfc", "meta_curvature")),
            *(by_seed("meta_curvature", GLYPHS) - by_seed("kfc", GLYPHS))[1:],
            one_of_two("meta_sgd", GLYPHS),
            one_of_two("maml", GLYPHS),
        ),
    ),
    Claim(
        RECORD,
        "After {} iterations KFC is ahead of Meta-Curvature by {} [{}, {}] points, and Meta-SGD still not of MAML "
        "(by {} [{}, {}]);",
        lambda: (
            (
                study(f"{LONGER}optimizer_comparison")["iterations"].unique().item(),
                *lead("kfc", "meta_curvature", GLYPHS, LONGER),
                *lead("meta_sgd", "maml", GLYPHS, LONGER),
            )
            if lead("meta_sgd", "maml", GLYPHS, LONGER)[1] < 0
            else ()
        ),
    ),
    Claim(
        RECORD,
        "is not ahead of MAML",
        lambda: lead("meta_sgd", "maml", GLYPHS)[1] < 0 < lead("meta_sgd", "maml", OMNIGLOT)[1],
    ),
    Claim(
        RECORD,
        "from which less can be learned than KFC and Meta-Curvature bring along",
        lambda: all(
            bound(dataset) < one_of_two(method, dataset)
            for dataset in (OMNIGLOT, GLYPHS)
            for method in ("kfc", "meta_curvature")
        ),
    ),
    Claim(
        RECORD,
        "is {} % and {} %: these data sets have {} such images a class",
        lambda: (bound(OMNIGLOT), bound(GLYPHS), study("upper_bound")["training_shots"].unique().item()),
    ),
    Claim(
        RECORD,
        "intervals below ± {}).",
        lambda: (
            math.ceil(
                100
                * max(
                    max(over.high - over.mean, over.mean - over.low)
                    for dataset in (OMNIGLOT, GLYPHS)
                    for by_layer in alike(dataset).panels["adapted"].values()
                    for over in by_layer.values()
                )
            )
            / 100,
        ),
    ),
]

BEYOND = [
    Claim(
        RECORD,
        "canonical correlations (SVCCA; PWCCA) of C1 to C4 and FC are {}, {}, {}, {}, {} ({}, {}, {}, {}, {}) on "
        "`omniglot_small`, and {}, {}, {}, {}, {} ({}, {}, {}, {}, {}) on `glyphs`; debiased CKA of C4 and FC is {} "
        "and {}, and {} and {}.",
        lambda: (
            *(x for dataset in (OMNIGLOT, GLYPHS) for m in ("svcca", "pwcca") for x in layers_of(dataset, m)),
            *(x for dataset in (OMNIGLOT, GLYPHS) for x in layers_of(dataset, "debiased cka")[-2:]),
        ),
    ),
    Claim(
        RECORD,
        "report correlations of convolutional layers above {} and of a head below {}.",
        lambda: (similarity.RAGHU_BODY[0], similarity.RAGHU_HEAD[1]),
    ),
    Claim(
        RECORD,
        "Our heads' correlations stay above {}; theirs are of tasks with 5 classes, ours with {},",
        lambda: (
            math.floor(10 * min(layers_of(d, m)[-1] for d in (OMNIGLOT, GLYPHS) for m in ("svcca", "pwcca"))) / 10,
            study("similarity")["ways"].unique().item(),
        ),
    ),
    Claim(
        RECORD,
        "debiased CKA falls from {} (C1) to {} (FC) on `omniglot_small`",
        lambda: [alike(OMNIGLOT).panels["untrained"]["debiased cka"][layer].mean for layer in ("C1", "FC")],
    ),
    Claim(
        RECORD,
        "is lower there than at the positions measured before and beyond: {} [{}, {}] nats on `omniglot_small` and {} "
        "[{}, {}] on `glyphs`, and a fifth of the way beyond it {} [{}, {}] and {} [{}, {}] higher. Of single tasks, "
        "{} % and {} % have their lowest query loss there.",
        lambda: (
            *(x for dataset in (OMNIGLOT, GLYPHS) for x in ends(line(dataset).loss["query"][1.0])),
            *(x for dataset in (OMNIGLOT, GLYPHS) for x in beyond(dataset, 1.2)),
            *(lowest_at_the_end(dataset) for dataset in (OMNIGLOT, GLYPHS)),
        ),
    ),
    Claim(
        RECORD,
        "is lower there than at the positions measured before and beyond",
        lambda: all(
            beyond(dataset, position)[1] > 0
            for dataset in (OMNIGLOT, GLYPHS)
            for position in line(dataset).loss["query"]
            if position != 1
        ),
    ),
    Claim(
        RECORD,
        "over random orders accuracy is {} % [{}, {}] on `omniglot_small` and {} % [{}, {}] on `glyphs`, different "
        "from that of the order as it comes by {} [{}, {}] and {} [{}, {}] points.",
        lambda: [
            x
            for what in ("over_orders", "difference")
            for d in (OMNIGLOT, GLYPHS)
            for x in ends(getattr(orders(d), what))
        ],
    ),
    Claim(RECORD, "{} random orders a task)", lambda: (study("label_permutation")["draw"].nunique(),)),
    Claim(
        RECORD,
        "with a standard deviation of {} [{}, {}] and {} [{}, {}] points (one of its {} query examples is {} points).",
        lambda: (
            *(x for dataset in (OMNIGLOT, GLYPHS) for x in ends(spread(dataset))),
            50,
            100 / 50,
        ),
    ),
    Claim(
        RECORD,
        "C4 moves by {} [{}, {}] of its weights' norm in it and is {} [{}, {}] away at the end on `omniglot_small`, "
        "{} [{}, {}] and {} [{}, {}] on `glyphs`; C1 and C2 stay within {} on both.",
        lambda: (
            *(x for d in (OMNIGLOT, GLYPHS) for step in (1, 4) for x in moved(d, "distance", "C4", step)),
            math.ceil(100 * max(moved(d, "distance", la, 4)[0] for d in (OMNIGLOT, GLYPHS) for la in ("C1", "C2")))
            / 100,
        ),
    ),
    Claim(
        RECORD,
        "C4 has {} % [{}, {}] right before adaptation and {} % [{}, {}] after it on `omniglot_small` ({} % [{}, {}] "
        "and {} % [{}, {}] on `glyphs`), and FC {} % [{}, {}] and {} % [{}, {}] on `omniglot_small`.",
        lambda: [
            x
            for dataset, layer in ((OMNIGLOT, "C4"), (GLYPHS, "C4"), (OMNIGLOT, "FC"))
            for step in (0, 4)
            for x in moved(dataset, "prototype accuracy", layer, step)
        ],
    ),
    Claim(
        RECORD,
        "So C4, like C3, told the classes apart before it adapted",
        lambda: all(
            moved(dataset, "prototype accuracy", layer, 0)[1] > 90
            for dataset in (OMNIGLOT, GLYPHS)
            for layer in ("C3", "C4")
        ),
    ),
    Claim(RECORD, "and the {} points that freezing it costs there", lambda: (costs(OMNIGLOT, "freeze C4")[0],)),
]

INSIDE = [
    Claim(
        RECORD,
        "the best of three ({} % on {} tasks; the others {} and {}).",
        lambda: (
            by_seed("kfc", GLYPHS)[0],
            of_two("kfc", GLYPHS)["task"].nunique(),
            *by_seed("kfc", GLYPHS)[1:],
        ),
    ),
    Claim(
        RECORD,
        "R^T (x) L is {} times the identity but for {} to {} % (distance beyond a rate over the best multiple, ten "
        "seeds), and the cosine of U(g) and g is {} [{}, {}].",
        lambda: (
            klin("best multiple").mean(),
            100 * (klin("distance beyond a rate") / klin("best multiple")).min(),
            100 * (klin("distance beyond a rate") / klin("best multiple")).max(),
            *ends(aligned("synthetic_lr_klin", "fc", 1).cosine),
        ),
    ),
    Claim(
        RECORD,
        "Plain steps at `adapt_lr` reach {} % where KLin has {} %;",
        lambda: [reaches("synthetic_lr_klin", name)[0] for name in ("plain steps", "both")],
    ),
    Claim(
        RECORD,
        "One singular value of R0 is {}, the others {} to {}; one of R1 is {} to {}, the others {} to {} (ten seeds).",
        lambda: (
            np.mean(spectrum("R0", True)[0]),
            min(spectrum("R0", True)[1]),
            max(spectrum("R0", True)[1]),
            min(spectrum("R1", False)[0]),
            max(spectrum("R1", False)[0]),
            min(spectrum("R1", False)[1]),
            max(spectrum("R1", False)[1]),
        ),
    ),
    Claim(
        RECORD,
        "R0's direction reads the gradient along theta_0 (cosine {}) and adds it to all hidden units alike (cosine "
        "with the vector of ones {}), and R1's takes that vector out again ({}).",
        lambda: list(read_off()[["reads", "adds", "takes"]].mean()),
    ),
    Claim(RECORD, "{} % of the hidden units are positive, of the gradient's numbers {} %.", lambda: hidden()),
    Claim(
        RECORD,
        "U(g) then has a cosine of {} [{}, {}] with g, at {} times its length.",
        lambda: (
            *ends(aligned("synthetic_lr_kfc", "fc", 1).cosine),
            aligned("synthetic_lr_kfc", "fc", 1).ratio.mean,
        ),
    ),
    Claim(
        RECORD,
        "Cosines with g lie between {} and {} for the three weights, and fall from {} to {} over the four steps for "
        "all tensors as one, at {} to {} times the length of g.",
        lambda: (
            min(steps_of("cosine", "C1", "C2", "FC")),
            max(steps_of("cosine", "C1", "C2", "FC")),
            *steps_of("cosine", "all")[::3],
            min(steps_of("ratio", "all")),
            max(steps_of("ratio", "all")),
        ),
    ),
    Claim(
        RECORD,
        "C1's update is shortened to about a tenth, C2's and FC's lengthened {} to {} times.",
        lambda: (
            (min(steps_of("ratio", "C2", "FC")), max(steps_of("ratio", "C2", "FC")))
            if all(abs(ratio - 1 / 10) < 0.02 for ratio in steps_of("ratio", "C1"))
            else ()
        ),
    ),
    Claim(
        RECORD,
        "the factor over channels is further from any rate ({} to {} of the identity's norm) than the other ({} to {} "
        "and {} to {}).",
        lambda: [
            end
            for part, tensors in (
                (r"R\d", ("C2.conv.weight", "FC.weight")),
                (r"L\d", ("C2.conv.weight",)),
                (r"L\d", ("FC.weight",)),
            )
            for values in [factors(GLYPHS, "kfc", "distance beyond a rate", part, tensors)]
            for end in (values.min(), values.max())
        ],
    ),
    Claim(
        RECORD,
        "the factor over channels is further from any rate",
        lambda: all(
            min(factors(GLYPHS, "kfc", "distance beyond a rate", f"R{i}", (tensor,)))
            > max(factors(GLYPHS, "kfc", "distance beyond a rate", f"L{i}", (tensor,)))
            for tensor in ("C2.conv.weight", "FC.weight")
            for i in range(4)
        ),
    ),
    Claim(
        RECORD,
        "The updates of the three weights and of FC's bias are descent directions in every task",
        lambda: bool(
            descends()[["C1.conv.weight", "C2.conv.weight", "FC.weight", "FC.bias"]].eq(1).all(axis=None)
            and descends().filter(like="norm").lt(0.5).any(axis=0).all()
        ),
    ),
    Claim(
        RECORD,
        "in steps {} to {}, in {} %, {} % and {} % of the tasks).",
        lambda: (2, 4, *(100 * descends()["C2.norm.bias"].loc[2:])),
    ),
    Claim(
        RECORD,
        "The biases before batch norm have no gradient, and their factors stay at the identity.",
        lambda: bool(idle_factors() == 0 and descends()[["C1.conv.bias", "C2.conv.bias"]].isna().all(axis=None)),
    ),
    Claim(
        RECORD,
        "After four steps: both {} %; theta only {} [{}, {}] points less; xi only {} [{}, {}] less; neither {} [{}, "
        "{}] less; plain steps {} [{}, {}] less.",
        lambda: (
            reaches("glyphs_cnn2_kfc", "both")[0],
            *(x for name in ("theta only", "xi only", "neither", "plain steps") for x in less(name)),
        ),
    ),
    Claim(
        RECORD,
        "theta alone adds {} [{}, {}] points and xi alone {} [{}, {}]: together less than the sum",
        lambda: (*adds("theta only", "neither"), *adds("xi only", "neither")),
    ),
    Claim(
        RECORD,
        "together less than the sum",
        lambda: adds("both", "neither")[0] < adds("theta only", "neither")[0] + adds("xi only", "neither")[0],
    ),
    Claim(
        RECORD,
        "with C2's xi held fixed {} [{}, {}] points are lost, with FC's {} [{}, {}], with C1's none ({} ± {}).",
        lambda: (
            *less("theta only in C2"),
            *less("theta only in FC"),
            less("theta only in C1")[0],
            max(abs(x) for x in less("theta only in C1")),
        ),
    ),
    Claim(
        RECORD,
        "One step of the learned rule is better than four plain ones, by {} [{}, {}] points",
        lambda: adds("neither", "plain steps"),
    ),
]

# How the tables were made: lengths as runs were configured, times as they were stored, settings as the code has them.
MADE = [
    Claim(
        README,
        "full length ({} iterations, four models, five seeds)",
        lambda: (
            (full("iterations").pop(),)
            if len(full("method", "model")) == 4 and len(full("seed")) == 5 and len(full("iterations")) == 1
            else ()
        ),
    ),
    Claim(README, "its last saved state (one a minute)", lambda: CHECKPOINT_SECONDS == 60),
    Claim(
        README,
        "A job that fails is tried again up to three times.",
        lambda: "\nretries: 3\n" in (ROOT / "profiles" / "slurm" / "config.yaml").read_text(),
    ),
    Claim(
        RECORD,
        "has the paper's full length ({} iterations, {} seeds), the glyphs {} of {} iterations ({} seeds)",
        lambda: (
            LENGTHS["synthetic"].iterations,
            length("post_adaptation", "synthetic")[1],
            length("post_adaptation", GLYPHS)[0],
            LENGTHS["omniglot"].iterations,
            length("post_adaptation", GLYPHS)[1],
        ),
    ),
    Claim(
        RECORD,
        "at the paper's full length, {} iterations, {} seeds: The runs are not kept",
        lambda: (
            length("post_adaptation", OMNIGLOT)[:2]
            if length("post_adaptation", OMNIGLOT)[0] == LENGTHS["omniglot"].iterations
            else ()
        ),
    ),
    Claim(
        RECORD,
        "These are of the curves, {} tasks a seed.",
        lambda: tuple(
            study("training_curves")
            .query("dataset == @OMNIGLOT and model != 'cnn' and split == 'test'")["num_tasks"]
            .unique()
        ),
    ),
    Claim(
        RECORD,
        "KFC's weights alone are {} MB a run",
        lambda: (4 * 28**4 * max(c.get("rule_depth") or 0 for c in configs("post_adaptation", OMNIGLOT)) / 1e6,),
    ),
    Claim(RECORD, "`glyphs` at {} iterations", lambda: (length("post_adaptation", GLYPHS)[0],)),
    Claim(
        RECORD,
        "KLin at the paper's rate of {} is",
        lambda: {c["adapt_lr"] for c in configs("post_adaptation", GLYPHS) if c["method"] == "klin"},
    ),
    Claim(
        RECORD,
        "({} iterations, in part {}; {} seeds, {} test tasks), around the setting of Figure 1: the paper's learning "
        "rates, but its standard normal points times {}. It trains its own runs, needs no others, and took {} minutes",
        lambda: (
            *sorted(study("when_shallow_fails")["iterations"].unique()),
            study("when_shallow_fails")["seed"].nunique(),
            study("when_shallow_fails")["task"].nunique(),
            study("when_shallow_fails").query("varied == 'none'")["input_scale"].unique().item(),
            sum(seconds("when_shallow_fails").values()) / 60,
        ),
    ),
    Claim(
        RECORD,
        "{}-way {}-shot, {} steps, at the paper's learning rates; {} iterations of {} tasks, where the paper has {} "
        "tasks and does not state the iterations; {} seeds, {} test tasks (Figure 2 and the upper bound: {}).",
        lambda: (
            *(study("depth_sweep")[name].unique().item() for name in ("ways", "shots", "steps")),
            *cnn_lengths()[:1],
            study("depth_sweep")["tasks_per_iteration"].unique().item(),
            CNN_LENGTHS["omniglot"].tasks_per_iteration,
            *cnn_lengths()[1:],
            *{study(name)["task"].nunique() for name in ("layer_roles", "fc_noise", "upper_bound")},
        ),
    ),
    Claim(
        RECORD,
        "measuring took {} hours for `omniglot_small` and {} hours for `glyphs`",
        lambda: (hours(OMNIGLOT), hours(GLYPHS)),
    ),
    Claim(
        RECORD, "is one longer run, {} minutes", lambda: (run_seconds("omniglot_small-cnn-maml-s0-1594e35b0a") / 60,)
    ),
    Claim(RECORD, "the other weights are {} MB", lambda: (megabytes_not_kept(),)),
    Claim(
        RECORD,
        "(`similarity`, one run of each data set, {} tasks",
        lambda: (study("similarity")["task"].nunique(),),
    ),
    Claim(
        RECORD,
        "on {} test tasks, {} minutes on one core.",
        lambda: (study("inside_optimizer")["task"].nunique(), sum(seconds("inside_optimizer").values()) / 60),
    ),
]
