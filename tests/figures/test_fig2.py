"""Figure 2 says what is in its tables."""

import numpy as np
import pandas as pd
import pytest

from analysis.store import provenance, write_table
from figures import fig2
from figures.errors import FigureError, MissingTable

LAYERS = ("C1", "C2", "C3", "C4", "FC")
STRENGTHS = (0.0, 1.0, 8.0)
TASKS = 6


def accuracy_of(name, seed, task, draw=0):
    """Some accuracy, a fraction, that differs for every cell."""
    return (sum(map(ord, name)) * 7 + 13 * seed + 5 * task + 3 * draw) % 97 / 97


def rows_of(names, draws, status):
    return [
        {"intervention": name, **columns, "draw": draw, "task": task, "step": step, "split": split,
         "accuracy": np.nan if status != "ok" else accuracy_of(name, 0, task, draw) if (step, split) == (4, "query")
         else 0.123, "loss": np.nan if status != "ok" else 0.5, "status": status}
        for name, columns in names.items() for draw in range(draws) for task in range(TASKS)
        for step in (0, 4) for split in ("support", "query")
    ]  # fmt: skip


def write(folder, study, seed=0, *, status="ok", dataset="glyphs", draws=2, **changes):
    config = {
        "dataset": dataset, "model": "cnn", "method": "maml", "depth": 4, "seed": seed, "ways": 10, "shots": 5,
        "steps": 4, "adapt_lr": 0.5, "iterations": 40, "tasks_per_iteration": 4, **changes,
    }  # fmt: skip
    run = f"{dataset}-{config['method']}-{config['depth']}-{config['iterations']}-s{seed}"
    if study == "layer_roles":
        names = {"none": {"kind": "none", "layer": ""}}
        names |= {f"{kind} {layer}": {"kind": kind, "layer": layer} for kind in ("freeze", "adapt only")
                  for layer in LAYERS}  # fmt: skip
        frame = pd.DataFrame(rows_of(names, 1, status))
    else:
        names = {f"FC noise {std:g}": {"std": std, "layer": "FC"} for std in STRENGTHS}
        frame = pd.DataFrame(rows_of(names, draws, status))
    if status == "ok":
        last = frame["step"].eq(4) & frame["split"].eq("query")
        frame.loc[last, "accuracy"] = [
            accuracy_of(r.intervention, seed, r.task, r.draw) for r in frame[last].itertuples()
        ]
    frame = frame.assign(
        run=run, dataset=dataset, model="cnn", method=config["method"], seed=seed, task_seed=0,
        norm_mode=config.get("norm_mode", "batch"),
        steps=4, adapt_lr=0.5, iterations=config["iterations"], tasks_per_iteration=4,
        **{key: pd.array([value] * len(frame), dtype="Int64") for key, value in (("layers", 4), ("ways", 10),
                                                                                ("shots", 5))},
    )  # fmt: skip
    write_table(folder, study, run, frame, provenance(config=config, command="test"))


def test_a_run_that_leaves_its_depth_to_the_network_has_the_networks(tmp_path):
    write(tmp_path, "layer_roles", depth=None)
    assert list(fig2.traces(tmp_path)) == ["fig2_glyphs"]


def test_every_mark_is_the_mean_over_seeds_tasks_and_draws(tmp_path):
    for seed in (0, 1):
        for study in ("layer_roles", "fc_noise"):
            write(tmp_path, study, seed)
    trace = fig2.traces(tmp_path)["fig2_glyphs"]
    assert [mark.layer for mark in trace.frozen] == [mark.layer for mark in trace.alone] == list(LAYERS)
    assert [mark.std for mark in trace.noise] == list(STRENGTHS)

    def by_hand(name, draws, seeds=(0, 1)):
        return 100 * np.mean([accuracy_of(name, s, t, d) for s in seeds for t in range(TASKS) for d in range(draws)])

    for marks, draws, reference in (
        ((*trace.frozen, *trace.alone), 1, "none"), (trace.noise, 2, "FC noise 0")
    ):  # fmt: skip
        for mark in marks:
            assert mark.over.mean == pytest.approx(by_hand(mark.name, draws))
            assert mark.over.n == TASKS
            assert mark.against.mean == pytest.approx(by_hand(mark.name, draws) - by_hand(reference, draws))
            assert mark.seeds == pytest.approx([by_hand(mark.name, draws, (seed,)) for seed in (0, 1)])


