"""The operators of domain "msq" as ONNX functions of standard operators, so that any runtime can run them.

    Packed{Conv,Depthwise,Linear,Tokens}{bits}   unpacks the weights, then an int8 QLinearConv
    Plane, Weights, ChannelWeights     the two halves of unpacking, shared by all widths: they keep the model file small
    RoundedAdd, Multiply, Lookup, AveragePool    as the integer model defines them

Unpacking is msq.packing in standard operators. It depends on initializers only, so that a runtime does it once,
while it loads the model.
"""

from typing import Any, Literal

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from msq.packing import ATOM, GROUP, GROUPS, PANEL, planes

DOMAIN = "msq"
OPSET = 21

Kind = Literal["Conv", "Depthwise", "Linear", "Tokens"]

_INT32 = TensorProto.INT32

NHWC_TO_NCHW, NCHW_TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
"""Orders of Transpose. A runtime that convolves with channels last cancels both."""

CONV_DEFAULTS = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}
"""What a PackedConv's attributes are where a node leaves them out."""


def packed_name(kind: Kind, bits: int) -> str:
    """Return the operator's name: PackedConv3 is a convolution whose weights take 3 bits."""
    return f"Packed{kind}{bits}"


def ordering(kind: Kind) -> str:
    """Return the name of the function that puts the codes of a layer in order, a key of ORDERINGS."""
    return "ChannelWeights" if kind == "Depthwise" else "Weights"


def packed(kind: Kind, bits: int) -> onnx.FunctionProto:
    """Return the function of a packed layer.

    Inputs: x int8 (n, h, w, c), or (n, features) for Linear, (n, tokens, features) for Tokens; x_scale, x_zero_point;
    packed uint8 (blocks, bits, 64), absent at width 0; w_scale float32 (out,); y_scale, y_zero_point; bias int32
    (out,).
    Attributes: shape [out, kernel height, kernel width, in / groups]; a, z of w = a·u − z; for Conv and Depthwise also
    strides, pads [top, left, bottom, right], dilations, group.
    """
    body = Body()
    weights = _unpacked(body, bits, ordering(kind)) if bits else _zeros(body)
    zero = body.constant(0, np.int8)
    operands = ["x_scale", "x_zero_point", weights, "w_scale", zero, "y_scale", "y_zero_point", "bias"]
    defaults: dict[str, Any] = {}
    if kind in ("Conv", "Depthwise"):
        defaults = CONV_DEFAULTS
        image = body.add("Transpose", ["x"], perm=NHWC_TO_NCHW)
        image = body.add("QLinearConv", [image, *operands], same=tuple(CONV_DEFAULTS))
        body.add("Transpose", [image], "y", perm=NCHW_TO_NHWC)
    elif kind == "Tokens":
        # Tokens are the pixels of a map one pixel wide.
        height = body.constant([2], np.int64)
        image = body.add("Transpose", [body.add("Unsqueeze", ["x", height])], perm=[0, 3, 2, 1])
        image = body.add("QLinearConv", [image, *operands])
        body.add("Squeeze", [body.add("Transpose", [image], perm=[0, 3, 2, 1]), height], "y")
    else:
        image = body.add("Reshape", ["x", body.constant([0, 1, 1, -1], np.int64)])
        image = body.add("QLinearConv", [body.add("Transpose", [image], perm=NHWC_TO_NCHW), *operands])
        body.add("Flatten", [body.add("Transpose", [image], perm=NCHW_TO_NHWC)], "y", axis=1)
    inputs = ["x", "x_scale", "x_zero_point", *(["packed"] if bits else []), "w_scale"]
    attributes = ["shape", "a", "z"] if bits else ["shape"]
    return body.function(packed_name(kind, bits), [*inputs, "y_scale", "y_zero_point", "bias"], attributes, defaults)


def plane() -> onnx.FunctionProto:
    """Return the function that takes one plane out of packed codes.

    Input: packed uint8 (blocks, bits, 64). Attributes: atoms [first, one behind the last]; shifts of the fields of a
    byte; mask of a field; low, the plane's lowest bit in a code. Output: (blocks, groups of a block, 64).
    """
    body = Body()
    zero, one, two = (body.constant([index], np.int64) for index in (0, 1, 2))
    atoms = body.attribute("atoms", AttributeProto.INTS)
    first, behind = body.add("Slice", [atoms, zero, one]), body.add("Slice", [atoms, one, two])
    taken = body.add("Slice", ["packed", first, behind, one])
    fields = body.add("Unsqueeze", [taken, two])
    shifts = body.attribute("shifts", AttributeProto.INTS, TensorProto.UINT8)
    column = body.add("Unsqueeze", [shifts, one])
    shifted = body.add("BitShift", [fields, column], direction="RIGHT")
    masked = body.add("BitwiseAnd", [shifted, body.attribute("mask", AttributeProto.INT, TensorProto.UINT8)])
    groups = body.add("Reshape", [masked, body.constant([0, GROUPS, ATOM], np.int64)])
    low = body.attribute("low", AttributeProto.INT, TensorProto.UINT8)
    body.add("BitShift", [groups, low], "y", direction="LEFT")
    return body.function("Plane", ["packed"], ["atoms", "shifts", "mask", "low"])


