"""How LiteRT holds weights: two's complement of a few widths, with positive scales. The lowering writes them so."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from msq.errors import LoweringError
from msq.nodes import Conv2d, Linear

CONTAINERS: Mapping[str, tuple[int, ...]] = {
    # Its convolutions unpack int4 on a slow path, and int2 crashes them; its linear layers stay packed.
    "conv2d": (8,),
    "linear": (2, 4, 8),
}
"""Node kind → the widths in which LiteRT 2.3 runs weights well, narrowest first."""


def positive(node: Conv2d | Linear) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
    """Return a layer's integers, scales and bias with every scale positive: LiteRT takes no other.

    A channel of negative scale is negated, which is exact: rounding to even is the same on both sides of zero.

    Raises:
        LoweringError: the weight −128 of such a channel has no opposite in int8.
    """
    negative = node.weight.scale < 0
    sign = np.where(negative, -1, 1)
    integers = node.weight.integers().astype(np.int16) * sign.reshape(-1, *[1] * (len(node.weight.shape) - 1))
    if integers.max(initial=0) > 127:
        raise LoweringError(
            f"{node.module}: a channel of negative scale has the weight −128, whose opposite LiteRT's int8 lacks",
            hint="give the layer 7 bits, or make its batch norm's gain positive",
        )
    return integers.astype(np.int8), np.abs(node.weight.scale), node.bias * sign.astype(np.int32)


def container(kind: str, integers: NDArray[np.int8]) -> int:
    """Return the bits of the narrowest container of LiteRT that holds all weights of a layer of that kind.

    Below 8 bits an output's weights must fill whole bytes: others XNNPACK leaves to a kernel that is slow and rounds
    twice.

    Args:
        kind: of the node. integers: its weights, outputs first.
    """
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    inputs = integers.size // len(integers)
    return next(
        bits for bits in CONTAINERS[kind] if -(1 << bits - 1) <= low and high < 1 << bits - 1 and inputs * bits % 8 == 0
    )
