"""ResNet-20: three blocks a stage (arXiv 1512.03385, table 6)."""

from torch import nn

from msq.checkpoint import InputSpec
from train.models._resnet import Options, resnet

__all__ = ["Options", "build"]


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a ResNet-20."""
    return resnet(3, options, input, classes)
