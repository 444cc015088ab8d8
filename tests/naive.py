"""An independent reference of the engine: one task at a time, plain autograd, every factor a dense matrix.

It is written from the equations and shares nothing with `core` but the `Episodes` type, so that a slip has to be made
twice to go unseen. For every task, with a = lr, starting at theta_0, xi_0:

    g_t         = d L_support(theta_t) / d theta_t
    xi_t        = xi_{t-1} - a d L_support(theta_t) / d xi_{t-1}   for t >= 1, and only for rules that adapt
    theta_{t+1} = theta_t - a U_{xi_t}(g_t)                        (no a if lr_scope is "xi")

The derivative by xi_{t-1} sees only the update that xi_{t-1} made: theta_t = theta_{t-1} - a U_{xi_{t-1}}(g_{t-1}) with
theta_{t-1} and g_{t-1} held fixed. The meta-gradient is that of the mean query loss at theta_steps with respect to
theta_0 and xi_0, through everything; in first order all inner gradients count as constants.

Two ways to multiply: `dense_kron=True` builds the Kronecker products that the algebra speaks of (for tiny shapes), and
`dense_kron=False` multiplies by each task's own factors, as an ordinary implementation does. The latter is also the
baseline of `tests/benchmarks`, so it wastes nothing on purpose: one backward pass a step (`two_passes` takes the two
that a literal reading asks for), no copies.

At the end are the small problems that the tests solve with it.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

from core.tasks.base import Episodes, Kind

Tensors = dict[str, Tensor]

ADAPTED_BY_DEFAULT = {"klin", "kfc", "cholesky", "linear"}


@dataclass(frozen=True)
class NaiveRule:
    """A meta-optimizer `U`, spelled like `make_optimizer(name, ...)`."""

    name: str
    depth: int = 2
    rank: int = 1
    unit_norm: bool = False
    bias: bool = False
    adapts: bool | None = None
    dense_kron: bool = False

    @property
    def is_adapted(self) -> bool:
        """Whether a task changes xi."""
        return self.name in ADAPTED_BY_DEFAULT if self.adapts is None else self.adapts

    def options(self) -> dict[str, int | bool]:
        """The arguments that make `make_optimizer(self.name, ...)` the same rule."""
        options: dict[str, int | bool] = {} if self.adapts is None else {"adapts": self.adapts}
        if self.name == "kfc":
            options |= {"depth": self.depth, "unit_norm": self.unit_norm}
        if self.name == "cholesky":
            options |= {"rank": self.rank}
        if self.name in ("klin", "kfc", "linear"):
            options |= {"bias": self.bias}
        return options

    def init(self, theta: Tensors) -> Tensors:
        """The starting xi, under the keys `<parameter>.<part>`."""
        xi = {}
        for name, p in theta.items():
            for part, value in self._init_parts(p.detach()).items():
                xi[f"{name}.{part}"] = value.to(p)
        return xi

    def _init_parts(self, p: Tensor) -> Tensors:
        num_matrices, n, m = to_matrices(p).shape
        map_bias = torch.zeros((num_matrices, n, m) if p.ndim == 4 else (n, m))
        match self.name:
            case "sgd":
                return {}
            case "meta_sgd":
                return {"rate": torch.ones_like(p)}
            case "klin":
                return {"L": torch.eye(n), "R": torch.eye(m)} | ({"b": map_bias} if self.bias else {})
            case "kfc":
                parts = {}
                for i in range(self.depth):
                    parts |= {f"L{i}": torch.eye(n), f"R{i}": torch.eye(m)}
                    parts |= {f"b{i}": map_bias} if self.bias else {}
                return parts | ({"scale": torch.ones(())} if self.unit_norm else {})
            case "meta_curvature" if p.ndim == 4:
                return {"out": torch.eye(p.shape[0]), "in": torch.eye(p.shape[1]), "filter": torch.eye(n)}
            case "meta_curvature":
                return {"L": torch.eye(n), "R": torch.eye(m)}
            case "cholesky":
                return {"L": torch.eye(p.numel(), min(self.rank, p.numel()))}
            case "linear":
                return {"A": torch.eye(p.numel())} | ({"b": torch.zeros(p.numel())} if self.bias else {})
        raise ValueError(self.name)

    def update(self, xi: Tensors, gradients: Tensors) -> Tensors:
        """U_xi(g), tensor by tensor."""
        return {
            name: self._update_one({k[len(name) + 1 :]: v for k, v in xi.items() if k.startswith(f"{name}.")}, g)
            for name, g in gradients.items()
        }

    def _update_one(self, xi: Tensors, g: Tensor) -> Tensor:
        match self.name:
            case "sgd":
                return g
            case "meta_sgd":
                return xi["rate"] * g
            case "klin":
                mapped = kronecker_map(xi["L"], xi["R"], to_matrices(g), self.dense_kron)
                return from_matrices(mapped + xi["b"] if self.bias else mapped, g.shape)
            case "kfc":
                norm = g.norm()
                if self.unit_norm and norm == 0:
                    return torch.zeros_like(g)  # a zero gradient has no direction
                hidden = to_matrices(g / norm if self.unit_norm else g)
                for i in range(self.depth):
                    hidden = kronecker_map(xi[f"L{i}"], xi[f"R{i}"], hidden, self.dense_kron)
                    hidden = hidden + xi[f"b{i}"] if self.bias else hidden
                    hidden = hidden.relu() if i < self.depth - 1 else hidden
                out = from_matrices(hidden, g.shape)
                return xi["scale"] * norm * out if self.unit_norm else out
            case "meta_curvature" if g.ndim == 4:
                return mode_products(xi["out"], xi["in"], xi["filter"], g, self.dense_kron)
            case "meta_curvature":
                return from_matrices(kronecker_map(xi["L"], xi["R"], to_matrices(g), self.dense_kron), g.shape)
            case "cholesky":
                return (xi["L"] @ (xi["L"].T @ g.reshape(-1))).reshape(g.shape)
            case "linear":
                out = (xi["A"] @ g.reshape(-1)).reshape(g.shape)
                return out + xi["b"].reshape(g.shape) if self.bias else out
        raise ValueError(self.name)


def to_matrices(g: Tensor) -> Tensor:
    """The matrix view (N, n, m): N = 1 but for a convolution (N, C, H, W), whose N matrices are H*W x C."""
    if g.ndim == 4:
        return g.reshape(g.shape[0], g.shape[1], -1).transpose(1, 2)
    if g.ndim == 0:
        return g.reshape(1, 1, 1)
    return g.reshape(1, g.shape[0], -1)


def from_matrices(matrices: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `to_matrices` for a tensor of this shape."""
    return (matrices.transpose(1, 2) if len(shape) == 4 else matrices).reshape(shape)


