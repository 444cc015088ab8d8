"""A deep linear network made shallow: what depth was for, once adaptation is over.

A LinNet computes W x with the one matrix W = W_h ... W_1. Before and after adaptation it can be replaced by W: the same
logits, fewer parameters, cheaper inference (section 3.2 of the paper). What depth changes is how W *moves*.

Write A_i = W_h ... W_(i+1) for the product of the layers above layer i (the identity for i = h), and
B_i = W_(i-1) ... W_1 for the product of those below (the identity for i = 1), so that W = A_i W_i B_i for every i. For
a loss with gradient G with respect to W, the chain rule gives A_i^T G B_i^T with respect to W_i. One step of plain
gradient descent with adaptation learning rate a, W_i <- W_i - a A_i^T G B_i^T, changes the product, to first order
in a, by one term for each layer:

    dW = -a P(G),   P(G) = sum_i (A_i A_i^T) G (B_i^T B_i)

With columns stacked, vec(X Y Z) = (Z^T (x) X) vec(Y), and P is the matrix

    P = sum_i (B_i^T B_i) (x) (A_i A_i^T)

which is symmetric and positive semi-definite. So plain gradient descent on the layers is gradient descent on W with a
linear meta-optimizer, learned through the layers: a sum of h Kronecker products, where KLin (equation 5),
U(G) = L G R, is the single one R^T (x) L, learned for itself and neither symmetric nor positive. P is measured at
the start theta_0. Orders a^2 to a^h are left out; how much they matter is measured on every task.

Biases are one more column: with [W_i b_i] in place of W_i, and B_i the affine map (x, 1) -> (layer i's input, 1), the
formulas stay as they are, because a bias moves like the weight of a constant input.

Reference:
    S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks", ICML 2018, theorem 1: the same map for
    balanced layers, along training rather than for adaptation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.errors import StudyError
from analysis.schemas import QUANTITIES
from analysis.tasks import draw_test_tasks, run_columns, to_float64
from core import Episodes, Run, adapt
from core.losses import task_losses

# Largest difference of a logit that is put down to float32: absolute up to a logit of 1, relative above. A logit that
# is off by 1e-5 moves a probability by 2.5e-6 at most.
LOGIT_TOLERANCE = 1e-5
CHUNK = 100  # tasks at a time: the layers of 100 networks 784-256-128-64-64-5 in double precision are 200 MB


@dataclass(frozen=True)
class Collapsed:
    """One linear map, for one task or with leading task axes.

    Attributes:
        weight: (..., outputs, inputs).
        bias: (..., outputs), or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (..., n, outputs) of flattened examples (..., n, inputs)."""
        logits = x @ self.weight.mT
        return logits if self.bias is None else logits + self.bias.unsqueeze(-2)


def layers_of(params: Mapping[str, Tensor]) -> list[Tensor]:
    """The layers of a LinNet or of LR, first to last, each (..., out, in), or (..., out, in + 1) with its bias last.

    Args:
        params: `layers.<i>.weight` and `layers.<i>.bias`, or `fc.weight` and `fc.bias`; any leading axes.

    Raises:
        StudyError: if there is anything else, or some layers have a bias and others do not.
    """
    stems = sorted({name.rpartition(".")[0] for name in params}, key=lambda stem: (len(stem), stem))
    expected = ["fc"] if stems == ["fc"] else [f"layers.{i}" for i in range(len(stems))]
    parts = {name.rpartition(".")[2] for name in params}
    names = {f"{stem}.{part}" for stem in expected for part in parts}
    if not stems or stems != expected or parts - {"weight", "bias"} or "weight" not in parts or names != set(params):
        raise StudyError(f"only linear networks collapse, and these parameters are of none: {', '.join(params)}")
    if "bias" not in parts:
        return [params[f"{stem}.weight"] for stem in stems]
    return [torch.cat([params[f"{s}.weight"], params[f"{s}.bias"].unsqueeze(-1)], -1) for s in stems]


def collapse(params: Mapping[str, Tensor]) -> Collapsed:
    """The one linear map that a linear network computes.

    Args:
        params: parameters of a LinNet or of LR, see `layers_of`; fast weights with a leading task axis as well.

    Returns:
        The product of the layers, taken in double precision, in the precision of `params`.

    Raises:
        StudyError: if they are not the parameters of a linear network.
    """
    layers = layers_of(params)
    biased = any(name.endswith("bias") for name in params)
    product = _products(layers, biased)[0][-1].to(layers[0].dtype)
    return Collapsed(product[..., :-1], product[..., -1]) if biased else Collapsed(product, None)


def update_map(params: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The terms (A_i A_i^T, B_i^T B_i) of P, one a layer, in double precision.

    Args:
        params: parameters of one linear network. With biases P acts on [G g], the gradient of the one matrix with
            that of its bias as last column.

    Returns:
        For each layer, first to last, (outputs, outputs) and (inputs, inputs), or (inputs + 1, inputs + 1).

    Raises:
        StudyError: if they are not the parameters of a linear network.
    """
    below, above = _products(layers_of(params), any(name.endswith("bias") for name in params))
    return [(a @ a.mT, b.mT @ b) for a, b in zip(above, below[:-1], strict=True)]


