"""Train, list, show and resume runs: `python -m core --help`."""

import argparse
import json
import os
import sys
import typing
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any

import pandas as pd

from core.chunking import AUTO, Chunk
from core.config import TrainConfig, is_own
from core.costs import duration, estimate
from core.distributed import leave, one_voice, rank_of_environment, size_of_environment
from core.errors import UserError
from core.experiments import EXPERIMENTS, experiment
from core.memory import is_out_of_memory, keep_freed_memory
from core.methods import METHODS
from core.models import MODELS
from core.runs import (
    UNREADABLE,
    Run,
    curve_table,
    is_finished,
    list_runs,
    load_run,
    named_run,
    read_config,
    read_summary,
)
from core.side_by_side import Interrupted
from core.states import read_state
from core.tasks import DATASETS, download
from core.training import meta_train_many

UNITS = {
    "dataset": f"one of {', '.join(DATASETS)}",
    "model": f"one of {', '.join(MODELS)}",
    "method": f"one of {', '.join(METHODS)}",
    "meta_optimizer": "sgd or adam: what trains theta and xi",
    "rotations": "rotated classes are new classes: true or false (image data sets)",
    "normalize": "pixels are normalised by channel: true or false (cifar_fs; default true)",
    "endless": "draw new tasks for ever, in place of fixed pools: true or false (image data sets)",
    "same_points": "the query set is the support set: true or false (synthetic; default true)",
    "depth": "convolutional layers, 1 to 4 (cnn; default 4)",
    "filters": "output channels of each convolution (cnn; default 64)",
    "bias": "linear layers have a bias: true or false (lr, linnet; default false)",
    "init_scale": "factor on the initial weights (lr, linnet; default 1)",
    "norm_mode": "batch (statistics of the batch at hand), instance or none (cnn; default batch)",
    "downsample": "stride or max_pool (cnn; default stride)",
    "rule_depth": "maps of the meta-optimizer (kfc; required there)",
    "rule_rank": "rank of the factors (cholesky; required there)",
    "rule_bias": "the meta-optimizer's maps add a bias: true or false (klin, kfc, linear; default false)",
    "unit_norm": "gradients at unit norm and a learnable scale, A.1.2: true or false (kfc; default false)",
    "adapt_xi": "xi is adapted within a task: true or false (default: the rule's own)",
    "adapted": "layers, parameters or globs of what adapts within a task, such as FC 'C*.conv.*' (default: all)",
    "inner_dtype": "bfloat16 to compute meta-gradients within tasks in half precision (default: single)",
    "steps": "adaptation steps within a task",
    "adapt_lr": "adaptation learning rate",
    "first_order": "treat inner gradients as constants: true or false",
    "meta_lr": "learning rate of the outer loop",
    "iterations": "meta-training iterations",
    "tasks_per_iteration": "tasks averaged in an iteration",
    "eval_every": "iterations between two points of the curve (0: the two ends only)",
    "eval_tasks": "tasks of each split behind a point of the curve",
    "ways": "classes a task (image data sets)",
    "shots": "support examples a class (image data sets), or in all (sinusoid)",
    "query_shots": "query examples, as shots (default: shots)",
    "points": "points in the support set, and in the query set (synthetic; default 1000)",
    "input_scale": "standard deviation of a coordinate (synthetic; default 0.1)",
    "hidden": "widths of LinNet's hidden layers",
    "lr_scope": "what adapt_lr scales: both updates, or that of xi only (for rules that adapt xi)",
}


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return text.lower() == "true"


