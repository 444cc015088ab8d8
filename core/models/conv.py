"""The convolutional networks of Finn et al. (2017), as the paper uses them (A.1.2)."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, unknown_name
from core.models.batch_norm import batch_norm, batch_norm_in_place
from core.models.common_convolution import common_convolution, suits_common
from core.models.convolution import Settings, by_task, convolution, side_by_side, wants_channels_last
from core.models.elementwise import relu, spatial_mean
from core.models.folding import Moments, folded, is_foldable, moments
from core.models.layers import TaskSequential
from core.models.linear import linear_layers
from core.task_parameter import TaskParameter

NormMode = Literal["batch", "instance", "none"]
Downsample = Literal["stride", "max_pool"]

MAX_DEPTH = 4  # what Finn et al. (2017) have, and the default
POOLED = 5  # height and width of what reaches FC with "max_pool": 84 pixels halved four times


class _BatchNorm(nn.BatchNorm2d):
    """The statistics of the batch at hand, of each task alone."""

    def __init__(self, filters: int) -> None:
        super().__init__(filters, track_running_stats=False)

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """(N, n, F, height, width) of the same."""
        # Where no gradient is asked for, this and ReLU write over their input, a convolution's own output: the memory
        # of large activations takes as long as the arithmetic.
        normalise = batch_norm if torch.is_grad_enabled() else batch_norm_in_place
        return normalise(x, theta["weight"].value(), theta["bias"].value(), self.eps)


class _InstanceNorm(nn.GroupNorm):
    """The statistics of each example alone.

    One group a channel: GroupNorm, unlike InstanceNorm2d, treats a single pixel as it treats any other number.
    """

    def __init__(self, filters: int) -> None:
        super().__init__(filters, filters)

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """(N, n, F, height, width) of the same."""
        # Where channels are last, PyTorch's kernel loses digits of channels far from zero.
        normalised = F.group_norm(x.flatten(0, 1).contiguous(), self.num_groups, eps=self.eps).view(x.shape)
        weight, bias = (theta[name].value()[:, None, :, None, None] for name in ("weight", "bias"))
        return normalised * weight + bias


class _NoNorm(nn.Identity):
    def __init__(self, filters: int) -> None:
        super().__init__()

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """What comes in."""
        return x


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": _BatchNorm, "instance": _InstanceNorm, "none": _NoNorm}


class _Convolution(nn.Conv2d):
    """3 x 3, padding 1."""

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """(N, n, filters, height, width) of (N, n, channels, height, width).

        Raises:
            UserError: for a convolution whose settings were changed.
        """
        return self._applied(x, theta["weight"], theta.get("bias"))

    def normalised(
        self, norm: _BatchNorm | _InstanceNorm, theta: Mapping[str, TaskParameter], x: Tensor, *, takes_images: bool
    ) -> Tensor:
        """The same and the normalisation after it, of theta as `conv.weight`, `norm.weight`, ...

        Normalisation takes any bias out again, so that nothing hangs on the convolution's.
        """
        weight = theta["conv.weight"]
        if isinstance(norm, _BatchNorm) and takes_images and is_foldable(x, weight.shape[1:]):
            data = weight.known_of(x, self._prepared)
            kernels, shifts = folded(
                weight.value(), theta["norm.weight"].value(), theta["norm.bias"].value(), norm.eps, data.moments
            )
            return self._of_each(data.groups, kernels, shifts, padding=0)
        y = self._applied(x, weight)
        return norm.forward_tasks({"weight": theta["norm.weight"], "bias": theta["norm.bias"]}, y)

    def _applied(self, x: Tensor, weight: TaskParameter, bias: TaskParameter | None = None) -> Tensor:
        """(N, n, filters, height, width) of (N, n, channels, height, width)."""
        kernels, groups = weight.undivided(), _as_groups(x)
        if kernels is None or not suits_common(x):
            return self._of_each(groups, weight.value(), None if bias is None else bias.value())
        out = common_convolution(groups, weight, kernels, self._checked_stride(), 1)
        out = by_task(out, len(x))
        return out if bias is None else out + bias.value()[:, None, :, None, None]

    def _of_each(self, groups: Tensor, kernels: Tensor, shifts: Tensor | None = None, padding: int = 1) -> Tensor:
        """By kernels (N, F, C, 3, 3) of each task, and shifts (N, F), of what `_as_groups` gives.

        The tasks are groups of channels. What comes out of one such convolution goes into the next without a copy.
        """
        shifts = None if shifts is None else shifts.flatten()
        stride = self._checked_stride()
        settings = Settings((stride, stride), (padding, padding), len(kernels))
        return by_task(convolution(groups, kernels.flatten(0, 1), shifts, settings), len(kernels))

    def _prepared(self, x: Tensor) -> "_Data":
        # Batch normalisation takes out whatever is added to all pixels, padding included; what is added here keeps the
        # digits of sums over pixels, which are mostly of one sign otherwise.
        padded = F.pad(x, (1, 1, 1, 1)) - x.mean((1, 3, 4), keepdim=True)
        height, width = self.kernel_size
        return _Data(_as_groups(padded), moments(padded, (height, width), self._checked_stride()))

    def _checked_stride(self) -> int:
        stride, *others = self.stride
        if (self.padding, self.dilation, self.groups, self.padding_mode) != ((1, 1), (1, 1), 1, "zeros") or any(
            other != stride for other in others
        ):
            raise UserError(
                "a CNN's convolutions have padding 1, one stride, and no more: make one with others of nn.Conv2d"
            )
        return stride


@dataclass(frozen=True)
class _Data:
    """Images as a first layer takes them, padded, and what its batch normalisation has to know of them."""

    groups: Tensor
    moments: Moments


def _as_groups(x: Tensor) -> Tensor:
    """(N, n, channels, height, width) as (n, N * channels, height, width)."""
    if not wants_channels_last(x):
        return side_by_side(x)
    return _with_channels_last(x.permute(1, 3, 4, 0, 2).flatten(1), x.shape[3:])


def _with_channels_last(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images (n, height * width * channels) as (n, channels, height, width).

    Their strides say channels last even if there is one channel, whose stride has no meaning: by the strides PyTorch
    tells the layout of what comes out.
    """
    return images.unflatten(1, (*size, -1)).permute(0, 3, 1, 2)


