"""A parameter as each task has it: the shared tensor, and the task's own thin change to it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, TypeVar

import torch
from torch import Tensor

from core import products

T = TypeVar("T")


class Side(Enum):
    """How a matrix M was applied: x M, x M^T, or M x."""

    RIGHT = auto()
    RIGHT_T = auto()
    LEFT = auto()


@dataclass
class Record:
    """How a parameter was used: what `TaskParameter.adapt` needs to know.

    Attributes:
        applications: (rows, output, side) of each product with the matrix.
        uses: output of any other use of the tensor that all tasks have, and how the gradient with respect to the output
            gives that with respect to each task's tensor.
        read: the value handed out for element-wise use, if any.
    """

    applications: list[tuple[Tensor, Tensor, Side]] = field(default_factory=list)
    uses: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = field(default_factory=list)
    read: Tensor | None = None

    def watched(self) -> list[Tensor]:
        """The tensors whose gradients `TaskParameter.adapt` takes, in its order."""
        outputs = [output for _, output, _ in self.applications] + [output for output, _ in self.uses]
        return outputs if self.read is None else [*outputs, self.read]

    def dense(self, gradients: Sequence[Tensor], *, constant: bool) -> Tensor | None:
        """The gradient (N, *shape) by all but applications, from those with respect to `watched()`; None if by none."""
        of_uses = gradients[len(self.applications) :]
        parts = [by(gradient) for (_, by), gradient in zip(self.uses, of_uses, strict=False)]
        parts += [] if self.read is None else [gradients[-1]]
        if not parts:
            return None
        total = sum(parts[1:], parts[0])
        return total.detach() if constant else total


@dataclass(frozen=True)
class Gradient:
    """The gradient of each task's loss with respect to a parameter.

    Attributes:
        dense: (N, *shape).
        factors: C (N, r, p) and data X (N, r, q) with C^T X = dense, where it is that of a p x q matrix applied to few
            rows, r <= p, which stay the same in every step. None elsewhere.
    """

    dense: Tensor
    factors: tuple[Tensor, Tensor] | None = None

    def mapped(self, by: Callable[[Tensor], Tensor]) -> "Gradient":
        """The same of other tensors: `by` of `dense`, or of C, from which `dense` is multiplied anew."""
        if self.factors is None:
            return Gradient(by(self.dense))
        c, x = by(self.factors[0]), self.factors[1]
        return Gradient(c.mT @ x, (c, x))


@dataclass(frozen=True)
class Product:
    """P M for each task, not multiplied: x (P M)^T = (x M^T) P^T may cost less, as x M^T serves many P.

    Attributes:
        rows: P (N, r, p).
        matrix: M (p, q) as it was when `TaskParameter.later` made this.
        source: the parameter that it was taken from, which may have adapted since.
    """

    rows: Tensor
    matrix: "TaskParameter"
    source: "TaskParameter"

    def dense(self) -> Tensor:
        """P M, (N, r, q)."""
        return self.matrix.product(self.rows, Side.RIGHT)

    def right_t(self, x: Tensor) -> Tensor:
        """x (P M)^T for rows x (N, n, q): (N, n, r)."""
        return self.matrix.product(x, Side.RIGHT_T, keep=True) @ self.rows.mT

    def pull_back(self, cotangent: Gradient) -> Tensor:
        """The gradient (N, r, p) with respect to P, from that with respect to P M."""
        return self.matrix.of_gradient(cotangent, Side.RIGHT_T)

    def adapt(self, cotangent: Tensor, lr: float, *, constant: bool) -> None:
        """One gradient step of `source`, from the gradient (N, r, q) with respect to P M."""
        rows, step = self.rows, cotangent * lr
        self.source.add([(rows.detach(), step.detach()) if constant else (rows, step)])


class Collected:
    """The gradient of a tensor that many products share, added up in one place.

    Autograd would keep the gradient of every product until it adds them up; on a CPU the memory for them, fresh each
    time, costs as much as the arithmetic. So a product's backward pass adds to what is here, once this is `open`:
    during the backward pass of the meta-gradient, and in no inner step, where no such gradient is wanted.
    """

    def __init__(self) -> None:
        self.open = False
        self.gradient: Tensor | None = None  # (S, *shape)

    def add_product(self, x: Tensor, c: Tensor) -> None:
        """Add x^T c, for x (S, r, p) and c (S, r, q)."""
        if self.gradient is None:
            self.gradient = products.product(x.mT, c)
        else:
            products.add_product(self.gradient, x.mT, c)

    def add(self, gradient: Tensor) -> None:
        """Add (S, *shape), which nobody else needs."""
        self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)


@dataclass
class DataProducts:
    """Products of data with a matrix, before and after each thin change of it.

    Attributes:
        rows: the data (N, r, p).
        side: on which side of the matrix.
        with_graph: whether the products have one, if anything that they are made of has.
        outs: the product (N, r, q) with what is shared, and that after each change.
    """

    rows: Tensor
    side: Side
    with_graph: bool
    outs: list[Tensor]


class _SharedProduct(torch.autograd.Function):
    """x M, or x M^T if `transposed`, for rows x (S, r, p) and a matrix M (S, p, q) whose gradient is collected."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: bool, collected: Collected) -> Tensor:
        ctx.save_for_backward(x, matrix)
        ctx.transposed, ctx.collected = transposed, collected
        return products.product(x, matrix.mT if transposed else matrix)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (c,) = gradients
        x, matrix = ctx.saved_tensors
        if ctx.collected.open:
            ctx.collected.add_product(*((c, x) if ctx.transposed else (x, c)))
        wanted = ctx.needs_input_grad[0]
        grad_x = _SharedProduct.apply(c, matrix, not ctx.transposed, ctx.collected) if wanted else None
        return grad_x, None, None, None


