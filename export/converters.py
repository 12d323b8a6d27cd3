"""What each ATen operator becomes in integers. An operator is supported by having a converter in CONVERTERS."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from export import elementwise, tokens
from export.assembly import Assembly
from export.call import Call
from export.folding import Affine
from export.values import Constant, Grid, Pending, Quantized, Value
from msq.checkpoint import Site


def identity(assembly: Assembly, call: Call) -> Value:
    """Return the first argument as it is."""
    value: Value = next(iter(call.arguments.values()))
    return value


def _dropout(assembly: Assembly, call: Call) -> Value:
    if call.arguments["train"]:
        raise call.refusal("it is in training mode", "export the model in eval mode")
    return identity(assembly, call)


def _getitem(assembly: Assembly, call: Call) -> Value:
    if call.arguments["index"] != 0:
        raise call.refusal("only an operator's first result can be lowered")
    return identity(assembly, call)


def _fake_quantize(assembly: Assembly, call: Call) -> Value:
    scale, zero_point = (_scalar(call, name) for name in ("scale", "zero_point"))
    low, high = call.arguments["quant_min"], call.arguments["quant_max"]
    # A grid of uint8 codes is the same grid in int8 with everything 128 lower.
    shift = 128 if high > 127 else 0
    grid = Grid(float(np.float32(scale)), int(zero_point) - shift, low - shift, high - shift)
    if not (-128 <= grid.low <= grid.zero_point <= grid.high <= 127 and 0 < grid.scale < math.inf):
        raise call.refusal(f"codes {low}..{high}, zero point {zero_point} and scale {scale} do not fit int8")
    value = call.arguments["self"]
    if isinstance(value, Pending):
        return assembly.settle(value, grid)
    if call.quantized().grid != grid:
        raise call.refusal("it takes an int8 tensor to another grid", "let one fake-quantization follow a layer")
    return call.quantized()


def _scalar(call: Call, name: str) -> float:
    value = call.arguments[name]
    if isinstance(value, Constant):
        if value.array.size != 1:
            raise call.refusal(f"its {name} has {value.array.size} values; an activation takes one")
        return float(value.array.item())
    return float(value)


def _conv2d(assembly: Assembly, call: Call) -> Value:
    if call.arguments.get("transposed"):
        raise call.refusal("a transposed convolution cannot be lowered")
    site = assembly.site(call.constant("weight"), "conv2d")
    source = _map(assembly, call, "input", padded=True)
    top, left, bottom, right = (own + before for own, before in zip(_padding(call, site), source.padding, strict=True))
    return Pending(
        kind="conv2d",
        name=site.name,
        module=site.name,
        inputs=(source,),
        result=call.map_shape,
        channels_last=True,
        site=site,
        affine=Affine.of_bias(site.shape[0], call.array("bias")),
        options={
            "stride": call.pair("stride"),
            "padding": (top, left, bottom, right),
            "dilation": call.pair("dilation"),
            "groups": call.arguments["groups"],
        },
    )


def _padding(call: Call, site: Site) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right. "same" puts the odd row or column at the end, as torch does."""
    given = call.arguments["padding"]
    if given == "valid":
        return (0, 0, 0, 0)
    if given == "same":
        totals = [step * (size - 1) for size, step in zip(site.shape[2:], call.pair("dilation"), strict=True)]
        top, left = (total // 2 for total in totals)
        return (top, left, totals[0] - top, totals[1] - left)
    return call.pair("padding") * 2


def _linear(assembly: Assembly, call: Call) -> Value:
    source = assembly.arranged(call.quantized("input"), channels_last=False)
    site = assembly.site(call.constant("weight"), "linear")
    affine = Affine.of_bias(site.shape[0], call.array("bias"))
    return Pending("linear", site.name, site.name, (source,), call.shape, site, affine)


def _batch_norm(assembly: Assembly, call: Call) -> Value:
    if call.arguments.get("training"):
        raise call.refusal("it is in training mode", "export the model in eval mode")
    value = call.pending("input")
    mean, variance = call.array("running_mean"), call.array("running_var")
    over_tokens = len(value.result) > 1 and not value.channels_last
    if value.affine is None or value.bounded or value.flat or over_tokens or mean is None or variance is None:
        raise call.refusal("a batch norm with running statistics is folded right behind a layer, and only there")
    affine = value.affine.then_batch_norm(
        call.array("weight"), call.array("bias"), mean, variance, call.arguments["eps"]
    )
    return replace(value, affine=affine)


def _relu(assembly: Assembly, call: Call) -> Value:
    return _clamped(call, 0.0, math.inf)


def _relu6(assembly: Assembly, call: Call) -> Value:
    return _clamped(call, 0.0, 6.0)


def _hardtanh(assembly: Assembly, call: Call) -> Value:
    return _clamped(call, float(call.arguments["min_val"]), float(call.arguments["max_val"]))


def _clamp(assembly: Assembly, call: Call) -> Value:
    low, high = call.arguments.get("min"), call.arguments.get("max")
    return _clamped(call, -math.inf if low is None else float(low), math.inf if high is None else float(high))


def _clamped(call: Call, low: float, high: float) -> Value:
    value = call.arguments["self"]
    if isinstance(value, Quantized) and (value.grid.code(low), value.grid.code(high)) == (
        value.grid.low,
        value.grid.high,
    ):
        return value  # the grid itself ends there
    return call.pending().clamped(low, high)


def _add(assembly: Assembly, call: Call) -> Value:
    if call.arguments["alpha"] != 1:
        raise call.refusal(f"alpha is {call.arguments['alpha']}; only 1 can be lowered")
    return _of_two("add", assembly, call)


def _multiply(assembly: Assembly, call: Call) -> Value:
    other = call.arguments["other"]
    return _scaled(assembly, call, other) if isinstance(other, int | float) else _of_two("multiply", assembly, call)


def _divide(assembly: Assembly, call: Call) -> Value:
    other = call.arguments["other"]
    if not isinstance(other, int | float) or not other:
        raise call.refusal("only a division by a number can be lowered")
    return _scaled(assembly, call, 1 / other)


def _scaled(assembly: Assembly, call: Call, factor: float) -> Value:
    value = call.arguments["self"]
    if isinstance(value, Pending) and value.kind == "matmul" and not value.bounded:
        return replace(value, options={"factor": value.options["factor"] * factor})
    return _elementwise(lambda x: x * factor)(assembly, call)


def _of_two(kind: Literal["add", "multiply"], assembly: Assembly, call: Call) -> Pending:
    """Return an addition or a multiplication of tensors of one rank, or of a tensor and a parameter."""
    given = [call.arguments[name] for name in ("self", "other")]
    like = next((value for value in given if isinstance(value, Quantized)), None)
    left, right = (
        assembly.constant(value, call.module, like.channels_last if like else False, len(call.shape))
        if isinstance(value, Constant)
        else call.quantized(name)
        for name, value in zip(("self", "other"), given, strict=True)
    )
    if left.channels_last != right.channels_last:
        left, right = (assembly.arranged(value, channels_last=False) for value in (left, right))
    if len(left.shape) != len(right.shape) or left.flattened_from != right.flattened_from:
        raise call.refusal(f"operands of the shapes {left.shape} and {right.shape} do not go together")
    result = tuple(max(sizes) for sizes in zip(left.shape, right.shape, strict=True))
    return Pending(
        kind, call.name, call.module, (left, right), result,
        flattened_from=left.flattened_from, channels_last=left.channels_last,
    )  # fmt: skip


def _elementwise(function: elementwise.Function) -> Callable[[Assembly, Call], Value]:
    def convert(assembly: Assembly, call: Call) -> Value:
        source = call.quantized()
        return Pending(
            "lookup", call.name, call.module, (source,), source.shape, options={"function": function},
            flattened_from=source.flattened_from, channels_last=source.channels_last,
        )  # fmt: skip

    return convert


def _gelu(assembly: Assembly, call: Call) -> Value:
    approximate = call.arguments.get("approximate") == "tanh"
    return _elementwise(elementwise.gelu_tanh if approximate else elementwise.gelu)(assembly, call)


def _pad(assembly: Assembly, call: Call) -> Value:
    if call.arguments.get("mode", "constant") != "constant" or call.arguments.get("value") not in (None, 0):
        raise call.refusal("only a padding by zeros can be lowered")
    source = _map(assembly, call, padded=True)
    given = list(call.arguments["pad"])
    left, right, top, bottom = given + [0] * (4 - len(given))
    if len(given) > 4 or min(given) < 0:
        raise call.refusal(f"a padding of {given} is not one of height and width")
    old = source.padding
    return replace(source, padding=(old[0] + top, old[1] + left, old[2] + bottom, old[3] + right))


def _adaptive_average_pool(assembly: Assembly, call: Call) -> Value:
    if call.shape[1:] != (1, 1):
        raise call.refusal(f"it averages to a map of {call.shape[1:]}; only the global average can be lowered")
    return _global_average(assembly, call)


def _average_pool(assembly: Assembly, call: Call) -> Value:
    padded, divided = any(call.pair("padding")), call.arguments["divisor_override"]
    if call.pair("kernel_size") != _map(assembly, call).shape[:2] or padded or divided:
        raise call.refusal("only an average over the whole map can be lowered")
    return _global_average(assembly, call)


def _mean(assembly: Assembly, call: Call) -> Value:
    dimensions = call.arguments["dim"] or ()
    if {dimension % 4 for dimension in dimensions} != {2, 3}:
        raise call.refusal(f"it averages over dimensions {dimensions}; only height and width can be lowered")
    return replace(_global_average(assembly, call), flat=not call.arguments["keepdim"])


def _global_average(assembly: Assembly, call: Call) -> Pending:
    source = _map(assembly, call)
    return Pending("average_pool", call.name, call.module, (source,), (1, 1, source.shape[2]), channels_last=True)


def _map(assembly: Assembly, call: Call, name: str = "self", *, padded: bool = False) -> Quantized:
    """Return an operand that must be a map, channels last. Raises LoweringError."""
    source = call.padded(name) if padded else call.quantized(name)
    if len(source.shape) != 3:
        raise call.refusal(f"its input has shape {source.shape}; a map is needed")
    return assembly.arranged(source, channels_last=True)


def _max_pool(assembly: Assembly, call: Call) -> Value:
    if call.pair("dilation") != (1, 1) or call.arguments["ceil_mode"]:
        raise call.refusal("dilation and ceil_mode cannot be lowered")
    kernel = call.pair("kernel_size")
    stride = call.pair("stride") if call.arguments["stride"] else kernel
    return assembly.max_pool(
        call.name, call.module, _map(assembly, call), call.map_shape, kernel, stride, call.pair("padding") * 2
    )


def _reshape(assembly: Assembly, call: Call) -> Value:
    value = identity(assembly, call)
    if not isinstance(value, Quantized | Pending):
        raise call.refusal("only activations can be reshaped")
    if call.shape == value.sizes:
        return value
    if math.prod(call.shape) != math.prod(value.sizes):
        raise call.refusal(f"it reshapes {value.sizes} to {call.shape}, the batch left out")
    flattens = len(call.shape) == 1 and value.channels_last and len(value.sizes) == 3
    if isinstance(value, Pending):
        if not flattens:
            raise call.refusal("it stands before a fake-quantization", "put the fake-quantization in front of it")
        return replace(value, flat=True)
    if flattens:
        return assembly.flatten(call.name, call.module, value)
    return assembly.reshape(call.name, call.module, tokens.in_order(assembly, call, keep_layout=True), call.shape)


CONVERTERS: dict[str, Callable[[Assembly, Call], Value]] = {
    "aten.fake_quantize_per_tensor_affine.default": _fake_quantize,
    "aten.fake_quantize_per_tensor_affine.tensor_qparams": _fake_quantize,
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.convolution.default": _conv2d,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "getitem": _getitem,
    "aten.relu.default": _relu,
    "aten.relu_.default": _relu,
    "aten.relu6.default": _relu6,
    "aten.relu6_.default": _relu6,
    "aten.hardtanh.default": _hardtanh,
    "aten.hardtanh_.default": _hardtanh,
    "aten.clamp.default": _clamp,
    "aten.clamp_.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.add.Tensor": _add,
    "aten.add_.Tensor": _add,
    "aten.mul.Tensor": _multiply,
    "aten.mul_.Tensor": _multiply,
    "aten.div.Tensor": _divide,
    "aten.hardswish.default": _elementwise(elementwise.hardswish),
    "aten.hardsigmoid.default": _elementwise(elementwise.hardsigmoid),
    "aten.sigmoid.default": _elementwise(elementwise.sigmoid),
    "aten.silu.default": _elementwise(elementwise.silu),
    "aten.gelu.default": _gelu,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.adaptive_avg_pool2d.default": _adaptive_average_pool,
    "aten.avg_pool2d.default": _average_pool,
    "aten.mean.dim": _mean,
    "aten.max_pool2d.default": _max_pool,
    "aten.flatten.using_ints": _reshape,
    "aten.view.default": _reshape,
    "aten.reshape.default": _reshape,
    "aten.unflatten.int": _reshape,
    "aten.squeeze.dims": _reshape,
    "aten.squeeze.dim": _reshape,
    "aten.unsqueeze.default": _reshape,
    **tokens.CONVERTERS,
    "aten.dropout.default": _dropout,
    "aten.alias.default": identity,
    "aten.clone.default": identity,
    "aten.contiguous.default": identity,
    "aten.detach.default": identity,
    "aten.detach_.default": identity,
}
