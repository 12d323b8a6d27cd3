"""How LiteRT holds weights: two's complement of a few widths, with positive scales. The lowering writes them so."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from msq.nodes import Conv2d, Linear

LARGEST_INPUT = 255
"""|x − zero_point| of an int8 activation."""

CONTAINERS: Mapping[str, tuple[int, ...]] = {
    # Its convolutions unpack int4 on a slow path, and int2 crashes them; its linear layers stay packed.
    "conv2d": (8,),
    "linear": (2, 4, 8),
}
"""Node kind → the widths in which LiteRT 2.3 runs weights well, narrowest first."""


def positive(node: Conv2d | Linear) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
    """Return a layer's integers, scales and bias with positive scales: XNNPACK takes no other.

    A channel of negative scale is negated, which is exact: rounding to even is the same on both sides of zero. It
    stays as it is where a weight is −128, whose opposite int8 lacks; LiteRT's own slower kernel then runs the layer.
    """
    integers = node.weight.integers().astype(np.int16)
    least = integers.reshape(len(integers), -1).min(axis=1, initial=0)
    sign = np.where((node.weight.scale < 0) & (least > -128), -1, 1).astype(np.int16)
    turned = integers * sign.reshape(-1, *[1] * (integers.ndim - 1))
    return turned.astype(np.int8), node.weight.scale * sign.astype(np.float32), node.bias * sign.astype(np.int32)


def container(kind: str, integers: NDArray[np.int8], bias: NDArray[np.int32]) -> int:
    """Return the bits of the narrowest container of LiteRT in which a layer of that kind runs well.

    It holds all weights. Below 8 bits an output's weights must fill whole bytes: others XNNPACK leaves to a kernel that
    is slow and rounds twice. XNNPACK computes with such weights as the top bits of an int8, so that its sums are 16 or
    64 times as large and must still fit int32.

    Args:
        kind: of the node. integers: its weights, outputs first. bias: its bias.
    """
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    rows = np.abs(integers.astype(np.int64)).reshape(len(integers), -1)
    reach = int((LARGEST_INPUT * rows.sum(axis=1) + np.abs(bias.astype(np.int64))).max(initial=0))

    def runs(bits: int) -> bool:
        fits = -(1 << bits - 1) <= low and high < 1 << bits - 1
        return fits and rows.shape[1] * bits % 8 == 0 and reach << (8 - bits) < 1 << 31

    *narrow, widest = CONTAINERS[kind]
    return next(filter(runs, narrow), widest)


def held(node: Conv2d | Linear) -> int:
    """Return the bytes of a layer's weights in their container."""
    integers, _, bias = positive(node)
    return integers.size * container(node.kind, integers, bias) // 8
