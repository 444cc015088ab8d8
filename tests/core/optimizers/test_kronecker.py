"""KLin and KFC against dense Kronecker products, with factors that are neither symmetric nor of equal size."""

import pytest
import torch
from torch import Tensor

from core import make_optimizer


def random(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(matrix: Tensor) -> Tensor:
    """vec: the columns of a matrix, one below the other."""
    return torch.cat([matrix[:, j] for j in range(matrix.shape[1])])


@pytest.mark.parametrize(("n", "m"), [(2, 5), (5, 2), (1, 6), (6, 1), (3, 3)])
def test_klin_is_the_kronecker_product(n: int, m: int):
    """vec(L G R) = (R^T kron L) vec(G), equation 5."""
    left, right, g = random(n, n, seed=1), random(m, m, seed=2), random(n, m, seed=3)
    update = make_optimizer("klin").update({"w.L": left, "w.R": right}, {"w": g})["w"]
    assert torch.allclose(columns(update), torch.kron(right.T.contiguous(), left) @ columns(g), rtol=1e-12)


def test_klin_is_not_one_of_its_neighbours():
    """What the convention decides: every transposition gives other numbers, so that the test above has teeth."""
    left, right, g = random(2, 2, seed=1), random(3, 3, seed=2), random(2, 3, seed=3)
    update = make_optimizer("klin").update({"w.L": left, "w.R": right}, {"w": g})["w"]
    for other in (left.T @ g @ right, left @ g @ right.T, left.T @ g @ right.T):
        assert not torch.allclose(update, other, rtol=1e-3)


def test_klin_bias_is_added_to_the_matrix():
    left, right, g, b = random(2, 2, seed=1), random(3, 3, seed=2), random(2, 3, seed=3), random(2, 3, seed=4)
    update = make_optimizer("klin", bias=True).update({"w.L": left, "w.R": right, "w.b": b}, {"w": g})["w"]
    assert torch.allclose(update, left @ g @ right + b, rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_kfc_is_a_network_of_kronecker_products(depth: int):
    """Equation 7: W_h relu(... relu(W_1 vec(G)) ...), with W_i = R_i^T kron L_i."""
    n, m = 3, 4
    g = random(n, m, seed=0)
    xi, hidden = {}, columns(g)
    for i in range(depth):
        left, right = random(n, n, seed=10 + i), random(m, m, seed=20 + i)
        xi |= {f"w.L{i}": left, f"w.R{i}": right}
        hidden = hidden if i == 0 else hidden.relu()
        hidden = torch.kron(right.T.contiguous(), left) @ hidden
    update = make_optimizer("kfc", depth=depth).update(xi, {"w": g})["w"]
    assert torch.allclose(columns(update), hidden, rtol=1e-12)


def test_a_convolution_s_filters_share_the_map():
    """(N, C, H, W) is N matrices of HW x C: channel c of filter n, read along rows, is a column."""
    g = random(5, 2, 2, 3, seed=0)
    left, right = random(6, 6, seed=1), random(2, 2, seed=2)
    update = make_optimizer("klin").update({"w.L": left, "w.R": right}, {"w": g})["w"]
    dense = torch.kron(right.T.contiguous(), left)
    for n in range(5):
        stacked = torch.cat([g[n, c].reshape(-1) for c in range(2)])
        expected = dense @ stacked
        assert torch.allclose(torch.cat([update[n, c].reshape(-1) for c in range(2)]), expected, rtol=1e-12)


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (5, 2, 2, 3), (4,), ()])
def test_kfc_starts_as_the_positive_part(shape: tuple[int, ...], unit_norm: bool):
    g = random(*shape, seed=3)
    rule = make_optimizer("kfc", depth=4, unit_norm=unit_norm)
    assert torch.allclose(rule.update(rule.init({"w": g}), {"w": g})["w"], g.relu(), rtol=1e-12, atol=0)


def test_unit_norm_is_over_the_whole_tensor():
    """scale |g| KFC(g / |g|); with a bias, it differs from KFC(g), and the norm is not each filter's own."""
    g = 10 * random(5, 2, 2, 3, seed=0)
    rule = make_optimizer("kfc", depth=2, unit_norm=True, bias=True)
    plain = make_optimizer("kfc", depth=2, bias=True)
    xi = {k: v + 0.4 * random(*v.shape, seed=i) for i, (k, v) in enumerate(rule.init({"w": g}).items())}
    rest = {k: v for k, v in xi.items() if k != "w.scale"}
    norm = g.square().sum().sqrt()
    expected = xi["w.scale"] * norm * plain.update(rest, {"w": g / norm})["w"]
    assert torch.allclose(rule.update(xi, {"w": g})["w"], expected, rtol=1e-12)
    assert not torch.allclose(plain.update(rest, {"w": g})["w"] * xi["w.scale"], expected, rtol=1e-3)


def test_bias_shapes():
    theta = {"matrix": random(2, 3, seed=0), "conv": random(5, 2, 2, 3, seed=0), "vector": random(4, seed=0)}
    xi = make_optimizer("kfc", depth=2, bias=True).init(theta)
    assert [tuple(xi[f"{name}.b1"].shape) for name in theta] == [(2, 3), (5, 6, 2), (4, 1)]
    assert set(make_optimizer("kfc", depth=2).init(theta)) == {k for k in xi if ".b" not in k}
