"""What a value of the traced program is in integers: a tensor on a grid, or a result that awaits its grid."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.folding import Affine
from msq.checkpoint import Site
from msq.nodes import Tensor


@dataclass(frozen=True)
class Grid:
    """An int8 grid: real value scale · (code − zero_point), codes low..high."""

    scale: float
    zero_point: int
    low: int
    high: int

    def code(self, real: float) -> int:
        """Return the code nearest to a real value, which may be infinite."""
        return int(min(max(np.rint(real / self.scale) + self.zero_point, self.low), self.high))


@dataclass(frozen=True)
class Constant:
    """A parameter or buffer of the program: its name in the program's state, and what it holds."""

    name: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Quantized:
    """An int8 tensor.

    channels_last: torch's first dimension is the tensor's last, as in all maps; else the order is torch's.
    flattened_from is (height, width, channels) of the map that it was, if it was one.
    padding (top, left, bottom, right) is of zeros around the map, which the convolution behind takes as its own.
    """

    tensor: Tensor
    grid: Grid
    flattened_from: tuple[int, ...] | None = None
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    channels_last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, without the batch and the padding."""
        return self.tensor.shape

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape in torch's order."""
        return (self.shape[-1], *self.shape[:-1]) if self.channels_last else self.shape


@dataclass(frozen=True)
class Pending:
    """A result in real numbers, which becomes an int8 tensor at the fake-quantization that must follow.

    result is the shape of the int8 tensor, without the batch; flat says that it is flattened after that.
    low and high bound it (a ReLU is low = 0).
    """

    kind: Literal[
        "quantize", "conv2d", "linear", "add", "multiply", "average_pool", "lookup",
        "matmul", "softmax", "layer_norm", "concat",
    ]  # fmt: skip
    name: str
    module: str
    inputs: tuple[Quantized, ...]
    result: tuple[int, ...]
    site: Site | None = None
    affine: Affine | None = None
    options: dict[str, Any] = field(default_factory=dict)
    flattened_from: tuple[int, ...] | None = None
    flat: bool = False
    low: float = -math.inf
    high: float = math.inf
    channels_last: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape without the batch, in torch's order."""
        if self.flat:
            return (math.prod(self.result),)
        return (self.result[-1], *self.result[:-1]) if self.channels_last else self.result

    @property
    def bounded(self) -> bool:
        """Whether an activation function was applied already."""
        return self.low > -math.inf or self.high < math.inf

    def clamped(self, low: float, high: float) -> "Pending":
        """Return it with min(max(x, low), high) applied."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))


@dataclass(frozen=True)
class Ignored:
    """A value that is no tensor, such as a symbolic size."""


Value = Constant | Quantized | Pending | Ignored
