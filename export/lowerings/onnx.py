"""The dual ONNX file: every weighted layer is one packed operator that is also a function of standard operators.

A stock runtime inlines the function, unpacks the weights once while loading and runs an int8 QLinearConv; a
runtime that knows the packed operators runs them as they are. Weights, scales and biases stay in weights.bin, to
which the model file refers by offset and length. A tensor has the integer model's name and shape: maps are NHWC, and
the functions turn them round ONNX's own operators, which a runtime that convolves with channels last undoes.
probe.onnx is the same graph with every int8 tensor as an output: it serves verification.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.lowerings import _attention, _functions
from export.lowerings._functions import Kind
from export.lowerings._graph import Graph
from msq.integer_model import WEIGHTS_FILE, IntegerModel
from msq.nodes import (
    Add,
    AveragePool,
    Concat,
    Constant,
    Conv2d,
    Dequantize,
    Flatten,
    LayerNorm,
    Linear,
    Lookup,
    MatMul,
    MaxPool,
    Multiply,
    Node,
    Quantize,
    Reshape,
    Slice,
    Softmax,
    Transpose,
)
from msq.packing import ATOM

NAME = "onnx"
MODEL_FILE = "model.onnx"
PROBE_FILE = "probe.onnx"
DEPLOYED = (MODEL_FILE, WEIGHTS_FILE)
PACKAGES = ("onnx",)


def content_bytes(model: IntegerModel) -> int:
    """Return the bytes of the weights' bits and of the parameters: the format has every width."""
    return model.weight_bytes + model.parameter_bytes


def lower(model: IntegerModel, folder: Path) -> list[str]:
    """Write model.onnx and probe.onnx beside weights.bin."""
    graph = Graph(model)
    for node in model.nodes:
        _EMIT[type(node)](graph, node)
        graph.clip(node)
    probes = [tensor for tensor in model.tensors.values() if tensor.dtype == "int8"]
    for name, extra in ((MODEL_FILE, []), (PROBE_FILE, probes)):
        (folder / name).write_bytes(graph.proto(extra).SerializeToString(deterministic=True))
        onnx.checker.check_model(folder / name, full_check=False)
    return [MODEL_FILE, PROBE_FILE]


def _quantize(graph: Graph, node: Quantize) -> None:
    grid = graph.grid(graph.model.tensors[node.output])
    graph.add("QuantizeLinear", [node.inputs[0], *grid], graph.target(node))


def _dequantize(graph: Graph, node: Dequantize) -> None:
    source = graph.model.tensors[node.inputs[0]]
    graph.add("DequantizeLinear", [source.name, *graph.grid(source)], node.output)


