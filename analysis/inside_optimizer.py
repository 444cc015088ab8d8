"""Inside a learned meta-optimizer: what its parameters xi became, what its updates do, and what it does to adaptation.

Three aspects of one run, in one table.

**factor.** Every part of xi against where meta-training started it. A matrix M that starts at the identity I (n x n;
the factors of KLin, KFC, Meta-Curvature and `linear`) is told by its singular values; numbers that act one by one (the
rates of Meta-SGD, KFC's `scale`), which are a diagonal matrix of n numbers, by the numbers themselves, sorted; the
k x r factor L of Cholesky by the r eigenvalues of M = L L^T that need not be zero. With Frobenius norms,

    distance from the start       |M - M_0| / |M_0|                M_0: the start
    best multiple                 c = trace(M) / n                 the c for which |M - c I| is least
    distance beyond a rate        |M - c I| / |I|                  for M_0 = I

so that a mere change of rate has a distance from the start, and none beyond a rate. Divided by |c|, the latter says how
far M is from that rate in its own size. A bias, which starts at zero, has a norm alone. The factors of a Kronecker map
are not unique, as (s L, R / s) is the same map, so the distances of M = R^T (x) L, of n m x n m, are given beside those
of L and R.

**alignment.** On test tasks, adapted to as in training: the update U(g) against the gradient g of the support loss, for
each tensor of the model, and for all of them as one vector (tensor "all") where there are several, in every step,

    cosine = <U(g), g> / (|U(g)| |g|),   norm ratio = |U(g)| / |g|,   descent = 1 if <U(g), g> > 0, else 0

The mean of `descent` is the share of updates that lower the loss to first order. A tensor on which the loss does not
depend has a gradient of zero, and nothing else of these, as a bias before batch norm has in our CNN. In a network of
one's own such a gradient may be rounding errors: see `gradient norm` before the cosine.

**comparison.** How much of the adaptation is done by the model, and how much by the optimizer, on the same tasks (so
differences are paired). With the support loss L, a = adapt_lr, g_t = grad L(theta_t), and t = 0, ..., T - 1 of T steps:

    both              theta_{t+1} = theta_t - a U_{xi_t}(g_t)      xi_{t+1} = xi_t - a grad_xi L(theta_{t+1})
    theta only        theta_{t+1} = theta_t - a U_{xi_0}(g_t)      xi stays as meta-learned
    theta only in C1  as "both", but for the xi of layer C1, which stay as meta-learned; and so for every layer
    xi only           theta_{t+1} = theta_0 - a U_{xi_t}(g_0)      xi_{t+1} = xi_t - a grad_xi L(theta_{t+1})
    neither           theta_1     = theta_0 - a U_{xi_0}(g_0)      and no further step
    plain steps       theta_{t+1} = theta_t - a g_t                U replaced by the identity
    one plain step    theta_1     = theta_0 - a g_0                and no further step

grad_xi sees the last update alone (equation 4): theta_t and g_t, or theta_0 and g_0, are held fixed. With `lr_scope`
"xi" the a before U and g is 1. "both" is how a rule adapts whose xi adapts within a task, and "theta only" how any
other does: such a rule has neither "both" nor "xi only". A network of one layer has no "theta only in" it. xi_1 is
first used in step 2: with one step all four are the same, and only the first of them, which is as trained, is in the
table. Plain gradient descent has no xi, and of its two by two only what "theta only" and "neither" are remains. What to
compare is the last step of each.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.errors import StudyError
from analysis.tasks import draw_test_tasks, mark_diverged, run_columns, setting_columns, to_float64
from core import Run, TrainConfig
from core.adaptation import one_replica
from core.crew import shared_out
from core.evaluation import as_table, default_chunk, measure
from core.inner_loop import inner_loop
from core.methods import METHODS
from core.optimizers.base import MetaOptimizer, Parts, split_key
from core.optimizers.sgd import SGD
from core.optimizers.unfactored import Cholesky
from core.progress import progress_bar
from core.task_parameter import Gradient, Product, TaskParameter

WHOLE = "all"  # the tensor's name where all tensors are taken as one
ALIGNMENT = ("cosine", "norm ratio", "descent", "gradient norm")


def suits(config: TrainConfig) -> bool:
    """Whether there is an optimizer to look into: one with parameters."""
    return METHODS[config.method].rule != SGD.name


def inside_optimizer(run: Run, *, num_tasks: int = 100, seed: int = 0, progress: bool = False) -> pd.DataFrame:
    """Look inside the meta-optimizer of a run; the equations are those of this module.

    Tensors that do not adapt have no part in it: their rules are never used.

    Args:
        run: a saved run whose rule has parameters.
        num_tasks: test tasks.
        seed: seed of the test tasks.
        progress: whether to show a progress bar.

    Returns:
        The table `inside_optimizer` of `analysis.schemas.SCHEMAS`, one row a number. Where a cosine or a ratio does not
        exist, as the gradient or the update is zero, the status says so and the value is NaN; for a task that diverged
        (in `comparison` under this adaptation, in `alignment` as trained), and a run that did, it is "diverged".

    Raises:
        StudyError: for a rule without parameters, or more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    if not suits(run.config):
        raise StudyError(f"the rule of {run.config.method} has no parameters to look into")
    table = pd.concat([factors(run), on_tasks(run, num_tasks, seed, progress)], ignore_index=True)
    for name in ("task", "step"):
        table[name] = table[name].astype("Int64")
    common = {**run_columns(run), "status": table["status"]}  # which each value has for itself
    return table.assign(**common, task_seed=seed, **setting_columns(run, len(table)))


