"""The figure of any network's layers says what is in its tables."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer

from figures import layer_roles
from figures.errors import FigureError, MissingTable

LAYERS = (*(f"encoder.block{i}.attention" for i in range(12)), "head")
STRENGTHS = (0.0, 1.0, 8.0)
TASKS = 4
OUTSIDE = {"model": "own:Net", "dataset": "own:tasks", "ways": None, "shots": None, "iterations": 0, "norm_mode": ""}


def value_of(name, task, draw=0, seed=0):
    return (sum(map(ord, name)) * 7 + 5 * task + 3 * draw + 13 * seed) % 97 / 97


def rows(study, seed=0, is_regression=False, draws=2):
    if study == "layer_roles":
        names = {"none": {"kind": "none", "layer": ""}}
        names |= {f"{kind} {la}": {"kind": kind, "layer": la} for kind in ("freeze", "adapt only") for la in LAYERS}
        draws = 1
    else:
        names = {f"head noise {std:g}": {"std": std, "layer": "head"} for std in STRENGTHS}
    frame = pd.DataFrame(
        [{"intervention": name, **columns, "draw": draw, "task": task, "step": step, "split": split,
          "loss": 9 * value_of(name, task, draw, seed) if (step, split) == (2, "query") else 0.7,
          "accuracy": value_of(name, task, draw, seed) if (step, split) == (2, "query") else 0.123}
         for name, columns in names.items() for draw in range(draws) for task in range(TASKS)
         for step in (0, 2) for split in ("support", "query")]
    )  # fmt: skip
    return frame.assign(accuracy=np.nan) if is_regression else frame


@pytest.mark.parametrize("is_regression", [False, True])
def test_every_mark_is_the_mean_over_seeds_tasks_and_draws(results, is_regression):
    for seed in (0, 1):
        for study in ("layer_roles", "fc_noise"):
            results.studied(study, rows(study, seed, is_regression), seed)
    trace = layer_roles.traces(results.folder)["layer_roles_glyphs_cnn4_maml"]
    assert trace.value == ("loss" if is_regression else "accuracy")
    scale = 9 if is_regression else 100

    def by_hand(name, draws, seeds=(0, 1)):
        values = [value_of(name, t, d, s) for s in seeds for t in range(TASKS) for d in range(draws)]
        return scale * np.mean(values)

    assert [mark.layer for mark in trace.frozen] == [mark.layer for mark in trace.alone] == list(LAYERS)
    assert [mark.std for mark in trace.noise] == list(STRENGTHS)
    for marks, draws, reference in (((*trace.frozen, *trace.alone), 1, "none"), (trace.noise, 2, "head noise 0")):
        for mark in marks:
            assert mark.over.mean == pytest.approx(by_hand(mark.name, draws))
            assert mark.against.mean == pytest.approx(by_hand(mark.name, draws) - by_hand(reference, draws), abs=1e-12)
            assert mark.seeds == pytest.approx([by_hand(mark.name, draws, (seed,)) for seed in (0, 1)])
            assert mark.over.n == mark.against.n == TASKS
    assert (trace.as_trained.against.low, trace.as_trained.against.high) == (0, 0)
    assert "intervals speak for new tasks, not for new seeds" in trace.caption[0]


def test_a_network_with_many_long_names_has_a_row_a_layer(results):
    tables = {
        study: results.studied(study, rows(study), **OUTSIDE, write=False) for study in ("layer_roles", "fc_noise")
    }
    trace = layer_roles.from_table(**tables)
    assert trace.title == "Net on own tasks"
    figure, axes = layer_roles.draw(trace)
    assert list(axes) == ["roles", "differences", "noise"]
    assert [tick.get_text() for tick in axes["roles"].get_yticklabels()] == list(LAYERS)
    bars = {round(patch.get_y() + patch.get_height() / 2, 2): patch.get_width() for patch in axes["roles"].patches
            if round(patch.get_height(), 2) == 0.34}  # fmt: skip
    for shift, marks in ((-0.19, trace.frozen), (0.19, trace.alone)):
        for i, mark in enumerate(marks):
            assert bars[round(i + shift, 2)] == pytest.approx(mark.over.mean)
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes["differences"].lines if
              line.get_marker() == "o"]  # fmt: skip
    assert [x for x, _ in points] == pytest.approx([mark.against.mean for mark in (*trace.frozen, *trace.alone)])
    assert "chance" not in [text.get_text() for text in figure.legends[0].get_texts()]
    # No name of a layer is cut off at the figure's edge.
    figure.draw_without_rendering()
    assert min(tick.get_window_extent().x0 for tick in axes["roles"].get_yticklabels()) >= 0


def test_one_study_alone_is_enough(results):
    roles = results.studied("layer_roles", rows("layer_roles"), write=False)
    noise = results.studied("fc_noise", rows("fc_noise"), write=False)
    assert list(layer_roles.draw(layer_roles.from_table(roles))[1]) == ["roles", "differences"]
    alone = layer_roles.from_table(fc_noise=noise)
    assert list(layer_roles.draw(alone)[1]) == ["noise"]
    assert not [part for part in alone.caption if "Dot in a bar" in part or "Right: " in part], "there are none"
    assert alone.caption[-1].startswith("All layers but the last two are fixed; noise is added to ")
    assert "Right: all layers" in layer_roles.from_table(roles, noise).caption[-1]
    with pytest.raises(FigureError, match="give a table of layer_roles, of fc_noise, or both"):
        layer_roles.from_table()
    with pytest.raises(MissingTable, match="python -m analysis layer_roles"):
        layer_roles.traces(results.folder)


def test_the_text_has_the_same_numbers(results):
    trace = layer_roles.from_table(
        results.studied("layer_roles", rows("layer_roles"), write=False),
        results.studied("fc_noise", rows("fc_noise"), write=False),
    )
    text = layer_roles.texts(trace)["md"]
    for mark in (*trace.frozen, *trace.alone, *trace.noise):
        assert f"| {mark.name} | {mark.over.mean:.1f} [" in text
    assert "2 draws a task" in text


def test_a_run_that_diverged_leaves_an_empty_figure_that_says_so(results):
    frame = rows("layer_roles").assign(status="diverged", accuracy=np.nan, loss=np.nan)
    trace = layer_roles.from_table(results.studied("layer_roles", frame, write=False))
    assert (trace.value, trace.frozen) == ("accuracy", ())
    assert "(diverged)." in trace.caption[-1]
    layer_roles.draw(trace)


def test_an_intervention_under_which_a_task_diverged_is_named_and_the_others_are_drawn(results):
    roles, noise = rows("layer_roles"), rows("fc_noise")
    for frame, name in ((roles, "adapt only head"), (noise, "head noise 8")):
        lost = frame["intervention"].eq(name) & frame["task"].eq(1) & frame["draw"].eq(0)
        frame["status"] = np.where(lost, "diverged", "ok")
        frame.loc[lost, ["loss", "accuracy"]] = np.nan
    written = [results.studied(study, frame) for study, frame in (("layer_roles", roles), ("fc_noise", noise))]
    trace = layer_roles.from_table(*written)
    run = written[0]["run"].iloc[0]
    assert [mark.layer for mark in trace.frozen] == list(LAYERS)
    assert [mark.layer for mark in trace.alone] == list(LAYERS[:-1])
    assert [mark.std for mark in trace.noise] == [0, 1]
    assert f"Not averaged in: {run} under adapt only head (diverged on 1 of 4 tasks)." in trace.caption
    assert f"Not averaged in: {run} under head noise 8 (diverged on 1 of 4 tasks)." in trace.caption
    layer_roles.draw(trace)


def test_without_what_the_others_are_compared_with_nothing_is_drawn(results):
    frame = rows("layer_roles")
    lost = frame["intervention"].eq("none") & frame["task"].eq(1)
    frame = frame.assign(status=np.where(lost, "diverged", "ok"))
    frame.loc[lost, ["loss", "accuracy"]] = np.nan
    trace = layer_roles.from_table(results.studied("layer_roles", frame, write=False))
    assert (trace.frozen, trace.alone, trace.as_trained) == ((), (), None)
    run = trace.caption[-1].removeprefix("Not averaged in: ").partition(" ")[0]
    assert trace.caption[-1] == (
        f"Not averaged in: {run} (diverged on 1 of 4 tasks under none, which the others are compared with)."
    )


@pytest.mark.parametrize("study", ["layer_roles", "fc_noise"])
def test_a_table_without_what_the_others_are_compared_with_is_refused(results, study):
    frame = rows(study)
    frame = frame[~frame["intervention"].isin(["none", "head noise 0"])]
    with pytest.raises(FigureError, match=rf"{study} has no row of (kind none|std 0), which the others are compared"):
        layer_roles.from_table(**{study: results.studied(study, frame, write=False)})


def test_studies_on_other_test_tasks_say_so(results):
    roles, noise = (results.studied(study, rows(study), write=False) for study in ("layer_roles", "fc_noise"))
    assert "other test tasks" not in " ".join(layer_roles.from_table(roles, noise).caption)
    for other, told in ((noise[noise["task"] < 3], "4 of seed 0 and 3 of seed 0"),
                        (noise.assign(task_seed=7), "4 of seed 0 and 4 of seed 7")):  # fmt: skip
        caption = layer_roles.from_table(roles, other).caption
        assert f"Freezing layers and noise were measured on other test tasks: {told}." in caption


def test_no_whisker_hides_a_seed(results):
    tables = [results.studied("layer_roles", rows("layer_roles", seed), seed, write=False) for seed in (0, 1, 2)]
    _, axes = layer_roles.draw(layer_roles.from_table(pd.concat(tables)))
    dots = [line for line in axes["roles"].lines if len(line.get_xdata()) == 3]
    whiskers = [bar for bar in axes["roles"].containers if isinstance(bar, ErrorbarContainer)]
    assert dots
    assert whiskers
    assert min(line.get_zorder() for line in dots) > max(bar[2][0].get_zorder() for bar in whiskers)


def test_a_layer_called_like_mathematics_keeps_its_name(results):
    frame = rows("layer_roles").replace({"layer": {"head": r"$\frac$"}})
    figure, axes = layer_roles.draw(layer_roles.from_table(results.studied("layer_roles", frame, write=False)))
    figure.draw_without_rendering()
    assert axes["roles"].get_yticklabels()[-1].get_text() == r"\$\frac\$"
