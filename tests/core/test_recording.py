"""What is recorded and replayed is what was recorded, on other numbers, with fewer views."""

import torch

from core.recording import record, replayed


def views_of_views(tensors, y):
    """Views by other names, at other places, of an argument, of what is written to later, and of several outputs."""
    product = tensors["x"] @ y
    twice = product.mT.unsqueeze(0).squeeze(0).mT
    first, *others = (twice + product.t().t()).unbind(0)
    part = product[1:].flatten()[2:].view(4, -1).mT
    product[0].add_(1)
    again = product.detach()[1:].reshape(-1)[2:].reshape(4, 2)
    argument = tensors["x"].mT.unsqueeze(0).expand(3, -1, -1).mT[1]
    return twice * 2, {"first": first + others[1][0], "part": part.expand(2, -1, -1) + 1}, again + 1, argument * y.sum()


def arguments(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(3, 4, generator=generator)}, torch.randn(4, 5, generator=generator)


def num_views(recorded):
    return sum(getattr(node.target, "is_view", False) for node in recorded.graph.nodes)


def test_it_is_the_function_on_other_numbers():
    recorded = record(views_of_views, *arguments(0))
    before = num_views(recorded)
    replay = replayed(recorded, *arguments(0))
    assert 0 < num_views(recorded) < before / 2
    for seed in (0, 1):
        torch.testing.assert_close(replay(*arguments(seed)), views_of_views(*arguments(seed)), rtol=0, atol=0)


def test_arguments_that_lie_otherwise_in_memory():
    replay = replayed(record(views_of_views, *arguments(0)), *arguments(0))
    tensors, y = arguments(1)
    expected = views_of_views(tensors, y)
    found = replay({"x": tensors["x"].mT.contiguous().mT}, y.repeat(1, 2)[:, :5])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_nothing_comes_of_is_left_out():
    def wasteful(x):
        x.exp().sum()
        return x + 1

    recorded = record(wasteful, torch.zeros(2))
    assert [node.name for node in recorded.graph.nodes if node.op == "call_function"] == ["add"]


def test_a_view_made_twice_is_made_once():
    def twice(x):
        y = x * 2
        return y.mT + y.transpose(0, 1)

    recorded = record(twice, torch.zeros(2, 3))
    replay = replayed(recorded, torch.zeros(2, 3))
    assert num_views(recorded) == 1
    assert torch.equal(replay(torch.ones(2, 3)), torch.full((3, 2), 4.0))
