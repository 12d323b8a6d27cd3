"""What transformers need beyond convolutions, as ONNX functions that round as the integer model says.

    MatMul      product of two activations
    Softmax     from a table of integer exponentials
    LayerNorm   from integer sums
    Repeated    a constant, once for every image

Runtimes replace patterns that they know by operators of their own, which round differently. None of these is such a
pattern: integers are cast, not dequantized, and sums are of integers, where a runtime looks for means of reals.
"""

import numpy as np
import onnx
from onnx import TensorProto

from export.lowerings._functions import Body


def matmul() -> onnx.FunctionProto:
    """Return the function of a product of activations.

    Inputs: p int8 (n, …, m, k), p_zero_point; q int8 (n, …, k, o), q_zero_point; multiplier float32; y_zero_point.
    Products of uint8 are exact on every processor; those of int8 saturate on some x86 ones.
    """
    body = Body()
    half = body.constant(128, np.uint8)
    p, p_zero, q, q_zero = (
        body.add("BitwiseXor", [body.add("Cast", [name], to=TensorProto.UINT8), half])
        for name in ("p", "p_zero_point", "q", "q_zero_point")
    )
    sums = body.add("Cast", [body.add("MatMulInteger", [p, q, p_zero, q_zero])], to=TensorProto.FLOAT)
    scaled = body.add("Mul", [sums, "multiplier"])
    body.add("QuantizeLinear", [scaled, body.constant(1, np.float32), "y_zero_point"], "y")
    return body.function("MatMul", ["p", "p_zero_point", "q", "q_zero_point", "multiplier", "y_zero_point"], [])


def softmax() -> onnx.FunctionProto:
    """Return the function of a softmax over the last dimension.

    Inputs: x int8 (n, …, terms); table int32 (256,); y_scale, y_zero_point.
    """
    body = Body()
    last = body.constant([-1], np.int64)
    largest = body.add("Cast", [body.add("ReduceMax", ["x", last])], to=TensorProto.INT32)
    below = body.add("Sub", [largest, body.add("Cast", ["x"], to=TensorProto.INT32)])
    exponentials = body.add("Gather", ["table", below], axis=0)
    total = body.add("Cast", [body.add("ReduceSum", [exponentials, last])], to=TensorProto.FLOAT)
    shares = body.add("Div", [body.add("Cast", [exponentials], to=TensorProto.FLOAT), total])
    body.add("QuantizeLinear", [shares, "y_scale", "y_zero_point"], "y")
    return body.function("Softmax", ["x", "table", "y_scale", "y_zero_point"], [])


def layer_norm() -> onnx.FunctionProto:
    """Return the function of a layer normalization over the last dimension.

    Inputs: x int8 (n, …, features); gamma, beta float32 (features,); epsilon float32; y_scale, y_zero_point.
    """
    body = Body()
    last = body.constant([-1], np.int64)
    features = body.add("Shape", ["gamma"])
    codes = body.add("Cast", ["x"], to=TensorProto.INT32)
    total = body.add("ReduceSum", [codes, last])
    squares = body.add("ReduceSum", [body.add("Mul", [codes, codes]), last])
    wide, squares = (body.add("Cast", [name], to=TensorProto.INT64) for name in (total, squares))
    variance = body.add("Sub", [body.add("Mul", [squares, features]), body.add("Mul", [wide, wide])])
    deviation = body.add("Sqrt", [body.add("Add", [body.add("Cast", [variance], to=TensorProto.FLOAT), "epsilon"])])
    narrow = body.add("Cast", [features], to=TensorProto.INT32)
    centred = body.add("Sub", [body.add("Mul", [codes, narrow]), total])
    normal = body.add("Div", [body.add("Cast", [centred], to=TensorProto.FLOAT), deviation])
    real = body.add("Add", [body.add("Mul", [normal, "gamma"]), "beta"])
    body.add("QuantizeLinear", [real, "y_scale", "y_zero_point"], "y")
    return body.function("LayerNorm", ["x", "gamma", "beta", "epsilon", "y_scale", "y_zero_point"], [])


def repeated() -> onnx.FunctionProto:
    """Return the function that gives every image its copy of a constant.

    Inputs: codes int8 (1, …); images, whose first dimension is the batch; ones int64, one for each further dimension.
    """
    body = Body()
    shape = body.add("Concat", [body.add("Shape", ["images"], start=0, end=1), "ones"], axis=0)
    body.add("Expand", ["codes", shape], "y")
    return body.function("Repeated", ["codes", "images", "ones"], [])
