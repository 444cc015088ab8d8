"""Small tables of known numbers, written through the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis.store import provenance, write_table

matplotlib.use("agg")

PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "synthetic": {"steps": 1, "ways": None, "shots": None, "iterations": 30_000, "tasks_per_iteration": 1},
    "cnn": {
        "steps": 4, "ways": 10, "shots": 5, "iterations": 600, "tasks_per_iteration": 4, "filters": 64,
        "norm_mode": "batch", "downsample": "stride",
    },
    "cnn cifar_fs": {"steps": 2, "shots": 3, "filters": 32},
    "cnn mini_imagenet": {"steps": 5, "shots": 1, "filters": 32, "downsample": "max_pool"},
    "images": {"steps": 2, "ways": 5, "shots": 1, "iterations": 600, "tasks_per_iteration": 32},
}  # fmt: skip


class Results:
    """A folder of results to which tables are added, by default with the settings of the paper."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self, dataset: str, model: str, method: str, seed: int, **changes: Any) -> dict[str, Any]:
        if model == "cnn":
            settings = {**PAPER_SETTINGS["cnn"], **PAPER_SETTINGS.get(f"cnn {dataset}", {})}
            settings |= {"rule_depth": 4, "unit_norm": True} if method == "kfc" else {}
        else:
            settings = PAPER_SETTINGS["synthetic" if dataset == "synthetic" else "images"]
        own = {"dataset": dataset, "model": model, "method": method, "seed": seed, "adapt_lr": 0.5}
        return {**own, "points": None, "same_points": None, "eval_every": 100, **settings, **changes}

    def run_id(self, config: Mapping[str, Any]) -> str:
        model = f"{config['model']}{config.get('depth') or ''}"
        return f"{config['dataset']}-{model}-{config['method']}-s{config['seed']}-{config['iterations']}"

    def measured(
        self, dataset: str, model: str, method: str, seed: int,
        accuracies: Sequence[float] | Mapping[str, Sequence[float]], *, status: str = "ok",
        lost_tasks: Sequence[int] = (), task_seed: int = 0, **changes: Any,
    ) -> str:  # fmt: skip
        """Add a table post_adaptation; accuracies (fractions) by task, for synthetic tasks also by points seen."""
        config = self.config(dataset, model, method, seed, **changes)
        run, steps = self.run_id(config), config["steps"]
        if not isinstance(accuracies, Mapping):
            accuracies = {"same" if dataset == "synthetic" else "": accuracies}
        rows = []
        for points_seen, values in accuracies.items():
            for task, value in enumerate(values):
                bad = status if status != "ok" else "diverged" if task in lost_tasks else "ok"
                for step in range(steps + 1):
                    for split in ("support", "query"):
                        # Only the last step's query rows are what a figure may use; the others are decoys.
                        wanted = step == steps and split == "query"
                        accuracy = np.nan if bad != "ok" else value if wanted else 0.123
                        rows.append((points_seen, task, step, split, accuracy, bad))
        frame = pd.DataFrame(rows, columns=["points_seen", "task", "step", "split", "accuracy", "status"])
        frame = frame.assign(
            run=run, dataset=dataset, model=model, method=method, seed=seed, steps=steps, adapt_lr=0.5,
            ways=pd.array([config["ways"]] * len(frame), dtype="Int64"),
            shots=pd.array([config["shots"]] * len(frame), dtype="Int64"),
            task_seed=task_seed, loss=frame["accuracy"] * 0 + 0.5,
        )  # fmt: skip
        write_table(self.folder, "post_adaptation", run, frame, provenance(config=config, command="test"))
        return run

    def compared(
        self, study: str, dataset: str, layers: int, method: str, seed: int, accuracies: Sequence[float], *,
        status: str = "ok", lost_tasks: Sequence[int] = (), task_seed: int = 0, first_task: int = 0,
        rule_parameters: int = 0, **changes: Any,
    ) -> str:  # fmt: skip
        """Add a table of a CNN to depth_sweep or optimizer_comparison; accuracies (fractions) by task."""
        config = self.config(dataset, "cnn", method, seed, depth=layers, **changes)
        run, steps = self.run_id(config), config["steps"]
        rows = []
        for task, value in enumerate(accuracies, first_task):
            bad = status if status != "ok" else "diverged" if task in lost_tasks else "ok"
            for step in range(steps + 1):
                for split in ("support", "query"):
                    # Only the last step's query rows are what a figure may use; the others are decoys.
                    accuracy = np.nan if bad != "ok" else value if (step, split) == (steps, "query") else 0.123
                    rows.append((task, step, split, accuracy, bad))
        frame = pd.DataFrame(rows, columns=["task", "step", "split", "accuracy", "status"])
        whole = {name: pd.array([value] * len(frame), dtype="Int64") for name, value in (
            ("layers", layers), ("ways", config["ways"]), ("shots", config["shots"])
        )}  # fmt: skip
        frame = frame.assign(
            run=run, dataset=dataset, model="cnn", method=method, seed=seed, steps=steps, **whole,
            **{name: config[name] for name in ("norm_mode", "adapt_lr", "iterations", "tasks_per_iteration")},
            model_parameters=1000 * layers, rule_parameters=rule_parameters, task_seed=task_seed,
            loss=frame["accuracy"] * 0 + 0.5,
        )  # fmt: skip
        write_table(self.folder, study, run, frame, provenance(config=config, command="test"))
        return run

    def curve(
        self, dataset: str, model: str, method: str, seed: int, points: Mapping[int, float], *, status: str = "ok",
        num_tasks: int = 20, training: Mapping[int, float] | None = None, lost_at: Sequence[int] = (), **changes: Any,
    ) -> str:  # fmt: skip
        """Add a table training_curves; test (and training) accuracy by iteration, a fraction, and decoys else.

        Of test tasks, some diverged at the iterations of `lost_at`.
        """
        config = self.config(dataset, model, method, seed, **changes)
        run = self.run_id(config)
        measured = {"test": points, "train": training or {}}
        rows = [
            (iteration, split, 0.5, measured.get(split, {}).get(iteration, 0.123))
            for iteration in points
            for split in ("train", "validation", "test")
        ]
        frame = pd.DataFrame(rows, columns=["iteration", "split", "loss", "accuracy"]).assign(
            run=run, dataset=dataset, model=model, method=method, seed=seed, status=status, num_tasks=num_tasks
        )
        lost = frame["split"].eq("test") & frame["iteration"].isin(lost_at)
        frame.loc[lost, "status"], frame.loc[lost, ["loss", "accuracy"]] = "diverged", np.nan
        write_table(self.folder, "training_curves", run, frame, provenance(config=config, command="test"))
        return run

    def bound(
        self, dataset: str, layers: int, accuracies: Sequence[float], *, steps: Sequence[int] | int = 40,
        unconverged: Sequence[int] = (), lost_tasks: Sequence[int] = (), id: str = "", norm_mode: str = "batch",
        task_seed: int = 0, training_shots: int = 15, stated: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Add a table upper_bound; accuracies (fractions) and steps by task; `stated` is what it says of the model."""
        config = self.config(dataset, "cnn", "maml", 0)
        tasks = range(len(accuracies))
        frame = pd.DataFrame(
            {
                "task": tasks,
                "accuracy": [np.nan if task in lost_tasks else value for task, value in enumerate(accuracies)],
                "status": ["diverged" if task in lost_tasks else "ok" for task in tasks],
                "converged": [task not in unconverged for task in tasks],
                "training_steps": steps,
            }
        )
        whole = {name: pd.array([value] * len(frame), dtype="Int64") for name, value in (
            ("layers", layers), ("ways", config["ways"]), ("shots", config["shots"]),
            ("training_shots", training_shots),
        )}  # fmt: skip
        frame = frame.assign(
            dataset=dataset, model="cnn", norm_mode=norm_mode, task_seed=task_seed,
            training_loss=frame["accuracy"] * 0 + 0.01, loss=frame["accuracy"] * 0 + 0.5, **whole,
        )  # fmt: skip
        name = id or f"{dataset}-cnn-{layers}-s{task_seed}"
        write_table(self.folder, "upper_bound", name, frame, provenance(config=stated, command="test"))

    def studied(
        self, study: str, rows: pd.DataFrame, seed: int = 0, *, write: bool = True, model: str = "cnn",
        dataset: str = "glyphs", method: str = "maml", **changes: Any,
    ) -> pd.DataFrame:  # fmt: skip
        """A table of a study of single networks, of these rows, which may lack what all such tables have; also written.

        `changes` are of the run's configuration: `depth`, `ways`, `own`, ...
        """
        base = {"depth": 4 if model == "cnn" else None, "ways": 10, "shots": 5, "steps": 2, "own": None, **changes}
        config = {**self.config(dataset, "cnn", method, seed), **base, "model": model}
        run = f"{self.run_id(config)}-{config['own'] or 'x'}".replace(":", ".")
        whole = {name: pd.array([value] * len(rows), dtype="Int64") for name, value in (
            ("layers", config["depth"]), ("ways", config["ways"]), ("shots", config["shots"])
        )}  # fmt: skip
        known = {
            "run": run, "dataset": dataset, "model": model, "method": method, "seed": seed, "status": "ok",
            "norm_mode": config["norm_mode"] or "", "task_seed": 0, **whole,
            **{name: config[name] for name in ("steps", "adapt_lr", "iterations", "tasks_per_iteration")},
        }  # fmt: skip
        frame = rows.assign(**{name: value for name, value in known.items() if name not in rows})
        if write:
            write_table(self.folder, study, run, frame, provenance(config=config, command="test"))
        return frame

    def ceilings(self, values: Mapping[tuple[str, str], Sequence[float]], *, points: int = 1000, id: str = "c") -> None:
        """Add a table ceilings; accuracies (fractions) by task, by (ceiling, evaluated_on)."""
        frame = pd.DataFrame(
            [(c, on, t, float(v)) for (c, on), numbers in values.items() for t, v in enumerate(numbers)],
            columns=["ceiling", "evaluated_on", "task", "accuracy"],
        ).assign(dataset="synthetic", points=points, task_seed=0)
        write_table(self.folder, "ceilings", id, frame, provenance(command="test"))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """An empty folder of results."""
    return Results(tmp_path / "results")


@pytest.fixture(autouse=True)
def close_figures():
    """Leave no figure open."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
