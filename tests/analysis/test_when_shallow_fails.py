import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.ceilings import ceilings
from analysis.errors import StudyError
from analysis.schemas import SCHEMAS
from analysis.when_shallow_fails import (
    DEFAULT,
    QUANTITIES,
    QUICK,
    cells,
    centre,
    predicted_accuracy,
    predicted_start,
    step_and_turn,
    varied,
    when_shallow_fails,
)
from core import make_model, make_tasks
from core.experiments import synthetic_linear

NUM_TASKS = 6
# A mean over 80 tasks of an accuracy that each task has by its own angle of the start, about 1 / sqrt(100) from a right
# one, that is 0.1 / pi in accuracy: 0.0036 is one standard error, and this is four of them.
FOUR_STANDARD_ERRORS = 0.0145
NOT_TRAINED = replace(
    QUICK, iterations=0, long_iterations=0, seeds=1, input_scales=(), adapt_lrs={"lr": (40.0,), "linnet": ()},
    points=(), init_scales=(), meta_lrs=(), long_meta_lrs=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return when_shallow_fails(size=QUICK, num_tasks=NUM_TASKS, seed=3)


def unit(v):
    return v / v.norm()


def test_the_centre_is_the_papers_setting():
    papers = {c.model: c for c in synthetic_linear(seeds=1) if c.method == "maml"}
    for model, paper in papers.items():
        ours = centre(model)
        for name in ("adapt_lr", "meta_lr", "steps", "hidden", "meta_optimizer", "tasks_per_iteration", "iterations"):
            assert getattr(ours, name) == getattr(paper, name)
        # What the paper leaves to the defaults is stated, and is the same tasks and the same initial weights.
        stated = make_tasks("synthetic", seed=5, **ours.task_options()).sample("train", 2)
        default = make_tasks("synthetic", seed=5, **paper.task_options()).sample("train", 2)
        assert torch.equal(stated.support_x, default.support_x)
        weights = [make_model(model, make_tasks("synthetic"), seed=5, **c.model_options()) for c in (ours, paper)]
        assert all(torch.equal(a, b) for a, b in zip(*(w.parameters() for w in weights), strict=True))


@pytest.mark.parametrize("size", [DEFAULT, QUICK], ids=["default", "quick"])
def test_every_cell_is_there_once_and_named_by_what_differs(size):
    found = cells(size)
    assert len(set(found)) == len(found)
    for config in found:
        paper = replace(centre(config.model), iterations=size.iterations)
        names = varied(config, size).split(", ")
        assert names == ["none"] or set(names) <= set(QUANTITIES)
        changed = {} if names == ["none"] else {name: getattr(config, name) for name in names}
        assert replace(paper, **changed) == config
        assert all(getattr(paper, name) != value for name, value in changed.items())
    by_name = {model: [varied(c, size) for c in found if c.model == model] for model in ("lr", "linnet")}
    for model, names in by_name.items():
        assert names.count("none") == 1
        rows = len({1.0, *size.input_scales})
        columns = len({1.0, *size.adapt_lrs[model]})
        in_map = [n for n in names if n in ("none", "input_scale", "adapt_lr", "input_scale, adapt_lr")]
        assert len(in_map) == rows * columns
        assert names.count("points") == len(size.points)
        assert names.count("init_scale") == len(size.init_scales)
        assert names.count("meta_lr") == len(set(size.meta_lrs) - {centre(model).meta_lr})


def test_step_and_turn_against_angles():
    start = torch.randn(7, dtype=torch.float64)
    end = torch.randn(5, 7, dtype=torch.float64)
    step_ratio, turn = step_and_turn(start, end)
    for one, ratio, tangent in zip(end, step_ratio, turn, strict=True):
        assert ratio.item() == pytest.approx(((one - start).norm() / start.norm()).item())
        cosine = abs((one @ start / one.norm() / start.norm()).item())  # a step beyond the start counts as the way back
        assert tangent.item() == pytest.approx(math.tan(math.acos(cosine)))
    assert step_and_turn(torch.zeros(7, dtype=torch.float64), end)[1].isinf().all()


def test_the_prediction_is_the_angle_of_a_start_that_knows_nothing():
    """In space: a start across w and across the step, a step at an angle phi to w, and points in all directions."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    w, other, start = basis[0], basis[1], 2.5 * basis[2]
    phi = 0.4
    points = torch.randn(400_000, 6, generator=generator, dtype=torch.float64)
    for length in (0.3, 2.0, 20.0):
        end = start + length * (math.cos(phi) * w + math.sin(phi) * other)
        _, turn = step_and_turn(start, end.unsqueeze(0))
        theta = math.acos((unit(end) @ w).item())
        predicted = predicted_accuracy(turn, 1 - phi / math.pi).item()
        assert predicted == pytest.approx(1 - theta / math.pi, abs=1e-12)
        counted = ((points @ end > 0) == (points @ w > 0)).double().mean().item()
        assert predicted == pytest.approx(counted, abs=4 * 0.5 / math.sqrt(len(points)))
    ends = predicted_accuracy(torch.tensor([0.0, math.inf], dtype=torch.float64), 0.88)
    assert ends.tolist() == pytest.approx([0.5, 0.88])


@pytest.mark.parametrize("changes", [{}, {"meta_lr": 1.0}, {"adapt_lr": 900.0}, {"points": 10, "input_scale": 3.0}])
def test_the_predicted_start_against_its_recursion(changes):
    config = replace(centre("lr"), iterations=137, **changes)
    square = 0.7**2
    rate = config.meta_lr * config.input_scale**2 * (1 - config.adapt_lr * config.input_scale**2 / 4) ** 2
    for _ in range(config.iterations):
        square = (1 - rate / 4) ** 2 * square + (rate / 2) ** 2 * (2 / math.pi + (100 - 2 / math.pi) / config.points)
    assert predicted_start(config, 0.7) == pytest.approx(math.sqrt(square))


def test_the_predicted_start_of_no_training_and_of_a_training_without_end():
    assert predicted_start(replace(centre("lr"), iterations=0), 0.7) == pytest.approx(0.7)
    assert predicted_start(replace(centre("lr"), meta_lr=0.0), 0.7) == pytest.approx(0.7)
    assert predicted_start(replace(centre("lr"), meta_lr=1e6), 0.7) == math.inf


def test_the_start_of_lr_is_where_the_recursion_has_it():
    size = replace(
        NOT_TRAINED, iterations=300, long_iterations=300, seeds=3, adapt_lrs={"lr": (), "linnet": ()}, meta_lrs=(1.0,)
    )
    table = when_shallow_fails(size=size, num_tasks=1)
    runs = table[table["model"].eq("lr") & table["evaluated_on"].eq("fresh")]
    settled = runs[runs["varied"] == "meta_lr"]
    # |u|^2 is a sum of 100 squares, known to sqrt(2 / 100) for one run and to 8 % for three: |u| to 4 %; three of them.
    assert math.sqrt(settled["start_size"].pow(2).mean()) == pytest.approx(settled["predicted_start"].mean(), rel=0.12)
    slow = runs[runs["varied"] == "none"]
    assert slow["start_size"].tolist() == pytest.approx(slow["predicted_start"].tolist(), rel=0.01)
    assert (slow["start_size"] < slow["initial_size"]).all()


def test_one_step_from_the_initial_weights_by_hand():
    """LR, not trained, a long step: the gradient of the logistic loss in NumPy, in double precision."""
    table = when_shallow_fails(size=NOT_TRAINED, num_tasks=80, seed=3)
    rows = table[table["varied"].eq("adapt_lr") & table["model"].eq("lr")]
    source = make_tasks("synthetic", same_points=False, seed=3)
    weights = make_model("lr", source, seed=0).fc.weight.detach().double().numpy()[0]
    for task in (0, 1):
        episodes = source.sample("test", 1, index=task)
        x, y, query_x, query_y = (
            t[0].double().numpy() for t in (episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y)
        )
        step = -20.0 * ((1 / (1 + np.exp(-x @ weights)) - y) @ x) / len(x)  # 40 times the paper's 0.5
        end = weights + step
        cosine = end @ weights / np.linalg.norm(end) / np.linalg.norm(weights)
        for seen, points, labels in (("same", x, y), ("fresh", query_x, query_y)):
            row = rows[rows["task"].eq(task) & rows["evaluated_on"].eq(seen)].iloc[0]
            assert row["accuracy"] == pytest.approx(((points @ end > 0) == (labels > 0.5)).mean(), abs=1e-3)
            margins = (2 * labels - 1) * (points @ end)
            assert row["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-5)
            assert row["step_ratio"] == pytest.approx(np.linalg.norm(step) / np.linalg.norm(weights), rel=1e-4)
            assert row["turn"] == pytest.approx(math.tan(math.acos(cosine)), rel=1e-4)
            assert row["start_size"] == pytest.approx(0.1 * np.linalg.norm(weights), rel=1e-6)
            assert row["initial_size"] == pytest.approx(row["start_size"], rel=1e-6)
    fresh = rows[rows["evaluated_on"] == "fresh"]
    assert fresh["predicted_accuracy"].between(0.6, 0.85).all()  # neither no step nor nothing but the step
    assert fresh["accuracy"].mean() == pytest.approx(fresh["predicted_accuracy"].mean(), abs=FOUR_STANDARD_ERRORS)


def test_rows_are_one_a_cell_seed_task_and_kind_of_points(table):
    assert set(table) == set(SCHEMAS["when_shallow_fails"])
    keys = ["model", *QUANTITIES, "seed", "task", "evaluated_on"]
    assert not table.duplicated(keys).any()
    assert len(table) == len(cells(QUICK)) * QUICK.seeds * NUM_TASKS * 2
    assert table["predicted_accuracy"].notna().eq(table["evaluated_on"].eq("fresh") & table["status"].eq("ok")).all()
    assert table["predicted_start"].notna().eq(table["model"].eq("lr")).all()
    good = table[table["status"] == "ok"]
    assert not good.drop(columns=["predicted_accuracy", "predicted_start"]).isna().any().any()
    assert good["accuracy"].between(0, 1).all()


def test_the_ceilings_are_those_of_the_same_tasks(table):
    expected = ceilings(make_tasks("synthetic", same_points=False, seed=3), num_tasks=NUM_TASKS)
    for column, name in (("mean_classifier", "mean classifier"), ("bayes", "bayes")):
        for seen in ("same", "fresh"):
            rows = expected[expected["ceiling"].eq(name) & expected["evaluated_on"].eq(seen)]
            ours = table[table["points"].eq(1000) & table["evaluated_on"].eq(seen)].groupby("task")[column]
            assert (ours.nunique() == 1).all()
            assert ours.first().tolist() == pytest.approx(rows["accuracy"].tolist())


def test_a_training_that_diverged_is_no_chance(table):
    lost = table[table["status"] == "diverged"]
    assert {("linnet", "adapt_lr")} <= set(zip(lost["model"], lost["varied"], strict=True))
    assert (table.loc[table["model"].eq("lr"), "status"] == "ok").all()
    assert lost[["loss", "accuracy", "start_size", "step_ratio", "turn", "predicted_accuracy"]].isna().all().all()
    assert lost[["mean_classifier", "bayes", "initial_size"]].notna().all().all()


def test_no_task_is_a_mistake():
    with pytest.raises(StudyError, match="num_tasks must be at least 1, got 0"):
        when_shallow_fails(size=QUICK, num_tasks=0)
