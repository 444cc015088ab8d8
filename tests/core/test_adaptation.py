"""The engine against finite differences, against the reference of `tests/naive.py`, and against its own promises."""

import gc
import math

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from core import adapt, evaluate, make_optimizer, meta_gradient
from core.adaptation import replica_meta_gradient
from core.errors import UserError
from core.inner_loop import InnerLoop, inner_loop
from core.models.conv import CNN
from core.models.linear import LR, LinNet
from core.task_parameter import Record
from core.tasks.base import Episodes
from tests import naive
from tests.naive import PROBLEMS, RULES, NaiveRule, Tensors

# (tolerance, floor) of `naive.assert_close`. In float32 some of the small gradients are what is left of larger terms
# that cancel (the reference in float32 is as far from float64, up to 3e-5 of such a tensor), so there a tensor
# is measured against at least 5 % of the largest.
REFERENCE_TOLERANCE = {torch.float64: (1e-10, 0.0), torch.float32: (1e-5, 5e-2)}
DIFFERENCES_TOLERANCE = 1e-6


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Problems this small gain nothing from a second thread, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def prepare(problem: str, naive_rule: NaiveRule, dtype: torch.dtype = torch.float64, num_tasks: int = 3):
    """model, rule, theta, xi and episodes, as the engine takes them, xi away from its start."""
    model, theta, episodes = naive.make_problem(problem, dtype, num_tasks)
    rule = make_optimizer(naive_rule.name, **naive_rule.options())
    xi = naive.randomise({key: value.detach() for key, value in rule.init(theta).items()})
    return model, rule, theta, xi, episodes


@pytest.mark.parametrize("dtype", REFERENCE_TOLERANCE, ids=str)
@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_meta_gradient_is_the_reference(problem: str, naive_rule: NaiveRule, dtype: torch.dtype):
    model, rule, theta, xi, episodes = prepare(problem, naive_rule, dtype)
    # In float32 the reference is computed in float64 from the same numbers: its own rounding is no yardstick.
    wide_model, _, _ = naive.make_problem(problem)
    wide = [{k: v.double() for k, v in tensors.items()} for tensors in (theta, xi)]
    dense = NaiveRule(**{**vars(naive_rule), "dense_kron": True})
    # On "wide", 5 steps add up to a change of xi of full rank; after fewer it is of low rank.
    for steps in (1, 2, 3, 5) if problem == "wide" else (1, 2, 3):
        tolerance, floor = REFERENCE_TOLERANCE[dtype]
        if steps == 5 and dtype == torch.float32:
            # Five steps of adapted maps magnify rounding by about 15: KFC at 1, 2, 3, 5 steps is off by 5e-7, 7e-7,
            # 3e-6, 3e-5 here, the reference in float32 by 4e-7, 8e-7, 1e-6, 6e-6. In float64 both agree to 1e-10.
            tolerance *= 10
        for first_order, lr_scope in ((False, "both"), (True, "both"), (False, "xi")):
            if lr_scope == "xi" and dtype == torch.float32:
                continue  # steps of rate 1 amplify rounding here, for both implementations
            inner = {"steps": steps, "lr": 0.3, "first_order": first_order, "lr_scope": lr_scope}
            loss, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, **inner)
            expected, (e_theta, e_xi) = naive.meta_gradient(
                wide_model, dense, *wide, episodes.to(dtype=torch.float64), **inner
            )
            assert loss.dtype == dtype
            assert all(g.dtype == dtype for g in (g_theta | g_xi).values())
            assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
            for actual, truth in ((g_theta, e_theta), (g_xi, e_xi)):
                naive.assert_close({k: g.double() for k, g in actual.items()}, truth, tolerance, floor)


# The library's linear models have a fast way of their own for many tasks: thin changes of wide layers when there are
# few examples, the product of the weights first when there are many. Model, support examples.
LINEAR_MODELS = {
    "thin lr": (lambda: LR(20, 3), 2),
    "thin lr bias": (lambda: LR(20, 3, bias=True), 2),
    "lr": (lambda: LR(4, 3), 30),
    "lr bias": (lambda: LR(4, 3, bias=True), 30),
    "thin linnet": (lambda: LinNet(20, 3, hidden=(12, 9)), 2),
    "thin linnet bias": (lambda: LinNet(20, 3, hidden=(12, 9), bias=True), 2),
    "linnet": (lambda: LinNet(6, 3, hidden=(4, 5)), 30),
    "linnet bias": (lambda: LinNet(6, 3, hidden=(4, 5), bias=True), 30),
}


