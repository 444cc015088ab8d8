"""Where logistic regression cannot be meta-learned and a deep linear network can, and why: half-space tasks.

The paper's first claim (section 3.2) is that MAML fails on a shallow linear model (LR) and succeeds on the same model
made deep (LinNet), and that of LR any hyper-parameters give the same (A.1.1). Here both are meta-trained on tasks whose
truth is known, around the setting of Figure 1 (the paper's learning rates; plain SGD, one task an iteration, one
adaptation step; but points of norm 1, where the paper's have norm sqrt(d)), with these quantities moved: the scale of
the inputs, the learning rates of adaptation and of the outer loop, the points of a task, the scale of the initial
weights, and the length of the training.

**What can be said of one step.** Write points as x = s z with z ~ N(0, I_d) and input scale s, a classifier W as
u = s W (so that |u| is the standard deviation of its logits), a for `adapt_lr`, and A = a s^2. A step of LR,
W_1 = W_0 - a G, is u_1 = u_0 - A g, with g the gradient with respect to u. Exact, for any linear classifier and step:

- u_1 gets a fraction 1 - theta / pi of fresh points right, theta the angle between u_1 and the task's normal vector w.
- With `turn` the tangent of the angle between u_0 and u_1 (the part of u_1 across u_0, over its part along u_0), p the
  direction of the part across, and e = +-u_0 / |u_0| that of the part along,

      cos(theta) = (cos(e, w) + turn * cos(p, w)) / sqrt(1 + turn^2).

Two approximations make this a prediction:

- u_0 carries no information on the task: cos(e, w) = 0. It is 0 in the mean over tasks and of the size of 1 / sqrt(d)
  for each, so that predictions are for means over many tasks.
- p is as good a direction as that of the mean classifier, which is off by phi (its accuracy on fresh points is
  1 - phi / pi). For LR and small logits it is: -g = m / 2 - u_0 / 4 up to sampling noise, m being the mean of y z
  (labels y = +-1), as every residual is near 1/2; and the second term is along u_0. Where |u_0| is large, residuals are
  0 or 1: the step is made of the half of the points that u_0 gets wrong, and phi is that of half as many points. For
  LinNet the update map (`analysis.linear_collapse`) turns the gradient, and nothing says in advance by how much.

So cos(theta) = cos(phi) / sqrt(1 + 1 / turn^2). The ratio of the lengths, r = |a G| / |W_0|, stands in for `turn` where
the step is across the start, that is while A is far below 4: at A = 4 the step of LR takes the start away altogether.

**What the outer loop does to LR**, to first order in small logits (and with E z z^T for its sample): the meta-gradient
is (1 - A/4)^2 (u_0 / 4 - m / 2), so that with B = b s^2 (1 - A/4)^2, b for `meta_lr`, one iteration is

    u_0 <- (1 - B/4) u_0 + (B/2) m,    E m = 0,    E|m|^2 = M = 2/pi + (d - 2/pi) / n.

There is nothing to learn but to shrink, at a rate of B/4 an iteration; and single tasks shake the start all the while,
so that it ends at |u_0|^2 = B M / (2 - B/4) whatever it was. Shrinking fast and shrinking far exclude one another, and
no outer learning rate makes the step longer: A is fixed. LinNet's step is -a P(G) with a map P that its layers make,
which can grow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.ceilings import accuracy, bayes_classifier, mean_classifier
from analysis.errors import StudyError
from analysis.linear_collapse import collapse
from analysis.tasks import draw_test_tasks, to_float64
from core import Episodes, Run, TrainConfig, adapt, make_tasks
from core.experiments import synthetic_linear
from core.tasks.synthetic import DIMENSION, POINTS
from core.training import meta_train_many

MODELS = ("lr", "linnet")
# What is moved, in the order in which the column `varied` names it.
QUANTITIES = ("input_scale", "adapt_lr", "meta_lr", "points", "init_scale", "iterations")


@dataclass(frozen=True)
class Size:
    """How much of the study is carried out: how far each quantity is moved from the setting of Figure 1.

    Attributes:
        iterations: length of meta-training, where nothing else is said; the paper's is 30,000.
        seeds: runs of each cell.
        input_scales: times 1/sqrt(d); the paper's is sqrt(d) times that. Together with `adapt_lrs` they make a map.
        adapt_lrs: for each model, times the learning rate that the paper has for it.
        points: points a task.
        init_scales: times the default initial weights.
        meta_lrs: learning rates of the outer loop.
        long_iterations: another length, for the setting of Figure 1 and for `long_meta_lrs`.
        long_meta_lrs: learning rates of the outer loop at that length.
    """

    iterations: int
    seeds: int
    input_scales: tuple[float, ...]
    adapt_lrs: Mapping[str, tuple[float, ...]]
    points: tuple[int, ...]
    init_scales: tuple[float, ...]
    meta_lrs: tuple[float, ...]
    long_iterations: int
    long_meta_lrs: tuple[float, ...]


DEFAULT = Size(
    iterations=3_000,
    seeds=3,
    input_scales=(0.1, 10**-0.5, 1.0, 10**0.5, 10.0),
    adapt_lrs={"lr": (0.1, 1.0, 10.0, 100.0, 1000.0), "linnet": (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)},
    points=(10, 30, 100, 300),
    init_scales=(0.01, 0.03, 0.1, 0.3, 3.0, 10.0),
    meta_lrs=(0.001, 0.01, 0.1, 1.0, 10.0),
    long_iterations=30_000,
    long_meta_lrs=(0.01, 0.1, 1.0),
)
# Shows that everything works, and nothing else.
QUICK = Size(
    iterations=20,
    seeds=2,
    input_scales=(10.0,),
    adapt_lrs={"lr": (100.0,), "linnet": (100.0,)},
    points=(10,),
    init_scales=(0.1,),
    meta_lrs=(0.1,),
    long_iterations=40,
    long_meta_lrs=(0.1,),
)


def centre(model: str) -> TrainConfig:
    """The setting of Figure 1 of "lr" or "linnet" under MAML, all that is moved stated."""
    base = next(c for c in synthetic_linear(seeds=1) if (c.model, c.method) == (model, "maml"))
    return replace(base, input_scale=DIMENSION**-0.5, points=POINTS, init_scale=1.0, eval_every=0, eval_tasks=1)


def cells(size: Size) -> list[TrainConfig]:
    """Every setting that is trained, once each, with seed 0: for each model its map first, and then the sweeps.

    Args:
        size: what is moved, and how far.
    """
    found: list[TrainConfig] = []
    for model in MODELS:
        start = replace(centre(model), iterations=size.iterations)
        assert start.input_scale is not None
        found += [
            replace(start, input_scale=start.input_scale * scale, adapt_lr=start.adapt_lr * factor)
            for scale in (1.0, *size.input_scales)
            for factor in (1.0, *size.adapt_lrs[model])
        ]
        found += [replace(start, points=points) for points in size.points]
        found += [replace(start, init_scale=factor) for factor in size.init_scales]
        found += [replace(start, meta_lr=meta_lr) for meta_lr in size.meta_lrs]
        longer = replace(start, iterations=size.long_iterations)
        found += [longer, *(replace(longer, meta_lr=meta_lr) for meta_lr in size.long_meta_lrs)]
    return list(dict.fromkeys(found))


def varied(config: TrainConfig, size: Size) -> str:
    """What of a cell is not as in the setting of Figure 1 at the study's length, in words; "none" for that itself."""
    start = replace(centre(config.model), iterations=size.iterations)
    return ", ".join(name for name in QUANTITIES if getattr(config, name) != getattr(start, name)) or "none"


