"""What each ATen operator becomes in integers. An operator is supported by having a converter in CONVERTERS."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import elementwise
from export.assembly import Assembly
from export.folding import Affine
from export.values import Constant, Grid, Pending, Quantized, Value
from msq.checkpoint import Site
from msq.errors import LoweringError


@dataclass(frozen=True)
class Call:
    """One operator call: its name in the program, the path of the user's module that makes it, its arguments by name.

    shape is the result's without the batch, channels last.
    """

    operator: str
    name: str
    module: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]

    def refusal(self, reason: str, hint: str = "") -> LoweringError:
        """Return the error that names module path and operator."""
        return LoweringError(f"{self.module or 'model'}: {self.operator} ({self.name}): {reason}", hint=hint)

    def quantized(self, name: str = "self") -> Quantized:
        """Return an operand that must be an int8 tensor. Raises LoweringError."""
        value = self.padded(name)
        if any(value.padding):
            raise self.refusal("a padding stands before it", "only a convolution can take a padding in")
        return value

    def padded(self, name: str = "self") -> Quantized:
        """Return an operand that must be an int8 tensor, and may have zeros around it. Raises LoweringError."""
        value = self.arguments[name]
        if not isinstance(value, Quantized):
            raise self.refusal(
                "an activation reaches it without a fake-quantization",
                "what enters a layer, an addition or a pool, and the result, must be fake-quantized",
            )
        return value

    def pending(self, name: str = "self") -> Pending:
        """Return an operand that must be the result of a layer, not yet on a grid. Raises LoweringError."""
        value = self.arguments[name]
        if not isinstance(value, Pending):
            raise self.refusal(
                "it stands behind a fake-quantization, where no layer can take it in",
                "put the fake-quantization behind it",
            )
        return value

    def constant(self, name: str) -> Constant:
        """Return an operand that must be a parameter or a buffer. Raises LoweringError."""
        value = self.arguments[name]
        if not isinstance(value, Constant):
            raise self.refusal(f"its {name} is not a parameter of the model")
        return value

    def array(self, name: str) -> NDArray[Any] | None:
        """Return what an optional parameter holds. Raises LoweringError."""
        return None if self.arguments[name] is None else self.constant(name).array

    def pair(self, name: str) -> tuple[int, int]:
        """Return an argument that is one number for height and width, or two."""
        value = self.arguments[name]
        first, *rest = value if isinstance(value, tuple | list) else (value,)
        return (int(first), int(rest[0] if rest else first))


def _identity(assembly: Assembly, call: Call) -> Value:
    value: Value = next(iter(call.arguments.values()))
    return value


def _dropout(assembly: Assembly, call: Call) -> Value:
    if call.arguments["train"]:
        raise call.refusal("it is in training mode", "export the model in eval mode")
    return _identity(assembly, call)


def _getitem(assembly: Assembly, call: Call) -> Value:
    if call.arguments["index"] != 0:
        raise call.refusal("only an operator's first result can be lowered")
    return _identity(assembly, call)


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
    source = call.padded("input")
    top, left, bottom, right = (own + before for own, before in zip(_padding(call, site), source.padding, strict=True))
    return Pending(
        kind="conv2d",
        name=site.name,
        module=site.name,
        inputs=(source,),
        result=call.shape,
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
    source = call.quantized("input")
    if len(source.shape) != 1:
        raise call.refusal(f"its input is a map of shape {source.shape}", "flatten it first")
    site = assembly.site(call.constant("weight"), "linear")
    affine = Affine.of_bias(site.shape[0], call.array("bias"))
    return Pending("linear", site.name, site.name, (source,), call.shape, site, affine)


def _batch_norm(assembly: Assembly, call: Call) -> Value:
    if call.arguments.get("training"):
        raise call.refusal("it is in training mode", "export the model in eval mode")
    value = call.pending("input")
    mean, variance = call.array("running_mean"), call.array("running_var")
    if value.affine is None or value.bounded or value.flat or mean is None or variance is None:
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
    left, right = call.quantized("self"), call.quantized("other")
    if call.arguments["alpha"] != 1:
        raise call.refusal(f"alpha is {call.arguments['alpha']}; only 1 can be lowered")
    if left.shape != right.shape or left.flattened_from != right.flattened_from:
        raise call.refusal(f"its operands have the shapes {left.shape} and {right.shape}; broadcasting is not lowered")
    return Pending("add", call.name, call.module, (left, right), left.shape, flattened_from=left.flattened_from)


def _multiply(assembly: Assembly, call: Call) -> Value:
    left, right = call.quantized("self"), call.quantized("other")
    if len(left.shape) != len(right.shape) or call.shape not in (left.shape, right.shape):
        raise call.refusal(f"operands of the shapes {left.shape} and {right.shape} cannot be multiplied")
    flattened_from = left.flattened_from or right.flattened_from
    return Pending("multiply", call.name, call.module, (left, right), call.shape, flattened_from=flattened_from)


def _elementwise(function: elementwise.Function) -> Callable[[Assembly, Call], Value]:
    def convert(assembly: Assembly, call: Call) -> Value:
        source = call.quantized()
        return Pending(
            "lookup", call.name, call.module, (source,), source.shape, options={"function": function},
            flattened_from=source.flattened_from,
        )  # fmt: skip

    return convert


def _gelu(assembly: Assembly, call: Call) -> Value:
    approximate = call.arguments.get("approximate") == "tanh"
    return _elementwise(elementwise.gelu_tanh if approximate else elementwise.gelu)(assembly, call)


def _pad(assembly: Assembly, call: Call) -> Value:
    if call.arguments.get("mode", "constant") != "constant" or call.arguments.get("value") not in (None, 0):
        raise call.refusal("only a padding by zeros can be lowered")
    source = call.padded()
    given = list(call.arguments["pad"])
    left, right, top, bottom = given + [0] * (4 - len(given))
    if len(given) > 4 or min(given) < 0 or len(source.shape) != 3:
        raise call.refusal(f"a padding of {given} is not one of height and width")
    old = source.padding
    return replace(source, padding=(old[0] + top, old[1] + left, old[2] + bottom, old[3] + right))


def _adaptive_average_pool(assembly: Assembly, call: Call) -> Value:
    if call.shape[:2] != (1, 1):
        raise call.refusal(f"it averages to a map of {call.shape[:2]}; only the global average can be lowered")
    return _global_average(call)


def _average_pool(assembly: Assembly, call: Call) -> Value:
    padded, divided = any(call.pair("padding")), call.arguments["divisor_override"]
    if call.pair("kernel_size") != call.quantized().shape[:2] or padded or divided:
        raise call.refusal("only an average over the whole map can be lowered")
    return _global_average(call)


def _mean(assembly: Assembly, call: Call) -> Value:
    dimensions = call.arguments["dim"] or ()
    if {dimension % 4 for dimension in dimensions} != {2, 3}:
        raise call.refusal(f"it averages over dimensions {dimensions}; only height and width can be lowered")
    return replace(_global_average(call), flat=not call.arguments["keepdim"])


def _global_average(call: Call) -> Pending:
    source = call.quantized()
    if len(source.shape) != 3:
        raise call.refusal(f"its input has shape {source.shape}; a map is needed")
    return Pending("average_pool", call.name, call.module, (source,), (1, 1, source.shape[2]))


def _max_pool(assembly: Assembly, call: Call) -> Value:
    if call.pair("dilation") != (1, 1) or call.arguments["ceil_mode"]:
        raise call.refusal("dilation and ceil_mode cannot be lowered")
    kernel = call.pair("kernel_size")
    stride = call.pair("stride") if call.arguments["stride"] else kernel
    return assembly.max_pool(
        call.name, call.module, call.quantized(), call.shape, kernel, stride, call.pair("padding") * 2
    )


def _reshape(assembly: Assembly, call: Call) -> Value:
    value = _identity(assembly, call)
    if not isinstance(value, Quantized | Pending):
        raise call.refusal("only activations can be reshaped")
    if call.shape == value.shape:
        return value
    if call.shape != (math.prod(value.shape),):
        raise call.refusal(f"it reshapes {value.shape} to {call.shape}; only flattening a map can be lowered")
    return (
        assembly.flatten(call.name, call.module, value) if isinstance(value, Quantized) else replace(value, flat=True)
    )


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
    "aten.squeeze.dims": _reshape,
    "aten.dropout.default": _dropout,
    "aten.alias.default": _identity,
    "aten.clone.default": _identity,
    "aten.contiguous.default": _identity,
    "aten.detach.default": _identity,
    "aten.detach_.default": _identity,
}
