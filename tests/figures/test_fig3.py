"""Figure 3: means and differences recomputed from the tables, and what would be drawn."""

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import paired_task_interval
from analysis.store import read_study
from figures import captions, fig3, table_a1
from figures.errors import FigureError, MissingTable

STUDY = "depth_sweep"


def by_hand(results, dataset, layers, method):
    """Mean over seeds of the query accuracy after the last step, in percent, from the table alone."""
    rows = read_study(results.folder, STUDY)
    rows = rows[
        rows["dataset"].eq(dataset) & rows["layers"].eq(layers) & rows["method"].eq(method) & rows["split"].eq("query")
    ]
    rows = rows[rows["step"].eq(rows["steps"])]
    return 100 * np.mean([rows.loc[rows["seed"].eq(seed), "accuracy"].mean() for seed in rows["seed"].unique()])


@pytest.fixture
def swept(results):
    for layers in (1, 2, 3, 4):
        for seed in (0, 3):
            easy = 0.1 * layers + 0.02 * seed
            results.compared(STUDY, "glyphs", layers, "maml", seed, [easy, easy + 0.1, easy + 0.05], adapt_lr=0.8)
            results.compared(STUDY, "glyphs", layers, "kfc", seed, [easy + 0.2, easy + 0.25, easy + 0.3])
    return results


def only(found):
    (trace,) = found.values()
    return trace


def test_every_point_is_the_mean_that_the_table_has(swept):
    found = fig3.traces(swept.folder)
    assert list(found) == ["fig3_glyphs"]
    trace = found["fig3_glyphs"]
    assert [(p.layers, p.method) for p in trace.points] == list(fig3.MODELS)
    for point in trace.points:
        assert point.estimate.mean == pytest.approx(by_hand(swept, "glyphs", point.layers, point.method))
        assert [seed for seed, _ in point.estimate.seeds] == [0, 3]
        assert point.estimate.interval == "95 % BCa bootstrap interval over test tasks"
        assert point.model_parameters == 1000 * point.layers
    assert (trace.title, trace.chance) == ("Glyphs\n10-way 5-shot, 4 steps", 10)
    assert "Not measured" not in " ".join(trace.about)


def test_what_is_drawn_is_what_the_table_has(swept):
    trace = only(fig3.traces(swept.folder))
    figure, axes = fig3.draw(trace)
    drawn = [np.asarray(line.get_ydata(), float) for line in axes["accuracy"].lines]
    for method in fig3.METHODS:
        means = [by_hand(swept, "glyphs", layers, method) for layers in (1, 2, 3, 4)]
        assert any(len(y) == 4 and y == pytest.approx(means) for y in drawn)
    assert any(list(y) == [10, 10] for y in drawn)  # chance
    for point in trace.points:
        seeds = [mean for _, mean in point.estimate.seeds]
        assert any(len(y) == 2 and y == pytest.approx(seeds) for y in drawn)
        # The dotted line of the claim, from KFC to MAML with one layer more.
        if point.method == "kfc" and point.layers < 4:
            ends = [point.estimate.mean, by_hand(swept, "glyphs", point.layers + 1, "maml")]
            assert any(len(y) == 2 and y == pytest.approx(ends) for y in drawn)
    whiskers = [segment[:, 1] for c in axes["accuracy"].collections for segment in c.get_segments()]
    for point in trace.points:
        assert any(w == pytest.approx([point.estimate.low, point.estimate.high]) for w in whiskers)
    assert [t.get_text() for t in axes["gap"].get_xticklabels()] == ["1 vs 2", "2 vs 3", "3 vs 4"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"CNN (MAML)", "CNN w/ KFC", "one seed", "95 % interval over tasks", "paper (full Omniglot)"} <= set(legend)


def test_the_papers_values_stand_beside_ours(swept):
    swept.compared(STUDY, "cifar_fs", 1, "kfc", 0, [0.3, 0.4])
    found = fig3.traces(swept.folder)
    for name, values, gaps in (
        ("fig3_glyphs", [29.20, 66.45, 60.94, 91.13, 91.69, 96.57, 97.56, 98.49], [5.51, -0.56, -0.99]),
        ("fig3_cifar_fs", [24.86, 42.02, 38.44, 52.94, 50.91, 53.07, 55.03, 55.97], [3.58, 2.03, -1.96]),
    ):
        trace = found[name]
        assert [trace.published[pair].accuracy for pair in fig3.MODELS] == values
        assert [trace.published_gap(layers) for layers in (1, 2, 3)] == [pytest.approx(gap) for gap in gaps]
        assert trace.published_gap(4) is None
        _, axes = fig3.draw(trace)
        stars = [line for line in axes["accuracy"].lines if line.get_markerfacecolor() == "white"]
        # A line each, joined: MAML's, then KFC's.
        assert [list(line.get_ydata()) for line in stars] == [values[::2], values[1::2]]
    assert found["fig3_cifar_fs"].title == "CIFAR-FS\n10-way 3-shot, 2 steps"


