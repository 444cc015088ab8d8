"""How well any classifier could do on half-space tasks: the mean classifier, and the Bayes classifier.

A task has a normal vector w ~ N(0, I_d), points x with a normal distribution, and labels y = sign(w . x). A classifier
here is a vector v that answers sign(v . x); it is made from the n support points alone.

**Mean classifier**, v = (1/n) sum_i y_i x_i. It is the direction of one gradient step on the logistic loss from the
origin, where every residual is equal. A one-step rule whose start and update favour no direction of the input space
(plain gradient descent from the origin, or that times a number) can only move along it, so its accuracy is the ceiling
of *isotropic one-step rules*, on fresh points and on the support points alike. It is not a ceiling of other rules.

**Bayes classifier**, v = E[w | support points]. On *fresh* points the best that any classifier can do in expectation,
knowing the prior, is the majority vote of the posterior: answer the sign that more than half of the posterior mass of
w gives. The posterior mean is the linear classifier in its place, and differs from it by little in high dimension.
On the task's *own* points the ceiling is 1: every w of the posterior separates them, and so does the posterior mean,
as the separating vectors form a convex cone. The accuracy of the computed v is reported there, not the number 1.

The posterior is N(0, I) cut to a cone of n half-spaces, and its mean has no closed form. It is computed by expectation
propagation: each constraint y_i w . x_i > 0 is stood in for by a Gaussian factor that is refined until its marginal has
the mean and variance of the truncated one. For many points in general position in high dimension the approximation is
very good (it becomes exact for normal points as d and n grow); in 2 or 3 dimensions its direction is off by a few
hundredths of a radian.

Reference:
    T. Minka, "A family of algorithms for approximate Bayesian inference", 2001, chapter 5.
    R. Herbrich, T. Graepel, C. Campbell, "Bayes point machines", JMLR 2001.
"""

import math

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.errors import StudyError
from analysis.tasks import draw_test_tasks
from core.tasks.base import TaskSource

DAMPING = 0.7  # of the way to the new factors: all are renewed at once, and full steps oscillate
_CHUNK = 20  # tasks at a time: 20 x 1000 x 100 numbers of 8 bytes are 16 MB
_NOT_ZERO = 1e-10  # least precision of a factor's cavity and of a point's variance, against rounding


def mean_classifier(x: Tensor, y: Tensor) -> Tensor:
    """The mean of y x.

    Args:
        x: (T, n, d) support points.
        y: (T, n) labels, 0 or 1.

    Returns:
        (T, d) one vector a task.
    """
    signs = 2 * y - 1
    return (signs.unsqueeze(1) @ x).squeeze(1) / x.shape[1]


def bayes_classifier(x: Tensor, y: Tensor, *, tolerance: float = 1e-4, max_sweeps: int = 200) -> Tensor:
    """The posterior mean of w ~ N(0, I) given the labels of the support points, by expectation propagation.

    Args:
        x: (T, n, d) support points; their scale does not matter.
        y: (T, n) labels, 0 or 1.
        tolerance: stop when no mean has moved by more than this part of its length in a sweep. A classifier that
            turns by 1e-4 changes its accuracy on normal points by at most 1e-4 / pi.
        max_sweeps: give up after as many.

    Returns:
        (T, d) float64.

    Raises:
        StudyError: if it has not settled after `max_sweeps`.
    """
    chunks = []
    for start in range(0, len(x), _CHUNK):
        part = slice(start, start + _CHUNK)
        chunks.append(_propagate(x[part].double(), y[part].double(), tolerance, max_sweeps))
    return torch.cat(chunks)


def _propagate(x: Tensor, y: Tensor, tolerance: float, max_sweeps: int) -> Tensor:
    """`bayes_classifier` of a few tasks at once, in the precision of `x`.

    Factor i is exp(nu_i f_i - tau_i f_i^2 / 2) of f_i = z_i . w with z_i = y_i x_i, whose sign is known to be +.
    """
    z = normalize((2 * y - 1).unsqueeze(-1) * x, dim=-1)  # a constraint has no length
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    tau, nu = z.new_zeros(2, *z.shape[:2])
    previous = None
    for _ in range(max_sweeps):
        factor = torch.linalg.cholesky(eye + (z * tau.unsqueeze(-1)).mT @ z)
        root = torch.linalg.solve_triangular(factor, eye, upper=False)
        covariance = root.mT @ root
        mean = covariance @ (z.mT @ nu.unsqueeze(-1))
        # The first mean is zero: nothing has moved yet.
        if previous is not None and ((mean - previous).norm(dim=1) < tolerance * mean.norm(dim=1)).all():
            return mean.squeeze(-1)
        previous = mean
        variance = ((z @ covariance) * z).sum(-1).clamp_min(_NOT_ZERO)
        # Without its own factor, f_i has this normal distribution; cut to f_i > 0 it has known moments.
        cavity_precision = (1 / variance - tau).clamp_min(_NOT_ZERO)
        cavity_mean = ((z @ mean).squeeze(-1) / variance - nu) / cavity_precision
        scale = cavity_precision.rsqrt()
        u = cavity_mean / scale
        ratio = torch.exp(-u.square() / 2 - torch.special.log_ndtr(u)) / math.sqrt(2 * math.pi)
        cut_mean = cavity_mean + scale * ratio
        cut_variance = scale.square() * (1 - ratio * (u + ratio)).clamp_min(_NOT_ZERO)
        tau = tau + DAMPING * ((1 / cut_variance - cavity_precision).clamp_min(0) - tau)
        nu = nu + DAMPING * (cut_mean / cut_variance - cavity_mean * cavity_precision - nu)
    raise StudyError(f"expectation propagation has not settled after {max_sweeps} sweeps")


def accuracy(v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(T,) fractions of the points x (T, n, d) with labels y (T, n), 0 or 1, that sign(v . x) gets right."""
    scores = (x.to(v.dtype) @ v.unsqueeze(-1)).squeeze(-1)
    return ((scores > 0) == (y > 0.5)).double().mean(1)


def ceilings(source: TaskSource, *, num_tasks: int = 100) -> pd.DataFrame:
    """Both classifiers on the test tasks of `source`, on the support points and on fresh ones.

    Args:
        source: half-space tasks whose query points are fresh. With the seed of a study of runs, the tasks are those
            that the runs met, and differences are paired.
        num_tasks: test tasks.

    Returns:
        The table `ceilings` of `analysis.schemas.SCHEMAS`: one row a classifier, kind of points and task.

    Raises:
        StudyError: if the tasks are no half-space tasks, or the query points are the support points.
    """
    if source.name != "synthetic":
        raise StudyError(f"ceilings are known for synthetic tasks only, not for {source.name!r}")
    if getattr(source, "same_points", False):
        raise StudyError("ceilings need tasks with fresh query points: same_points must be false")
    episodes = draw_test_tasks(source, num_tasks)
    x, y = episodes.support_x, episodes.support_y
    parts = []
    for ceiling, v in (("mean classifier", mean_classifier(x, y)), ("bayes", bayes_classifier(x, y))):
        for evaluated_on, at in (("same", (x, y)), ("fresh", (episodes.query_x, episodes.query_y))):
            parts.append(
                pd.DataFrame(
                    {
                        "dataset": source.name,
                        "ceiling": ceiling,
                        "evaluated_on": evaluated_on,
                        "points": x.shape[1],
                        "task_seed": source.seed,
                        "task": range(num_tasks),
                        "accuracy": accuracy(v, *at).cpu().numpy(),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)
