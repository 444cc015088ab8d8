"""Meta-Curvature."""

from torch import Tensor

from core.optimizers.base import Parts, identity
from core.optimizers.kronecker import KLin


class MetaCurvature(KLin):
    """A learned matrix for each mode of a gradient tensor (Park & Oliva, 2019).

    A matrix (out, in) or a vector is transformed as by `KLin`, U(G) = L G R. A convolution (N, C, H, W) has three
    matrices: U = G x_1 out x_2 in x_3 filter (mode products), or on vec(G) with rows stacked,
    (out (x) in (x) filter) vec(G), of N x N, C x C and HW x HW. The paper calls Meta-Curvature "KLin without adapting
    the optimizer"; on convolutions KLin lacks the matrix over filters. All start at the identity: gradient descent.

    Args:
        adapts: whether the matrices are adapted within a task; not in the original.
    """

    name = "meta_curvature"

    def __init__(self, *, adapts: bool = False) -> None:
        super().__init__(adapts=adapts)

    def initial_parts(self, like: Tensor) -> dict[str, Tensor]:
        """Identities."""
        if like.ndim != 4:
            return super().initial_parts(like)
        filters, channels, height, width = like.shape
        sizes = {"out": filters, "in": channels, "filter": height * width}
        return {part: identity(size, size, like) for part, size in sizes.items()}

    def transform(self, parts: Parts, grad: Tensor) -> Tensor:
        """The mode products for each task."""
        if grad.ndim != 5:
            return super().transform(parts, grad)
        modes = grad.flatten(3)  # (T, N, C, HW)
        modes = parts["filter"].right_t(modes)
        modes = parts["in"].right_t(modes.mT).mT
        modes = parts["out"].right_t(modes.movedim(1, -1)).movedim(-1, 1)
        return modes.reshape(grad.shape)
