import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from analysis.errors import StudyError
from analysis.statistics import (
    interval,
    paired_interval,
    paired_task_interval,
    seed_spread,
    task_interval,
    task_intervals,
)


def runs(means, num_tasks=50, spread=0.1, seed=0):
    """A table of runs of the same tasks, some of which are harder than others."""
    rng = np.random.default_rng(seed)
    hardness = rng.normal(0, spread, num_tasks)
    frames = [
        pd.DataFrame(
            {
                "run": f"r{i}",
                "seed": i,
                "task_seed": 0,
                "task": range(num_tasks),
                "accuracy": mean + hardness + rng.normal(0, 0.01, num_tasks),
            }
        )
        for i, mean in enumerate(means)
    ]
    return pd.concat(frames, ignore_index=True)


def test_the_interval_of_many_normal_values_is_that_of_the_textbook():
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    found = interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean(), abs=1e-15)
    # The ends are order statistics of 9,999 resamples: known to about 3 % of the half-width.
    assert found.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06 * half)
    assert (found.kind, found.level, found.n) == ("bca", 0.95, 400)


@pytest.mark.parametrize("n", [23, 100, 600])
@pytest.mark.parametrize("draw", ["exponential", "random", "integers"])
def test_the_interval_is_that_of_scipy_by_the_same_random_numbers(n, draw):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 51, n) / 50 if draw == "integers" else getattr(rng, draw)(size=n)
    # Of 50 query examples each, many resamples have the very mean of the values, which scipy counts as half below it.
    found = interval(values, 0.9, seed=3, num_resamples=2_000)
    expected = bootstrap(
        (values,), np.mean, n_resamples=2_000, confidence_level=0.9, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    tolerance = 0.02 * (expected.high - expected.low) if draw == "integers" else 1e-12  # rounding may part a tie
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_a_resample_with_the_mean_of_the_values_is_no_matter_of_rounding():
    whole = np.array([1.0, 2, 3, 4, 4, 7, 7])  # their mean is 4, and ties are exact
    exact, rounded = interval(whole), interval(whole / 10)
    assert (10 * rounded.low, 10 * rounded.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_the_level_is_used():
    values = np.random.default_rng(0).normal(size=400)
    narrow, wide = interval(values, 0.5), interval(values, 0.99)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2.576 / 0.674, rel=0.1)


def test_95_percent_intervals_cover_the_truth_about_as_often():
    rng = np.random.default_rng(1)
    covered = 0
    for repetition in range(300):
        found = interval(rng.gamma(2.0, size=60), seed=repetition, num_resamples=999)  # skewed, mean 2
        covered += found.low < 2 < found.high
    # Binomial(300, 0.95) lies in here but for 1 case in 1,000; a bootstrap of 60 skewed values loses a percent.
    assert 0.89 < covered / 300 < 0.99


def test_the_seed_decides():
    values = np.random.default_rng(0).random(30)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3).low != interval(values, seed=4).low


def test_nothing_else_decides():
    values = np.random.default_rng(0).random(30)
    first = interval(values)
    np.random.seed(0)  # noqa: NPY002 the global generator must not matter
    assert interval(values) == first


