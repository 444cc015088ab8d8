"""Plain gradient descent: MAML."""

from torch import Tensor

from core.optimizers.base import MetaOptimizer, Parts


class SGD(MetaOptimizer):
    """U(g) = g, with no parameters: the inner loop of MAML (Finn et al., 2017; equation 1)."""

    name = "sgd"
    adapts = False

    @property
    def is_gradient_descent(self) -> bool:
        """It is."""
        return True

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """None."""
        return {}

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """The gradient itself."""
        return grad