def kronecker_map(left: Tensor, right: Tensor, matrices: Tensor, dense: bool) -> Tensor:
    """L X R for every matrix X. In the dense form, (R^T kron L) vec(X), where vec stacks the columns of X."""
    if not dense:
        return left @ matrices @ right
    product = torch.kron(right.T.contiguous(), left)
    mapped = []
    for x in matrices:
        columns = x.T.reshape(-1)
        mapped.append((product @ columns).reshape(x.shape[1], x.shape[0]).T)
    return torch.stack(mapped)


def mode_products(out: Tensor, inp: Tensor, filt: Tensor, g: Tensor, dense: bool) -> Tensor:
    """sum_{n,c,f} out[a,n] inp[b,c] filt[h,f] G[n,c,f]. Dense: (out kron inp kron filt) on the row-major vec of G."""
    if dense:
        return (torch.kron(torch.kron(out, inp), filt) @ g.reshape(-1)).reshape(g.shape)
    return torch.einsum("an,bc,hf,ncf->abh", out, inp, filt, g.flatten(2)).reshape(g.shape)


def task_loss(outputs: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """The loss of one task: cross-entropy, logistic loss of the single output, or mean squared error."""
    if kind == "classification":
        return F.cross_entropy(outputs, y)
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(outputs.reshape(y.shape), y)
    return F.mse_loss(outputs, y)


def adapt_task(
    model: nn.Module,
    rule: NaiveRule,
    theta: Tensors,
    xi: Tensors,
    x: Tensor,
    y: Tensor,
    kind: Kind,
    *,
    steps: int,
    lr: float,
    first_order: bool = False,
    lr_scope: str = "both",
    adapted: Collection[str] | None = None,
    two_passes: bool = False,
    last_loss: bool = True,
) -> tuple[Tensors, Tensors, list[Tensor]]:
    """The inner loop of one task on its support set.

    Args:
        model: called as model(x) with its parameters replaced.
        rule: the meta-optimizer.
        theta: parameters that require gradients.
        xi: the rule's parameters, which require gradients.
        x: (n, *example) support examples.
        y: (n, ...) their targets.
        kind: which loss.
        steps: number of updates.
        lr: the adaptation learning rate a.
        first_order: take the inner gradients as constants.
        lr_scope: "both" scales the update of theta and of xi by a; "xi" only the latter.
        adapted: names of the parameters that move; all by default.
        two_passes: go back through the loss once for theta and once more for xi, as equations 3 and 4 are written.
        last_loss: whether to go through the model once more, for the support loss at theta_steps.

    Returns:
        theta_steps, xi_{steps-1} and the support losses at theta_0 .. theta_steps (or one before, see `last_loss`).
    """
    moving = list(theta) if adapted is None else list(adapted)
    moving_xi = [key for key in xi if rule.is_adapted and key.rpartition(".")[0] in moving]
    losses = []
    for t in range(steps):
        loss = task_loss(functional_call(model, theta, (x,)), y, kind)
        losses.append(loss.detach())
        by_xi = moving_xi if t >= 1 else []
        # By xi_{t-1} this is the partial derivative wanted: theta_{t-1} and g_{t-1} do not depend on xi_{t-1}.
        wanted = [[theta[name] for name in moving], [xi[key] for key in by_xi]]
        gradients = [
            gradient
            for tensors in (wanted if two_passes else [wanted[0] + wanted[1]])
            if tensors
            for gradient in grad(
                loss, tensors, create_graph=not first_order, retain_graph=True, allow_unused=True,
                materialize_grads=True,
            )
        ]  # fmt: skip
        g = dict(zip(moving, gradients[: len(moving)], strict=True))
        xi = xi | {key: xi[key] - lr * d for key, d in zip(by_xi, gradients[len(moving) :], strict=True)}
        updates = rule.update(xi, g)
        scale = lr if lr_scope == "both" else 1.0
        theta = theta | {name: theta[name] - scale * updates[name] for name in moving}
    if last_loss:
        losses.append(task_loss(functional_call(model, theta, (x,)), y, kind).detach())
    return theta, xi, losses


def query_loss(
    model: nn.Module, rule: NaiveRule, theta: Tensors, xi: Tensors, episodes: Episodes, i: int, **inner
) -> Tensor:
    """The query loss of task number i after its adaptation; `inner` are the settings of `adapt_task`."""
    kind = episodes.kind
    adapted_theta, _, _ = adapt_task(
        model, rule, theta, xi, episodes.support_x[i], episodes.support_y[i], kind, last_loss=False, **inner
    )
    return task_loss(functional_call(model, adapted_theta, (episodes.query_x[i],)), episodes.query_y[i], kind)


def leaves(tensors: Tensors) -> Tensors:
    """The same numbers as fresh leaves that require gradients."""
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}


