"""The methods by name: the rule that makes the update, what adapts within a task, and how the outer loop learns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from core.errors import UserError
from core.models.layers import layers_of
from core.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Method:
    """What a method's name stands for.

    Attributes:
        reference: the paper that proposed it.
        rule: name in `core.optimizers.OPTIMIZERS`.
        adapts: which layers adapt within a task: "all", the "head" (the last layer) or the "body" (all others).
        first_order: whether inner gradients are constants of the meta-gradient by the method's definition.
        outer: what the outer loop descends: the "meta_gradient" of the query loss, or "reptile", the way back from
            where adaptation ends.
        options: options of the rule that are part of the method.
    """

    reference: str
    rule: str = "sgd"
    adapts: Literal["all", "head", "body"] = "all"
    first_order: bool = False
    outer: Literal["meta_gradient", "reptile"] = "meta_gradient"
    options: Mapping[str, Any] = field(default_factory=dict)


_ARNOLD = "Arnold, Iqbal and Sha (2019)"

METHODS: dict[str, Method] = {
    "maml": Method("Finn, Abbeel and Levine (2017)"),
    "meta_sgd": Method("Li, Zhou, Chen and Li (2017)", "meta_sgd"),
    "meta_curvature": Method("Park and Oliva (2019)", "meta_curvature"),
    "klin": Method(_ARNOLD, "klin"),
    "kfc": Method(_ARNOLD, "kfc"),
    "cholesky": Method(_ARNOLD, "cholesky"),
    "linear": Method(_ARNOLD, "linear"),
    "anil": Method("Raghu, Raghu, Bengio and Vinyals (2020)", adapts="head"),
    "boil": Method("Oh, Yoo, Kim and Yun (2021)", adapts="body"),
    "fomaml": Method("Finn, Abbeel and Levine (2017)", first_order=True),
    "reptile": Method("Nichol, Achiam and Schulman (2018)", first_order=True, outer="reptile"),
    # As Arnold et al. describe it: rates of single parameters, adapted within a task by equation 4. What its own paper
    # adapts, online along training, are scalar rates of the inner and the outer loop.
    "alpha_maml": Method("Behl, Baydin and Torr (2019)", "meta_sgd", options={"adapts": True}),
}
assert {method.rule for method in METHODS.values()} == set(OPTIMIZERS)


def adapted_layers(method: str, names: Sequence[str]) -> tuple[str, ...] | None:
    """The parameters, of those called `names`, that adapt within a task by a method's definition; None for all.

    Raises:
        UserError: if the body adapts, and the model is its head alone.
    """
    kind = METHODS[method].adapts
    if kind == "all":
        return None
    *body, head = layers_of(names).values()
    if kind == "head":
        return tuple(head)
    if not body:
        raise UserError(f"{method} adapts all layers but the last, and this model has no other")
    return tuple(name for layer in body for name in layer)
