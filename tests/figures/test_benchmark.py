"""The benchmark's figures: what is drawn of a table of known numbers, and the Markdown."""

from itertools import combinations, product

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest

from analysis.schemas import SCHEMAS
from analysis.store import provenance, write_table
from figures import benchmark
from figures.errors import MissingTable
from figures.style import LOOKS
from tests.benchmarks.engines import ENGINES
from tests.benchmarks.workloads import WORKLOADS

BLANK = {"str": "", "int64": 1, "Int64": None, "float64": np.nan, "bool": False}


def stored(results, id, rows, study="benchmark"):
    """A table of these rows, blank where they say nothing."""
    columns = SCHEMAS[study]
    frame = pd.DataFrame([{**{name: BLANK[c.dtype] for name, c in columns.items()}, **row} for row in rows])
    write_table(results.folder, study, id, frame.astype({n: c.dtype for n, c in columns.items()}), provenance())


def row(workload, engine, speedup, **changes):
    times = {"seconds": 2 / speedup, "speedup": speedup, "speedup_low": 0.9 * speedup, "speedup_high": 1.1 * speedup}
    machine = {"cpu": "Abacus", "threads": 2, "peak_gflop_per_second": 100.0, "load": 1.0, "rounds": 5, "share": 1.0}
    return {"workload": workload, "engine": engine, "status": "ok", **times, **machine, **changes}


@pytest.fixture
def measured(results):
    stored(results, "lr_kfc_5way_1shot", [
        row("lr_kfc_5way_1shot", "naive", 1.0, gflop=9.5, fraction_of_peak=0.1),
        row("lr_kfc_5way_1shot", "eager", 16.0, least=15.0, aim=25.0, notes="Two ways were tried."),
        row("lr_kfc_5way_1shot", "higher", np.nan, status="absent: higher is not installed"),
    ])  # fmt: skip
    stored(results, "evaluation_600", [
        row("evaluation_600", engine, speedup, share=0.1, peak_memory_mib=30.0)
        for engine, speedup in (("naive", 1.0), ("eager", 1.5))
    ])  # fmt: skip
    stored(results, "lr_kfc_5way_1shot-tasks", [
        row("lr_kfc_5way_1shot", engine, 2.0, axis="tasks", value=value, seconds=value * cost, peak_memory_mib=value,
            notes="It takes 8 at once.")
        for value in (8, 16) for engine, cost in (("naive", 2.0), ("eager", 1.0))
    ])  # fmt: skip
    return results


def test_every_workload_and_engine_of_the_benchmark_has_a_name():
    assert set(benchmark.WORKLOADS) == set(WORKLOADS)
    assert set(benchmark.ENGINES) == set(ENGINES)


def test_engines_have_colours_of_their_own_and_no_methods():
    engines = [look.colour for look in benchmark.ENGINES.values()]
    methods = {look.colour for look in LOOKS.values()}
    for colour, other in [*combinations(engines, 2), *product(engines, methods)]:
        apart = [abs(x - y) for x, y in zip(*map(matplotlib.colors.to_rgb, (colour, other)), strict=True)]
        assert max(apart) > 0.15, (colour, other)


def test_a_marker_is_a_speedup_its_line_the_range_and_targets_are_marked(measured):
    trace = benchmark.traces(measured.folder)["benchmark"]
    assert trace.workloads == ["lr_kfc_5way_1shot", "evaluation_600"]
    _, axes = benchmark.draw(trace)
    lines = [list(line.get_xdata()) for line in axes["speedups"].lines]
    assert [16.0] in lines
    assert [pytest.approx(14.4), pytest.approx(17.6)] in lines
    assert [15.0, 15.0] in lines
    assert [25.0, 25.0] in lines
    assert axes["speedups"].get_xscale() == "log"
    assert [label.get_text() for label in axes["speedups"].get_yticklabels()] == [
        benchmark.WORKLOADS[name] for name in trace.workloads
    ]


def test_curves_have_time_and_memory_of_each_engine(measured):
    trace = benchmark.traces(measured.folder)["benchmark_scaling"]
    _, axes = benchmark.draw(trace)
    ax = axes["lr_kfc_5way_1shot tasks seconds"]
    assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in ax.lines] == [
        ([8, 16], [16, 32]),
        ([8, 16], [8, 16]),
    ]
    assert len(axes["lr_kfc_5way_1shot tasks peak_memory_mib"].lines) == 2
    assert trace.caption[-1] == "Over tasks: It takes 8 at once."
    assert "At least" not in " ".join(trace.caption)


def test_the_markdown_has_every_number_and_says_what_is_missing(measured):
    stored(measured, "lr_kfc_5way_1shot", [
        {"workload": "lr_kfc_5way_1shot", "engine": "eager", "part": part, "fraction": fraction}
        for part, fraction in (("sampling", 0.02), ("logging", 0.011))
    ], "outer_loop")  # fmt: skip
    text = benchmark.texts(benchmark.traces(measured.folder)["benchmark"])["md"]
    assert "| LR w/ KFC, 784 x 5, 32 tasks, 2 steps | 1 | 16.00 [14.40, 17.60] | absent | 15 | 25 |" in text
    assert "| LR w/ KFC, 784 x 5, 32 tasks, 2 steps | naive | 2 | 9.5 | 10 % |  |  |  |" in text
    assert "- LR w/ KFC, 784 x 5, 32 tasks, 2 steps, higher: absent: higher is not installed." in text
    assert "- LR w/ KFC, 784 x 5, 32 tasks, 2 steps: Two ways were tried." in text
    assert "take 3.1 % of a meta-step" in text
    assert "evaluation of 600 tasks: measured on 10 % of the tasks" in text
    assert "Abacus, PyTorch with threads: 2. Float32 matrix products reached 100 GFLOP/s" in text


def test_a_curve_has_no_markdown(measured):
    assert benchmark.texts(benchmark.traces(measured.folder)["benchmark_scaling"]) == {}


def test_without_a_table_it_says_what_makes_it(results):
    with pytest.raises(MissingTable, match="make it with: make bench"):
        benchmark.traces(results.folder)
