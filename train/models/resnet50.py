"""ResNet-50 for ImageNet-like images, of bottlenecks (arXiv 1512.03385, table 1)."""

from torch import nn

from msq.checkpoint import InputSpec
from train.models._imagenet_resnet import Bottleneck, ImageNetResNet, Options

__all__ = ["Options", "build"]


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a ResNet-50."""
    return ImageNetResNet(Bottleneck, (3, 4, 6, 3), input.channels, classes)