def predicted_accuracy(turn: Tensor, mean_classifier_accuracy: float) -> Tensor:
    """Accuracy on fresh points by geometry alone: 1 - theta / pi, cos(theta) = cos(phi) / sqrt(1 + 1 / turn^2).

    Args:
        turn: (T,) tangents of the angle between start and end, 0 (no step) to infinity (nothing of the start is left).
        mean_classifier_accuracy: 1 - phi / pi.

    Returns:
        (T,), 0.5 to `mean_classifier_accuracy`.
    """
    cos_phi = math.cos(math.pi * (1 - mean_classifier_accuracy))
    return 1 - torch.acos(cos_phi * torch.sin(torch.atan(turn))) / math.pi


def predicted_start(config: TrainConfig, initial_size: float) -> float:
    """|u_0| of LR after meta-training by the recursion of this module's docstring, from the settings alone.

    Args:
        config: a cell of LR, all that is moved stated.
        initial_size: |u_0| before meta-training.

    Returns:
        The root of the mean of |u_0|^2, in logits. It holds while logits are small against 1.
    """
    assert config.input_scale is not None
    assert config.points is not None
    square = config.input_scale**2
    rate = config.meta_lr * square * (1 - config.adapt_lr * square / 4) ** 2
    noise = 2 / math.pi + (DIMENSION - 2 / math.pi) / config.points
    kept = (1 - rate / 4) ** 2
    settled = rate**2 * noise / 4 / (1 - kept) if kept != 1 else 0.0
    # Above a rate of 8 the recursion itself grows without end.
    log_left = config.iterations * math.log(kept) if kept > 0 else -math.inf
    left = math.exp(log_left) if log_left < math.log(np.finfo(float).max) else math.inf
    return math.sqrt(max(0.0, settled + left * (initial_size**2 - settled)))


