"""Convolution and batch normalisation in one, against the two after one another."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import grad, gradcheck, gradgradcheck

from core import Episodes, evaluate, make_optimizer
from core.models import conv as conv_module
from core.models import folding
from core.models.conv import CNN
from core.models.folding import MOST_PATCH_NUMBERS, folded, is_foldable, moments
from core.task_parameter import TaskParameter

EPS = 1e-3


def reference(x, kernels, weight, bias, stride):
    """Task by task, a convolution and then the formula of batch normalisation."""
    out = []
    for images, *own in zip(x, kernels, weight, bias, strict=True):
        kernel, scale, shift = own
        y = F.conv2d(images, kernel, stride=stride, padding=1)
        mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        out.append((y - mean) * (variance + EPS).rsqrt() * scale[:, None, None] + shift[:, None, None])
    return torch.stack(out)


def in_one(x, kernels, weight, bias, stride):
    kernels, shifts = folded(kernels, weight, bias, EPS, moments(F.pad(x, (1, 1, 1, 1)), (3, 3), stride))
    ours = zip(x, kernels, shifts, strict=True)
    return torch.stack([F.conv2d(images, kernel, shift, stride, 1) for images, kernel, shift in ours])


@pytest.fixture(params=[(1, 1), (3, 2)], ids=["gray, stride 1", "RGB, stride 2"])
def inputs(request):
    """Two tasks of four images, with four filters, far from standardised."""
    channels, stride = request.param
    torch.manual_seed(0)
    x = 2 * torch.randn(2, 4, channels, 5, 6, dtype=torch.float64) + 1
    drawn = [torch.randn(2, 4, *rest, dtype=torch.float64).requires_grad_() for rest in ((channels, 3, 3), (), ())]
    return x, *drawn, stride


def test_it_is_the_two_after_one_another(inputs):
    torch.testing.assert_close(in_one(*inputs), reference(*inputs))


def test_first_and_second_derivatives(inputs):
    learned = inputs[1:-1]
    upstream, *directions = (torch.randn_like(t) for t in (reference(*inputs), *learned))
    found = []
    for way in (in_one, reference):
        first = grad((way(*inputs) * upstream).sum(), learned, create_graph=True)
        along = sum((one * direction).sum() for one, direction in zip(first, directions, strict=True))
        found.append((*first, *grad(along, learned, materialize_grads=True)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_derivatives_by_finite_differences(inputs):
    x, *learned, stride = inputs

    def ours(*learned):
        return in_one(x, *learned, stride)

    assert gradcheck(ours, learned)
    assert gradgradcheck(ours, learned)


def test_moments_do_not_hang_on_how_many_images_go_through_at_once(inputs, monkeypatch):
    x, *_, stride = inputs
    whole = moments(F.pad(x, (1, 1, 1, 1)), (3, 3), stride)
    monkeypatch.setattr(folding, "_AT_ONCE", 1)
    part_by_part = moments(F.pad(x, (1, 1, 1, 1)), (3, 3), stride)
    torch.testing.assert_close(whole.mean, part_by_part.mean)
    torch.testing.assert_close(whole.covariance, part_by_part.covariance)


def test_filters_of_nearly_equal_pixels_keep_their_digits():
    """A filter that takes differences of bright pixels: in single precision its variance would have two digits."""
    torch.manual_seed(0)
    x = 10 + 0.01 * torch.randn(1, 20, 1, 14, 14)
    edge = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])[None, None, None]
    of = moments(x, (3, 3), 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    (kernels, _), (exact, _) = (
        folded(edge.to(dtype), one.to(dtype), 0 * one.to(dtype), 0.0, of) for dtype in (torch.float32, torch.float64)
    )
    y = F.conv2d(x[0].double(), edge[0].double())
    torch.testing.assert_close(exact[0, 0, 0, 0, 2], 1 / y.std(correction=0), rtol=1e-6, atol=0)
    torch.testing.assert_close(kernels.double(), exact, rtol=1e-6, atol=0)


def test_gradients_of_bright_images_keep_their_digits():
    """Pixels of 50 +- 1: with their mean in the sums, ten times as many digits would be lost."""
    torch.manual_seed(0)
    layer, x, upstream = CNN(1, 5, depth=1, filters=8).C1, 50 + torch.randn(1, 20, 1, 14, 14), torch.randn(20, 8, 7, 7)
    start = {name: p.detach().unsqueeze(0).requires_grad_() for name, p in layer.named_parameters()}
    outputs = layer.forward_tasks({name: TaskParameter(p, 1) for name, p in start.items()}, x)
    (ours,) = grad((outputs[0] * upstream).sum(), [start["conv.weight"]])
    (exact,) = grad((layer.double()(x[0].double()) * upstream).sum(), [layer.conv.weight])
    assert (ours[0].double() - exact).norm() < 3e-6 * exact.norm()


def test_only_data_with_small_patches_are_taken():
    x = torch.zeros(1, 1, 1, 4, 4)
    assert is_foldable(x, (3, 3, 3))
    assert not is_foldable(x, (MOST_PATCH_NUMBERS // 9 + 1, 3, 3))
    assert not is_foldable(x.bfloat16(), (3, 3, 3))
    assert not is_foldable(x.clone().requires_grad_(), (3, 3, 3))


def test_the_moments_of_data_are_taken_once_a_task(monkeypatch):
    """And not once a step, nor of what the first layer gives: of support and of query examples."""
    calls = []

    def counted(x, *arguments):
        calls.append(x)
        return moments(x, *arguments)

    monkeypatch.setattr(conv_module, "moments", counted)
    model, rule = CNN(1, 2, depth=2, filters=3), make_optimizer("sgd")
    theta = {name: p.detach() for name, p in model.named_parameters()}
    x, y = torch.randn(2, 4, 6, 1, 8, 8), torch.tensor([0, 1]).repeat(4, 3)
    episodes = Episodes(x[0], y, x[1], y)
    evaluate(model, rule, theta, rule.init(theta), episodes, steps=3, lr=0.1, tasks_per_chunk=2)
    assert all(x.shape[2] == 1 for x in calls)
    assert sum(map(len, calls)) == 4 + 4
