"""A layer of packed weights in TIR alone: the layout of msq.packing and the arithmetic of msq.nodes, for any width.

It runs on whatever TVM compiles for, and shows what the kernels in C do; they are several times as fast. Weights are
unpacked 64 at a time, while they are multiplied, and each is used for a few pixels.
"""

from itertools import accumulate
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from export.lowerings._tvm_operators import code
from msq.nodes import Conv2d, Linear
from msq.packing import ATOM, GROUP, GROUPS, PANEL, planes

PIXELS = 4
"""Rows that are multiplied by weights once they are unpacked."""

Expression = Any
Shape = tuple[int, ...]


def layer(node: Conv2d | Linear, x_shape: Shape, y_shape: Shape, weight_bytes: int) -> Any:
    """Return the function of a layer.

    Its arguments: x int8; the weights' file, uint8 (weight_bytes,); begin int64 (1,), where in it the packed weights
    are; scale float32 and bias int32, (out,); scalars float32, [zero point of x, its scale, that of y, *grid]; y int8.

    Args:
        x_shape, y_shape: (1, height, width, channels) or (1, …, features).
    """
    window = _Window(node, x_shape, y_shape)
    return (_depthwise if node.weight.depthwise else _dense)(node, window, x_shape, y_shape, weight_bytes)


class _Window:
    """Where the inputs of a pixel's window lie. A linear layer's rows are the pixels of a map one pixel high."""

    def __init__(self, node: Conv2d | Linear, x_shape: Shape, y_shape: Shape) -> None:
        self._conv = node if isinstance(node, Conv2d) else Conv2d("", (), "", "", node.weight, node.bias)
        _, _, self._taps, self.depth = node.weight.shape if isinstance(node, Conv2d) else (0, 1, 1, x_shape[-1])
        self._height, self._width = x_shape[1:3] if len(x_shape) == 4 else (1, int(np.prod(x_shape[:-1])))
        self._columns = y_shape[2] if len(y_shape) == 4 else self._width
        self._channels = x_shape[-1]
        self.pixels = int(np.prod(y_shape[:-1]))

    def _place(self, pixel: Expression, tap: Expression) -> tuple[Expression, Expression]:
        top, left, *_ = self._conv.padding
        (down, right), (step_down, step_right) = self._conv.stride, self._conv.dilation
        y = pixel // self._columns * down - top + tap // self._taps * step_down
        return y, pixel % self._columns * right - left + tap % self._taps * step_right

    def is_inside(self, pixel: Expression, tap: Expression) -> Expression:
        """Say whether a tap of a pixel meets the map, and not its padding."""
        y, x = self._place(pixel, tap)
        return tirx.all(pixel < self.pixels, y >= 0, y < self._height, x >= 0, x < self._width)

    def index(self, pixel: Expression, tap: Expression, channel: Expression) -> Expression:
        """Return where in x, taken as flat, a channel of a tap lies."""
        y, x = self._place(pixel, tap)
        return (y * self._width + x) * self._channels + channel


def _unpacked(
    node: Conv2d | Linear, weights: Any, begin: Expression, group: Expression, byte: Expression
) -> Expression:
    """Return the weight, int32, in a byte of a group: the planes of its code lie in atoms of the group's block."""
    bits, a, z = node.weight.bits, node.weight.a, node.weight.z
    if not bits:
        return tirx.const(0, "int32")
    found, block, field, widths = tirx.const(0, "int32"), group // GROUPS, group % GROUPS, planes(bits)
    for low, width in zip(accumulate(widths, initial=0), widths, strict=False):
        # Planes of p bits take p atoms, so that a plane's first atom is also its lowest bit.
        atom = block * bits + low + field * width // 8
        plane = weights[begin + atom * ATOM + byte].astype("int32") >> (field * width % 8).astype("int32")
        found = found | (plane & ((1 << width) - 1)) << low
    return found * a - z


def _result(sums: Expression, output: Expression, scale: Any, bias: Any, scalars: Any) -> Expression:
    multiplier = scalars[1] * scale[output] / scalars[2]
    return code((sums + bias[output]).astype("float32") * multiplier, scalars, 3)


