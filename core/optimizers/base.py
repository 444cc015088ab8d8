"""What a meta-optimizer is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor

from core.errors import UserError
from core.task_parameter import TaskParameter

Tensors = Mapping[str, Tensor]
Parts = Mapping[str, TaskParameter]


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

    def init(self, theta: Tensors) -> dict[str, Tensor]:
        """xi for the model parameters `theta`, at its start; fresh tensors."""
        return {
            f"{name}.{part}": tensor
            for name, parameter in theta.items()
            for part, tensor in self.initial_parts(parameter.detach()).items()
        }

    def check(self, theta: Tensors, xi: Tensors) -> None:
        """Raise UserError unless `xi` has exactly the names and shapes that this rule has for `theta`."""
        expected = {
            f"{name}.{part}": tensor.shape
            for name, parameter in theta.items()
            for part, tensor in self.initial_parts(parameter.detach().to("meta")).items()
        }
        if missing := sorted(expected.keys() - xi.keys()):
            raise UserError(f"xi lacks {', '.join(missing)}, which rule {self.name!r} needs for this model")
        if extra := sorted(xi.keys() - expected.keys()):
            raise UserError(f"xi has {', '.join(extra)}, which rule {self.name!r} does not know for this model")
        for name, shape in expected.items():
            if xi[name].shape != shape:
                raise UserError(f"xi[{name!r}] has shape {tuple(xi[name].shape)}, but {tuple(shape)} is needed")

    @property
    def is_gradient_descent(self) -> bool:
        """Whether U(g) = g, so that the inner loop may step without forming g."""
        return False

    def bind(self, xi: Tensors, num_tasks: int, adapted: Iterable[str]) -> dict[str, dict[str, TaskParameter]]:
        """xi (S, *shape) as S * `num_tasks` tasks have it, by parameter name and part, for the names `adapted`."""
        bound: dict[str, dict[str, TaskParameter]] = {name: {} for name in adapted}
        for key, tensor in xi.items():
            name, part = key.rsplit(".", 1)
            if name in bound:
                bound[name][part] = TaskParameter(tensor, num_tasks)
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
