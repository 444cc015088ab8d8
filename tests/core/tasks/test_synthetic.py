import pytest
import torch

from core import make_model
from core.errors import UserError
from core.tasks.synthetic import SyntheticTasks


def test_shapes_and_scale():
    episodes = SyntheticTasks().sample("test", 4)
    assert episodes.support_x.shape == (4, 1000, 100)
    assert episodes.support_y.shape == (4, 1000)
    assert episodes.kind == "binary"
    # 400,000 normals: the mean square is within 5 standard errors, sqrt(2 / n), of its expectation 1/100.
    assert episodes.support_x.square().mean().item() == pytest.approx(0.01, rel=5 * (2 / 4e5) ** 0.5)


def test_each_task_is_a_half_space_of_its_own():
    episodes = SyntheticTasks(points=40, dimension=3, same_points=False).sample("train", 6, index=0)
    x = torch.cat([episodes.support_x, episodes.query_x], dim=1).double()
    y = torch.cat([episodes.support_y, episodes.query_y], dim=1).double() * 2 - 1
    for points, labels in zip(x, y, strict=True):
        # The perceptron converges on separable points, and only on those.
        w = torch.zeros(3, dtype=torch.float64)
        for _ in range(100_000):
            wrong = (labels * (points @ w) <= 0).nonzero()
            if len(wrong) == 0:
                break
            w += labels[wrong[0, 0]] * points[wrong[0, 0]]
        assert len(wrong) == 0
    assert 0.2 < y.gt(0).double().mean() < 0.8


def test_same_points_are_the_support_and_fresh_ones_are_not():
    same = SyntheticTasks(points=7, same_points=True).sample("test", 2, index=0)
    fresh = SyntheticTasks(points=7, same_points=False).sample("test", 2, index=0)
    assert torch.equal(same.support_x, same.query_x)
    assert torch.equal(same.support_x, fresh.support_x), "the setting must not change the support set"
    assert not torch.equal(fresh.support_x, fresh.query_x)


def test_a_batch_has_a_name():
    a, b = SyntheticTasks(points=3, seed=1), SyntheticTasks(points=3, seed=1)
    for split in ("train", "validation", "test"):
        assert torch.equal(a.draw(split, 2, 5).support_x, b.draw(split, 2, 5).support_x)
    batches = [a.draw("train", 2, 5), a.draw("test", 2, 5), a.draw("train", 2, 6)]
    batches.append(SyntheticTasks(points=3, seed=2).draw("train", 2, 5))
    assert len({batch.support_x.sum().item() for batch in batches}) == 4


def test_input_scale_scales_points_and_nothing_else():
    small, large = SyntheticTasks(points=5, input_scale=0.1), SyntheticTasks(points=5, input_scale=1.0)
    torch.testing.assert_close(small.draw("test", 2, 0).support_x * 10, large.draw("test", 2, 0).support_x)
    assert torch.equal(small.draw("test", 2, 0).support_y, large.draw("test", 2, 0).support_y)
    assert small.fingerprint() != large.fingerprint()
    assert small.fingerprint() == SyntheticTasks(points=5, seed=9).fingerprint()


@pytest.mark.parametrize("setting", [{"points": 0}, {"dimension": 0}, {"input_scale": 0.0}, {"input_scale": -1.0}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        SyntheticTasks(**setting)


def test_tasks_and_weights_do_not_depend_on_the_type_that_the_caller_prefers():
    tasks = SyntheticTasks(points=4)
    expected, weights = tasks.sample("test", 2, 0), make_model("lr", tasks, seed=0).state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        found, again = tasks.sample("test", 2, 0), make_model("lr", tasks, seed=0).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.support_x, expected.support_x)
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
