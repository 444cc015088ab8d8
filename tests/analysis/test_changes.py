"""Interventions on weights and updates: each against adaptation written out, task by task."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from analysis import (
    StudyError,
    first_steps,
    freeze,
    intervene,
    modify,
    permute_labels,
    perturb,
    reset,
    scale_update,
    sign_of_update,
    swap,
    top_of_update,
)
from analysis.tasks import draw_test_tasks
from core import TrainConfig, meta_train
from core.errors import UserError
from core.seeds import generator

TASKS, STEPS, RATE = 3, 3, 0.5


def train(seed, filters=4):
    config = TrainConfig(
        dataset="glyphs", model="cnn", depth=2, filters=filters, norm_mode="batch", method="maml", steps=STEPS,
        adapt_lr=RATE, first_order=False, meta_optimizer="adam", meta_lr=0.01, iterations=3, tasks_per_iteration=2,
        ways=3, shots=2, endless=True, eval_tasks=2, seed=seed,
    )  # fmt: skip
    return meta_train(config, results=None, progress=False)


@pytest.fixture(scope="module")
def run():
    return train(0)


@pytest.fixture(scope="module")
def other():
    return train(1)


def query_losses(run, plan):
    """Losses (TASKS, STEPS + 1) on the query set under an intervention."""
    table = intervene(run, {"it": plan}, num_tasks=TASKS)
    table = table[table["split"] == "query"].sort_values(["task", "step"])
    return table["loss"].to_numpy().reshape(TASKS, STEPS + 1)


def by_hand(run, change=lambda name, update, step: update, start=None, episodes=None, between=None):
    """The same by gradient descent on one task at a time.

    `change` is what becomes of an update, `between` what becomes of the weights after each step but the last.
    """
    episodes = episodes or draw_test_tasks(run.tasks(seed=0), TASKS)
    losses = np.empty((TASKS, STEPS + 1))
    for task in range(TASKS):
        theta = {name: tensor.clone() for name, tensor in (start or run.theta).items()}
        for step in range(STEPS + 1):
            outputs = functional_call(run.model, theta, (episodes.query_x[task],))
            losses[task, step] = cross_entropy(outputs, episodes.query_y[task])
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
            loss = cross_entropy(
                functional_call(run.model, leaves, (episodes.support_x[task],)), episodes.support_y[task]
            )
            grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            theta = {name: theta[name] + change(name, -RATE * grads[name], step + 1) for name in theta}
            if between is not None and step + 1 < STEPS:
                theta = between(theta, task)
    return losses


def of(layer, function):
    """A change of the updates of one layer."""
    return lambda name, update, step: function(update) if name.startswith(layer) else update


def largest(update, share):
    kept = torch.zeros_like(update).flatten()
    chosen = update.abs().flatten().argsort(descending=True)[: math.ceil(share * update.numel())]
    kept[chosen] = update.flatten()[chosen]
    return kept.view_as(update)


def clipped(update):
    return update.clamp(-0.001, 0.001)


@pytest.mark.parametrize(
    ("plan", "change"),
    [
        (scale_update("C2", factor=3.0), of("C2", lambda u: 3 * u)),
        (scale_update("FC", factor=-1.0), of("FC", lambda u: -u)),
        (sign_of_update("FC"), of("FC", lambda u: u.sign() * u.abs().mean())),
        (top_of_update("FC", share=0.3), of("FC", lambda u: largest(u, 0.3))),
        (modify("C1", function=clipped, when="update"), of("C1", clipped)),
        (first_steps(1), lambda name, u, step: u if step <= 1 else 0 * u),
        (first_steps(2, "C2"), lambda name, u, step: 0 * u if step > 2 and name.startswith("C2") else u),
        (
            scale_update("FC", factor=2.0) + scale_update("FC", factor=0.25) + scale_update("C2", factor=2.0),
            lambda name, u, step: {"FC": 0.5, "C2": 2.0, "C1": 1.0}[name[:2]] * u,
        ),
    ],
    ids=["scale", "backwards", "sign", "top", "function", "one step", "two steps of C2", "sum"],
)
def test_a_changed_update_is_gradient_descent_with_that_update(run, plan, change):
    expected = by_hand(run, change)
    np.testing.assert_allclose(query_losses(run, plan), expected, rtol=5e-5)
    if not np.allclose(by_hand(run), expected, rtol=1e-3):
        return
    raise AssertionError("the change must matter, or nothing was tested")


def test_a_factor_of_0_is_freezing_and_of_1_is_nothing(run):
    np.testing.assert_allclose(
        query_losses(run, scale_update("C2", factor=0.0)), query_losses(run, freeze("C2")), rtol=1e-5
    )
    np.testing.assert_allclose(query_losses(run, scale_update("*", factor=1.0)), query_losses(run, None), rtol=1e-5)


def test_what_is_frozen_has_no_update(run):
    both = freeze("C1") + modify("C1", function=lambda u: u + u.abs().sum(), when="update")
    np.testing.assert_allclose(query_losses(run, both), query_losses(run, freeze("C1")), rtol=1e-5)


def test_swapped_and_reset_layers_start_with_the_weights_they_are_given(run, other):
    start = {name: (other if name.startswith("C2") else run).theta[name] for name in run.theta}
    np.testing.assert_allclose(query_losses(run, swap("C2", source=other)), by_hand(run, start=start), rtol=5e-5)
    fresh = {name: p.detach() for name, p in run.blank_model().named_parameters()}
    start = {name: fresh[name] if name.startswith("FC") else run.theta[name] for name in run.theta}
    found = query_losses(run, reset("FC", run=run))
    np.testing.assert_allclose(found, by_hand(run, start=start), rtol=5e-5)
    assert not np.allclose(found, query_losses(run, None), rtol=1e-3)


def test_permuted_labels_are_those_of_the_same_task_with_its_classes_renamed(run):
    plans = {"none": None, "renamed": permute_labels(), "both": permute_labels() + freeze("C1")}
    table = intervene(run, plans, num_tasks=TASKS, seed=4, draws=2)
    episodes = draw_test_tasks(run.tasks(seed=4), TASKS)
    for draw in range(2):
        renamed = {"support_y": [], "query_y": []}
        for task in range(TASKS):
            order = torch.randperm(3, generator=generator(4, "intervention", task, draw))
            for name, labels in renamed.items():
                labels.append(order[getattr(episodes, name)[task]])
        by_name = replace(episodes, **{name: torch.stack(labels) for name, labels in renamed.items()})
        assert not torch.equal(by_name.query_y, episodes.query_y)
        found = table[(table["intervention"] == "renamed") & (table["draw"] == draw) & (table["split"] == "query")]
        found = found.sort_values(["task", "step"])["loss"].to_numpy().reshape(TASKS, STEPS + 1)
        np.testing.assert_allclose(found, by_hand(run, episodes=by_name), rtol=5e-5)
    draws = table.groupby("intervention")["draw"].max()
    assert draws.to_dict() == {"none": 0, "renamed": 1, "both": 1}


def test_only_classes_can_be_renamed():
    config = TrainConfig(
        dataset="synthetic", model="lr", method="maml", steps=1, adapt_lr=0.1, first_order=False, meta_optimizer="sgd",
        meta_lr=0.1, iterations=1, tasks_per_iteration=1, eval_tasks=1, points=20,
    )  # fmt: skip
    run = meta_train(config, results=None, progress=False)
    with pytest.raises(StudyError, match="classes"):
        intervene(run, {"it": permute_labels()}, num_tasks=1)


def test_a_function_changes_weights_before_and_between(run):
    start = {name: 2 * tensor if name.startswith("FC") else tensor for name, tensor in run.theta.items()}
    found = query_losses(run, modify("FC", function=lambda w: w.mul_(2)))
    np.testing.assert_allclose(found, by_hand(run, start=start), rtol=5e-5)
    found = query_losses(run, modify("FC", function=lambda w: 1.1 * w, when="between"))
    larger = by_hand(run, between=lambda theta, _: {n: 1.1 * p if n.startswith("FC") else p for n, p in theta.items()})
    np.testing.assert_allclose(found, larger, rtol=5e-5)


@pytest.mark.parametrize("relative", [True, False])
def test_noise_between_the_steps_is_that_of_each_task(run, relative):
    std = 0.1 if relative else 0.02
    streams = {}

    def noisy(theta, task):
        stream = streams.setdefault(task, generator(0, "intervention", task, 0))
        scale = theta["FC.weight"].square().mean().sqrt() if relative else 1.0
        noise = {
            name: std * scale * torch.randn(theta[name].shape, generator=stream) for name in ("FC.weight", "FC.bias")
        }
        return theta | {name: theta[name] + noise[name] for name in noise}

    found = query_losses(run, perturb("FC", std=std, relative=relative, when="between"))
    np.testing.assert_allclose(found, by_hand(run, between=noisy), rtol=5e-5)


def test_what_makes_no_sense_is_refused_in_a_sentence(run):
    for make, words in [
        (lambda: scale_update("FC", factor=math.inf), "finite"),
        (lambda: top_of_update("FC", share=0.0), "share"),
        (lambda: top_of_update("FC", share=1.1), "share"),
        (lambda: first_steps(-1), "at least 0"),
        (lambda: modify("FC", function=abs, when="after"), "after"),
        (lambda: modify(function=abs), "at least one layer"),
        (lambda: swap(source=run), "at least one layer"),
    ]:
        with pytest.raises(StudyError, match=words):
            make()
    with pytest.raises(UserError, match="FB"):
        intervene(run, {"it": scale_update("FB", factor=2.0)}, num_tasks=1)
    for function, got in ((lambda w: w.sum(), "a tensor"), (lambda w: None, "NoneType")):
        for when in ("before", "update"):
            with pytest.raises(StudyError, match=got):
                intervene(run, {"it": modify("FC", function=function, when=when)}, num_tasks=1)


@pytest.mark.parametrize(("share", "count"), [(0.07, 7), (0.28, 28), (0.071, 8), (1e-12, 1), (1.0, 100)])
def test_a_share_is_of_whole_numbers(share, count):
    (change,) = top_of_update("FC", share=share).updates
    update = torch.arange(1.0, 101).view(1, 10, 10)
    assert change.function(update).count_nonzero() == count


def test_a_layer_of_another_shape_is_not_swapped(run):
    with pytest.raises(StudyError, match=r"C2\.conv\.weight"):
        intervene(run, {"it": swap("C2", source=train(0, filters=3))}, num_tasks=1)
