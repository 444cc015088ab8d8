"""Backpropagation step by step against that through all steps at once, in value and in what it keeps."""

import pytest
import torch
from torch import Tensor

from core import backpropagation, make_optimizer, meta_gradient
from core.adaptation import replica_meta_gradient
from core.errors import UserError
from core.inner_loop import InnerLoop
from core.models import make_model
from core.tasks.base import Episodes, TaskShape
from tests import naive
from tests.naive import PROBLEMS, RULES, NaiveRule


def prepare(problem: str, naive_rule: NaiveRule, dtype: torch.dtype = torch.float64):
    """model, rule, theta, xi and three tasks, xi away from its start."""
    model, theta, episodes = naive.make_problem(problem, dtype)
    rule = make_optimizer(naive_rule.name, **naive_rule.options())
    xi = naive.randomise({key: value.detach() for key, value in rule.init(theta).items()})
    return model, rule, theta, xi, episodes


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_steps_computed_again_give_the_same_gradient(problem: str, naive_rule: NaiveRule):
    arguments = prepare(problem, naive_rule)
    some = list(arguments[2])[-1:]
    for steps, options in (
        (1, {}),
        (2, {"lr_scope": "xi"}),
        (3, {"adapted": some}),
        (4, {"first_order": True}),
        (5, {"tasks_per_chunk": 2}),
    ):
        inner = {"steps": steps, "lr": 0.1, "first_order": False, **options}
        loss, (g_theta, g_xi) = meta_gradient(*arguments, **inner, rematerialise=True)
        expected, (e_theta, e_xi) = meta_gradient(*arguments, **inner)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        naive.assert_close(g_theta | g_xi, e_theta | e_xi, 1e-9)


@pytest.mark.parametrize("naive_rule", [RULES["sgd"], RULES["kfc"], RULES["meta_sgd"]], ids=str)
def test_replicas_keep_their_own(naive_rule: NaiveRule):
    """Two replicas, whose thetas differ, with one task each."""
    model, rule, theta, xi, episodes = prepare("tanh", naive_rule)
    both = [{k: torch.stack([v, 1.1 * v]).detach() for k, v in part.items()} for part in (theta, xi)]
    loop = InnerLoop(3, 0.1, first_order=False)
    found, expected = (
        replica_meta_gradient(model, rule, *both, episodes[:2], loop, rematerialise=again) for again in (True, False)
    )
    assert torch.allclose(found[0], expected[0], rtol=1e-12)
    naive.assert_close(found[1] | found[2], expected[1] | expected[2], 1e-9)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", ["sgd", "klin", "kfc unit norm"])
@pytest.mark.parametrize("network", ["lr", "linnet"])
def test_changes_that_stay_thin_and_updates_not_multiplied(network: str, name: str, first_order: bool):
    """In the later of seven steps they are whole."""
    torch.manual_seed(0)
    n, replicas = 2, 2
    example = TaskShape((20,), 3)
    model = (
        make_model("lr", example, seed=0) if network == "lr" else make_model("linnet", example, hidden=(18,), seed=0)
    )
    model = model.double()
    rule = make_optimizer(RULES[name].name, **RULES[name].options())
    one = {key: value.detach() for key, value in model.named_parameters()}
    both = [
        {key: torch.stack([value, 1.1 * value]) for key, value in part.items()}
        for part in (one, naive.randomise(rule.init(one)))
    ]
    x = torch.randn(2, 3 * replicas, n, 20, dtype=torch.float64)
    y = torch.randint(3, (2, 3 * replicas, n))
    episodes = Episodes(x[0], y[0], x[1], y[1])
    for steps in (3, 7):
        loop = InnerLoop(steps, 0.1, first_order=first_order)
        found, expected = (
            replica_meta_gradient(model, rule, *both, episodes, loop, rematerialise=again) for again in (True, False)
        )
        assert torch.allclose(found[0], expected[0], rtol=1e-12)
        naive.assert_close(found[1] | found[2], expected[1] | expected[2], 1e-9)


@pytest.mark.parametrize("rematerialise", [False, True])
def test_a_tensor_with_two_names_is_a_parameter_each(rematerialise: bool):
    torch.manual_seed(0)
    model = make_model("linnet", TaskShape((4,), 4), hidden=(4,), seed=0).double()
    rule = make_optimizer("sgd")
    x, y = torch.randn(2, 3, 2, 4, dtype=torch.float64), torch.randint(4, (2, 3, 2))
    episodes = Episodes(x[0], y[0], x[1], y[1])
    w = torch.randn(1, 4, 4, dtype=torch.float64)
    gradients = [
        replica_meta_gradient(
            model, rule, {"layers.0.weight": w, "layers.1.weight": other}, {}, episodes,
            InnerLoop(2, 0.1, first_order=False), rematerialise=rematerialise,
        )[1]
        for other in (w, w.clone())
    ]  # fmt: skip
    naive.assert_close(*gradients, 1e-12)


