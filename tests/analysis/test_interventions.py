"""Interventions: what is frozen stays, what is not moves, and nothing changes where nothing is asked for."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import StudyError, adapt_only, engine, freeze, intervene, perturb
from analysis.fc_noise import fc_noise
from analysis.interventions import Intervention, layer_scale
from analysis.layer_roles import layer_roles
from analysis.store import _to_arrow
from analysis.tasks import draw_test_tasks
from core import Episodes, TrainConfig, adapt, evaluate, load_run, meta_train, run_from_module
from core.errors import UserError
from core.models.layers import cut, layers_of, select, stages
from core.seeds import generator

NUMBERS = ["loss", "accuracy"]


@pytest.fixture(scope="module", params=["maml", "kfc"])
def run(request):
    rule = {"rule_depth": 2, "unit_norm": True} if request.param == "kfc" else {}
    config = TrainConfig(
        dataset="glyphs", model="cnn", depth=3, filters=4, norm_mode="batch", method=request.param, steps=2,
        adapt_lr=0.5, first_order=False, meta_optimizer="adam", meta_lr=0.01, iterations=3, tasks_per_iteration=2,
        ways=3, shots=2, endless=True, eval_tasks=2, **rule,
    )  # fmt: skip
    return meta_train(config, results=None, progress=False)


def numbers(table, name):
    return table[table["intervention"] == name][[*NUMBERS, "task", "step", "split"]].reset_index(drop=True)


def naive(run, adapted, theta=None, num_tasks=4, seed=0):
    """Query accuracy and loss after adaptation, by a whole evaluation of its own for each task."""
    source = run.tasks(seed=seed)
    rows = []
    for task in range(num_tasks):
        own = run.theta if theta is None else theta[task]
        run.model.load_state_dict(own)
        table = evaluate(
            run.model, run.rule, own, run.xi, source.sample("test", 1, task), steps=run.config.steps,
            lr=run.config.adapt_lr, adapted=adapted,
        )  # fmt: skip
        rows.append(table.assign(task=task))
    run.model.load_state_dict(run.theta)
    return pd.concat(rows, ignore_index=True)


def test_none_is_plain_evaluation_bit_for_bit(run):
    table = intervene(run, {"none": None, "nothing": Intervention()}, num_tasks=4)
    plain = run.evaluate(draw_test_tasks(run.tasks(seed=0), 4))
    for name in ("none", "nothing"):
        pd.testing.assert_frame_equal(
            numbers(table, name)[["task", "step", "split", *NUMBERS]], plain.drop(columns="status"), check_exact=True
        )


@pytest.mark.parametrize(
    ("plan", "adapted"),
    [
        (freeze("C1"), ("C2", "C3", "FC")),
        (freeze("C1", "C2"), ("C3", "FC")),
        (freeze("C2"), ("C1", "C3", "FC")),
        (adapt_only("FC"), ("FC",)),
        (adapt_only("C1"), ("C1",)),
        (freeze("C1") + adapt_only("C1", "C3"), ("C3",)),
        (freeze("*.norm.*"), ("C1.conv", "C2.conv", "C3.conv", "FC")),
        (freeze("C1", "C2", "C3", "FC"), ()),
    ],
    ids=str,
)
def test_an_intervention_is_an_evaluation_in_which_these_adapt(run, plan, adapted):
    names = select(list(run.theta), adapted) if adapted else ()
    assert plan.adapted(list(run.theta)) == names
    table = intervene(run, {"it": plan}, num_tasks=4)
    expected = naive(run, names)
    found = numbers(table, "it").sort_values(["task", "step", "split"]).reset_index(drop=True)
    expected = expected.sort_values(["task", "step", "split"]).reset_index(drop=True)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=2e-5)
    np.testing.assert_allclose(found["accuracy"], expected["accuracy"], atol=1e-6)


def test_frozen_tensors_are_bit_equal_after_adaptation_and_every_other_one_moved(run):
    episodes = run.tasks(seed=0).sample("test", 3, 0)
    for plan in (freeze("C1", "FC"), adapt_only("C2"), adapt_only("FC.bias")):
        adapted = plan.adapted(list(run.theta))
        out = adapt(run.model, run.rule, run.theta, run.xi, episodes, steps=2, lr=0.5, adapted=adapted)
        for name, tensor in out.params.items():
            start = run.theta[name].expand_as(tensor)
            moved = (tensor != start).flatten(1).any(1)
            # On a bias before batch norm nothing hangs.
            if name in adapted and not name.endswith("conv.bias"):
                assert moved.all(), name
            else:
                assert not moved.any(), name


def test_interventions_leave_the_run_untouched(run):
    before = {name: tensor.clone() for name, tensor in run.theta.items()}
    intervene(run, {"a": perturb("FC", std=3.0) + freeze("C1"), "b": adapt_only("C2")}, num_tasks=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in run.theta.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in run.model.state_dict().items())


@pytest.mark.parametrize("also", [Intervention(), freeze("C1")], ids=["all adapt", "C1 frozen"])
def test_noise_is_that_of_a_model_whose_weights_were_changed(run, also):
    std, seed = 0.7, 5
    table = intervene(run, {"noise": also + perturb("FC", std=std)}, num_tasks=3, seed=seed, draws=2)
    for draw in range(2):
        thetas = []
        for task in range(3):
            stream = generator(seed, "intervention", task, draw)
            scale = float(np.sqrt(np.mean(run.theta["FC.weight"].numpy() ** 2)))
            noisy = dict(run.theta)
            for name in ("FC.weight", "FC.bias"):
                noisy[name] = run.theta[name] + std * scale * torch.randn(run.theta[name].shape, generator=stream)
            thetas.append(noisy)
        expected = naive(run, also.adapted(list(run.theta)), thetas, 3, seed)
        found = table[table["draw"] == draw].reset_index(drop=True)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=2e-5)


def test_no_noise_is_none_and_stronger_noise_is_the_same_noise(run):
    table = intervene(run, {"none": None, "zero": perturb("FC", std=0.0)}, num_tasks=3)
    np.testing.assert_allclose(numbers(table, "zero")["loss"], numbers(table, "none")["loss"], rtol=2e-5)
    noises = []
    for std in (1.0, 2.0):
        (change,) = perturb("FC", std=std, relative=False).before
        parameters = {name: tensor.unsqueeze(0) for name, tensor in run.theta.items()}
        new = change(parameters, [torch.Generator().manual_seed(1)])
        noises.append((new["FC.weight"] - parameters["FC.weight"]) / std)
    torch.testing.assert_close(*noises)
    drawn = torch.randn(run.theta["FC.weight"].shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(noises[0][0], drawn)  # of size 1, as it is not relative


@pytest.mark.parametrize("also", [Intervention(), freeze("C1")], ids=["all adapt", "C1 frozen"])
def test_noise_between_the_steps_changes_what_comes_after(run, also):
    noise = also + perturb("FC", std=2.0, when="between")
    table = intervene(run, {"none": also, "between": noise}, num_tasks=3)
    changed = numbers(table, "between")["loss"].to_numpy() != numbers(table, "none")["loss"].to_numpy()
    step = numbers(table, "none")["step"]
    assert not changed[step == 0].any()
    assert changed[step == 1].all()
    assert changed[step == 2].all()


def test_tasks_do_not_depend_on_how_many_there_are(run):
    plans = {"noise": freeze("C1") + perturb("FC", std=1.0)}
    few, many = (intervene(run, plans, num_tasks=n, draws=2) for n in (2, 5))
    joined = few.merge(many, on=["draw", "task", "step", "split"], suffixes=("", "_many"))
    np.testing.assert_allclose(joined["loss"], joined["loss_many"], rtol=2e-5)


def test_the_layers_scale_is_that_of_its_weights():
    weights, bias = torch.full((1, 2, 2), 3.0), torch.full((1, 2), 100.0)
    assert layer_scale([weights, bias]).item() == pytest.approx(3.0)
    assert layer_scale([bias]).item() == pytest.approx(100.0)


def zero_head(run):
    return replace(run, theta={name: p * (not name.startswith("FC")) for name, p in run.theta.items()})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda run: intervene(run, {"it": freeze("C5")}), UserError, r"unknown layer or parameter 'C5'.*C1.*FC"),
        (lambda run: intervene(run, {"it": perturb("fc", std=1)}), UserError, r"'fc'.*did you mean|'fc'.*FC"),
        (lambda run: intervene(run, {}), StudyError, "at least one intervention"),
        (lambda run: intervene(run, {"it": None}, draws=0), StudyError, "draws must be at least 1"),
        (lambda run: freeze(), StudyError, "at least one layer"),
        (
            lambda run: intervene(zero_head(run), {"it": perturb("FC", std=1)}, num_tasks=1),
            StudyError,
            "FC.weight is zero, and so is noise in units of its scale; give std with relative=False",
        ),
        (lambda run: perturb("FC", std=-1), StudyError, "std must be a finite number"),
        (lambda run: perturb("FC", std=1, when="after"), StudyError, "before adaptation or between"),
    ],
)
def test_mistakes_are_told(run, call, error, message):
    with pytest.raises(error, match=message):
        call(run)


def test_layers_and_stages(run):
    assert list(layers_of(run.theta)) == ["C1", "C2", "C3", "FC"]
    assert list(layers_of(["layers.0.weight", "layers.1.weight", "fc.bias"])) == ["layers.0", "layers.1", "fc"]
    assert [cut(run.model, [name]) for name in ("C1.conv.bias", "C3.norm.weight", "FC.bias")] == [0, 2, 4]
    x = torch.rand(4, 1, 28, 28)
    for i in range(1, 6):
        torch.testing.assert_close(stages(run.model, i)(stages(run.model, 0, i)(x)), run.model(x))


def test_a_network_that_shares_weights_is_not_cut():
    first = torch.nn.Linear(3, 3)
    shared = torch.nn.Sequential(first, torch.nn.ReLU(), first)
    assert cut(shared, ["2.weight"]) == 0


@pytest.mark.parametrize("strengths", [(1.0, 4.0), (0, 1, 1), (0, 1, 1 + 1e-9), ()])
def test_strengths_are_different_and_none_is_among_them(run, strengths):
    with pytest.raises(StudyError, match="strengths must be different numbers, 0 among them, got "):
        fc_noise(run, num_tasks=2, strengths=strengths)


def test_the_studies_have_their_columns_and_pair_their_tasks(run):
    roles = layer_roles(run, num_tasks=2)
    _to_arrow("layer_roles", roles)
    assert set(roles["intervention"]) == {"none"} | {
        f"{kind} {layer}" for kind, layer in itertools.product(("freeze", "adapt only"), ("C1", "C2", "C3", "FC"))
    }
    assert (roles.groupby("intervention").size() == 2 * 3 * 2).all()
    noise = fc_noise(run, num_tasks=2, strengths=(0.0, 1.0), draws=2)
    _to_arrow("fc_noise", noise)
    assert noise.groupby(["std", "draw"]).ngroups == 3
    fixed = numbers(intervene(run, {"it": freeze("C1", "C2")}, num_tasks=2), "it")
    np.testing.assert_allclose(noise[noise["std"] == 0]["loss"], fixed["loss"], rtol=1e-6)


def test_a_diverged_task_is_reported_as_one(run, monkeypatch):
    monkeypatch.setattr(run, "theta", {n: t * (float("nan") if n == "FC.bias" else 1) for n, t in run.theta.items()})
    table = intervene(run, {"none": None}, num_tasks=2)
    assert (table["status"] == "diverged").all()
    assert table[NUMBERS].isna().all(axis=None)


def roles(layers):
    return {"none": None, **{f"{plan.__name__} {x}": plan(x) for plan in (freeze, adapt_only) for x in layers}}


def own_stages(joined=False):
    """A network of stages, some of which write over what they are given."""
    torch.manual_seed(0)
    activations = [torch.nn.SiLU(inplace=True) for _ in range(2)]
    widths = zip([torch.nn.Flatten(), *activations], [(784, 6), (6, 5), (5, 3)], strict=True)
    model = torch.nn.Sequential(*(part for before, sizes in widths for part in (before, torch.nn.Linear(*sizes))))
    images = torch.rand(2, 4, 6, 1, 28, 28)
    y = torch.arange(3).repeat(4, 2)
    # Stages of several parts, the first of which writes over what the stage is given.
    model = model if not joined else torch.nn.Sequential(model[:2], model[2:4], model[4:])
    return run_from_module(model, Episodes(images[0], y, images[1], y), steps=2, adapt_lr=0.3)


@pytest.mark.parametrize(
    "make",
    [None, own_stages, lambda: own_stages(joined=True)],
    ids=["CNN", "own stages", "own stages of several parts"],
)
def test_what_plans_share_changes_nothing(run, make):
    """Among others a plan gives what it gives alone, where nothing was computed before it, and what evaluation does."""
    run = run if make is None else make()
    plans = roles(run.layers)
    together = intervene(run, plans, num_tasks=3)
    for name, plan in plans.items():
        alone = intervene(run, {name: plan}, num_tasks=3)
        pd.testing.assert_frame_equal(numbers(together, name), numbers(alone, name))
        adapted = (plan or Intervention()).resolved(run.layers).adapted(list(run.theta))
        expected = evaluate(
            run.model, run.rule, run.theta, run.xi, draw_test_tasks(run.tasks(seed=0), 3), steps=2,
            lr=run.config.adapt_lr, adapted=adapted,
        )  # fmt: skip
        np.testing.assert_allclose(numbers(together, name)["loss"], expected["loss"], rtol=2e-5)


def test_what_reaches_a_stage_where_all_before_it_adapts_is_computed_once(run, monkeypatch):
    """Of query examples at theta_1, and if a step is gradient descent: what one step leads to is not the next one's."""
    seen = []

    def outputs(module, theta, x, adapted):
        if adapted:
            seen.append([name for name, _ in module.named_children()])
        return original(module, theta, x, adapted)

    original = engine._outputs
    monkeypatch.setattr(engine, "_outputs", outputs)
    intervene(run, roles(run.layers), num_tasks=1)
    # Not for all that share it: no plan, C2, C3 or FC frozen, and C1 alone.
    assert seen == ([["C1"], ["C2"], ["C3"], ["mean"]] if run.config.method == "maml" else [])