def test_the_picture_and_the_text_have_the_same_numbers(tmp_path):
    for study in ("layer_roles", "fc_noise"):
        write(tmp_path, study)
    trace = fig2.traces(tmp_path)["fig2_glyphs"]
    _, axes = fig2.draw(trace)
    heights = sorted(patch.get_height() for patch in axes["roles"].patches if patch.get_width() < 1)
    means = sorted(mark.over.mean for mark in (*trace.frozen, *trace.alone))
    assert heights == pytest.approx(means)
    text = fig2.texts(trace)["md"]
    for mark in (*trace.frozen, *trace.alone, *trace.noise):
        assert f"| {mark.name} | {mark.over.mean:.1f} [" in text
    assert [tick.get_text() for tick in axes["noise"].get_xticklabels()] == ["0", "1", "8"]
    assert "2 draws a task" in " ".join(trace.caption)
    assert "40 iterations of 4 tasks" in " ".join(trace.caption)
    assert trace.caption[-1] == "Not measured, and in the paper's figure: CIFAR-FS."


def test_one_study_alone_gives_one_panel(tmp_path):
    write(tmp_path, "fc_noise")
    trace = fig2.traces(tmp_path)["fig2_glyphs"]
    _, axes = fig2.draw(trace)
    assert list(axes) == ["noise"]


def test_a_diverged_run_is_named_and_not_averaged(tmp_path):
    write(tmp_path, "layer_roles", 0)
    write(tmp_path, "layer_roles", 1, status="diverged")
    trace = fig2.traces(tmp_path)["fig2_glyphs"]
    assert trace.frozen[0].seeds == pytest.approx([100 * np.mean([accuracy_of("freeze C1", 0, t) for t in range(6)])])
    assert "Not averaged in: glyphs-maml-4-40-s1 (diverged)." in trace.caption


def test_other_networks_are_left_out_and_other_lengths_refused(tmp_path):
    write(tmp_path, "layer_roles", 0)
    write(tmp_path, "layer_roles", 0, depth=2)
    write(tmp_path, "layer_roles", 0, method="kfc")
    assert len(fig2.traces(tmp_path)["fig2_glyphs"].frozen[0].seeds) == 1
    write(tmp_path, "layer_roles", 1, iterations=80)
    with pytest.raises(FigureError, match="differ in iterations"):
        fig2.traces(tmp_path)


def test_nothing_measured_is_told(tmp_path):
    with pytest.raises(MissingTable, match="glyphs_layers"):
        fig2.traces(tmp_path)
    write(tmp_path, "layer_roles", 0, depth=2)
    with pytest.raises(MissingTable, match="no CNN of 4 layers under MAML"):
        fig2.traces(tmp_path)


def test_both_panels_are_of_one_training(tmp_path):
    write(tmp_path, "layer_roles", 0)
    write(tmp_path, "fc_noise", 1, iterations=80)
    with pytest.raises(FigureError, match="differ in iterations"):
        fig2.traces(tmp_path)


def test_panels_of_other_seeds_say_so(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "layer_roles", seed)
    write(tmp_path, "fc_noise", 0)
    (trace,) = fig2.traces(tmp_path).values()
    assert "Freezing layers and noise were measured on runs of other seeds: 0, 1 and 0." in trace.caption


def test_where_every_run_diverged_the_panels_are_empty_and_the_caption_says_why(tmp_path):
    write(tmp_path, "layer_roles", 0, status="diverged")
    (trace,) = fig2.traces(tmp_path).values()
    _, axes = fig2.draw(trace)
    assert list(axes) == ["roles"]
    assert not [patch for patch in axes["roles"].patches if patch.get_width() < 1]
    assert "Not averaged in: glyphs-maml-4-40-s0 (diverged)." in trace.caption
    assert trace.tables == ("layer_roles/glyphs-maml-4-40-s0",)


def test_how_the_networks_normalise_is_that_of_the_runs(tmp_path):
    write(tmp_path, "layer_roles", 0, norm_mode="instance")
    (trace,) = fig2.traces(tmp_path).values()
    assert "statistics taken of each example alone" in " ".join(trace.caption)
    assert "of the batch at hand" not in " ".join(trace.caption)
