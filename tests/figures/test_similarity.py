"""The figure of similarity says what is in its table."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import interval
from figures import similarity

LAYERS = ("b.1", "a", "head")  # in no order but the network's
MEASURES = ("cka", "debiased cka", "svcca", "pwcca")
TASKS = 12


def value_of(compared, layer, measure, task, seed=0):
    return math.sin(sum(map(ord, compared + layer + measure)) * 7 + 5 * task + 13 * seed) ** 2


def rows(seed=0, compared=("adapted", "untrained")):
    frame = pd.DataFrame(
        [(task, c, la, m, value_of(c, la, m, task, seed)) for task in range(TASKS) for c in compared for la in LAYERS
         for m in MEASURES],
        columns=["task", "compared", "layer", "measure", "value"],
    )  # fmt: skip
    return frame.assign(examples=50, features=8)


def test_every_point_is_the_mean_over_seeds_and_tasks(results):
    for seed in (0, 1):
        results.studied("similarity", rows(seed), seed)
    trace = similarity.traces(results.folder)["similarity_glyphs_cnn4_maml"]
    assert trace.layers == LAYERS
    assert list(trace.panels) == ["adapted", "untrained"]
    for compared, by_measure in trace.panels.items():
        assert set(by_measure) == {"svcca", "pwcca", "debiased cka"}
        for measure, by_layer in by_measure.items():
            for layer, over in by_layer.items():
                by_hand = [
                    np.mean([value_of(compared, layer, measure, t, seed) for seed in (0, 1)]) for t in range(TASKS)
                ]
                alone = interval(by_hand)
                assert over.mean == pytest.approx(alone.mean)
                # Of 9,999 resamples one or two may by rounding fall on the other side of the mean.
                assert (over.low, over.high) == pytest.approx((alone.low, alone.high), rel=1e-3)
    assert trace.caption[0].startswith("Mean over seeds and test tasks; whisker, where longer than its mark: 95 % BCa")


def test_the_picture_has_the_points_where_the_layers_are(results):
    trace = similarity.from_table(results.studied("similarity", rows(), write=False))
    figure, axes = similarity.draw(trace)
    assert list(axes) == ["adapted", "untrained"]
    for compared, ax in axes.items():
        lines = [line for line in ax.lines if line.get_marker() in ("o", "s", "D")]
        for line, (_, by_layer) in zip(lines, trace.panels[compared].items(), strict=True):
            assert list(line.get_xdata()) == pytest.approx([over.mean for over in by_layer.values()])
            assert [round(y) for y in line.get_ydata()] == [0, 1, 2]
    # The reference is drawn beside adaptation alone, and named as theirs.
    patches = {name: [path.get_extents() for c in ax.collections if len(c.get_paths()) and c.get_alpha() == 0.35
                      for path in c.get_paths()] for name, ax in axes.items()}  # fmt: skip
    assert [(box.x0, box.x1, box.y0, box.y1) for box in patches["adapted"]] == [(0.9, 1, -0.5, 1.5), (0, 0.5, 1.5, 2.5)]
    assert not patches["untrained"]
    assert "CCA, Raghu et al. (2020)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_measure_with_too_few_examples_is_absent_and_said(results):
    frame = rows()
    few = frame["measure"].eq("svcca") & frame["layer"].eq("a")
    frame = frame.assign(status=np.where(few, "failed: too few examples", "ok"), value=frame["value"].mask(few))
    trace = similarity.from_table(results.studied("similarity", frame, write=False))
    assert list(trace.panels["adapted"]["svcca"]) == ["b.1", "head"]
    assert "Too few examples for SVCCA: a." in trace.caption
    similarity.draw(trace)


def test_a_run_that_diverged_leaves_an_empty_figure_that_says_so(results):
    frame = rows().assign(status="diverged", value=np.nan)
    trace = similarity.from_table(results.studied("similarity", frame, write=False))
    assert trace.panels == {"adapted": {}, "untrained": {}}
    assert "(diverged)." in trace.caption[-2]
    similarity.draw(trace)


def test_further_networks_have_a_panel_each(results):
    table = results.studied("similarity", rows(compared=("adapted", "untrained", "another seed")), write=False)
    _, axes = similarity.draw(similarity.from_table(table))
    assert axes["another seed"].get_title() == "against another seed"


def test_a_task_without_a_value_in_one_run_counts_in_none(results):
    for seed in (0, 1):
        frame = rows(seed)
        absent = frame["task"].eq(1) & frame["layer"].eq("a") & frame["measure"].eq("debiased cka") & (seed == 1)
        frame["status"] = np.where(absent, "failed: a representation is the same for all examples", "ok")
        results.studied("similarity", frame.assign(value=frame["value"].mask(absent)), seed)
    (trace,) = similarity.traces(results.folder).values()
    found = trace.panels["adapted"]["debiased cka"]["a"]
    tasks = [task for task in range(TASKS) if task != 1]
    assert found.n == len(tasks)
    assert found.mean == pytest.approx(
        np.mean([value_of("adapted", "a", "debiased cka", t, s) for t in tasks for s in (0, 1)])
    )


def test_why_a_measure_is_absent_is_what_the_table_says(results):
    frame = rows()
    absent = frame["measure"].eq("svcca") & frame["layer"].eq("a")
    why = "which axis of its outputs has the features is not known"
    frame = frame.assign(status=np.where(absent, f"failed: {why}", "ok"), value=frame["value"].mask(absent))
    trace = similarity.from_table(results.studied("similarity", frame, write=False))
    assert f"No SVCCA: a ({why})." in trace.caption
