"""ReLU and means over space, against PyTorch's own: values, gradients, gradients of gradients, and their layout."""

import pytest
import torch

from core.models.elementwise import relu, spatial_mean


def activations():
    """(N, n, F, height, width), channels last, as convolutions of tasks give them."""
    numbers = torch.randn(3, 4, 5, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return numbers.permute(3, 0, 4, 1, 2).requires_grad_()


@pytest.mark.parametrize(("ours", "theirs"), [(relu, torch.relu), (spatial_mean, lambda x: x.mean((3, 4)))])
def test_values_and_three_derivatives(ours, theirs):
    def derivatives(how):
        x = activations()
        found = [how(x.sin())]
        for _ in range(3):
            found.append(torch.autograd.grad(found[-1].square().sum() + found[-1].sum(), x, create_graph=True)[0])
        return found

    for found, expected in zip(derivatives(ours), derivatives(theirs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", [relu, spatial_mean, lambda x: spatial_mean(relu(x))])
def test_gradients_lie_as_activations_do(how):
    x = activations()
    (gradient,) = torch.autograd.grad(how(x).square().sum(), x)
    assert gradient.stride() == x.stride()


def test_what_is_not_a_number_stays_so():
    x = torch.tensor([-1.0, 0.0, float("nan"), 2.0]).requires_grad_()
    out = relu(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert out.isnan().tolist() == [False, False, True, False]
    assert gradient[[0, 1, 3]].tolist() == [0, 0, 1]
