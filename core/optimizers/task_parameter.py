"""A meta-optimizer's parameter as each task has it: the shared tensor, and the task's own thin change to it."""

from collections.abc import Sequence

import torch
from torch import Tensor


class TaskParameter:
    """One tensor of xi for N = S * T tasks (S replicas with T tasks each), adapted without copying it per task.

    A task's gradient with respect to a p x q matrix M that was applied to r rows, O = X M, is X^T C with C the
    gradient with respect to O: a product of thin factors (r rows, against p and q). So M stays shared, and

        X M_t = X M - sum_s (X Y_s^T) Z_s,    Y_s = X_s,  Z_s = a C_s,

    which costs N r (p + q) numbers a step in place of N p q. Where the thin form would be the dearer one (many rows,
    small matrices), the change is added up to a p x q tensor per task instead. Both are the same function.

    Every application is recorded, so that one call of autograd gives all the C of a step.

    Args:
        shared: (S, *shape), the value of each replica before adaptation.
        num_tasks: T, tasks per replica.
    """

    def __init__(self, shared: Tensor, num_tasks: int) -> None:
        self.shared = shared
        self.num_tasks = num_tasks
        self._thin: list[tuple[Tensor, Tensor]] = []  # (Y, Z): (N, r, p) and (N, r, q)
        self._own: Tensor | None = None  # (N, *shape), once a task's own value was materialised
        self._uses: list[tuple[Tensor, Tensor, bool]] = []  # (input, output, transposed)
        self._read: Tensor | None = None  # the value handed out for element-wise use

    def right(self, x: Tensor) -> Tensor:
        """x M for rows x (N, ..., p): (N, ..., q)."""
        return self._apply(x, transposed=False)

    def right_t(self, x: Tensor) -> Tensor:
        """x M^T for rows x (N, ..., q): (N, ..., p)."""
        return self._apply(x, transposed=True)

    def value(self) -> Tensor:
        """The tensor of each task, (N, *shape), recorded for element-wise use."""
        self._read = self.materialise()
        return self._read

    def materialise(self) -> Tensor:
        """The tensor of each task, (N, *shape)."""
        if self._own is not None:
            return self._own
        own = self.shared.unsqueeze(1).expand(-1, self.num_tasks, *self.shared.shape[1:]).flatten(0, 1)
        for y, z in self._thin:
            own = own - y.mT @ z
        return own

    def watched(self) -> list[Tensor]:
        """The tensors whose gradients `adapt` needs, in its order."""
        outputs = [output for _, output, _ in self._uses]
        return outputs if self._read is None else [*outputs, self._read]

    def forget_uses(self) -> None:
        """Start a new step: what was recorded belongs to the last one."""
        self._uses, self._read = [], None

    def adapt(self, gradients: Sequence[Tensor], lr: float, *, constant: bool) -> None:
        """M <- M - lr * (gradient with respect to M), from the gradients with respect to `watched`.

        With `constant`, the step is a constant of the meta-gradient (first order).
        """
        changes: list[tuple[Tensor, Tensor]] = []
        for (x, _, transposed), c in zip(self._uses, gradients, strict=False):
            y, z = (c, x) if transposed else (x, c)
            changes.append((y.detach(), z.detach() * lr) if constant else (y, z * lr))
        if self._read is not None:
            step = gradients[-1] * lr
            self._own = self._read - (step.detach() if constant else step)
        if changes:
            self._add(changes)

    def _add(self, changes: list[tuple[Tensor, Tensor]]) -> None:
        p, q = self.shared.shape[-2:]
        rank = sum(y.shape[1] for y, _ in (*self._thin, *changes))
        if self._own is None and rank * (p + q) <= p * q:
            self._thin += changes
            return
        own = self.materialise()
        for y, z in changes:
            own = own - y.mT @ z
        self._own, self._thin = own, []

    def _apply(self, x: Tensor, *, transposed: bool) -> Tensor:
        rows = x.reshape(len(x), -1, x.shape[-1])  # (N, r, p)
        if self._own is not None:
            out = rows @ (self._own.mT if transposed else self._own)
        else:
            shared = self.shared.mT if transposed else self.shared
            replicas = len(shared)
            # All tasks of a replica share the matrix, so their rows go through it as one tall matrix.
            tall = rows.reshape(replicas, -1, rows.shape[-1])
            tall = (tall[0] @ shared[0]).unsqueeze(0) if replicas == 1 else tall @ shared
            out = tall.view(*rows.shape[:-1], -1)
            for y, z in self._thin:
                first, second = (z, y) if transposed else (y, z)
                out = out - (rows @ first.mT) @ second
        self._uses.append((rows, out, transposed))
        return out.view(*x.shape[:-1], out.shape[-1])


def gradients_of_uses(
    updates: Sequence[Tensor], cotangents: Sequence[Tensor], watched: Sequence[Tensor], *, constant: bool
) -> tuple[Tensor, ...]:
    """Gradients of sum <update, cotangent> with respect to `watched`; part of the meta-gradient unless `constant`."""
    return torch.autograd.grad(
        updates, watched, cotangents, create_graph=not constant, retain_graph=True, materialize_grads=True
    )