@contextmanager
def collecting(parameters: Iterable["TaskParameter"]) -> Iterator[None]:
    """Have a backward pass collect the gradients of these shared tensors, for `TaskParameter.gradient`."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.collected.open = True
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.collected.open = False


class TaskParameter:
    """A parameter of N = S * T tasks (S replicas with T tasks each), adapted without copying it per task.

    A task's gradient with respect to a p x q matrix M that was applied to r rows, O = X M, is X^T C with C the
    gradient with respect to O: a product of thin factors (r rows, against p and q). So M stays shared, and

        X M_t = X M - sum_s (X Y_s^T) Z_s,    Y_s = X_s,  Z_s = a C_s,

    which costs N r (p + q) numbers a step in place of N p q. Where the thin form would be the dearer one (many rows,
    small matrices), the change is added up to a p x q tensor per task instead. Both are the same function. A change
    that is itself a product with a shared matrix (see `Product`) need not be multiplied out, either.

    Every use is recorded, so that one call of autograd gives all the C of a step. What autograd itself calls the
    gradient of `shared` is only that of its element-wise use: the rest is collected, see `collecting` and `gradient`.

    Args:
        shared: (S, *shape), the value of each replica before adaptation.
        num_tasks: T, tasks per replica.
    """

    def __init__(self, shared: Tensor, num_tasks: int) -> None:
        self.shared = shared
        self.num_tasks = num_tasks
        self._thin: list[tuple[Tensor, Tensor]] = []  # (Y, Z): (N, r, p) and (N, r, q)
        self._own: Tensor | None = None  # (N, *shape), once a task's own value was materialised
        self._later: list[Product] = []  # changes on top of either, to be subtracted
        self._kept: list[DataProducts] = []
        self._known: list[tuple[Tensor, Callable[[Tensor], Any], Any]] = []  # data, and what a model made of them
        self._record = Record()
        self.collected = Collected()
        self.adapts = True  # False: no gradient of a task's own will be asked for, and no use is recorded

    @classmethod
    def of_tasks(cls, own: Tensor) -> "TaskParameter":
        """The parameter of N tasks that have nothing in common: `own` (N, *shape)."""
        parameter = cls(own, 1)
        parameter._own = own
        return parameter

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the parameter has for one task."""
        return tuple(self.shared.shape[1:])

    def right(self, x: Tensor) -> Tensor:
        """x M for rows x (N, ..., p): (N, ..., q)."""
        return self._apply(x, Side.RIGHT)

    def right_t(self, x: Tensor) -> Tensor:
        """x M^T for rows x (N, ..., q): (N, ..., p)."""
        return self._apply(x, Side.RIGHT_T)

    def right_of(self, gradient: Gradient) -> Tensor:
        """G M for a gradient G (N, r, p): (N, r, q); by way of its data's product with M where it has factors."""
        out = self.of_gradient(gradient, Side.RIGHT)
        self._record.applications.append((gradient.dense, out, Side.RIGHT))
        return out

    def left(self, x: Tensor) -> Tensor:
        """M x for columns x (N, q, c): (N, p, c). Made for small M, which each task then has as a whole."""
        out = self.materialise() @ x
        # M x = (x^T M^T)^T, so what `adapt` needs is that of `right_t` on the rows x^T.
        self._record.applications.append((x.mT, out, Side.LEFT))
        return out

    def later(self, rows: Tensor) -> Product:
        """P M for rows P (N, r, p), unmultiplied. Its part in the adaptation of M is for `Product.adapt` to do."""
        matrix = copy(self)  # which shares what it knows of data, and stays when this parameter adapts
        matrix._thin = list(self._thin)
        return Product(rows, matrix, self)

    def value(self) -> Tensor:
        """The tensor of each task, (N, *shape), recorded for element-wise use."""
        if self._record.read is None:  # one tensor however often it is read, so that its gradient is whole
            self._record.read = self.materialise()
        return self._record.read

    def common(self) -> Tensor | None:
        """The tensor (*shape) that all tasks have and keep, None if there is no such tensor.

        Its gradient is autograd's own: it is used and not recorded.
        """
        return None if self.adapts else self.undivided()

    def undivided(self) -> Tensor | None:
        """The tensor (*shape) that all tasks have so far, None if there is no such tensor.

        Who uses it says so to `record`, and has the gradient of `shared` collected or leaves it to autograd.
        """
        is_shared = len(self.shared) == 1 and self._own is None and not self._thin and not self._later
        return self.shared[0] if is_shared else None

    def record(self, output: Tensor, gradient_by: Callable[[Tensor], Tensor]) -> None:
        """Note a use of what is `undivided`: a task's gradient (N, *shape) is `gradient_by` that of the output."""
        if self.adapts:
            self._record.uses.append((output, gradient_by))

    def known_of(self, x: Tensor, make: Callable[[Tensor], T]) -> T:
        """`make(x)` of data x (N, n, *example), made once: a parameter meets the same data in every step."""
        for known, by, made in self._known:
            if by == make and _is_same(known, x):
                found: T = made
                return found
        made = make(x)
        self._known.append((x, make, made))
        return made

    def materialise(self) -> Tensor:
        """The tensor of each task, (N, *shape)."""
        own = self._own
        if own is None:
            own = self.shared
            if self.num_tasks > 1:
                own = own.unsqueeze(1).expand(-1, self.num_tasks, *own.shape[1:]).flatten(0, 1)
            for y, z in self._thin:
                own = own - y.mT @ z
        for product in self._later:
            own = own - product.dense()
        return own

    def detached(self) -> Tensor:
        """The same without a graph, for others, who expect numbers in the order of the shape, as `vmap` does."""
        value = self.materialise().detach()
        return value if self._own is None else value.contiguous()  # what all share stays a view

    def mapped(self, by: Callable[[Tensor], Tensor], family: dict[Collected, "TaskParameter"]) -> "TaskParameter":
        """The same value of other tensors: `by` of each that it is made of, always in the same order.

        What it was used for, and what it remembers of data, stay with `self`; it adapts.

        Args:
            by: gives the tensor to take in place of one.
            family: by what `self` and others collect in, one of those that they have become; it is added to. Those that
                had a shared tensor in common still have.
        """
        if self._own is not None:
            found = TaskParameter.of_tasks(by(self._own))
        elif self.collected in family:
            found = copy(family[self.collected])
            found._record = Record()
        else:
            found = family[self.collected] = TaskParameter(by(self.shared), self.num_tasks)
        found._thin = [(by(y), by(z)) for y, z in self._thin]
        found._later = []
        for product in self._later:
            matrix = product.matrix.mapped(by, family)
            # What is to be subtracted has adapted its source already.
            found._later.append(Product(by(product.rows), matrix, matrix))
        return found

    def parts(self) -> Iterator["TaskParameter"]:
        """The parameter itself, and the matrices of products that are to be subtracted from it."""
        yield self
        for product in self._later:
            yield from product.matrix.parts()

    def gradient(self, of_reads: Tensor | None) -> Tensor | None:
        """The gradient of `shared`: what was collected and autograd's own part, either of which may be None."""
        if self.collected.gradient is None or of_reads is None:
            return of_reads if self.collected.gradient is None else self.collected.gradient
        return self.collected.gradient + of_reads

    def take_record(self) -> Record:
        """What was done with the parameter since this was last asked."""
        record, self._record = self._record, Record()
        return record

    def gradient_of(self, record: Record, gradients: Sequence[Tensor], *, constant: bool) -> Gradient:
        """The gradient with respect to the parameter, from the gradients with respect to `record.watched()`."""
        changes = _changes(record, gradients, constant=constant)
        dense = record.dense(gradients, constant=constant)
        if dense is None and len(changes) == 1:
            y, z = changes[0]
            rows, _, side = record.applications[0]
            is_of_data = side is Side.RIGHT_T and not rows.requires_grad
            return Gradient(y.mT @ z, (y, z) if is_of_data and y.shape[1] <= y.shape[2] else None)
        total = torch.zeros_like(self.materialise()) if dense is None else dense
        for y, z in changes:
            total = total + y.mT @ z
        return Gradient(total)

    def adapt(self, record: Record, gradients: Sequence[Tensor], lr: float, *, constant: bool) -> None:
        """M <- M - lr * (gradient with respect to M), from the gradients with respect to `record.watched()`.

        With `constant`, the step is a constant of the meta-gradient (first order).
        """
        # Not the data, which so stays one tensor in all changes.
        scaled = [gradient * lr for gradient in gradients[: len(record.applications)]]
        changes = _changes(record, scaled, constant=constant)
        dense = record.dense(gradients, constant=constant)
        if dense is not None:
            if record.uses and self.undivided() is not None:
                self.shared = _laid_like(self.shared, dense)
            value = self.materialise() if record.read is None else record.read
            self._own, self._thin, self._later = torch.add(value, dense, alpha=-lr), [], []
        if changes:
            self.add(changes)

    def add(self, changes: Sequence[tuple[Tensor, Tensor]]) -> None:
        """M <- M - sum Y^T Z for `changes` (Y, Z), (N, r, p) and (N, r, q)."""
        p, q = self.shared.shape[-2:]
        rank = sum(y.shape[1] for y, _ in (*self._thin, *changes))
        if self._own is None and rank * (p + q) <= p * q:
            self._thin += changes
            return
        own = self.materialise()
        for y, z in changes:
            own = own - y.mT @ z
        self._own, self._thin, self._later = own, [], []

    def subtract(self, update: Tensor | Product, lr: float, *, constant: bool) -> None:
        """M <- M - lr * update, cut off from what both depend on where that is `constant`."""
        if isinstance(update, Product):
            rows = update.rows * lr
            self._later.append(replace(update, rows=rows.detach() if constant else rows))
            return
        own = self.materialise() - lr * update
        self._own = own.detach().requires_grad_() if constant else own
        self._thin, self._later = [], []

    def of_gradient(self, gradient: Gradient, side: Side) -> Tensor:
        """G M or G M^T, unrecorded."""
        if gradient.factors is None:
            return self.product(gradient.dense, side)
        c, x = gradient.factors
        return c.mT @ self.product(x, side, keep=True)

    def product(self, rows: Tensor, side: Side, *, keep: bool = False) -> Tensor:
        """Rows (N, r, .) times M or M^T, unrecorded; with `keep`, data is multiplied once with each part of it."""
        transposed = side is Side.RIGHT_T
        # Rows that are more than those of what is subtracted do better with the difference.
        num_later = sum(product.rows.shape[1] for product in self._later)
        own = self.materialise() if num_later and (not transposed or rows.shape[1] > num_later) else self._own
        if own is not None:
            out = rows @ (own.mT if transposed else own)
        elif keep and not rows.requires_grad:
            out = self._data_product(rows, side)
        else:
            out = self._shared_product(rows, side)
            for change in self._thin:
                out = _less_product(out, rows, change, side)
        if own is self._own:
            for product in self._later:
                out = out - product.right_t(rows)
        return out

    def _data_product(self, rows: Tensor, side: Side) -> Tensor:
        """Data (N, r, .) times `shared` or its transpose less each thin change: (N, r, .), each product made once."""
        with_graph = torch.is_grad_enabled()
        for known in self._kept:
            if known.side is side and _is_same(known.rows, rows) and known.with_graph == with_graph:
                break
        else:
            known = DataProducts(rows, side, with_graph, [self._shared_product(rows, side)])
            self._kept.append(known)
        # Changes are only added, until none is kept thin: of two that share what they know, one has those of the other.
        for change in self._thin[len(known.outs) - 1 :]:
            known.outs.append(_less_product(known.outs[-1], rows, change, side))
        return known.outs[len(self._thin)]

    def _shared_product(self, rows: Tensor, side: Side) -> Tensor:
        """Rows (N, r, .) times `shared` or its transpose."""
        # All tasks of a replica share the matrix, so their rows go through it as one tall matrix.
        tall = rows.reshape(len(self.shared), -1, rows.shape[-1])
        out = _SharedProduct.apply(tall, self.shared, side is Side.RIGHT_T, self.collected)
        return out.view(*rows.shape[:-1], -1)

    def _apply(self, x: Tensor, side: Side) -> Tensor:
        rows = x.reshape(len(x), -1, x.shape[-1])  # (N, r, p)
        out = self.product(rows, side)
        if self.adapts:  # else nobody takes the record, which would keep the graph of every step
            self._record.applications.append((rows, out, side))
        return out.view(*x.shape[:-1], out.shape[-1])