def apply_update_map(terms: Sequence[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """P(G) for gradients (..., outputs, inputs)."""
    return sum((a @ gradient @ b for a, b in terms), torch.zeros_like(gradient))


def update_matrix(terms: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """P as a matrix on vec(G), columns stacked: sum_i (B_i^T B_i) (x) (A_i A_i^T), (outputs * inputs) squared."""
    return sum((torch.kron(b, a) for a, b in terms[1:]), torch.kron(terms[0][1], terms[0][0]))


def update_spectrum(params: Mapping[str, Tensor]) -> Tensor:
    """Eigenvalues of P, which are its singular values, largest first: (outputs * inputs,), or with biases one
    input more.

    P is not built whole. Every B_i but the first ends in W_1, so outside the row space of W_1, of dimension r, only
    the first term of P acts, as A_1 A_1^T in each direction. What remains is a matrix of outputs * r: for a network
    784-256-128-64-64-5 one of 1,280 in place of 3,920.

    Raises:
        StudyError: if they are not the parameters of a linear network.
    """
    terms = update_map(params)
    layers = layers_of(params)
    inputs = terms[0][1].shape[-1]
    # Rows that B_2 reads: those of the first layer, and the constant 1 below a bias.
    rows = layers[0].detach().double()
    if rows.shape[-1] > 1 and any(name.endswith("bias") for name in params):
        rows = torch.cat([rows, torch.eye(inputs, dtype=rows.dtype, device=rows.device)[-1:]])
    if len(terms) == 1:
        basis = rows.new_zeros(inputs, 0)
    elif len(rows) < inputs:
        basis = torch.linalg.qr(rows.mT).Q
    else:
        basis = torch.eye(inputs, dtype=rows.dtype, device=rows.device)
    outside = torch.linalg.eigvalsh(terms[0][0]).repeat(inputs - basis.shape[1])
    if not basis.shape[1]:
        return outside.sort(descending=True).values.clamp_min(0)
    inside = torch.linalg.eigvalsh(update_matrix([(a, basis.mT @ b @ basis) for a, b in terms]))
    # Rounding makes zero eigenvalues slightly negative.
    return torch.cat([inside, outside]).sort(descending=True).values.clamp_min(0)


def kronecker_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of R^T (x) L, largest first: all products of a singular value of L and one of R.

    Args:
        left: L, (n, n).
        right: R, (m, m).

    Returns:
        (n * m,), in double precision.
    """
    a, b = torch.linalg.svdvals(left.detach().double()), torch.linalg.svdvals(right.detach().double())
    return torch.outer(a, b).flatten().sort(descending=True).values


def linear_collapse(run: Run, *, num_tasks: int = 100, seed: int = 0) -> pd.DataFrame:
    """Collapse the network of `run` before and after adaptation, and measure the update map of its depth.

    Args:
        run: a LinNet meta-trained with MAML, or LR with KLin, whose learned map is what depth is compared with.
        num_tasks: test tasks.
        seed: seed of the test tasks, see `post_adaptation`.

    Returns:
        The table `linear_collapse` of `analysis.schemas.SCHEMAS`; `QUANTITIES` there says what is measured. For KLin,
        only its spectrum and learning rate. A run that diverged has one row, with no value. If a logit differs by more
        than the tolerance, the rows of that task have a status that says so.

    Raises:
        StudyError: for a run of another model or method, or more test tasks than there are.
        UserError: for a data set whose files are not found.
    """
    if not suits(run.config):
        raise StudyError(
            f"run {run.id} is {run.config.model} with {run.config.method}; this study needs linnet with maml, "
            "or lr with klin, and all of the model adapting"
        )
    common = {**run_columns(run), "task_seed": seed}
    rows = _Rows()
    if run.diverged:
        rows.add("before", "update map", [np.nan], "1")
    elif run.config.method == "klin":
        rows.add("before", "adapt_lr", [run.config.adapt_lr], "1")
        rows.add("before", "update map", kronecker_spectrum(run.xi["fc.weight.L"], run.xi["fc.weight.R"]), "1")
    else:
        _measure_linnet(run, num_tasks, seed, rows)
    table = rows.table().assign(**common)
    if run.diverged:
        return table
    found = {q: table[table["quantity"] == q].set_index(["task", "stage"])["value"] for q in QUANTITIES}
    wrong = found["logit difference"] > found["logit tolerance"]
    bad = pd.MultiIndex.from_frame(table[["task", "stage"]]).isin(wrong.index[wrong])
    table.loc[bad, "status"] = "failed: the collapsed matrix has other logits"
    # A task diverges as a whole: none of its numbers is a measurement.
    lost = table.loc[~np.isfinite(table["value"]), "task"].dropna().unique()
    diverged = table["task"].isin(lost)
    table.loc[diverged, "status"], table.loc[diverged, "value"] = "diverged", np.nan
    return table


def suits(config: Any) -> bool:
    """Whether a run of this configuration has something to collapse or to compare with."""
    everything = config.adapted is None  # what stays as it is has no part in the update map
    return everything and (config.model, config.method) in {("linnet", "maml"), ("lr", "klin")}


def _measure_linnet(run: Run, num_tasks: int, seed: int, rows: "_Rows") -> None:
    changes: dict[str, Any] = {"same_points": False} if run.config.dataset == "synthetic" else {}
    episodes = draw_test_tasks(run.tasks(seed=seed, **changes), num_tasks)
    theta = {name: tensor.detach() for name, tensor in run.theta.items()}
    chunks = [_of_tasks(run, theta, episodes[start : start + CHUNK]) for start in range(0, num_tasks, CHUNK)]
    of_tasks = {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}
    counts = _counts(theta)
    for stage in ("before", "after"):
        for quantity in ("logit difference", "logit tolerance", "logit size"):
            rows.add_tasks(stage, quantity, of_tasks[stage, quantity], "logit")
        for quantity, (count, unit) in counts.items():
            rows.add(stage, quantity, [count], unit)
    rows.add("before", "adapt_lr", [run.config.adapt_lr], "1")
    rows.add("before", "update map", update_spectrum(theta), "1")
    rows.add_tasks("before", "beyond first order", of_tasks["before", "beyond first order"], "1")


def _counts(theta: Mapping[str, Tensor]) -> dict[str, tuple[float, str]]:
    """Parameters, and multiply-adds for one example, of the network and of its one matrix: number and unit."""
    single = collapse(theta)
    collapsed = [single.weight] if single.bias is None else [single.weight, single.bias]
    matrices = [tensor for tensor in theta.values() if tensor.ndim == 2]

    def count(tensors: Sequence[Tensor]) -> float:
        return float(sum(tensor.numel() for tensor in tensors))

    return {
        "parameters of the network": (count(list(theta.values())), "parameters"),
        "parameters collapsed": (count(collapsed), "parameters"),
        "multiply-adds of the network": (count(matrices), "multiply-adds"),
        "multiply-adds collapsed": (count([single.weight]), "multiply-adds"),
    }


def _of_tasks(run: Run, theta: Mapping[str, Tensor], episodes: Episodes) -> dict[tuple[str, str], Tensor]:
    """What is measured on each task, (T,), by stage and quantity."""
    query = episodes.query_x.flatten(2)
    start = {name: tensor.expand(episodes.num_tasks, *tensor.shape) for name, tensor in theta.items()}
    options: dict[str, Any] = {"lr": run.config.adapt_lr, "lr_scope": run.config.lr_scope}
    end = adapt(run.model, run.rule, theta, run.xi, episodes, steps=run.config.steps, **options).params
    found = {}
    for stage, params in (("before", start), ("after", end)):
        logits = forward(params, query)
        size = logits.abs().flatten(1).amax(1)
        found[stage, "logit difference"] = (logits - collapse(params)(query)).abs().flatten(1).amax(1)
        found[stage, "logit tolerance"] = LOGIT_TOLERANCE * size.clamp_min(1)
        found[stage, "logit size"] = size
    # Both in double precision, so that what is left is the higher orders and not rounding.
    theta64, episodes64 = to_float64(dict(theta)), episodes.to(dtype=torch.float64)
    stepped = adapt(run.model, run.rule, theta64, to_float64(run.xi), episodes64, steps=1, **options).params
    before, after = layers_product(theta64), layers_product(stepped)
    gradient = collapsed_gradient(theta64, episodes64)
    true = after - before
    theta_lr = run.config.adapt_lr if run.config.lr_scope == "both" else 1.0
    missed = true + theta_lr * apply_update_map(update_map(theta64), gradient)
    moved = torch.linalg.matrix_norm(true)
    # A task without a gradient does not move; nothing is missed then.
    share = torch.where(moved == 0, 0.0, torch.linalg.matrix_norm(missed) / moved)
    return found | {("before", "beyond first order"): share}


def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Logits (T, n, outputs) of x (T, n, inputs), one layer after the other: the network as it is defined."""
    biased = any(name.endswith("bias") for name in params)
    for layer in layers_of(params):
        x = x @ layer[..., :-1].mT + layer[..., -1].unsqueeze(-2) if biased else x @ layer.mT
    return x


def layers_product(params: Mapping[str, Tensor]) -> Tensor:
    """The one matrix (..., outputs, inputs), with the bias as last column if there is one."""
    single = collapse(params)
    return single.weight if single.bias is None else torch.cat([single.weight, single.bias.unsqueeze(-1)], -1)


def collapsed_gradient(theta: Mapping[str, Tensor], episodes: Any) -> Tensor:
    """Gradient of each task's support loss with respect to the one matrix at `theta`: (T, outputs, inputs [+ 1])."""
    product = layers_product(theta)
    x = episodes.support_x.flatten(2)
    if any(name.endswith("bias") for name in theta):
        x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    matrices = product.expand(len(x), *product.shape).clone().requires_grad_()
    loss = task_losses(x @ matrices.mT, episodes.support_y, episodes.kind).sum()
    return torch.autograd.grad(loss, matrices)[0]


def _products(layers: Sequence[Tensor], biased: bool) -> tuple[list[Tensor], list[Tensor]]:
    """(B_1, ..., B_h, W) and (A_1, ..., A_h), in double precision. With biases the B_i end in a row (0, ..., 0, 1)."""
    layers = [layer.detach().double() for layer in layers]
    inputs = layers[0].shape[-1]
    eye = torch.eye(inputs, dtype=torch.float64, device=layers[0].device)
    below = [eye.expand(*layers[0].shape[:-2], inputs, inputs)]
    for i, layer in enumerate(layers):
        product = layer @ below[-1]
        if biased and i < len(layers) - 1:
            product = torch.cat([product, below[-1][..., -1:, :]], dim=-2)
        below.append(product)
    outputs = layers[-1].shape[-2]
    above = [torch.eye(outputs, dtype=torch.float64, device=eye.device)]
    for layer in reversed(layers[1:]):
        above.insert(0, above[0] @ (layer[..., :-1] if biased else layer))
    return below, above


class _Rows:
    """Collects measurements for the long table."""

    def __init__(self) -> None:
        self.parts: list[pd.DataFrame] = []

    def add(self, stage: str, quantity: str, values: Any, unit: str) -> None:
        """A quantity of the run: one number, or a spectrum."""
        numbers = np.asarray(values, dtype=np.float64) if not isinstance(values, Tensor) else values.cpu().numpy()
        self._append(stage, quantity, numbers, unit, None, np.arange(len(numbers)))

    def add_tasks(self, stage: str, quantity: str, values: Tensor, unit: str) -> None:
        """A quantity of each task, (T,)."""
        self._append(stage, quantity, values.double().cpu().numpy(), unit, np.arange(len(values)), 0)

    def _append(self, stage: str, quantity: str, numbers: Any, unit: str, task: Any, index: Any) -> None:
        assert quantity in QUANTITIES, quantity
        part = pd.DataFrame({"value": numbers, "stage": stage, "quantity": quantity, "unit": unit, "index": index})
        part["task"] = pd.array([pd.NA] * len(part) if task is None else task, dtype="Int64")
        self.parts.append(part)

    def table(self) -> pd.DataFrame:
        return pd.concat(self.parts, ignore_index=True)
