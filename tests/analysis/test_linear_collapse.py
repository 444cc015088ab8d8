from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import functional_call

from analysis.errors import StudyError
from analysis.linear_collapse import (
    LOGIT_TOLERANCE,
    apply_update_map,
    collapse,
    collapsed_gradient,
    forward,
    kronecker_spectrum,
    layers_product,
    linear_collapse,
    update_map,
    update_matrix,
    update_spectrum,
)
from analysis.schemas import QUANTITIES, SCHEMAS
from analysis.store import provenance, read_table, write_table
from core import Episodes, adapt, make_optimizer, meta_train
from core.models.linear import LR, LinNet


def network(widths, bias=False, seed=0):
    torch.manual_seed(seed)
    model = LinNet(widths[0], widths[-1], hidden=widths[1:-1], bias=bias).double()
    return model, {name: tensor.detach() for name, tensor in model.named_parameters()}


def episodes(inputs, ways, num_tasks=3, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tasks, n, inputs, generator=generator, dtype=torch.float64)
    y = torch.randint(ways, (num_tasks, n), generator=generator)
    return Episodes(x, y, x, y)


# Narrower and wider than the input, one layer, biases.
NETWORKS = [((7, 4, 5, 3), False), ((4, 6, 3), False), ((5, 2), False), ((7, 4, 5, 3), True), ((4, 6, 3), True)]


@pytest.mark.parametrize(("widths", "bias"), NETWORKS)
def test_the_one_matrix_is_the_network(widths, bias):
    model, params = network(widths, bias)
    x = torch.randn(9, widths[0], dtype=torch.float64)
    torch.testing.assert_close(collapse(params)(x), model(x))
    torch.testing.assert_close(forward(params, x), model(x))
    assert collapse(params).weight.shape == (widths[-1], widths[0])
    assert (collapse(params).bias is not None) == bias


