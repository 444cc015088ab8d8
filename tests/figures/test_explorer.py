"""The sliders show what the table holds."""

import io
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import figures
from figures import explorer
from figures.errors import FigureError

STRENGTHS, STEPS, LAYERS, TASKS = (0.0, 0.5, 4.0), (0, 1, 2), ("C1", "FC"), 4


def value_of(*key):
    return (sum(map(ord, str(key))) * 7) % 97 / 97


def table(status="ok", is_regression=False):
    rows = [
        {"intervention": f"FC noise {std:g}" if std else "none", "draw": draw, "task": task, "step": step,
         "split": split, "loss": 3 * value_of(std, draw, task, step),
         "accuracy": np.nan if is_regression else value_of(std, draw, task, step) if split == "query" else 0.5,
         **{f"cka {layer}": value_of(layer, std, draw, task, step) for layer in LAYERS}}
        for std in STRENGTHS for draw in range(2 if std else 1) for task in range(TASKS) for step in STEPS
        for split in ("support", "query")
    ]  # fmt: skip
    frame = pd.DataFrame(rows).assign(run="r", status=status, task_seed=0)
    if status != "ok":
        frame[["loss", "accuracy", *(f"cka {layer}" for layer in LAYERS)]] = np.nan
    return frame


def mean_of(std, step, scale=100, layer=None):
    draws = range(2 if std else 1)
    key = (layer,) if layer else ()
    return scale * np.mean([value_of(*key, std, draw, task, step) for task in range(TASKS) for draw in draws])


def test_what_the_sliders_choose_from_is_the_mean_over_tasks_and_draws():
    trace = explorer.from_table(table())
    assert (trace.strengths, trace.steps, trace.layers) == (STRENGTHS, STEPS, LAYERS)
    for std in STRENGTHS:
        for step in STEPS:
            assert trace.measured[std, step].mean == pytest.approx(mean_of(std, step))
            assert trace.measured[std, step].n == TASKS
            for layer in LAYERS:
                assert trace.similar[std, step, layer].mean == pytest.approx(mean_of(std, step, 1, layer))
    by_column = explorer.from_table(table().assign(std=table()["intervention"].map(explorer._strength), layer="FC"))
    assert (by_column.measured, by_column.title) == (trace.measured, "noise on FC")


def test_moving_a_slider_redraws_what_the_axes_hold():
    shown = figures.explore(table())
    assert (shown.strength.value, shown.step.value) == (0.0, 2)
    picture = shown.box.children[2]

    def seen():
        line, chosen = shown.axes["measured"].lines[:2]
        (similar,) = [line for line in shown.axes["similar"].lines if line.get_marker() == "D"]
        return list(line.get_ydata()), chosen.get_xydata().tolist(), list(similar.get_xdata())

    before = picture.value
    for std, step in ((0.5, 2), (4.0, 0), (0.0, 1)):
        shown.strength.value, shown.step.value = std, step
        accuracies, chosen, similar = seen()
        assert accuracies == pytest.approx([mean_of(s, step) for s in STRENGTHS])
        assert chosen[0] == pytest.approx([STRENGTHS.index(std), mean_of(std, step)])
        assert similar == pytest.approx([mean_of(std, step, 1, layer) for layer in LAYERS])
        assert picture.value != before
        before = picture.value
    assert Image.open(io.BytesIO(picture.value)).size[0] > 400
    assert repr(shown).endswith("strength.value is one of 0, 0.5, 4, step.value one of 0, 1, 2>"), "outside Jupyter"
    assert "application/vnd.jupyter.widget-view+json" in shown._repr_mimebundle_()


def test_regression_has_its_loss():
    trace = explorer.from_table(table(is_regression=True))
    assert trace.value == "loss"
    assert trace.measured[4.0, 1].mean == pytest.approx(mean_of(4.0, 1, 3))
    _, axes = explorer.draw(trace, 4.0, 1)
    assert axes["measured"].get_ylabel() == "loss"


def test_a_place_that_is_not_in_the_table_is_refused():
    with pytest.raises(FigureError, match=r"no strength 3 at step 1; strengths are 0, 0.5, 4, steps 0, 1, 2"):
        explorer.draw(explorer.from_table(table()), 3.0, 1)


def test_tables_that_cannot_be_walked_through_are_refused():
    with pytest.raises(FigureError, match="no column 'cosine <layer>'"):
        explorer.from_table(table(), probe="cosine")
    for name in ("freeze C", "freeze C4"):
        with pytest.raises(FigureError, match=f"'{name}' does not say how strong it is"):
            explorer.from_table(table().replace({"intervention": {"none": name}}))
    with pytest.raises(FigureError, match=r"nothing to walk through. Not averaged in: r \(diverged\)"):
        explorer.from_table(table("diverged"))
    with pytest.raises(FigureError, match="lacks column loss"):
        explorer.from_table(table().drop(columns="loss"))


def test_a_strength_that_makes_tasks_diverge_is_named_and_the_others_are_there():
    frame = table()
    lost = frame["intervention"].eq("FC noise 4") & frame["task"].eq(0)
    frame.loc[lost, ["loss", "accuracy", "cka C1", "cka FC"]] = np.nan
    trace = explorer.from_table(frame.assign(status=np.where(lost, "diverged", "ok")))
    assert trace.strengths == (0, 0.5)
    assert trace.caption[-1] == "Not averaged in: r under FC noise 4 (diverged on 1 of 4 tasks)."


def test_runs_of_several_networks_are_refused():
    both = pd.concat([table().assign(model="lr"), table().assign(run="s", model="cnn")])
    with pytest.raises(FigureError, match=r"differ in model \(lr, cnn\)"):
        explorer.from_table(both)


def test_a_similarity_that_one_run_lacks_counts_in_none():
    other = table().assign(run="s")
    other.loc[other["task"].eq(0), "cka C1"] = np.nan
    trace = explorer.from_table(pd.concat([table(), other]))
    assert trace.similar[0.0, 2, "C1"].mean == pytest.approx(
        np.mean([value_of("C1", 0.0, 0, task, 2) for task in range(1, TASKS)])
    )
    assert trace.similar[0.0, 2, "FC"].n == TASKS


def test_a_missing_ipywidgets_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(FigureError, match="pip install ipywidgets"):
        figures.explore(table())