def meta_gradient(
    model: nn.Module,
    rule: NaiveRule,
    theta: Tensors,
    xi: Tensors,
    episodes: Episodes,
    *,
    one_graph: bool = False,
    **inner,
) -> tuple[Tensor, tuple[Tensors, Tensors]]:
    """The mean query loss over the tasks and its gradients by theta_0 and xi_0.

    Args:
        model: called as model(x) with its parameters replaced.
        rule: the meta-optimizer.
        theta: initial parameters.
        xi: initial parameters of the rule.
        episodes: the tasks.
        one_graph: keep the graphs of all tasks and run backward once, as many implementations do: more memory.
        **inner: the settings of `adapt_task`.

    Returns:
        The loss and its gradients by theta and by xi, like `core.meta_gradient`.
    """
    theta, xi = leaves(theta), leaves(xi)
    inputs = [*theta.values(), *xi.values()]
    num_tasks = episodes.num_tasks
    total = torch.zeros((), dtype=inputs[0].dtype)
    if one_graph:
        total = sum((query_loss(model, rule, theta, xi, episodes, i, **inner) for i in range(num_tasks)), total)
        gradients = list(grad(total, inputs, allow_unused=True, materialize_grads=True))
    else:
        gradients = [torch.zeros_like(tensor) for tensor in inputs]
        for i in range(num_tasks):
            loss = query_loss(model, rule, theta, xi, episodes, i, **inner)
            for sum_, new in zip(gradients, grad(loss, inputs, allow_unused=True), strict=True):
                if new is not None:
                    sum_ += new
            total = total + loss.detach()
    gradients = [gradient / num_tasks for gradient in gradients]
    g_theta = dict(zip(theta, gradients[: len(theta)], strict=True))
    g_xi = dict(zip(xi, gradients[len(theta) :], strict=True))
    return total.detach() / num_tasks, (g_theta, g_xi)