class Kept:
    """Numbers that autograd keeps for backward passes: now, and at most so far."""

    now = most = 0

    def pack(self, tensor: Tensor) -> "Kept.One":
        """Called for each tensor that is kept."""
        return Kept.One(self, tensor)

    class One:
        """A tensor, as long as it is kept."""

        def __init__(self, kept: "Kept", tensor: Tensor) -> None:
            # Detached: a result that its own operation keeps would keep that operation, and so itself.
            self.kept, self.tensor, self.size = kept, tensor.detach(), tensor.numel()
            kept.now += self.size
            kept.most = max(kept.most, kept.now)

        def __del__(self) -> None:
            self.kept.now -= self.size


@pytest.mark.parametrize("naive_rule", [RULES["sgd"], RULES["kfc"]], ids=str)
def test_what_is_kept_hardly_grows_with_the_steps(naive_rule: NaiveRule):
    arguments = prepare("conv", naive_rule)

    def kept(steps: int, rematerialise: bool) -> int:
        count = Kept()
        with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda one: one.tensor):
            meta_gradient(*arguments, steps=steps, lr=0.1, first_order=False, rematerialise=rematerialise)
        return count.most

    assert kept(8, False) > 4 * kept(1, False)
    assert kept(8, True) < 1.1 * kept(2, True)  # two, as a step that follows another has xi's step in its graph


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the numbers of each state that is kept, without data."""
    numbers: list[int] = []
    cut_off = backpropagation._cut_off

    def counted(*arguments) -> backpropagation.Point:
        point = cut_off(*arguments)
        numbers.append(sum({id(t): t.numel() for t in point.tensors if t.requires_grad}.values()))
        return point

    monkeypatch.setattr(backpropagation, "_cut_off", counted)
    return numbers


def test_states_are_kept_as_thin_as_they_are(held: list[int]):
    """A task's own right factors, whole, would be 3 of 20 x 20 numbers."""
    model, rule, theta, xi, _ = prepare("wide", RULES["kfc"])
    episodes = naive.make_problem("wide", num_tasks=50)[2]
    meta_gradient(model, rule, theta, xi, episodes, steps=3, lr=0.1, first_order=False, rematerialise=True)
    after_one, after_two = held
    assert sum(tensor.numel() for tensor in (theta | xi).values()) < after_one < after_two < 50 * 3 * 20 * 20 / 2


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_data_is_no_part_of_a_state(held: list[int], dtype: torch.dtype | None):
    """A gradient of logistic regression is C^T X, with data X: of each step C alone is kept."""
    torch.manual_seed(0)
    model, rule = make_model("lr", TaskShape((20,), 3), seed=0).double(), make_optimizer("sgd")
    x, y = torch.randn(2, 5, 1, 20, dtype=torch.float64), torch.randint(3, (2, 5, 1))
    theta = {key: value.detach() for key, value in model.named_parameters()}
    episodes = Episodes(x[0], y[0], x[1], y[1])
    options = {"steps": 2, "lr": 0.1, "first_order": False, "dtype": dtype}
    meta_gradient(model, rule, theta, {}, episodes, **options, rematerialise=True)
    assert held == [3 * 20 + 5 * 3]


@pytest.mark.parametrize("rematerialise", [False, True])
@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_another_precision_within_a_task(naive_rule: NaiveRule, rematerialise: bool):
    """Single precision computed in double is double precision rounded; half precision points the same way."""
    model, rule, theta, xi, episodes = prepare("tanh", naive_rule, torch.float32)
    inner = {"steps": 2, "lr": 0.1, "first_order": False, "rematerialise": rematerialise}

    def double(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.double() for name, tensor in tensors.items()}

    exact = naive.make_problem("tanh", torch.float64)[0]
    wide = episodes.map(lambda x: x.double() if x.is_floating_point() else x)
    _, (e_theta, e_xi) = meta_gradient(exact, rule, double(theta), double(xi), wide, **inner)
    expected = e_theta | e_xi
    _, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, **inner, dtype=torch.float64)
    assert {gradient.dtype for gradient in (g_theta | g_xi).values()} == {torch.float32}
    naive.assert_close(double(g_theta | g_xi), expected, 1e-6, floor=1e-3)  # the loss is that of single logits
    loss, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, **inner, dtype=torch.bfloat16)
    found, whole = (
        torch.cat([part[name].double().flatten() for name in expected]) for part in (g_theta | g_xi, expected)
    )
    assert torch.cosine_similarity(found, whole, dim=0) > 0.95
    assert loss.dtype == torch.float32


def test_a_model_with_buffers_keeps_its_precision():
    model, rule, theta, xi, episodes = prepare("tanh", RULES["sgd"], torch.float32)
    model.register_buffer("offset", torch.zeros(1))
    with pytest.raises(UserError, match=r"cannot be computed in torch.bfloat16: it has buffers, offset"):
        meta_gradient(model, rule, theta, xi, episodes, steps=1, lr=0.1, first_order=False, dtype=torch.bfloat16)
