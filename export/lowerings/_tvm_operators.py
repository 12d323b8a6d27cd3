"""Operations without weights as tensor expressions, which TVM compiles: exactly what msq.nodes defines.

Scalars are not part of the code: every function takes them as a last tensor, float32, so that nodes of one shape share
their code. `grid` there is the result's: [low − zero point, high − zero point, zero point].
LLVM is told by TVM that it may contract a product and a sum; where both follow one another, `_apart` keeps them apart.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from tvm import te, tirx

Tensor = Any
Expression = Any
Sizes = Sequence[int]

GRID = 3
"""Scalars of a grid."""


def code(value: Expression, scalars: Tensor, grid: int) -> Expression:
    """Return clamp(rint(value) + zero point) as int8, for the grid that begins at a place of the scalars."""
    low, high, zero = (scalars[grid + i] for i in range(GRID))
    return (tirx.max(tirx.min(tirx.nearbyint(value), high), low) + zero).astype("int8")


def _centred(code: Expression, zero: Expression) -> Expression:
    return code.astype("float32") - zero


def _apart(product: Expression) -> Expression:
    """Return the product, which a sum behind it is not to take in: infinities aside it is larger than this."""
    return tirx.max(product, tirx.const(np.finfo(np.float32).min, "float32"))


def take(source: Tensor, offset: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Return the array that lies in bytes, little end first. source: uint8 (bytes,). offset: int64 (1,)."""
    size = np.dtype(dtype).itemsize

    def value(*at: Expression) -> Expression:
        index = tirx.const(0, "int64")
        for place, length in zip(at, shape, strict=True):
            index = index * length + place
        first = offset[0] + index * size
        word = source[first].astype(f"uint{8 * size}")
        for byte in range(1, size):
            word = word | source[first + byte].astype(f"uint{8 * size}") << tirx.const(8 * byte, f"uint{8 * size}")
        return tirx.reinterpret(dtype, word)

    return te.compute(shape, value, "take")


def quantize(x: Tensor, scalars: Tensor) -> Tensor:
    """float32 → int8. scalars: [scale, *grid]."""
    return te.compute(x.shape, lambda *at: code(x(*at) / scalars[0], scalars, 1), "quantize")


def dequantize(x: Tensor, scalars: Tensor) -> Tensor:
    """int8 → float32. scalars: [zero point, scale]."""
    return te.compute(x.shape, lambda *at: _centred(x(*at), scalars[0]) * scalars[1], "dequantize")


def add(p: Tensor, q: Tensor, scalars: Tensor) -> Tensor:
    """scalars: [zero point and ratio of p, of q, *grid]."""

    def value(left: Expression, right: Expression) -> Expression:
        return tirx.nearbyint(_centred(left, scalars[0]) * scalars[1]) + tirx.nearbyint(
            _centred(right, scalars[2]) * scalars[3]
        )

    return _broadcast(p, q, lambda left, right: code(value(left, right), scalars, 4), "add")


def multiply(p: Tensor, q: Tensor, scalars: Tensor) -> Tensor:
    """scalars: [zero point of p, of q, multiplier, *grid]."""

    def value(left: Expression, right: Expression) -> Expression:
        return _centred(left, scalars[0]) * _centred(right, scalars[1]) * scalars[2]

    return _broadcast(p, q, lambda left, right: code(value(left, right), scalars, 3), "multiply")


def _broadcast(p: Tensor, q: Tensor, value: Callable[[Expression, Expression], Expression], name: str) -> Tensor:
    """Return value(p, q) element by element; a dimension of 1 is repeated."""
    shapes = [[int(size) for size in operand.shape] for operand in (p, q)]
    shape = np.broadcast_shapes(*shapes)

    def one(operand: Tensor, sizes: list[int], at: tuple[Expression, ...]) -> Expression:
        return operand(*(0 if size == 1 else index for size, index in zip(sizes, at, strict=True)))

    return te.compute(shape, lambda *at: value(one(p, shapes[0], at), one(q, shapes[1], at)), name)


def lookup(x: Tensor, table: Tensor) -> Tensor:
    """Return table[x + 128]; table is int8 (256,)."""
    return te.compute(x.shape, lambda *at: table[x(*at).astype("int32") + 128], "lookup")


