"""A module for one task is the same function when it is applied to many."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from core import adapt, evaluate, make_optimizer, meta_gradient
from core.errors import UserError
from core.forward import batched_forward, call_with, map_tasks
from core.models.conv import CNN
from core.models.linear import LR, LinNet
from core.task_parameter import TaskParameter
from tests import naive
from tests.core.own_modules import Unmappable, WithEverything, by_hand, episodes
from tests.naive import NaiveRule


def setting(module, rule_name="sgd", **options):
    theta = {name: p.detach() for name, p in module.named_parameters()}
    rule = make_optimizer(rule_name, **options)
    return module, rule, theta, rule.init(theta)


@pytest.fixture(params=["train", "eval"])
def module(request):
    torch.manual_seed(0)
    made = WithEverything().double()
    made.norm.running_mean.uniform_(-1, 1)
    made.norm.running_var.uniform_(0.5, 2)
    made.train(request.param == "train")
    made.drop.eval()
    return made


def test_adaptation_is_plain_gradient_descent_on_a_copy(module):
    part = episodes()
    table = evaluate(*setting(module), part, steps=3, lr=0.3)
    query = table[table["split"] == "query"]
    for task in range(4):
        losses, accuracies = by_hand(copy.deepcopy(module), part[task : task + 1], steps=3, lr=0.3)
        rows = query[query["task"] == task]
        assert rows["loss"].tolist() == pytest.approx(losses, rel=1e-9)
        assert rows["accuracy"].tolist() == pytest.approx(accuracies)


def test_buffers_of_the_callers_module_do_not_change(module):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    adapt(*setting(module), episodes(), steps=2, lr=0.3)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("rule", "options"), [("sgd", {}), ("kfc", {"depth": 2}), ("meta_sgd", {})])
def test_the_meta_gradient_is_that_of_the_naive_engine(module, rule, options):
    model, made, theta, xi = setting(module, rule, **options)
    xi = naive.randomise(xi, strength=0.1)
    loss, (g_theta, g_xi) = meta_gradient(model, made, theta, xi, episodes(), steps=2, lr=0.1, first_order=False)
    copied = copy.deepcopy(module)
    # The naive engine leaves ties to PyTorch, which gets those of shared parameters right, but not of shared modules.
    copied.again = nn.Linear(8, 8, bias=False)
    copied.again.weight = copied.middle.weight
    expected, (n_theta, n_xi) = naive.meta_gradient(
        copied, NaiveRule(rule, **options), theta, xi, episodes(), steps=2, lr=0.1
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)
    # A bias before batch norm of the batch has a zero gradient, and rounding (1e-16) in its place.
    naive.assert_close(g_theta | g_xi, n_theta | n_xi, 1e-8, floor=1e-6)


def test_what_cannot_be_mapped_goes_task_by_task_says_so_once_and_gives_the_same_numbers():
    torch.manual_seed(0)
    module = Unmappable().double()
    with pytest.warns(UserWarning, match="Unmappable cannot be mapped over tasks and goes through them one by one"):
        table = evaluate(*setting(module), episodes(), steps=2, lr=0.3)
    query = table[table["split"] == "query"]
    for task in range(4):
        losses, _ = by_hand(copy.deepcopy(module), episodes()[task : task + 1], steps=2, lr=0.3)
        assert query[query["task"] == task]["loss"].tolist() == pytest.approx(losses, rel=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(*setting(module), episodes(), steps=1, lr=0.3)


def test_a_fault_of_the_module_is_raised_as_it_is():
    class Faulty(nn.Linear):
        def forward(self, x):
            raise LookupError("no such table")

    with pytest.raises(LookupError, match="no such table"):
        evaluate(*setting(Faulty(6, 3).double()), episodes(), steps=1, lr=0.3)
    with pytest.raises(UserError, match=r"does not take support examples of shape .*shapes cannot be multiplied"):
        evaluate(*setting(nn.Linear(7, 3).double()), episodes(), steps=1, lr=0.3)


def test_a_model_that_returns_more_than_logits_is_refused():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(UserError, match="the model returns tuple, not a tensor"):
        evaluate(*setting(Two(6, 3).double()), episodes(), steps=1, lr=0.3)


class Tied(nn.Module):
    """Two layers that may share their weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def tie_the_second(module):
    last = module.second[0] if isinstance(module.second, nn.Sequential) else module.second
    last.weight = module.first.weight


def untie_the_second(module):
    module.second.weight = nn.Parameter(torch.zeros(4, 4))


def wrap_the_second(module):
    module.second = nn.Sequential(module.second)


@pytest.mark.parametrize("changes", [(tie_the_second, untie_the_second), (wrap_the_second, tie_the_second)])
def test_a_module_that_changes_between_two_calls_is_called_as_it_is_then(changes):
    torch.manual_seed(0)
    module, x = Tied(), torch.randn(3, 4)
    for change in (lambda module: None, *changes):
        change(module)
        new = {name: torch.randn_like(parameter) for name, parameter in module.named_parameters()}
        by_hand = copy.deepcopy(module)  # which keeps what is shared shared
        for name, parameter in by_hand.named_parameters():
            parameter.data = new[name]
        assert torch.equal(call_with(module, new, x), by_hand(x))
        assert torch.equal(call_with(module, new, x), by_hand(x))