class _Block(TaskSequential):
    """Convolution `conv`, normalisation `norm`, `relu`, and `pool` if there is one.

    Attributes:
        takes_images: whether what comes in are the examples themselves, which stay the same while a task is adapted to.
    """

    takes_images = False

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """The same; convolution and normalisation at once."""
        kinds = tuple((name, type(part)) for name, part in self.named_children())
        if kinds not in _NORMALISED:
            return super().forward_tasks(theta, x)  # without a norm, or of parts that were put in place of these
        parts: dict[str, Any] = dict(self.named_children())
        x = parts["conv"].normalised(parts["norm"], theta, x, takes_images=self.takes_images)
        if "pool" in parts:  # before ReLU: the same, as ReLU never falls, and fewer numbers go through it
            x = parts["pool"].forward_tasks({}, x)
        out: Tensor = parts["relu"].forward_tasks({}, x)
        return out

    def _get_name(self) -> str:
        """The name under which saved runs of modules with such blocks know them, see `core.runs.module_digest`."""
        return TaskSequential.__name__


class _ReLU(nn.ReLU):
    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """The same, number by number."""
        return relu(x) if torch.is_grad_enabled() else x.relu_()


class _MaxPool(nn.MaxPool2d):
    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """(N, n, F, height, width) of the same."""
        return by_task(self(side_by_side(x)), len(x))


# The parts of blocks whose output is normalised.
_NORMALISED = {
    (("conv", _Convolution), ("norm", norm), ("relu", _ReLU), *pool)
    for norm, pool in itertools.product((_BatchNorm, _InstanceNorm), ((), (("pool", _MaxPool),)))
}


class _Mean(nn.Module):
    """The averages (n, F * size * size) of as many parts of each channel of (n, F, height, width)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """The averages."""
        return F.adaptive_avg_pool2d(x, self.size).flatten(1)

    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """(N, n, F * size * size) of (N, n, F, height, width)."""
        if self.size == 1:
            return spatial_mean(x)
        return self(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class _Linear(nn.Linear):
    def forward_tasks(self, theta: Mapping[str, TaskParameter], x: Tensor) -> Tensor:
        """(N, n, out) of (N, n, in)."""
        return linear_layers([theta["weight"]], [theta["bias"]], x)


class CNN(TaskSequential):
    """Logits (n, outputs) of images (n, channels, height, width), by stages.

    Blocks `C1..C<depth>` of 3x3 convolution, normalisation and ReLU; a spatial mean; the linear layer `FC`.

    Depth changes the number of blocks alone: `FC` has equally many inputs at every depth, `filters` with "stride" and
    5 x 5 x `filters` with "max_pool".

    Args:
        channels: channels of an example (channels, height, width).
        outputs: number of logits.
        depth: number of convolutional blocks, 1 to 4.
        filters: output channels of each convolution.
        norm_mode: what normalises each channel. "batch": the statistics of the batch at hand, always (transductive, as
            in Finn et al.: a query example's logits depend on the other query examples, and published numbers on that);
            "instance": those of the example alone; "none": nothing.
        downsample: how a block halves height and width. "stride": the convolution has stride 2 (Omniglot, CIFAR-FS);
            "max_pool": it has stride 1, and 2x2 max-pooling follows (mini-ImageNet), and the last block's output is
            averaged to 5 x 5.

    Raises:
        UserError: for a depth outside 1 to 4, or an unknown mode.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        depth: int = MAX_DEPTH,
        filters: int = 64,
        norm_mode: NormMode = "batch",
        downsample: Downsample = "stride",
    ) -> None:
        super().__init__()
        if not 1 <= depth <= MAX_DEPTH:
            raise UserError(f"a CNN has 1 to {MAX_DEPTH} convolutional layers, not {depth}")
        if norm_mode not in NORMS:
            raise unknown_name("norm_mode", norm_mode, NORMS)
        if downsample not in ("stride", "max_pool"):
            raise unknown_name("downsample", downsample, ("stride", "max_pool"))
        strided = downsample == "stride"
        for name in [f"C{i}" for i in range(1, depth + 1)]:
            block = _Block()
            block.takes_images = name == "C1"
            block.add_module("conv", _Convolution(channels, filters, 3, stride=2 if strided else 1, padding=1))
            block.add_module("norm", NORMS[norm_mode](filters))
            block.add_module("relu", _ReLU())
            if not strided:
                block.add_module("pool", _MaxPool(2))
            self.add_module(name, block)
            channels = filters
        size = 1 if strided else POOLED
        self.add_module("mean", _Mean(size))
        self.add_module("FC", _Linear(filters * size * size, outputs))
