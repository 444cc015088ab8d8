"""Probes against the same quantities computed one task at a time, in the plainest way."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from analysis import StudyError, freeze, intervene, permute_labels, perturb
from analysis.adaptation_path import adaptation_path
from analysis.interventions import Function, Intervention
from analysis.label_permutation import label_permutation
from analysis.loss_line import loss_line
from analysis.representations import debiased_cka
from analysis.store import _to_arrow
from core import TrainConfig, adapt, meta_train


@pytest.fixture(scope="module", params=["maml", "kfc"])
def run(request):
    rule = {"rule_depth": 2, "unit_norm": True} if request.param == "kfc" else {}
    config = TrainConfig(
        dataset="glyphs", model="cnn", depth=2, filters=4, norm_mode="batch", method=request.param, steps=3,
        adapt_lr=0.5, first_order=False, meta_optimizer="adam", meta_lr=0.01, iterations=3, tasks_per_iteration=2,
        ways=3, shots=2, endless=True, eval_tasks=2, **rule,
    )  # fmt: skip
    return meta_train(config, results=None, progress=False)


def by_hand(run, task):
    """theta_0 ... theta_3 of one task, and the support gradient at each."""
    part = run.tasks(seed=0).sample("test", 1, task)
    thetas = []
    for steps in range(4):
        out = adapt(run.model, run.rule, run.theta, run.xi, part, steps=steps, lr=0.5)
        thetas.append({name: tensor[0].double() for name, tensor in out.params.items()})
    grads = []
    model = run.model.double()
    for theta in thetas:
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
        loss = F.cross_entropy(functional_call(model, leaves, (part.support_x[0].double(),)), part.support_y[0])
        grads.append(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
    run.model.float()
    return part, thetas, grads


def layer(theta, name):
    return torch.cat([tensor.flatten() for key, tensor in theta.items() if key.startswith(f"{name}.")])


def outputs(run, theta, x, name):
    model = run.model.double()
    for stage, module in model.named_children():
        own = {k.removeprefix(f"{stage}."): v for k, v in theta.items() if k.startswith(f"{stage}.")}
        x = functional_call(module, own, (x,))
        if stage == name:
            run.model.float()
            return x.flatten(1)
    raise AssertionError(name)


def value(table, probe, name, task, step):
    rows = table[
        (table["probe"] == probe) & (table["layer"] == name) & (table["task"] == task) & (table["step"] == step)
    ]
    return float(rows["value"].iloc[0]) if len(rows) else None


def test_weights_move_as_probed(run):
    table = adaptation_path(run, num_tasks=2)
    _to_arrow("adaptation_path", table)
    for task in range(2):
        _, thetas, grads = by_hand(run, task)
        for name in ("C1", "C2", "FC"):
            start = layer(thetas[0], name)
            for step in range(4):
                here = layer(thetas[step], name)
                assert value(table, "distance", name, task, step) == pytest.approx(
                    float((here - start).norm() / start.norm()), abs=1e-5
                )
                if step == 0:
                    assert value(table, "update norm", name, task, step) is None
                    continue
                update = here - layer(thetas[step - 1], name)
                assert value(table, "update norm", name, task, step) == pytest.approx(
                    float(update.norm() / start.norm()), abs=1e-5
                )
                cosine = F.cosine_similarity(update, -layer(grads[step - 1], name), dim=0)
                assert value(table, "descent cosine", name, task, step) == pytest.approx(float(cosine), abs=1e-3)
                if step > 1:
                    last = layer(thetas[step - 1], name) - layer(thetas[step - 2], name)
                    cosine = F.cosine_similarity(update, last, dim=0)
                    assert value(table, "update cosine", name, task, step) == pytest.approx(float(cosine), abs=1e-3)
    if run.config.method == "maml":
        assert table[table["probe"] == "descent cosine"]["value"].min() > 0.999


def test_outputs_are_worth_what_is_probed(run):
    table = adaptation_path(run, num_tasks=2)
    for task in range(2):
        part, thetas, _ = by_hand(run, task)
        y = part.query_y[0]
        for name in ("C1", "C2", "FC"):
            at_start = None
            for step in range(4):
                support, query = (
                    outputs(run, thetas[step], x[0].double(), name) for x in (part.support_x, part.query_x)
                )
                means = torch.stack([support[part.support_y[0] == k].mean(0) for k in range(3)])
                right = [int(((q - means) ** 2).sum(1).argmin()) == int(k) for q, k in zip(query, y, strict=True)]
                assert value(table, "prototype accuracy", name, task, step) == pytest.approx(np.mean(right))
                centred = query - query.mean(0)
                cosines = {True: [], False: []}
                for i in range(len(y)):
                    for j in range(i):
                        cosines[bool(y[i] == y[j])].append(float(F.cosine_similarity(centred[i], centred[j], dim=0)))
                assert value(table, "within-class cosine", name, task, step) == pytest.approx(
                    np.mean(cosines[True]), abs=1e-4
                )
                assert value(table, "between-class cosine", name, task, step) == pytest.approx(
                    np.mean(cosines[False]), abs=1e-4
                )
                joined = torch.cat([support, query])
                at_start = joined if at_start is None else at_start
                assert value(table, "cka to start", name, task, step) == pytest.approx(
                    debiased_cka(joined, at_start), abs=1e-4
                )


def test_a_probe_and_an_intervention_are_plain_functions_and_are_paired(run):
    def halve_head(theta):
        return {name: tensor / 2 for name, tensor in theta.items() if name.startswith("FC")}

    def largest(snapshot):
        return {name: snapshot.update_of(name).abs().amax(1) for name in snapshot.layers}

    def step_squared(snapshot):
        return torch.full((snapshot.num_tasks,), float(snapshot.step**2))

    plans = {"none": None, "half a head": halve_head, "frozen": freeze("FC")}
    table = intervene(run, plans, probes={"largest": largest, "square": step_squared}, num_tasks=2)
    assert (table["square"] == table["step"] ** 2).all()
    frozen = table[table["intervention"] == "frozen"]
    assert (frozen["largest FC"] == 0).all()
    assert (frozen[frozen["step"] > 0]["largest C2"] > 0).all()
    # Probing changes no measurement: the plain table has the same losses.
    plain = intervene(run, plans, num_tasks=2)
    np.testing.assert_allclose(table["loss"], plain["loss"], rtol=2e-5)
    half = {name: tensor / 2 if name.startswith("FC") else tensor for name, tensor in run.theta.items()}
    part = run.tasks(seed=0).sample("test", 1, 1)
    losses = adapt(run.model, run.rule, half, run.xi, part, steps=3, lr=0.5).losses[0]
    found = plain.query("intervention == 'half a head' and task == 1 and split == 'support'")["loss"]
    np.testing.assert_allclose(found, losses, rtol=2e-5)


def test_a_probe_sees_layers_below_what_adapts(run):
    def mean_of_first(snapshot):
        return snapshot.outputs("query")["C1"].flatten(1).mean(1)

    table = intervene(run, {"head": freeze("C1", "C2")}, probes={"mean": mean_of_first}, num_tasks=2)
    part = run.tasks(seed=0).sample("test", 1, 1)
    expected = outputs(run, {k: v.double() for k, v in run.theta.items()}, part.query_x[0].double(), "C1").mean()
    assert table[table["task"] == 1]["mean"].to_numpy() == pytest.approx(float(expected), abs=1e-6)


def test_chunks_of_tasks_change_nothing(run, monkeypatch):
    def norm(snapshot):
        return snapshot.theta_of("FC").norm(dim=1)

    whole = intervene(run, {"none": None}, probes={"norm": norm}, num_tasks=3)
    monkeypatch.setattr("analysis.engine.default_chunk", lambda *_: 2)
    parts = intervene(run, {"none": None}, probes={"norm": norm}, num_tasks=3)
    pd.testing.assert_frame_equal(parts, whole, check_exact=False, rtol=1e-5)


@pytest.mark.parametrize(
    ("plans", "probes", "message"),
    [
        ({"a": 3}, {}, "an intervention is one of `analysis`, a function, or None, not int"),
        ({"a": lambda theta: 3}, {}, "must return new values by parameter name, not int"),
        ({"a": lambda theta: {"FC": theta["FC.bias"]}}, {}, "returned 'FC', which is no parameter of this network"),
        ({"a": lambda theta: {"FC.bias": theta["FC.bias"][:, :1]}}, {}, r"'FC.bias', which must be a tensor \(2, 3\)"),
        ({"a": None}, {"p": lambda s: 3.0}, r"probe 'p' must return a tensor \(2,\), .*, not float"),
        ({"a": None}, {"p": lambda s: s.theta["FC.bias"]}, r"probe 'p' must .*, not a tensor \(2, 3\)"),
        ({"a": None}, {"p": lambda s: s.outputs("train")}, "a support and a query set, not 'train'"),
    ],
)
def test_functions_that_return_something_else_are_told(run, plans, probes, message):
    with pytest.raises(StudyError, match=message):
        intervene(run, plans, probes=probes, num_tasks=2)


def test_a_task_that_diverged_has_no_probe(run):
    table = intervene(
        run, {"blown up": perturb("FC", std=1e38)}, probes={"one": lambda s: torch.ones(s.num_tasks)}, num_tasks=2
    )
    assert set(table["status"]) == {"diverged"}
    assert table["one"].isna().all()


def test_the_line_goes_through_both_ends_of_adaptation(run):
    table = loss_line(run, num_tasks=2, positions=(0.0, 0.25, 1.0))
    _to_arrow("loss_line", table)
    plain = intervene(run, {"none": None}, num_tasks=2)
    for position, step in ((0.0, 0), (1.0, 3)):
        on_line = table[table["position"] == position].sort_values(["task", "split"])
        evaluated = plain[plain["step"] == step].sort_values(["task", "split"])
        np.testing.assert_allclose(on_line["loss"], evaluated["loss"], rtol=1e-4)
        np.testing.assert_allclose(on_line["accuracy"], evaluated["accuracy"])
    part, thetas, _ = by_hand(run, 1)
    between = {name: 0.75 * tensor + 0.25 * thetas[3][name] for name, tensor in thetas[0].items()}
    logits = functional_call(run.model.double(), between, (part.query_x[0].double(),))
    run.model.float()
    found = table.query("position == 0.25 and task == 1 and split == 'query'")["loss"].item()
    assert found == pytest.approx(F.cross_entropy(logits, part.query_y[0]).item(), rel=1e-4)


def test_a_loss_that_explodes_beyond_adaptation_says_nothing_of_the_task(run):
    table = loss_line(run, num_tasks=2, positions=(-1e12, 0.0, 1.0, 1e12))
    _to_arrow("loss_line", table)
    adapted = table["position"].between(0, 1)
    assert set(table.loc[adapted, "status"]) == {"ok"}
    assert set(table.loc[~adapted, "status"]) == {"diverged"}
    exploded = replace(run, theta=run.theta | {"FC.weight": 1e10 * run.theta["FC.weight"]})
    assert set(loss_line(exploded, num_tasks=2, positions=(0.0, 1.0))["status"]) == {"diverged"}


def test_orders_of_the_classes_are_drawn_and_matter_to_a_trained_head(run):
    table = label_permutation(run, num_tasks=3, draws=4)
    _to_arrow("label_permutation", table)
    permuted = table[table["intervention"] == "labels permuted"]
    assert permuted["draw"].nunique() == 4
    spread = permuted[(permuted["step"] == 3) & (permuted["split"] == "query")].groupby("task")["loss"].std()
    assert (spread > 1e-6).any()


def test_a_head_of_zeros_favours_no_class_and_learns_the_same_in_any_order(run):
    if run.config.method == "kfc":
        pytest.skip("the factors of a meta-optimizer may favour an output, too")

    def no_head(theta):
        return {name: torch.zeros_like(tensor) for name, tensor in theta.items() if name.startswith("FC")}

    plan = permute_labels() + Intervention(before=(Function(no_head),))
    table = intervene(run, {"permuted": plan}, num_tasks=3, draws=4)
    assert table[table["step"] == 0]["loss"].to_numpy() == pytest.approx(math.log(3), rel=1e-5)
    spread = table[table["split"] == "query"].groupby(["task", "step"])["loss"].std()
    assert spread.max() < 1e-5


def test_a_misspelt_layer_is_told_those_that_there_are(run):
    with pytest.raises(StudyError, match="unknown layer 'FCC'; known: "):
        intervene(
            run, {"none": None}, probes={"p": lambda s: s.outputs("query")["FCC"].flatten(1).mean(1)}, num_tasks=1
        )


def test_probes_that_do_not_tell_layers_apart_are_refused(run):
    with pytest.raises(StudyError, match="probe 'loss now' gives one number, not one of each layer"):
        adaptation_path(run, num_tasks=2, probes={"loss now": lambda snapshot: torch.zeros(2)})
    with pytest.raises(StudyError, match="no number of any layer of C1, C2, FC is given by elsewhere"):
        adaptation_path(run, num_tasks=2, probes={"elsewhere": lambda snapshot: {"C9": torch.zeros(2)}})
