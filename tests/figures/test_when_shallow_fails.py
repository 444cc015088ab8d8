"""Where LR cannot be meta-learned: what would be drawn, and that it is drawn."""

import numpy as np
import pandas as pd
import pytest

from analysis.store import provenance, write_table
from figures import when_shallow_fails
from figures.data import Where
from figures.errors import MissingTable

CENTRE = {
    "lr": {"input_scale": 0.1, "adapt_lr": 0.5, "meta_lr": 0.01, "points": 1000, "init_scale": 1.0, "iterations": 50},
    "linnet": {
        "input_scale": 0.1,
        "adapt_lr": 1.9,
        "meta_lr": 1.9,
        "points": 1000,
        "init_scale": 1.0,
        "iterations": 50,
    },
}
MEAN_CLASSIFIER, BAYES = {1000: 0.88, 10: 0.6}, {1000: 0.95, 10: 0.59}


def cell(model, accuracies, *, lost=(), turn=1.0, **changes):
    """Rows of one cell: accuracies on fresh points by task, the same for both seeds, and decoys on the task's own."""
    at = {**CENTRE[model], **changes}
    rows = []
    for seed in (0, 1):
        for task, value in enumerate(accuracies):
            for on in ("same", "fresh"):
                bad = seed in lost
                fresh = on == "fresh"
                rows.append(
                    {
                        "model": model, "varied": ", ".join(changes) or "none", **at, "seed": seed,
                        "status": "diverged" if bad else "ok", "task_seed": 0, "task": task, "evaluated_on": on,
                        "accuracy": np.nan if bad else value if fresh else 0.123,
                        "mean_classifier": MEAN_CLASSIFIER[at["points"]] if fresh else 0.123,
                        "bayes": BAYES[at["points"]] if fresh else 0.123,
                        "turn": np.nan if bad else turn + 0.1 * task**2,
                        "predicted_accuracy": np.nan if bad or not fresh else value + 0.01,
                    }
                )  # fmt: skip
    numbers = ("loss", "initial_size", "start_size", "predicted_start", "step_ratio")
    return pd.DataFrame(rows).assign(**dict.fromkeys(numbers, 0.5))


