"""MobileNetV2 (arXiv 1801.04381, table 2): inverted residuals over depthwise convolutions, clipped at 6.

Parameters have the names of torchvision's model, so that its weights can be loaded.
"""

from typing import cast

from pydantic import Field
from torch import Tensor, nn

from msq.artefact import Strict
from msq.checkpoint import InputSpec

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of the first block, of each stage."""


class Options(Strict):
    """Keys of a recipe's `model` section."""

    width: float = Field(1.0, gt=0)
    """Factor of all channels; they stay multiples of eight."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Before the last layer."""


class InvertedResidual(nn.Module):
    """1×1 up, depthwise 3×3, 1×1 down without an activation; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_layer(inputs, hidden, 1)]
        self.conv = nn.Sequential(
            *layers,
            _layer(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, ⌈h/stride⌉, ⌈w/stride⌉)."""
        y = self.conv(x)
        return cast(Tensor, x + y if self.residual else y)


class MobileNetV2(nn.Module):
    """See the module."""

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        inputs = _eights(32 * options.width)
        features: list[nn.Module] = [_layer(channels, inputs, 3, 2)]
        for expansion, width, count, stride in STAGES:
            outputs = _eights(width * options.width)
            for index in range(count):
                features.append(InvertedResidual(inputs, outputs, 1 if index else stride, expansion))
                inputs = outputs
        last = _eights(1280 * max(1.0, options.width))
        self.features = nn.Sequential(*features, _layer(inputs, last, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(options.dropout), nn.Linear(last, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        return cast(Tensor, self.classifier(self.flatten(self.pool(self.features(x)))))


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


def _eights(channels: float) -> int:
    """Return the nearest multiple of eight that is not below nine tenths of the channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a MobileNetV2."""
    return MobileNetV2(options, input.channels, classes)