def prepare_linear_model(name: str, naive_rule: NaiveRule, seed: int = 0):
    """Like `prepare`, with the library's own model; 4 query examples, 2 tasks."""
    make, n = LINEAR_MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().double()
        inputs = next(model.parameters()).shape[1]
        x = torch.randn(2, n + 4, inputs, dtype=torch.float64)
        y = torch.randint(3, (2, n + 4))
    theta = {k: v.detach() for k, v in model.named_parameters()}
    rule = make_optimizer(naive_rule.name, **naive_rule.options())
    xi = naive.randomise(rule.init(theta), strength=0.1, seed=seed + 1)
    return model, rule, theta, xi, Episodes(x[:, :n], y[:, :n], x[:, n:], y[:, n:])


@pytest.mark.parametrize("adapted", ["all", "first", "last"])
@pytest.mark.parametrize(
    "naive_rule",
    [
        NaiveRule("sgd"),
        NaiveRule("klin"),
        NaiveRule("kfc"),
        NaiveRule("kfc", depth=3, unit_norm=True),
        NaiveRule("meta_sgd"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", LINEAR_MODELS)
def test_fast_linear_models_are_the_reference(name: str, naive_rule: NaiveRule, adapted: str):
    model, rule, theta, xi, episodes = prepare_linear_model(name, naive_rule)
    names = {"all": None, "first": [next(iter(theta))], "last": [list(theta)[-1]]}[adapted]
    for steps in (1, 2, 4):
        for first_order in (False, True):
            inner = {"steps": steps, "lr": 0.1, "first_order": first_order, "adapted": names}
            loss, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, **inner)
            expected, (e_theta, e_xi) = naive.meta_gradient(model, naive_rule, theta, xi, episodes, **inner)
            assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
            naive.assert_close(g_theta | g_xi, e_theta | e_xi, 1e-10)
        inner.pop("first_order")
        out = adapt(model, rule, theta, xi, episodes, **inner)
        params, _, losses = naive.adapt_task(
            model, naive_rule, naive.leaves(theta), naive.leaves(xi), episodes.support_x[1], episodes.support_y[1],
            "classification", **inner,
        )  # fmt: skip
        naive.assert_close({"losses": out.losses[1]}, {"losses": torch.stack(losses)}, 1e-12)
        updates = {k: params[k] - v for k, v in theta.items()}
        naive.assert_close({k: out.params[k][1] - v for k, v in theta.items()}, updates, 1e-10)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    "naive_rule", [RULES["sgd"], RULES["klin bias"], RULES["kfc unit norm bias"], NaiveRule("kfc", depth=3)], ids=str
)
@pytest.mark.parametrize("name", ["thin linnet bias", "linnet"])
def test_replicas_are_runs_of_their_own(name: str, naive_rule: NaiveRule, first_order: bool):
    """Three replicas with their own theta, xi and two tasks each, at once and one by one."""
    singles = [prepare_linear_model(name, naive_rule, seed) for seed in range(3)]
    model, rule = singles[0][:2]
    theta, xi = ({k: torch.stack([s[part][k] for s in singles]) for k in singles[0][part]} for part in (2, 3))
    episodes = Episodes(
        *(
            torch.cat([getattr(s[4], field) for s in singles])
            for field in ("support_x", "support_y", "query_x", "query_y")
        )
    )
    loop = InnerLoop(3, 0.1, first_order)
    for chunk in (None, 1):
        loss, g_theta, g_xi = replica_meta_gradient(model, rule, theta, xi, episodes, loop, tasks_per_chunk=chunk)
        for i, (_, _, one_theta, one_xi, one_episodes) in enumerate(singles):
            expected, (e_theta, e_xi) = naive.meta_gradient(
                model, naive_rule, one_theta, one_xi, one_episodes, steps=3, lr=0.1, first_order=first_order
            )
            assert loss[i].item() == pytest.approx(expected.item(), rel=1e-12)
            naive.assert_close({k: g[i] for k, g in (g_theta | g_xi).items()}, e_theta | e_xi, 1e-10)


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_meta_gradient_is_the_slope_in_every_coordinate(naive_rule: NaiveRule):
    model, rule, theta, xi, episodes = prepare("linear", naive_rule, num_tasks=2)
    _, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, steps=2, lr=0.3, first_order=False)

    def loss(point: Tensors) -> float:
        parts = {k: point[k] for k in theta}, {k: point[k] for k in xi}
        return naive.meta_loss(model, naive_rule, *parts, episodes, steps=2, lr=0.3)

    slopes = {}
    for name, tensor in (theta | xi).items():
        slopes[name] = torch.zeros_like(tensor).reshape(-1)
        for i in range(tensor.numel()):
            unit = torch.zeros_like(tensor).reshape(-1)
            unit[i] = 1
            slopes[name][i] = naive.finite_difference(loss, theta | xi, {name: unit.reshape(tensor.shape)})
        slopes[name] = slopes[name].reshape(tensor.shape)
    naive.assert_close(g_theta | g_xi, slopes, DIFFERENCES_TOLERANCE)


