"""Loss and accuracy of each task, from a batch of tasks' outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError
from core.tasks.base import Kind


def task_losses(outputs: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """Mean loss over the examples of each task.

    Args:
        outputs: (N, n, c) logits, c = 1 for binary tasks; (N, n, ...) predictions for regression.
        y: (N, n) classes, or (N, n, ...) targets for regression.
        kind: "classification" (cross-entropy), "binary" (cross-entropy of the logistic function) or "regression"
            (mean squared error).

    Returns:
        (N,) losses, in nats for the cross-entropies, in single precision or better.

    Raises:
        UserError: if the outputs do not fit the targets.
    """
    outputs = _precise(outputs)
    if kind == "binary":
        if outputs.shape[2:] not in ((1,), ()):
            raise UserError(f"a binary task needs a model with 1 output, not {tuple(outputs.shape[2:])}")
        return F.binary_cross_entropy_with_logits(outputs.flatten(1), y.to(outputs.dtype), reduction="none").mean(1)
    if kind == "classification":
        if outputs.ndim != 3:
            raise UserError(f"a classification task needs logits (examples, classes), not {tuple(outputs.shape[1:])}")
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
    if outputs.shape != y.shape:
        raise UserError(f"predictions {tuple(outputs.shape[1:])} do not fit the targets {tuple(y.shape[1:])} of a task")
    return (outputs - y).square().flatten(1).mean(1)


def task_accuracies(outputs: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """(N,) fractions of examples classified right; NaN for regression, and where an output is not finite.

    Outputs that are not finite have no class: counted as an answer, they would look like chance.
    """
    outputs = _precise(outputs)
    if kind == "regression":
        return outputs.new_full((len(outputs),), float("nan"))
    right = (outputs.flatten(1) > 0) == (y > 0.5) if kind == "binary" else outputs.argmax(-1) == y
    accuracy = right.to(outputs.dtype).mean(1)
    return torch.where(outputs.isfinite().flatten(1).all(1), accuracy, torch.nan)


def _precise(outputs: Tensor) -> Tensor:
    """Outputs of a network in half precision as float32: its numbers are too coarse for a mean over examples."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32)) if outputs.is_floating_point() else outputs