def meta_loss(model: nn.Module, rule: NaiveRule, theta: Tensors, xi: Tensors, episodes: Episodes, **inner) -> float:
    """The mean query loss alone, without a second-order graph: what finite differences are taken of."""
    theta, xi = leaves(theta), leaves(xi)
    inner["first_order"] = True  # changes the gradient of the result, not the result
    losses = [query_loss(model, rule, theta, xi, episodes, i, **inner).item() for i in range(episodes.num_tasks)]
    return sum(losses) / len(losses)


# Small problems: every matrix view has n != m, and every axis of the convolution has a length of its own.


class TanhNet(nn.Module):
    """Two layers with biases, for binary tasks on 3 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1) logits of (n, 3) examples."""
        return self.second(self.first(x).tanh())


class ConvNet(nn.Module):
    """One convolution whose kernel is not square, a smooth activation, a gain (0-d), and 2 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(5, 2, 2, 3) / 3)
        self.shift = nn.Parameter(torch.randn(5) / 3)
        self.gain = nn.Parameter(torch.tensor(1.2))
        self.last = nn.Linear(5, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2) predictions of (n, 2, 4, 4) examples."""
        return self.gain * self.last(F.conv2d(x, self.kernel, self.shift).tanh().mean((-2, -1)))


PROBLEMS = ("linear", "wide", "tanh", "conv")


