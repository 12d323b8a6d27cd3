"""MobileNetV3-Large (arXiv 1905.02244, table 1): inverted residuals with hard-swish and squeeze-and-excitation.

Parameters have the names of torchvision's model, so that its weights can be loaded.
"""

from typing import cast

from pydantic import Field
from torch import Tensor, nn

from msq.artefact import Strict
from msq.checkpoint import InputSpec

BLOCKS = (
    (3, 16, 16, False, nn.ReLU, 1), (3, 64, 24, False, nn.ReLU, 2), (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2), (5, 120, 40, True, nn.ReLU, 1), (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2), (3, 200, 80, False, nn.Hardswish, 1), (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1), (3, 480, 112, True, nn.Hardswish, 1), (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2), (5, 960, 160, True, nn.Hardswish, 1), (5, 960, 160, True, nn.Hardswish, 1),
)  # fmt: skip
"""Kernel, hidden channels, channels, squeeze-and-excitation, activation and stride of each block."""


class Options(Strict):
    """Keys of a recipe's `model` section."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """Before the last layer."""


class SqueezeExcitation(nn.Module):
    """x · hardsigmoid(fc2(relu(fc1(mean over all places of x))))."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → the same shape."""
        return cast(Tensor, x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))))


class InvertedResidual(nn.Module):
    """1×1 up, depthwise, squeeze-and-excitation, 1×1 down; with a shortcut where the shape stays."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, squeeze: bool, act: type[nn.Module], stride: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if hidden == inputs else [_layer(inputs, hidden, 1, 1, 1, act)]
        layers.append(_layer(hidden, hidden, kernel, stride, hidden, act))
        if squeeze:
            layers.append(SqueezeExcitation(hidden, _eights(hidden / 4)))
        self.block = nn.Sequential(*layers, _layer(hidden, outputs, 1, 1, 1, None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, ⌈h/stride⌉, ⌈w/stride⌉)."""
        y = self.block(x)
        return cast(Tensor, y + x if self.residual else y)


class MobileNetV3(nn.Module):
    """See the module."""

    def __init__(self, options: Options, channels: int, classes: int) -> None:
        super().__init__()
        inputs = 16
        features: list[nn.Module] = [_layer(channels, inputs, 3, 2, 1, nn.Hardswish)]
        for kernel, hidden, outputs, squeeze, act, stride in BLOCKS:
            features.append(InvertedResidual(inputs, kernel, hidden, outputs, squeeze, act, stride))
            inputs = outputs
        self.features = nn.Sequential(*features, _layer(inputs, 6 * inputs, 1, 1, 1, nn.Hardswish))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(6 * inputs, 1280), nn.Hardswish(), nn.Dropout(options.dropout), nn.Linear(1280, classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        return cast(Tensor, self.classifier(self.flatten(self.avgpool(self.features(x)))))


def _layer(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: type[nn.Module] | None
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    return nn.Sequential(convolution, norm, *([act()] if act else []))


def _eights(channels: float) -> int:
    """Return the nearest multiple of eight that is not below nine tenths of the channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a MobileNetV3-Large."""
    return MobileNetV3(options, input.channels, classes)
