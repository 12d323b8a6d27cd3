"""The ONNX graph under construction: operators, constants, and arrays in weights.bin."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export.lowerings import _functions
from export.lowerings._functions import DOMAIN, OPSET, Kind
from msq.integer_model import ALIGNMENT, WEIGHTS_FILE, IntegerModel, Stored
from msq.nodes import Conv2d, Linear, Node, Tensor

IR_VERSION = 10
BATCH = "n"
INT8 = (-128, 127)
_ELEMENT = {
    "float32": TensorProto.FLOAT,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
}


class Graph:
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

    def add_function(
        self, name: str, make: Callable[[], onnx.FunctionProto], node: Node, inputs: Sequence[str], **attributes: Any
    ) -> None:
        """Append a node as one of our own operators, which `make` defines."""
        self._define(name, make)
        self._nodes.append(helper.make_node(name, inputs, [self.target(node)], domain=DOMAIN, **attributes))

    def add_packed(
        self, kind: Kind, node: Conv2d | Linear, inputs: Sequence[str], output: str, **attributes: Any
    ) -> None:
        """Append a weighted layer as its packed operator."""
        if node.weight.bits:
            self._define("Plane", _functions.plane)
            ordering = _functions.ordering(kind)
            self._define(ordering, _functions.ORDERINGS[ordering])
        name = _functions.packed_name(kind, node.weight.bits)
        self._define(name, lambda: _functions.packed(kind, node.weight.bits))
        self._nodes.append(helper.make_node(name, inputs, [output], name=node.name, domain=DOMAIN, **attributes))

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
        return node.output if code_range(node) == INT8 else f"{node.output}/wide"

    def clip(self, node: Node) -> None:
        """Append a Clip where int8 itself does not clamp as much as the node does."""
        if code_range(node) != INT8:
            limits = [self.constant(code, np.int8) for code in code_range(node)]
            self.add("Clip", [self.target(node), *limits], node.output)

    def proto(self, probes: list[Tensor]) -> onnx.ModelProto:
        """Return the model; `probes` are outputs beside the model's own."""
        source, result = self.model.tensors[self.model.input], self.model.tensors[self.model.output]
        graph = helper.make_graph(
            self._nodes,
            "integer_model",
            [_value_info(source)],
            [_value_info(tensor) for tensor in (result, *probes)],
            self._initializers,
        )
        return helper.make_model(
            graph,
            functions=list(self._functions.values()),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
            ir_version=IR_VERSION,
            producer_name="msq",
        )


def code_range(node: Node) -> tuple[int, int]:
    """Return the codes that the node's result keeps to."""
    clamp: tuple[int, int] = getattr(node, "clamp", INT8)
    return clamp


def _value_info(tensor: Tensor) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, _ELEMENT[tensor.dtype], [BATCH, *tensor.shape])