def _less_product(out: Tensor, rows: Tensor, change: tuple[Tensor, Tensor], side: Side) -> Tensor:
    """`out` (N, r, q) less rows (N, r, p) times Y^T Z, the thin change (Y, Z), or its transpose."""
    y, z = change
    first, second = (z, y) if side is Side.RIGHT_T else (y, z)
    # One operation: a difference would have the product's gradient made, and kept, with the other sign.
    return torch.baddbmm(out, rows @ first.mT, second, alpha=-1)


def _changes(record: Record, gradients: Sequence[Tensor], *, constant: bool) -> list[tuple[Tensor, Tensor]]:
    """(Y, Z) with Y^T Z the gradient that each of a record's applications gives."""
    changes = []
    # The gradient of a value that was read comes after those of the applications.
    for (x, _, side), gradient in zip(record.applications, gradients, strict=False):
        c = gradient.mT if side is Side.LEFT else gradient
        y, z = (x, c) if side is Side.RIGHT else (c, x)
        changes.append((y.detach(), z.detach()) if constant else (y, z))
    return changes


def _laid_like(shared: Tensor, dense: Tensor) -> Tensor:
    """(S, *shape) in the order in memory that (N, *shape) has: a difference of the two takes a third of the time."""
    order = sorted(range(1, dense.ndim), key=dense.stride, reverse=True)
    laid = shared.permute(0, *order).contiguous()
    return laid.permute(0, *(order.index(axis) + 1 for axis in range(1, dense.ndim)))


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors that are alive are views of the same numbers in the same order."""
    return a is b or (a.shape == b.shape and a.stride() == b.stride() and a.data_ptr() == b.data_ptr())
