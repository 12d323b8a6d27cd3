"""ResNet-8: one block a stage, as in MLPerf Tiny (there without batch norm on the shortcut)."""

from torch import nn

from msq.checkpoint import InputSpec
from train.models._resnet import Options, resnet

__all__ = ["Options", "build"]


def build(options: Options, input: InputSpec, classes: int) -> nn.Module:
    """Return a ResNet-8."""
    return resnet(1, options, input, classes)
