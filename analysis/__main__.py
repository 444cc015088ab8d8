"""Carry out studies: `python -m analysis --help`."""

import argparse
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from analysis.errors import StudyError, unknown_name
from analysis.registry import STANDALONE, STUDIES, carry_out, table_id, up_to_date
from core import Run, list_runs, load_run
from core.config import is_own
from core.device import checked_device
from core.errors import UserError
from core.memory import is_out_of_memory, keep_freed_memory
from core.runs import named_run, read_config
from core.side_by_side import Interrupted


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<16} {study.about}" for name, study in (STUDIES | STANDALONE).items())
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Measure saved runs and store the tables as <results>/<study>/<run>.parquet.\n"
        "Tables that are there already, of the same run and settings, are skipped.\n\n"
        f"studies:\n{lines}\n  {'all':<16} every study, on what the paper's figures draw; with --run, on what suits it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", help="name of a study, or all")
    parser.add_argument(
        "--run", type=Path, nargs="+", action="extend", metavar="RUN", dest="runs",
        help="run folders, or ids of runs in --results (default: all its finished runs that suit the study)",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results (default results)")
    parser.add_argument("--num-tasks", type=int, default=100, help="test tasks a run is measured on (default 100)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the test tasks, equal for all runs, which pairs them (default 0)"
    )
    parser.add_argument("--force", action="store_true", help="measure again, and replace tables")
    parser.add_argument("--data-dir", help="folder of the data set's files (default: $DATA_DIR)")
    parser.add_argument("--device", help="such as cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for a mistake in the input, 130 if stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser().parse_args(arguments)
        keep_freed_memory()
        command = shlex.join(["python", "-m", "analysis", *arguments])
        names = list(STUDIES) if options.study == "all" else [options.study]
        if names[0] not in STUDIES | STANDALONE:
            raise unknown_name("study", options.study, [*STUDIES, *STANDALONE, "all"])
        if options.num_tasks < 1:
            raise StudyError(f"--num-tasks must be at least 1, got {options.num_tasks}")
        without_memory: list[str] = []  # tables; the others are made
        damaged: list[str] = []  # runs; the others are measured
        # All tables are asked about before the first is made, so that a refusal comes at once.
        for name, jobs in _all_jobs(names, options, damaged).items():
            for run in tqdm(jobs, desc=name, unit="table", disable=options.quiet or not jobs):
                try:
                    path = carry_out(
                        options.results,
                        name,
                        run,
                        num_tasks=options.num_tasks,
                        seed=options.seed,
                        command=command,
                        progress=not options.quiet,
                    )
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    without_memory.append(f"{name}/{table_id(name, run, seed=options.seed)}")
                    continue
                tqdm.write(f"wrote {path}")
        if without_memory:
            raise StudyError(
                f"out of memory in measuring {', '.join(without_memory)}: fewer tasks (--num-tasks) need less"
            )
        if damaged:
            raise StudyError(f"left out, as they cannot be read (see above): {', '.join(damaged)}")
    except (StudyError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted):
        print("stopped; the same command goes on with the tables that are missing", file=sys.stderr)
        return 130
    return 0


def _all_jobs(names: list[str], options: argparse.Namespace, damaged: list[str]) -> dict[str, list[Run | None]]:
    """What is to be made, by study: its runs, or None for a study that needs none. Adds to `damaged`, see `_load`."""
    if names[0] not in STANDALONE:
        runs = _load(options, damaged)
        return {name: [*_jobs(name, runs, options)] for name in names}
    (name,) = names
    for option, value in (("--run", options.runs), ("--data-dir", options.data_dir), ("--device", options.device)):
        if value is not None:
            raise StudyError(f"study {name!r} trains its own runs, on the CPU: leave out {option}")
    if up_to_date(options.results, name, None, num_tasks=options.num_tasks, seed=options.seed, force=options.force):
        print(f"skipped {name}/{table_id(name, None, seed=options.seed)}: made before, with the same settings")
        return {name: []}
    return {name: [None]}


def _load(options: argparse.Namespace, damaged: list[str]) -> list[Run]:
    """The runs that are named, or all that are finished; names of those that cannot be read are added to `damaged`."""
    device = checked_device(options.device)
    if options.runs is not None:
        folders = [named_run(name, options.results) for name in options.runs]
        return [load_run(folder, device=device, root=options.data_dir) for folder in folders]
    listed = list_runs(options.results)
    finished = listed["status"].str.startswith(("ok", "diverged"))
    for row in listed[~finished].itertuples():
        print(f"skipped {row.path}: {row.status}", file=sys.stderr)
        if row.status != "unfinished":
            damaged.append(str(row.id))
    if not finished.any():
        where = options.results / "runs"
        raise StudyError(f"there is no finished run in {where}; to train one: python -m core train --help")
    runs = []
    for folder in map(Path, listed[finished]["path"]):
        if is_own(read_config(folder).model):
            print(f"skipped {folder}: of a module of your own, which is studied in Python", file=sys.stderr)
            continue
        try:
            runs.append(load_run(folder, device=device, root=options.data_dir))
        except UserError as error:
            print(f"skipped {folder}: {error}", file=sys.stderr)
            damaged.append(folder.name)
    return runs


def _jobs(name: str, runs: list[Run], options: argparse.Namespace) -> list[Run]:
    """The runs whose table of study `name` is to be made; several runs may share one table."""
    study = STUDIES[name]
    suited = all_suited = [run for run in runs if study.suits(run.config)]
    if options.study == "all" and options.runs is None:
        suited = [run for run in suited if study.drawn(run.config)]
    if options.study != "all" and options.runs is not None and len(suited) < len(runs):
        other = next(run for run in runs if not study.suits(run.config))
        raise StudyError(f"run {other.id} does not suit study {name!r}: {study.about}")
    if not suited:
        if options.study != "all":
            raise StudyError(f"no run in {options.results / 'runs'} suits study {name!r}: {study.about}")
        others = f" for the paper's figures; name others with --run ({len(all_suited)} suit it)" if all_suited else ""
        print(f"{name}: no run to measure{others}")
    jobs = []
    for run in {table_id(name, run, seed=options.seed): run for run in suited}.values():
        if up_to_date(options.results, name, run, num_tasks=options.num_tasks, seed=options.seed, force=options.force):
            print(f"skipped {name}/{table_id(name, run, seed=options.seed)}: made before, with the same settings")
        else:
            jobs.append(run)
    return jobs


if __name__ == "__main__":
    sys.exit(main())
