import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from core import Episodes, adapt, evaluate, make_model, make_optimizer, make_tasks, meta_gradient
from core.errors import UserError
from core.evaluation import default_chunk
from core.losses import task_accuracies, task_losses


@pytest.fixture
def setting():
    tasks = make_tasks("synthetic", points=20, same_points=False)
    model = make_model("lr", tasks, seed=0)
    rule = make_optimizer("klin")
    theta = {name: p.detach() for name, p in model.named_parameters()}
    return model, rule, theta, rule.init(theta), tasks.sample("test", 5, 0)


def test_the_table_is_adapt_and_a_forward_pass(setting):
    model, rule, theta, xi, episodes = setting
    table = evaluate(model, rule, theta, xi, episodes, steps=3, lr=2.0)
    assert list(table.columns) == ["task", "step", "split", "loss", "accuracy", "status"]
    assert len(table) == 5 * 4 * 2
    for steps in range(4):
        out = adapt(model, rule, theta, xi, episodes, steps=steps, lr=2.0)
        for split, x, y in (
            ("support", episodes.support_x, episodes.support_y),
            ("query", episodes.query_x, episodes.query_y),
        ):
            logits = torch.einsum("tnd,tod->tno", x, out.params["fc.weight"])
            rows = table[(table["step"] == steps) & (table["split"] == split)].sort_values("task")
            expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[..., 0], y, reduction="none").mean(1)
            torch.testing.assert_close(torch.tensor(rows["loss"].to_numpy()).float(), expected)
            right = ((logits[..., 0] > 0) == (y > 0.5)).float().mean(1)
            torch.testing.assert_close(torch.tensor(rows["accuracy"].to_numpy()).float(), right)


def test_chunks_change_nothing(setting):
    whole = evaluate(*setting, steps=2, lr=2.0)
    parts = evaluate(*setting, steps=2, lr=2.0, tasks_per_chunk=2)
    torch.testing.assert_close(torch.tensor(whole["loss"].to_numpy()), torch.tensor(parts["loss"].to_numpy()))
    with pytest.raises(UserError, match="tasks_per_chunk must be at least 1, got 0"):
        evaluate(*setting, steps=2, lr=2.0, tasks_per_chunk=0)


def test_the_callers_tensors_are_left_alone(setting):
    model, rule, theta, xi, episodes = setting
    before = {name: tensor.clone() for name, tensor in {**theta, **xi}.items()}
    evaluate(model, rule, theta, xi, episodes, steps=2, lr=2.0)
    for name, tensor in {**theta, **xi}.items():
        assert torch.equal(tensor, before[name])
        assert not tensor.requires_grad
        assert tensor.grad is None
    assert not model.fc.weight.requires_grad or model.fc.weight.grad is None


def test_divergence_is_no_accuracy(setting):
    model, rule, theta, xi, episodes = setting
    table = evaluate(model, rule, {"fc.weight": theta["fc.weight"] * torch.inf}, xi, episodes, steps=1, lr=1.0)
    assert table["accuracy"].isna().all()
    assert not any(map(math.isfinite, table["loss"]))
    assert set(table["status"]) == {"diverged"}


def test_a_mean_that_would_leave_diverged_tasks_out_is_told(setting):
    model, rule, theta, xi, episodes = setting
    support = episodes.support_x.clone()
    support[3] *= 1e30
    part = Episodes(support, episodes.support_y, episodes.query_x, episodes.query_y, episodes.kind)
    with pytest.warns(UserWarning, match="1 of 5 tasks diverged: their accuracy is NaN, which a mean of pandas leaves"):
        table = evaluate(model, rule, theta, xi, part, steps=1, lr=1.0)
    lost = table["task"] == 3
    assert (table["status"] == "diverged").equals(lost)
    assert table["accuracy"].isna().equals(lost)


@pytest.mark.parametrize(("size", "status"), [(1e6, "ok"), (1e12, "diverged")])
def test_a_loss_that_exploded_is_no_accuracy_at_chance(setting, size, status):
    model, rule, theta, xi, episodes = setting
    table = evaluate(model, rule, {"fc.weight": theta["fc.weight"] * size}, xi, episodes, steps=0, lr=1.0)
    assert np.isfinite(table["loss"]).all()
    assert (table["loss"].max() > 2**24) == (status == "diverged")
    assert set(table["status"]) == {status}
    assert table["accuracy"].isna().all() == (status == "diverged")


