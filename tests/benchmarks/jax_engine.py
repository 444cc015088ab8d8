"""The same mathematics in JAX, as one would write it there: a task's loss, `vmap`, `value_and_grad`, `jit`.

Written from the equations of `core.adaptation`, with one reverse pass a step (the gradient that the step needs gives
that by xi, too) and each task's own factors. XLA takes all cores, whatever PyTorch is allowed.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from core import Episodes
from core.tasks import TaskSource
from tests.benchmarks.workloads import Tensors, Workload
from tests.naive import NaiveRule

jax.config.update("jax_enable_x64", True)  # what is single stays single

Arrays = dict[str, jax.Array]
EPS = 1e-5  # of batch normalisation, as PyTorch has it


def outputs(workload: Workload, theta: Arrays, x: jax.Array) -> jax.Array:
    """(n, outputs) of the examples of one task."""
    if workload.model != "cnn":
        x = x.reshape(len(x), -1)
        for weight in theta.values():
            x = x @ weight.T
        return x
    for i in range(1, workload.depth + 1):
        kernel, shift, scale, offset = (
            theta[f"C{i}.{part}"] for part in ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
        )
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)]) + shift[:, None, None]
        mean, variance = (f(x, axis=(0, 2, 3), keepdims=True) for f in (jnp.mean, jnp.var))
        x = (x - mean) * jax.lax.rsqrt(variance + EPS) * scale[:, None, None] + offset[:, None, None]
        x = jax.nn.relu(x)
    return x.mean((2, 3)) @ theta["FC.weight"].T + theta["FC.bias"]


def task_loss(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of classes; logistic loss of a single output."""
    if jnp.issubdtype(y.dtype, jnp.floating):
        z = logits.reshape(y.shape)
        return (jax.nn.softplus(z) - y * z).mean()
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()


def update(rule: NaiveRule, xi: Arrays, name: str, g: jax.Array) -> jax.Array:
    """U(g) of one parameter."""
    if rule.name == "sgd":
        return g
    parts = {key.rpartition(".")[2]: value for key, value in xi.items() if key.rpartition(".")[0] == name}
    matrices = jnp.swapaxes(g.reshape(*g.shape[:2], -1), 1, 2) if g.ndim == 4 else g.reshape(1, len(g), -1)
    if rule.name == "klin":
        out = parts["L"] @ matrices @ parts["R"]
    else:
        # Positively homogeneous: scaling to unit norm and back leaves the learned factor.
        for i in range(rule.depth):
            matrices = parts[f"L{i}"] @ (jax.nn.relu(matrices) if i else matrices) @ parts[f"R{i}"]
        out = matrices * parts["scale"] if rule.unit_norm else matrices
    return (jnp.swapaxes(out, 1, 2) if g.ndim == 4 else out).reshape(g.shape)


def query_loss(workload: Workload, rule: NaiveRule, theta: Arrays, xi: Arrays, task: Sequence[jax.Array]) -> jax.Array:
    """Of one task, after adaptation."""
    support_x, support_y, query_x, query_y = task
    slope = jax.grad(lambda theta: task_loss(outputs(workload, theta, support_x), support_y))
    last: Arrays = {}
    for step in range(workload.steps):
        g = slope(theta)
        if step and rule.is_adapted:
            _, pull = jax.vjp(lambda xi, last=last: {name: update(rule, xi, name, last[name]) for name in last}, xi)
            (by_xi,) = pull({name: -workload.lr * g[name] for name in g})
            xi = {key: xi[key] - workload.lr * by_xi[key] for key in xi}
        theta = {name: theta[name] - workload.lr * update(rule, xi, name, g[name]) for name in theta}
        last = g
    return task_loss(outputs(workload, theta, query_x), query_y)


def _loss_and_gradients(workload: Workload, rule: NaiveRule) -> Callable[..., tuple[jax.Array, tuple[Arrays, Arrays]]]:
    """Mean query loss of tasks, and its gradients by theta and xi."""

    def mean_loss(theta: Arrays, xi: Arrays, tasks: Sequence[jax.Array]) -> jax.Array:
        return jax.vmap(lambda task: query_loss(workload, rule, theta, xi, task))(tasks).mean()

    return jax.value_and_grad(mean_loss, argnums=(0, 1))


def gradient(
    workload: Workload, rule: NaiveRule
) -> Callable[[Tensors, Tensors, Episodes], tuple[Tensor, Tensors]]:  # fmt: skip
    """The meta-gradient, from tensors to tensors."""
    compiled = jax.jit(_loss_and_gradients(workload, rule))

    def run(theta: Tensors, xi: Tensors, episodes: Episodes) -> tuple[Tensor, Tensors]:
        loss, (g_theta, g_xi) = compiled(_arrays(theta), _arrays(xi), _tasks(episodes))
        return _tensor(loss), {name: _tensor(g) for name, g in (g_theta | g_xi).items()}

    return run


def training(
    workload: Workload,
    rule: NaiveRule,
    sources: Sequence[TaskSource],
    starts: Sequence[tuple[Tensors, Tensors]],
    meta_lr: float,
    iterations: int,
) -> Callable[[], Tensors]:
    """Some more iterations of all seeds, in a training that is under way."""
    of_seeds = jax.vmap(_loss_and_gradients(workload, rule))

    @jax.jit
    def step(state: tuple[Arrays, Arrays], tasks: Sequence[jax.Array]) -> tuple[Arrays, Arrays]:
        _, gradients = of_seeds(*state, tasks)
        return jax.tree.map(lambda tensor, g: tensor - meta_lr * g, state, gradients)

    state = tuple(
        {name: jnp.stack([jnp.asarray(start[part][name].numpy()) for start in starts]) for name in starts[0][part]}
        for part in (0, 1)
    )
    done = 0

    def run() -> Tensors:
        nonlocal state, done
        for i in range(done, done + iterations):
            drawn = [_tasks(source.sample("train", workload.tasks, i)) for source in sources]
            state = step(state, [np.stack(parts) for parts in zip(*drawn, strict=True)])
        done += iterations
        return {
            f"{name}.{seed}": _tensor(tensor[seed])
            for part in state
            for name, tensor in part.items()
            for seed in range(len(starts))
        }

    return run


def _arrays(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _tasks(episodes: Episodes) -> list[np.ndarray]:
    parts = (episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y)
    return [part.numpy() for part in parts]


def _tensor(array: jax.Array) -> Tensor:
    return torch.from_numpy(np.array(array))
