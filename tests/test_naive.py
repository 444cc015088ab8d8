"""The reference itself, against numbers on paper, dense algebra and finite differences."""

import math

import pytest
import torch
from torch import Tensor, nn

from core.tasks.base import Episodes
from tests import naive
from tests.naive import RULES, NaiveRule


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Problems this small gain nothing from a second thread, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Scalar(nn.Module):
    """The model w x of one number w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def scalar_task(targets: float) -> Episodes:
    """x = 1 and this target, once in support and once in query: the loss is (w - target)^2."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    return Episodes(one, targets * one, one, targets * one, kind="regression")


def on_paper(w: float, r: float, a: float, target: float) -> tuple[float, float]:
    """w_2 and rate_1 of one-number Meta-SGD, adapted, after 2 steps on (w - target)^2, solved by hand."""
    g0 = 2 * (w - target)
    w1 = w - a * r * g0
    g1 = 2 * (w1 - target)
    r1 = r - a * (g1 * -a * g0)
    return w1 - a * r1 * g1, r1


def test_two_steps_on_paper():
    w, r, a, target = 0.7, 1.3, 0.2, -0.5
    theta, xi = {"w": torch.tensor(w, dtype=torch.float64)}, {"w.rate": torch.tensor(r, dtype=torch.float64)}
    params, last_xi, losses = naive.adapt_task(
        Scalar(), NaiveRule("meta_sgd", adapts=True), naive.leaves(theta), naive.leaves(xi),
        torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), target, dtype=torch.float64), "regression",
        steps=2, lr=a,
    )  # fmt: skip
    w2, r1 = on_paper(w, r, a, target)
    assert params["w"].item() == pytest.approx(w2, rel=1e-14)
    assert last_xi["w.rate"].item() == pytest.approx(r1, rel=1e-14)
    w1 = w - a * r * 2 * (w - target)
    assert [loss.item() for loss in losses] == pytest.approx([(v - target) ** 2 for v in (w, w1, w2)], rel=1e-13)


def test_meta_gradient_on_paper():
    """By hand, for one step: w_1 - t = (1 - 2 a r)(w - t), so the loss is (1 - 2 a r)^2 (w - t)^2."""
    w, r, a, t = 0.7, 1.3, 0.2, -0.5
    theta, xi = {"w": torch.tensor(w, dtype=torch.float64)}, {"w.rate": torch.tensor(r, dtype=torch.float64)}
    args = (Scalar(), NaiveRule("meta_sgd"), theta, xi, scalar_task(t))
    loss, (g_theta, g_xi) = naive.meta_gradient(*args, steps=1, lr=a)
    assert loss.item() == pytest.approx((1 - 2 * a * r) ** 2 * (w - t) ** 2, rel=1e-14)
    assert g_theta["w"].item() == pytest.approx(2 * (1 - 2 * a * r) ** 2 * (w - t), rel=1e-14)
    assert g_xi["w.rate"].item() == pytest.approx(2 * (1 - 2 * a * r) * -2 * a * (w - t) ** 2, rel=1e-14)
    # First order: d w_1 / d w counts as 1, while d w_1 / d r = -a g stays.
    _, (g_theta, g_xi) = naive.meta_gradient(*args, steps=1, lr=a, first_order=True)
    assert g_theta["w"].item() == pytest.approx(2 * (1 - 2 * a * r) * (w - t), rel=1e-14)
    assert g_xi["w.rate"].item() == pytest.approx(2 * (1 - 2 * a * r) * -2 * a * (w - t) ** 2, rel=1e-14)
    # a scales only xi: the step is r g.
    loss, _ = naive.meta_gradient(*args, steps=1, lr=a, lr_scope="xi")
    assert loss.item() == pytest.approx((1 - 2 * r) ** 2 * (w - t) ** 2, rel=1e-14)


def test_matrix_view_of_a_convolution():
    g = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    view = naive.to_matrices(g)
    assert view.shape == (2, 4, 3)
    assert view[1, 2, 0] == g[1, 0, 1, 0]
    assert torch.equal(naive.from_matrices(view, g.shape), g)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("problem", naive.PROBLEMS)
