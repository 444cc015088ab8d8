"""The linear rule of equation 2 and its low-rank Cholesky form."""

import pytest
import torch
from torch import Tensor

from core import make_optimizer
from core.errors import UserError


def random(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_linear_is_a_matrix_on_the_row_major_vector():
    g, a, b = random(2, 3, seed=0), random(6, 6, seed=1), random(6, seed=2)
    update = make_optimizer("linear", bias=True).update({"w.A": a, "w.b": b}, {"w": g})["w"]
    stacked = torch.tensor([g[i, j].item() for i in range(2) for j in range(3)], dtype=torch.float64)
    assert torch.allclose(update.reshape(-1), a @ stacked + b, rtol=1e-12)


def test_linear_holds_every_klin():
    """With A = L kron R^T on the row-major vector (R^T kron L on the column-major one), it is KLin."""
    g, left, right = random(2, 3, seed=0), random(2, 2, seed=1), random(3, 3, seed=2)
    linear = make_optimizer("linear").update({"w.A": torch.kron(left, right.T.contiguous())}, {"w": g})["w"]
    klin = make_optimizer("klin").update({"w.L": left, "w.R": right}, {"w": g})["w"]
    assert torch.allclose(linear, klin, rtol=1e-12)


def test_cholesky_is_symmetric_and_positive():
    g, factor = random(2, 3, seed=0), random(6, 2, seed=1)
    rule = make_optimizer("cholesky", rank=2)
    update = rule.update({"w.L": factor}, {"w": g})["w"]
    assert torch.allclose(update.reshape(-1), (factor @ factor.T) @ g.reshape(-1), rtol=1e-12)
    assert (update * g).sum() > 0


@pytest.mark.parametrize("rank", [1, 4, 6])
def test_cholesky_starts_as_a_projection(rank: int):
    """P g with P^2 = P = P^T of this rank: the first entries of the row-major gradient, the identity at full rank."""
    rule = make_optimizer("cholesky", rank=rank)
    xi = rule.init({"w": torch.zeros(2, 3, dtype=torch.float64)})
    basis = torch.eye(6, dtype=torch.float64)
    projection = torch.stack([rule.update(xi, {"w": e.reshape(2, 3)})["w"].reshape(-1) for e in basis], dim=1)
    assert torch.equal(projection @ projection, projection)
    assert torch.equal(projection, projection.T)
    assert torch.equal(projection.diagonal(), (torch.arange(6) < rank).double())
    assert xi["w.L"].shape == (6, rank)


def test_a_rank_above_the_number_of_entries_is_cut_to_it():
    """More columns could not raise the rank, and would start at zero."""
    assert make_optimizer("cholesky", rank=9).init({"w": torch.zeros(2, 3)})["w.L"].shape == (6, 6)


def test_a_matrix_that_no_machine_holds_is_refused():
    with pytest.raises(UserError, match=r"a matrix of 36,864 x 36,864 for a tensor of 36,864 numbers: it is for small"):
        make_optimizer("linear").init({"weight": torch.zeros(64, 64, 3, 3)})
