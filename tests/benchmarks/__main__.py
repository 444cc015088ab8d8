"""Speed, arithmetic and memory of the engine beside the naive reference and other libraries.

    python -m tests.benchmarks                               # everything, into results/: an hour on two idle cores
    python -m tests.benchmarks --quick                       # fewer rounds, no memory, no curves; nothing is stored
    python -m tests.benchmarks --workload linnet_5_seeds     # one workload, its curves and its outer loop
    python -m tests.benchmarks --engine eager                # beside the reference; rows of others say "not asked for"

All engines of a workload run in one process, in a shuffled order, after their results were seen to agree; a speedup is
the median over rounds of the ratio to the naive reference within a round. Each workload is stored as soon as it is
measured, and one that was measured with the same settings is not measured again, so that an interrupted run goes on.
Nothing is asserted of the numbers. Images are random: how long a step takes does not depend on them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from analysis.store import is_done, provenance, read_table, table_path, write_table
from core.memory import keep_freed_memory
from tests.benchmarks import outer_loop, suite
from tests.benchmarks.engines import ENGINES
from tests.benchmarks.workloads import WORKLOADS, Workload

COMPILED_LOOPS = ("linnet_1_seed", "linnet_5_seeds", "klin_1_seed", "klin_5_seeds")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds, no memory, no curves; nothing is stored")
    parser.add_argument("--workload", nargs="+", metavar="NAME", help=f"any of {', '.join(WORKLOADS)} (default all)")
    parser.add_argument("--engine", nargs="+", metavar="NAME", help=f"any of {', '.join(ENGINES)} (default all)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where tables go (default results)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch (default all cores)")
    parser.add_argument("--compile-limit", type=float, default=90.0, metavar="SECONDS",
                        help="an engine that compiles for longer is left out (default 90)")  # fmt: skip
    parser.add_argument("--again", action="store_true", help="measure what was measured before, too")
    parser.add_argument("--no-curves", action="store_true", help="leave out the scaling curves")
    parser.add_argument("--probe", nargs=2, metavar=("NAME", "ENGINE"), help="used by the benchmark itself")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, store and print; the exit code is 2 for an unknown name, 130 if stopped."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except KeyboardInterrupt:
        how_to_go_on = "" if given.quick else "; the same command measures what is missing"
        print(f"stopped: what was being measured is lost{how_to_go_on}", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> int:
    torch.set_num_threads(given.threads)
    keep_freed_memory()  # as our commands do; all engines have it alike
    if given.probe:
        print(json.dumps(suite.probe(*given.probe)))
        return 0
    for what, names, known in (("workload", given.workload, WORKLOADS), ("engine", given.engine, ENGINES)):
        if unknown := [name for name in names or () if name not in known]:
            print(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
            return 2
    chosen = [WORKLOADS[name] for name in WORKLOADS if name in (given.workload or WORKLOADS)]
    engines = list(given.engine or ENGINES)
    stored = not given.quick
    options = suite.Options(
        rounds=3 if given.quick else 9, seconds=15.0 if given.quick else 90.0, compile_limit=given.compile_limit,
        memory=not given.quick,
    )  # fmt: skip
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        # What compilers leave on the disk begins empty, so that a first time is one, and is found by the second.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/torch"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/jax"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        for workload in chosen:
            tables.append(_workload(workload, engines, options, given, stored))
            _profiles(workload.name, engines, given, stored)
            if stored and not given.no_curves:
                for axis, values in workload.scaling.items():
                    _curve(workload, axis, values, options, given)
    print("\n" + summary(pd.concat(tables, ignore_index=True)))
    if stored:
        print(f"\nstored in {given.results / 'benchmark'}")
        print(f"drawn by: python -m figures benchmark --results {given.results}")
    return 0


def _workload(
    workload: Workload, engines: Sequence[str], options: suite.Options, given: argparse.Namespace, stored: bool
) -> pd.DataFrame:
    """Its rows, measured now or before."""
    settings = {
        **workload.settings, "engines": sorted(engines), "options": asdict(options),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    path = table_path(given.results, "benchmark", workload.name)
    if stored and not given.again and is_done(given.results, "benchmark", workload.name, settings):
        print(f"{workload.name}: measured before, in {path}")
        return read_table(path)
    started = time.perf_counter()
    table = suite.measure(workload, engines, options)
    if stored:
        _store(given.results, "benchmark", workload.name, table, settings, started)
    print(f"\n{workload.name} ({workload.kind}), load {table['load'].iloc[0]:.1f}")
    print(details(table), flush=True)
    return table


def _curve(
    workload: Workload, axis: str, values: Sequence[int], options: suite.Options, given: argparse.Namespace
) -> None:
    """Time and memory along an axis, measured and stored, unless they were before."""
    name = f"{workload.name}-{axis}"
    engines = suite.CURVE_ENGINES.get(axis, suite.ON_OTHER_AXES)
    few = suite.Options(3, options.seconds / 3, options.compile_limit, options.memory)
    settings = {
        **workload.settings, "per_chunk": workload.at(axis, values[0]).per_chunk, "engines": sorted(engines),
        "axis": axis, "values": list(values), "options": asdict(few),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    if not given.again and is_done(given.results, "benchmark", name, settings):
        print(f"{name}: measured before")
        return
    started = time.perf_counter()
    points = [suite.measure(workload.at(axis, n), engines, few, axis, n) for n in values]
    table = pd.concat(points, ignore_index=True)
    _store(given.results, "benchmark", name, table, settings, started)
    shown = table[["engine", "value", "seconds", "speedup", "peak_memory_mib"]]
    print(f"\n{name}\n{shown.round(4).to_string(index=False)}", flush=True)


def _profiles(name: str, engines: Sequence[str], given: argparse.Namespace, stored: bool) -> None:
    """What the outer loop takes beside the meta-step of our engines, where the workload is one of training."""
    for engine, trainings in (("eager", outer_loop.TRAININGS), ("compiled", COMPILED_LOOPS)):
        if engine not in engines or name not in trainings:
            continue
        compile = engine == "compiled"
        id = name + ("-compiled" if compile else "")
        settings = {"threads": torch.get_num_threads()}
        if stored and not given.again and is_done(given.results, "outer_loop", id, settings):
            table = read_table(table_path(given.results, "outer_loop", id))
        else:
            started = time.perf_counter()
            table = outer_loop.measure(name, outer_loop.TRAININGS[name], 3 if given.quick else 20, compile)
            if stored:
                _store(given.results, "outer_loop", id, table, settings, started)
        parts = ", ".join(f"{row.part} {row.fraction:.2%}" for row in table.itertuples())
        step = 1000 * table["step_seconds"].iloc[0]
        print(f"beside a meta-step of {step:.2f} ms ({engine}): {table['fraction'].sum():.1%} ({parts})", flush=True)


def _store(results: Path, study: str, id: str, table: pd.DataFrame, settings: dict, started: float) -> None:
    seconds = time.perf_counter() - started
    write_table(results, study, id, table, provenance(settings=settings, wall_seconds=seconds))


def details(table: pd.DataFrame) -> str:
    """One workload: a row for each engine."""
    shown = pd.DataFrame(
        {
            "engine": table["engine"],
            "seconds": table["seconds"].map("{:.4g}".format),
            "speedup": table["speedup"].map("{:.2f}".format),
            "range": [f"{a:.2f}-{b:.2f}" for a, b in zip(table["speedup_low"], table["speedup_high"], strict=True)],
            "GFLOP": table["gflop"].map("{:.3g}".format),
            "of peak": table["fraction_of_peak"].map("{:.1%}".format),
            "MiB": table["peak_memory_mib"].map("{:.0f}".format),
            "compile s": table["compile_seconds"].map("{:.0f}".format),
            "again": table["compile_seconds_again"].map("{:.0f}".format),
            "difference": table["difference"].map("{:.0e}".format),
            "status": table["status"],
        }
    )
    return shown.to_string(index=False)


def summary(table: pd.DataFrame) -> str:
    """The table: a row for each workload, a column for each engine, the speedups over the reference."""
    own = table[table["axis"] == ""]
    cells = {
        (row.workload, row.engine): f"{row.speedup:.2f}" if row.status == "ok" else row.status.partition(":")[0]
        for row in own.itertuples()
    }
    engines = list(dict.fromkeys(own["engine"]))
    rows = [
        {"workload": name, **{engine: cells.get((name, engine), "") for engine in engines}}
        for name in dict.fromkeys(own["workload"])
    ]
    return "times faster than naive, medians of paired ratios\n" + pd.DataFrame(rows).to_string(index=False)


if __name__ == "__main__":
    sys.exit(main())
