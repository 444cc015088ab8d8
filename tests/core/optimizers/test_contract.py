"""The contract that every registered meta-optimizer keeps, and the parameter counts of the paper."""

import math

import pytest
import torch
from torch import Tensor

from core import Episodes, make_optimizer, meta_gradient
from core.errors import UserError
from core.models.conv import CNN
from core.models.linear import LR
from core.optimizers import OPTIMIZERS
from tests import naive
from tests.naive import RULES, NaiveRule, Tensors

THETA = {
    "matrix": (2, 3),
    "conv.weight": (5, 2, 2, 3),
    "vector": (4,),
    "scalar": (),
    "sequence": (2, 3, 4),  # a 1-d convolution's kernel: first axis kept, the rest flattened
    "volume": (2, 3, 2, 2, 2),
    "one": (1,),
    "row": (1, 6),
}


def make_theta(dtype: torch.dtype = torch.float64) -> Tensors:
    """A parameter of every shape that a model may have."""
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for k, shape in THETA.items()}


def build(naive_rule: NaiveRule):
    """The library's rule of the same settings."""
    return make_optimizer(naive_rule.name, **naive_rule.options())


def test_every_registered_rule_is_covered():
    """A rule added to the registry belongs into `tests.naive.RULES`: all tests follow from there."""
    assert {rule.name for rule in RULES.values()} == set(OPTIMIZERS)


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_a_zero_gradient_is_a_zero_update_where_the_rule_says_so(naive_rule: NaiveRule):
    theta = make_theta()
    rule = build(naive_rule)
    update = rule.update(naive.randomise(rule.init(theta)), {k: torch.zeros_like(v) for k, v in theta.items()})
    assert rule.keeps_zero == (not any(u.any() for u in update.values()))