def _chunk(text: str) -> Chunk:
    if text != AUTO and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number or {AUTO}, not {text!r}")
    return AUTO if text == AUTO else int(text)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    hints = typing.get_type_hints(TrainConfig)
    for field in fields(TrainConfig):
        if field.name in ("seed", "own"):  # `--seeds`; and modules of one's own are trained in Python
            continue
        kind = hints[field.name]
        if isinstance(kind, UnionType):
            kind = next(part for part in typing.get_args(kind) if part is not type(None))
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": UNITS.get(field.name, "")}
        if field.default is MISSING:
            options["required"] = True
        elif field.default is not None:
            options["help"] += f" (default {field.default})"
        if typing.get_origin(kind) is tuple:
            options |= {"type": typing.get_args(kind)[0], "nargs": "*"}
        elif kind is bool:
            options["type"] = _boolean
        elif kind in (int, float):
            options["type"] = kind
        parser.add_argument(f"--{field.name.replace('_', '-')}", metavar=field.name.upper(), **options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m core", description="Meta-train models, and look at saved runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="train, or go on training, one run per seed",
        usage="%(prog)s --dataset DATASET --model MODEL --method METHOD ... (--help has all settings)",
    )
    _add_settings(train)
    train.add_argument("--seeds", type=int, nargs="+", action="extend", help="one run per seed (default 0)")
    of_paper = commands.add_parser("experiment", help="train all runs of the paper's experiments")
    cost = commands.add_parser("cost", help="estimate what `experiment` will take on this machine, and train nothing")
    for command in (of_paper, cost):
        command.add_argument("names", nargs="+", metavar="name", help=f"of {', '.join(EXPERIMENTS)}")
        command.add_argument("--preset", default="quick", help="quick or paper, the full length (default quick)")
        command.add_argument("--iterations", type=int, help="meta-training iterations in place of the preset's")
        command.add_argument("--num-seeds", type=int, help="seeds 0, 1, ... in place of the preset's")
        command.add_argument("--tasks-per-iteration", type=int, help="in place of the preset's (CNN experiments)")
        command.add_argument("--eval-tasks", type=int, help="tasks behind a point of the curve (CNN experiments)")
    resume = commands.add_parser("resume", help="go on with interrupted runs")
    resume.add_argument("runs", nargs="+", type=Path, help="run folders, or ids of runs in --results")
    for command in (train, of_paper, cost, resume):
        command.add_argument("--data-dir", help="folder of the data set's files (default: $DATA_DIR)")
        command.add_argument("--device", help="such as cpu or cuda (default: the GPU if there is one)")
        command.add_argument(
            "--tasks-per-chunk",
            type=_chunk,
            help="tasks that go through at once; bounds the memory; auto: the fastest",
        )
    for command in (train, of_paper, resume):
        command.add_argument(
            "--compile", action="store_true", help="compile first (10 s to minutes a method; for long runs)"
        )
        command.add_argument(
            "--rematerialise", action="store_true", help="compute steps again in the backward pass; less memory"
        )
        command.add_argument("--quiet", action="store_true", help="no progress bar")
        command.add_argument("--tensorboard", action="store_true", help="also write TensorBoard event files")
    fetch = commands.add_parser("download", help="fetch the files of data sets")
    fetch.add_argument("names", nargs="+", metavar="name", help=f"of {', '.join(DATASETS)}")
    fetch.add_argument("--data-dir", required=True, help="folder that the files go into")
    listing = commands.add_parser("list", help="list the runs")
    show = commands.add_parser("show", help="show one run, finished or not: settings, status, curve")
    show.add_argument("run", type=Path, help="run folder, or the id of a run in --results")
    for command in (train, of_paper, cost, listing, show, resume):
        command.add_argument("--results", type=Path, default=Path("results"), help="where runs are (default results)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 if a run diverged, 2 for a mistake in the input, 130 if stopped."""
    code = 0
    try:
        options = _parser().parse_args(arguments)
        with one_voice():
            code = _run(options)
        if code != 2:
            leave()
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
    except KeyboardInterrupt:  # not within the iterations, or a second time
        print("stopped; the same command goes on from what is saved", file=sys.stderr)
        return 130
    return code


def _run(options: argparse.Namespace) -> int:
    """Run the command that `options` name; returns the exit code."""
    rank, size = rank_of_environment(), size_of_environment()
    keep_freed_memory()
    try:
        commands = {
            "train": _train,
            "experiment": _experiment,
            "cost": _cost,
            "download": _download,
            "resume": _resume,
            "list": _list,
            "show": _show,
        }
        return commands[options.command](options)
    except UserError as error:
        print(f"error in process {rank}: {error}" if size > 1 else f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        if rank == 0:
            print(f"{error}; the same command goes on from there", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print("error: out of memory; fewer tasks at once (--tasks-per-chunk) need less", file=sys.stderr)
        return 2


def _train(options: argparse.Namespace) -> int:
    names = {field.name for field in fields(TrainConfig)}
    settings = {name: value for name, value in vars(options).items() if name in names}
    configs = [TrainConfig.from_dict({**settings, "seed": seed}) for seed in options.seeds or [0]]
    return _train_all(configs, options.results, options)


def _configs_of_experiments(options: argparse.Namespace) -> dict[str, list[TrainConfig]]:
    """The configurations of every experiment named; says in which ways it is shorter than the paper's."""
    lengths = {
        "iterations": options.iterations,
        "seeds": options.num_seeds,
        "tasks_per_iteration": options.tasks_per_iteration,
        "eval_tasks": options.eval_tasks,
    }
    given = {key: value for key, value in lengths.items() if value is not None}
    made = {name: experiment(name, options.preset, **given) for name in options.names}
    for reduction in [sentence for _, reductions in made.values() for sentence in reductions]:
        print(f"reduced: {reduction}")
    return {name: configs for name, (configs, _) in made.items()}


def _experiment(options: argparse.Namespace) -> int:
    configs = [config for configs in _configs_of_experiments(options).values() for config in configs]
    return _train_all(list(dict.fromkeys(configs)), options.results, options)


def _cost(options: argparse.Namespace) -> int:
    counted: set[TrainConfig] = set()
    total = 0.0
    for name, configs in _configs_of_experiments(options).items():
        cost = estimate(
            [config for config in configs if config not in counted],
            results=options.results,
            root=options.data_dir,
            device=options.device,
            tasks_per_chunk=options.tasks_per_chunk,
        )
        counted.update(configs)
        total += cost.hours
        print(
            f"{name}: {cost.runs} runs to train, {cost.iterations:,} iterations in all, each of "
            f"{configs[0].tasks_per_iteration} tasks: {duration(cost.hours)}",
            flush=True,
        )
    print(
        f"together {duration(total)} of training, estimated from a few iterations here; finished runs are not counted"
    )
    return 0


def _download(options: argparse.Namespace) -> int:
    for name in options.names:
        download(name, options.data_dir)
        print(f"{name} is in {options.data_dir}")
    return 0


def _resume(options: argparse.Namespace) -> int:
    # A resolved folder has its parents; one with another name than its run's would be written elsewhere.
    folders = [named_run(name, options.results).resolve() for name in options.runs]
    codes = []
    for results in dict.fromkeys(folder.parent.parent for folder in folders):
        configs = []
        for folder in folders:
            if folder.parent.parent != results:
                continue
            config = read_config(folder)
            if folder.name != config.id or folder.parent.name != "runs":
                raise UserError(f"{folder} cannot be resumed: a run's folder is <results>/runs/{config.id}")
            if is_finished(folder):
                print(f"{config.id} is finished already")
            configs.append(config)
        codes.append(_train_all(configs, results, options))
    return max(codes)


def _train_all(configs: list[TrainConfig], results: Path, options: argparse.Namespace) -> int:
    runs = meta_train_many(
        configs,
        results=results,
        root=options.data_dir,
        device=options.device,
        tasks_per_chunk=options.tasks_per_chunk,
        compile=options.compile,
        rematerialise=options.rematerialise,
        progress=not options.quiet,
        tensorboard=options.tensorboard,
    )
    for run in runs:
        print(f"{run.path}: {_summary(run)}")
    return 1 if any(run.diverged for run in runs) else 0


def _summary(run: Run) -> str:
    if run.diverged:
        return run.status
    points = run.curve[run.curve["split"] == "test"]
    if points.empty:  # of a file that was changed, or of another program
        return f"{run.status}, with no test accuracy in its curve"
    last = points.iloc[-1]
    what = "loss" if pd.isna(last["accuracy"]) else "accuracy"  # of regression
    return (
        f"{run.status}, test {what} {last[what]:.3f} (mean over {last['num_tasks']} tasks) "
        f"after {last['iteration']} iterations"
    )


def _list(options: argparse.Namespace) -> int:
    table = list_runs(options.results).drop(columns="path").astype(object)
    table = table.where(table.notna(), "")
    damaged = table["status"].str.startswith(f"{UNREADABLE}: ")
    reasons = table.loc[damaged, "status"].str.removeprefix(f"{UNREADABLE}: ")
    table.loc[damaged, "status"] = UNREADABLE  # a sentence in a column would push the others off the screen
    print(table.to_string(index=False) if len(table) else f"no runs in {options.results / 'runs'}")
    for run, reason in zip(table.loc[damaged, "id"], reasons, strict=True):
        print(f"{run} is unreadable: {reason}")
    return 0


def _show(options: argparse.Namespace) -> int:
    folder = named_run(options.run, options.results)
    config = read_config(folder)
    if not is_finished(folder):
        status, info, curve = _unfinished(folder, config)
    elif is_own(config.model):  # whose weights cannot be held to a module here
        status, info, curve = read_summary(folder, config)
    else:
        run = load_run(folder)
        status, info, curve = run.status, run.info, run.curve
    print(json.dumps({"id": config.id, "status": status, **info, "config": asdict(config)}, indent=2))
    print(curve.to_string(index=False))
    return 0


def _unfinished(folder: Path, config: TrainConfig) -> tuple[str, dict[str, Any], pd.DataFrame]:
    """Status, `Run.info` and curve of a run that is in training or was stopped, by the state last saved."""
    path = folder / "state.safetensors"
    nothing: dict[str, Any] = {"iteration": 0, "seconds": 0.0, "curve": []}
    state = read_state(path, config)[1] if path.exists() else nothing
    info = {"iterations_done": state["iteration"], "wall_seconds": round(state["seconds"], 3)}
    return "unfinished", info, curve_table(state["curve"])


if __name__ == "__main__":
    sys.exit(main())
