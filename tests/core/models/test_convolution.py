"""Convolutions of many tasks, against PyTorch's own, task by task: values, gradients and gradients of gradients."""

import pytest
import torch
import torch.nn.functional as F

from core.models import common_convolution as common
from core.models.convolution import Settings, convolution
from core.task_parameter import TaskParameter, collecting

TASKS, EXAMPLES, FILTERS = 3, 4, 5


def inputs(channels, size, wants_x=True):
    generator = torch.Generator().manual_seed(channels + size)
    shapes = ((TASKS, EXAMPLES, channels, size, size + 1), (TASKS, FILTERS, channels, 3, 3), (TASKS, FILTERS))
    x, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x.requires_grad_(wants_x), weight.requires_grad_(), bias.requires_grad_()


def one_by_one(x, weight, bias, stride):
    return torch.stack([F.conv2d(*task, stride, 1) for task in zip(x, weight, bias, strict=True)])


def in_groups(x, weight, bias, stride):
    settings = Settings((stride, stride), (1, 1), len(x))
    out = convolution(x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), bias.flatten(), settings)
    return out.unflatten(1, (len(x), -1)).transpose(0, 1)


def derivatives(how, tensors, stride):
    """The output, first derivatives, and those of a function of the first."""
    out = how(*tensors, stride)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    first = torch.autograd.grad(out.sin().sum(), wanted, create_graph=True)
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), wanted)
    return [out, *first, *second]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "size"), [(1, 6), (3, 7), (3, 2), (2, 1)])
@pytest.mark.parametrize("wants_x", [True, False])
def test_it_is_the_convolution_of_each_task(stride, channels, size, wants_x):
    found, expected = (derivatives(h, inputs(channels, size, wants_x), stride) for h in (in_groups, one_by_one))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_second_derivative_of_one_of_the_gradients_alone(only):
    def alone(how):
        tensors = inputs(3, 6)
        first = torch.autograd.grad(how(*tensors, 2).sin().sum(), tensors, create_graph=True)
        return torch.autograd.grad(first[only].sin().sum(), tensors)

    for ours, theirs in zip(alone(in_groups), alone(one_by_one), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def gradients(total, tensors):
    """None for what needs none or is not used."""
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(total, wanted, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


def of_one_step(x, kernels, stride, *, adapts=True):
    """Outputs by kernels (1, F, C, 3, 3) that all tasks have, each task's gradient, and the derivatives of them all."""
    weight = TaskParameter(kernels, len(x))
    weight.adapts = adapts
    groups = x.transpose(0, 1).flatten(1, 2)
    out = common.common_convolution(groups, weight, weight.undivided(), stride, 1)
    record = weight.take_record()
    watched = [*record.watched(), groups] if x.requires_grad else record.watched()
    grads = torch.autograd.grad(out.sin().sum(), watched, create_graph=True) if watched else []
    dense = record.dense(grads, constant=False) if adapts else None
    total = sum(g.sin().sum() for g in (out, *grads[int(adapts) :], *([dense] if adapts else [])))
    with collecting([weight]):
        by_kernels, by_x = gradients(total, [kernels, groups])
    return [out.unflatten(1, (len(x), -1)).transpose(0, 1), dense, by_x, weight.gradient(by_kernels)]


def of_one_step_task_by_task(x, kernels, stride, *, adapts=True):
    groups = x.transpose(0, 1).flatten(1, 2)
    each = kernels.expand(len(x), *kernels.shape[1:]) + 0
    tasks = groups.unflatten(1, (len(x), -1)).transpose(0, 1)
    out = torch.stack([F.conv2d(images, weight, None, stride, 1) for images, weight in zip(tasks, each, strict=True)])
    watched = [*([each] if adapts else []), *([groups] if x.requires_grad else [])]
    grads = torch.autograd.grad(out.sin().sum(), watched, create_graph=True) if watched else []
    total = sum(g.sin().sum() for g in (out, *grads))
    by_kernels, by_x = gradients(total, [kernels, groups])
    return [out, grads[0] if adapts else None, by_x, by_kernels]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "size"), [(1, 6), (3, 7), (3, 2), (2, 1)])
@pytest.mark.parametrize("wants_x", [True, False])
@pytest.mark.parametrize("adapts", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_kernels_that_all_tasks_have(stride, channels, size, wants_x, adapts, channels_last, monkeypatch):
    monkeypatch.setattr(common, "wants_channels_last", lambda x: channels_last)
    x, weight, _ = inputs(channels, size, wants_x)
    kernels = weight.detach()[:1].requires_grad_()
    found, expected = (of(x, kernels, stride, adapts=adapts) for of in (of_one_step, of_one_step_task_by_task))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
