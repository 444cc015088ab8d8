"""SGD and Adam for stacked tensors, by PyTorch's own functions: what trains theta and xi.

Not by its optimizer classes: making one loads PyTorch's compiler, which takes longer than a small run does. Adam is the
fused one, a kernel for each tensor in place of a dozen: a step of LR's KFC takes a sixth of the time on a CPU.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

# What each remembers after its first step: moments of each tensor, and counts.
OPTIMIZER_STATE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sgd": ((), ()),
    "adam": (("exp_avg", "exp_avg_sq"), ("step",)),
}


class OuterOptimizer:
    """SGD without momentum, or Adam with PyTorch's defaults (Kingma & Ba 2015), both without weight decay.

    Both are element by element, so that runs or tasks stacked on an axis are trained as each would be alone.

    Args:
        kind: "sgd" or "adam".
        lr: step size.

    Attributes:
        moments: of each kind in `OPTIMIZER_STATE`, by the name and in the shape of the tensor that they are of.
        steps: how many were made.
    """

    def __init__(self, kind: str, lr: float) -> None:
        self.kind, self.lr = kind, lr
        self.moments: dict[str, dict[str, Tensor]] = {name: {} for name in OPTIMIZER_STATE[kind][0]}
        self.steps = 0
        self._counts: list[Tensor] = []  # `steps` of each tensor, where it is, as Adam's kernel wants it

    @torch.no_grad()
    def step(self, tensors: Mapping[str, Tensor], grads: Mapping[str, Tensor], unless: Tensor | None = None) -> None:
        """Change `tensors`, contiguous, in place, by their gradients, which have the same names and shapes.

        Args:
            unless: float32 (), 0 or 1, where the tensors are: at 1 neither they nor the moments change, which the
                device finds out by itself. `steps` counts this step then, too.
        """
        changed = list(tensors.values())
        along = [grads[name] for name in tensors]
        if self.kind == "adam" or unless is not None:
            # Fused kernels pair numbers by their place in memory, whatever the strides say.
            assert all(tensor.is_contiguous() for tensor in changed)
            along = [grad.contiguous() for grad in along]
        if self.kind == "sgd":
            none: list[Tensor | None] = [None] * len(changed)
            sgd(
                changed, along, none,
                weight_decay=0, momentum=0, lr=self.lr, dampening=0, nesterov=False, maximize=False,
                foreach=unless is None, fused=unless is not None, found_inf=unless,
            )  # fmt: skip
        else:
            for moments in self.moments.values():
                if not moments:
                    moments.update({name: torch.zeros_like(tensor) for name, tensor in tensors.items()})
            if not self._counts:
                count = torch.tensor(self.steps, dtype=torch.float32)
                self._counts = [count.to(tensor.device, copy=True) for tensor in changed]
            exp_avg, exp_avg_sq = ([moments[name] for name in tensors] for moments in self.moments.values())
            adam(
                changed, along, exp_avg, exp_avg_sq, [], self._counts,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=self.lr, weight_decay=0, eps=1e-8, maximize=False,
                fused=True, found_inf=unless,
            )  # fmt: skip
        self.steps += 1

    def restore(self, moments: Mapping[str, Mapping[str, Tensor]], steps: int) -> None:
        """Go on from `moments` as in the attribute, none of them if none was made, and after `steps` steps."""
        self.moments = {kind: dict(moments.get(kind, {})) for kind in self.moments}
        self.steps, self._counts = steps, []

    def keep(self, replicas: Sequence[int]) -> None:
        """Forget all but these of the leading axis."""
        self.moments = {
            kind: {name: moment[list(replicas)] for name, moment in moments.items()}
            for kind, moments in self.moments.items()
        }
