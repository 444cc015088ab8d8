"""Figure A.3: as Figure A.2, on mini-ImageNet."""

import pytest

from figures import fig_a3
from figures.__main__ import main
from figures.errors import MissingTable


@pytest.fixture
def trained(results):
    for method in ("maml", "meta_curvature"):
        for seed in (0, 1, 2):
            test, train = ({0: 0.1, 600: top + 0.01 * seed} for top in (0.2, 0.26))
            results.curve("mini_imagenet", "cnn", method, seed, test, training=train, depth=2, num_tasks=50)
    return results


def test_it_is_mini_imagenet_in_the_papers_setting(trained):
    trained.curve("glyphs", "cnn", "maml", 0, {0: 0.1, 600: 0.6}, depth=2)
    trained.curve("mini_imagenet", "cnn", "maml", 7, {0: 0.1, 600: 0.6}, depth=2, shots=5)
    found = fig_a3.traces(trained.folder)
    assert list(found) == ["fig_a3_mini_imagenet"]
    trace = found["fig_a3_mini_imagenet"]
    (row,) = trace.rows
    assert [one.points["mean"].tolist() for one in row.testing] == [pytest.approx([10, 21])] * 2
    assert [one.points["mean"].tolist() for one in row.training] == [pytest.approx([10, 27])] * 2
    assert trace.title == "mini-ImageNet: 10-way 1-shot, 5 steps"
    assert trace.caption[1] == (
        "mini-ImageNet: 10-way 1-shot, 5 adaptation steps; 600 iterations (paper: not stated); 4 tasks an iteration "
        "(paper: not stated); 3 seeds; 50 training and 50 test tasks a point."
    )


def test_the_papers_values_are_those_of_mini_imagenet(trained):
    (trace,) = fig_a3.traces(trained.folder).values()
    figure, axes = fig_a3.draw(trace)
    values = [float(a.get_ydata()[0]) for a in axes["testing 2"].lines if len(a.get_ydata()) == 1]
    assert sorted(values) == [18.55, 29.74]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "CNN (MAML)",
        "CNN w/ Meta-Curvature",
        "paper",
    ]
    # Low accuracies have the panel to themselves.
    assert axes["testing 2"].get_ylim() == (0, 40)


def test_without_curves_the_figure_says_what_makes_them(results):
    results.curve("glyphs", "cnn", "maml", 0, {0: 0.1, 600: 0.5}, depth=2)
    with pytest.raises(
        MissingTable, match=r"on mini-ImageNet; .*experiment mini_imagenet_optimizers .*analysis training_curves"
    ):
        fig_a3.traces(results.folder)


def test_all_draws_the_other_figures_and_says_that_this_one_is_missing(results, capsys):
    results.curve("glyphs", "cnn", "maml", 0, {0: 0.1, 600: 0.5}, depth=2)
    assert main(["all", "--results", str(results.folder)]) == 0
    out, error = capsys.readouterr()
    assert "fig_a2_glyphs.png" in out
    assert "fig_a3 is missing: no CNN of 1 to 4 layers" in error
