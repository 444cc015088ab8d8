"""Figure 1: what would be drawn, and that it is drawn."""

import pytest

from figures import fig1
from figures.errors import MissingTable


@pytest.fixture
def measured(results):
    results.measured("synthetic", "lr", "maml", 0, {"same": [0.5, 0.54], "fresh": [0.1, 0.1]})
    results.measured("synthetic", "lr", "maml", 1, {"same": [0.52, 0.56], "fresh": [0.1, 0.1]})
    results.measured("synthetic", "linnet", "maml", 0, {"same": [0.88, 0.9], "fresh": [0.1, 0.1]})
    results.measured("synthetic", "lr", "klin", 0, [0.99, 0.99])  # not in this figure
    results.measured("glyphs", "linnet", "maml", 0, [0.6, 0.7, 0.8])
    results.ceilings({("mean classifier", "same"): [0.9, 0.94], ("bayes", "fresh"): [0.95, 0.95]})
    return results


def test_panels_hold_the_numbers_of_their_own_data_set(measured):
    (trace,) = fig1.traces(measured.folder).values()
    synthetic, glyphs = trace.panels
    assert [(e.model, e.method) for e in synthetic.bars] == [("lr", "maml"), ("linnet", "maml")]
    assert [e.mean for e in synthetic.bars] == [pytest.approx(53), pytest.approx(89)]
    assert synthetic.published == (50, 92)
    assert (synthetic.chance, synthetic.points_seen) == (50, "same")
    assert [(c.name, c.mean) for c in synthetic.ceilings] == [("mean classifier", pytest.approx(92))]
    assert [e.mean for e in glyphs.bars] == [pytest.approx(70)]
    assert glyphs.published == (70,)
    assert (glyphs.chance, glyphs.ceilings) == (20, ())
    assert glyphs.title == "Glyphs\n5-way 1-shot, 2 steps"


def test_each_data_set_of_characters_has_a_figure_of_its_own(measured):
    measured.measured("omniglot_small", "lr", "maml", 0, [0.4, 0.5])
    found = fig1.traces(measured.folder)
    assert list(found) == ["fig1_omniglot_small", "fig1_glyphs"]
    assert [p.dataset for p in found["fig1_glyphs"].panels] == ["synthetic", "glyphs"]


def test_one_kind_of_data_alone_is_one_panel(results):
    results.measured("synthetic", "lr", "maml", 0, [0.5, 0.54])
    found = fig1.traces(results.folder)
    assert [p.dataset for p in found["fig1_synthetic"].panels] == ["synthetic"]
    _, axes = fig1.draw(found["fig1_synthetic"])
    assert list(axes) == ["synthetic"]


def test_without_its_models_the_figure_says_what_makes_them(results):
    results.measured("glyphs", "lr", "klin", 0, [0.5])
    with pytest.raises(MissingTable, match="python -m core experiment synthetic_linear"):
        fig1.traces(results.folder)


def test_every_number_is_drawn(measured):
    (trace,) = fig1.traces(measured.folder).values()
    figure, axes = fig1.draw(trace)
    ax = axes["synthetic"]
    assert [bar.get_height() for bar in ax.patches] == [pytest.approx(53), pytest.approx(89)]
    drawn = [list(line.get_ydata()) for line in ax.lines]
    for expected in ([52, 54], [50], [92], [50, 50], [92, 92]):  # seeds, the paper's two, chance, ceiling
        assert any(len(y) == len(expected) and y == pytest.approx(expected) for y in drawn)
    whiskers = [segment[:, 1] for c in ax.collections for segment in c.get_segments()]
    with_ends = [bar for bar in trace.panels[0].bars if bar.low == bar.low]
    assert len(whiskers) == len(with_ends) > 0
    for bar, drawn_ends in zip(with_ends, whiskers, strict=True):
        assert drawn_ends == pytest.approx([bar.low, bar.high])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["LR", "LinNet"]
    caption = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "whisker: 95 % BCa bootstrap interval over test tasks" in caption
    assert "600 iterations (reduced; paper: 60,000)" in caption
    assert "30,000 iterations (as in the paper)" in caption
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["one seed", "95 % interval over tasks", "paper (right: full Omniglot)"]
    whisker = figure.legends[0].legend_handles[1]
    assert (whisker.get_marker(), whisker.get_linestyle()) == ("|", "None")  # upright, as it is drawn


def test_the_legend_names_an_interval_only_where_there_is_one(results):
    results.measured("glyphs", "lr", "maml", 0, [0.4])  # one task: no interval
    (trace,) = fig1.traces(results.folder).values()
    figure, _ = fig1.draw(trace)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["one seed", "paper (full Omniglot)"]


def test_a_diverged_model_has_no_bar_and_says_so(results):
    results.measured("glyphs", "lr", "maml", 0, [0.4, 0.5])
    lost = results.measured("glyphs", "linnet", "maml", 0, [0.2, 0.2], status="diverged")
    (trace,) = fig1.traces(results.folder).values()
    _, axes = fig1.draw(trace)
    assert len(axes["glyphs"].patches) == 1
    assert "1 of 1 diverged" in [text.get_text() for text in axes["glyphs"].texts]
    assert f"Not averaged in: {lost} (diverged)." in trace.caption
