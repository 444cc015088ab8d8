"""The hand-written derivatives of batch normalisation, against PyTorch's own and against finite differences."""

from functools import partial

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from core.models import batch_norm as module
from core.models.batch_norm import LEAST_PIXELS, batch_norm

EPS = 1e-3


def reference(x, weight, bias, eps):
    """The formula, whose derivatives are autograd's: PyTorch's kernels are wrong for some strides."""
    weight, bias = (values[:, None, :, None, None] for values in (weight, bias))
    mean, variance = x.mean((1, 3, 4), keepdim=True), x.var((1, 3, 4), correction=0, keepdim=True)
    return (x - mean) * (variance + eps).rsqrt() * weight + bias


def channels_last(x):
    """The same numbers, a pixel's channels next to one another."""
    return x.permute(1, 3, 4, 0, 2).contiguous().permute(3, 0, 4, 1, 2)


LAYOUTS = {"channels first": torch.Tensor.contiguous, "channels last": channels_last}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def drawn(*shape, shift=0.0, dtype=torch.float64):
    return (torch.randn(shape, dtype=dtype) + shift).requires_grad_()


@pytest.fixture(params=["sums", "kernels"])
def way(request, monkeypatch):
    """Kernels are for GPUs and half precision, but they can do double precision, too."""
    if request.param == "kernels":
        monkeypatch.setattr(module, "_has_kernel", lambda x: True)
    return request.param


@pytest.fixture(params=[(2, 3), (4, 5)], ids=["few pixels", "many pixels"])
def inputs(request, way):
    """Two tasks of three examples with two channels, far from standardised and not contiguous."""
    torch.manual_seed(0)
    x = (2 * torch.randn(2, 3, 2, *request.param, dtype=torch.float64) + 1).transpose(3, 4)
    return (channels_last(x) if way == "sums" else x).requires_grad_(), drawn(2, 2), drawn(2, 2)


def test_both_ways_of_the_backward_pass_are_tried():
    assert 2 * 3 < LEAST_PIXELS <= 4 * 5


def test_it_is_batch_norm_of_each_task(inputs):
    torch.testing.assert_close(batch_norm(*inputs, EPS), reference(*inputs, EPS))


def test_first_and_second_derivatives_by_finite_differences(inputs):
    def ours(x, weight, bias):
        return batch_norm(x, weight, bias, EPS)

    assert gradcheck(ours, inputs)
    assert gradgradcheck(ours, inputs)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 1, 2)], ids=["x", "weight", "bias", "all"])
def test_second_derivatives_of_some_of_the_gradients(inputs, used):
    """What a task does not adapt, no cotangent comes back for."""
    torch.manual_seed(1)
    upstream = torch.randn(inputs[0].shape, dtype=torch.float64, requires_grad=True)

    found = [second(way, inputs, upstream, used) for way in (batch_norm, reference)]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


SHAPES = [(2, 3, 2, 4, 5), (1, 3, 2, 4, 5), (2, 1, 2, 7, 7), (2, 3, 1, 4, 5), (3, 3, 2, 1, 1), (1, 1, 1, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("upstream_layout", LAYOUTS)
def test_any_layout_of_what_goes_in_and_comes_back(shape, layout, upstream_layout):
    """Where a side is 1 its stride says nothing, and a weight that all tasks have in common has a stride of 0."""
    torch.manual_seed(0)
    x = layout(2 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    weight, bias = (drawn(shape[2]) for _ in range(2))
    upstream = LAYOUTS[upstream_layout](torch.randn(shape, dtype=torch.float64)).requires_grad_()

    def common(way, x, weight, bias, eps):
        return way(x, weight.expand(len(x), -1), bias.expand(len(x), -1), eps)

    ways = [partial(common, way) for way in (batch_norm, reference)]
    found = [second(way, (x, weight, bias), upstream, (0, 1, 2)) for way in ways]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def second(way, inputs, upstream, used):
    """A second derivative by everything, of a loss that is not linear in what comes out."""
    first = grad((upstream * way(*inputs, EPS).sin()).sum(), [inputs[i] for i in used], create_graph=True)
    total = sum((g * torch.arange(1, g.numel() + 1).view(g.shape).cos()).sum() for g in first)
    return grad(total, [*inputs, upstream])


@pytest.mark.parametrize("size", [2, 7])
def test_half_precision_sums_in_single_precision(size):
    """Inputs 10 deviations from 0 lose 2 % of one to bfloat16's rounding; means in bfloat16 would lose more."""
    torch.manual_seed(0)
    exact = [drawn(2, 50, 3, size, size, shift=10.0), drawn(2, 3), drawn(2, 3), torch.randn(2, 50, 3, size, size)]
    half = [t.detach().bfloat16().requires_grad_() for t in exact]
    exact = [t.detach().double().requires_grad_() for t in half]
    ours, theirs = (second(batch_norm, inputs, upstream, (0, 1, 2)) for *inputs, upstream in (half, exact))
    assert all(a.dtype == torch.bfloat16 for a in ours)
    assert max((a.double() - b).norm() / b.norm() for a, b in zip(ours, theirs, strict=True)) < 0.025


@pytest.mark.parametrize("size", [3, 7])
def test_single_precision_with_a_mean_far_from_zero(size, layout):
    """Products with x instead of x - E[x] cancel: a mean of 30 standard deviations may cost 30 roundings, not 900."""
    torch.manual_seed(0)
    x, weight, bias = drawn(2, 10, 3, size, size, shift=30.0, dtype=torch.float32), drawn(2, 3), drawn(2, 3)
    upstream = torch.randn(x.shape)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    single = [t.detach().float().requires_grad_() for t in (layout(x.detach()), weight, bias)]
    ours = grad((upstream * batch_norm(*single, EPS)).sum(), single)
    theirs = grad((upstream.double() * reference(*exact, EPS)).sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).abs().max() / b.abs().max() < 30 * 10 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("size", [2, 14])
def test_single_precision_adds_up_as_precisely_as_it_can(size, layout):
    """PyTorch's kernel for channels last is off by 1e-5 here, as it adds 9,800 numbers one to the next."""
    torch.manual_seed(0)
    x, upstream = (layout(torch.randn(2, 50, 16, size, size)) for _ in range(2))
    exact, single = ([x.to(dtype).requires_grad_()] for dtype in (torch.float64, torch.float32))
    found = []
    for (x,), way in ((single, batch_norm), (exact, reference)):
        out = way(x, torch.ones_like(x[:, 0, :, 0, 0]), torch.zeros_like(x[:, 0, :, 0, 0]), EPS)
        found.append((out.detach(), *grad((upstream.to(x) * out).sum(), x)))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 5e-7