def factors(run: Run) -> pd.DataFrame:
    """The rows of the aspect `factor`, of the tensors that adapt."""
    start = run.rule.init(run.theta)
    rows = []
    for layer, tensors in _adapted_by_layer(run).items():
        for tensor in tensors:
            now, then = (
                to_float64({split_key(key)[1]: value for key, value in xi.items() if split_key(key)[0] == tensor})
                for xi in (run.xi, start)
            )
            for part, quantity, values in _measured_parts(run.rule, now, then):
                rows += [(layer, tensor, part, quantity, i, value) for i, value in enumerate(values)]
    table = pd.DataFrame(rows, columns=["layer", "tensor", "part", "quantity", "index", "value"])
    table = table.assign(aspect="factor", adaptation="", split="", task=math.nan, step=math.nan, unit="-", status="ok")
    if run.status != "ok":
        table = table.assign(value=math.nan, status=run_columns(run)["status"])
    return table


def _measured_parts(
    rule: MetaOptimizer, now: Mapping[str, Tensor], then: Mapping[str, Tensor]
) -> Iterator[tuple[str, str, list[float]]]:
    """Each part's quantities (part, quantity, values) from all parts of one tensor, and their start."""
    for part, m in now.items():
        start = then[part]
        if isinstance(rule, Cholesky):
            spectrum = torch.linalg.svdvals(m).square()
            yield part, "eigenvalue", spectrum.tolist()
            yield part, "distance from the start", [_cholesky_distance(m, start)]
            if m.shape[0] == m.shape[1]:
                yield from _against_identity(part, spectrum)
        elif not start.any():
            yield part, "norm", [m.norm().item()]
        elif m.ndim == 2 and torch.equal(start, torch.eye(*m.shape).to(start)):
            yield part, "singular value", torch.linalg.svdvals(m).tolist()
            yield part, "distance from the start", [((m - start).norm() / start.norm()).item()]
            multiple = m.trace() / len(m)
            yield part, "best multiple", [multiple.item()]
            yield part, "distance beyond a rate", [((m - multiple * start).norm() / start.norm()).item()]
        else:
            yield part, "rate", m.flatten().sort(descending=True).values.tolist()
            yield part, "distance from the start", [((m - start).norm() / start.norm()).item()]
            yield from _against_identity(part, m.flatten())
    for left, right in ((part, f"R{part[1:]}") for part in now if part[0] == "L" and f"R{part[1:]}" in now):
        yield from _kronecker(f"{right}^T (x) {left}", now[left], now[right])