def test_fast_weights_collapse_task_by_task():
    model, params = network((7, 4, 3))
    stacked = {name: torch.stack([tensor, 2 * tensor]) for name, tensor in params.items()}
    single = collapse(stacked)
    assert single.weight.shape == (2, 3, 7)
    torch.testing.assert_close(single.weight[1], 4 * collapse(params).weight)
    x = torch.randn(2, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(single(x)[1], functional_call(model, {n: t[1] for n, t in stacked.items()}, x[1]))


def test_layers_are_multiplied_in_order_beyond_ten():
    model, params = network([3] * 13)
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(collapse(params)(x), model(x))


def test_lr_is_its_own_matrix():
    model = LR(4, 2, bias=True)
    params = dict(model.named_parameters())
    assert torch.equal(collapse(params).weight, model.fc.weight)
    assert torch.equal(collapse(params).bias, model.fc.bias)


@pytest.mark.parametrize(
    "names",
    [(), ("layers.0.weight", "layers.2.weight"), ("conv1.weight", "fc.weight"), ("layers.0.scale",),
     ("layers.0.weight", "layers.0.bias", "layers.1.weight")],
)  # fmt: skip
def test_other_networks_do_not_collapse(names):
    with pytest.raises(StudyError, match="only linear networks collapse"):
        collapse({name: torch.eye(2) for name in names})


@pytest.mark.parametrize(("widths", "bias"), NETWORKS)
def test_the_update_map_is_the_derivative_of_the_one_matrix_along_the_step(widths, bias):
    """Exact: d/da of W(theta - a g) at a = 0, by automatic differentiation."""
    model, params = network(widths, bias)
    tasks = episodes(widths[0], widths[-1])
    for task in range(tasks.num_tasks):
        x, y = tasks.support_x[task], tasks.support_y[task]
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
        loss = torch.nn.functional.cross_entropy(functional_call(model, leaves, x), y)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

        def product(rate, grads=grads):
            # The columns of W, and the bias, are what the network says of the unit vectors and of zero.
            probe = torch.cat([torch.eye(widths[0], dtype=rate.dtype), torch.zeros(1, widths[0], dtype=rate.dtype)])
            out = functional_call(model, {name: params[name] - rate * grads[name] for name in params}, probe)
            weight = (out[:-1] - out[-1]).mT
            return torch.cat([weight, out[-1:].mT], 1) if bias else weight

        slope = torch.autograd.functional.jacobian(product, torch.zeros((), dtype=torch.float64))
        gradient = collapsed_gradient(params, tasks)[task]
        torch.testing.assert_close(-apply_update_map(update_map(params), gradient), slope, rtol=1e-10, atol=1e-12)


def test_what_the_map_leaves_out_is_of_second_order():
    """The true step, taken by the engine, differs from the map's by something that shrinks like the square of a."""
    model, params = network((7, 4, 5, 3))
    tasks = episodes(7, 3)
    rule = make_optimizer("sgd")
    step = apply_update_map(update_map(params), collapsed_gradient(params, tasks))
    rates, missed = [1e-2, 5e-3, 2.5e-3], []
    for rate in rates:
        after = adapt(model, rule, params, {}, tasks, steps=1, lr=rate).params
        missed.append((layers_product(after) - layers_product(params) + rate * step).norm().item())
    slope = np.polyfit(np.log(rates), np.log(missed), 1)[0]
    assert slope == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize(("widths", "bias"), NETWORKS)
def test_the_matrix_acts_on_stacked_columns(widths, bias):
    _, params = network(widths, bias)
    terms = update_map(params)
    gradient = torch.randn(widths[-1], widths[0] + bias, dtype=torch.float64)
    stacked = update_matrix(terms) @ gradient.mT.flatten()
    torch.testing.assert_close(stacked, apply_update_map(terms, gradient).mT.flatten())


@pytest.mark.parametrize(("widths", "bias"), [*NETWORKS, ((9, 2, 2, 1), False), ((3, 8, 8, 1), True)])
def test_the_spectrum_is_that_of_the_whole_matrix(widths, bias):
    _, params = network(widths, bias)
    whole = update_matrix(update_map(params))
    torch.testing.assert_close(whole, whole.mT)
    expected = torch.linalg.svdvals(whole)
    torch.testing.assert_close(update_spectrum(params), expected, rtol=1e-9, atol=1e-12)


def test_the_spectrum_of_lr_is_that_of_plain_gradient_descent():
    assert update_spectrum({"fc.weight": torch.randn(2, 3)}).tolist() == [1.0] * 6


def test_klins_spectrum_is_that_of_its_kronecker_product():
    torch.manual_seed(0)
    left, right = torch.randn(3, 3, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    torch.testing.assert_close(
        kronecker_spectrum(left, right), torch.linalg.svdvals(torch.kron(right.mT.contiguous(), left))
    )
    # And that product is what the rule does to a gradient.
    rule = make_optimizer("klin")
    gradient = torch.randn(3, 4, dtype=torch.float64)
    update = rule.update({"fc.weight.L": left, "fc.weight.R": right}, {"fc.weight": gradient})["fc.weight"]
    torch.testing.assert_close(torch.kron(right.mT.contiguous(), left) @ gradient.mT.flatten(), update.mT.flatten())


@pytest.fixture(scope="module")
def linnet(tiny):
    return meta_train(tiny(model="linnet", hidden=(6, 5), method="maml", steps=2), results=None, progress=False)


@pytest.fixture(scope="module")
def klin(tiny):
    return meta_train(tiny(model="lr", method="klin"), results=None, progress=False)


def numbers(table, quantity, stage):
    return table[(table["quantity"] == quantity) & (table["stage"] == stage)].set_index("task")["value"]


def test_a_linnet_run(tmp_path, linnet):
    table = linear_collapse(linnet, num_tasks=4, seed=5)
    table = read_table(write_table(tmp_path, "linear_collapse", "x", table, provenance()))
    assert list(table.columns) == list(SCHEMAS["linear_collapse"])
    assert set(table["quantity"]) == set(QUANTITIES)
    assert set(table["status"]) == {"ok"}
    for stage in ("before", "after"):
        assert (numbers(table, "logit difference", stage) <= numbers(table, "logit tolerance", stage)).all()
        size = numbers(table, "logit size", stage)
        np.testing.assert_allclose(numbers(table, "logit tolerance", stage), 1e-5 * np.maximum(size, 1))
        assert numbers(table, "parameters of the network", stage).tolist() == [100 * 6 + 6 * 5 + 5]
        assert numbers(table, "parameters collapsed", stage).tolist() == [100]
        assert numbers(table, "multiply-adds of the network", stage).tolist() == [100 * 6 + 6 * 5 + 5]
        assert numbers(table, "multiply-adds collapsed", stage).tolist() == [100]
    assert numbers(table, "logit size", "before").tolist() != numbers(table, "logit size", "after").tolist()
    spectrum = table[table["quantity"] == "update map"]
    np.testing.assert_allclose(spectrum["value"], update_spectrum(linnet.theta))
    assert spectrum["index"].tolist() == list(range(100))
    assert spectrum["task"].isna().all()
    assert spectrum["value"].is_monotonic_decreasing


def test_the_logits_after_adaptation_are_those_of_the_adapted_model(linnet):
    table = linear_collapse(linnet, num_tasks=3, seed=5)
    source = linnet.tasks(seed=5, same_points=False)
    for task, expected in numbers(table, "logit size", "after").items():
        one = source.sample("test", 1, index=task)
        fast = adapt(linnet.model, linnet.rule, linnet.theta, linnet.xi, one, steps=2, lr=linnet.config.adapt_lr).params
        logits = functional_call(linnet.model, {n: t[0] for n, t in fast.items()}, one.query_x[0])
        assert logits.abs().max().item() == pytest.approx(expected, rel=1e-4)


def test_tasks_are_measured_a_chunk_at_a_time(linnet, monkeypatch):
    whole = linear_collapse(linnet, num_tasks=5, seed=5)
    sizes = []
    monkeypatch.setattr("analysis.linear_collapse.CHUNK", 2)
    monkeypatch.setattr(
        "analysis.linear_collapse.adapt",
        lambda *call, **options: sizes.append(call[4].num_tasks) or adapt(*call, **options),
    )
    parts = linear_collapse(linnet, num_tasks=5, seed=5)
    assert sizes == [2, 2, 2, 2, 1, 1]  # once in the run's precision, once in double
    assert numbers(whole, "logit size", "after").nunique() == 5
    # A difference of logits is rounding and nothing else.
    values = ~whole["quantity"].isin({"logit difference"})
    pd.testing.assert_frame_equal(parts[values], whole[values], rtol=1e-5)
    pd.testing.assert_frame_equal(parts.drop(columns="value"), whole.drop(columns="value"))


def test_what_is_beyond_first_order_shrinks_with_the_rate(linnet):
    shares = []
    for rate in (1e-2, 1e-3):
        run = replace(linnet, config=replace(linnet.config, adapt_lr=rate))
        shares.append(numbers(linear_collapse(run, num_tasks=3), "beyond first order", "before").to_numpy())
    np.testing.assert_allclose(shares[0] / shares[1], 10, rtol=0.05)


def test_a_difference_above_the_tolerance_is_a_failure(linnet, monkeypatch):
    monkeypatch.setattr("analysis.linear_collapse.LOGIT_TOLERANCE", -LOGIT_TOLERANCE)
    table = linear_collapse(linnet, num_tasks=2)
    of_tasks = table[table["quantity"].str.startswith("logit")]
    assert set(of_tasks["status"]) == {"failed: the collapsed matrix has other logits"}
    assert set(table[table["task"].isna()]["status"]) == {"ok"}


def test_a_klin_run_has_its_learned_spectrum(tmp_path, klin):
    table = linear_collapse(klin, num_tasks=2)
    table = read_table(write_table(tmp_path, "linear_collapse", "x", table, provenance()))
    left, right = klin.xi["fc.weight.L"].double(), klin.xi["fc.weight.R"].double()
    spectrum = table[table["quantity"] == "update map"]
    np.testing.assert_allclose(
        spectrum["value"], torch.linalg.svdvals(torch.kron(right.mT.contiguous(), left)), rtol=1e-6
    )
    assert numbers(table, "adapt_lr", "before").tolist() == [klin.config.adapt_lr]


def test_a_diverged_run_has_no_numbers(tmp_path, linnet, klin):
    for run in (linnet, klin):
        lost = replace(run, status="diverged at iteration 3", theta={n: t * torch.nan for n, t in run.theta.items()})
        table = linear_collapse(lost, num_tasks=2)
        table = read_table(write_table(tmp_path, "linear_collapse", "x", table, provenance()))
        assert table["status"].tolist() == ["diverged"]
        assert table["value"].isna().all()


def test_a_task_that_blows_up_is_diverged_and_neither_failed_nor_perfect(linnet):
    wild = replace(linnet, config=replace(linnet.config, adapt_lr=1e30))
    table = linear_collapse(wild, num_tasks=3)
    of_tasks = table[table["task"].notna()]
    assert set(of_tasks["status"]) == {"diverged"}
    assert of_tasks["value"].isna().all()


def test_other_runs_are_refused(tiny):
    run = meta_train(tiny(method="maml"), results=None, progress=False)
    with pytest.raises(StudyError, match="is lr with maml; this study needs linnet with maml, or lr with klin"):
        linear_collapse(run)
