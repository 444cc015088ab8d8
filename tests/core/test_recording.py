"""What is recorded and replayed is what was recorded, on other numbers, with fewer views."""

import pytest
import torch

from core.errors import UserError
from core.recording import Recorded


def views_of_views(x, y):
    """Views by other names, at other places, of an argument, of what is written to later, and of several outputs."""
    product = x @ y
    twice = product.mT.unsqueeze(0).squeeze(0).mT
    first, *others = (twice + product.t().t()).unbind(0)
    part = product[1:].flatten()[2:].view(4, -1).mT
    product[0].add_(1)
    again = product.detach()[1:].reshape(-1)[2:].reshape(4, 2)
    argument = x.mT.unsqueeze(0).expand(3, -1, -1).mT[1]
    return [twice * 2, first + others[1][0], part.expand(2, -1, -1) + 1, again + 1, argument * y.sum()]


def arguments(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, generator=generator), torch.randn(4, 5, generator=generator)


def num_views(recorded):
    nodes = recorded._graph_module.graph.nodes
    return sum(getattr(node.target, "is_view", False) for node in nodes)


def test_it_is_the_function_on_other_numbers():
    recorded = Recorded(views_of_views, *arguments(0))
    for join in (False, True):
        before = num_views(recorded)
        if join:
            recorded.join_views()
            assert 0 < num_views(recorded) < before / 2
        for seed in (0, 1):
            torch.testing.assert_close(recorded(*arguments(seed)), views_of_views(*arguments(seed)), rtol=0, atol=0)


@pytest.mark.parametrize("laid", ["transposed", "in the middle", "expanded"])
def test_arguments_that_lie_otherwise_in_memory(laid):
    """Slices of a batch of tasks are: contiguous, and not where their memory begins."""
    recorded = Recorded(views_of_views, *arguments(0))
    recorded.join_views()
    x, y = arguments(1)
    if laid == "transposed":
        x, y = x.mT.contiguous().mT, y.repeat(1, 2)[:, :5]
    elif laid == "in the middle":
        x, y = torch.cat([x + 1, x])[3:], torch.cat([y + 1, y])[4:]
    else:
        x = x[:1].expand(3, -1)
    torch.testing.assert_close(recorded(x, y), views_of_views(x.clone(), y.clone()), rtol=0, atol=0)


def test_recorded_with_arguments_that_are_slices():
    big = torch.arange(24.0).view(4, 6)

    def first_axis_gone(x):
        return [x.view(6).view(2, 3).mT * 1]

    for recorded in (Recorded(first_axis_gone, big[1:2]), Recorded(first_axis_gone, big[:1].expand(1, 6))):
        recorded.join_views()
        for i in range(4):
            assert torch.equal(recorded(big[i : i + 1])[0], first_axis_gone(big[i : i + 1])[0]), i


def test_other_shapes_and_types_are_refused():
    recorded = Recorded(lambda x: [x * 2], torch.zeros(3, 4))
    with pytest.raises(UserError, match=r"recorded for \(3, 4\) of torch.float32, not for \(5, 4\)"):
        recorded(torch.zeros(5, 4))
    with pytest.raises(UserError, match=r"not for \(3, 4\) of torch.float64"):
        recorded(torch.zeros(3, 4, dtype=torch.float64))


def test_what_nothing_comes_of_is_left_out():
    def wasteful(x):
        x.exp().sum()
        return [x + 1]

    assert len(Recorded(wasteful, torch.zeros(2))) == 1


def test_a_view_made_twice_is_made_once():
    def twice(x):
        y = x * 2
        return [y.mT + y.transpose(0, 1)]

    recorded = Recorded(twice, torch.zeros(2, 3))
    recorded.join_views()
    assert num_views(recorded) == 1
    assert torch.equal(recorded(torch.ones(2, 3))[0], torch.full((3, 2), 4.0))