def test_a_gap_is_paired_by_task_and_dots_by_seed(swept):
    trace = only(fig3.traces(swept.folder))
    rows = read_study(swept.folder, STUDY)
    rows = rows[rows["split"].eq("query") & rows["step"].eq(4)].assign(accuracy=lambda frame: 100 * frame["accuracy"])
    for gap in trace.gaps:
        ours = rows[rows["method"].eq("kfc") & rows["layers"].eq(gap.layers)]
        deeper = rows[rows["method"].eq("maml") & rows["layers"].eq(gap.layers + 1)]
        oracle = paired_task_interval(ours, deeper)
        # Tasks: 20, 25, 30 less 0, 10, 5, and less the 10 that a layer is worth in the fixture.
        assert gap.mean == pytest.approx(10)
        assert (gap.low, gap.high) == (pytest.approx(oracle.low), pytest.approx(oracle.high))
        assert gap.seeds == ((0, pytest.approx(10)), (3, pytest.approx(10)))
        assert gap.num_tasks == 3
    assert f"1 against 2 layers: {trace.gaps[0].text}" in trace.lead[1]
    assert trace.gaps[0].text.startswith("+10.0 [+5.0, ")
    assert "paired by task; they speak for new tasks, not for new seeds." in trace.lead[1]


def test_a_gap_is_of_the_tasks_that_both_met(results):
    results.compared(STUDY, "glyphs", 1, "kfc", 0, [0.5, 0.7, 0.9])
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.4, 0.5])
    results.compared(STUDY, "glyphs", 3, "maml", 0, [0.4, 0.5], task_seed=9)
    results.compared(STUDY, "glyphs", 2, "kfc", 0, [0.4, 0.5])
    (gap,) = only(fig3.traces(results.folder)).gaps  # 2 against 3 layers have no task in common
    assert (gap.layers, gap.num_tasks) == (1, 2)
    assert gap.mean == pytest.approx(15)


def test_a_gap_of_some_seeds_says_which(results):
    """Beside means over all seeds it would else contradict them."""
    for seed, value in enumerate((0.5, 0.7)):
        results.compared(STUDY, "glyphs", 1, "kfc", seed, [value, value + 0.1])
        results.compared(STUDY, "glyphs", 2, "maml", seed, [0.4, 0.5], lost_tasks=[1] * seed)
    trace = only(fig3.traces(results.folder))
    (gap,) = trace.gaps
    assert (gap.mean, gap.common) == (pytest.approx(10), "(seed 0, which both have)")
    assert f"1 against 2 layers: {gap.text} points" in trace.lead[1]
    assert gap.text.endswith("] (seed 0, which both have)") or gap.text == "+10.0 (seed 0, which both have)"
    table = table_a1.table(trace)
    assert "CNN-1 w/ KFC − CNN-2: seed 0, which both have." in table.notes
    assert table.columns[4].cells[-1].value == "1"


def test_a_negative_gap_has_a_minus_sign():
    assert [captions.signed(value) for value in (-1.26, 0.31)] == ["−1.3", "+0.3"]


def test_missing_depths_are_named_and_their_paper_values_drawn(results):
    results.compared(STUDY, "omniglot_small", 2, "maml", 0, [0.5, 0.6])
    results.compared(STUDY, "omniglot_small", 4, "kfc", 0, [0.8, 0.9])
    trace = only(fig3.traces(results.folder))
    assert "Not measured: CNN-1, CNN-1 w/ KFC, CNN-2 w/ KFC, CNN-3, CNN-3 w/ KFC, CNN-4." in trace.about
    assert trace.gaps == ()
    _, axes = fig3.draw(trace)
    assert list(axes) == ["accuracy"]
    stars = [line for line in axes["accuracy"].lines if line.get_markerfacecolor() == "white"]
    assert [len(line.get_ydata()) for line in stars] == [4, 4]


def test_a_diverged_run_is_named_and_never_averaged(results):
    results.compared(STUDY, "glyphs", 1, "kfc", 0, [0.5, 0.7])
    lost = results.compared(STUDY, "glyphs", 1, "kfc", 1, [0, 0], status="diverged")
    partly = results.compared(STUDY, "glyphs", 2, "maml", 0, [0.4, 0.5], lost_tasks=[1])
    trace = only(fig3.traces(results.folder))
    ours, deeper = (p.estimate for p in trace.points)
    assert ours.mean == pytest.approx(60)
    assert np.isnan(deeper.mean)
    assert trace.gaps == ()  # nothing is left to compare with
    assert f"Not averaged in: {lost} (diverged), {partly} (diverged on 1 of 2 tasks)." in trace.about
    _, axes = fig3.draw(trace)
    (told,) = [t.get_text() for t in axes["accuracy"].texts if "diverged" in t.get_text()]
    assert told == "CNN-1 w/ KFC: 1 of 2 diverged\nCNN-2: 1 of 1 diverged in part"