def _against_identity(part: str, diagonal: Tensor) -> Iterator[tuple[str, str, list[float]]]:
    """The best multiple of a symmetric matrix, by its eigenvalues, and how far it is from that."""
    multiple = diagonal.mean()
    yield part, "best multiple", [multiple.item()]
    yield part, "distance beyond a rate", [(diagonal - multiple).square().mean().sqrt().item()]


def _kronecker(part: str, l_factor: Tensor, r_factor: Tensor) -> Iterator[tuple[str, str, list[float]]]:
    """The distances of R^T (x) L, which need not be built: |R^T (x) L| = |R| |L|, and traces multiply likewise."""
    size = len(l_factor) * len(r_factor)
    square = (l_factor.square().sum() * r_factor.square().sum() / size).item()
    multiple = (l_factor.trace() * r_factor.trace() / size).item()
    # What is below zero is rounding.
    yield part, "distance from the start", [math.sqrt(max(0.0, square - 2 * multiple + 1))]
    yield part, "best multiple", [multiple]
    yield part, "distance beyond a rate", [math.sqrt(max(0.0, square - multiple**2))]


def _cholesky_distance(l_factor: Tensor, start: Tensor) -> float:
    """|L L^T - L_0 L_0^T| / |L_0 L_0^T| without a k x k matrix: with E = L - L_0 the difference is E L^T + L_0 E^T."""
    change = l_factor - start
    p, q = torch.cat([change, start], 1), torch.cat([l_factor, change], 1)
    square = ((p.mT @ p) * (q.mT @ q)).sum().clamp_min(0)
    return (square.sqrt() / (start.mT @ start).norm()).item()


class Watched(MetaOptimizer):
    """A rule that adapts as it did, while <U(g), g>, |U(g)|^2 and |g|^2 of each tensor and step are written down.

    Attributes:
        found: (3, N) for each tensor in the first step, then for each in the second, and so on.
    """

    def __init__(self, rule: MetaOptimizer) -> None:
        self.rule, self.name, self.adapts = rule, rule.name, rule.adapts
        self.found: list[Tensor] = []

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """The rule's own."""
        return self.rule.initial_parts(like)

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """The rule's own."""
        return self.rule.transform(parts, grad)

    def transform_thin(self, parts: Parts, gradient: Gradient) -> Tensor | Product:
        """The rule's own, written down."""
        update = self.rule.transform_thin(parts, gradient)
        with torch.no_grad():
            dense = update.dense() if isinstance(update, Product) else update
            u, g = (x.flatten(1).double() for x in (dense, gradient.dense))
            self.found.append(torch.stack([(u * g).sum(1), u.square().sum(1), g.square().sum(1)]))
        return update


class FixedIn(MetaOptimizer):
    """A rule that adapts as it did, but for the parts of some tensors: "theta only in" their layer.

    Args:
        rule: the rule.
        tensors: the parameters of the model whose parts stay as meta-learned.
    """

    def __init__(self, rule: MetaOptimizer, tensors: Sequence[str]) -> None:
        self.rule, self.name, self.adapts = rule, rule.name, rule.adapts
        self._tensors = tensors
        self._fixed: set[int] = set()  # the inner loop has one mapping of parts for each tensor

    def bind(
        self, xi: Mapping[str, Tensor], num_tasks: int, names: Iterable[str]
    ) -> dict[str, dict[str, TaskParameter]]:
        """The rule's own; which of them are fixed is kept."""
        bound = self.rule.bind(xi, num_tasks, names)
        self._fixed = {id(bound[name]) for name in self._tensors}
        return bound

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """The rule's own."""
        return self.rule.initial_parts(like)

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """The rule's own."""
        return self.rule.transform(self._used(parts), grad)

    def transform_thin(self, parts: Parts, gradient: Gradient) -> Tensor | Product:
        """The rule's own."""
        return self.rule.transform_thin(self._used(parts), gradient)

    def _used(self, parts: Parts) -> Parts:
        """The parts themselves, or stand-ins for fixed ones: what is done with those is not recorded, so they stay."""
        if id(parts) not in self._fixed:
            return parts
        return {name: TaskParameter(part.shared, part.num_tasks) for name, part in parts.items()}


