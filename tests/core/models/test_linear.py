import itertools

import pytest
import torch
from torch.func import functional_call

from core.models.linear import LR, LinNet, chain_product
from core.task_parameter import TaskParameter


def random_parameters(model, num_tasks):
    return {name: torch.randn(num_tasks, *p.shape, dtype=torch.float64) for name, p in model.named_parameters()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("points", [2, 50])
@pytest.mark.parametrize("hidden", [None, (), (4, 3), (9, 8, 7)])
def test_many_tasks_at_once_are_each_task_alone(hidden, points, bias):
    model = LR(6, 2, bias=bias) if hidden is None else LinNet(6, 2, hidden=hidden, bias=bias)
    theta = random_parameters(model, 3)
    x = torch.randn(3, points, 2, 3, dtype=torch.float64)
    together = model.forward_tasks({name: TaskParameter.of_tasks(t) for name, t in theta.items()}, x)
    for task in range(3):
        alone = functional_call(model, {name: t[task] for name, t in theta.items()}, (x[task],))
        torch.testing.assert_close(together[task], alone)


def test_chain_product_is_the_product_in_any_shape():
    for shape in itertools.product([1, 3, 8], repeat=5):
        matrices = [torch.randn(2, n, m, dtype=torch.float64) for n, m in itertools.pairwise(shape)]
        expected = matrices[0]
        for matrix in matrices[1:]:
            expected = expected @ matrix
        torch.testing.assert_close(chain_product(matrices), expected)


def multiplications(matrices, monkeypatch):
    """Scalar multiplications that chain_product makes."""
    total = 0
    matmul = torch.Tensor.__matmul__

    def counting(a, b):
        nonlocal total
        total += a.shape[-2] * a.shape[-1] * b.shape[-1]
        return matmul(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", counting)
    chain_product(matrices)
    monkeypatch.undo()
    return total


def test_chain_product_takes_the_cheapest_order(monkeypatch):
    # 10 x 100, 100 x 5, 5 x 50: the textbook case, 7,500 against 75,000.
    sizes = [(10, 100), (100, 5), (5, 50)]
    assert multiplications([torch.ones(n, m) for n, m in sizes], monkeypatch) == 7_500
    # LinNet on 1,000 points: collapse first, 2 * 64 * 64 + 64 * 100, then 100 * 1000.
    sizes = [(1, 64), (64, 64), (64, 64), (64, 100), (100, 1000)]
    assert multiplications([torch.ones(n, m) for n, m in sizes], monkeypatch) == 2 * 64 * 64 + 64 * 100 + 100 * 1000