def test_what_is_known_of_a_module_does_not_keep_it_alive():
    module = Tied()
    call_with(module, dict(module.named_parameters()), torch.randn(3, 4))
    known = weakref.ref(module)
    del module
    gc.collect()
    assert known() is None


class Rewritten(CNN):
    def forward(self, x):
        return super().forward(1 - x)


def exchanged():
    network = CNN(1, 3, depth=1, filters=4)
    network.C1.relu = nn.GELU()
    return network


@pytest.mark.parametrize("network", [Rewritten(1, 3, depth=1, filters=4), exchanged()], ids=["class", "part"])
def test_a_network_of_ours_that_was_changed_is_what_its_forward_says(network):
    x = torch.rand(2, 6, 1, 8, 8)
    theta = {name: TaskParameter(parameter.detach()[None], 2) for name, parameter in network.named_parameters()}
    expected = torch.stack([network(one) for one in x])
    torch.testing.assert_close(batched_forward(network, theta, x, list(theta)), expected, rtol=1e-4, atol=1e-5)


def test_a_parameter_with_two_names_in_one_module_is_one():
    module = nn.Module()
    module.key = module.query = nn.Parameter(torch.ones(3))
    module.forward = lambda x: x * module.key + x * module.query
    found = call_with(module, {"key": torch.full((3,), 2.0)}, torch.ones(3))
    assert found.tolist() == [4.0] * 3


def test_memory_that_runs_out_is_not_taken_for_what_cannot_be_mapped():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        map_tasks(Large(), {}, {"scale": torch.ones(())}, torch.ones(2, 3, 4))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Slope(nn.PReLU):
    """With a way of its own to treat many tasks."""

    def forward_tasks(self, theta, x):
        return torch.where(x > 0, x, theta["weight"].value()[:, :, None, None, None] * x)


def doubled(norm):
    class Twice(type(norm)):
        def forward(self, x):
            return 2 * super().forward(x)

    return Twice(norm.num_features)


def with_part(path, part):
    """Puts another part in a module's place."""

    def change(model):
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, part(model))

    return change


CHANGES = {
    "a stage twice": (lambda: CNN(1, 2, depth=3, filters=4), with_part("C3", lambda model: model.C2)),
    "a hook": (
        lambda: CNN(1, 2, depth=1, filters=4),
        lambda model: model.C1.register_forward_hook(lambda part, inputs, output: 3 * output),
    ),
    "a parametrization": (
        lambda: CNN(1, 2, depth=1, filters=4), lambda model: parametrizations.spectral_norm(model.FC.eval())
    ),
    "a pruned layer": (
        lambda: CNN(1, 2, depth=1, filters=4), lambda model: prune.l1_unstructured(model.FC, "weight", amount=0.5)
    ),
    "another layer": (lambda: LR(9, 2), with_part("fc", lambda model: Doubled(9, 2))),
    "an activation with a parameter": (
        lambda: CNN(1, 2, depth=1, filters=4), with_part("C1.relu", lambda model: Slope())
    ),
    "a convolution more": (
        lambda: CNN(1, 2, depth=1, filters=4), lambda model: model.C1.add_module("more", model.C1.conv.__class__(
            4, 4, 3, padding=1))
    ),
    "a convolution alone": (lambda: CNN(1, 64, depth=1), with_part("C1", lambda model: model.C1[:1])),
    "another kind of batch normalisation": (
        lambda: CNN(1, 2, depth=1, filters=4), with_part("C1.norm", lambda model: doubled(model.C1.norm))
    ),
    "larger kernels": (
        lambda: CNN(1, 2, depth=1, filters=4),
        with_part("C1.conv", lambda model: model.C1.conv.__class__(1, 4, 5, stride=2, padding=1)),
    ),
    "a layer more": (
        lambda: LinNet(9, 2, hidden=(4,)), lambda model: model.layers.insert(1, nn.ReLU())
    ),
    "a layer in place of another": (
        lambda: LinNet(9, 2, hidden=(4, 4)), with_part("layers.1", lambda model: nn.Linear(4, 4, bias=False))
    ),
    "a weight twice": (
        lambda: LinNet(9, 2, hidden=(4, 4, 4)), with_part("layers.2.weight", lambda model: model.layers[1].weight)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "change"), CHANGES.values(), ids=CHANGES)
def test_a_network_of_ours_that_was_changed_is_what_it_was_changed_to(make, change):
    torch.manual_seed(0)
    model = make().double().eval()
    change(model)
    model = model.double()
    x = torch.randn(3, 5, 1, 6, 6, dtype=torch.float64)
    x = x if isinstance(model, CNN) else x[..., :3, :3]
    theta = {name: TaskParameter(p.detach().unsqueeze(0), 3) for name, p in model.named_parameters()}
    found = batched_forward(model, theta, x, list(theta))
    torch.testing.assert_close(found, torch.stack([model(part) for part in x]).detach())


@pytest.mark.parametrize(("setting", "value"), [("dilation", (2, 2)), ("stride", (2, 1))])
def test_a_convolution_with_other_settings_is_refused(setting, value):
    model = CNN(1, 2, depth=1, filters=4)
    setattr(model.C1.conv, setting, value)
    theta = {name: TaskParameter(p.detach().unsqueeze(0), 1) for name, p in model.named_parameters()}
    with pytest.raises(UserError, match=r"padding 1, one stride, and no more"):
        batched_forward(model, theta, torch.randn(1, 5, 1, 8, 8), ())