def average_pool(x: Tensor, scalars: Tensor) -> Tensor:
    """scalars: [zero point, multiplier, *grid]."""
    n, height, width, channels = x.shape
    row, column = (te.reduce_axis((0, size)) for size in (height, width))
    zero = scalars[0].astype("int32")
    sums = te.compute(
        (n, 1, 1, channels),
        lambda i, _, __, c: te.sum(x(i, row, column, c).astype("int32") - zero, [row, column]),
        "sums",
    )
    return te.compute(
        sums.shape, lambda *at: code(sums(*at).astype("float32") * scalars[1], scalars, 2), "average_pool"
    )


def max_pool(x: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, size: Sizes) -> Tensor:
    """Return the maxima of windows, a map of `size`; padding, (top, left, bottom, right), never wins."""
    n, height, width, channels = x.shape
    top, left, bottom, right = padding
    padded = x
    if any(padding):

        def pixel(k: Expression, y: Expression, z: Expression, c: Expression) -> Expression:
            inside = tirx.all(y >= top, y < height + top, z >= left, z < width + left)
            return tirx.if_then_else(inside, x(k, y - top, z - left, c), tirx.const(-128, "int8"))

        padded = te.compute((n, height + top + bottom, width + left + right, channels), pixel, "padded")

    def largest(k: Expression, y: Expression, z: Expression, c: Expression) -> Expression:
        taps = [(y * stride[0] + i, z * stride[1] + j) for i in range(kernel[0]) for j in range(kernel[1])]
        return reduce(tirx.max, [padded(k, *place, c) for place in taps])

    return te.compute((n, *size, channels), largest, "max_pool")


def matmul(p: Tensor, q: Tensor, scalars: Tensor) -> Tensor:
    """scalars: [zero point of p, of q, multiplier, *grid]."""
    *leading, m, depth = p.shape
    k, zeros = te.reduce_axis((0, depth)), [scalars[i].astype("int32") for i in range(2)]

    def product(*at: Expression) -> Expression:
        *batch, row, column = at
        left, right = p(*batch, row, k).astype("int32"), q(*batch, k, column).astype("int32")
        return te.sum((left - zeros[0]) * (right - zeros[1]), k)

    sums = te.compute((*leading, m, q.shape[-1]), product, "sums")
    return te.compute(sums.shape, lambda *at: code(sums(*at).astype("float32") * scalars[2], scalars, 3), "matmul")


def softmax(x: Tensor, table: Tensor, scalars: Tensor) -> Tensor:
    """table: int32 (256,). scalars: [scale, *grid]."""
    *leading, terms = x.shape
    k, j = (te.reduce_axis((0, terms)) for _ in range(2))
    largest = te.compute(leading, lambda *at: te.max(x(*at, k).astype("int32"), k), "largest")

    def exponential(*at: Expression) -> Expression:
        return table[largest(*at[:-1]) - x(*at).astype("int32")]

    total = te.compute(leading, lambda *at: te.sum(exponential(*at, j), j), "total")

    def share(*at: Expression) -> Expression:
        return exponential(*at).astype("float32") / total(*at[:-1]).astype("float32")

    return te.compute(x.shape, lambda *at: code(share(*at) / scalars[0], scalars, 1), "softmax")


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, scalars: Tensor) -> Tensor:
    """gamma, beta: float32 (features,). scalars: [epsilon, scale, *grid]."""
    *leading, features = x.shape
    n = int(features)
    k, j = (te.reduce_axis((0, n)) for _ in range(2))

    def integer(*at: Expression) -> Expression:
        return x(*at).astype("int32")

    total = te.compute(leading, lambda *at: te.sum(integer(*at, k), k), "total")
    squares = te.compute(leading, lambda *at: te.sum(integer(*at, j) * integer(*at, j), j), "squares")

    def spread(*at: Expression) -> Expression:
        wide, sum_of_squares = (sums(*at).astype("int64") for sums in (total, squares))
        variance = sum_of_squares * tirx.const(n, "int64") - wide * wide
        return tirx.sqrt(variance.astype("float32") + scalars[0])

    deviation = te.compute(leading, spread, "deviation")

    def normalised(*at: Expression) -> Expression:
        normal = (integer(*at) * n - total(*at[:-1])).astype("float32") / deviation(*at[:-1])
        return code((_apart(normal * gamma[at[-1]]) + beta[at[-1]]) / scalars[1], scalars, 2)

    return te.compute(x.shape, normalised, "layer_norm")
