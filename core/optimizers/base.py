"""What a meta-optimizer is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bounds.words import listed
from core.errors import UserError
from core.task_parameter import Gradient, Product, TaskParameter

Tensors = Mapping[str, Tensor]
Parts = Mapping[str, TaskParameter]


def check_tensors(what: str, tensors: Tensors, expected: Mapping[str, torch.Size], owner: str) -> None:
    """See that `tensors` have exactly the `expected` names and shapes, those of `owner`.

    Raises:
        UserError: naming the tensors that do not, and `what` they are part of.
    """
    if missing := sorted(expected.keys() - tensors.keys()):
        raise UserError(f"{what} lacks {listed(missing)}, which {owner} needs")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise UserError(f"{what} has {listed(extra)}, which {owner} does not know")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise UserError(
                f"{what}[{name!r}] has shape {tuple(tensors[name].shape)}, but {owner} needs {tuple(shape)}"
            )


def split_key(key: str) -> tuple[str, str]:
    """The parameter's name and the part in a name of xi, `<name>.<part>`."""
    name, _, part = key.rpartition(".")
    return name, part


def identity(rows: int, columns: int, like: Tensor) -> Tensor:
    """The first columns of an identity, with the type and device of `like`.

    As `torch.eye`, which loads PyTorch's compiler where it has only a shape to find (device "meta"): seconds for each
    run that is loaded.
    """
    matrix = like.new_zeros((rows, columns))
    matrix.diagonal().fill_(1)
    return matrix


class MetaOptimizer(ABC):
    """A learned update rule U_xi(g): one small function per parameter tensor, all of one architecture.

    The parameters xi of the rule for the model's tensor `p` are named `<p>.<part>`. To add a rule, subclass, write
    `initial_parts` and `transform`, and put the class into `core.optimizers.OPTIMIZERS`.

    Attributes:
        name: the name in `make_optimizer`.
        adapts: whether xi is itself adapted within a task (equation 4), or only meta-learned.
    """

    name: str
    adapts: bool

    @abstractmethod
    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """Parts of xi for a parameter tensor shaped like `like` (its dtype and device), at their start."""

    @abstractmethod
    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """U_xi(grad) of one parameter tensor for N tasks: (N, *shape) to (N, *shape)."""

    def transform_thin(self, parts: Parts, gradient: Gradient) -> Tensor | Product:
        """The same for a gradient that may be known by its factors, in whatever form is cheapest to go on with."""
        return self.transform(parts, gradient.dense)

    def init(self, theta: Tensors) -> dict[str, Tensor]:
        """xi for the model parameters `theta`, at its start; fresh tensors."""
        return {
            f"{name}.{part}": tensor
            for name, parameter in theta.items()
            for part, tensor in self.initial_parts(parameter.detach()).items()
        }

    def check(self, theta: Tensors, xi: Tensors) -> None:
        """See that `xi` has exactly the names and shapes that this rule has for `theta`.

        Raises:
            UserError: if it has not.
        """
        expected = {
            f"{name}.{part}": tensor.shape
            for name, parameter in theta.items()
            for part, tensor in self.initial_parts(parameter.detach().to("meta")).items()
        }
        check_tensors("xi", xi, expected, f"rule {self.name!r} on this model")

    @property
    def is_gradient_descent(self) -> bool:
        """Whether U(g) = g, so that the inner loop may step without forming g."""
        return False

    @property
    def keeps_zero(self) -> bool:
        """Whether U(0) = 0 whatever xi is, so that what a network does not use needs no update."""
        return self.is_gradient_descent

    def bind(self, xi: Tensors, num_tasks: int, names: Iterable[str]) -> dict[str, dict[str, TaskParameter]]:
        """xi (S, *shape) as `num_tasks` tasks have it, by parameter name and part, for the parameters `names`."""
        bound: dict[str, dict[str, TaskParameter]] = {name: {} for name in names}
        for key, tensor in xi.items():
            name, part = split_key(key)
            if name in bound:
                bound[name][part] = TaskParameter(tensor, num_tasks // len(tensor))
        return bound

    def update(self, xi: Tensors, grads: Tensors) -> dict[str, Tensor]:
        """U_xi(g) for one task.

        Args:
            xi: as `init` names and shapes it.
            grads: gradient of each parameter tensor, without a task axis.

        Returns:
            The update of each tensor in `grads`, to be subtracted.
        """
        bound = self.bind({name: tensor.unsqueeze(0) for name, tensor in xi.items()}, 1, grads)
        return {name: self.transform(bound[name], grad.unsqueeze(0)).squeeze(0) for name, grad in grads.items()}