def when_shallow_fails(
    *, size: Size = DEFAULT, num_tasks: int = 100, seed: int = 0, progress: bool = False
) -> pd.DataFrame:
    """Meta-train every cell of `size`, on the CPU and in memory, and measure it after adaptation.

    All cells meet the same test tasks, up to the number of points: the same normal vectors and points, scaled.

    Args:
        size: which cells, how long and how often.
        num_tasks: test tasks.
        seed: seed of the test tasks.
        progress: whether to show progress bars of the training.

    Returns:
        The table `when_shallow_fails` of `analysis.schemas.SCHEMAS`: one row a cell, seed, test task and kind of
        points. Of a run that diverged, and of a task that did, the status is "diverged" and every measurement is NaN.

    Raises:
        StudyError: for fewer than one test task.
        Interrupted: after Ctrl-C or SIGTERM; nothing is saved.
    """
    if num_tasks < 1:
        raise StudyError(f"num_tasks must be at least 1, got {num_tasks}")
    configs = [replace(config, seed=s) for config in cells(size) for s in range(size.seeds)]
    runs = meta_train_many(configs, results=None, device="cpu", progress=progress)
    tasks = _Tasks(num_tasks, seed)
    parts = [_measure(run, tasks).assign(varied=varied(run.config, size)) for run in runs]
    return pd.concat(parts, ignore_index=True)


class _Tasks:
    """The test tasks at each scale and number of points, and the ceilings of each number of points; made once."""

    def __init__(self, num_tasks: int, seed: int) -> None:
        self.num_tasks = num_tasks
        self.seed = seed
        self._episodes: dict[tuple[int, float], Episodes] = {}
        self._ceilings: dict[int, dict[str, dict[str, np.ndarray]]] = {}

    def episodes(self, points: int, input_scale: float) -> Episodes:
        """Test tasks with fresh query points."""
        key = (points, input_scale)
        if key not in self._episodes:
            source = make_tasks("synthetic", points=points, input_scale=input_scale, same_points=False, seed=self.seed)
            self._episodes[key] = draw_test_tasks(source, self.num_tasks)
        return self._episodes[key]

    def ceilings(self, points: int) -> dict[str, dict[str, np.ndarray]]:
        """Accuracies (T,) by classifier and kind of points. They do not depend on the scale of the inputs."""
        if points not in self._ceilings:
            e = self.episodes(points, DIMENSION**-0.5)
            x, y = e.support_x, e.support_y
            self._ceilings[points] = {
                name: {
                    "same": accuracy(v, x, y).numpy(),
                    "fresh": accuracy(v, e.query_x, e.query_y).numpy(),
                }
                for name, v in (("mean_classifier", mean_classifier(x, y)), ("bayes", bayes_classifier(x, y)))
            }
        return self._ceilings[points]


