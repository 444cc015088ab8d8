"""Plain gradient descent: MAML's rule."""

import torch

from core import make_optimizer


def test_the_update_is_the_gradient():
    g = {"w": torch.randn(2, 3), "b": torch.randn(2)}
    rule = make_optimizer("sgd")
    assert rule.init(g) == {}
    assert not rule.adapts
    update = rule.update({}, g)
    assert all(torch.equal(update[k], g[k]) for k in g)
