"""Nodes with weights, and windows over maps, in TFLite: convolutions, linear layers, pools and their padding."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.lowerings._tflite_file import Operator, Type, schema
from export.lowerings._tflite_graph import INT8, Graph, require_multiplier
from msq.nodes import AveragePool, Conv2d, Linear, MaxPool, Tensor
from runtimes import _litert_weights

_TYPES = {8: Type.INT8, 4: Type.INT4, 2: Type.INT2}
_LARGEST_MULTIPLIER = 255.5
"""XNNPACK takes none from 256 on."""
_FAR = 1 << 24
"""Steps of the output: beyond what any layer in use is biased by, and far below what overflows."""
_PIXELS = (1, 2)
"""Dimensions of height and width."""


def conv2d(graph: Graph, node: Conv2d) -> None:
    """Lower a convolution: dense and grouped to CONV_2D, one group an input channel to DEPTHWISE_CONV_2D."""
    source, channels = graph.model.tensors[node.inputs[0]], graph.model.tensors[node.inputs[0]].shape[2]
    depthwise = node.groups == channels and channels > 1
    options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    kernel = node.weight.shape[1:3]
    x = _windows(graph, node, source, kernel, node.dilation, source.zero_point, options)
    options.dilationHFactor, options.dilationWFactor = node.dilation
    if depthwise:
        options.depthMultiplier = node.weight.outputs // channels
    options.fusedActivationFunction, out = graph.fused(node)
    operator = Operator.DEPTHWISE_CONV_2D if depthwise else Operator.CONV_2D
    graph.add(operator, [x, *_parameters(graph, node, source, last=depthwise)], out, options)
    graph.clip(node, out)


def linear(graph: Graph, node: Linear) -> None:
    """Lower a linear layer to FULLY_CONNECTED."""
    source = graph.model.tensors[node.inputs[0]]
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = len(source.shape) > 1
    options.fusedActivationFunction, out = graph.fused(node)
    graph.add(
        Operator.FULLY_CONNECTED, [graph.value(source), *_parameters(graph, node, source, last=False)], out, options
    )
    graph.clip(node, out)


def _parameters(graph: Graph, node: Conv2d | Linear, source: Tensor, *, last: bool) -> list[int]:
    """Return weights and bias; last: output channels are the weights' last dimension, and the first is 1."""
    integers, scales, bias = _litert_weights.positive(node)
    bits = _litert_weights.container(node.kind, integers, bias) if graph.narrow else 8
    scales, bias = _bounded(integers, scales, bias, step=graph.out(node).scale / source.scale)
    stored, axis = (integers.transpose(3, 1, 2, 0), 3) if last else (integers, 0)
    name = node.module or node.name
    weight = graph.parameter(
        f"{name}.weight", packed(stored, bits), _TYPES[bits], stored.shape, scales=scales, axis=axis
    )
    units = np.float32(source.scale) * scales
    return [weight, graph.parameter(f"{name}.bias", bias, Type.INT32, bias.shape, scales=units)]


def _bounded(
    integers: NDArray[np.int8], scales: NDArray[np.float32], bias: NDArray[np.int32], *, step: float
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return scales and bias that give every output the same code, without numbers that overflow in XNNPACK.

    A multiplier of 255 or more saturates every sum but 0, and so does a lower one of at least 255. A bias from which no
    products lead back to less than 2^24 steps saturates the output, and so does one that is just large enough for it.

    Args:
        integers, scales, bias: of a layer. step: s_y / s_x, the weight scale at which the multiplier is 1.
    """
    most = np.float32(_LARGEST_MULTIPLIER * step)
    scales = scales.clip(-most, most)
    products = _litert_weights.LARGEST_INPUT * np.abs(integers.astype(np.float64)).reshape(len(scales), -1).sum(axis=1)
    enough = np.minimum(products + np.ceil(_FAR * step / np.abs(scales, dtype=np.float64)), np.iinfo(np.int32).max)
    return scales, bias.clip(-enough, enough).astype(np.int32)


def packed(integers: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Return integers as TFLite stores them at a width of 8, 4 or 2: the first in the lowest bits of a byte."""
    flat = np.ascontiguousarray(integers).view(np.uint8).reshape(-1)
    fields = np.pad(flat, (0, -flat.size % (8 // bits))).reshape(-1, 8 // bits) & ((1 << bits) - 1)
    return np.asarray(np.bitwise_or.reduce(fields << np.arange(0, 8, bits, dtype=np.uint8), axis=1), np.uint8)


def max_pool(graph: Graph, node: MaxPool) -> None:
    """Lower a maximum pool."""
    options = schema.Pool2DOptionsT()
    x = _windows(graph, node, graph.model.tensors[node.inputs[0]], node.kernel, (1, 1), INT8[0], options)
    options.filterHeight, options.filterWidth = node.kernel
    graph.add(Operator.MAX_POOL_2D, [x], graph.out(node), options)


def average_pool(graph: Graph, node: AveragePool) -> None:
    """Lower the global average to MEAN."""
    source, options, out = graph.model.tensors[node.inputs[0]], schema.ReducerOptionsT(), graph.target(node)
    require_multiplier(node, source.scale / (source.shape[0] * source.shape[1] * out.scale))
    options.keepDims = True
    graph.add(Operator.MEAN, [*graph.sources(node), graph.constant(_PIXELS, np.int32)], out, options)
    graph.clip(node, out)


def _windows(
    graph: Graph,
    node: Conv2d | MaxPool,
    source: Tensor,
    kernel: tuple[int, ...],
    dilation: tuple[int, int],
    fill: int,
    options: Any,
) -> int:
    """Set padding and stride of `options`; return the map to run over, which is padded with the code `fill` if need be.

    Only what the windows reach counts as padding: the rest changes nothing.
    """
    options.strideH, options.strideW = node.stride
    out, before, after, same = graph.out(node).shape, node.padding[:2], [], True
    for axis in range(2):
        size, stride, span = source.shape[axis], node.stride[axis], (kernel[axis] - 1) * dilation[axis] + 1
        needed = (out[axis] - 1) * stride + span - size
        after.append(max(needed - before[axis], 0))
        same &= -(-size // stride) == out[axis] and max(needed, 0) // 2 == before[axis]
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    if same or not any((*before, *after)):
        return graph.value(source)
    rows, columns, channels = source.shape
    shape = (rows + before[0] + after[0], columns + before[1] + after[1], channels)
    padded = replace(source, name=f"{node.output}/padded", shape=shape)
    sizes = graph.constant([(0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)], np.int32)
    inputs = [graph.value(source), sizes]
    if fill == source.zero_point:
        return graph.add(Operator.PAD, inputs, padded, schema.PadOptionsT())
    inputs.append(graph.constant([fill], np.int8, source))
    return graph.add(Operator.PADV2, inputs, padded, schema.PadV2OptionsT())