@pytest.mark.parametrize(("problem", "steps"), [("tanh", 1), ("tanh", 2), ("tanh", 3), ("conv", 2)])
@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_meta_gradient_is_the_slope_of_its_own_loss(naive_rule: NaiveRule, problem: str, steps: int):
    """Along one direction in all of theta and xi; both sides come from the engine."""
    model, rule, theta, xi, episodes = prepare(problem, naive_rule, num_tasks=2)
    inner = {"steps": steps, "lr": 0.3}
    _, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, first_order=False, **inner)

    def loss(point: Tensors) -> float:
        parts = {k: point[k] for k in theta}, {k: point[k] for k in xi}
        return meta_gradient(model, rule, *parts, episodes, first_order=True, **inner)[0].item()

    direction = naive.probe_direction(g_theta | g_xi)
    slope = sum((direction[k] * g).sum().item() for k, g in (g_theta | g_xi).items())
    assert naive.finite_difference(loss, theta | xi, direction) == pytest.approx(slope, rel=DIFFERENCES_TOLERANCE)


def test_error_of_finite_differences_falls_with_the_square_of_the_step():
    model, rule, theta, xi, episodes = prepare("tanh", RULES["klin"])
    _, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, steps=2, lr=0.5, first_order=False)
    direction = naive.probe_direction(g_theta | g_xi)
    slope = sum((direction[k] * g).sum().item() for k, g in (g_theta | g_xi).items())

    def error(h: float) -> float:
        sides = []
        for step in (h, -h):
            point = {k: v + step * direction[k] for k, v in (theta | xi).items()}
            parts = {k: point[k] for k in theta}, {k: point[k] for k in xi}
            sides.append(meta_gradient(model, rule, *parts, episodes, steps=2, lr=0.5, first_order=True)[0].item())
        return abs((sides[0] - sides[1]) / (2 * h) - slope)

    assert math.log2(error(1e-2) / error(5e-3)) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("lr_scope", ["both", "xi"])
@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_adapt_is_the_reference(naive_rule: NaiveRule, lr_scope: str):
    model, rule, theta, xi, episodes = prepare("conv", naive_rule)
    out = adapt(model, rule, theta, xi, episodes, steps=3, lr=0.3, lr_scope=lr_scope)
    assert out.losses.shape == (3, 4)
    for i in range(3):
        params, last_xi, losses = naive.adapt_task(
            model, naive_rule, naive.leaves(theta), naive.leaves(xi), episodes.support_x[i], episodes.support_y[i],
            "regression", steps=3, lr=0.3, lr_scope=lr_scope,
        )  # fmt: skip
        naive.assert_close({"losses": out.losses[i]}, {"losses": torch.stack(losses)}, 1e-11)
        # Updates, not parameters: the tolerance measures the change.
        naive.assert_close(
            {k: out.params[k][i] - v for k, v in theta.items()}, {k: params[k] - v for k, v in theta.items()}, 1e-10
        )
        if rule.adapts:
            naive.assert_close(
                {k: out.xi[k][i] - v for k, v in xi.items()}, {k: last_xi[k] - v for k, v in xi.items()}, 1e-10
            )
        else:
            assert all(torch.equal(out.xi[k][i], v) for k, v in xi.items())