def write(folder, *cells, id="synthetic-50-iterations-s0"):
    frame = pd.concat(cells, ignore_index=True)
    write_table(folder, "when_shallow_fails", id, frame, provenance(command="test"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    cells = [
        cell("lr", [0.5, 0.52, 0.54], turn=0.02),
        cell("lr", [0.6, 0.6, 0.66], turn=0.4, input_scale=1.0),
        cell("lr", [0.8, 0.8, 0.86], turn=2.0, adapt_lr=50.0),
        cell("lr", [0.86, 0.86, 0.89], turn=9.0, input_scale=1.0, adapt_lr=50.0),
        cell("lr", [0.33, 0.5, 0.7], points=10),
        cell("lr", [0.55, 0.55, 0.58], meta_lr=0.1),
        cell("lr", [0.5, 0.53, 0.56], iterations=300),
        cell("lr", [0.53, 0.53, 0.56], meta_lr=0.1, iterations=300),
        cell("linnet", [0.84, 0.86, 0.88], turn=5.0),
        cell("linnet", [0.7, 0.7, 0.73], lost=[1], init_scale=0.1),
        cell("linnet", [0.7, 0.7, 0.7], lost=[0, 1], init_scale=10.0),
    ]
    folder = tmp_path_factory.mktemp("results")
    write(folder, *cells)
    return folder


@pytest.fixture(scope="module")
def trace(measured):
    (found,) = when_shallow_fails.traces(measured).values()
    return found


def values(marks, quantity):
    return [(m.at[quantity], None if m.over is None else pytest.approx(m.over.mean)) for m in marks]


def test_maps_hold_the_cells_in_which_nothing_else_is_varied(trace):
    found = {(m.at["input_scale"], m.at["adapt_lr"]): m for m in trace.maps["lr"]}
    assert {at: pytest.approx(m.over.mean) for at, m in found.items()} == {
        (0.1, 0.5): 52, (1.0, 0.5): 62, (0.1, 50.0): 82, (1.0, 50.0): 87,
    }  # fmt: skip
    assert [at for at, m in found.items() if m.is_centre] == [(0.1, 0.5)]
    over = found[0.1, 0.5].over
    assert (over.n, over.over, over.level) == (3, "tasks", 0.95)  # two seeds on three tasks are no six tasks
    assert over.low < 52 < over.high
    assert len(trace.maps["linnet"]) == 1


def test_sweeps_hold_one_quantity_each_with_the_papers_setting_among_them(trace):
    (points,) = trace.sweeps["points"]
    assert (points.model, points.iterations, points.is_longer) == ("lr", 50, False)
    assert values(points.marks, "points") == [(10, 51), (1000, 52)]
    assert [m.is_centre for m in points.marks] == [False, True]
    short, longer = trace.sweeps["meta_lr"]
    assert values(short.marks, "meta_lr") == [(0.01, 52), (0.1, 56)]
    assert (longer.iterations, longer.is_longer) == (300, True)
    assert values(longer.marks, "meta_lr") == [(0.01, 53), (0.1, 54)]
    assert [m.is_centre for m in longer.marks] == [True, False]


def test_what_diverged_is_named_and_never_averaged(trace):
    (init,) = trace.sweeps["init_scale"]
    assert init.model == "linnet"
    assert values(init.marks, "init_scale") == [(0.1, 71), (1.0, 86), (10.0, None)]
    assert [m.lost for m in init.marks] == ["1 of 2 diverged", "", "2 of 2 diverged"]
    assert "every seed diverged (1 of 11 cells)" in trace.caption[-1]
    assert "mean of the other seeds: LinNet at init scale 0.1 (1 of 2 diverged)." in trace.caption[-1]


def test_ceilings_are_of_each_number_of_points(trace):
    assert {n: {k: pytest.approx(v) for k, v in of.items()} for n, of in trace.ceilings.items()} == {
        1000: {"mean classifier": 88, "bayes": 95},
        10: {"mean classifier": 60, "bayes": 59},
    }


def test_dots_are_runs_on_as_many_points_as_the_line_is_of(trace):
    lr = trace.dots["lr"]
    assert len(lr) == 7 * 2  # all cells but that of 10 points, two seeds
    assert (pytest.approx(0.12), pytest.approx(52)) in lr  # median of 0.02, 0.12, 0.42
    assert len(trace.dots["linnet"]) == 2 + 1
    turns = [t for t, _ in trace.curve]
    assert turns == sorted(turns)
    assert (pytest.approx(2.1), pytest.approx(81)) in trace.curve


def test_intervals_and_lengths_are_named(trace):
    caption = " ".join(trace.caption)
    assert "50 iterations where nothing else is said (paper: 30,000)" in caption
    assert "mean over 2 seeds and 3 test tasks" in caption
    assert "Whisker: 95 % BCa bootstrap interval over test tasks." in caption
    # Of the runs that are dots: those on 10 points, whose tasks differ more, are none.
    assert "Dot (bottom right): one run; its 95 % interval over tasks is within 4.0 points of it" in caption


def test_every_number_is_drawn(trace):
    figure, axes = when_shallow_fails.draw(trace)
    assert list(axes) == ["lr", "linnet", "points", "init_scale", "meta_lr", "turn"]
    assert sorted(t.get_text() for t in axes["lr"].texts) == ["52", "62", "82", "87"]
    assert [t.get_text() for t in axes["lr"].get_xticklabels()] == ["0.5", "50"]
    drawn = [list(line.get_ydata()) for line in axes["meta_lr"].lines]
    for expected in ([52, 56], [53, 54], [52], [53], [88, 88], [95, 95], [50, 50]):
        assert any(len(y) == len(expected) and y == pytest.approx(expected) for y in drawn)
    assert any(list(line.get_ydata()) == pytest.approx([60, 88]) for line in axes["points"].lines)
    assert any(list(line.get_xdata()) == [10.0] and line.get_marker() == "x" for line in axes["init_scale"].lines)
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == [
        "LR", "LinNet", "300 iterations", "as in Figure 1", "mean classifier", "Bayes classifier", "chance",
        "predicted from the turn",
    ]  # fmt: skip


def test_a_map_shows_what_diverged(tmp_path):
    write(tmp_path, cell("lr", [0.5]), cell("linnet", [0.8]), cell("linnet", [0.8], lost=[0, 1], input_scale=1.0),
          cell("linnet", [0.7], lost=[0], adapt_lr=6.0))  # fmt: skip
    (trace,) = when_shallow_fails.traces(tmp_path).values()
    _, axes = when_shallow_fails.draw(trace)
    assert sorted(t.get_text() for t in axes["linnet"].texts) == ["70*", "80", "\u00d7"]


def test_choices_of_runs_do_not_concern_it(measured):
    where = [Where.parse("iterations=600")]
    assert when_shallow_fails.traces(measured, where) == when_shallow_fails.traces(measured)


def test_each_of_several_tables_is_a_figure_of_its_own(tmp_path):
    write(tmp_path, cell("lr", [0.5]), cell("linnet", [0.8]), id="one")
    assert list(when_shallow_fails.traces(tmp_path)) == ["when_shallow_fails"]
    write(tmp_path, cell("lr", [0.5]), cell("linnet", [0.8]), id="two")
    assert list(when_shallow_fails.traces(tmp_path)) == ["when_shallow_fails_one", "when_shallow_fails_two"]


def test_without_a_table_the_figure_says_what_makes_it(tmp_path):
    with pytest.raises(MissingTable, match="make it with: python -m analysis when_shallow_fails"):
        when_shallow_fails.traces(tmp_path)


def test_a_single_task_has_no_interval(tmp_path):
    write(tmp_path, cell("lr", [0.5]), cell("linnet", [0.8]))
    (trace,) = when_shallow_fails.traces(tmp_path).values()
    assert "Dot (bottom right): one run. Turn" in trace.caption[1]