def test_factors_and_dense_products_agree(problem: str, rule: NaiveRule):
    _, theta, _ = naive.make_problem(problem)
    gradients = naive.randomise({name: torch.zeros_like(p) for name, p in theta.items()}, seed=5)
    xi = naive.randomise(rule.init(theta))
    dense = NaiveRule(**{**vars(rule), "dense_kron": True})
    naive.assert_close(rule.update(xi, gradients), dense.update(xi, gradients), 1e-13)


def test_relative_errors_see_a_slip_and_a_nan():
    truth = {"a": torch.tensor([3.0, 4.0]), "zero": torch.zeros(2)}
    assert naive.relative_errors({"a": torch.tensor([3.0, 4.5]), "zero": torch.zeros(2)}, truth)["a"] == 0.1
    for slip in (
        {"a": torch.tensor([3.0, 4.5])},
        {"zero": torch.tensor([0.0, 1e-3])},
        {"a": torch.full((2,), torch.nan)},
    ):
        with pytest.raises(AssertionError, match=next(iter(slip))):
            naive.assert_close(truth | slip, truth, 1e-6)


def test_meta_gradient_converges_at_second_order_to_finite_differences():
    """Halving the step of a central difference quarters its error: the slope of a smooth function."""
    model, theta, episodes = naive.make_problem("tanh")
    rule = RULES["klin"]
    xi = naive.randomise(rule.init(theta))
    inner = {"steps": 2, "lr": 0.5}
    _, (g_theta, g_xi) = naive.meta_gradient(model, rule, theta, xi, episodes, **inner)
    direction = naive.probe_direction(g_theta | g_xi)
    slope = sum((direction[k] * g).sum().item() for k, g in (g_theta | g_xi).items())

    def error(h: float) -> float:
        def at(step: float) -> float:
            moved = {k: v + step * direction[k] for k, v in (theta | xi).items()}
            here_theta = {k: moved[k] for k in theta}
            return naive.meta_loss(model, rule, here_theta, {k: moved[k] for k in xi}, episodes, **inner)

        return abs((at(h) - at(-h)) / (2 * h) - slope)

    assert math.log2(error(4e-3) / error(2e-3)) == pytest.approx(2, abs=0.05)
    assert error(2e-3) < 1e-3 * abs(slope)


@pytest.mark.parametrize("first_order", [False, True])
def test_one_graph_is_the_same_gradient(first_order: bool):
    model, theta, episodes = naive.make_problem("linear")
    rule = RULES["kfc"]
    xi = naive.randomise(rule.init(theta))
    inner = {"steps": 2, "lr": 0.3, "first_order": first_order}
    loss, (g_theta, g_xi) = naive.meta_gradient(model, rule, theta, xi, episodes, **inner)
    other, (h_theta, h_xi) = naive.meta_gradient(model, rule, theta, xi, episodes, one_graph=True, **inner)
    assert loss.item() == pytest.approx(other.item(), rel=1e-14)
    naive.assert_close(h_theta | h_xi, g_theta | g_xi, 1e-13)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("problem", naive.PROBLEMS)
def test_meta_gradient_is_the_slope_of_the_loss(problem: str, rule: NaiveRule):
    """Along one random direction in all of theta and xi."""
    model, theta, episodes = naive.make_problem(problem)
    xi = naive.randomise(rule.init(theta))
    _, (g_theta, g_xi) = naive.meta_gradient(model, rule, theta, xi, episodes, steps=2, lr=0.3)

    def loss(point: naive.Tensors) -> float:
        parts = {k: point[k] for k in theta}, {k: point[k] for k in xi}
        return naive.meta_loss(model, rule, *parts, episodes, steps=2, lr=0.3)

    direction = naive.probe_direction(g_theta | g_xi)
    slope = sum((direction[k] * g).sum().item() for k, g in (g_theta | g_xi).items())
    assert naive.finite_difference(loss, theta | xi, direction) == pytest.approx(slope, rel=1e-6)


def test_finite_difference_refuses_a_kink():
    point = {"x": torch.tensor(1e-5, dtype=torch.float64)}
    along = {"x": torch.ones((), dtype=torch.float64)}
    assert naive.finite_difference(lambda at: at["x"].exp().item(), point, along) == pytest.approx(math.exp(1e-5), 1e-9)
    with pytest.raises(AssertionError, match="not smooth here"):
        naive.finite_difference(lambda at: at["x"].relu().item(), point, along)