@pytest.mark.parametrize(
    "change", [{"iterations": 50}, {"tasks_per_iteration": 32}, {"norm_mode": "instance"}, {"filters": 8}]
)
def test_depths_and_methods_of_other_lengths_or_networks_are_never_mixed(swept, change):
    # A network of its own method and depth: nothing within a group differs.
    swept.compared(STUDY, "omniglot_small", 1, "maml", 0, [0.5])
    swept.compared(STUDY, "omniglot_small", 2, "kfc", 0, [0.5], **change)
    (key,) = change
    with pytest.raises(FigureError, match=rf"runs of CNN-1, CNN-2 w/ KFC on omniglot_small differ in {key} .*--where"):
        fig3.traces(swept.folder)


def test_meta_optimizers_of_two_kinds_are_not_one_method(results):
    results.compared(STUDY, "glyphs", 1, "kfc", 0, [0.5])
    results.compared(STUDY, "glyphs", 2, "kfc", 0, [0.5], rule_depth=2)
    with pytest.raises(FigureError, match="CNN-1 w/ KFC, CNN-2 w/ KFC on glyphs differ in rule_depth"):
        fig3.traces(results.folder)


def test_learning_rates_may_be_each_depths_own_but_not_each_seeds(results):
    results.compared(STUDY, "glyphs", 1, "maml", 0, [0.5], adapt_lr=0.8)
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5], adapt_lr=0.5)
    assert len(only(fig3.traces(results.folder)).points) == 2
    results.compared(STUDY, "glyphs", 2, "maml", 1, [0.5], adapt_lr=0.4)
    with pytest.raises(FigureError, match="runs of CNN-2 on glyphs differ in adapt_lr"):
        fig3.traces(results.folder)


def test_runs_of_other_experiments_are_left_out(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5])
    results.compared(STUDY, "glyphs", 2, "meta_sgd", 0, [0.9], iterations=7)
    results.compared(STUDY, "glyphs", 1, "maml", 0, [0.9], ways=5, iterations=8)
    assert [(p.layers, p.method) for p in only(fig3.traces(results.folder)).points] == [(2, "maml")]


def test_the_caption_states_the_length_against_the_papers(swept):
    swept.compared(STUDY, "cifar_fs", 1, "maml", 0, [0.3, 0.4], tasks_per_iteration=32)
    found = fig3.traces(swept.folder)
    assert found["fig3_glyphs"].about == (
        "Glyphs: 10-way 5-shot, 4 adaptation steps; 600 iterations (paper: not stated); 4 tasks an iteration (reduced; "
        "paper: 32); 2 seeds; 3 test tasks (paper: 600).",
        "Normalisation: batch norm with the statistics of the batch at hand.",
    )
    assert found["fig3_cifar_fs"].about[0] == (
        "CIFAR-FS: 10-way 3-shot, 2 adaptation steps; 600 iterations (paper: not stated); 32 tasks an iteration "
        "(paper: not stated); 1 seed; 2 test tasks (paper: 600)."
    )
    assert found["fig3_glyphs"].lead[0] == (
        "Line: mean over seeds; dot: one seed; whisker, where longer than its mark: 95 % BCa bootstrap interval over "
        "test tasks. Star, beside its number of layers: the paper, on the left in its method's colour."
    )


def test_without_its_networks_the_figure_says_what_makes_them(results):
    with pytest.raises(MissingTable, match=r"core experiment glyphs_depth .*, then: python -m analysis depth_sweep"):
        fig3.traces(results.folder)
    results.compared(STUDY, "glyphs", 2, "meta_sgd", 0, [0.5])
    with pytest.raises(MissingTable, match=r"no CNN was measured .* core experiment glyphs_depth"):
        fig3.traces(results.folder)


def test_a_missing_column_is_named(swept, monkeypatch):
    whole = read_study(swept.folder, STUDY)
    monkeypatch.setattr("figures.data.read_study", lambda *_: pd.DataFrame(whole).drop(columns="rule_parameters"))
    with pytest.raises(FigureError, match="depth_sweep lacks column rule_parameters"):
        fig3.traces(swept.folder)


def test_a_seed_that_one_of_the_two_lost_is_left_out_of_their_difference(results):
    for seed, accuracy in ((0, 0.2), (1, 0.8)):
        results.compared(STUDY, "glyphs", 1, "kfc", seed, [accuracy, accuracy + 0.1], adapt_lr=0.8)
        lost = {"status": "diverged"} if seed else {}
        results.compared(STUDY, "glyphs", 2, "maml", seed, [0.4, 0.6], adapt_lr=0.8, **lost)
    (gap,) = only(fig3.traces(results.folder)).gaps
    assert gap.mean == pytest.approx(25 - 50)  # and not the mean of both seeds less that of one, 55 - 50
    assert [seed for seed, _ in gap.seeds] == [0]