@pytest.mark.parametrize(
    ("norm_mode", "bias", "updates"), [("batch", False, 8), ("batch", True, 10), ("none", False, 6)]
)
def test_what_batch_normalisation_takes_out_has_no_update(norm_mode: str, bias: bool, updates: int):
    """The biases of the two convolutions, unless a rule makes something of no gradient."""
    model, calls = CNN(1, 2, depth=2, filters=3, norm_mode=norm_mode), []
    theta = {name: p.detach() for name, p in model.named_parameters()}
    rule = make_optimizer("kfc", depth=2, bias=bias)
    transform_thin = rule.transform_thin
    rule.transform_thin = lambda parts, gradient: calls.append(1) or transform_thin(parts, gradient)
    x, y = torch.randn(2, 1, 4, 1, 8, 8), torch.tensor([[0, 1, 0, 1]])
    meta_gradient(model, rule, theta, rule.init(theta), Episodes(x[0], y, x[1], y), steps=3, lr=0.1, first_order=False)
    assert len(calls) == 3 * updates


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_init_has_the_documented_names_shapes_and_numbers(naive_rule: NaiveRule, dtype: torch.dtype):
    theta = make_theta(dtype)
    ours, reference = build(naive_rule).init(theta), naive_rule.init(theta)
    assert ours.keys() == reference.keys()
    for key in ours:
        assert ours[key].dtype == dtype
        assert torch.equal(ours[key], reference[key]), key


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_init_gives_fresh_tensors_that_share_nothing(naive_rule: NaiveRule):
    theta = {k: v.requires_grad_() for k, v in make_theta().items()}
    rule = build(naive_rule)
    xi = rule.init(theta)
    assert not any(v.requires_grad for v in xi.values())
    before = {k: v.clone() for k, v in xi.items()}
    for key in xi:  # if two parts shared memory, the second would move with the first
        assert torch.equal(xi[key], before[key])
        xi[key].add_(1)
    assert all(torch.equal(v, before[k]) for k, v in rule.init(theta).items())


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_update_is_the_dense_reference(naive_rule: NaiveRule):
    """Random, non-symmetric factors; explicit Kronecker products on the other side."""
    theta = make_theta()
    rule = build(naive_rule)
    xi = naive.randomise(naive_rule.init(theta))
    gradients = naive.randomise({k: torch.zeros_like(v) for k, v in theta.items()}, seed=7, strength=1.0)
    dense = NaiveRule(**{**vars(naive_rule), "dense_kron": True})
    naive.assert_close(rule.update(xi, gradients), dense.update(xi, gradients), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_update_keeps_shapes_and_dtype_and_repeats_itself(naive_rule: NaiveRule, dtype: torch.dtype):
    theta = make_theta(dtype)
    rule = build(naive_rule)
    xi = naive.randomise(rule.init(theta))
    arguments = {k: v.clone() for k, v in (xi | theta).items()}
    first, second = rule.update(xi, theta), rule.update(xi, theta)
    assert list(first) == list(theta)
    for name, p in theta.items():
        assert first[name].shape == p.shape
        assert first[name].dtype == dtype
        assert torch.equal(first[name], second[name])
    assert all(torch.equal(v, arguments[k]) for k, v in (xi | theta).items())


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_each_tensor_has_a_rule_of_its_own(naive_rule: NaiveRule):
    """The update of one tensor is the same with and without the others, whose names may share a beginning."""
    theta = make_theta() | {"conv": make_theta()["matrix"] + 1}
    rule = build(naive_rule)
    xi = naive.randomise(rule.init(theta))
    together = rule.update(xi, theta)
    for name, p in theta.items():
        own = {k: v for k, v in xi.items() if k.rpartition(".")[0] == name}
        assert torch.allclose(rule.update(own, {name: p})[name], together[name], rtol=1e-13, atol=0)


# U(0) = b of the others: `test_update_is_the_dense_reference` covers it.
WITHOUT_BIAS = {name: rule for name, rule in RULES.items() if rule.unit_norm or not rule.bias}


@pytest.mark.parametrize("naive_rule", WITHOUT_BIAS.values(), ids=WITHOUT_BIAS)
def test_zero_gradient_without_bias_gives_zero(naive_rule: NaiveRule):
    theta = make_theta()
    rule = build(naive_rule)
    zeros = {k: torch.zeros_like(v) for k, v in theta.items()}
    update = rule.update(naive.randomise(rule.init(theta)), zeros)
    # Not exactly: a norm that must not be 0 may be held at the smallest number there is.
    assert all(update[k].abs().max() < 1e-300 for k in theta)


@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_adapts(naive_rule: NaiveRule):
    assert build(naive_rule).adapts is (naive_rule.is_adapted and naive_rule.name != "sgd")


IDENTITIES = {name: NaiveRule(name) for name in ("sgd", "meta_sgd", "meta_curvature", "klin", "linear")}


@pytest.mark.parametrize("naive_rule", [*IDENTITIES.values(), NaiveRule("kfc", depth=1)], ids=str)
def test_starts_as_gradient_descent(naive_rule: NaiveRule):
    rule, gradients = build(naive_rule), make_theta()
    update = rule.update(rule.init(gradients), gradients)
    assert all(torch.equal(update[k], gradients[k]) for k in gradients)


# Parameter counts, of the paper (`parameter_counts.csv`) and of equation 7 read literally.


def count(tensors: Tensors) -> int:
    """How many numbers there are in all."""
    return sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("inputs", "outputs", "rule", "options", "parameters"),
    [
        (100, 1, "klin", {}, 10_001),
        (100, 1, "kfc", {"depth": 2}, 20_002),
        (784, 5, "klin", {}, 614_681),
        (784, 5, "kfc", {"depth": 4}, 2_458_724),
    ],
)
def test_counts_on_logistic_regression(inputs: int, outputs: int, rule: str, options: dict, parameters: int):
    theta = dict(LR(inputs, outputs).named_parameters())
    assert count(make_optimizer(rule, **options).init(theta)) == parameters


