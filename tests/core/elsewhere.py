"""The engine on a device that is not there, as a program: `python -m tests.core.elsewhere` prints what failed, as JSON.

PyTorch's fake tensors have shapes, types and devices, and no numbers. So it is seen without a GPU whether tensors of
two devices meet, and whether a number is asked for, for which a GPU would have to be waited for. They are not on CUDA,
whose backward pass needs a driver, but on the device that PyTorch keeps for backends of others; a process that has
given it a name keeps that, so that this is a process of its own. What only CUDA does, and numbers, is in `test_gpu`.
"""

import json
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from core import make_tasks
from core.adaptation import replica_meta_gradient
from core.evaluation import replica_evaluate
from core.inner_loop import InnerLoop
from core.models import make_model
from core.optimizers import make_optimizer
from core.reptile import replica_reptile_gradient
from tests.naive import RULES, NaiveRule, Tensors

NAME = "elsewhere"
# Faults, which have to be found: a tensor that was left behind, and a decision that waits for a number.
FAULTS = ("another device", "a number")
REPLICAS, TASKS = 2, 3


class Faulty(nn.Module):
    """A linear layer with one of the faults."""

    def __init__(self, inputs: int, fault: str) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, 5)
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.fc(x.flatten(1))
        if self.fault == "another device":
            return outputs + torch.ones(5)
        return outputs if outputs.sum() > 0 else -outputs


def there(tensor: Tensor) -> Tensor:
    """One of the same kind, on the device that is not there."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=f"{NAME}:0")


def stacked(tensors: Tensors) -> Tensors:
    """The same for all replicas."""
    return {name: tensor.expand(REPLICAS, *tensor.shape) for name, tensor in tensors.items()}


def check(found: object) -> None:
    """See that all tensors are on that device.

    Raises:
        AssertionError: if one is not.
    """
    if isinstance(found, Tensor):
        assert found.device.type == NAME, f"a result on {found.device}"
    elif isinstance(found, dict | tuple | list):
        for one in found.values() if isinstance(found, dict) else found:
            check(one)


def cases() -> dict[str, Callable[[], object]]:
    """What is computed, by name."""
    source = make_tasks("glyphs", ways=5, shots=1, seed=0)
    episodes = source.sample("train", REPLICAS * TASKS, 0)
    inputs = episodes.support_x[0, 0].numel()
    plain = RULES["sgd"]

    def on(module: nn.Module, naive_rule: NaiveRule, what: Callable[..., object], **options: object) -> object:
        rule = make_optimizer(naive_rule.name, **naive_rule.options())
        loop = InnerLoop(2, 0.1, first_order=bool(options.pop("first_order", False)))
        with FakeTensorMode():
            theta = {name: there(parameter) for name, parameter in module.named_parameters()}
            xi = rule.init(theta)
            return xi, what(module, rule, stacked(theta), stacked(xi), episodes.map(there), loop, **options)

    lr, cnn = make_model("lr", source, seed=0), make_model("cnn", source, seed=0, depth=2, filters=8)
    own = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 5))
    found: dict[str, Callable[[], object]] = {}
    for name, rule in RULES.items():
        found[f"lr under {name}"] = lambda rule=rule: on(lr, rule, replica_meta_gradient)
    for name in ("sgd", "meta_sgd", "meta_curvature", "klin", "kfc unit norm"):
        found[f"cnn under {name}"] = lambda name=name: on(cnn, RULES[name], replica_meta_gradient)
    found |= {
        "own": lambda: on(own, plain, replica_meta_gradient),
        "first order": lambda: on(cnn, RULES["kfc"], replica_meta_gradient, first_order=True),
        "chunks": lambda: on(cnn, RULES["kfc"], replica_meta_gradient, tasks_per_chunk=2),
        "evaluation": lambda: on(cnn, RULES["kfc"], replica_evaluate),
        "reptile": lambda: on(cnn, plain, replica_reptile_gradient),
    }
    return found | {
        fault: lambda fault=fault: on(Faulty(inputs, fault), plain, replica_meta_gradient) for fault in FAULTS
    }


def main() -> None:
    """Print the failures, by case: an empty text where there is none."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    warnings.simplefilter("ignore")  # that fake tensors have no addresses
    failures = {}
    for name, case in cases().items():
        try:
            check(case())
            failures[name] = ""
        except Exception as error:  # whatever it is, the test names it
            failures[name] = f"{type(error).__name__}: {error}"
    json.dump(failures, sys.stdout)


if __name__ == "__main__":
    main()