class FromTheStart(MetaOptimizer):
    """A rule each of whose steps starts at theta_0 again, with the gradient there: "xi only".

    What it returns in step t is U_{xi_t}(g_0) - U_{xi_{t-1}}(g_0), the latter held fixed: on top of the step before it
    leads to theta_0 - a U_{xi_t}(g_0), and its derivative with respect to xi_t is that of U_{xi_t}(g_0). It serves one
    walk through an inner loop.
    """

    def __init__(self, rule: MetaOptimizer) -> None:
        self.rule, self.name, self.adapts = rule, rule.name, rule.adapts
        self._last: dict[int, tuple[Tensor, Tensor]] = {}  # of each tensor, g_0 and the update that theta_t has

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """The rule's own."""
        return self.rule.initial_parts(like)

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """What is missing to the update of g_0."""
        tensor = id(parts)  # the inner loop has one mapping of parts for each tensor
        first, last = self._last.get(tensor, (grad, torch.zeros_like(grad)))
        update = self.rule.transform(parts, first)
        self._last[tensor] = first, update.detach()
        return update - last


@dataclass(frozen=True)
class Adaptation:
    """A way to adapt.

    Attributes:
        rule: makes the rule for one walk through the inner loop.
        steps: how many.
        xi: what it starts with.
    """

    rule: Callable[[], MetaOptimizer]
    steps: int
    xi: Mapping[str, Tensor] = field(default_factory=dict)


def adaptations(run: Run) -> dict[str, Adaptation]:
    """The ways to adapt that differ from one another, by name; the first is as trained."""
    steps = run.config.steps
    fixed = copy.copy(run.rule)
    fixed.adapts = False
    found = {"both": Adaptation(lambda: run.rule, steps, run.xi)} if run.rule.adapts else {}
    if steps > 1 or not found:
        found["theta only"] = Adaptation(lambda: fixed, steps, run.xi)
    by_layer = _adapted_by_layer(run)
    if steps > 1 and run.rule.adapts and len(by_layer) > 1:
        for layer, tensors in by_layer.items():
            found[f"theta only in {layer}"] = Adaptation(partial(FixedIn, run.rule, tensors), steps, run.xi)
    if steps > 1 and run.rule.adapts:
        found["xi only"] = Adaptation(lambda: FromTheStart(run.rule), steps, run.xi)
    if steps > 1:
        found["neither"] = Adaptation(lambda: fixed, 1, run.xi)
    found["plain steps"] = Adaptation(SGD, steps)
    if steps > 1:
        found["one plain step"] = Adaptation(SGD, 1)
    return found