def weights() -> onnx.FunctionProto:
    """Return the function that puts codes in order and makes them weights.

    Input: codes uint8 (blocks, 8, 64). Attributes: shape, a, z as of a packed layer.
    Output: int8 (out, in / groups, height, width).
    """
    body = Body()
    shape = body.attribute("shape", AttributeProto.INTS)
    zero, one, last = (body.constant([index], np.int64) for index in (0, 1, 4))
    outputs = body.add("Slice", [shape, zero, one])
    inputs = body.add("ReduceProd", [body.add("Slice", [shape, one, last])])
    sizes = body.add("Concat", [outputs, inputs], axis=0)
    unit = body.constant([PANEL, GROUP], np.int64)
    # (panels, groups of a panel), rounded up
    counts = body.add("Div", [body.add("Add", [sizes, body.constant([PANEL - 1, GROUP - 1], np.int64)]), unit])
    # Groups, then panels of outputs × inputs, then the matrix; filling is cut off at both ends.
    groups = body.add("Reshape", ["codes", body.constant([-1, ATOM], np.int64)])
    taken = body.add("Slice", [groups, zero, body.add("ReduceProd", [counts])])
    split = body.add("Reshape", [taken, body.add("Concat", [counts, unit], axis=0)])
    ordered = body.add("Transpose", [split], perm=[0, 2, 1, 3])
    filled = body.add("Reshape", [ordered, body.add("Mul", [counts, unit])])
    matrix = body.add("Slice", [filled, body.constant([0, 0], np.int64), sizes])
    wide = body.add("Cast", [body.add("Reshape", [matrix, shape])], to=_INT32)
    integers = body.add("Cast", [_on_grid(body, wide)], to=TensorProto.INT8)
    body.add("Transpose", [integers], "y", perm=[0, 3, 1, 2])
    return body.function("Weights", ["codes"], ["shape", "a", "z"])


def channel_weights() -> onnx.FunctionProto:
    """Return the same function for the layout of depthwise layers, whose groups run tap by tap.

    Input, attributes and output are those of `weights`.
    """
    body = Body()
    shape = body.attribute("shape", AttributeProto.INTS)
    zero, one, three = (body.constant([index], np.int64) for index in (0, 1, 3))
    channels, kernel = body.add("Slice", [shape, zero, one]), body.add("Slice", [shape, one, three])
    count = body.add("ReduceProd", [shape])
    row = body.add("Slice", [body.add("Reshape", ["codes", body.constant([-1], np.int64)]), zero, count])
    by_tap = body.add("Reshape", [row, body.add("Concat", [kernel, channels], axis=0)])
    wide = body.add("Cast", [body.add("Unsqueeze", [body.add("Transpose", [by_tap], perm=[2, 0, 1]), one])], to=_INT32)
    body.add("Cast", [_on_grid(body, wide)], "y", to=TensorProto.INT8)
    return body.function("ChannelWeights", ["codes"], ["shape", "a", "z"])


def _on_grid(body: "Body", codes: str) -> str:
    """Append w = a·u − z, in int32."""
    slope, offset = (body.attribute(name, AttributeProto.INT, _INT32) for name in ("a", "z"))
    return body.add("Sub", [body.add("Mul", [codes, slope]), offset])


def rounded_add() -> onnx.FunctionProto:
    """Return the function of an addition on the grid of its result.

    Runtimes fuse DequantizeLinear, Add, QuantizeLinear into an addition that rounds once. The Round between
    prevents that: each operand is brought to the result's grid by itself, as the integer model says.

    Inputs: p, q int8 with p_ratio, q_ratio (their scale / the result's, float32) and zero points; y_zero_point.
    """
    body = Body()
    rounded = [
        body.add("Round", [body.add("DequantizeLinear", [name, f"{name}_ratio", f"{name}_zero_point"])])
        for name in ("p", "q")
    ]
    total = body.add("Add", rounded)
    body.add("QuantizeLinear", [total, body.constant(1, np.float32), "y_zero_point"], "y")
    inputs = ["p", "p_ratio", "p_zero_point", "q", "q_ratio", "q_zero_point", "y_zero_point"]
    return body.function("RoundedAdd", inputs, [])


