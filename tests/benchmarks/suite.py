"""From a workload to its rows of the table `benchmark`: results compared, then timed side by side in one process."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from analysis.schemas import SCHEMAS
from tests import naive
from tests.benchmarks.engines import ENGINES, Engine, Job
from tests.benchmarks.measuring import Machine, gflop, paired, step_memory, this_machine, timed
from tests.benchmarks.workloads import Problem, Tensors, Workload, workload_named

REFERENCE = "naive"
# Of scaling curves, where each point would have to be compiled; memory grows with steps, if they are kept.
CURVE_ENGINES = {"steps": (REFERENCE, "eager", "rematerialised")}
ON_OTHER_AXES = (REFERENCE, "eager")
NOT_ASKED = "left out: not asked for"
OURS_IN_A_CALL, OTHERS_IN_A_CALL = 50, 5  # iterations of a training: a fraction of a second for either
# Largest relative difference of a result from the reference's. In double precision what is left is rounding; in single,
# in which compiled engines are compared (a second compilation would take minutes), ReLU's kinks and unit-norm
# gradients amplify it from step to step, on both sides alike: one unit on the other side of zero changes a task's
# meta-gradient by percents. There so many times as much is allowed as engines are off that agree in double precision.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-2}
ROUNDINGS = 3
MOST_IN_SINGLE = 0.5
# Of the largest tensor: a convolution's bias before batch norm has gradient 0, and rounding in engines that compute it.
FLOOR = 1e-3


@dataclass(frozen=True)
class Options:
    """How long and how.

    Attributes:
        rounds: of timing, at most.
        seconds: of timing a workload, after which no further round is begun.
        compile_limit: seconds; an engine that compiles for longer is left out, and its row says so.
        memory: whether to measure the peak memory, in a process of its own for each engine.
    """

    rounds: int = 9
    seconds: float = 90.0
    compile_limit: float = 90.0
    memory: bool = True


@dataclass(frozen=True)
class Probe:
    """What a process of its own found out about an engine; NaN where nothing was asked or found."""

    memory: float = float("nan")
    compiled: float = float("nan")
    again: float = float("nan")
    status: str = "ok"


def job(engine: Engine, workload: Workload, dtype: torch.dtype = torch.float32, iterations: int | None = None) -> Job:
    """What the engine does in the workload, of a training as many iterations as are a call of it."""
    many = OURS_IN_A_CALL if engine.name in ("eager", "compiled", "jax") else OTHERS_IN_A_CALL
    return engine.job(Problem(workload, dtype), many if iterations is None else iterations)


def measure(
    workload: Workload, engines: Sequence[str], options: Options, axis: str = "", value: int = 0
) -> pd.DataFrame:
    """The workload's rows, one for each engine there is, as `analysis.schemas.SCHEMAS["benchmark"]` describes them.

    Args:
        workload: what is measured.
        engines: those to measure, by name; the reference always is. The row of any other says "not asked for".
        options: how long and how.
        axis, value: where it lies on a scaling curve.
    """
    machine, load = this_machine(), os.getloadavg()[0]
    names = list(engines) if axis else list(ENGINES)
    name = workload.name + (f"@{axis}={value}" if axis else "")
    asked = {REFERENCE, *engines}
    probes = {
        engine: _probe(name, ENGINES[engine], workload, options) if engine in asked else Probe(status=NOT_ASKED)
        for engine in names
    }
    differences = {engine: (float("nan"), "") for engine in names}
    ready = [engine for engine in names if probes[engine].status == "ok"]
    plain = [engine for engine in ready if not ENGINES[engine].compiles]
    status = {engine: probe.status for engine, probe in probes.items()}

    exact = torch.float32 if workload.kind == "training" else torch.float64  # synthetic tasks are single
    expected = job(ENGINES[REFERENCE], workload.small(), exact, 5).run()
    for engine in plain:
        found = job(ENGINES[engine], workload.small(), exact, 5).run()
        differences[engine] = (difference(found, expected), str(exact).removeprefix("torch."))
    jobs = {engine: job(ENGINES[engine], workload) for engine in ready}
    first = {engine: jobs[engine].run() for engine in ready}
    for engine in set(ready) - set(plain):
        # Iterations of one training are compared after equally many of them.
        of_reference = "eager" if workload.kind == "training" and "eager" in first else REFERENCE
        if jobs[engine].units == jobs[of_reference].units:
            differences[engine] = (difference(first[engine], first[of_reference]), "float32")
    tolerance = dict(TOLERANCE)
    if workload.kind != "training":
        agree = [engine for engine in plain if differences[engine][0] <= TOLERANCE[torch.float64]]
        rounding = max((difference(first[engine], first[REFERENCE]) for engine in agree), default=0.0)
        tolerance[torch.float32] = min(max(tolerance[torch.float32], ROUNDINGS * rounding), MOST_IN_SINGLE)
    for engine in ready:
        amount, dtype = differences[engine]
        if ENGINES[engine].is_exact and amount > tolerance[torch.float64 if dtype == "float64" else torch.float32]:
            status[engine] = f"failed: results differ by {amount:.1e} in {dtype}"
    timed_engines = [engine for engine in ready if status[engine] == "ok"]
    seconds = paired({engine: jobs[engine].run for engine in timed_engines}, options.rounds, options.seconds)
    seconds = seconds / pd.Series({engine: jobs[engine].units for engine in timed_engines})
    work = _work({engine: jobs[engine] for engine in timed_engines}, workload)
    rows = [
        {
            **_settings(workload),
            "axis": axis,
            "value": value if axis else None,
            "engine": engine,
            "status": status[engine],
            **_times(seconds, engine),
            "least": workload.least.get(engine, float("nan")),
            "aim": workload.aim.get(engine, float("nan")),
            **_arithmetic(work.get(engine), seconds[engine].median() if engine in seconds else 0.0, machine),
            "peak_memory_mib": probes[engine].memory,
            "compile_seconds": probes[engine].compiled,
            "compile_seconds_again": probes[engine].again,
            "difference": differences[engine][0],
            "compared_in": differences[engine][1],
            **asdict(machine),
            "load": load,
            "notes": workload.notes,
        }
        for engine in names
    ]
    return typed(pd.DataFrame(rows), "benchmark")


def difference(found: Tensors, expected: Tensors) -> float:
    """Largest relative difference of a tensor; infinite where one is not finite."""
    same = {name: tensor.to(expected[name]) for name, tensor in found.items()}
    errors = naive.relative_errors(same, expected, floor=FLOOR)
    return max(error if error == error else float("inf") for error in errors.values())


def _work(jobs: Mapping[str, Job], workload: Workload) -> dict[str, tuple[float, str]]:
    """GFLOP of a unit of each engine, and how they were counted."""
    counts: dict[str, tuple[float, str]] = {}
    for engine in jobs:
        counted = ENGINES[engine].counted or engine
        if counted not in counts:
            own = jobs[counted] if counted in jobs else job(ENGINES[counted], workload)
            counts[counted] = (gflop(own.run) / own.units, "")
        counts[engine] = (counts[counted][0], "itself" if counted == engine else counted)
    return counts


def _arithmetic(work: tuple[float, str] | None, seconds: float, machine: Machine) -> dict[str, Any]:
    amount, counted = work or (float("nan"), "")
    rate = amount / seconds if seconds else float("nan")
    return {
        "gflop": amount,
        "counted": counted,
        "gflop_per_second": rate,
        "fraction_of_peak": rate / machine.peak_gflop_per_second,
    }


def _times(seconds: pd.DataFrame, engine: str) -> dict[str, Any]:
    """Medians and ranges; a speedup is the reference's time over the engine's in the same round."""
    if engine not in seconds:
        lost = dict.fromkeys(("seconds", "seconds_low", "seconds_high", "speedup", "speedup_low", "speedup_high"))
        return {**{name: float("nan") for name in lost}, "rounds": 0}
    own, ratios = seconds[engine], seconds[REFERENCE] / seconds[engine]
    return {
        "seconds": statistics.median(own), "seconds_low": own.min(), "seconds_high": own.max(),
        "speedup": statistics.median(ratios), "speedup_low": ratios.min(), "speedup_high": ratios.max(),
        "rounds": len(own),
    }  # fmt: skip


def _settings(workload: Workload) -> dict[str, Any]:
    names = ("kind", "model", "method", "steps", "tasks", "width", "seeds", "ways", "shots", "share")
    layers = workload.depth if workload.model == "cnn" else None
    return {"workload": workload.name, "layers": layers, **{name: getattr(workload, name) for name in names}}


def typed(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """The rows with the columns and types that the study has."""
    return frame.astype({name: column.dtype for name, column in SCHEMAS[study].items()})


# A process of its own


def probe(name: str, engine: str) -> dict[str, float]:
    """In a process of its own: seconds of the first call and of one more, and MiB of a third."""
    own = job(ENGINES[engine], workload_named(name))
    first = timed(own.run)
    return {"first": first, "then": timed(own.run), "memory": step_memory(own.run)}


def _probe(name: str, engine: Engine, workload: Workload, options: Options) -> Probe:
    """Peak memory, and how long compiling takes; for the second time, too, with what the first left on the disk."""
    if why := engine.refusal(workload):
        return Probe(status=why)
    if not options.memory and not engine.compiles:
        return Probe()
    command = [sys.executable, "-m", "tests.benchmarks", "--probe", name, engine.name]
    command += ["--threads", str(torch.get_num_threads())]
    found = []
    for _ in range(2 if engine.compiles else 1):
        # What is not the compiling itself: loading, and some calls.
        limit = options.compile_limit + 60 if engine.compiles else 900
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
        except subprocess.TimeoutExpired:
            return Probe(status=f"left out: compiling takes more than {options.compile_limit:.0f} s")
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip() or "it ended without a word").splitlines()[-1]
            return Probe(status=f"failed: {last}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    if not engine.compiles:
        return Probe(found[0]["memory"])
    compiled, again = (one["first"] - one["then"] for one in found)
    if compiled > options.compile_limit:
        return Probe(
            compiled=compiled, again=again,
            status=f"left out: compiling takes more than {options.compile_limit:.0f} s",
        )  # fmt: skip
    return Probe(found[0]["memory"], compiled, again)
