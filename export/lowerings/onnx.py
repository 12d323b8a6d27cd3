"""The dual ONNX file: every weighted layer is one packed operator that is also a function of standard operators.

A stock runtime inlines the function, unpacks the weights once while loading and runs an int8 QLinearConv; a
runtime that knows the packed operators runs them as they are. Weights, scales and biases stay in weights.bin, to
which the model file refers by offset and length. Tensors are NCHW, as ONNX convolutions want; a tensor has the
integer model's name. probe.onnx is the same graph with every int8 tensor as an output: it serves verification.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export.lowerings import _functions
from export.lowerings._functions import DOMAIN, OPSET, Kind
from msq.errors import LoweringError
from msq.integer_model import (
    ALIGNMENT,
    WEIGHTS_FILE,
    Add,
    AveragePool,
    Conv2d,
    Dequantize,
    Flatten,
    IntegerModel,
    Linear,
    Lookup,
    MaxPool,
    Multiply,
    Node,
    Quantize,
    Stored,
    Tensor,
)
from msq.packing import ATOM, BLOCK, PANEL

NAME = "onnx"
MODEL_FILE = "model.onnx"
PROBE_FILE = "probe.onnx"
DEPLOYED = (MODEL_FILE, WEIGHTS_FILE)
PACKAGES = ("onnx",)

IR_VERSION = 10
BATCH = "n"
INT8 = (-128, 127)
_ELEMENT = {
    "float32": TensorProto.FLOAT,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
}


def lower(model: IntegerModel, folder: Path) -> list[str]:
    """Write model.onnx and probe.onnx beside weights.bin.

    Raises:
        LoweringError: a linear layer acts on a map instead of a vector of features.
    """
    graph = _Graph(model)
    for node in model.nodes:
        _EMIT[type(node)](graph, node)
        graph.clip(node)
    probes = [tensor for tensor in model.tensors.values() if tensor.dtype == "int8"]
    for name, extra in ((MODEL_FILE, []), (PROBE_FILE, probes)):
        (folder / name).write_bytes(graph.proto(extra).SerializeToString(deterministic=True))
        onnx.checker.check_model(folder / name, full_check=False)
    return [MODEL_FILE, PROBE_FILE]


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return one byte a weight, with scales and biases: stock ONNX Runtime unpacks them while it loads."""
    held = sum(
        node.weight.outputs * node.weight.inputs + node.weight.scale.nbytes + node.bias.nbytes
        for node in model.weighted()
    )
    return held, "stock ONNX Runtime folds the unpacking at load and holds int8 weights; its own prepacking adds to it"


