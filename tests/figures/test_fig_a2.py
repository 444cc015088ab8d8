"""Figure A.2: which runs it takes, the numbers on paper, and what would be drawn."""

import numpy as np
import pytest

from figures import fig_a2
from figures.data import Where
from figures.errors import FigureError, MissingTable
from figures.style import look_of


@pytest.fixture
def trained(results):
    for layers in fig_a2.LAYERS:
        for rank, method in enumerate(fig_a2.METHODS):
            for seed in (0, 1):
                end = 0.5 + 0.05 * rank + 0.1 * seed
                test = {0: 0.1, 10: 0.3, 600: end}
                train = {0: 0.1, 10: 0.4, 600: end + 0.08}
                results.curve("glyphs", "cnn", method, seed, test, training=train, depth=layers)
    return results


def only(found):
    (trace,) = found.values()
    return trace


def drawn_in(ax):
    return [np.asarray(line.get_ydata(), float) for line in ax.lines]


def test_every_line_is_the_mean_of_its_runs_on_its_tasks(trained):
    found = fig_a2.traces(trained.folder)
    assert list(found) == ["fig_a2_glyphs"]
    trace = only(found)
    assert [row.layers for row in trace.rows] == [1, 2, 3, 4]
    for row in trace.rows:
        for rank, (training, testing) in enumerate(zip(row.training, row.testing, strict=True)):
            assert training.method == testing.method == fig_a2.METHODS[rank]
            assert testing.points["mean"].tolist() == pytest.approx([10, 30, 55 + 5 * rank])
            assert training.points["mean"].tolist() == pytest.approx([10, 40, 63 + 5 * rank])
            assert testing.points["low"].tolist() == pytest.approx([10, 30, 50 + 5 * rank])
    assert (trace.title, trace.chance) == ("Glyphs: 10-way 5-shot, 4 steps", 10)


def test_what_is_drawn_is_what_the_trace_has(trained):
    trace = only(fig_a2.traces(trained.folder))
    figure, axes = fig_a2.draw(trace)
    assert list(axes) == [f"{tasks} {layers}" for layers in (1, 2, 3, 4) for tasks in ("training", "testing")]
    for row in trace.rows:
        for name, lines in (("training", row.training), ("testing", row.testing)):
            ax = axes[f"{name} {row.layers}"]
            assert ax.get_title() == (f"{name}, {row.layers} layers" if row.layers > 1 else f"{name}, 1 layer")
            assert any(list(y) == [10, 10] for y in drawn_in(ax))  # chance
            assert len(ax.collections) == 4  # bands
            for one in lines:
                (found,) = [a for a in ax.lines if len(a.get_ydata()) == 3 and a.get_color() == one.look.colour]
                assert list(found.get_ydata()) == one.points["mean"].tolist()
    # One scale, so that panels can be compared.
    assert len({ax.get_xlim() + ax.get_ylim() for ax in axes.values()}) == 1
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "CNN (MAML)", "CNN w/ Meta-SGD", "CNN w/ Meta-Curvature", "CNN w/ KFC", "paper (full Omniglot)",
    ]  # fmt: skip


def test_the_papers_values_stand_on_the_testing_panels_only(trained):
    trace = only(fig_a2.traces(trained.folder))
    _, axes = fig_a2.draw(trace)
    stars = {
        name: sorted(float(a.get_ydata()[0]) for a in ax.lines if len(a.get_ydata()) == 1) for name, ax in axes.items()
    }
    assert stars == {
        "training 1": [],
        "testing 1": [29.2, 66.45],
        "training 2": [],
        "testing 2": [60.94, 69.25, 85.70, 91.13],
        "training 3": [],
        "testing 3": [91.69, 96.57],
        "training 4": [],
        "testing 4": [97.56, 98.49],
    }
    (kfc,) = [a for a in axes["testing 2"].lines if list(a.get_ydata()) == [91.13]]
    assert kfc.get_markeredgecolor() == look_of("cnn", "kfc").colour


def test_the_caption_says_what_is_drawn_and_how_long_it_was_trained(trained):
    trace = only(fig_a2.traces(trained.folder))
    assert trace.caption[0].endswith(
        "Line: mean over seeds; band: range (smallest to largest) over seeds; markers only tell the methods apart; "
        "star, in its method's colour: what the paper states of its end (Tables 2 and A1), wherever that lies on the "
        "axis."
    )
    assert trace.caption[1:] == (
        "Glyphs: 10-way 5-shot, 4 adaptation steps; 600 iterations (paper: not stated); 4 tasks an iteration "
        "(reduced; paper: 32); 2 seeds; 20 training and 20 test tasks a point (paper: 600).",
        "Normalisation: batch norm with the statistics of the batch at hand.",
    )


