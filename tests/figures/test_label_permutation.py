"""The figure of label permutations says what is in its table."""

import numpy as np
import pandas as pd
import pytest

from figures import label_permutation
from figures.errors import FigureError

TASKS, ORDERS = 5, 3


def accuracy_of(intervention, draw, task, seed=0):
    return (len(intervention) * 7 + 31 * draw + 17 * task + 13 * seed) % 41 / 41


def rows(seed=0, orders=ORDERS):
    jobs = [("none", 0), *(("labels permuted", draw) for draw in range(orders))]
    frame = pd.DataFrame(
        [(name, draw, task, step, split,
          accuracy_of(name, draw, task, seed) if (step, split) == (2, "query") else 0.123)
         for name, draw in jobs for task in range(TASKS) for step in (0, 2) for split in ("support", "query")],
        columns=["intervention", "draw", "task", "step", "split", "accuracy"],
    )  # fmt: skip
    return frame.assign(loss=0.5)


def test_each_tasks_range_and_spread_are_those_of_its_orders(results):
    results.studied("label_permutation", rows())
    trace = label_permutation.traces(results.folder)["label_permutation_glyphs_cnn4_maml"]
    orders = np.array([[100 * accuracy_of("labels permuted", d, t) for d in range(ORDERS)] for t in range(TASKS)])
    start = np.array([100 * accuracy_of("none", 0, t) for t in range(TASKS)])
    by_mean = np.argsort(orders.mean(1), kind="stable")
    expected = np.stack([start, orders.min(1), orders.mean(1), orders.max(1)], axis=1)[by_mean]
    assert np.array(trace.tasks) == pytest.approx(expected)
    assert trace.spread == pytest.approx(orders.std(1, ddof=1)[by_mean])
    assert trace.mean_spread.mean == pytest.approx(orders.std(1, ddof=1).mean())
    assert trace.over_orders.mean == pytest.approx(orders.mean())
    assert trace.as_they_come.mean == pytest.approx(start.mean())
    assert trace.difference.mean == pytest.approx(orders.mean() - start.mean())
    assert trace.difference.n == TASKS
    assert f"{ORDERS} random orders" in trace.caption[-1]


def test_the_picture_has_a_bar_and_two_points_a_task(results):
    trace = label_permutation.from_table(results.studied("label_permutation", rows(), write=False))
    _, axes = label_permutation.draw(trace)
    (bars,) = axes["tasks"].collections
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(np.array([(low, high) for _, low, _, high in trace.tasks]))
    means, starts = (list(line.get_ydata()) for line in axes["tasks"].lines)
    assert means == pytest.approx([mean for _, _, mean, _ in trace.tasks])
    assert starts == pytest.approx([start for start, _, _, _ in trace.tasks])
    assert sum(patch.get_height() for patch in axes["spread"].patches) == TASKS


def test_a_task_of_several_runs_is_one_task(results):
    for seed in (0, 1):
        results.studied("label_permutation", rows(seed), seed)
    trace = label_permutation.traces(results.folder)["label_permutation_glyphs_cnn4_maml"]
    assert len(trace.tasks) == trace.mean_spread.n == TASKS
    spreads = [
        np.std([100 * accuracy_of("labels permuted", d, t, seed) for d in range(ORDERS)], ddof=1)
        for t in range(TASKS) for seed in (0, 1)
    ]  # fmt: skip
    assert trace.mean_spread.mean == pytest.approx(np.mean(spreads))


def test_one_order_has_no_spread(results):
    with pytest.raises(FigureError, match="at least 2 random orders of the classes, and the table has 1"):
        label_permutation.from_table(results.studied("label_permutation", rows(orders=1), write=False))


def test_a_run_that_diverged_leaves_an_empty_figure_that_says_so(results):
    frame = rows().assign(status="diverged", accuracy=np.nan, loss=np.nan)
    trace = label_permutation.from_table(results.studied("label_permutation", frame, write=False))
    assert trace.tasks == ()
    assert "(diverged)." in trace.caption[-1]
    label_permutation.draw(trace)


def test_a_task_that_diverged_under_one_order_is_one_task(results):
    frame = rows()
    lost = frame["task"].eq(2) & frame["draw"].eq(1)
    frame = frame.assign(status=np.where(lost, "diverged", "ok"))
    frame.loc[lost, ["accuracy", "loss"]] = np.nan
    trace = label_permutation.from_table(results.studied("label_permutation", frame, write=False))
    assert f"diverged on 1 of {TASKS} tasks" in trace.caption[-1]
