"""The convolutional networks of Finn et al. (2017), as the paper uses them (A.1.2)."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from core.errors import UserError, unknown_name

NormMode = Literal["batch", "instance", "none"]
Downsample = Literal["stride", "max_pool"]

POOLED = 5  # height and width of what reaches FC with "max_pool": 84 pixels halved four times


def _batch_norm(filters: int) -> nn.Module:
    return nn.BatchNorm2d(filters, track_running_stats=False)


def _instance_norm(filters: int) -> nn.Module:
    # One group a channel: GroupNorm, unlike InstanceNorm2d, treats a single pixel as it treats any other number.
    return nn.GroupNorm(filters, filters)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": _batch_norm,
    "instance": _instance_norm,
    "none": lambda filters: nn.Identity(),
}


class CNN(nn.Sequential):
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
        depth: int = 4,
        filters: int = 64,
        norm_mode: NormMode = "batch",
        downsample: Downsample = "stride",
    ) -> None:
        super().__init__()
        if not 1 <= depth <= 4:
            raise UserError(f"a CNN has 1 to 4 convolutional layers, not {depth}")
        if norm_mode not in NORMS:
            raise unknown_name("norm_mode", norm_mode, NORMS)
        if downsample not in ("stride", "max_pool"):
            raise unknown_name("downsample", downsample, ("stride", "max_pool"))
        strided = downsample == "stride"
        for name in [f"C{i}" for i in range(1, depth + 1)]:
            block = nn.Sequential()
            block.add_module("conv", nn.Conv2d(channels, filters, 3, stride=2 if strided else 1, padding=1))
            block.add_module("norm", NORMS[norm_mode](filters))
            block.add_module("relu", nn.ReLU())
            if not strided:
                block.add_module("pool", nn.MaxPool2d(2))
            self.add_module(name, block)
            channels = filters
        size = 1 if strided else POOLED
        self.add_module("mean", nn.AdaptiveAvgPool2d(size))
        self.add_module("flatten", nn.Flatten())
        self.add_module("FC", nn.Linear(filters * size * size, outputs))
