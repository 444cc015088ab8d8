"""Our numbers beside the paper's, on tables of known numbers."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from analysis.statistics import Interval
from figures import comparison, fig2, table1, table2, table_a1
from figures.comparison import Number
from figures.layer_roles import Mark
from figures.paper import PUBLISHED

STUDY = "optimizer_comparison"


def number(mean, low=math.nan, high=math.nan, *, paper=60.94, lost=""):
    stated = replace(PUBLISHED[5], accuracy=paper) if paper is not None else None
    interval = "" if math.isnan(low) else "95 % interval"
    return Number(
        "table2", "glyphs", "cnn", "maml", 2, stated, (), mean=mean, low=low, high=high, interval=interval, lost=lost
    )


@pytest.mark.parametrize(
    ("one", "status", "difference"),
    [
        (number(61.0, 60.0, 62.0), "our interval contains it", 0.06),
        (number(61.0, 60.94, 62.0), "our interval contains it", 0.06),  # its ends are in it
        (number(60.0, 58.0, 60.94), "our interval contains it", -0.94),
        (number(62.0, 61.0, 63.0), "ours is above", 1.06),
        (number(50.0, 49.0, 51.0), "ours is below", -10.94),
        (number(60.94), "no interval of ours", 0.0),
        (number(50.0, 49.0, 51.0, paper=None), "no published number", math.nan),
        (number(math.nan, lost="1 of 1 diverged"), "diverged or failed", math.nan),
        (number(math.nan, lost="1 of 1 diverged", paper=None), "diverged or failed", math.nan),
        (number(math.nan), "no number of ours", math.nan),
    ],
)
def test_how_two_numbers_compare(one, status, difference):
    assert one.status == status
    assert status in comparison.STATUSES
    assert one.difference == pytest.approx(difference, nan_ok=True)


def test_every_number_of_the_paper_is_found_in_its_own_table():
    for entry in PUBLISHED:
        figure = comparison.TABLE_OF[entry.source]
        found = comparison.published(figure, entry.dataset, entry.model, entry.method, entry.layers)
        assert found is entry  # Tables 2 and A1 share numbers, and each has its own
    assert comparison.published("table1", "omniglot", "lr", "kfc", None) is None
    assert comparison.published("table2", "glyphs", "cnn", "kfc", 2).dataset == "omniglot"


def test_what_differs_is_read_from_the_runs(results):
    for seed in (0, 1):
        results.compared(STUDY, "glyphs", 2, "maml", seed, [0.5, 0.6, 0.7 + 0.1 * seed])
        results.compared(STUDY, "cifar_fs", 2, "maml", seed, [0.3, 0.5], tasks_per_iteration=7)
    results.compared(STUDY, "glyphs", 2, "kfc", 0, [0.5, 0.6])
    results.compared(STUDY, "glyphs", 2, "kfc", 1, [0, 0], status="diverged")
    (trace,) = table2.traces(results.folder).values()
    found = {(n.dataset, n.method): n for n in trace.numbers}
    assert found["glyphs", "maml"].reasons == (
        "Glyphs stands in for Omniglot",
        "600 training iterations (the paper does not state how many)",
        "4 tasks an iteration in place of 32",
        "3 test tasks in place of 600",
    )
    assert found["glyphs", "kfc"].reasons[-1] == "1 of 2 diverged, and not averaged in"
    assert found["glyphs", "kfc"].lost == "1 of 2 diverged"
    assert found["cifar_fs", "maml"].reasons == (
        "600 training iterations (the paper does not state how many)",
        "7 tasks an iteration (the paper does not state how many)",
        "2 test tasks in place of 600",
    )
    one = found["glyphs", "maml"]
    assert (one.mean, one.std) == pytest.approx((100 * np.mean([0.5, 0.6, 0.75]), 100 * 0.1 / 3 / math.sqrt(2)))
    assert (one.num_runs, one.num_tasks, one.paper.accuracy) == (2, 3, 60.94)
    assert one.tables == (
        "optimizer_comparison/glyphs-cnn2-maml-s0-600",
        "optimizer_comparison/glyphs-cnn2-maml-s1-600",
    )
    assert found["glyphs", "kfc"].tables[1].endswith("glyphs-cnn2-kfc-s1-600")  # the lost run is told, too


def test_at_the_papers_length_no_reason_is_made_up(results):
    results.measured("synthetic", "linnet", "maml", 0, {"same": [0.9, 0.95, 0.93], "fresh": [0.8, 0.85, 0.83]})
    results.measured("synthetic", "lr", "klin", 0, {"same": [0.9, 0.95, 0.93]})
    results.ceilings({("bayes", "same"): [0.9, 0.95]}, id="first")
    results.ceilings({("bayes", "same"): [0.9, 0.95]}, points=10, id="of fewer points")
    (trace,) = table1.traces(results.folder).values()
    found = {(n.method, n.condition): n for n in trace.numbers}
    scale = "points times 0.1 in place of 1"
    assert found["maml", "own points"].reasons == (scale,)
    assert found["maml", "fresh points"].reasons == (scale, "measured on fresh points, not on those adapted to")
    assert found["klin", "own points"].reasons == (comparison.SILENT,)
    assert found["klin", "own points"].status == "no published number"
    assert found["bayes", "own points"].num_runs is None
    assert found["bayes", "own points"].tables == ("ceilings/first",)


def test_table_a1_tells_parameters_and_differences(results):
    for seed in (0, 1):
        results.compared("depth_sweep", "glyphs", 1, "kfc", seed, [0.5, 0.6, 0.7])
        results.compared("depth_sweep", "glyphs", 2, "maml", seed, [0.6, 0.7, 0.7])
        results.compared("depth_sweep", "glyphs", 2, "kfc", seed, [0.7, 0.7, 0.9], rule_parameters=134_171)
    (trace,) = table_a1.traces(results.folder).values()
    one, two = (n for n in trace.numbers if n.layers == 2 and n.unit == "%")
    assert one.reasons[-1] == "2,000 parameters of the network in place of 38,474"
    assert two.reasons[-1] == one.reasons[-1]  # its meta-optimizer has as many as the paper's
    (gap,) = (n for n in trace.numbers if n.unit == "points")
    assert gap.condition == "less CNN-2"
    assert gap.mean == pytest.approx(-100 * 0.2 / 3)
    assert gap.paper.accuracy == 5.51  # 66.45 - 60.94
    assert len(gap.tables) == 4


def test_an_upper_bound_belongs_to_no_run(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5, 0.6])
    results.bound("glyphs", 2, [0.9, 0.8, 0.7, 0.1], unconverged=[1], lost_tasks=[3])
    (trace,) = table2.traces(results.folder).values()
    (one,) = (n for n in trace.numbers if n.method == "upper_bound")
    assert (one.mean, one.num_runs, one.num_tasks) == (pytest.approx(80), None, 3)
    assert one.tables == ("upper_bound/glyphs-cnn-2-s0",)
    assert one.paper.accuracy == 95.09
    assert one.reasons == (
        "Glyphs stands in for Omniglot",
        "trained on 15 images a class (the paper does not say on how many)",
        "Omniglot has 20 a class, so few more can have been the paper's: not explained",
        "1 of 3 tasks not converged",
        "1 of 4 tasks diverged, and not averaged in",
    )


def test_what_figure_2_draws_has_no_published_number():
    def over(mean):
        return Interval(mean, mean - 1, mean + 1, 0.95, "bca", 7, "tasks")

    def mark(name, std=0.0):
        return Mark(name, "C1", std, over(90.0), (89.0, 91.0), over(-3.0), ("layer_roles/a",))

    marks = mark("none"), (mark("freeze C1"),), (), (mark("FC noise 0"), mark("FC noise 2", 2.0))
    found = fig2.Trace("", "accuracy", ("C1",), 10.0, *marks, "FC", (), (), dataset="glyphs").numbers
    assert [(n.condition, n.mean, n.unit) for n in found] == [
        ("as trained", 90.0, "%"),
        ("freeze C1", 90.0, "%"),
        ("freeze C1, less as trained", -3.0, "points"),
        ("FC noise 0", 90.0, "%"),
        ("FC noise 2", 90.0, "%"),
        ("FC noise 2, less no noise", -3.0, "points"),
    ]
    assert {n.status for n in found} == {"no published number"}
    assert {(n.num_runs, n.num_tasks, n.tables) for n in found} == {(2, 7, ("layer_roles/a",))}


def test_what_was_not_measured_is_listed_with_the_command_that_makes_it(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5, 0.6])
    results.compared(STUDY, "omniglot_small", 2, "kfc", 0, [0.5, 0.6])
    (trace,) = table2.traces(results.folder).values()
    missing = comparison.unmeasured(trace.numbers, "R", {"table_a1": "runs differ"})
    of_table_2 = {(n.dataset, n.method) for n in missing if n.figure == "table2"}
    methods = {"upper_bound", "maml", "meta_sgd", "meta_curvature", "kfc"}
    expected = {
        (dataset, method) for dataset in ("glyphs", "omniglot_small", "cifar_fs", "mini_imagenet") for method in methods
    }
    assert of_table_2 == expected - {("glyphs", "maml"), ("omniglot_small", "kfc")}
    told = {(n.figure, n.dataset, n.method): n.reasons[0] for n in missing}
    assert (
        "python -m core experiment glyphs_optimizers --results R, then: python -m analysis optimizer_comparison"
        in (told["table2", "glyphs", "kfc"])
    )
    assert "python -m analysis upper_bound --results R" in told["table2", "cifar_fs", "upper_bound"]
    assert "python -m core experiment omniglot_linear --results R" in told["table1", "omniglot", "maml"]
    assert told["table_a1", "cifar_fs", "kfc"] == "runs differ"  # measured, but not drawn: no command would help
    assert {n.status for n in missing} == {"no number of ours"}
    assert len(missing) + 2 == len(PUBLISHED) + len(methods)  # Omniglot's column stands beside two data sets


def test_commands_name_experiments_that_exist():
    from core.experiments import EXPERIMENTS

    for one in comparison.unmeasured([], "R", {}):
        (name,) = re.findall(r"core experiment (\w+)", one.reasons[0])
        assert name in EXPERIMENTS


def test_seeds_that_are_far_apart_are_told(results):
    for seed, mean in enumerate((0.5, 0.7, 0.6)):
        results.compared("depth_sweep", "glyphs", 1, "kfc", seed, [mean, mean])
        results.compared("depth_sweep", "glyphs", 2, "maml", seed, [0.6 + 0.02 * seed] * 2)
    (trace,) = table_a1.traces(results.folder).values()
    kfc, maml, gap = trace.numbers
    assert kfc.reasons[-1] == "seeds have 50.0, 60.0, 70.0 %"
    assert not any("seeds" in reason for reason in maml.reasons)
    assert gap.reasons[-1] == "CNN-1 w/ KFC: seeds have 50.0, 60.0, 70.0 %"


def test_a_number_is_told_what_its_training_curve_shows(results):
    for layers, method, ends in ((1, "kfc", (0.5, 0.6)), (2, "maml", (0.6, 0.6)), (2, "kfc", (0.9, 0.8))):
        results.compared("depth_sweep", "glyphs", layers, method, 0, [0.5, 0.6])
        results.curve("glyphs", "cnn", method, 0, {0: 0.1, 300: ends[0], 600: ends[1]}, depth=layers)
    results.curve("glyphs", "cnn", "kfc", 7, {0: 0.1, 600: 0.9}, depth=1)  # of a run that the number is not of
    (trace,) = table_a1.traces(results.folder).values()
    found = {(n.layers, n.method, n.unit): n for n in comparison.along_training(trace.numbers, results.folder)}
    before = {(n.layers, n.method, n.unit): n for n in trace.numbers}
    rises, falls = (
        "still rising: 10.0 points from iteration 300 to 600",
        "it had 90.0 % at iteration 300, and 80.0 at its end, on the tasks of the curve",
    )
    more = {key: n.reasons[len(before[key].reasons) :] for key, n in found.items()}
    assert more == {
        (1, "kfc", "%"): (rises,),
        (2, "maml", "%"): (),
        (2, "kfc", "%"): (falls,),
        (1, "kfc", "points"): (f"CNN-1 w/ KFC: {rises}",),
    }
    (results.folder / "training_curves").rename(results.folder / "elsewhere")
    assert comparison.along_training(trace.numbers, results.folder) == list(trace.numbers)


def test_what_a_curve_tells_stands_in_place_of_no_reason(results):
    one = replace(number(61.0, 60.0, 62.0), reasons=(comparison.SAME,))
    other = replace(one, mean=70.04, folder="longer")
    assert comparison.of_other_folder([one], [other])[0].reasons == ("70.0 % in longer",)
    for different in (replace(other, layers=3), replace(other, condition="own points"), replace(other, mean=math.nan)):
        assert comparison.of_other_folder([one], [different])[0].reasons == (comparison.SAME,)
    gap = replace(one, unit="points")
    assert comparison.of_other_folder([gap], [replace(gap, mean=1.84, folder="longer")])[0].reasons == (
        "+1.8 points in longer",
    )
