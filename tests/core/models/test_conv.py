"""A CNN treats many tasks at once as it treats each of them alone."""

import pytest
import torch
from torch.func import functional_call

from core.adaptation import meta_gradient
from core.models.conv import CNN
from core.optimizers import make_optimizer
from core.task_parameter import TaskParameter
from core.tasks.base import Episodes
from tests import naive
from tests.naive import NaiveRule

N, n = 5, 4  # tasks, of which one convolution takes 3 or more together, and examples
CASES = [(2, "batch", "stride"), (2, "instance", "stride"), (1, "none", "stride"), (4, "batch", "max_pool")]


def task_parameters(model, num_shared):
    """The first `num_shared` parameters are common to all tasks and frozen, each task has its own of the others."""
    parameters = {}
    for i, (name, p) in enumerate(model.named_parameters()):
        frozen = i < num_shared
        values = torch.randn(1 if frozen else N, *p.shape, dtype=torch.float64)
        parameters[name] = TaskParameter(values, N) if frozen else TaskParameter.of_tasks(values)
        parameters[name].adapts = not frozen
    return parameters


@pytest.mark.parametrize("num_shared", [0, 4, 1, None], ids=["own", "first block shared", "kernel shared", "shared"])
@pytest.mark.parametrize(("depth", "norm_mode", "downsample"), CASES)
def test_forward_of_many_tasks(depth, norm_mode, downsample, num_shared):
    torch.manual_seed(0)
    size = 84 if downsample == "max_pool" else 28
    model = CNN(2, 5, depth=depth, filters=3, norm_mode=norm_mode, downsample=downsample).double()
    num_parameters = len(list(model.parameters()))
    theta = task_parameters(model, num_parameters if num_shared is None else num_shared)
    x = torch.randn(N, n, 2, size, size, dtype=torch.float64)
    together = model.forward_tasks(theta, x)
    for i in range(N):
        own = {name: p.value()[i] for name, p in theta.items()}
        torch.testing.assert_close(together[i], functional_call(model, own, (x[i],)))


@pytest.mark.parametrize("num_shared", [0, None], ids=["own", "shared"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.float32, True), (torch.bfloat16, False)])
def test_on_a_cpu_a_pixels_channels_lie_next_to_one_another(num_shared, channels, dtype, channels_last):
    model = CNN(channels, 5, depth=1, filters=4)
    theta = task_parameters(model.double(), 2 if num_shared is None else 0)
    for name, parameter in theta.items():
        parameter.shared = parameter.shared.to(dtype)
        parameter._own = None if parameter._own is None else parameter._own.to(dtype)
        assert parameter.value().dtype == dtype, name
    kernels = {name.removeprefix("C1.conv."): p for name, p in theta.items() if name.startswith("C1.conv.")}
    out = model.C1.conv.forward_tasks(kernels, torch.randn(N, n, channels, 8, 8, dtype=dtype))
    assert (out.stride(2) == 1) is channels_last


@pytest.mark.parametrize(("filters", "num_tasks"), [(1, 1), (1, 3), (1, 5), (2, 1), (2, 3), (2, 5)])
@pytest.mark.parametrize("norm_mode", ["batch", "instance"])
def test_the_meta_gradient_of_networks_so_small_that_strides_are_ambiguous(filters, num_tasks, norm_mode):
    torch.manual_seed(0)
    model = CNN(1, 2, depth=2, filters=filters, norm_mode=norm_mode).double()
    theta = {name: p.detach() for name, p in model.named_parameters()}
    rule = make_optimizer("sgd")
    x, y = torch.rand(2, num_tasks, 2, 1, 28, 28, dtype=torch.float64), torch.arange(2).expand(num_tasks, -1)
    episodes = Episodes(x[0], y, x[1], y)
    settings = {"steps": 2, "lr": 0.4}
    _, (found, _) = meta_gradient(model, rule, theta, {}, episodes, first_order=False, **settings)
    _, (expected, _) = naive.meta_gradient(model, NaiveRule("sgd"), theta, {}, episodes, **settings)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapted", [None, ("C2.conv.weight", "FC.weight"), ("C1.conv.weight", "FC.bias")])
@pytest.mark.parametrize("method", ["sgd", "kfc"])
@pytest.mark.parametrize(
    ("norm_mode", "downsample"), [("batch", "stride"), ("instance", "stride"), ("none", "max_pool")]
)
def test_the_meta_gradient_of_tasks_that_begin_with_the_same_kernels(
    norm_mode, downsample, method, adapted, first_order
):
    torch.manual_seed(0)
    model = CNN(2, 3, depth=2, filters=3, norm_mode=norm_mode, downsample=downsample).double()
    theta = {name: p.detach() for name, p in model.named_parameters()}
    slow = NaiveRule(method)
    rule = make_optimizer(method, **slow.options())
    xi = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in rule.init(theta).items()}
    x, y = torch.rand(2, N, 3, 2, 24, 24, dtype=torch.float64), torch.arange(3).expand(N, -1)
    episodes = Episodes(x[0], y, x[1], y)
    settings = {"steps": 2, "lr": 0.4, "adapted": adapted, "first_order": first_order}
    loss, (g_theta, g_xi) = meta_gradient(model, rule, theta, xi, episodes, **settings)
    slow_loss, (slow_theta, slow_xi) = naive.meta_gradient(model, slow, theta, xi, episodes, **settings)
    torch.testing.assert_close(loss, slow_loss, rtol=1e-9, atol=0)
    for found, expected in ((g_theta, slow_theta), (g_xi, slow_xi)):
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )


def test_images_of_other_channels_are_refused():
    """Three tasks' images with one channel must not pass for one task's with three."""
    model = CNN(3, 5, depth=2, filters=3, norm_mode="none").double()
    theta = task_parameters(model, len(list(model.parameters())))
    with pytest.raises(RuntimeError):
        model.forward_tasks(theta, torch.zeros(N + 1, n, 1, 28, 28, dtype=torch.float64))


@pytest.mark.parametrize("num_tasks", [1, 5])
@pytest.mark.parametrize("frozen", [False, True])
def test_instance_norm_of_channels_far_from_zero(num_tasks, frozen):
    """Where channels are last, PyTorch's kernel would lose two digits more."""
    torch.manual_seed(0)
    model = CNN(1, 2, depth=1, filters=4, norm_mode="instance")
    with torch.no_grad():
        model.C1.conv.weight.mul_(0.3)
        model.C1.conv.bias.fill_(30.0)
    x = torch.rand(num_tasks, 5, 1, 28, 28)
    theta = {name: TaskParameter(p.detach().unsqueeze(0), num_tasks) for name, p in model.named_parameters()}
    for parameter in theta.values():
        parameter.adapts = not frozen
    found = model.forward_tasks(theta, x)
    expected = torch.stack([model.double()(one.double()) for one in x])
    assert (found - expected).norm() / expected.norm() < 1e-4