def test_a_diverged_run_is_named_and_not_averaged(trained):
    lost = trained.curve(
        "glyphs", "cnn", "kfc", 2, {0: 0.1, 10: 0.99}, training={0: 0.1, 10: 0.99}, status="diverged", depth=4
    )
    trace = only(fig_a2.traces(trained.folder))
    for lines in (trace.rows[-1].training, trace.rows[-1].testing):
        assert lines[-1].lost == ((lost, "diverged"),)
        assert lines[-1].points["high"].max() < 85
    assert trace.caption[-1] == f"Not averaged in: {lost} (diverged)."
    figure, axes = fig_a2.draw(trace)
    told = {name: [t for t in ax.texts if "diverged" in t.get_text()] for name, ax in axes.items()}
    assert {name: [t.get_text() for t in texts] for name, texts in told.items() if texts} == {
        "training 4": ["CNN w/ KFC: 1 of 3 diverged"], "testing 4": ["CNN w/ KFC: 1 of 3 diverged"],
    }  # fmt: skip
    figure.draw_without_rendering()
    for name in ("training 4", "testing 4"):
        # Between the title and the panel, where no curve passes.
        words, ax = told[name][0].get_window_extent(), axes[name]
        assert ax.get_window_extent().y1 <= words.y0
        assert words.y1 <= ax.title.get_window_extent().y0 + 1


def test_if_all_runs_diverged_there_is_no_line_but_a_word(results):
    results.curve("glyphs", "cnn", "kfc", 0, {0: float("nan")}, status="diverged", depth=2)
    trace = only(fig_a2.traces(results.folder))
    _, axes = fig_a2.draw(trace)
    assert [text.get_text() for text in axes["testing 2"].texts] == ["chance", "CNN w/ KFC: 1 of 1 diverged"]
    assert all(len(y) for y in drawn_in(axes["testing 2"]))


