"""What writes: each thing that this project puts on a disk, at its smallest, from Python or by its command."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import analysis.__main__
import chain.__main__
import core.__main__
import core.side_by_side
import figures.__main__
from analysis.errors import StudyError
from analysis.store import provenance, read_table, write_table
from core import TrainConfig, make_tasks
from core.errors import UserError
from core.group import Group
from core.runs import save_run, write_config
from core.tasks.base import concatenate
from core.tasks.cache import cached_arrays
from core.version import code_version
from figures.page import page
from figures.registry import FIGURES
from figures.report import collect
from tests.faults.processes import ended

Begin = Callable[[Path], Callable[[], int]]


@dataclass(frozen=True)
class Work:
    """Something that writes into a folder.

    Attributes:
        name: what it is.
        begin: called in the process that does it, with the folder; returns what is disturbed, which returns an exit
            code. What both do beside it is undisturbed.
        before: the folder's content when it begins, copied; None: nothing.
        moving: names of files that are written many times on the way; any whole one will do.
        rounds: whether several seeds are trained together, which may go on apart, and so round otherwise.
    """

    name: str
    begin: Begin
    before: Path | None = None
    moving: tuple[str, ...] = ()
    rounds: bool = False

    def prepare(self, folder: Path) -> Path:
        """A fresh folder with what is there before."""
        if folder.exists():
            clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.before is not None:
            shutil.copytree(self.before, folder, dirs_exist_ok=True)
        return folder


def clear(folder: Path) -> None:
    """Remove what a folder holds; the folder may be a mounted disk."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def config(**changes: Any) -> TrainConfig:
    """A run that trains in a blink."""
    settings = {
        "dataset": "synthetic", "model": "lr", "method": "maml", "steps": 1, "adapt_lr": 0.5, "first_order": False,
        "meta_optimizer": "adam", "meta_lr": 0.01, "iterations": 6, "tasks_per_iteration": 2, "points": 8,
        "eval_every": 2, "eval_tasks": 3,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def words(of: TrainConfig) -> list[str]:
    """The settings of a run on the command line."""
    named = {name: value for name, value in vars(of).items() if value is not None and name not in ("seed", "own")}
    flat = [(f"--{name.replace('_', '-')}", str(value)) for name, value in named.items()]
    return [word for pair in flat for word in pair]


def guarded(write: Callable[[], object]) -> Callable[[], int]:
    """As a command would say it: the project's errors in one sentence, with code 2."""

    def do() -> int:
        try:
            write()
        except (UserError, StudyError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        return 0

    return do


def training(folder: Path, *options: str, of: TrainConfig | None = None) -> Callable[[], int]:
    """`python -m core train`, with a checkpoint after every iteration."""
    core.side_by_side.CHECKPOINT_SECONDS = 0.0
    settings = config() if of is None else of
    return partial(core.__main__.main, ["train", "--quiet", "--results", str(folder), *words(settings), *options])


def train(folder: Path, *options: str, of: TrainConfig | None = None) -> int:
    """The same, at once."""
    return training(folder, *options, of=of)()


def grouped(iterations: int, results: Path | None, *seeds: int) -> Group:
    """A group of runs after some iterations; no clock is in it."""
    configs = [config(seed=seed) for seed in seeds or (0,)]
    options = configs[0].task_options()
    sources = [make_tasks("synthetic", seed=c.seed, **options) for c in configs]
    group = Group(configs, sources, results, torch.device("cpu"))
    for iteration in range(iterations):
        batch = [source.sample("train", 2, iteration) for source in sources]
        group.step(concatenate(batch))
    group.seconds = 1.0
    return group


CHAIN = ("--datasets", "synthetic", "--figures", "fig1", "--iterations", "4", "--seeds", "2", "--num-tasks", "2")


def chain_plan(results: Path) -> Any:
    from chain import Settings, make_plan

    return make_plan(
        Settings(results=results, datasets=("synthetic",), figures=("fig1",), iterations=4, seeds=2, num_tasks=2)
    )


def chained(*arguments: str) -> Begin:
    """A step of the chain by its command."""

    def begin(folder: Path) -> Callable[[], int]:
        core.side_by_side.CHECKPOINT_SECONDS = 0.0
        return lambda: chain.__main__.main([*arguments, *CHAIN, "--results", str(folder)])

    return begin


def whole_chain(folder: Path) -> int:
    """Every step of the chain, one after the other, each of which does nothing if it is done."""
    plan = chain_plan(folder)
    steps = [("train", group) for group in plan.groups]
    steps += [("study", *table) for table in plan.tables]
    steps += [("draw", figure) for figure in plan.figures]
    for step in steps:
        if code := chained(*step)(folder)():
            return code
    return 0


def make_works(templates: Path) -> dict[str, Work]:
    """All works by name; what they find is made once, in `templates`.

    Raises:
        AssertionError: if a template cannot be made.
    """

    def template(name: str, fill: Callable[[Path], object]) -> Path:
        folder = templates / name
        folder.mkdir(parents=True)

        def do() -> int:
            fill(folder)
            return 0

        outcome = ended(lambda: do)
        assert outcome.code == 0, outcome
        return folder

    def state_after(iterations: int, *seeds: int) -> Callable[[Path], None]:
        def fill(folder: Path) -> None:
            group = grouped(iterations, folder, *seeds)
            for of in group.configs:
                write_config(of, folder / "runs" / of.id)
            group.measure(lambda source, split, number, index: source.sample(split, number, index))
            group.save_state()

        return fill

    def runs(folder: Path) -> None:
        for of in (config(), config(method="klin"), config(seed=1)):
            assert train(folder, "--seeds", str(of.seed), of=of) == 0

    def tables(folder: Path) -> None:
        runs(folder)
        for study in ("post_adaptation", "training_curves"):
            code = analysis.__main__.main([study, "--quiet", "--num-tasks", "3", "--results", str(folder)])
            assert code == 0, f"{study} ended with {code}"

    def chain_done(until: str) -> Callable[[Path], None]:
        def fill(folder: Path) -> None:
            plan = chain_plan(folder)
            for group in plan.groups:
                assert chained("train", group)(folder)() == 0
            if until == "study":
                for table in plan.tables:
                    assert chained("study", *table)(folder)() == 0

        return fill

    # Asked once, for all processes that are forked: it takes a while, and somebody may be at work on the code.
    code_version("core")
    code_version("core", "analysis")
    # And done once here, so that processes that are forked need not load what is loaded at first use.
    save_run(grouped(6, None)._finish(0, "ok"), templates / "warm")
    begun = template("begun", state_after(2))
    trained = template("trained", runs)
    measured = template("measured", tables)
    chain_trained = template("chain trained", chain_done("train"))
    chain_measured = template("chain measured", chain_done("study"))
    old = template("old", lambda folder: old_artefacts(folder))

    def begin_state(folder: Path) -> Callable[[], int]:
        return guarded(grouped(4, folder).save_state)

    def begin_run(folder: Path) -> Callable[[], int]:
        run = grouped(6, None)._finish(0, "ok")
        return guarded(lambda: save_run(run, folder))

    def begin_table(folder: Path) -> Callable[[], int]:
        path = next((measured / "post_adaptation").glob("*.parquet"))
        frame = read_table(path)
        return guarded(lambda: write_table(folder, "post_adaptation", "one", frame, frame.attrs["provenance"]))

    # Drawn once: a process that is forked has them.
    entry = FIGURES["fig1"]
    figure, _ = entry.draw(next(iter(entry.traces(chain_measured, ()).values())))
    text = page(collect(measured))

    def begin_file(name: str, content: Any) -> Begin:
        return lambda folder: guarded(lambda: figures.__main__._write(folder / "figures" / name, content))

    def begin_cache(folder: Path) -> Callable[[], int]:
        def make() -> dict[str, np.ndarray]:
            return {"x": np.arange(4000.0), "y": np.arange(5)}

        def do() -> None:
            found = cached_arrays("arrays", ("x", "y"), make, folder)
            assert all(np.array_equal(found[key], value) for key, value in make().items())

        return guarded(do)

    first_group = next(iter(chain_plan(Path("nowhere")).groups))
    first_table = next(iter(chain_plan(Path("nowhere")).tables))
    state = ("state.safetensors",)
    works = [
        Work("state", begin_state, begun),
        Work("run", begin_run, begun, state),
        Work("table", begin_table, old),
        Work("figure png", begin_file("fig.png", figure), old),
        Work("figure pdf", begin_file("fig.pdf", figure), old),
        Work("figure svg", begin_file("fig.svg", figure)),
        Work("report", begin_file("report.html", text), old),
        Work("cache", begin_cache),
        Work("core train", training, None, state),
        Work("core resume", begin_resume, begun, state),
        Work("two seeds", lambda folder: training(folder, "--seeds", "0", "1"), None, state, True),
        Work(
            "analysis",
            lambda folder: (
                lambda: analysis.__main__.main(
                    ["post_adaptation", "--quiet", "--num-tasks", "3", "--results", str(folder)]
                )
            ),
            trained,
        ),
        Work(
            "figures",
            lambda folder: lambda: figures.__main__.main(["table1", "--results", str(folder)]),
            chain_measured,
        ),
        Work("chain train", chained("train", first_group), None, state, True),
        Work("chain study", chained("study", *first_table), chain_trained),
        Work("chain draw", chained("draw", "fig1"), chain_measured),
    ]
    return {work.name: work for work in works}


def begin_resume(folder: Path) -> Callable[[], int]:
    """`python -m core resume`, with a checkpoint after every iteration."""
    core.side_by_side.CHECKPOINT_SECONDS = 0.0
    return lambda: core.__main__.main(["resume", "--quiet", os.fspath(folder / "runs" / config().id)])


def old_artefacts(folder: Path) -> None:
    """A table, figures and a report as an earlier call has left them."""
    frame = {"dataset": ["synthetic"], "ceiling": ["bayes"], "evaluated_on": ["same"], "points": [1], "task_seed": [0]}
    import pandas as pd

    ceilings = pd.DataFrame({**frame, "task": [0], "accuracy": [1.0]})
    origin = provenance(command="test", settings={"points": 1})
    path = write_table(folder, "ceilings", "one", ceilings, origin)
    (folder / "post_adaptation").mkdir()
    path.rename(folder / "post_adaptation" / "one.parquet")
    (folder / "ceilings").rmdir()
    (folder / "figures").mkdir()
    for name in ("fig.png", "fig.pdf", "report.html"):
        (folder / "figures" / name).write_text("an older one")
