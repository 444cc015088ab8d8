import itertools

import pytest
import torch

from core import make_model, make_tasks
from core.errors import UserError
from core.tasks.base import TaskShape


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("depth", "filters", "channels", "parameters"),
    [(4, 64, 1, 112_586), (2, 64, 1, 38_474), (4, 32, 3, 29_226), (2, 32, 3, 10_602)],
)
def test_cnn_has_the_papers_parameter_count(depth, filters, channels, parameters):
    tasks = TaskShape((channels, 28, 28), 10)
    assert count(make_model("cnn", tasks, depth=depth, filters=filters, seed=0)) == parameters


def test_linear_models_have_the_papers_sizes():
    omniglot, synthetic = TaskShape((1, 28, 28), 5), make_tasks("synthetic")
    assert count(make_model("lr", synthetic, seed=0)) == 100
    assert count(make_model("lr", omniglot, seed=0)) == 784 * 5
    widths = [784, 256, 128, 64, 64, 5]
    assert count(make_model("linnet", omniglot, seed=0, hidden=(256, 128, 64, 64))) == sum(
        n * m for n, m in itertools.pairwise(widths)
    )


def test_initial_weights_depend_on_the_seed_alone():
    tasks = make_tasks("synthetic")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = make_model("lr", tasks, seed=3).fc.weight
    assert torch.equal(torch.get_rng_state(), state), "the global generator must be left alone"
    torch.manual_seed(2)
    assert torch.equal(make_model("lr", tasks, seed=3).fc.weight, first)
    assert not torch.equal(make_model("lr", tasks, seed=4).fc.weight, first)


@pytest.mark.parametrize(("name", "options"), [("lr", {}), ("lr", {"bias": True}), ("linnet", {"hidden": (4, 3)})])
def test_init_scale_multiplies_every_initial_weight_and_nothing_else(name, options):
    tasks = make_tasks("synthetic")
    plain = dict(make_model(name, tasks, seed=3, **options).named_parameters())
    scaled = make_model(name, tasks, seed=3, init_scale=0.25, **options)
    for key, parameter in scaled.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, 0.25 * plain[key])
    assert all((p == 0).all() for p in make_model(name, tasks, seed=3, init_scale=0.0, **options).parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lrr", {}, "unknown model 'lrr'; known: cnn, linnet, lr"),
        ("lr", {"depth": 2}, "model 'lr' has no option depth; it has bias"),
        ("linnet", {}, "model 'linnet' needs hidden"),
        ("lr", {"init_scale": -1.0}, "init_scale must be at least 0, got -1.0"),
        ("cnn", {"init_scale": 2.0}, "model 'cnn' has no option init_scale; it has depth"),
        ("cnn", {"depth": 5}, "a CNN has 1 to 4 convolutional layers, not 5"),
    ],
)
def test_misspelt_and_impossible_models_are_explained(name, options, message):
    with pytest.raises(UserError, match=message):
        make_model(name, TaskShape((1, 28, 28), 5), seed=0, **options)


def test_a_cnn_needs_images():
    with pytest.raises(UserError, match="needs images"):
        make_model("cnn", make_tasks("synthetic"), seed=0)


@pytest.mark.parametrize(("name", "options"), [("cnn", {"filters": 0}), ("linnet", {"hidden": (4, -1)})])
def test_a_layer_has_an_output(name, options):
    with pytest.raises(UserError, match="at least 1 output"):
        make_model(name, TaskShape((1, 28, 28), 5), seed=0, **options)
