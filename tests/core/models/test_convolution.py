"""Convolutions of many tasks, against PyTorch's own, task by task: values, gradients and gradients of gradients."""

import pytest
import torch
import torch.nn.functional as F

from core.models.convolution import convolution

TASKS, EXAMPLES, FILTERS = 3, 4, 5


def inputs(channels, size, wants_x=True):
    generator = torch.Generator().manual_seed(channels + size)
    shapes = ((TASKS, EXAMPLES, channels, size, size + 1), (TASKS, FILTERS, channels, 3, 3), (TASKS, FILTERS))
    x, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x.requires_grad_(wants_x), weight.requires_grad_(), bias.requires_grad_()


def one_by_one(x, weight, bias, stride):
    return torch.stack([F.conv2d(*task, stride, 1) for task in zip(x, weight, bias, strict=True)])


def in_groups(x, weight, bias, stride):
    out = convolution(
        x.transpose(0, 1).flatten(1, 2), weight.flatten(0, 1), bias.flatten(), stride, 1, groups=len(x)
    )  # fmt: skip
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
