import math

import pytest
import torch

from core import make_tasks
from core.errors import UserError


def test_every_task_is_one_sine_wave():
    episodes = make_tasks("sinusoid", shots=10, query_shots=15, seed=0).sample("train", 200, 0)
    assert episodes.kind == "regression"
    assert episodes.support_x.shape == (200, 10, 1)
    assert episodes.query_y.shape == (200, 15, 1)
    # A sin(x - p) = a sin x + b cos x: two unknowns that least squares finds exactly, from both sets together.
    x = torch.cat([episodes.support_x, episodes.query_x], 1).double()
    y = torch.cat([episodes.support_y, episodes.query_y], 1).double()
    basis = torch.cat([x.sin(), x.cos()], 2)
    a, b = torch.linalg.lstsq(basis, y).solution.squeeze(2).T
    torch.testing.assert_close(basis @ torch.stack([a, b], 1).unsqueeze(2), y, atol=1e-5, rtol=0)
    amplitude, phase = torch.hypot(a, b), torch.atan2(-b, a) % (2 * math.pi)
    assert 0.1 <= amplitude.min() < 0.5
    assert 4.5 < amplitude.max() <= 5
    assert phase.min() < 0.3
    assert 2.8 < phase.max() <= math.pi + 1e-4
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5


def test_a_batch_is_named_by_seed_split_and_index():
    source, again = (make_tasks("sinusoid", shots=5, seed=1) for _ in range(2))
    batch = source.sample("test", 2, 4).support_x
    assert torch.equal(batch, again.sample("test", 2, 4).support_x)
    assert not torch.equal(batch, source.sample("test", 2, 5).support_x)
    targets = make_tasks("sinusoid", shots=2, seed=0).sample("test", 1, 0).support_y
    assert targets.flatten().tolist() == pytest.approx([3.2416074, 0.8807452], rel=1e-5), "in every version"


def test_no_shots_are_refused():
    with pytest.raises(UserError, match="a task needs at least 1 shot and 1 query shot, got 0 and 0"):
        make_tasks("sinusoid", shots=0)
