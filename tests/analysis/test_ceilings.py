import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from torch.nn.functional import normalize

from analysis.ceilings import accuracy, bayes_classifier, ceilings, mean_classifier
from analysis.errors import StudyError
from analysis.schemas import SCHEMAS
from analysis.store import provenance, read_table, write_table
from core import make_tasks

# Expectation propagation is an approximation, worst in few dimensions; the sampled means are known to about 0.01.
RADIANS_IN_LOW_DIMENSION = 0.05
RADIANS_IN_20_DIMENSIONS = 0.04


def half_spaces(num_tasks, points, dimension, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(num_tasks, dimension, generator=generator, dtype=torch.float64)
    x = torch.randn(num_tasks, points, dimension, generator=generator, dtype=torch.float64)
    return x, ((x @ w.unsqueeze(-1)).squeeze(-1) > 0).double()


def angle(a, b):
    return torch.acos((normalize(a, dim=-1) * normalize(b, dim=-1)).sum(-1).clamp(-1, 1))


def rejection_mean(x, y, num_draws=400_000):
    """The posterior mean of one task, from draws of the prior that fit all labels."""
    draws = torch.randn(num_draws, x.shape[-1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fit = (((draws @ x.mT) > 0) == (y > 0.5)).all(1)
    assert fit.sum() > 2_000
    return draws[fit].mean(0)


def gibbs_mean(x, y, chains=400, sweeps=150, burn_in=50):
    """The posterior mean of one task, by Gibbs sampling of one coordinate at a time: each is a truncated normal."""
    rng = np.random.default_rng(0)
    z = ((2 * y - 1).unsqueeze(-1) * x).numpy()
    start = bayes_classifier(x[None], y[None])[0].numpy()  # any point inside the cone; forgotten in the burn-in
    assert (z @ start > 0).all()
    w = np.repeat(start[None], chains, 0)
    total = np.zeros(len(start))
    for sweep in range(sweeps):
        for j in range(len(start)):
            rest = w @ z.T - w[:, j : j + 1] * z[:, j]
            bounds = -rest / z[:, j]
            low = np.where(z[:, j] > 0, bounds, -np.inf).max(1)
            high = np.where(z[:, j] < 0, bounds, np.inf).min(1)
            a, b = ndtr(low), ndtr(high)
            w[:, j] = np.clip(ndtri(a + (b - a) * rng.random(chains)), low, high)
        if sweep >= burn_in:
            total += w.mean(0)
    return torch.from_numpy(total / (sweeps - burn_in))


def test_the_mean_classifier_by_hand():
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    v = mean_classifier(x, torch.tensor([[1.0, 0.0]]))
    assert v.tolist() == [[-1.0, -1.0]]
    # Scores -3 and -7: the first point, labelled 1, is wrong, and the second right.
    assert accuracy(v, x, torch.tensor([[1.0, 0.0]])).tolist() == [0.5]


def test_the_mean_classifier_is_one_gradient_step_from_the_origin():
    x, y = half_spaces(3, 20, 5)
    w = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits((x @ w.unsqueeze(-1)).squeeze(-1), y, reduction="none")
    (gradient,) = torch.autograd.grad(loss.mean(1).sum(), w)
    torch.testing.assert_close(mean_classifier(x, y), -2 * gradient)


def test_the_posterior_mean_of_one_point_is_known():
    # w . x > 0 alone: the mean is x / |x| times the mean of a half-normal variable.
    x = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    found = bayes_classifier(x, torch.tensor([[0.0]]), tolerance=1e-12)
    torch.testing.assert_close(found, -torch.tensor([[0.6, 0.8]], dtype=torch.float64) * math.sqrt(2 / math.pi))


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_posterior_mean_in_low_dimension_is_that_of_rejection_sampling(dimension):
    x, y = half_spaces(6, 5, dimension)
    found = bayes_classifier(x, y)
    sampled = torch.stack([rejection_mean(*task) for task in zip(x, y, strict=True)])
    assert angle(found, sampled).max() < RADIANS_IN_LOW_DIMENSION
    torch.testing.assert_close(found.norm(dim=1), sampled.norm(dim=1), rtol=0.1, atol=0)
    # The check can tell: the mean classifier is further off.
    assert angle(mean_classifier(x, y), sampled).max() > 3 * RADIANS_IN_LOW_DIMENSION


def test_the_posterior_mean_in_20_dimensions_is_that_of_gibbs_sampling():
    x, y = half_spaces(1, 60, 20)
    sampled = gibbs_mean(x[0], y[0])
    assert angle(bayes_classifier(x, y)[0], sampled) < RADIANS_IN_20_DIMENSIONS
    assert angle(mean_classifier(x, y)[0], sampled) > 3 * RADIANS_IN_20_DIMENSIONS


def test_gibbs_and_rejection_sampling_agree():
    x, y = half_spaces(1, 5, 3)
    assert angle(gibbs_mean(x[0], y[0], chains=2_000), rejection_mean(x[0], y[0])) < 0.02


def test_tasks_do_not_touch_one_another_and_scale_does_not_matter():
    x, y = half_spaces(45, 12, 4)  # more than go through at once
    together = bayes_classifier(x, y, tolerance=1e-9)
    torch.testing.assert_close(bayes_classifier(x[44:], y[44:], tolerance=1e-9), together[44:], rtol=0, atol=1e-6)
    torch.testing.assert_close(bayes_classifier(1e-9 * x, y, tolerance=1e-9), together, rtol=0, atol=1e-6)


def test_giving_up_is_told():
    with pytest.raises(StudyError, match="not settled after 3 sweeps"):
        bayes_classifier(*half_spaces(1, 30, 5), max_sweeps=3)


def test_the_ceilings_of_the_papers_tasks():
    table = ceilings(make_tasks("synthetic", same_points=False, seed=0), num_tasks=20)
    mean = table.groupby(["ceiling", "evaluated_on"])["accuracy"].mean()
    # Measured before by other means: 0.921 and 0.881. The standard error of 20 tasks is 0.003.
    assert mean["mean classifier", "same"] == pytest.approx(0.921, abs=0.01)
    assert mean["mean classifier", "fresh"] == pytest.approx(0.881, abs=0.012)
    assert mean["bayes", "same"] == 1.0
    # Error 0.442 d / n for many points in high dimension (Opper and Haussler, 1991).
    assert mean["bayes", "fresh"] == pytest.approx(1 - 0.0442, abs=0.01)


def test_the_table_has_the_columns_of_the_study(tmp_path):
    table = ceilings(make_tasks("synthetic", same_points=False, points=7, seed=3), num_tasks=4)
    table = read_table(write_table(tmp_path, "ceilings", "x", table, provenance()))
    assert list(table.columns) == list(SCHEMAS["ceilings"])
    assert len(table) == 2 * 2 * 4
    assert set(table["points"]) == {7}
    assert set(table["task_seed"]) == {3}
    assert table.groupby(["ceiling", "evaluated_on"])["task"].apply(list).tolist() == [[0, 1, 2, 3]] * 4


def test_the_classifiers_never_see_the_fresh_points():
    source = make_tasks("synthetic", same_points=False, points=7, seed=3)
    before = ceilings(source, num_tasks=2)
    sample = source.sample

    def swapped(*arguments, **options):
        episodes = sample(*arguments, **options)
        return type(episodes)(episodes.support_x, episodes.support_y, episodes.query_x, 1 - episodes.query_y, "binary")

    source.sample = swapped
    after = ceilings(source, num_tasks=2)
    fresh = before["evaluated_on"] == "fresh"
    assert after[~fresh]["accuracy"].tolist() == before[~fresh]["accuracy"].tolist()
    np.testing.assert_allclose(after[fresh]["accuracy"], 1 - before[fresh]["accuracy"])


def test_other_tasks_have_no_known_ceiling():
    with pytest.raises(StudyError, match="same_points must be false"):
        ceilings(make_tasks("synthetic", points=7), num_tasks=2)
    source = make_tasks("synthetic", points=7, same_points=False)
    source.name = "omniglot"
    with pytest.raises(StudyError, match="not for 'omniglot'"):
        ceilings(source, num_tasks=2)