def test_what_adapted_in_training_is_where_interventions_start(tiny):
    config = tiny(
        dataset="glyphs", model="cnn", depth=2, filters=4, norm_mode="batch", method="anil", steps=2, adapt_lr=0.5,
        points=None, ways=3, shots=2, endless=True, iterations=2, eval_every=0,
    )  # fmt: skip
    run = meta_train(config, results=None, progress=False)
    plans = {"none": None, "head": freeze("FC"), "body": freeze("C*"), "only C1": adapt_only("C1")}
    table = intervene(run, plans, num_tasks=4)
    head, first = (tuple(name for name in run.theta if name.startswith(layer)) for layer in ("FC.", "C1."))
    for name, adapted in (("none", head), ("body", head), ("only C1", first)):  # the body did not adapt anyway
        expected = naive(run, adapted)
        np.testing.assert_allclose(numbers(table, name)[NUMBERS], expected[NUMBERS], rtol=1e-4, atol=1e-6)
    at_rest = numbers(table, "head")
    for step in (1, 2):
        start, now = (at_rest[at_rest["step"] == k][NUMBERS].to_numpy() for k in (0, step))
        np.testing.assert_array_equal(start, now)


def test_noise_is_the_same_once_a_run_is_saved_and_loaded(tiny, tmp_path):
    run = meta_train(tiny(model="linnet", method="maml", hidden=(4,), bias=True), results=tmp_path, progress=False)
    noisy = {"noise": perturb("layers.0", std=1.0)}
    pd.testing.assert_frame_equal(intervene(run, noisy), intervene(load_run(run.path), noisy), check_exact=True)