class _Graph:
    """The ONNX graph under construction."""

    def __init__(self, model: IntegerModel) -> None:
        self.model = model
        self._nodes: list[NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._functions: dict[str, onnx.FunctionProto] = {}

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a standard operator; return its output."""
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def add_packed(self, node: Conv2d | Linear, inputs: Sequence[str], **attributes: Any) -> None:
        """Append a weighted layer as its packed operator."""
        kind: Kind = "Conv" if isinstance(node, Conv2d) else "Linear"
        if node.weight.bits:
            self._define("Plane", _functions.plane)
            self._define("Weights", _functions.weights)
        name = _functions.packed_name(kind, node.weight.bits)
        self._define(name, lambda: _functions.packed(kind, node.weight.bits))
        output = self.target(node)
        self._nodes.append(helper.make_node(name, inputs, [output], name=node.name, domain=DOMAIN, **attributes))

    def add_rounded(self, node: Add, inputs: Sequence[str]) -> None:
        """Append an addition that rounds each operand."""
        self._define("RoundedAdd", _functions.rounded_add)
        self._nodes.append(helper.make_node("RoundedAdd", inputs, [self.target(node)], domain=DOMAIN))

    def _define(self, name: str, make: Callable[[], onnx.FunctionProto]) -> None:
        if name not in self._functions:
            self._functions[name] = make()

    def constant(self, value: Any, dtype: Any) -> str:
        """Return the name of a small constant; equal ones are held in the model file once."""
        array = np.asarray(value, dtype)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def zero_point(self, tensor: Tensor) -> str:
        """Return the name of a tensor's zero point."""
        return self.constant(tensor.zero_point, np.int8)

    def grid(self, tensor: Tensor) -> tuple[str, str]:
        """Return the names of a tensor's scale and zero point."""
        return self.constant(tensor.scale, np.float32), self.zero_point(tensor)

    def stored(self, node: Node, array: str, shape: tuple[int, ...] | None = None) -> str:
        """Return the name of an array of a layer that lies in weights.bin."""
        place: Stored = self.model.placed[f"{node.name}.{array}"]
        tensor = TensorProto(
            name=f"{array}{place.offset // ALIGNMENT}",
            data_type=_ELEMENT[place.dtype],
            dims=place.shape if shape is None else shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (("location", WEIGHTS_FILE), ("offset", place.offset), ("length", place.size)):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers.append(tensor)
        return tensor.name

    def target(self, node: Node) -> str:
        """Return the name that the node's operator writes to: its output, or what is still to be clipped."""
        return node.output if _range(node) == INT8 else f"{node.output}/wide"

    def clip(self, node: Node) -> None:
        """Append a Clip where int8 itself does not clamp as much as the node does."""
        if _range(node) != INT8:
            limits = [self.constant(code, np.int8) for code in _range(node)]
            self.add("Clip", [self.target(node), *limits], node.output)

    def proto(self, probes: list[Tensor]) -> onnx.ModelProto:
        """Return the model; `probes` are outputs beside the model's own."""
        source, result = self.model.tensors[self.model.input], self.model.tensors[self.model.output]
        graph = helper.make_graph(
            self._nodes,
            "integer_model",
            [_value_info(source, source.shape)],
            [_value_info(tensor, _nchw(tensor.shape)) for tensor in (result, *probes)],
            self._initializers,
        )
        return helper.make_model(
            graph,
            functions=list(self._functions.values()),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
            ir_version=IR_VERSION,
            producer_name="msq",
        )


def _range(node: Node) -> tuple[int, int]:
    """Return the codes that the node's result keeps to."""
    return node.clamp if isinstance(node, Quantize | Conv2d | Linear | Add | AveragePool | Multiply) else INT8


def _nchw(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[2], shape[0], shape[1]) if len(shape) == 3 else tuple(shape)


def _value_info(tensor: Tensor, shape: Sequence[int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, _ELEMENT[tensor.dtype], [BATCH, *shape])


def _quantize(graph: _Graph, node: Quantize) -> None:
    out = graph.model.tensors[node.output]
    is_map = len(out.shape) == 3
    codes = f"{node.output}/nhwc" if is_map else graph.target(node)
    graph.add("QuantizeLinear", [node.inputs[0], *graph.grid(out)], codes)
    if is_map:
        graph.add("Transpose", [codes], graph.target(node), perm=[0, 3, 1, 2])


def _dequantize(graph: _Graph, node: Dequantize) -> None:
    source = graph.model.tensors[node.inputs[0]]
    codes = source.name
    if len(source.shape) == 3:
        # Codes are transposed, not reals: ONNX Runtime 1.31 spoils a transposition behind the DequantizeLinear.
        codes = graph.add("Transpose", [codes], f"{node.output}/nhwc", perm=[0, 2, 3, 1])
    graph.add("DequantizeLinear", [codes, *graph.grid(source)], node.output)


def _weighted(graph: _Graph, node: Conv2d | Linear, shape: tuple[int, ...], **attributes: Any) -> None:
    """Append a packed operator; shape is (out, kernel height, kernel width, in / groups)."""
    weight = node.weight
    source, out = graph.model.tensors[node.inputs[0]], graph.model.tensors[node.output]
    packed: list[str] = []
    if weight.bits:
        atoms = (-(-weight.outputs // PANEL), -(-weight.inputs // BLOCK), weight.bits, ATOM)
        packed = [graph.stored(node, "packed", atoms)]
        attributes |= {"a": weight.a, "z": weight.z}
    scale, bias = graph.stored(node, "scale"), graph.stored(node, "bias")
    graph.add_packed(
        node, [source.name, *graph.grid(source), *packed, scale, *graph.grid(out), bias], shape=shape, **attributes
    )


def _conv2d(graph: _Graph, node: Conv2d) -> None:
    given = {"strides": node.stride, "pads": node.padding, "dilations": node.dilation, "group": node.groups}
    different = {name: value for name, value in given.items() if value != _functions.CONV_DEFAULTS[name]}
    _weighted(graph, node, node.weight.shape, **different)


def _linear(graph: _Graph, node: Linear) -> None:
    shape = graph.model.tensors[node.inputs[0]].shape
    if len(shape) != 1:
        raise LoweringError(
            f"{node.module}: linear over a tensor of shape {shape} cannot be lowered to ONNX",
            hint="flatten it first, or use a 1 × 1 convolution",
        )
    _weighted(graph, node, (node.weight.outputs, 1, 1, node.weight.inputs))


def _add(graph: _Graph, node: Add) -> None:
    out = graph.model.tensors[node.output]
    operands: list[str] = []
    for operand in (graph.model.tensors[name] for name in node.inputs):
        ratio = graph.constant(np.float32(operand.scale) / np.float32(out.scale), np.float32)
        operands += [operand.name, ratio, graph.zero_point(operand)]
    graph.add_rounded(node, [*operands, graph.zero_point(out)])


def _average_pool(graph: _Graph, node: AveragePool) -> None:
    source, out = graph.model.tensors[node.inputs[0]], graph.model.tensors[node.output]
    height, width, channels = source.shape
    shape = graph.constant((channels, 1, height, width), np.int64)
    one = numpy_helper.from_array(np.ones(1, np.int8))
    ones = graph.add("ConstantOfShape", [shape], f"{node.output}/ones", value=one)
    scale = graph.constant(1 / (height * width), np.float32)
    zero = graph.constant(0, np.int8)
    inputs = [source.name, *graph.grid(source), ones, scale, zero, *graph.grid(out)]
    graph.add("QLinearConv", inputs, graph.target(node), group=channels)


def _lookup(graph: _Graph, node: Lookup) -> None:
    wide = graph.add("Cast", [node.inputs[0]], f"{node.output}/wide", to=TensorProto.INT32)
    index = graph.add("Add", [wide, graph.constant(128, np.int32)], f"{node.output}/index")
    graph.add("Gather", [graph.constant(node.table, np.int8), index], node.output, axis=0)


def _multiply(graph: _Graph, node: Multiply) -> None:
    left, right, out = (graph.model.tensors[name] for name in (*node.inputs, node.output))
    one = graph.constant(1.0, np.float32)
    centred = [
        graph.add("DequantizeLinear", [source.name, one, graph.zero_point(source)], f"{node.output}/{side}")
        for side, source in (("left", left), ("right", right))
    ]
    # The product of the integers first: no fusion of ONNX Runtime's takes it for a quantized multiplication of its own.
    product = graph.add("Mul", centred, f"{node.output}/product")
    multiplier = np.float32(left.scale) * np.float32(right.scale) / np.float32(out.scale)
    scaled = graph.add("Mul", [product, graph.constant(multiplier, np.float32)], f"{node.output}/scaled")
    graph.add("QuantizeLinear", [scaled, one, graph.zero_point(out)], graph.target(node))


def _max_pool(graph: _Graph, node: MaxPool) -> None:
    graph.add(
        "MaxPool", [node.inputs[0]], node.output, kernel_shape=node.kernel, strides=node.stride, pads=node.padding
    )


def _flatten(graph: _Graph, node: Flatten) -> None:
    source, shape = node.inputs[0], graph.model.tensors[node.inputs[0]].shape
    if math.prod(shape[:2]) > 1:
        source = graph.add("Transpose", [source], f"{node.output}/nhwc", perm=[0, 2, 3, 1])
    graph.add("Flatten", [source], node.output, axis=1)


_EMIT: dict[type[Node], Callable[[_Graph, Any], None]] = {
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
}
