"""ResNet-18 for ImageNet-like images, of basic blocks (arXiv 1512.03385, table 1)."""

from torch import nn

from msq.checkpoint import InputSpec
from train.models._imagenet_resnet import BasicBlock, ImageNetResNet, Options

__all__ = ["Options", "build"]


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a ResNet-18."""
    return ImageNetResNet(BasicBlock, (2, 2, 2, 2), input.channels, classes)
