"""Models by name, one file each: `Options` (pydantic) and `build(options, input, classes) -> nn.Module`.

To add one, add a file here; recipes then name it by its file name. The model takes float32 (n, channels, height,
width) and returns logits (n, classes), and torch.fx can trace it: no Python branch on a tensor's values, and
convolutions, linear layers, norms and activations are modules, each used in one place. Attention is written out.
"""

from typing import TYPE_CHECKING, Any, Protocol

from msq import plugins
from msq.artefact import Strict
from msq.checkpoint import InputSpec

if TYPE_CHECKING:
    from torch import nn


class Architecture(Protocol):
    """What a file of this package offers."""

    Options: type[Strict]

    def build(self, options: Any, input: InputSpec, classes: int) -> "nn.Module":
        """Return the model with fresh weights, drawn from torch's global generator."""
        ...


def names() -> list[str]:
    """Return the models there are."""
    return plugins.names(__name__)


def model(name: str) -> Architecture:
    """Return the model module of that name. Raises UsageError."""
    module: Any = plugins.load(__name__, name, "model")
    return module  # type: ignore[no-any-return]