def make_problem(
    name: str, dtype: torch.dtype = torch.float64, num_tasks: int = 3, seed: int = 0
) -> tuple[nn.Module, Tensors, Episodes]:
    """A model, its parameters and episodes.

    "linear" classifies in 2 ways, "wide" in 3 from 20 inputs, "tanh" is binary, and "conv" a regression.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        n, q = 6, 5
        if name == "linear":
            model, example, kind = nn.Linear(3, 2), (3,), "classification"
            y = torch.randint(2, (num_tasks, n + q))
        elif name == "wide":
            model, example, kind = nn.Linear(20, 3, bias=False), (20,), "classification"
            y = torch.randint(3, (num_tasks, n + q))
        elif name == "tanh":
            model, example, kind = TanhNet(), (3,), "binary"
            y = torch.randint(2, (num_tasks, n + q)).to(dtype)
        elif name == "conv":
            model, example, kind = ConvNet(), (2, 4, 4), "regression"
            y = torch.randn(num_tasks, n + q, 2).to(dtype)
        else:
            raise ValueError(name)
        x = torch.randn(num_tasks, n + q, *example).to(dtype)
        model = model.to(dtype)
    theta = {key: value.detach().clone() for key, value in model.named_parameters()}
    return model, theta, Episodes(x[:, :n], y[:, :n], x[:, n:], y[:, n:], kind=kind)


# Every rule away from its defaults at least once. `linear` and `cholesky` hold numel^2 numbers: tiny models only.
RULES = {
    "sgd": NaiveRule("sgd"),
    "meta_sgd": NaiveRule("meta_sgd"),
    "meta_sgd adapted": NaiveRule("meta_sgd", adapts=True),
    "meta_curvature": NaiveRule("meta_curvature"),
    "meta_curvature adapted": NaiveRule("meta_curvature", adapts=True),
    "klin": NaiveRule("klin"),
    "klin fixed": NaiveRule("klin", adapts=False),
    "klin bias": NaiveRule("klin", bias=True),
    "kfc": NaiveRule("kfc", depth=3),
    "kfc fixed": NaiveRule("kfc", depth=2, adapts=False),
    "kfc unit norm": NaiveRule("kfc", depth=2, unit_norm=True),
    "kfc unit norm bias": NaiveRule("kfc", depth=2, unit_norm=True, bias=True),
    "cholesky": NaiveRule("cholesky", rank=2),
    "linear": NaiveRule("linear"),
    "linear bias": NaiveRule("linear", bias=True),
}


def randomise(xi: Tensors, seed: int = 1, strength: float = 0.4) -> Tensors:
    """xi moved away from its start: no factor stays symmetric, orthogonal or equal to another."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value + strength * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for key, value in xi.items()
    }


def finite_difference(loss: Callable[[Tensors], float], point: Tensors, direction: Tensors, h: float = 2e-5) -> float:
    """The derivative of `loss` at `point` along `direction`, by a central difference of step h / 2.

    The one of step h has to agree. Where a ReLU switches within h of the point it does not, and there is no derivative
    to compare with: move the point then (another seed).
    """

    def quotient(step: float) -> float:
        sides = [loss(point | {k: point[k] + s * direction[k] for k in direction}) for s in (step, -step)]
        return (sides[0] - sides[1]) / (2 * step)

    wide, narrow = quotient(h), quotient(h / 2)
    smooth = abs(wide - narrow) <= 1e-6 * abs(narrow) + 1e-9
    assert smooth, f"not smooth here: {wide} at h, {narrow} at h/2"
    return narrow


def probe_direction(gradients: Tensors, seed: int = 3) -> Tensors:
    """A direction of length about 1.4 to compare slopes along: the gradient's own plus a random one.

    Along the gradient the slope is as large as it gets, so it is not lost in rounding; the random part meets an error
    in any coordinate. A short direction also crosses few of the kinks of a network of ReLUs.
    """
    noise = randomise({name: torch.zeros_like(tensor) for name, tensor in gradients.items()}, seed, strength=1.0)
    lengths = [sum(v.square().sum().item() for v in tensors.values()) ** 0.5 for tensors in (gradients, noise)]
    return {name: g / lengths[0] + noise[name] / lengths[1] for name, g in gradients.items()}


def relative_errors(actual: Tensors, expected: Tensors, floor: float = 0.0) -> dict[str, float]:
    """|actual - expected| / |expected| of every tensor (Frobenius norms); of an expected zero, |actual| itself.

    With `floor`, a tensor smaller than that fraction of the largest one is measured against that fraction: some
    gradients are small because large terms cancel, and then their rounding follows the terms.
    """
    assert actual.keys() == expected.keys()
    least = floor * max((truth.norm().item() for truth in expected.values()), default=0.0)
    errors = {}
    for name, truth in expected.items():
        assert actual[name].shape == truth.shape, name
        size = max(truth.norm().item(), least)
        errors[name] = (actual[name] - truth).norm().item() / (size if size > 0 else 1.0)
    return errors


def assert_close(actual: Tensors, expected: Tensors, tolerance: float, floor: float = 0.0) -> None:
    """Every tensor within `tolerance` by `relative_errors`; if not, says which are not. A NaN is not within."""
    errors = relative_errors(actual, expected, floor)
    worse = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not worse, f"relative errors above {tolerance}: {worse}"
