"""The steps of the chain one by one, as its jobs call them: `python -m chain --help`."""

import argparse
import shlex
import sys
import typing
from dataclasses import fields
from pathlib import Path

from analysis.errors import StudyError
from chain.settings import Settings, kind_of

HELP = {
    "results": "folder of runs, tables and figures (default reproduced)",
    "preset": "quick or paper (default quick)",
    "images": "the data set of characters (default glyphs)",
    "datasets": "data sets in place of the preset's",
    "figures": "only what these figures need (default: all)",
    "num_tasks": "test tasks that each run is measured on, in place of the preset's",
    "iterations": "meta-training iterations in place of the preset's",
    "seeds": "seeds 0, 1, ... in place of the preset's",
    "tasks_per_iteration": "in place of the preset's (CNN experiments)",
    "eval_tasks": "tasks behind a point of the curve (CNN experiments)",
    "data_dir": "folder of the data sets' files (default: $DATA_DIR)",
    "device": "such as cpu or cuda (default: the GPU if there is one)",
    "tasks_per_chunk": "tasks that go through at once in training; bounds the memory",
    "together": "one job trains all runs that meet the same tasks",
    "compile": "compile training first (10 s to minutes a method; for long runs)",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chain",
        description="One step of the chain from run to figure; `snakemake` in the project's folder does them all.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a group of runs, which differ in their seed alone")
    train.add_argument("group")
    study = commands.add_parser("study", help="make a table")
    study.add_argument("study")
    study.add_argument("table")
    draw = commands.add_parser("draw", help="draw a figure from the tables that the plan has for it, and no others")
    draw.add_argument("figure")
    show = commands.add_parser("draw-all-there", help="draw a figure from all tables of its studies in the results")
    show.add_argument("figure")
    show.add_argument("--results", type=Path, default=Path("results"), help="folder of results (default results)")
    left = commands.add_parser("left", help="say what is left to do, and what it costs; do nothing")
    hints = typing.get_type_hints(Settings)
    for command in (train, study, draw, left):
        for field in fields(Settings):
            kind = kind_of(hints[field.name])
            name = f"--{field.name.replace('_', '-')}"
            if kind is bool:
                command.add_argument(name, action="store_true", help=HELP[field.name])
            elif typing.get_origin(kind) is tuple:
                command.add_argument(name, nargs="+", action="extend", help=HELP[field.name])
            else:
                command.add_argument(name, type=kind, default=field.default, help=HELP[field.name])
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake in the input, 130 if stopped."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "draw-all-there":
        return _draw_all_there(options.results, options.figure)
    # Not above: these load torch.
    from chain import costs, steps
    from chain.drawing import draw
    from chain.plan import make_plan
    from core.errors import UserError
    from core.memory import is_out_of_memory, keep_freed_memory
    from core.side_by_side import Interrupted

    keep_freed_memory()
    try:
        plan = make_plan(_settings(options))
        if options.command == "left":
            left = costs.left_to_do(plan)
            print("\n".join([*(f"reduced: {sentence}" for sentence in plan.reductions), *left.sentences]))
            return 2 if left.missing else 0  # before hours of training end at what is missing
        if options.command == "train":
            for run in steps.train(plan, options.group, progress=True):
                print(f"{run.path}: {run.status}")
        elif options.command == "study":
            command = shlex.join(["python", "-m", "chain", *arguments])
            print(steps.measure(plan, options.study, options.table, command=command, progress=True))
        else:
            if options.figure not in plan.figures:
                raise StudyError(f"{options.figure} is no figure of the plan; known: {', '.join(plan.figures)}")
            print(*draw(plan.results, options.figure, plan.figures[options.figure]), sep="\n")
    except (StudyError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print("error: out of memory; fewer tasks at once (--tasks-per-chunk, --num-tasks) need less", file=sys.stderr)
        return 2
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    return Settings.from_config({field.name: getattr(options, field.name) for field in fields(Settings)})


def _draw_all_there(results: Path, figure: str) -> int:
    """Draw from whatever was measured; a figure of which nothing was is no mistake, and has no files."""
    from chain.drawing import digests_of, draw, tables_there, write_record
    from figures.errors import MissingTable

    try:
        tables = tables_there(results, figure)
        digests = digests_of(results, tables)
        try:
            print(*draw(results, figure, tables), sep="\n")
        except MissingTable:
            print(f"{figure}: nothing of it was measured in {results}")
            write_record(results, figure, tables, [], digests)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
