"""The figure of what is inside a meta-optimizer says what is in its tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.store import provenance, write_table
from figures import inside_optimizer as figure
from figures.captions import signed
from figures.errors import FigureError, MissingTable

TENSORS = {"C1": ("C1.conv.weight", "C1.conv.bias"), "C2": ("C2.conv.bias", "C2.conv.weight"), "FC": ("FC.scales",)}
DRAWN = {"C1": "C1.conv.weight", "C2": "C2.conv.weight", "FC": "FC.scales"}
TASKS, STEPS = 6, 2
ENDS = {"both": STEPS, "theta only": STEPS, "xi only": STEPS, "neither": 1, "plain steps": STEPS, "one plain step": 1}


def some(*what):
    """Some number above 0 that differs for everything that may be asked for."""
    return 0.1 + (sum(map(ord, "".join(map(str, what)))) * 7919 % 997) / 997


def rows_of(seed, steps, adaptations, zero_gradient, lost, quantities):
    rows = []
    for layer, tensors in TENSORS.items():
        for tensor in tensors:
            for part in ("R0", "R1", "L0", "L1"):
                rows += [
                    (
                        "factor",
                        layer,
                        tensor,
                        part,
                        "",
                        None,
                        None,
                        "",
                        "singular value",
                        i,
                        some(tensor, part, seed) / (i + 1),
                    )
                    for i in (1, 0)
                ]
            for part in ("L0", "R0", "R0^T (x) L0"):
                for quantity in figure.DISTANCES:
                    value = some(tensor, part, quantity, seed)
                    rows.append(("factor", layer, tensor, part, "", None, None, "", quantity, 0, value))
    for task in range(TASKS):
        for layer, tensor in [(layer, t) for layer, ts in TENSORS.items() for t in ts] + [("all", "all")]:
            for step in range(1, steps + 1):
                for quantity in ("cosine", "norm ratio", "descent", "gradient norm"):
                    value = some(tensor, step, quantity, task, seed) if quantity != "descent" else float(task > 1)
                    rows.append(("alignment", layer, tensor, "", "", task, step, "support", quantity, 0, value))
        for name in adaptations:
            for step in range(min(steps, ENDS[name]) + 1):
                for split in ("support", "query"):
                    for quantity in quantities:
                        value = some(name, step, split, quantity, task, seed)
                        rows.append(("comparison", "", "", "", name, task, step, split, quantity, 0, value))
    names = ["aspect", "layer", "tensor", "part", "adaptation", "task", "step", "split", "quantity", "index", "value"]
    frame = pd.DataFrame(rows, columns=names).assign(status="ok", unit="-")
    is_blind = frame["tensor"].eq("C1.conv.weight") & frame["task"].eq(0) & frame["quantity"].ne("gradient norm")
    frame.loc[is_blind & bool(zero_gradient), ["status", "value"]] = ["failed: the gradient is zero", np.nan]
    frame.loc[frame["adaptation"].isin(lost) & frame["task"].eq(1), ["status", "value"]] = ["diverged", np.nan]
    if "both" in lost:
        frame.loc[frame["aspect"].eq("alignment") & frame["task"].eq(1), ["status", "value"]] = ["diverged", np.nan]
    if "run" in lost:
        frame[["status", "value"]] = ["diverged", np.nan]
    return frame


def write(
    folder, seed=0, *, steps=STEPS, adaptations=tuple(ENDS), zero_gradient=False, lost=(),
    quantities=("loss", "accuracy"), **changes,
):  # fmt: skip
    config = {
        "dataset": "glyphs", "model": "cnn", "method": "kfc", "depth": 2, "seed": seed, "ways": 10, "shots": 5,
        "steps": steps, "adapt_lr": 0.5, "iterations": 40, "tasks_per_iteration": 4, **changes,
    }  # fmt: skip
    run = f"glyphs-{config['method']}-{config['iterations']}-s{seed}-{config.get('own', 'x')}"
    frame = rows_of(seed, steps, adaptations, zero_gradient, lost, quantities)
    for key in ("task", "step"):
        frame[key] = frame[key].astype("Int64")
    frame = frame.assign(
        **{key: config[key] for key in ("dataset", "model", "method", "iterations")}, run=run, seed=seed,
        norm_mode="batch", task_seed=0, steps=steps, adapt_lr=0.5, tasks_per_iteration=4,
        **{key: pd.array([value] * len(frame), dtype="Int64") for key, value in (("layers", 2), ("ways", 10),
                                                                                ("shots", 5))},
    )  # fmt: skip
    write_table(folder, "inside_optimizer", run, frame, provenance(config=config, command="test"))
    return run


def final(name, seeds=(0, 1), tasks=range(TASKS), steps=STEPS, quantity="accuracy"):
    step = min(steps, ENDS[name])
    values = [some(name, step, "query", quantity, t, s) for s in seeds for t in tasks]
    return (100 if quantity == "accuracy" else 1) * np.mean(values)


def test_every_number_is_that_of_the_tables(tmp_path):
    for seed in (0, 1):
        write(tmp_path, seed)
    ((stem, trace),) = figure.traces(tmp_path).items()
    assert stem == "inside_optimizer_glyphs_cnn2_kfc"
    assert [(s.layer, s.part) for s in trace.strips] == [(c, p) for c in TENSORS for p in ("L0", "L1", "R0", "R1")]
    for strip in trace.strips:
        largest = [some(DRAWN[strip.layer], strip.part, seed) for seed in (0, 1)]
        assert strip.runs == tuple((value, value / 2) for value in largest)
    assert len(trace.distances) == 3 * 3 * 3
    for one in trace.distances:
        values = [some(DRAWN[one.layer], one.part, one.quantity, seed) for seed in (0, 1)]
        assert (one.mean, one.low, one.high) == pytest.approx((np.mean(values), min(values), max(values)))
    assert [(m.layer, m.step) for m in trace.aligned] == [(c, s) for c in (*TENSORS, "all") for s in (1, 2)]
    for mark in trace.aligned:
        tensor = DRAWN.get(mark.layer, "all")
        for quantity, over in (("cosine", mark.cosine), ("norm ratio", mark.ratio)):
            values = [some(tensor, mark.step, quantity, t, s) for t in range(TASKS) for s in (0, 1)]
            assert over.mean == pytest.approx(np.mean(values))
            assert over.low < over.mean < over.high
            assert over.n == TASKS
        assert mark.descent == pytest.approx(100 * (TASKS - 2) / TASKS)
    assert [one.adaptation for one in trace.compared] == list(ENDS)
    for one in trace.compared:
        assert one.over.mean == pytest.approx(final(one.adaptation))
        assert one.against.mean == pytest.approx(final(one.adaptation) - final("both"))
    assert "2 seeds; 6 test tasks" in trace.caption[-1]
    assert "; a map of the gradient G is L G R; maps in their order." in trace.caption[0]


def test_a_task_without_a_gradient_does_not_count_in_any_run(tmp_path):
    write(tmp_path, 0, zero_gradient=True)
    write(tmp_path, 1)
    (trace,) = figure.traces(tmp_path).values()
    blind = trace.aligned[0]
    assert blind.cosine.n == TASKS - 1
    assert blind.cosine.mean == pytest.approx(
        np.mean([some("C1.conv.weight", 1, "cosine", t, s) for t in range(1, TASKS) for s in (0, 1)])
    )
    assert trace.aligned[-1].cosine.n == TASKS


def test_what_diverged_is_named_and_not_averaged_in(tmp_path):
    write(tmp_path, 0)
    lost = write(tmp_path, 1, lost=("xi only", "plain steps"))
    (trace,) = figure.traces(tmp_path).values()
    found = {one.adaptation: one for one in trace.compared}
    assert found["both"].over.mean == pytest.approx(final("both"))
    assert found["xi only"].over.mean == pytest.approx(final("xi only", seeds=(0,)))
    assert found["xi only"].against.mean == pytest.approx(final("xi only", seeds=(0,)) - final("both", seeds=(0,)))
    assert f"{lost} (xi only: diverged on 1 of 6 tasks)" in trace.caption[-1]
    assert f"{lost} (plain steps: diverged on 1 of 6 tasks)" in trace.caption[-1]


def test_a_run_that_diverged_as_trained_has_no_alignment_and_no_comparison(tmp_path):
    write(tmp_path, 0)
    lost = write(tmp_path, 1, lost=("both",))
    (trace,) = figure.traces(tmp_path).values()
    for mark in trace.aligned:
        values = [some(DRAWN.get(mark.layer, "all"), mark.step, "cosine", t, 0) for t in range(TASKS)]
        assert mark.cosine.mean == pytest.approx(np.mean(values))
    for one in trace.compared:
        assert one.over.mean == pytest.approx(final(one.adaptation, seeds=(0,)))
    assert trace.caption[-1] == f"Not averaged in: {lost} (both: diverged on 1 of 6 tasks)."


def test_a_way_to_adapt_that_diverged_in_all_runs_says_so(tmp_path):
    write(tmp_path, lost=("plain steps",))
    (trace,) = figure.traces(tmp_path).values()
    drawn, panels = figure.draw(trace)
    assert "diverged" in [text.get_text() for text in panels["comparison"].texts]
    assert "| plain steps | diverged | diverged |" in figure.texts(trace)["md"]
    drawn.clear()


def test_without_a_reference_the_ways_to_adapt_have_their_numbers(tmp_path):
    write(tmp_path, lost=("both", "xi only"))
    (trace,) = figure.traces(tmp_path).values()
    found = {one.adaptation: one for one in trace.compared}
    assert {found["both"].over, found["xi only"].over} == {None}
    assert found["plain steps"].over.mean == pytest.approx(final("plain steps", seeds=(0,)))
    assert {one.against for one in trace.compared} == {None}
    drawn, panels = figure.draw(trace)
    labels = [label.get_text() for label in panels["comparison"].get_yticklabels()]
    told = {round(text.get_position()[1]): text.get_text() for text in panels["comparison"].texts}
    kinds = ["diverged", "no reference", "diverged", "no reference", "no reference", "no reference"]
    assert [told[y] for y in range(len(labels))] == kinds
    assert labels[4] == f"plain steps\n{found['plain steps'].over.mean:.1f} %"
    text = figure.texts(trace)["md"]
    assert "| xi only | diverged | diverged |" in text
    assert f"| plain steps | {found['plain steps'].over.mean:.1f} [" in text
    assert text.count("| no reference |") == 4
    drawn.clear()


def test_regression_is_compared_by_its_loss(tmp_path):
    write(tmp_path, quantities=("loss",), dataset="sinusoid", model="linnet", depth=None, ways=None, shots=None)
    ((stem, trace),) = figure.traces(tmp_path).items()
    assert stem == "inside_optimizer_sinusoid_linnet_kfc"
    for one in trace.compared:
        assert one.over.mean == pytest.approx(final(one.adaptation, seeds=(0,), quantity="loss"))
        against = final(one.adaptation, seeds=(0,), quantity="loss") - final("both", seeds=(0,), quantity="loss")
        assert one.against.mean == pytest.approx(against)
    caption = " ".join(trace.caption)
    assert "query loss after the last step" in caption
    assert "As trained, θ and ξ both adapt." in caption
    assert "6 test tasks." in caption
    drawn, panels = figure.draw(trace)
    assert panels["comparison"].get_title() == "loss against as trained"
    assert panels["comparison"].get_xlabel() == "difference"
    label = panels["comparison"].get_yticklabels()[4].get_text()
    assert label == f"plain steps\n{trace.compared[4].over.mean:.3g}"
    assert "| adaptation | query loss | less that as trained |" in figure.texts(trace)["md"]
    drawn.clear()


def test_networks_from_outside_are_drawn_by_themselves(tmp_path):
    for own in ("ab12", "cd34"):
        settings = {"depth": None, "ways": None, "shots": None, "iterations": 0, "norm_mode": None}
        write(tmp_path, own=own, dataset="own:tasks", model="own:Net", **settings)
    write(tmp_path)
    found = figure.traces(tmp_path)
    assert list(found) == [f"inside_optimizer_{name}" for name in ("glyphs_cnn2_kfc", *(
        f"tasks_Net_kfc_{own}" for own in ("ab12", "cd34")
    ))]  # fmt: skip
    assert "own tasks: trained elsewhere; 1 seed; 6 test tasks." in found["inside_optimizer_tasks_Net_kfc_ab12"].caption
    assert (
        "Glyphs: 40 iterations of 4 tasks; 1 seed; 6 test tasks." in found["inside_optimizer_glyphs_cnn2_kfc"].caption
    )


def test_long_labels_of_the_comparison_part_no_other_panels(tmp_path):
    write(tmp_path)
    (trace,) = figure.traces(tmp_path).values()
    renamed = [replace(one, adaptation=f"theta only in layer {i}") for i, one in enumerate(trace.compared)]
    drawn, panels = figure.draw(replace(trace, compared=(*trace.compared, *renamed)))
    drawn.draw_without_rendering()
    cosine, ratio, comparison = (panels[name].get_position() for name in ("cosine", "ratio", "comparison"))
    assert ratio.x0 - cosine.x1 < 0.5 * (comparison.x0 - ratio.x1)
    assert (cosine.y0, cosine.y1) == pytest.approx((comparison.y0, comparison.y1))
    title = panels["comparison"].title.get_window_extent()
    assert title.x1 < drawn.bbox.x1
    drawn.clear()


def test_a_run_that_diverged_is_left_out_of_all(tmp_path):
    lost = write(tmp_path, 1, lost=("run",))
    (trace,) = figure.traces(tmp_path).values()
    assert not trace.strips + trace.aligned + trace.compared
    assert trace.caption[-1] == f"Not averaged in: {lost} (diverged)."
    figure.draw(trace)[0].clear()
    write(tmp_path, 0)
    (trace,) = figure.traces(tmp_path).values()
    assert {len(strip.runs) for strip in trace.strips} == {1}
    assert trace.compared[0].over.mean == pytest.approx(final("both", seeds=(0,)))


def test_the_picture_has_every_value(tmp_path):
    for seed in (0, 1):
        write(tmp_path, seed)
    (trace,) = figure.traces(tmp_path).values()
    drawn, panels = figure.draw(trace)
    lines = [path.vertices[0, 1] for c in panels["spectra"].collections for path in c.get_paths()]
    assert sorted(lines) == pytest.approx(sorted(value for s in trace.strips for run in s.runs for value in run))
    assert [label.get_text() for label in panels["spectra"].get_xticklabels()] == list(TENSORS)
    for name in ("cosine", "ratio"):
        dots = [line.get_ydata()[0] for line in panels[name].lines if line.get_marker() == "o"]
        assert dots == pytest.approx([getattr(mark, name).mean for mark in trace.aligned])
    labels = [label.get_text() for label in panels["comparison"].get_yticklabels()]
    assert labels[0] == f"as trained\n{trace.compared[0].over.mean:.1f} %"
    assert labels[2] == f"ξ only\n{trace.compared[2].over.mean:.1f} %"
    drawn.clear()


def test_long_spectra_are_thinned_with_both_ends(tmp_path):
    strip = figure.Strip("C1", "rate", "rate", (tuple(np.linspace(2, 0.5, 5000)),))
    drawn, panels = figure.draw(figure.Trace("", (strip,), (), (), (), ()))
    lines = [path.vertices[0, 1] for c in panels["spectra"].collections for path in c.get_paths()]
    assert (len(lines), max(lines), min(lines)) == (figure.MOST_DRAWN, 2, 0.5)
    assert [label.get_text() for label in panels["spectra"].get_xticklabels(minor=True)] == ["rate"]
    assert panels["spectra"].get_ylabel() == "rate"
    drawn.clear()


def test_captions_say_what_adapts(tmp_path):
    write(tmp_path / "adapts")
    write(tmp_path / "fixed", method="meta_curvature", adaptations=("theta only", "neither", "plain steps"))
    write(tmp_path / "short", steps=1, adaptations=("both", "plain steps"))
    told = {
        name: " ".join(next(iter(figure.traces(tmp_path / name).values())).caption)
        for name in ("adapts", "fixed", "short")
    }
    assert "As trained, θ and ξ both adapt." in told["adapts"]
    assert "As trained, ξ does not adapt." in told["fixed"]
    assert "With one step ξ does not adapt" in told["short"]


def test_the_numbers_are_written_out(tmp_path):
    write(tmp_path)
    (trace,) = figure.traces(tmp_path).values()
    text = figure.texts(trace)["md"]
    values = [some("C1.conv.weight", "R0^T (x) L0", quantity, 0) for quantity in figure.DISTANCES]
    assert f"| C1 | R0^T (x) L0 | {' | '.join(f'{value:.3g}' for value in values)} |" in text
    assert f"| neither | {final('neither', seeds=(0,)):.1f} [" in text
    assert f"| {signed(final('neither', seeds=(0,)) - final('both', seeds=(0,)))} [" in text


def test_runs_of_another_length_are_refused(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1, iterations=80)
    with pytest.raises(FigureError, match="differ in iterations"):
        figure.traces(tmp_path)


def test_nothing_measured_is_told(tmp_path):
    with pytest.raises(MissingTable, match="python -m analysis inside_optimizer"):
        figure.traces(tmp_path)
