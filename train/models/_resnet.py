"""CIFAR-style residual networks (arXiv 1512.03385, §4.2) for images of any size and number of channels.

A 3×3 convolution, three stages of basic blocks with width, 2·width and 4·width channels, the mean over all places,
a linear layer. The second and third stage halve the image. Where a block changes the shape, its shortcut is a 1×1
convolution with batch norm.
"""

from typing import cast

from pydantic import Field
from torch import Tensor, nn

from msq.artefact import Strict
from msq.checkpoint import InputSpec


class Options(Strict):
    """Keys of a recipe's `model` section."""

    width: int = Field(16, ge=1)
    """Channels of the first stage."""


class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), the first convolution with the block's stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, ⌈h/stride⌉, ⌈w/stride⌉)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return cast(Tensor, self.relu2(y + self.shortcut(x)))


class ResNet(nn.Module):
    """A residual network of 6·blocks + 2 weighted layers, shortcuts not counted.

    Args:
        blocks: blocks of each of the three stages. width: channels of the first.
        channels: of the images. classes: outputs.
    """

    def __init__(self, blocks: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = _stage(width, width, blocks, 1)
        self.stage2 = _stage(width, 2 * width, blocks, 2)
        self.stage3 = _stage(2 * width, 4 * width, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="linear")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        y = self.relu(self.bn(self.conv(x)))
        y = self.stage3(self.stage2(self.stage1(y)))
        return cast(Tensor, self.linear(self.flatten(self.pool(y))))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(inputs, outputs, stride), *rest)


def resnet(blocks: int, options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a ResNet for the images of `input`."""
    return ResNet(blocks, options.width, input.channels, classes)
