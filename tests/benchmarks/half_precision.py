"""What half precision within tasks costs in accuracy, and saves in time: the same trainings with and without it.

python -m tests.benchmarks.half_precision          # into results/half_precision: some minutes
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.statistics import interval
from analysis.store import provenance, write_table
from core import TrainConfig, meta_train
from core.experiments import experiment
from tests.benchmarks.suite import typed

ITERATIONS = {"glyphs_linear": 300, "glyphs_optimizers": 60}


def configs(experiment_name: str, seeds: int) -> list[TrainConfig]:
    """MAML and KFC of an experiment, at a length that two cores manage in a minute."""
    shorter = {"tasks_per_iteration": 8} if experiment_name.endswith("optimizers") else {}
    runs, _ = experiment(experiment_name, "paper", iterations=ITERATIONS[experiment_name], seeds=seeds, **shorter)
    return [replace(c, eval_every=0) for c in runs if c.method in ("maml", "kfc") and c.model != "linnet"]


def measure(run_configs: list[TrainConfig], num_tasks: int) -> tuple[pd.DataFrame, str]:
    """The rows of `analysis.schemas.SCHEMAS["half_precision"]`, and the data set's fingerprint.

    The two precisions train one after the other, on tasks of one data set.
    """
    rows, fingerprints = [], set()
    for config in run_configs:
        for dtype in (None, "bfloat16"):
            started = time.perf_counter()
            run = meta_train(replace(config, inner_dtype=dtype), results=None, progress=False)
            seconds = time.perf_counter() - started
            fingerprints.add(run.info["dataset_fingerprint"])
            points = run.evaluate(run.tasks(seed=1).sample("test", num_tasks))
            query = points[(points["split"] == "query") & (points["step"] == config.steps)]
            rows.append(
                {
                    "dataset": config.dataset, "model": config.model, "method": config.method, "seed": config.seed,
                    "dtype": dtype or "float32", "status": run.status, "iterations": config.iterations,
                    "tasks_per_iteration": config.tasks_per_iteration, "num_tasks": num_tasks,
                    "loss": query["loss"].mean(), "accuracy": query["accuracy"].mean(), "seconds": seconds,
                }
            )  # fmt: skip
            print(f"{run.id} {rows[-1]['dtype']}: accuracy {rows[-1]['accuracy']:.3f}, {seconds:.0f} s", flush=True)
    (fingerprint,) = fingerprints
    return typed(pd.DataFrame(rows), "half_precision"), fingerprint


def summary(table: pd.DataFrame) -> str:
    """Of each model and method: the change of accuracy in points, with its interval over seeds, and of time."""
    lines = []
    for (model, method), rows in table.groupby(["model", "method"]):
        by_seed = rows.pivot(index="seed", columns="dtype", values=["accuracy", "seconds"])
        change = 100 * (by_seed["accuracy", "bfloat16"] - by_seed["accuracy", "float32"])
        over_seeds = interval(change.to_numpy())
        faster = (by_seed["seconds", "float32"] / by_seed["seconds", "bfloat16"]).median()
        lines.append(
            f"{model} {method}: {change.mean():+.2f} points [{over_seeds.low:.2f}, {over_seeds.high:.2f}], "
            f"{faster:.2f} times as fast"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.half_precision", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the tables go (default results)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default 3)")
    parser.add_argument("--num-tasks", type=int, default=200, help="test tasks of each run (default 200)")
    given = parser.parse_args()
    tables = []
    for name in ITERATIONS:
        started = time.perf_counter()
        table, fingerprint = measure(configs(name, given.seeds), given.num_tasks)
        tables.append(table)
        settings = {"seeds": given.seeds, "num_tasks": given.num_tasks, "iterations": ITERATIONS[name]}
        seconds = time.perf_counter() - started
        told = provenance(settings=settings, dataset_fingerprint=fingerprint, wall_seconds=seconds)
        write_table(given.results, "half_precision", name, table, told)
    print(summary(pd.concat(tables)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
