"""Element-wise functions of one int8 tensor, as tables: exact in every runtime, whatever its own function does."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from export.values import Grid

Real = NDArray[np.float64]
Function = Callable[[Real], Real]


def identity(x: Real) -> Real:
    """Return x: as a table, it brings a tensor to another grid."""
    return x


def hardsigmoid(x: Real) -> Real:
    """Return min(max(x + 3, 0), 6) / 6 (arXiv 1905.02244, section 5.2)."""
    clipped: Real = np.clip(x + 3, 0, 6) / 6
    return clipped


def hardswish(x: Real) -> Real:
    """Return x · hardsigmoid(x)."""
    return x * hardsigmoid(x)


def sigmoid(x: Real) -> Real:
    """Return 1 / (1 + e^−x)."""
    answer: Real = 1 / (1 + np.exp(-x))
    return answer


def silu(x: Real) -> Real:
    """Return x · sigmoid(x)."""
    return x * sigmoid(x)


def gelu(x: Real) -> Real:
    """Return x · Φ(x), Φ the normal distribution (arXiv 1606.08415, equation 1)."""
    share: Real = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.ravel()]).reshape(x.shape)
    return x * share


def gelu_tanh(x: Real) -> Real:
    """Return gelu's approximation by tanh (arXiv 1606.08415, section 2)."""
    answer: Real = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return answer


def exponentials(scale: float, terms: int) -> NDArray[np.int32]:
    """Return integers in proportion to e^(−scale·d) for d = 0 … 255, of which the sum of `terms` fits int32."""
    top = min(1 << 24, ((1 << 31) - 1) // terms)
    table: NDArray[np.int32] = np.rint(top * np.exp(-np.float64(scale) * np.arange(256))).astype(np.int32)
    return table


def table_of(function: Function, source: Grid, out: Grid) -> tuple[int, ...]:
    """Return the codes of `out` nearest to the function of every int8 code of `source`, from −128 to 127."""
    real = function((np.arange(-128, 128) - source.zero_point) * np.float64(source.scale))
    return tuple(out.code(float(value)) for value in real)