def test_one_value_has_no_interval():
    found = interval([0.5])
    assert (found.mean, found.kind, found.n) == (0.5, "none", 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_values_that_do_not_vary_have_an_interval_of_length_zero_that_says_so():
    found = interval([0.25] * 10)
    assert (found.low, found.high, found.kind) == (0.25, 0.25, "percentile")


@pytest.mark.parametrize(
    ("values", "level", "told"),
    [
        ([], 0.95, "at least one number"),
        ([[1.0]], 0.95, "shape"),
        ([1.0, math.nan, math.inf], 0.95, "2 of 3 values are not finite.*status is ok"),
        ([1.0, 2.0], 95, "level must lie between 0 and 1, got 95"),
    ],
)
def test_what_has_no_interval_is_refused(values, level, told):
    with pytest.raises(StudyError, match=told):
        interval(values, level)


def test_pairs_are_formed_by_key_and_not_by_position():
    rng = np.random.default_rng(0)
    a = pd.Series(rng.normal(size=40), index=range(40))
    b = (a - 0.5 + rng.normal(0, 0.01, 40)).sample(frac=1, random_state=1)
    found = paired_interval(a, b)
    assert found == interval(a - b.sort_index(), over="pairs")
    assert found.high - found.low < 0.02  # by position it is about 0.8


def test_pairs_need_the_same_keys_once():
    a = pd.Series([1.0, 2.0], index=[0, 1])
    with pytest.raises(StudyError, match="2 keys appear in one of the two lists only"):
        paired_interval(a, pd.Series([1.0, 2.0], index=[1, 2]))
    with pytest.raises(StudyError, match="twice in the second list"):
        paired_interval(a, pd.Series([1.0, 2.0, 3.0], index=[0, 1, 1]))


def test_a_task_counts_once_however_many_runs_met_it():
    table = runs([0.7, 0.8, 0.9])
    found = task_interval(table)
    by_pandas = table.pivot(index="task", columns="run", values="accuracy").mean(axis=1)
    assert found == interval(by_pandas, over="tasks")
    assert (found.level, found.kind, found.n, found.over) == (0.95, "bca", 50, "tasks")
    asked = {"level": 0.5, "seed": 3, "num_resamples": 500}
    assert task_interval(table, **asked) == interval(by_pandas, over="tasks", **asked)
    zero = table.assign(accuracy=0.0)
    assert paired_task_interval(table, zero, **asked) == interval(by_pandas, over="tasks", **asked)


def test_tasks_of_another_seed_are_other_tasks():
    table = pd.concat([runs([0.7]), runs([0.7]).assign(task_seed=1, run="r1")])
    with pytest.raises(StudyError, match="did not meet the same tasks"):
        task_interval(table)


def test_runs_of_unequal_tasks_are_refused():
    table = runs([0.7, 0.8])
    with pytest.raises(StudyError, match="did not meet the same tasks"):
        task_interval(table.iloc[:-1])
    with pytest.raises(StudyError, match="more than one row for a task"):
        task_interval(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(StudyError, match="lacks column loss"):
        task_interval(table, "loss")


def test_a_diverged_task_is_not_averaged_away():
    table = runs([0.7, 0.8])
    table.loc[3, "accuracy"] = math.nan
    with pytest.raises(StudyError, match="1 of 50 values are not finite"):
        task_interval(table)


def test_the_paired_interval_is_narrower_where_tasks_differ_more_than_runs():
    a, b = runs([0.80, 0.81]), runs([0.78])
    b["accuracy"] = a[a["run"] == "r0"]["accuracy"].to_numpy() - 0.02
    found = paired_task_interval(a, b)
    both = [t.groupby("task")["accuracy"].mean() for t in (a, b)]
    assert found == interval(both[0] - both[1], over="tasks")
    assert found.low > 0
    assert task_interval(a).low < task_interval(b).high


def test_the_spread_over_seeds_is_that_of_the_runs_means():
    table = runs([0.7, 0.8, 0.9])
    means = [part["accuracy"].mean() for _, part in table.groupby("run")]
    found = seed_spread(table)
    assert found.mean == pytest.approx(np.mean(means))
    assert found.std == pytest.approx(np.std(means, ddof=1))
    assert (found.low, found.high, found.n) == (pytest.approx(min(means)), pytest.approx(max(means)), 3)


def test_each_run_counts_once_in_the_spread():
    table = runs([0.5, 0.9]).iloc[40:]  # 10 tasks of the first run, 50 of the second
    means = [table[table["seed"] == seed]["accuracy"].mean() for seed in (0, 1)]
    assert seed_spread(table).mean == pytest.approx(np.mean(means))


def test_one_seed_has_no_standard_deviation():
    found = seed_spread(runs([0.7]))
    assert math.isnan(found.std)
    assert found.n == 1
    with pytest.raises(StudyError, match="not finite"):
        seed_spread(runs([math.nan, 0.5]))


def cells(num_tasks):
    """A table of two runs with so many tasks in each cell, by layer."""
    rng = np.random.default_rng(2)
    rows = [
        (run, layer, step, 0, task, rng.exponential())
        for run in "ab" for layer, number in num_tasks.items() for step in (0, 1) for task in range(number)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["run", "layer", "step", "task_seed", "task", "accuracy"])


def test_the_intervals_of_all_cells_are_those_of_each():
    table = cells({"x": 37, "y": 37, "z": 23, "single": 1})
    found = task_intervals(table, ["layer", "step"])
    assert list(found) == [(layer, step) for layer in ("x", "y", "z", "single") for step in (0, 1)]
    for (layer, step), over in found.items():
        alone = task_interval(table[(table["layer"] == layer) & (table["step"] == step)])
        # The same random numbers, summed in another order.
        for end in ("mean", "low", "high"):
            assert getattr(over, end) == pytest.approx(getattr(alone, end), rel=1e-12, nan_ok=True)
        assert (over.kind, over.n, over.over) == (alone.kind, alone.n, alone.over)
    shuffled = task_intervals(table.sample(frac=1, random_state=0), ["layer", "step"])
    for cell, over in found.items():
        assert shuffled[cell].low == pytest.approx(over.low, rel=1e-12, nan_ok=True), (
            "the order of rows does not matter"
        )


def test_a_cell_without_variance_has_an_interval_of_no_length():
    table = cells({"x": 9, "y": 9})
    table.loc[table["layer"] == "x", "accuracy"] = 0.3
    found = task_intervals(table, ["layer"], task=("step", "task"))
    assert (found[("x",)].kind, found[("y",)].kind) == ("percentile", "bca")
    assert found[("x",)].low == pytest.approx(0.3, abs=1e-15)
    assert found[("x",)].high == pytest.approx(0.3, abs=1e-15)


def test_resampling_in_batches_is_resampling_at_once(monkeypatch):
    table = cells({"x": 9})
    whole = task_intervals(table, ["layer", "step"])
    monkeypatch.setattr("analysis.statistics._BATCH_NUMBERS", 9 * 1000)
    assert task_intervals(table, ["layer", "step"]) == whole


def test_cells_that_cannot_be_averaged_are_refused():
    table = cells({"x": 5, "y": 5})
    with pytest.raises(StudyError, match="more than one row for a task"):
        task_intervals(table, ["layer"])
    with pytest.raises(StudyError, match="did not meet the same tasks"):
        task_intervals(table.iloc[:-1], ["layer", "step"])
    with pytest.raises(StudyError, match="1 of 40 values are not finite"):
        task_intervals(table.assign(accuracy=table["accuracy"].where(table.index != 3)), ["layer", "step"])
    with pytest.raises(StudyError, match="lacks column place"):
        task_intervals(table, ["place"])
    assert task_intervals(table.iloc[:0], ["layer", "step"]) == {}
