"""What results/README.md claims of speed, as `tests.claims` has it."""

from collections.abc import Sequence
from functools import cache

import pandas as pd

from core.tasks.synthetic import DIMENSION, POINTS
from tests.benchmarks.outer_loop import PARTS
from tests.benchmarks.workloads import CURVE_CHUNK
from tests.claims import RECORD, Claim, study

WHOSE = {"eager": "ours", "compiled": "ours", "higher": "others", "torchopt": "others", "jax": "others"}


def measured_speed(workload: str, engine: str, what: str = "speedup") -> float:
    table = study("benchmark")
    row = table[table["axis"].eq("") & table["workload"].eq(workload) & table["engine"].eq(engine)]
    return float(row[what].item())


@cache
def ahead_of_others() -> "pd.Series[float]":
    """How many times as fast as the fastest other library the faster of ours is, by workload."""
    table = study("benchmark")
    table = table[table["axis"].eq("") & table["status"].eq("ok")]
    fastest = table.assign(whose=table["engine"].map(WHOSE)).groupby(["workload", "whose"])["speedup"].max().unstack()
    return (fastest["ours"] / fastest["others"]).dropna().sort_values()


def along(workload: str, axis: str, value: int, engine: str, what: str = "peak_memory_mib") -> float:
    """A point of a scaling curve."""
    table = study("benchmark")
    point = table["workload"].eq(workload) & table["axis"].eq(axis) & table["value"].eq(value)
    return float(table.loc[point & table["engine"].eq(engine), what].item())


def beside_steps(of: Sequence[str], *, synthetic: bool, engine: str) -> "pd.Series[float]":
    """What these parts of the outer loop take of a meta-step, by workload."""
    table = study("outer_loop")
    table = table[table["workload"].str.endswith(("seed", "seeds")).eq(synthetic) & table["engine"].eq(engine)]
    return table[table["part"].isin(of)].groupby("workload")["fraction"].sum()


def in_half_precision(model: str, method: str) -> tuple[float, float, float]:
    """Points that bfloat16 adds within tasks: mean over seeds, smallest and largest of one."""
    table = study("half_precision")
    rows = table[table["model"].eq(model) & table["method"].eq(method) & table["status"].eq("ok")]
    by_seed = rows.pivot(index="seed", columns="dtype", values="accuracy")
    added = 100 * (by_seed["bfloat16"] - by_seed["float32"])
    return added.mean(), added.min(), added.max()


def saved_by_rematerialising(workload: str, steps: int) -> float:
    """Percent of the memory."""
    return 100 * (1 - along(workload, "steps", steps, "rematerialised") / along(workload, "steps", steps, "eager"))


def longer_rematerialised(workload: str, steps: int) -> float:
    """How many times as long."""
    point = workload, "steps", steps
    return along(*point, "rematerialised", "seconds") / along(*point, "eager", "seconds")


SPEED = [
    Claim(
        RECORD,
        "is ahead of `higher`, TorchOpt and JAX: from {} times as fast as the fastest of them (LR w/ KLin, one seed, "
        "where drawing tasks is most of the work) to {} times (LR w/ KFC).",
        lambda: (
            tuple(ahead_of_others().iloc[[0, -1]])
            if [*ahead_of_others().index[[0, -1]]] == ["klin_1_seed", "lr_kfc_5way_1shot"]
            else ()
        ),
    ),
    Claim(
        RECORD,
        "ours is slower than even the reference ({}), and stays below what is asked of LinNet with five seeds ({}, of "
        "{}) and of LR w/ KFC ({}, of {}).",
        lambda: (
            measured_speed("klin_1_seed", "eager"),
            *(
                measured_speed(workload, "eager", what)
                for workload in ("linnet_5_seeds", "lr_kfc_5way_1shot")
                for what in ("speedup", "least")
            ),
        ),
    ),
    Claim(
        RECORD,
        "{} at once of a CNN of four layers take {} MiB for {} tasks and {} for {}, and LR w/ KFC takes {} and {}",
        lambda: (
            CURVE_CHUNK,
            along("cnn4_maml_5way_1shot", "tasks", 16, "eager"),
            16,
            along("cnn4_maml_5way_1shot", "tasks", 64, "eager"),
            64,
            along("lr_kfc_5way_1shot", "tasks", 16, "eager"),
            along("lr_kfc_5way_1shot", "tasks", 64, "eager"),
        ),
    ),
    Claim(
        RECORD,
        "of {} tasks, {} at once are {} times as fast as the reference, and as many as is fastest {} times, in {} MiB. "
        "The reference, with one task at a time, takes {}.",
        lambda: (
            32,
            CURVE_CHUNK,
            along("cnn4_maml_5way_1shot", "tasks", 32, "eager", "speedup"),
            measured_speed("cnn4_maml_5way_1shot", "eager"),
            measured_speed("cnn4_maml_5way_1shot", "eager", "peak_memory_mib"),
            along("cnn4_maml_5way_1shot", "tasks", 32, "naive"),
        ),
    ),
    Claim(
        RECORD,
        "a CNN of two layers w/ KFC takes {} MiB for two steps and {} for eight, where {} and {} are kept otherwise, "
        "and {} times as long for eight.",
        lambda: (
            *(
                along("cnn2_kfc_10way_5shot", "steps", steps, engine)
                for engine in ("rematerialised", "eager")
                for steps in (2, 8)
            ),
            longer_rematerialised("cnn2_kfc_10way_5shot", 8),
        ),
    ),
    Claim(
        RECORD,
        "that saves {} % at eight steps, for {} times the time.",
        lambda: (saved_by_rematerialising("lr_kfc_5way_1shot", 8), longer_rematerialised("lr_kfc_5way_1shot", 8)),
    ),
    Claim(
        RECORD,
        "together take at most {} % of a meta-step.",
        lambda: (100 * beside_steps(PARTS, synthetic=False, engine="eager").max(),),
    ),
    Claim(
        RECORD,
        "as {} normal numbers a task take longer than a compiled step does: it is waited for {} to {} times as long as "
        "a step takes, though both cores draw, and evaluation adds {} to {} of a step.",
        lambda: (
            DIMENSION * POINTS,
            *beside_steps(["sampling"], synthetic=True, engine="compiled").agg(["min", "max"]),
            *beside_steps(["evaluation"], synthetic=True, engine="compiled").agg(["min", "max"]),
        ),
    ),
    Claim(
        RECORD,
        "by {} ({} to {}) and {} ({} to {}) points for LR under MAML and KFC, and by {} ({} to {}) and {} ({} to {}) "
        "for a CNN of two layers (mean, and range over {} seeds of {} tasks",
        lambda: (
            *(
                number
                for model in ("lr", "cnn")
                for method in ("maml", "kfc")
                for number in in_half_precision(model, method)
            ),
            study("half_precision")["seed"].nunique(),
            study("half_precision")["num_tasks"].unique().item(),
        ),
    ),
]
