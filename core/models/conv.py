"""The convolutional networks of Finn et al. (2017), as the paper uses them (A.1.2)."""

from torch import Tensor, nn

from core.errors import UserError


class CNN(nn.Module):
    """Blocks `C1..C<depth>` of 3x3 convolution (stride 2, padding 1), batch norm and ReLU; spatial mean; `FC`.

    The last layer has `filters` inputs at every depth, so that depth changes nothing else. Batch norm always uses the
    statistics of the batch at hand (transductive, as in Finn et al.): there are no running statistics.

    Args:
        channels: channels of an example (channels, height, width).
        outputs: number of logits.
        depth: number of convolutional blocks, 1 to 4.
        filters: output channels of each convolution.

    Raises:
        UserError: for a depth outside 1 to 4.
    """

    def __init__(self, channels: int, outputs: int, *, depth: int = 4, filters: int = 64) -> None:
        super().__init__()
        if not 1 <= depth <= 4:
            raise UserError(f"a CNN has 1 to 4 convolutional layers, not {depth}")
        self.blocks = [f"C{i}" for i in range(1, depth + 1)]
        for name in self.blocks:
            block = nn.Sequential()
            block.add_module("conv", nn.Conv2d(channels, filters, 3, stride=2, padding=1))
            block.add_module("norm", nn.BatchNorm2d(filters, track_running_stats=False))
            block.add_module("relu", nn.ReLU())
            self.add_module(name, block)
            channels = filters
        self.FC = nn.Linear(filters, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, outputs) of images (n, channels, height, width)."""
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return self.FC(x.mean(dim=(-2, -1)))