def multiply() -> onnx.FunctionProto:
    """Return the function of a product of two tensors, element by element.

    The integers' product comes first: no fusion of a runtime takes it for a quantized multiplication of its own.

    Inputs: p, p_zero_point, q, q_zero_point int8; multiplier float32; y_zero_point.
    """
    body = Body()
    one = body.constant(1, np.float32)
    p, q = (body.add("DequantizeLinear", [name, one, f"{name}_zero_point"]) for name in ("p", "q"))
    scaled = body.add("Mul", [body.add("Mul", [p, q]), "multiplier"])
    body.add("QuantizeLinear", [scaled, one, "y_zero_point"], "y")
    return body.function("Multiply", ["p", "p_zero_point", "q", "q_zero_point", "multiplier", "y_zero_point"], [])


def average_pool() -> onnx.FunctionProto:
    """Return the function of a global average, as a convolution by ones.

    Inputs: x int8 (n, h, w, c), x_scale, x_zero_point; w_scale, 1 / (h · w); y_scale, y_zero_point.
    Attributes: shape [c, 1, h, w]; group, c.
    """
    body = Body()
    one = numpy_helper.from_array(np.ones(1, np.int8))
    ones = body.add("ConstantOfShape", [body.attribute("shape", AttributeProto.INTS)], value=one)
    image = body.add("Transpose", ["x"], perm=NHWC_TO_NCHW)
    weight = [ones, "w_scale", body.constant(0, np.int8)]
    grids = [["x_scale", "x_zero_point"], ["y_scale", "y_zero_point"]]
    image = body.add("QLinearConv", [image, *grids[0], *weight, *grids[1]], same=("group",))
    body.add("Transpose", [image], "y", perm=NCHW_TO_NHWC)
    return body.function("AveragePool", ["x", *grids[0], "w_scale", *grids[1]], ["shape", "group"])


def lookup() -> onnx.FunctionProto:
    """Return the function of a table of 256 codes. Inputs: x int8; table int8 (256,)."""
    body = Body()
    index = body.add("Add", [body.add("Cast", ["x"], to=_INT32), body.constant(128, np.int32)])
    body.add("Gather", ["table", index], "y", axis=0)
    return body.function("Lookup", ["x", "table"], [])


ORDERINGS = {"Weights": weights, "ChannelWeights": channel_weights}


def _unpacked(body: "Body", bits: int, ordering: str) -> str:
    codes, first, low = "", 0, 0
    for width in planes(bits):
        part = body.add(
            "Plane",
            ["packed"],
            domain=DOMAIN,
            atoms=[first, first + width],
            shifts=[*range(0, 8, width)],
            mask=(1 << width) - 1,
            low=low,
        )
        codes = body.add("BitwiseOr", [codes, part]) if codes else part
        first, low = first + width, low + width
    return body.add(ordering, [codes], domain=DOMAIN, same=("shape", "a", "z"))


def _zeros(body: "Body") -> str:
    """Append the weights of a layer without bits: int8 zeros, (out, in / groups, height, width)."""
    zero = numpy_helper.from_array(np.zeros(1, np.int8))
    zeros = body.add("ConstantOfShape", [body.attribute("shape", AttributeProto.INTS)], value=zero)
    return body.add("Transpose", [zeros], perm=[0, 3, 1, 2])


class Body:
    """The nodes of one function."""

    _KINDS = {"group": AttributeProto.INT, "a": AttributeProto.INT, "z": AttributeProto.INT}

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []

    def add(
        self, operator: str, inputs: list[str], output: str = "", *, same: tuple[str, ...] = (), **attributes: Any
    ) -> str:
        """Append an operator and return its output; its attributes named in `same` are those of the function."""
        output = output or f"v{len(self._nodes)}"
        node = helper.make_node(operator, inputs, [output], **attributes)
        for name in same:
            kind = self._KINDS.get(name, AttributeProto.INTS)
            node.attribute.append(AttributeProto(name=name, ref_attr_name=name, type=kind))
        self._nodes.append(node)
        return output

    def constant(self, value: Any, dtype: Any) -> str:
        """Append a constant."""
        return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(value, dtype)))

    def attribute(self, name: str, kind: "AttributeProto.AttributeType", dtype: int = TensorProto.INT64) -> str:
        """Append an attribute of the function as a constant of an integer type."""
        output = self.add("Constant", [])
        field = "value_int" if kind == AttributeProto.INT else "value_ints"
        self._nodes[-1].attribute.append(AttributeProto(name=field, ref_attr_name=name, type=kind))
        return output if dtype == TensorProto.INT64 else self.add("Cast", [output], to=dtype)

    def function(
        self, name: str, inputs: list[str], attributes: list[str], defaults: dict[str, Any] | None = None
    ) -> onnx.FunctionProto:
        """Return the function of these nodes; its output is y."""
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(DOMAIN, 1))
        optional = [helper.make_attribute(key, value) for key, value in (defaults or {}).items()]
        return helper.make_function(
            DOMAIN, name, inputs, ["y"], self._nodes, opsets, attributes, attribute_protos=optional
        )