def test_only_what_was_measured_is_drawn_and_the_rest_is_named(results):
    results.curve("glyphs", "cnn", "maml", 0, {0: 0.1, 600: 0.6}, training={0: 0.1, 600: 0.7}, depth=4)
    trace = only(fig_a2.traces(results.folder))
    figure, axes = fig_a2.draw(trace)
    assert list(axes) == ["training 4", "testing 4"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CNN (MAML)", "paper (full Omniglot)"]
    assert "band: none, one seed" in trace.caption[0]
    assert "Not measured: CNN-2, CNN-2 w/ Meta-SGD, " in trace.caption[-1]
    assert "CNN-4," not in trace.caption[-1]


def test_without_a_value_of_the_paper_none_is_promised(results):
    results.curve("glyphs", "cnn", "meta_sgd", 0, {0: 0.1, 600: 0.6}, depth=4)
    trace = only(fig_a2.traces(results.folder))
    figure, _ = fig_a2.draw(trace)
    assert "star" not in trace.caption[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CNN w/ Meta-SGD"]


@pytest.mark.parametrize("changes", [{"ways": 5}, {"shots": 1}, {"steps": 2}, {"depth": 5}])
def test_runs_of_another_setting_are_of_another_figure(trained, changes):
    trained.curve("glyphs", "cnn", "maml", 7, {0: 0.9, 600: 0.95}, **{"depth": 2, **changes})
    assert [one.num_seeds for one in only(fig_a2.traces(trained.folder)).lines] == [2] * 32


def test_what_the_end_of_training_brought_is_written_beside_it(results):
    for seed, end in enumerate((0.6, 0.8)):
        results.curve("glyphs", "cnn", "kfc", seed, {0: 0.1, 300: 0.7, 400: 0.9, 480: 0.6, 600: end}, depth=3)
    results.curve("glyphs", "cnn", "kfc", 2, {0: float("nan")}, status="diverged", depth=3)
    results.curve("glyphs", "cnn", "kfc", 0, {0: float("nan")}, status="diverged", depth=1)
    text = fig_a2.texts(only(fig_a2.traces(results.folder)))["md"]
    rows = [line for line in text.splitlines() if line.startswith("| CNN")]
    assert rows == [
        "| CNN-3 w/ KFC | 600 | 2 | 70.0 [60.0, 80.0] | 0.0 from 300 | +10.0 from 480 | 90.0 at 400 |"
    ]  # nothing is known of what diverged, which the notes name
    assert "| iterations | seeds | at the end | last half | last fifth | highest |" in text
    assert "glyphs-cnn3-kfc-s2-600 (diverged)" in text


def test_each_data_set_has_its_figure(results):
    for dataset in ("glyphs", "omniglot", "omniglot_small", "cifar_fs", "mini_imagenet"):
        results.curve(dataset, "cnn", "maml", 0, {0: 0.1, 600: 0.6}, depth=2)
    assert list(fig_a2.traces(results.folder)) == ["fig_a2_omniglot", "fig_a2_omniglot_small", "fig_a2_glyphs"]


def test_methods_may_be_trained_for_lengths_of_their_own_but_not_the_runs_of_one(trained):
    trained.curve("omniglot", "cnn", "maml", 0, {0: 0.1, 600: 0.6}, depth=2)
    trained.curve("omniglot", "cnn", "kfc", 0, {0: 0.1, 900: 0.9}, depth=2, iterations=900)
    trace = fig_a2.traces(trained.folder)["fig_a2_omniglot"]
    assert "CNN-2 600, CNN-2 w/ KFC 900 iterations" in trace.caption[1]
    trained.curve("omniglot", "cnn", "kfc", 1, {0: 0.1, 60: 0.2}, depth=2, iterations=60)
    with pytest.raises(FigureError, match=r"CNN-2 w/ KFC on omniglot differ in iterations .*--where omniglot:iter"):
        fig_a2.traces(trained.folder)
    chosen = fig_a2.traces(trained.folder, [Where("omniglot", "iterations", 60)])["fig_a2_omniglot"]
    assert [one.points["iteration"].tolist() for one in chosen.lines] == [[0, 60]] * 2


def test_networks_of_another_kind_are_not_put_side_by_side(trained):
    trained.curve("omniglot", "cnn", "maml", 0, {0: 0.1, 600: 0.6}, depth=2)
    trained.curve("omniglot", "cnn", "kfc", 0, {0: 0.1, 600: 0.6}, depth=2, norm_mode="instance")
    with pytest.raises(FigureError, match="differ in norm_mode"):
        fig_a2.traces(trained.folder)


def test_without_curves_the_figure_says_what_makes_them(results):
    with pytest.raises(MissingTable, match=r"core experiment glyphs_optimizers .*analysis training_curves"):
        fig_a2.traces(results.folder)
    results.curve("glyphs", "lr", "maml", 0, {0: 0.5})
    with pytest.raises(
        MissingTable, match=r"no CNN of 1 to 4 layers has a curve .* on Omniglot or .*core experiment glyphs_optimizers"
    ):
        fig_a2.traces(results.folder)


def test_nothing_leaves_the_page_or_covers_another(trained):
    figure, axes = fig_a2.draw(only(fig_a2.traces(trained.folder)))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    caption, title = figure.texts
    highest = max(ax.get_tightbbox().y1 for ax in axes.values())
    lowest = min(ax.get_tightbbox().y0 for ax in axes.values())
    box = legend.get_window_extent()
    assert caption.get_window_extent().y1 <= lowest
    assert highest <= box.y0 + 1
    assert box.y1 <= title.get_window_extent().y0 + 1
    assert title.get_window_extent().y1 <= figure.bbox.y1
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    at = {name: ax.get_position() for name, ax in axes.items()}
    for layers in (1, 2, 3, 4):  # training and testing of one network are side by side, with the numbers at the left
        assert at[f"training {layers}"].x1 < at[f"testing {layers}"].x0
        assert at[f"training {layers}"].y0 == pytest.approx(at[f"testing {layers}"].y0)
    for name in ("training", "testing"):
        assert all(at[f"{name} {n + 1}"].y1 < at[f"{name} {n}"].y0 for n in (1, 2, 3))
    assert [name for name, ax in axes.items() if ax.get_xlabel()] == ["training 4", "testing 4"]
    assert [name for name, ax in axes.items() if ax.get_ylabel()] == [f"training {n}" for n in (1, 2, 3, 4)]
