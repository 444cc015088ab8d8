"""Meta-Curvature against its three mode products, written as sums and as one Kronecker product."""

import torch
from torch import Tensor

from core import make_optimizer


def random(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_convolution_is_three_mode_products():
    """U[a, b, h] = sum over n, c, f of out[a, n] in[b, c] filter[h, f] G[n, c, f]."""
    g = random(2, 3, 2, 2, seed=0)
    xi = {"w.out": random(2, 2, seed=1), "w.in": random(3, 3, seed=2), "w.filter": random(4, 4, seed=3)}
    update = make_optimizer("meta_curvature").update(xi, {"w": g})["w"]
    flat = g.reshape(2, 3, 4)
    expected = torch.zeros(2, 3, 4, dtype=torch.float64)
    for a in range(2):
        for b in range(3):
            for h in range(4):
                weights = torch.einsum("n,c,f->ncf", xi["w.out"][a], xi["w.in"][b], xi["w.filter"][h])
                expected[a, b, h] = (weights * flat).sum()
    assert torch.allclose(update, expected.reshape(g.shape), rtol=1e-12)
    dense = torch.kron(torch.kron(xi["w.out"], xi["w.in"]), xi["w.filter"])
    assert torch.allclose(update.reshape(-1), dense @ g.reshape(-1), rtol=1e-12)


def test_matrix_is_a_left_and_a_right_product():
    g, left, right = random(2, 3, seed=0), random(2, 2, seed=1), random(3, 3, seed=2)
    update = make_optimizer("meta_curvature").update({"w.L": left, "w.R": right}, {"w": g})["w"]
    assert torch.allclose(update, left @ g @ right, rtol=1e-12)


def test_is_not_adapted_unless_asked_to():
    assert make_optimizer("meta_curvature").adapts is False
    assert make_optimizer("meta_curvature", adapts=True).adapts is True
