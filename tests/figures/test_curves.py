"""What the figures of curves share: lines from rows, and where they are drawn."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from figures import curves, data, style


def runs_of(results):
    return data.read_runs(results.folder, curves.STUDY, curves.NEEDED)


@pytest.fixture
def pair(results):
    results.curve("glyphs", "cnn", "kfc", 0, {0: 0.1, 10: 0.5, 40: 0.7}, training={0: 0.2, 10: 0.6, 40: 0.9}, depth=2)
    results.curve("glyphs", "cnn", "kfc", 1, {0: 0.3, 40: 0.8}, training={0: 0.3, 40: 0.8}, depth=2)
    return results


@pytest.mark.parametrize(
    ("split", "expected"),
    [("test", [[0, 20, 10, 30], [40, 75, 70, 80]]), ("train", [[0, 25, 20, 30], [40, 85, 80, 90]])],
)
def test_a_line_is_of_its_split_at_the_iterations_of_all_runs(pair, split, expected):
    line = curves.line(runs_of(pair), 91.13, split=split)
    assert line.points.to_numpy() == pytest.approx(np.array(expected, float))
    assert (line.name, line.num_seeds, line.num_tasks, line.published) == ("CNN-2 w/ KFC", 2, 20, 91.13)


def test_a_lost_run_is_in_no_point(pair):
    lost = pair.curve("glyphs", "cnn", "kfc", 2, {0: 0.9, 10: 0.9, 40: 0.9}, status="diverged", depth=2)
    line = curves.line(runs_of(pair))
    assert line.points["high"].tolist() == [pytest.approx(30), pytest.approx(80)]
    assert (line.lost, line.num_seeds, len(line.configs)) == (((lost, "diverged"),), 2, 3)
    assert curves.describe_missing_runs([line]) == ["CNN w/ KFC: 1 of 3 diverged"]


def test_a_point_at_which_tasks_diverged_takes_away_no_other(pair):
    """As the study stores a finished run, of which a task diverged at the start."""
    run = pair.curve("glyphs", "cnn", "kfc", 2, {0: 0.5, 10: 0.9, 40: 0.9}, depth=2, lost_at=[0])
    line = curves.line(runs_of(pair))
    assert line.points["iteration"].tolist() == [40]  # at 10 the others have no point
    assert line.points["high"].tolist() == [pytest.approx(90)]
    assert (line.lost, line.num_seeds) == ((), 3)
    assert line.holes == ((run, "1 of 3 points, at which tasks diverged"),)
    assert curves.line(runs_of(pair), split="train").holes == ()


def test_the_band_is_named_only_where_there_is_one(pair):
    two = curves.line(runs_of(pair))
    one = curves.line(data.choose(runs_of(pair), [data.Where(None, "seed", 0)]))
    assert curves.describe_band([one]) == "none, one seed"
    assert curves.describe_band([one, two]) == "range (smallest to largest) over seeds"
    with style.context():
        _, ax = plt.subplots()
        curves.draw_lines(ax, [one])
        assert not ax.collections
        curves.draw_lines(ax, [two])
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert [heights.min(), heights.max()] == [pytest.approx(10), pytest.approx(80)]


@pytest.mark.parametrize(("values", "places"), [((60, 90), 1), ((97.56, 98.49), 2), ((26.6, 27.4, 33.0), 2)])
def test_values_of_the_paper_do_not_cover_one_another(pair, values, places):
    lines = [curves.line(runs_of(pair), value) for value in values]
    with style.context():
        _, ax = plt.subplots()
        ax.set_ylim(0, 100 if max(values) > 40 else 50)
        curves.draw_published(ax, lines)
    drawn = {float(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in ax.lines}
    assert sorted(drawn) == sorted(values)
    assert len(set(drawn.values())) == places
    assert max(drawn.values()) == pytest.approx(0.965)


@pytest.mark.parametrize(
    ("end", "ticks"), [(40, [0, 10, 40]), (600, [0, 10, 100]), (60_000, [0, 10, 100, 1000, 10_000])]
)
def test_a_logarithmic_axis_is_numbered_where_something_was_measured(results, end, ticks):
    results.curve("glyphs", "cnn", "maml", 0, {0: 0.1, end: 0.5}, iterations=end, depth=2)
    with style.context():
        _, ax = plt.subplots()
        curves.set_iterations(ax, [curves.line(runs_of(results))])
    assert ax.get_xlim() == (0, pytest.approx(2.2 * end))
    assert ax.get_xticks().tolist() == ticks


@pytest.mark.parametrize(
    ("end", "ticks"), [(3, [0, 1, 2, 3]), (600, [0, 200, 400, 600]), (1000, [0, 300, 600, 900]), (0, [0])]
)
def test_a_linear_axis_leaves_its_room_at_any_length(results, end, ticks):
    results.curve("glyphs", "cnn", "maml", 0, {0: 0.1, end: 0.5}, iterations=end, depth=2)
    with style.context():
        _, ax = plt.subplots()
        curves.set_linear_iterations(ax, [curves.line(runs_of(results))], room=0.14)
        at, _ = ax.transAxes.inverted().transform(ax.transData.transform((end, 0)))
    assert at == pytest.approx(0.86 if end else 0)
    assert ax.get_xticks().tolist() == ticks


def test_what_the_end_of_training_brought_is_counted_from_the_last_point_before(results):
    results.curve("glyphs", "cnn", "maml", 0, {0: 0.1, 10: 0.3, 50: 0.5, 60: 0.9, 90: 0.6, 100: 0.7}, depth=2)
    one = curves.line(runs_of(results))
    assert curves.rise(one.points, 0.5) == curves.Rise(50, pytest.approx(20))
    assert curves.rise(one.points, 0.55) == curves.Rise(10, pytest.approx(40))
    assert curves.rise(one.points, 0.2) == curves.Rise(60, pytest.approx(-20))
    assert curves.rise(one.points.iloc[-1:], 0.2) is None  # nothing before
    assert curves.rise(one.points.iloc[:1], 0.2) is None  # not trained
    assert curves.rise(one.points.iloc[:0], 0.2) is None
    assert curves.describe_end(one) == [
        "still rising: 20.0 points from iteration 50 to 100",
        "it had 90.0 % at iteration 60, and 70.0 at its end, on the tasks of the curve",
    ]
    flat = one.points.assign(mean=[10, 30, 68.1, 70, 69, 69.9])
    assert curves.describe_end(replace(one, points=flat)) == []  # less than two points are told by no curve
    assert curves.describe_end(replace(one, points=one.points.iloc[:0])) == []
