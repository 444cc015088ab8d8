"""Measures of similarity: what they must not see, examples by hand, and a plain second implementation."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from analysis import StudyError
from analysis.representations import debiased_cka, linear_cka, pwcca, svcca

MEASURES = [linear_cka, debiased_cka, svcca, pwcca]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size, seed=1):
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


@pytest.mark.parametrize("measure", MEASURES)
def test_itself_rotated_scaled_and_moved_is_1(measure):
    x = normal(60, 5) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])
    for y in (x, x @ rotation(5), 7.0 * x, -0.1 * x, x + 100.0):
        assert measure(x, y) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_neither_rotations_nor_scales_nor_means_are_seen(measure):
    x, noise = normal(80, 6), normal(80, 4, seed=2)
    y = x[:, :4] + noise
    plain = measure(x, y)
    assert 0.1 < plain < 0.95
    turned = x if measure is pwcca else x @ rotation(6)  # which looks along the axes of x
    assert measure(3 * turned + 2, -5 * y @ rotation(4) - 1) == pytest.approx(plain, rel=1e-9)


def test_cka_by_hand():
    # Centred: (-1, 0, 1) and (-1, 2, -1) are orthogonal; with (0, 0, 3) the product is 3, of norms sqrt(2) and sqrt(6).
    x = torch.tensor([[1.0], [2.0], [3.0]])
    assert linear_cka(x, torch.tensor([[0.0], [3.0], [0.0]])) == pytest.approx(0, abs=1e-12)
    assert linear_cka(x, torch.tensor([[0.0], [0.0], [3.0]])) == pytest.approx(3**2 / (2 * 6))


def plain_hsic(k, m):
    """The unbiased estimator as a sum over pairs, triples and quadruples of different examples."""
    n = len(k)
    ids = range(n)
    pairs = np.mean([k[i, j] * m[i, j] for i in ids for j in ids if i != j])
    triples = np.mean([k[i, j] * m[i, q] for i in ids for j in ids for q in ids if len({i, j, q}) == 3])
    quadruples = np.mean(
        [k[i, j] * m[q, r] for i in ids for j in ids for q in ids for r in ids if len({i, j, q, r}) == 4]
    )
    return pairs - 2 * triples + quadruples


def test_debiased_cka_is_the_sum_over_different_examples():
    x, y = normal(7, 3), normal(7, 4, seed=3)
    y[:, 0] += 2 * x[:, 0]
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    expected = plain_hsic(k, m) / math.sqrt(plain_hsic(k, k) * plain_hsic(m, m))
    assert debiased_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_unrelated_noise_looks_alike_only_to_the_biased_measure():
    pairs = [(normal(20, 200, seed=2 * i), normal(20, 200, seed=2 * i + 1)) for i in range(20)]
    assert min(linear_cka(x, y) for x, y in pairs) > 0.8
    assert abs(np.mean([debiased_cka(x, y) for x, y in pairs])) < 0.05


def correlations(x, y):
    """Canonical correlations as the generalised eigenproblem has them, and directions in x."""
    x, y = x - x.mean(0), y - y.mean(0)
    cross = x.T @ y
    values, vectors = scipy.linalg.eigh(cross @ np.linalg.solve(y.T @ y, cross.T), x.T @ x)
    order = np.argsort(values)[::-1][: min(x.shape[1], y.shape[1])]
    return np.sqrt(values[order]), x @ vectors[:, order]


def test_canonical_correlations_are_those_of_the_eigenproblem():
    x, y = normal(100, 4), normal(100, 3, seed=4)
    y[:, :2] += x[:, :2] * torch.tensor([2.0, 0.7])
    rho, directions = correlations(x.numpy(), y.numpy())
    assert svcca(x, y) == pytest.approx(rho.mean(), rel=1e-9)  # no direction holds less than 1 % here
    weights = np.abs(directions.T @ (x - x.mean(0)).numpy()).sum(1)
    assert pwcca(x, y) == pytest.approx((weights * rho).sum() / weights.sum(), rel=1e-9)


def test_svcca_leaves_out_directions_without_variance():
    x, y = normal(200, 2), normal(200, 2, seed=5)
    y[:, 0] = x[:, 1]
    thin = torch.tensor([1.0, 1e-3])  # of x what y is about, and so it has nothing in common with y
    for pair in ((x * thin, y), (y, x * thin)):
        assert svcca(*pair) < 0.3
    assert svcca(x, y * thin) == pytest.approx(1, abs=1e-9)


def test_columns_that_repeat_do_no_harm():
    x, y = normal(100, 3), normal(100, 2, seed=6)
    y[:, 0] += x[:, 0]
    twice = [torch.cat([z, z], 1) / 2**0.5 for z in (x, y)]
    assert pwcca(*twice) == pytest.approx(pwcca(x, y), rel=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_what_would_mislead_is_refused(measure):
    with pytest.raises(StudyError, match="to compare"):
        measure(normal(30, 2), normal(31, 2))
    with pytest.raises(StudyError, match="same for all"):
        measure(normal(30, 2), torch.ones(30, 2))
    with pytest.raises(StudyError, match="finite"):
        measure(normal(30, 2), torch.full((30, 2), torch.nan))
    with pytest.raises(StudyError, match="too few"):
        measure(normal(1, 1), normal(1, 1))


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_canonical_correlations_need_five_examples_a_feature(measure):
    measure(normal(50, 10), normal(50, 3, seed=1))
    with pytest.raises(StudyError, match="49 examples are too few, at least 50"):
        measure(normal(49, 10), normal(49, 3, seed=1))


def test_what_differs_for_one_example_alone_has_no_unbiased_estimate():
    x = torch.zeros(10, 3, dtype=torch.float64)
    x[4] = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(StudyError, match="varies too little over examples"):
        debiased_cka(x, normal(10, 3))