@torch.inference_mode(False)  # and with gradients, whatever the caller's mode
def on_tasks(run: Run, num_tasks: int, seed: int, progress: bool) -> pd.DataFrame:
    """The rows of the aspects `alignment` and `comparison`."""
    episodes = draw_test_tasks(run.tasks(seed=seed), num_tasks)
    crew, size = shared_out(run.model, run.rule, episodes, each=default_chunk(run.model, episodes))
    plans = adaptations(run)
    as_trained = next(iter(plans))
    loop = run.config.inner_loop(list(run.theta))
    values: dict[str, list[Tensor]] = {name: [] for name in plans}
    aligned = []
    with progress_bar(total=len(plans) * num_tasks, unit="task", shown=progress, leave=False) as bar:

        def of_part(first: int) -> tuple[list[Tensor], Tensor]:
            part, measured = episodes[first : first + size], []
            for name, plan in plans.items():
                rule = plan.rule()
                if name == as_trained:
                    rule = watched = Watched(rule)
                walk = inner_loop(
                    run.model, rule, one_replica(run.theta), one_replica(plan.xi), part.support_x, part.support_y,
                    part.kind, replace(loop, steps=plan.steps), create_graph=False,
                )  # fmt: skip
                measured.append(measure(walk, part, plan.steps))
                with bar.get_lock():
                    bar.update(part.num_tasks)
            return measured, torch.stack(watched.found, -1) if watched.found else torch.empty(3, part.num_tasks, 0)

        for measured, found in crew.each(of_part, range(0, num_tasks, size)):
            for name, points in zip(plans, measured, strict=True):
                values[name].append(points)
            aligned.append(found)
    parts = [as_table(torch.cat(chunks)).assign(adaptation=name) for name, chunks in values.items()]
    comparison = mark_diverged(
        pd.concat(parts, ignore_index=True).assign(status=run_columns(run)["status"]), run, ["adaptation", "task"],
        episodes.kind,
    )  # fmt: skip
    trained = comparison[comparison["adaptation"].eq(as_trained)]
    lost = trained["status"].ne("ok").groupby(trained["task"]).any().to_numpy()
    alignment = _alignment(run, torch.cat(aligned, 1), lost)
    quantities = ["loss"] if episodes.kind == "regression" else ["loss", "accuracy"]
    comparison = comparison.melt(
        ["adaptation", "task", "step", "split", "status"], quantities, var_name="quantity"
    ).assign(aspect="comparison", layer="", tensor="")
    comparison["unit"] = comparison["quantity"].map(
        {"loss": "squared error" if episodes.kind == "regression" else "nats", "accuracy": "fraction"}
    )
    return pd.concat([alignment, comparison], ignore_index=True).assign(part="", index=0)


def _alignment(run: Run, found: Tensor, lost: np.ndarray) -> pd.DataFrame:
    """The rows of the aspect `alignment`.

    Args:
        run: the run.
        found: (3, T, steps * tensors) for T tasks, what `Watched` found.
        lost: (T,) whether a task diverged.
    """
    by_layer = _adapted_by_layer(run)
    layer_of = {tensor: layer for layer, members in by_layer.items() for tensor in members} | {WHOLE: WHOLE}
    # As they were found: layers may have another order.
    tensors = [tensor for tensor in run.theta if tensor in layer_of]
    inner = found.unflatten(2, (run.config.steps, len(tensors))).cpu().numpy()  # (3, T, steps, tensors)
    if len(tensors) > 1:
        inner, tensors = np.concatenate([inner, inner.sum(-1, keepdims=True)], -1), [*tensors, WHOLE]
    product, update, gradient = inner
    with np.errstate(divide="ignore", invalid="ignore"):  # what does not exist is marked below
        values = np.stack(
            [product / np.sqrt(update * gradient), np.sqrt(update / gradient), product > 0, np.sqrt(gradient)], -1
        )
    shape = values.shape
    index = pd.MultiIndex.from_product(
        [range(shape[0]), range(1, shape[1] + 1), tensors, ALIGNMENT],
        names=["task", "step", "tensor", "quantity"],
    )
    table = pd.DataFrame({"value": values.ravel()}, index=index).reset_index()
    no_gradient, no_update = (np.repeat((x == 0).ravel(), len(ALIGNMENT)) for x in (gradient, update))
    status = np.full(len(table), "ok", dtype=object)
    status[no_update & table["quantity"].eq("cosine").to_numpy()] = "failed: the update is zero"
    status[no_gradient & table["quantity"].ne("gradient norm").to_numpy()] = "failed: the gradient is zero"
    status[np.repeat(lost, values[0].size)] = "diverged"
    status[(status == "ok") & ~np.isfinite(table["value"].to_numpy())] = "diverged"
    table["value"] = table["value"].where(status == "ok")
    return table.assign(
        status=status, layer=table["tensor"].map(layer_of), aspect="alignment", adaptation="", split="support", unit="-"
    )


def _adapted_by_layer(run: Run) -> dict[str, Sequence[str]]:
    """The tensors that adapt, by layer, in the model's order."""
    adapted = set(run.theta if run.adapted is None else run.adapted)
    found = {layer: [name for name in members if name in adapted] for layer, members in run.layers.items()}
    return {layer: members for layer, members in found.items() if members}