@pytest.mark.parametrize(
    ("channels", "filters", "outputs", "depth", "model_parameters", "kfc_parameters"),
    [
        (1, 64, 10, 4, 112_586, 264_296),
        (1, 64, 10, 2, 38_474, 132_552),
        (3, 32, 10, 4, 29_226, None),
        (3, 32, 10, 2, 10_602, None),
    ],
)
def test_counts_on_convolutional_networks(
    channels: int, filters: int, outputs: int, depth: int, model_parameters: int, kfc_parameters: int | None
):
    """The paper's own KFC counts differ from equation 7 (see the protocol): the literal ones are asserted."""
    theta = dict(CNN(channels, outputs, depth=depth, filters=filters).named_parameters())
    assert count(theta) == model_parameters
    if kfc_parameters is not None:
        assert count(make_optimizer("kfc", depth=4).init(theta)) == kfc_parameters
        with_scale = make_optimizer("kfc", depth=4, unit_norm=True).init(theta)
        assert count(with_scale) == kfc_parameters + len(theta)
        assert count(make_optimizer("klin").init(theta)) == kfc_parameters // 4


# Mistakes


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(UserError, match="kcf") as caught:
        make_optimizer("kcf", depth=2)
    assert all(name in str(caught.value) for name in OPTIMIZERS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kfc", {"dept": 2}, "dept.*depth"),
        ("sgd", {"rank": 2}, "sgd.*rank"),
        ("klin", {"depth": 2}, "klin.*depth"),
        ("cholesky", {}, "rank"),
        ("kfc", {}, "depth"),
        ("kfc", {"depth": 0}, "0"),
        ("cholesky", {"rank": 0}, "0"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(name: str, options: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        make_optimizer(name, **options)
    assert "\n" not in str(caught.value)


def changed(xi: Tensors, mistake: str) -> Tensors:
    """xi with one part missing, one too many, or one of a wrong shape."""
    first = next(iter(xi), "")
    wrong: dict[str, Tensors] = {
        "missing": {k: v for k, v in xi.items() if k != first},
        "too many": xi | {"matrix.typo": torch.zeros(2)},
        "shape": xi | {first: torch.zeros(7, 7)},
    }
    return wrong[mistake]


@pytest.mark.parametrize("mistake", ["missing", "too many", "shape"])
@pytest.mark.parametrize("naive_rule", RULES.values(), ids=RULES)
def test_check_names_what_does_not_fit(naive_rule: NaiveRule, mistake: str):
    theta = make_theta()
    rule = build(naive_rule)
    xi = rule.init(theta)
    rule.check(theta, xi)
    if not xi and mistake != "too many":
        pytest.skip("nothing to leave out of an empty xi")
    first = next(iter(xi), "")
    with pytest.raises(UserError, match="matrix.typo" if mistake == "too many" else first):
        rule.check(theta, changed(xi, mistake))


def test_a_name_with_dots_keeps_its_parts():
    """`C1.conv.weight` and the part `L`: the last dot separates."""
    theta: dict[str, Tensor] = {"C1.conv.weight": torch.randn(2, 3, dtype=torch.float64)}
    xi = make_optimizer("klin").init(theta)
    assert set(xi) == {"C1.conv.weight.L", "C1.conv.weight.R"}


def test_rules_of_equal_power_have_equal_numbers_at_depth_one():
    """KFC of depth 1 is KLin."""
    theta = make_theta()
    klin, kfc = make_optimizer("klin"), make_optimizer("kfc", depth=1)
    xi = naive.randomise(klin.init(theta))
    renamed = {f"{k}0": v for k, v in xi.items()}
    update, other = klin.update(xi, theta), kfc.update(renamed, theta)
    assert all(torch.allclose(update[k], other[k], rtol=1e-13) for k in theta)
    assert math.isclose(count(xi), count(renamed))