def _measure(run: Run, tasks: _Tasks) -> pd.DataFrame:
    """The rows of one run."""
    config = run.config
    assert config.input_scale is not None
    assert config.points is not None
    episodes, ceilings = tasks.episodes(config.points, config.input_scale), tasks.ceilings(config.points)
    initial = (
        config.input_scale * _matrix({n: p.detach() for n, p in run.blank_model().named_parameters()}).norm().item()
    )
    geometry = {name: np.full(tasks.num_tasks, np.nan) for name in ("start_size", "step_ratio", "turn")}
    measured = run.evaluate(episodes)
    last = measured[measured["step"] == config.steps]
    finite = measured["status"].eq("ok").to_numpy().reshape(tasks.num_tasks, -1).all(1) & (not run.diverged)
    predicted = {on: np.full(tasks.num_tasks, np.nan) for on in ("same", "fresh")}
    if finite.any():
        after = adapt(
            run.model, run.rule, run.theta, run.xi, episodes, steps=config.steps, lr=config.adapt_lr,
            lr_scope=config.lr_scope, adapted=run.adapted,
        ).params  # fmt: skip
        start, end = _matrix(run.theta), _matrix(after)
        step_ratio, turn = step_and_turn(start, end)
        of_mean = float(ceilings["mean_classifier"]["fresh"].mean())
        geometry = {
            "start_size": np.full(tasks.num_tasks, config.input_scale * start.norm().item()),
            "step_ratio": step_ratio.numpy(),
            "turn": turn.numpy(),
        }
        predicted["fresh"] = predicted_accuracy(turn, of_mean).numpy()
    parts = []
    for evaluated_on, split in (("same", "support"), ("fresh", "query")):
        rows = last[last["split"] == split]
        values = {
            "loss": rows["loss"].to_numpy(),
            "accuracy": rows["accuracy"].to_numpy(),
            **geometry,
            "predicted_accuracy": predicted[evaluated_on],
        }
        parts.append(
            pd.DataFrame(
                {
                    **{name: getattr(config, name) for name in ("model", *QUANTITIES, "seed")},
                    "status": np.where(finite, "ok", "diverged"),
                    "task_seed": tasks.seed,
                    "task": range(tasks.num_tasks),
                    "evaluated_on": evaluated_on,
                    **{name: np.where(finite, value, np.nan) for name, value in values.items()},
                    **{name: of[evaluated_on] for name, of in ceilings.items()},
                    "initial_size": initial,
                    "predicted_start": predicted_start(config, initial) if config.model == "lr" else np.nan,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _matrix(params: dict[str, Tensor]) -> Tensor:
    """The one row (..., d) of a linear network with one output, in double precision."""
    return collapse(to_float64(params)).weight.squeeze(-2)


def step_and_turn(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """How far one start moved for each of T tasks: |end - start| / |start|, and the tangent of the angle between them.

    Args:
        start: (d,).
        end: (T, d).

    Returns:
        (T,) and (T,); infinite for a start of zero.
    """
    direction = normalize(start, dim=0)
    along = end @ direction
    across = (end - along.unsqueeze(1) * direction).norm(dim=1)
    return (end - start).norm(dim=1) / start.norm(), across / along.abs()