def _weighted(
    graph: Graph, kind: Kind, node: Conv2d | Linear, x: str, y: str, shape: tuple[int, ...], **attributes: Any
) -> None:
    """Append a packed operator from x to y; shape is (out, kernel height, kernel width, in / groups)."""
    weight = node.weight
    source, out = graph.model.tensors[node.inputs[0]], graph.model.tensors[node.output]
    packed: list[str] = []
    if weight.bits:
        packed = [graph.stored(node, "packed", (weight.packed.nbytes // (weight.bits * ATOM), weight.bits, ATOM))]
        attributes |= {"a": weight.a, "z": weight.z}
    scale, bias = graph.stored(node, "scale"), graph.stored(node, "bias")
    inputs = [x, *graph.grid(source), *packed, scale, *graph.grid(out), bias]
    graph.add_packed(kind, node, inputs, y, shape=shape, **attributes)


def _conv2d(graph: Graph, node: Conv2d) -> None:
    given = {"strides": node.stride, "pads": node.padding, "dilations": node.dilation, "group": node.groups}
    different = {name: value for name, value in given.items() if value != _functions.CONV_DEFAULTS[name]}
    kind: Kind = "Depthwise" if node.weight.depthwise else "Conv"
    _weighted(graph, kind, node, node.inputs[0], graph.target(node), node.weight.shape, **different)


def _linear(graph: Graph, node: Linear) -> None:
    x, y, sizes = node.inputs[0], graph.target(node), graph.model.tensors[node.inputs[0]].shape
    shape = (node.weight.outputs, 1, 1, node.weight.inputs)
    if len(sizes) == 1:
        _weighted(graph, "Linear", node, x, y, shape)
    elif len(sizes) == 2:
        _weighted(graph, "Tokens", node, x, y, shape)
    else:
        inputs, outputs = ((0, -1, sizes[-1]), (0, *sizes[:-1], node.weight.outputs))
        tokens = graph.add("Reshape", [x, graph.constant(inputs, np.int64)], f"{node.output}/tokens")
        _weighted(graph, "Tokens", node, tokens, f"{node.output}/linear", shape)
        graph.add("Reshape", [f"{node.output}/linear", graph.constant(outputs, np.int64)], y)


def _add(graph: Graph, node: Add) -> None:
    out = graph.model.tensors[node.output]
    operands: list[str] = []
    for name in node.inputs:
        operand = graph.model.tensors[name]
        ratio = graph.constant(np.float32(operand.scale) / np.float32(out.scale), np.float32)
        operands += [name, ratio, graph.zero_point(operand)]
    graph.add_function("RoundedAdd", _functions.rounded_add, node, [*operands, graph.zero_point(out)])


def _average_pool(graph: Graph, node: AveragePool) -> None:
    source, out = graph.model.tensors[node.inputs[0]], graph.model.tensors[node.output]
    height, width, channels = source.shape
    scale = graph.constant(1 / (height * width), np.float32)
    inputs = [source.name, *graph.grid(source), scale, *graph.grid(out)]
    attributes = {"shape": (channels, 1, height, width), "group": channels}
    graph.add_function("AveragePool", _functions.average_pool, node, inputs, **attributes)


def _lookup(graph: Graph, node: Lookup) -> None:
    graph.add_function("Lookup", _functions.lookup, node, [*node.inputs, graph.constant(node.table, np.int8)])


def _multiply(graph: Graph, node: Multiply) -> None:
    left, right, out = (graph.model.tensors[name] for name in (*node.inputs, node.output))
    multiplier = np.float32(left.scale) * np.float32(right.scale) / np.float32(out.scale)
    operands = [left.name, graph.zero_point(left), right.name, graph.zero_point(right)]
    inputs = [*operands, graph.constant(multiplier, np.float32), graph.zero_point(out)]
    graph.add_function("Multiply", _functions.multiply, node, inputs)


def _max_pool(graph: Graph, node: MaxPool) -> None:
    turned = graph.add("Transpose", list(node.inputs), f"{node.output}/nchw", perm=_functions.NHWC_TO_NCHW)
    options = {"kernel_shape": node.kernel, "strides": node.stride, "pads": node.padding}
    pooled = graph.add("MaxPool", [turned], f"{node.output}/pooled", **options)
    graph.add("Transpose", [pooled], node.output, perm=_functions.NCHW_TO_NHWC)


def _flatten(graph: Graph, node: Flatten) -> None:
    graph.add("Flatten", list(node.inputs), node.output, axis=1)


def _matmul(graph: Graph, node: MatMul) -> None:
    left, right, out = (graph.model.tensors[name] for name in (*node.inputs, node.output))
    operands: list[str] = []
    for operand in (left, right):
        operands += [operand.name, graph.zero_point(operand)]
    multiplier = np.float32(left.scale) * np.float32(right.scale) * np.float32(node.factor) / np.float32(out.scale)
    inputs = [*operands, graph.constant(multiplier, np.float32), graph.zero_point(out)]
    graph.add_function("MatMul", _attention.matmul, node, inputs)


def _softmax(graph: Graph, node: Softmax) -> None:
    inputs = [*node.inputs, graph.stored(node, "table"), *graph.grid(graph.model.tensors[node.output])]
    graph.add_function("Softmax", _attention.softmax, node, inputs)


def _layer_norm(graph: Graph, node: LayerNorm) -> None:
    arrays = [graph.stored(node, name) for name in ("gamma", "beta")]
    epsilon = graph.constant(node.epsilon, np.float32)
    inputs = [*node.inputs, *arrays, epsilon, *graph.grid(graph.model.tensors[node.output])]
    graph.add_function("LayerNorm", _attention.layer_norm, node, inputs)


def _reshape(graph: Graph, node: Reshape) -> None:
    shape = graph.constant((0, *graph.model.tensors[node.output].shape), np.int64)
    graph.add("Reshape", [*node.inputs, shape], node.output)


def _transpose(graph: Graph, node: Transpose) -> None:
    graph.add("Transpose", list(node.inputs), node.output, perm=[0, *(axis + 1 for axis in node.axes)])


def _concat(graph: Graph, node: Concat) -> None:
    graph.add("Concat", list(node.inputs), node.output, axis=node.axis + 1)


def _slice(graph: Graph, node: Slice) -> None:
    bounds = [graph.constant([value], np.int64) for value in (node.start, node.stop, node.axis + 1)]
    graph.add("Slice", [*node.inputs, *bounds], node.output)


def _constant(graph: Graph, node: Constant) -> None:
    codes = graph.stored(node, "codes", (1, *node.codes.shape))
    ones = graph.constant([1] * node.codes.ndim, np.int64)
    graph.add_function("Repeated", _attention.repeated, node, [codes, graph.model.input, ones])


_EMIT: dict[type[Node], Callable[[Graph, Any], None]] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
    Conv2d: _conv2d,
    Linear: _linear,
    Add: _add,
    AveragePool: _average_pool,
    Lookup: _lookup,
    Multiply: _multiply,
    MaxPool: _max_pool,
    Flatten: _flatten,
    MatMul: _matmul,
    Softmax: _softmax,
    LayerNorm: _layer_norm,
    Reshape: _reshape,
    Transpose: _transpose,
    Concat: _concat,
    Slice: _slice,
    Constant: _constant,
}
