"""What the operators of a transformer become in integers: products of activations, softmax, layer norms, and the
ways in which tokens are cut, turned and joined."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from export import elementwise
from export.assembly import Assembly
from export.call import Call
from export.values import Constant, Pending, Quantized, Value

LARGEST_SUM = 1 << 31
LARGEST_PRODUCT = 255 * 255
"""|p − z_p| · |q − z_q| of int8 codes."""
WHOLE = (1 << 63) - 1
"""Where torch ends a slice that goes to the end."""
MOST_FEATURES = 1 << 16
"""Of a layer norm: its sums of squared codes and n-fold codes then stay within int32."""


def in_order(assembly: Assembly, call: Call, name: str = "self", *, keep_layout: bool = False) -> Quantized:
    """Return an operand whose dimensions are torch's, in torch's order (or channels last, if that may stay)."""
    source = call.quantized(name)
    if source.flattened_from is not None:
        raise call.refusal("its input is a flattened map, whose order differs from torch's here")
    return source if keep_layout else assembly.arranged(source, channels_last=False)


def _matmul(assembly: Assembly, call: Call) -> Value:
    left, right = in_order(assembly, call), in_order(assembly, call, "mat2" if "bmm" in call.operator else "other")
    if len(left.shape) < 2 or left.shape[:-2] != right.shape[:-2]:
        raise call.refusal(f"matrices of the shapes {left.shape} and {right.shape} cannot be multiplied")
    if left.shape[-1] * LARGEST_PRODUCT >= LARGEST_SUM:
        raise call.refusal(f"sums of {left.shape[-1]} products can overflow the int32 accumulator")
    return Pending("matmul", call.name, call.module, (left, right), call.shape, options={"factor": 1.0})


def _softmax(assembly: Assembly, call: Call) -> Value:
    source = in_order(assembly, call)
    if call.arguments["dim"] not in (-1, len(source.shape)):
        raise call.refusal("only a softmax over the last dimension can be lowered")
    table = elementwise.exponentials(source.grid.scale, source.shape[-1])
    return Pending("softmax", call.name, call.module, (source,), source.shape, options={"table": table})


def _layer_norm(assembly: Assembly, call: Call) -> Value:
    source = in_order(assembly, call, "input")
    n, (*_, normalized) = source.shape[-1], call.arguments["normalized_shape"]
    if len(call.arguments["normalized_shape"]) != 1 or n != normalized or n >= MOST_FEATURES:
        raise call.refusal(f"only a layer norm over the last dimension, below {MOST_FEATURES}, can be lowered")
    epsilon = np.float32(n * n * call.arguments["eps"] / (source.grid.scale * source.grid.scale))
    if not 0 < epsilon < math.inf:
        raise call.refusal(f"its eps of {call.arguments['eps']} is none at a scale of {source.grid.scale}")
    weight, bias = call.array("weight"), call.array("bias")
    gamma = np.ones(n, np.float32) if weight is None else weight.astype(np.float32)
    beta = np.zeros(n, np.float32) if bias is None else bias.astype(np.float32)
    if not (np.isfinite(gamma).all() and np.isfinite(beta).all()):
        raise call.refusal("its weight or bias is not finite", "train it again")
    options = {"gamma": gamma, "beta": beta, "epsilon": float(epsilon)}
    return Pending("layer_norm", call.name, call.module, (source,), source.shape, options=options)


def _permute(assembly: Assembly, call: Call) -> Value:
    source = in_order(assembly, call, keep_layout=True)
    rank = len(source.shape)
    dims = [dim % (rank + 1) for dim in call.arguments["dims"]]
    return _permuted(assembly, call, source, dims)


def _transpose(assembly: Assembly, call: Call) -> Value:
    source = in_order(assembly, call, keep_layout=True)
    dims = list(range(len(source.shape) + 1))
    # mT, the transposition of matrices, says no dimensions.
    one, other = (call.arguments.get(name, last) % len(dims) for name, last in (("dim0", -2), ("dim1", -1)))
    dims[one], dims[other] = dims[other], dims[one]
    return _permuted(assembly, call, source, dims)


def _permuted(assembly: Assembly, call: Call, source: Quantized, dims: list[int]) -> Quantized:
    if dims[0] != 0:
        raise call.refusal("it moves the batch, which must stay in front")
    last = len(source.shape) - 1
    stored = [(axis - 2) % (last + 1) if source.channels_last else axis - 1 for axis in dims[1:]]
    return assembly.permute(call.name, call.module, source, tuple(stored))


def _select(assembly: Assembly, call: Call) -> Value:
    source = in_order(assembly, call)
    axis = _axis(call, source)
    index = call.arguments["index"] % source.shape[axis]
    cut = assembly.slice(f"{call.name}.slice", call.module, source, axis, index, index + 1)
    return assembly.reshape(call.name, call.module, cut, call.shape)


def _slice(assembly: Assembly, call: Call) -> Value:
    start, stop, step = (call.arguments[name] for name in ("start", "end", "step"))
    if step != 1:
        raise call.refusal("only a step of 1 can be lowered")
    if start in (0, None) and stop in (WHOLE, None):
        return call.quantized()
    source = in_order(assembly, call)
    axis = _axis(call, source)
    first, behind, _ = slice(start, stop).indices(source.shape[axis])
    return assembly.slice(call.name, call.module, source, axis, first, behind)


def _axis(call: Call, source: Quantized) -> int:
    axis = call.arguments["dim"] % (len(source.shape) + 1) - 1
    if axis < 0:
        raise call.refusal("it cuts the batch")
    return int(axis)


def _concat(assembly: Assembly, call: Call) -> Value:
    rank = len(call.shape)
    operands = [
        assembly.constant(value, call.module, channels_last=False, rank=rank)
        if isinstance(value, Constant)
        else in_order(assembly, replace(call, arguments={"self": value}), keep_layout=True)
        for value in call.arguments["tensors"]
    ]
    axis, maps = call.arguments["dim"] % (rank + 1) - 1, all(operand.channels_last for operand in operands)
    if axis < 0:
        raise call.refusal("it joins batches")
    return Pending(
        "concat",
        call.name,
        call.module,
        tuple(operands if maps else (assembly.arranged(operand, channels_last=False) for operand in operands)),
        call.map_shape if maps else call.shape,
        options={"axis": (axis - 1) % rank if maps else axis},
        channels_last=maps,
    )


def _expand(assembly: Assembly, call: Call) -> Value:
    value = call.arguments["self"]
    if isinstance(value, Constant):
        return Constant(value.name, np.broadcast_to(value.array, (1, *call.shape)))
    if call.quantized().sizes != call.shape:
        raise call.refusal(f"it repeats a tensor of shape {value.sizes} to {call.shape}")
    return call.quantized()


CONVERTERS: dict[str, Callable[[Assembly, Call], Value]] = {
    "aten.matmul.default": _matmul,
    "aten.bmm.default": _matmul,
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.layer_norm.default": _layer_norm,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    "aten.mT.default": _transpose,
    "aten.select.int": _select,
    "aten.slice.Tensor": _slice,
    "aten.cat.default": _concat,
    "aten.expand.default": _expand,
}
