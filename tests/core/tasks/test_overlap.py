import warnings

import pytest
import torch

from core import Episodes, make_tasks
from core.tasks.overlap import occurs, warn_of_known, warn_of_shared


def naive(x, pool):
    return torch.stack(
        [torch.stack([(row == one).flatten(1).all(1).any() for one in x[b]]) for b, row in enumerate(pool)]
    )


@pytest.mark.parametrize(
    "draw",
    [
        lambda *shape: torch.randn(*shape),
        lambda *shape: torch.randn(*shape, dtype=torch.float64),
        lambda *shape: torch.randn(*shape).half(),
        lambda *shape: torch.randn(*shape).bfloat16(),
        # Few values: most examples occur, and many differ in one high bit alone.
        lambda *shape: torch.randint(2, shape).float(),
        lambda *shape: torch.randint(3, shape).double() - 1,
        lambda *shape: torch.randint(-2, 3, shape),
        lambda *shape: torch.randint(2, shape, dtype=torch.uint8),
        lambda *shape: torch.randint(2, shape) > 0,
    ],
)
@pytest.mark.parametrize("example", [(3,), (1, 2, 2)])
def test_occurring_is_being_equal_to_one_of_the_pool(draw, example):
    torch.manual_seed(0)
    pool, x = draw(5, 20, *example), draw(5, 30, *example)
    x[1, ::2] = pool[1, :15]
    x[3, 7] = pool[3, 19]
    x[4, 7] = pool[3, 19]  # of another row
    expected = naive(x, pool)
    assert expected.sum() >= 16
    assert not expected.all()
    assert torch.equal(occurs(x, pool), expected)


def test_the_two_zeros_are_one_number_and_nan_is_none():
    pool = torch.tensor([[[0.0, 1.0], [torch.nan, 1.0]]])
    assert occurs(torch.tensor([[[-0.0, 1.0], [torch.nan, 1.0]]]), pool).tolist() == [[True, False]]


def episodes(**changes):
    stream = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 6, 4, generator=stream), torch.arange(2).repeat(3).expand(3, -1)
    return Episodes(**{"support_x": x[0], "support_y": y, "query_x": x[1], "query_y": y, **changes})


def test_query_examples_of_the_support_set_are_told():
    apart = episodes()
    query = apart.query_x.clone()
    query[1, :2], query[2, 5] = apart.support_x[1, 3], apart.support_x[2, 0]
    query[0, 0] = apart.support_x[1, 0]  # of another task: nothing that this one learned
    mixed = episodes(query_x=query)
    with pytest.warns(UserWarning, match="3 of 18 query examples, in 2 of 3 tasks, are in the support set"):
        warn_of_shared(mixed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_shared(apart)
        warn_of_shared(episodes(query_x=query, same_points=True))
        warn_of_shared(make_tasks("synthetic", points=5).sample("test", 2, 0))


def test_examples_of_training_tasks_are_told_where_they_have_classes():
    training = episodes()
    test = episodes(support_x=training.support_x + 1, query_x=training.query_x.flip(0) + 1)
    test.query_x[0, :4] = training.support_x[2, :4]
    with pytest.warns(UserWarning, match="4 of 36 examples of the test tasks are in training tasks: their classes"):
        warn_of_known("test", test, training)
    targets = torch.randn(3, 6, 1)
    points = [Episodes(e.support_x, targets, e.query_x, targets, "regression") for e in (test, training)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_known("test", *points)
        warn_of_known("test", episodes(support_x=training.support_x + 1, query_x=training.query_x + 1), training)
