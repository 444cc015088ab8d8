"""Figure A.1: the curves' numbers on paper, and that they are drawn."""

import pytest

from figures import fig_a1
from figures.errors import MissingTable


def test_a_line_is_the_mean_over_seeds_and_its_band_the_range(results):
    results.curve("synthetic", "linnet", "maml", 0, {0: 0.5, 10: 0.6, 30_000: 0.9})
    results.curve("synthetic", "linnet", "maml", 1, {0: 0.52, 10: 0.7, 30_000: 0.88})
    results.curve("synthetic", "linnet", "maml", 2, {0: 0.54, 10: 0.8, 20: 0.1, 30_000: 0.89})
    (trace,) = fig_a1.traces(results.folder).values()
    ((line,),) = [panel.lines for panel in trace.panels]
    # Iteration 20 has one seed only, so it is on no line.
    assert line.points.to_numpy().tolist() == [
        [0, pytest.approx(52), pytest.approx(50), pytest.approx(54)],
        [10, pytest.approx(70), pytest.approx(60), pytest.approx(80)],
        [30_000, pytest.approx(89), pytest.approx(88), pytest.approx(90)],
    ]
    assert (line.num_seeds, line.num_tasks, line.published) == (3, 20, 92)
    assert line.band == "range (smallest to largest) over seeds (3)"


def test_a_diverged_run_is_left_out_and_named(results):
    results.curve("glyphs", "lr", "kfc", 0, {0: 0.2, 600: 0.7})
    lost = results.curve("glyphs", "lr", "kfc", 1, {0: 0.2, 10: 0.9}, status="diverged")
    (trace,) = fig_a1.traces(results.folder).values()
    (line,) = trace.panels[0].lines
    assert line.points["mean"].tolist() == [pytest.approx(20), pytest.approx(70)]
    assert line.lost == ((lost, "diverged"),)
    assert f"Not averaged in: {lost} (diverged)." in trace.caption
    _, axes = fig_a1.draw(trace)
    assert "LR w/ KFC: 1 of 2 diverged" in [text.get_text() for text in axes["glyphs"].texts]


def test_if_everything_diverged_there_is_no_line_but_a_word(results):
    results.curve("glyphs", "lr", "kfc", 0, {0: float("nan")}, status="diverged")
    (trace,) = fig_a1.traces(results.folder).values()
    _, axes = fig_a1.draw(trace)
    assert "LR w/ KFC: 1 of 1 diverged" in [text.get_text() for text in axes["glyphs"].texts]


def test_panels_ceilings_and_length(results):
    results.curve("synthetic", "lr", "maml", 0, {0: 0.5, 30_000: 0.52})
    results.curve("omniglot_small", "lr", "klin", 0, {0: 0.3, 600: 0.7}, num_tasks=100)
    results.ceilings({("mean classifier", "same"): [0.9, 0.94], ("mean classifier", "fresh"): [0.8, 0.8]})
    found = fig_a1.traces(results.folder)
    assert list(found) == ["fig_a1_omniglot_small"]
    trace = found["fig_a1_omniglot_small"]
    assert [c.mean for c in trace.panels[0].ceilings] == [pytest.approx(92)]
    assert trace.panels[1].about == (
        "Omniglot, small archives: 5-way 1-shot, 2 adaptation steps; 600 iterations (reduced; paper: 60,000); 1 seed; "
        "100 test tasks a point (paper: 600)."
    )
    _, axes = fig_a1.draw(trace)
    assert [axes[name].get_title() for name in ("synthetic", "omniglot_small")] == [
        "Synthetic\n1 step",
        "Omniglot, small archives\n5-way 1-shot, 2 steps",
    ]


def test_a_run_evaluated_on_fresh_points_gets_their_ceiling(results):
    results.curve("synthetic", "lr", "maml", 0, {0: 0.5, 30_000: 0.52}, same_points=False)
    results.ceilings({("mean classifier", "same"): [0.9, 0.94], ("mean classifier", "fresh"): [0.8, 0.8]})
    (trace,) = fig_a1.traces(results.folder).values()
    assert [c.mean for c in trace.panels[0].ceilings] == [pytest.approx(80)]


def test_each_line_has_its_methods_colour(results):
    from figures.style import look_of

    results.curve("glyphs", "lr", "kfc", 0, {0: 0.2, 600: 0.7})
    (trace,) = fig_a1.traces(results.folder).values()
    _, axes = fig_a1.draw(trace)
    assert look_of("lr", "kfc").colour in [line.get_color() for line in axes["glyphs"].lines]


def test_without_curves_the_figure_says_what_makes_them(results):
    results.curve("glyphs", "cnn", "maml", 0, {0: 0.5})
    with pytest.raises(MissingTable, match="python -m analysis training_curves"):
        fig_a1.traces(results.folder)