@pytest.mark.parametrize("naive_rule", [RULES["sgd"], RULES["kfc"], RULES["meta_curvature"]], ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_evaluate_is_the_reference(problem: str, naive_rule: NaiveRule):
    model, rule, theta, xi, episodes = prepare(problem, naive_rule)
    table = evaluate(model, rule, theta, xi, episodes, steps=2, lr=0.3)
    assert list(table.columns) == ["task", "step", "split", "loss", "accuracy", "status"]
    assert len(table) == 3 * 3 * 2
    for i in range(episodes.num_tasks):
        for step in range(3):
            params, _, _ = naive.adapt_task(
                model, naive_rule, naive.leaves(theta), naive.leaves(xi), episodes.support_x[i],
                episodes.support_y[i], episodes.kind, steps=step, lr=0.3,
            )  # fmt: skip
            for split in ("support", "query"):
                x, y = getattr(episodes, f"{split}_x")[i], getattr(episodes, f"{split}_y")[i]
                outputs = torch.func.functional_call(model, params, (x,))
                row = table[(table.task == i) & (table.step == step) & (table.split == split)].squeeze()
                assert row.loss == pytest.approx(naive.task_loss(outputs, y, episodes.kind).item(), rel=1e-10)
                if episodes.kind == "regression":
                    assert math.isnan(row.accuracy)
                else:
                    classes = (outputs > 0).long()[:, 0] if episodes.kind == "binary" else outputs.argmax(1)
                    assert row.accuracy == pytest.approx((classes == y).double().mean().item())


@pytest.mark.parametrize("tasks_per_chunk", [1, 2, 5, 7])
@pytest.mark.parametrize("naive_rule", [RULES["sgd"], RULES["kfc unit norm bias"], RULES["linear"]], ids=str)
def test_chunks_change_nothing(naive_rule: NaiveRule, tasks_per_chunk: int):
    """5 tasks in chunks that do and do not divide them."""
    model, rule, theta, xi, episodes = prepare("linear", naive_rule, num_tasks=5)
    inner = {"steps": 2, "lr": 0.3}
    whole = meta_gradient(model, rule, theta, xi, episodes, first_order=False, **inner)
    parts = meta_gradient(model, rule, theta, xi, episodes, first_order=False, tasks_per_chunk=tasks_per_chunk, **inner)
    assert parts[0].item() == pytest.approx(whole[0].item(), rel=1e-13)
    naive.assert_close(parts[1][0] | parts[1][1], whole[1][0] | whole[1][1], 1e-12)
    left = evaluate(model, rule, theta, xi, episodes, **inner)
    right = evaluate(model, rule, theta, xi, episodes, tasks_per_chunk=tasks_per_chunk, **inner)
    pd.testing.assert_frame_equal(left, right, rtol=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ["klin", "meta_sgd", "meta_curvature"])
def test_unadapted_identity_is_maml_step_for_step(name: str, problem: str):
    model, theta, episodes = naive.make_problem(problem)
    rule, maml = make_optimizer(name, adapts=False), make_optimizer("sgd")
    xi = rule.init(theta)
    for steps in (1, 2, 3):
        ours = adapt(model, rule, theta, xi, episodes, steps=steps, lr=0.3)
        theirs = adapt(model, maml, theta, {}, episodes, steps=steps, lr=0.3)
        naive.assert_close(ours.params, theirs.params, 1e-14)
        naive.assert_close({"losses": ours.losses}, {"losses": theirs.losses}, 1e-14)
        loss, (g_theta, _) = meta_gradient(model, rule, theta, xi, episodes, steps=steps, lr=0.3, first_order=False)
        other, (h_theta, _) = meta_gradient(model, maml, theta, {}, episodes, steps=steps, lr=0.3, first_order=False)
        assert loss.item() == pytest.approx(other.item(), rel=1e-14)
        naive.assert_close(g_theta, h_theta, 1e-12)


def support_gradient(model: nn.Module, theta: Tensors, episodes: Episodes, i: int) -> Tensors:
    """g_0 of task i by plain autograd."""
    leaves = naive.leaves(theta)
    outputs = torch.func.functional_call(model, leaves, (episodes.support_x[i],))
    loss = naive.task_loss(outputs, episodes.support_y[i], episodes.kind)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("depth", [2, 4])
def test_kfc_starts_as_the_positive_part_of_the_gradient(depth: int, unit_norm: bool):
    model, theta, episodes = naive.make_problem("conv")
    rule = make_optimizer("kfc", depth=depth, unit_norm=unit_norm)
    out = adapt(model, rule, theta, rule.init(theta), episodes, steps=1, lr=0.3)
    for i in range(episodes.num_tasks):
        positive = {k: g.relu() for k, g in support_gradient(model, theta, episodes, i).items()}
        naive.assert_close({k: (v - out.params[k][i]) / 0.3 for k, v in theta.items()}, positive, 1e-12)


def test_cholesky_starts_as_a_projection():
    """Onto the first `rank` entries of the row-major gradient: the others do not move."""
    model, theta, episodes = naive.make_problem("linear")
    rule = make_optimizer("cholesky", rank=4)
    out = adapt(model, rule, theta, rule.init(theta), episodes, steps=1, lr=0.3)
    for i in range(episodes.num_tasks):
        g = support_gradient(model, theta, episodes, i)["weight"].reshape(-1)
        moved = ((theta["weight"] - out.params["weight"][i]) / 0.3).reshape(-1)
        assert torch.allclose(moved[:4], g[:4], rtol=1e-12)
        assert torch.equal(moved[4:], torch.zeros(2, dtype=torch.float64))


class SquareRoot(nn.Module):
    """sqrt(w.x + c): squared and averaged (a mean squared error to targets of 0) it is linear in (w, c)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor([50.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w + self.c).sqrt()[:, None]


LINEAR_LOSS_RULES = {
    # An inner gradient by xi is linear in each factor of U, so only where U is linear in xi is it a constant too.
    name: RULES[name]
    for name in (
        "sgd", "meta_sgd", "meta_sgd adapted", "meta_curvature", "klin fixed", "kfc fixed", "linear", "linear bias",
    )
}  # fmt: skip


def linear_loss_gradients(naive_rule: NaiveRule) -> tuple[Tensors, Tensors]:
    """The second-order and the first-order meta-gradient where the Hessian of the loss vanishes."""
    x = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(2, 6, 1, dtype=torch.float64)
    model = SquareRoot()
    theta = {k: v.detach() for k, v in model.named_parameters()}
    rule = make_optimizer(naive_rule.name, **naive_rule.options())
    xi = naive.randomise({k: v.detach() for k, v in rule.init(theta).items()})
    both = []
    for first_order in (False, True):
        args = (model, rule, theta, xi, Episodes(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:], kind="regression"))
        _, (g_theta, g_xi) = meta_gradient(*args, steps=3, lr=0.1, first_order=first_order)
        both.append(g_theta | g_xi)
    return both[0], both[1]


@pytest.mark.parametrize("naive_rule", LINEAR_LOSS_RULES.values(), ids=LINEAR_LOSS_RULES)
def test_first_order_is_second_order_without_a_hessian(naive_rule: NaiveRule):
    second, first = linear_loss_gradients(naive_rule)
    naive.assert_close(first, second, 1e-10)


@pytest.mark.parametrize("naive_rule", [RULES["klin"], RULES["cholesky"]], ids=str)
def test_adapting_a_product_of_factors_is_second_order_even_without_a_hessian(naive_rule: NaiveRule):
    """The inner gradient by L depends on R: the test above would be wrong for these, and first order leaves it out."""
    second, first = linear_loss_gradients(naive_rule)
    assert max(naive.relative_errors(first, second).values()) > 1e-3


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("adapted", [["last.weight"], ["kernel", "shift"]], ids=str)
def test_only_the_adapted_parameters_move(adapted: list[str], naive_rule: NaiveRule):
    model, rule, theta, xi, episodes = prepare("conv", naive_rule)
    inner = {"steps": 2, "lr": 0.3, "adapted": adapted}
    out = adapt(model, rule, theta, xi, episodes, **inner)
    for name, start in theta.items():
        assert out.params[name].shape == (3, *start.shape)
        if name in adapted:
            assert all((out.params[name][i] != start).any() for i in range(3)), name
        else:
            assert all(torch.equal(out.params[name][i], start) for i in range(3)), name
    for key, start in xi.items():
        moved = [not torch.equal(out.xi[key][i], start) for i in range(3)]
        assert moved == [rule.adapts and key.rpartition(".")[0] in adapted] * 3, key
    for first_order in (False, True):
        _, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, first_order=first_order, **inner)
        _, (e_theta, e_xi) = naive.meta_gradient(
            model, naive_rule, theta, xi, episodes, first_order=first_order, **inner
        )
        naive.assert_close(g_theta | g_xi, e_theta | e_xi, 1e-10)
        # The initial value of a frozen parameter still matters to the loss; the rule of one that never moves does not.
        assert all(g_theta[name].abs().max() > 0 for name in theta)
        assert all(g_xi[key].abs().max() == 0 for key in xi if key.rpartition(".")[0] not in adapted)


def test_the_same_call_gives_the_same_bits_and_changes_no_argument():
    model, rule, theta, xi, episodes = prepare("conv", RULES["kfc unit norm bias"])
    theta = dict(model.named_parameters())  # as in the documentation: leaves that require gradients
    xi = naive.leaves(xi)
    before = {k: v.detach().clone() for k, v in (theta | xi).items()}
    results = []
    for _ in range(2):
        loss, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, steps=2, lr=0.3, first_order=False)
        out = adapt(model, rule, theta, xi, episodes, steps=2, lr=0.3)
        results.append(
            {"loss": loss, "losses": out.losses, **g_theta, **g_xi, **{f"o {k}": v for k, v in out.params.items()}}
        )
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert not any(v.requires_grad for v in results[0].values())
    assert all(torch.equal(v, before[k]) and v.grad is None and v.requires_grad for k, v in (theta | xi).items())


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("rule_name", ["sgd", "klin"])
def test_the_callers_gradient_mode_does_not_matter(without_gradients, made_inside: bool, rule_name: str):
    """Evaluation is often written under torch.no_grad, and adaptation is nothing but gradients."""
    naive_rule, inner = NaiveRule(rule_name), {"steps": 2, "lr": 0.3}

    def results(call: tuple) -> tuple[dict[str, Tensor], pd.DataFrame]:
        loss, (g_theta, g_xi) = meta_gradient(*call, first_order=False, **inner)
        out = adapt(*call, **inner)
        parts = (g_theta, g_xi, out.params, out.xi)
        named = {f"{i} {name}": tensor for i, part in enumerate(parts) for name, tensor in part.items()}
        return named | {"loss": loss, "losses": out.losses}, evaluate(*call, **inner)

    call = prepare("linear", naive_rule)
    expected, table = results(call)
    with without_gradients():
        found, found_table = results(prepare("linear", naive_rule) if made_inside else call)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not any(tensor.requires_grad for tensor in found.values())
    pd.testing.assert_frame_equal(found_table, table)


def test_batch_norm_uses_each_task_s_own_batch():
    """A CNN of the library. A bias before batch norm cannot matter: ours has no gradient, the reference rounding."""
    torch.manual_seed(0)
    model = CNN(1, 3, depth=2, filters=4).double()
    theta = {k: v.detach() for k, v in model.named_parameters()}
    x, y = torch.rand(2, 9, 1, 8, 8).double(), torch.arange(3).repeat(2, 3)
    episodes = Episodes(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])
    rule, naive_rule = make_optimizer("klin"), NaiveRule("klin")
    xi = naive.randomise(rule.init(theta))
    _, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, steps=2, lr=0.3, first_order=False)
    _, (e_theta, e_xi) = naive.meta_gradient(model, naive_rule, theta, xi, episodes, steps=2, lr=0.3)
    actual, expected = g_theta | g_xi, e_theta | e_xi
    cancelled = [k for k in expected if "conv.bias" in k]
    assert len(cancelled) == 2 + 4
    for k in cancelled:
        assert not actual.pop(k).any()
        assert expected.pop(k).abs().max() < 1e-12
    naive.assert_close(actual, expected, 1e-9)


class WithSpare(nn.Module):
    """A linear model with a parameter that it does not use: its gradient is exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.spare = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_a_zero_gradient_is_no_reason_for_a_nan(naive_rule: NaiveRule):
    _, _, episodes = naive.make_problem("linear")
    torch.manual_seed(0)
    model = WithSpare().double()
    theta = {k: v.detach() for k, v in model.named_parameters()}
    rule = make_optimizer(naive_rule.name, **naive_rule.options())
    xi = naive.randomise(rule.init(theta))
    loss, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, steps=3, lr=0.3, first_order=False)
    expected, (e_theta, e_xi) = naive.meta_gradient(model, naive_rule, theta, xi, episodes, steps=3, lr=0.3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    naive.assert_close(g_theta | g_xi, e_theta | e_xi, 1e-10)


def test_a_task_that_diverges_is_reported_and_leaves_the_others_alone():
    model, rule, theta, xi, episodes = prepare("linear", RULES["klin"])
    broken_x = episodes.support_x.clone()
    broken_x[1, 0, 0] = math.inf
    broken = Episodes(broken_x, episodes.support_y, episodes.query_x, episodes.query_y, kind=episodes.kind)
    inner = {"steps": 2, "lr": 0.3}
    good, bad = (adapt(model, rule, theta, xi, ep, **inner).losses for ep in (episodes, broken))
    assert not bad[1].isfinite().any()
    assert torch.allclose(bad[[0, 2]], good[[0, 2]], rtol=1e-12)
    loss, _ = meta_gradient(model, rule, theta, xi, broken, first_order=False, **inner)
    assert not loss.isfinite()
    with pytest.warns(UserWarning, match="1 of 3 tasks diverged"):
        table = evaluate(model, rule, theta, xi, broken, **inner)
    diverged = table[(table.task == 1) & ((table.split == "support") | (table.step > 0))]
    assert diverged.accuracy.isna().all()
    assert not diverged.loss.map(math.isfinite).any()
    assert table[table.task != 1].loss.map(math.isfinite).all()


# Mistakes: one sentence that names what is wrong.


def relabelled(episodes: Episodes, label: int) -> Episodes:
    """The episodes with one support label, the last, changed."""
    support_y = episodes.support_y.clone()
    support_y[-1, -1] = label
    return Episodes(episodes.support_x, support_y, episodes.query_x, episodes.query_y)


def mistakes(name: str) -> dict[str, tuple[dict, str]]:
    """What is changed in a good call of the "linear" problem with rule `name`, and what the message has to say."""
    _, _, theta, xi, episodes = prepare("linear", NaiveRule(name))
    if name == "klin":
        return {
            "xi of a wrong shape": ({"xi": xi | {"weight.R": torch.eye(2)}}, r"weight\.R.*\(2, 2\).*\(3, 3\)"),
            "xi lacks a part": ({"xi": {k: v for k, v in xi.items() if k != "bias.L"}}, r"bias\.L"),
            "xi has a part too many": ({"xi": xi | {"weight.typo": torch.eye(2)}}, r"weight\.typo"),
        }
    return {
        "theta lacks a parameter": ({"theta": {"weight": theta["weight"]}}, "bias"),
        "theta has a parameter too many": ({"theta": theta | {"extra": theta["bias"]}}, "extra"),
        "theta of a wrong shape": ({"theta": theta | {"weight": torch.zeros(2, 4).double()}}, r"weight.*\(2, 4\)"),
        "adapted misspelt": ({"adapted": ["wieght"]}, r"wieght.*bias.*weight"),
        "lr_scope misspelt": ({"lr_scope": "theta"}, r"theta.*both.*xi"),
        "fewer than no steps": ({"steps": -1}, "steps"),
        "a model of 2 outputs for binary tasks": (
            {"ep": Episodes(episodes.support_x, episodes.support_y.double().clamp(max=1), episodes.query_x,
                            episodes.query_y.double().clamp(max=1), kind="binary")},
            "1 output",
        ),
        "a label beyond the outputs": ({"ep": relabelled(episodes, 2)}, "a label is 2, but the model has 2 outputs"),
        "the same, before any step": ({"ep": relabelled(episodes, 5), "steps": 0}, "a label is 5"),
        # Cross-entropy leaves examples with this label out, and says nothing.
        "a negative label": ({"ep": relabelled(episodes, -100)}, "a label is -100"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "mistake", [(name, mistake) for name in ("klin", "sgd") for mistake in mistakes(name)], ids=str
)
@pytest.mark.parametrize("function", [meta_gradient, adapt, evaluate])
def test_a_mistake_is_told_in_one_sentence(function, mistake: tuple[str, str]):
    name, title = mistake
    model, rule, theta, xi, episodes = prepare("linear", NaiveRule(name))
    good = {"theta": theta, "xi": xi, "ep": episodes, "steps": 2, "lr": 0.3}
    change, message = mistakes(name)[title]
    call = good | change | ({"first_order": False} if function is meta_gradient else {})
    args = [call.pop(key) for key in ("theta", "xi", "ep")]
    with pytest.raises(UserError, match=message) as caught:
        function(model, rule, *args, **call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("naive_rule", [RULES["sgd"], RULES["klin"]], ids=str)
def test_adapting_a_chunk_at_a_time_changes_nothing(naive_rule: NaiveRule, monkeypatch):
    model, rule, theta, xi, episodes = prepare("wide", naive_rule, num_tasks=5)
    whole = adapt(model, rule, theta, xi, episodes, steps=2, lr=0.3)
    sizes = []
    monkeypatch.setattr(
        "core.adaptation.inner_loop",
        lambda *call, **options: sizes.append(len(call[4])) or inner_loop(*call, **options),
    )
    parts = adapt(model, rule, theta, xi, episodes, steps=2, lr=0.3, tasks_per_chunk=2)
    assert sizes == [2, 2, 1]
    assert parts.losses.shape == (5, 3)
    torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-12, atol=0)
    naive.assert_close(parts.params | parts.xi, whole.params | whole.xi, 1e-12)
    assert list(parts.params) == list(whole.params)


@pytest.mark.parametrize("function", [meta_gradient, adapt, evaluate])
def test_a_chunk_holds_at_least_one_task(function):
    model, rule, theta, xi, episodes = prepare("linear", RULES["sgd"])
    order = {"first_order": False} if function is meta_gradient else {}
    with pytest.raises(UserError, match="tasks_per_chunk must be at least 1, got 0"):
        function(model, rule, theta, xi, episodes, steps=1, lr=0.1, tasks_per_chunk=0, **order)
    with pytest.raises(UserError, match="must be a whole number here, or None for all tasks, got 'auto'"):
        function(model, rule, theta, xi, episodes, steps=1, lr=0.1, tasks_per_chunk="auto", **order)


@pytest.mark.parametrize("function", [meta_gradient, adapt, evaluate])
def test_a_rate_is_a_number(function):
    model, rule, theta, xi, episodes = prepare("linear", RULES["sgd"])
    order = {"first_order": False} if function is meta_gradient else {}
    with pytest.raises(UserError, match="lr must be a finite number, got nan"):
        function(model, rule, theta, xi, episodes, steps=1, lr=math.nan, **order)


@pytest.mark.parametrize("function", [meta_gradient, adapt, evaluate])
def test_steps_and_learning_rate_have_no_default(function):
    """They decide the science."""
    model, rule, theta, xi, episodes = prepare("linear", RULES["sgd"])
    for given in ({"steps": 1}, {"lr": 0.1}):
        with pytest.raises(TypeError, match="missing"):
            function(model, rule, theta, xi, episodes, **given)


def test_first_or_second_order_has_no_default():
    """It does, too."""
    model, rule, theta, xi, episodes = prepare("linear", RULES["sgd"])
    with pytest.raises(TypeError, match="first_order"):
        meta_gradient(model, rule, theta, xi, episodes, steps=1, lr=0.1)
    with pytest.raises(TypeError, match="first_order"):
        InnerLoop(1, 0.1)


def test_adapted_parameters_lie_in_memory_as_any_others():
    """`vmap` has no rule for kernels that do not, and users may call `view`."""
    model = CNN(1, 2, depth=2, filters=4)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    episodes = Episodes(torch.rand(5, 4, 1, 8, 8), torch.arange(2).repeat(5, 2), torch.rand(5, 2, 1, 8, 8),
                        torch.arange(2).repeat(5, 1))  # fmt: skip
    adapted = adapt(model, make_optimizer("sgd"), theta, {}, episodes, steps=2, lr=0.1)
    for name, tensor in adapted.params.items():
        assert tensor[0].is_contiguous(), name  # what no task changes is one tensor for all of them


@pytest.mark.parametrize("method", ["sgd", "kfc"])
def test_nothing_of_a_step_that_was_taken_is_left(method: str):
    """Its activations would stay through all that follows."""
    model, rule = CNN(1, 2, depth=2, filters=4), make_optimizer(method, **NaiveRule(method).options())
    theta = {name: p.detach() for name, p in model.named_parameters()}
    xi = {name: tensor.unsqueeze(0) for name, tensor in rule.init(theta).items()}
    theta = {name: tensor.unsqueeze(0) for name, tensor in theta.items()}
    x, y = torch.rand(5, 4, 1, 8, 8), torch.arange(2).repeat(5, 2)
    walk = inner_loop(model, rule, theta, xi, x, y, "classification", InnerLoop(2, 0.1, True), create_graph=False)
    used = []
    for _ in walk:
        gc.collect()
        used.append(sum(type(one) is Record and bool(one.uses) for one in gc.get_objects()))
    assert used[0] > 0
    assert used[-1] == 0
