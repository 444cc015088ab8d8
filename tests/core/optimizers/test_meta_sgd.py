"""Meta-SGD: a learning rate of its own for every parameter."""

import torch

from core import make_optimizer


def test_each_entry_has_its_own_rate():
    rule = make_optimizer("meta_sgd")
    g = {"w": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])}
    rate = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]])
    expected = torch.tensor([[1.0, 1.0, -3.0], [0.0, 10.0, 6.0]])
    assert torch.equal(rule.update({"w.rate": rate}, g)["w"], expected)
    assert torch.equal(rule.init(g)["w.rate"], torch.ones(2, 3))


def test_is_not_adapted_unless_asked_to():
    assert make_optimizer("meta_sgd").adapts is False
    assert make_optimizer("meta_sgd", adapts=True).adapts is True