def test_a_large_loss_of_a_regression_is_one():
    x = torch.ones(2, 3, 1)
    part = Episodes(x, x * 1e6, x + 1, x * 1e6, "regression")
    model = nn.Linear(1, 1)
    table = evaluate(model, make_optimizer("sgd"), dict(model.named_parameters()), {}, part, steps=0, lr=0.1)
    assert (table["loss"] > 1e11).all()
    assert set(table["status"]) == {"ok"}


def test_query_examples_in_the_support_set_are_told_but_where_that_is_meant(setting):
    model, rule, theta, xi, part = setting
    same = {"query_x": part.support_x, "query_y": part.support_y}
    with pytest.warns(UserWarning, match="100 of 100 query examples, in 5 of 5 tasks, are in the support set"):
        evaluate(model, rule, theta, xi, replace(part, **same), steps=1, lr=0.1)
    evaluate(model, rule, theta, xi, replace(part, **same, same_points=True), steps=1, lr=0.1)


def test_losses_and_accuracies_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
    y = torch.tensor([[0, 0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert task_losses(logits, y, "classification").item() == pytest.approx(expected)
    assert task_accuracies(logits, y, "classification").item() == 0.5
    binary = torch.tensor([[[2.0], [-1.0]]])
    target = torch.tensor([[1.0, 1.0]])
    assert task_losses(binary, target, "binary").item() == pytest.approx(expected)
    assert task_accuracies(binary, target, "binary").item() == 0.5
    assert task_losses(binary, torch.zeros(1, 2, 1), "regression").item() == pytest.approx(2.5)
    assert task_accuracies(binary, torch.zeros(1, 2, 1), "regression").isnan().all()


@pytest.mark.parametrize(
    ("outputs", "kind", "y", "message"),
    [
        (2, "binary", torch.zeros(3, 4), "a binary task needs a model with 1 output"),
        (2, "regression", torch.zeros(3, 4, 1), r"predictions \(4, 2\) do not fit the targets \(4, 1\)"),
    ],
)
def test_outputs_that_do_not_fit_are_explained(outputs, kind, y, message):
    model = nn.Linear(6, outputs)
    x = torch.randn(3, 4, 6)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(UserError, match=message):
        evaluate(model, make_optimizer("sgd"), theta, {}, Episodes(x, y, x + 1, y, kind), steps=1, lr=0.1)


@pytest.mark.parametrize("call", [adapt, evaluate, meta_gradient])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: x[..., :7], r"LR, with parameters of type float32, does not take support examples of shape \(7,\)"),
        (lambda x: x.double(), r"does not take support examples of shape \(100,\) and type float64: "),
        (lambda x: x.byte(), r"does not take support examples of shape \(100,\) and type uint8: "),
    ],
)
def test_examples_that_the_model_does_not_take_are_told(setting, call, change, told):
    model, rule, theta, xi, part = setting
    wrong = replace(part, support_x=change(part.support_x), query_x=change(part.query_x) + 1)
    more = {"first_order": False} if call is meta_gradient else {}
    with pytest.raises(UserError, match=told):
        call(model, rule, theta, xi, wrong, steps=1, lr=0.1, **more)


def test_a_fault_that_is_not_of_the_examples_passes_as_it_is(setting, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("not yours")

    monkeypatch.setattr("core.evaluation.measure", broken)
    with pytest.raises(RuntimeError, match="not yours"):
        evaluate(*setting, steps=1, lr=0.1)


def test_as_many_tasks_go_through_at_once_as_the_larger_of_their_sets_allows():
    model = make_model("cnn", make_tasks("glyphs", ways=5, shots=1), seed=0)
    x, y = torch.zeros(1, 5, 1, 28, 28), torch.zeros(1, 5, dtype=torch.int64)
    many_x, many_y = x.repeat(1, 15, 1, 1, 1), y.repeat(1, 15)
    sizes = [default_chunk(model, Episodes(x, y, *query)) for query in ((x, y), (many_x, many_y))]
    assert sizes[0] == pytest.approx(15 * sizes[1], rel=0.1)