def _dense(node: Conv2d | Linear, window: _Window, x_shape: Shape, y_shape: Shape, weight_bytes: int) -> Any:
    outputs, inputs, depth, pixels = node.weight.outputs, node.weight.inputs, window.depth, window.pixels
    groups, panels = -(-inputs // GROUP), -(-outputs // PANEL)
    share = outputs // (node.groups if isinstance(node, Conv2d) else 1)

    def channel(k: Expression, output: Expression) -> Expression:
        return tirx.min(output, outputs - 1) // share * depth + k % depth

    @T.prim_func(private=True)  # type: ignore[untyped-decorator]
    def packed(
        x_data: T.handle,
        weights_data: T.handle,
        begin_data: T.handle,
        scale_data: T.handle,
        bias_data: T.handle,
        scalars_data: T.handle,
        y_data: T.handle,
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        x_map = T.match_buffer(x_data, x_shape, "int8")
        weights = T.match_buffer(weights_data, (weight_bytes,), "uint8")
        begin = T.match_buffer(begin_data, (1,), "int64")
        scale = T.match_buffer(scale_data, (outputs,), "float32")
        bias = T.match_buffer(bias_data, (outputs,), "int32")
        scalars = T.match_buffer(scalars_data, (6,), "float32")
        y_map = T.match_buffer(y_data, y_shape, "int8")
        x = T.decl_buffer((int(np.prod(x_shape)),), "int8", data=x_map.data)
        y = T.decl_buffer((pixels * outputs,), "int8", data=y_map.data)
        w = T.alloc_buffer((ATOM,), "int32")
        sums = T.alloc_buffer((PIXELS * PANEL,), "int32")
        for first in range(0, pixels, PIXELS):
            for panel in range(panels):
                for i in range(PIXELS * PANEL):
                    sums[i] = 0
                for group in range(groups):
                    for byte in range(ATOM):
                        w[byte] = _unpacked(node, weights, begin[0], T.Cast("int64", panel * groups + group), byte)
                    for row in range(PIXELS):
                        for i in range(GROUP):
                            k = group * GROUP + i
                            if k < inputs and window.is_inside(first + row, k // depth):
                                for n in range(PANEL):
                                    place = window.index(first + row, k // depth, channel(k, panel * PANEL + n))
                                    value = T.Cast("int32", x[place]) - T.Cast("int32", scalars[0])
                                    sums[row * PANEL + n] = sums[row * PANEL + n] + value * w[n * GROUP + i]
                for row in range(PIXELS):
                    for n in range(PANEL):
                        output = panel * PANEL + n
                        if first + row < pixels and output < outputs:
                            made = _result(sums[row * PANEL + n], output, scale, bias, scalars)
                            y[(first + row) * outputs + output] = made

    return packed


def _depthwise(node: Conv2d | Linear, window: _Window, x_shape: Shape, y_shape: Shape, weight_bytes: int) -> Any:
    channels, taps, pixels = node.weight.outputs, node.weight.inputs, window.pixels

    @T.prim_func(private=True)  # type: ignore[untyped-decorator]
    def packed(
        x_data: T.handle,
        weights_data: T.handle,
        begin_data: T.handle,
        scale_data: T.handle,
        bias_data: T.handle,
        scalars_data: T.handle,
        y_data: T.handle,
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        x_map = T.match_buffer(x_data, x_shape, "int8")
        weights = T.match_buffer(weights_data, (weight_bytes,), "uint8")
        begin = T.match_buffer(begin_data, (1,), "int64")
        scale = T.match_buffer(scale_data, (channels,), "float32")
        bias = T.match_buffer(bias_data, (channels,), "int32")
        scalars = T.match_buffer(scalars_data, (6,), "float32")
        y_map = T.match_buffer(y_data, y_shape, "int8")
        x = T.decl_buffer((int(np.prod(x_shape)),), "int8", data=x_map.data)
        y = T.decl_buffer((pixels * channels,), "int8", data=y_map.data)
        w = T.alloc_buffer((taps * channels,), "int32")
        sums = T.alloc_buffer((channels,), "int32")
        for at in range(taps * channels):
            w[at] = _unpacked(node, weights, begin[0], T.Cast("int64", at // ATOM), at % ATOM)
        for pixel in range(pixels):
            for channel in range(channels):
                sums[channel] = 0
            for tap in range(taps):
                if window.is_inside(pixel, tap):
                    for channel in range(channels):
                        value = T.Cast("int32", x[window.index(pixel, tap, channel)]) - T.Cast("int32", scalars[0])
                        sums[channel] = sums[channel] + value * w[tap * channels + channel]
            for channel in range(channels):
                y[pixel * channels + channel] = _result(sums[channel], channel, scale, bias, scalars)

    return packed
