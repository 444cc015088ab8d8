"""The figure of the adaptation path says what is in its table."""

import numpy as np
import pandas as pd
import pytest

from figures import adaptation_path, style

LAYERS = (*(f"layer{i}.{j}" for i in range(1, 6) for j in range(2)), "fc")
TASKS = 4


def value_of(probe, layer, step, task, seed=0):
    return (sum(map(ord, probe + layer)) * 7 + 11 * step + 5 * task + 13 * seed) % 97 / 97


def rows(seed=0, probes=("distance", "update norm", "prototype accuracy", "mine"), layers=LAYERS):
    return pd.DataFrame(
        [(task, step, probe, layer, value_of(probe, layer, step, task, seed)) for probe in probes for layer in layers
         for task in range(TASKS) for step in range(3) if not (probe == "update norm" and step == 0)],
        columns=["task", "step", "probe", "layer", "value"],
    )  # fmt: skip


def test_every_point_is_the_mean_over_seeds_and_tasks(results):
    for seed in (0, 1):
        results.studied("adaptation_path", rows(seed), seed)
    trace = adaptation_path.traces(results.folder)["adaptation_path_glyphs_cnn4_maml"]
    assert trace.layers == LAYERS
    assert list(trace.panels) == ["distance", "update norm", "prototype accuracy", "mine"]
    for probe, by_layer in trace.panels.items():
        assert list(by_layer) == list(LAYERS)
        for layer, points in by_layer.items():
            assert list(points) == ([1, 2] if probe == "update norm" else [0, 1, 2])
            for step, over in points.items():
                scale = 100 if probe == "prototype accuracy" else 1
                values = [value_of(probe, layer, step, task, seed) for task in range(TASKS) for seed in (0, 1)]
                assert over.mean == pytest.approx(scale * np.mean(values))
                assert over.n == TASKS


def test_a_line_a_layer_and_a_colour_for_each(results):
    trace = adaptation_path.from_table(results.studied("adaptation_path", rows(), write=False))
    figure, axes = adaptation_path.draw(trace)
    colours = style.layer_colours(len(LAYERS))
    assert len(set(colours)) == len(LAYERS)
    # From dark to light: the order of layers can be seen without colour, too.
    assert np.all(np.diff([0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in colours]) > 0)
    for probe, ax in axes.items():
        lines = [line for line in ax.lines if line.get_marker() == "o"]
        assert [line.get_color() for line in lines] == colours
        for line, points in zip(lines, trace.panels[probe].values(), strict=True):
            assert list(line.get_xdata()) == list(points)
            assert list(line.get_ydata()) == pytest.approx([over.mean for over in points.values()])
    legend = figure.axes[len(axes)].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [*LAYERS, "chance"]
    assert axes["mine"].get_title() == "mine"


@pytest.mark.parametrize(("ratio", "scale"), [(10, "linear"), (100, "log")])
def test_distances_of_many_sizes_have_a_logarithmic_axis(results, ratio, scale):
    frame = rows(probes=("distance",), layers=("a", "b"))
    frame["value"] = np.where(frame["layer"] == "a", 1.0, ratio) * (frame["step"] > 0)
    _, axes = adaptation_path.draw(adaptation_path.from_table(results.studied("adaptation_path", frame, write=False)))
    assert axes["distance"].get_yscale() == scale


def test_rounding_is_not_blown_up(results):
    frame = rows(probes=("descent cosine",), layers=("a",))
    frame["value"] = 1 - 1e-7 * frame["task"]
    _, axes = adaptation_path.draw(adaptation_path.from_table(results.studied("adaptation_path", frame, write=False)))
    low, high = axes["descent cosine"].get_ylim()
    ticks = axes["descent cosine"].get_yticks()
    assert high - low == pytest.approx(adaptation_path.LEAST_SPAN)
    assert low < ticks[ticks < high].max() == pytest.approx(1)


def test_a_value_that_some_tasks_lack_is_the_mean_of_the_others(results):
    frame = rows(probes=("update cosine",), layers=("a",))
    frame = frame[~((frame["task"] == 0) & (frame["step"] == 2))]
    trace = adaptation_path.from_table(results.studied("adaptation_path", frame, write=False))
    assert trace.panels["update cosine"]["a"][2].mean == pytest.approx(
        np.mean([value_of("update cosine", "a", 2, task) for task in range(1, TASKS)])
    )
    assert "(3 to 4 of them" in trace.caption[0]


def test_a_run_that_diverged_leaves_an_empty_figure_that_says_so(results):
    frame = rows().assign(status="diverged", value=np.nan)
    trace = adaptation_path.from_table(results.studied("adaptation_path", frame, write=False))
    assert "(diverged)." in trace.caption[-1]
    _, axes = adaptation_path.draw(trace)
    assert list(axes) == ["distance", "update norm", "prototype accuracy", "mine"]
