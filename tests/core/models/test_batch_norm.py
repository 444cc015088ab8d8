"""The hand-written derivatives of batch normalisation, against PyTorch's own and against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from core.models.batch_norm import batch_norm

EPS = 1e-3


def reference(x, weight, bias):
    merged = x.transpose(0, 1).flatten(1, 2)
    out = F.batch_norm(merged, None, None, weight.flatten(), bias.flatten(), training=True, eps=EPS)
    return out.unflatten(1, (len(x), -1)).transpose(0, 1)


def drawn(*shape, shift=0.0, dtype=torch.float64):
    return (torch.randn(shape, dtype=dtype) + shift).requires_grad_()


@pytest.fixture
def inputs():
    """Two tasks of three examples with four channels of 3 x 2, far from standardised and not contiguous."""
    torch.manual_seed(0)
    x = (2 * torch.randn(2, 3, 4, 2, 3, dtype=torch.float64) + 1).transpose(3, 4).requires_grad_()
    return x, drawn(2, 4), drawn(2, 4)


def test_it_is_batch_norm_of_each_task(inputs):
    torch.testing.assert_close(batch_norm(*inputs, EPS), reference(*inputs))


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

    def second(out):
        # A loss that is not linear in the output, so that the gradient depends on everything.
        first = grad((upstream * out.sin()).sum(), [inputs[i] for i in used], create_graph=True)
        total = sum((g * torch.arange(1, g.numel() + 1).view(g.shape).cos()).sum() for g in first)
        return grad(total, [*inputs, upstream])

    for ours, theirs in zip(second(batch_norm(*inputs, EPS)), second(reference(*inputs)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_single_precision_with_a_mean_far_from_zero():
    """Products with x instead of x - E[x] cancel: a mean of 30 standard deviations may cost 30 roundings, not 900."""
    torch.manual_seed(0)
    x, weight, bias = drawn(2, 10, 3, 7, 7, shift=30.0, dtype=torch.float32), drawn(2, 3), drawn(2, 3)
    upstream = torch.randn(x.shape)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    single = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
    ours = grad((upstream * batch_norm(*single, EPS)).sum(), single)
    theirs = grad((upstream.double() * reference(*exact)).sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).abs().max() / b.abs().max() < 30 * 10 * torch.finfo(torch.float32).eps
