"""The oracle: the integer model in plain numpy, exactly as msq.nodes defines it. Every runtime is compared
with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from msq.integer_model import IntegerModel
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
    Tensor,
    Transpose,
)

LOWERING = "integer"
MODE = "oracle"
STEPWISE = False
PACKAGES = ()

BATCH = 64
"""Images that run() takes at once, which bounds its memory."""

Array = NDArray[Any]


def version() -> str:
    """Return numpy's version: numpy is all that the oracle needs."""
    return np.__version__


def libraries() -> dict[str, str]:
    """Return nothing: numpy is told of already."""
    return {}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return the bytes of the packed weights, scales and biases: weights.bin stays mapped as it is."""
    held = model.parameter_bytes + sum(node.weight.packed.nbytes for node in model.weighted())
    return held, "packed weights mapped from weights.bin; a layer is unpacked while it runs"


def load(bundle: Path, threads: int) -> "ReferenceSession":
    """Load model.json and weights.bin of a bundle. `threads` has no effect: numpy's own setting holds.

    Raises:
        BundleError: the files are missing, cut or not an integer model.
    """
    return ReferenceSession(IntegerModel.load(bundle))


class ReferenceSession:
    """An integer model ready to run."""

    def __init__(self, model: IntegerModel) -> None:
        self.model = model
        self._last_use = {name: index for index, node in enumerate(model.nodes) for name in node.inputs}

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 (n, …), of images float32 (n, height, width, channels)."""
        batches = [images[start : start + BATCH] for start in range(0, max(len(images), 1), BATCH)]
        return np.concatenate([self._walk(batch, keep=False)[self.model.output] for batch in batches])

    def tensors(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """Return every int8 tensor and the output by name, batch first, for images float32 (n, h, w, c)."""
        values = self._walk(images, keep=True)
        del values[self.model.input]
        return values

    def _walk(self, images: NDArray[np.float32], *, keep: bool) -> dict[str, Array]:
        grids = self.model.tensors
        values: dict[str, Array] = {self.model.input: np.asarray(images, np.float32)}
        for index, node in enumerate(self.model.nodes):
            operands = [values[name] for name in node.inputs]
            if isinstance(node, Constant):
                values[node.output] = np.broadcast_to(node.codes, (len(images), *node.codes.shape))
                continue
            values[node.output] = _RUN[type(node)](
                node, operands, [grids[name] for name in node.inputs], grids[node.output]
            )
            if not keep:
                for name in set(node.inputs):
                    if self._last_use[name] == index:
                        del values[name]
        return values


def _to_codes(rounded: NDArray[np.float32], zero_point: int, clamp: tuple[int, int]) -> NDArray[np.int8]:
    """Return clamp(rounded + zero_point) of integer-valued float32."""
    # Clamped before the zero point is added, so that values far beyond int8 stay exact in float32.
    low, high = clamp[0] - zero_point, clamp[1] - zero_point
    return (np.clip(rounded, low, high) + np.float32(zero_point)).astype(np.int8)


def _quantize(node: Quantize, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return _on_grid(operands[0], out, node.clamp)


def _on_grid(real: NDArray[np.float32], out: Tensor, clamp: tuple[int, int]) -> NDArray[np.int8]:
    return _to_codes(np.rint(real / np.float32(out.scale)), out.zero_point, clamp)


def _dequantize(node: Dequantize, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return _centred(operands[0], grids[0]) * np.float32(grids[0].scale)


def _centred(codes: Array, grid: Tensor) -> NDArray[np.float32]:
    return codes.astype(np.float32) - np.float32(grid.zero_point)


def _requantize(
    accumulator: NDArray[np.int32], scale: NDArray[np.float32], grid: Tensor, out: Tensor, clamp: tuple[int, int]
) -> NDArray[np.int8]:
    """Return clamp(rint(float32(accumulator) · m[c]) + zero_point), m = (s_x · s_w[c]) / s_y in float32."""
    multiplier = (np.float32(grid.scale) * scale) / np.float32(out.scale)
    return _to_codes(np.rint(accumulator.astype(np.float32) * multiplier), out.zero_point, clamp)


def _exact_matmul(codes: NDArray[np.int16], weights: NDArray[np.int8] | NDArray[np.int16]) -> NDArray[np.int32]:
    """Return the integer product (…, M, K) · (…, K, O), computed by BLAS in a float type that holds every sum."""
    largest = 255 * int(np.abs(weights.astype(np.int32)).sum(axis=-2).max(initial=0))
    dtype: Any = np.float32 if largest < 1 << 24 else np.float64
    sums: NDArray[np.int32] = np.matmul(codes.astype(dtype), weights.astype(dtype)).astype(np.int32)
    return sums


def _conv2d(node: Conv2d, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    weights = node.weight.integers()
    outputs, height, width, depth = weights.shape
    windows = _windows(_padded(operands[0], node.padding, grids[0].zero_point), node, (height, width))
    n, rows, columns = windows.shape[:3]
    # (n, rows, columns, channels, kh, kw) → (groups, positions, kh · kw · channels of the group)
    split = windows.reshape(n, rows, columns, node.groups, depth, height, width).transpose(3, 0, 1, 2, 5, 6, 4)
    patches = split.reshape(node.groups, n * rows * columns, -1).astype(np.int16) - np.int16(grids[0].zero_point)
    matrices = weights.reshape(node.groups, outputs // node.groups, -1).transpose(0, 2, 1)
    sums = _exact_matmul(patches, matrices).transpose(1, 0, 2).reshape(n, rows, columns, outputs)
    return _requantize(sums + node.bias, node.weight.scale, grids[0], out, node.clamp)


def _padded(codes: Array, padding: tuple[int, int, int, int], value: int) -> Array:
    top, left, bottom, right = padding
    return np.pad(codes, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def _windows(codes: Array, node: Conv2d | MaxPool, kernel: tuple[int, int]) -> Array:
    """Return the view (n, rows, columns, channels, kh, kw) of the kernel's windows."""
    dilation = node.dilation if isinstance(node, Conv2d) else (1, 1)
    span = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True))
    windows = sliding_window_view(codes, span, axis=(1, 2))
    return windows[:, :: node.stride[0], :: node.stride[1], :, :: dilation[0], :: dilation[1]]


def _linear(node: Linear, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    codes = operands[0].astype(np.int16) - np.int16(grids[0].zero_point)
    sums = _exact_matmul(codes, node.weight.integers().T)
    return _requantize(sums + node.bias, node.weight.scale, grids[0], out, node.clamp)


def _add(node: Add, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    brought = [
        np.rint(_centred(codes, grid) * (np.float32(grid.scale) / np.float32(out.scale)))
        for codes, grid in zip(operands, grids, strict=True)
    ]
    return _to_codes(brought[0] + brought[1], out.zero_point, node.clamp)


def _average_pool(node: AveragePool, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    height, width = operands[0].shape[1:3]
    codes = operands[0].astype(np.int32) - np.int32(grids[0].zero_point)
    sums = codes.sum(axis=(1, 2), keepdims=True, dtype=np.int32)
    scale = np.full(1, 1 / (height * width), np.float32)
    return _requantize(sums, scale, grids[0], out, node.clamp)


def _lookup(node: Lookup, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return np.asarray(node.table, np.int8)[operands[0].astype(np.int16) + 128]


def _multiply(node: Multiply, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    left, right = (_centred(codes, grid) for codes, grid in zip(operands, grids, strict=True))
    multiplier = np.float32(grids[0].scale) * np.float32(grids[1].scale) / np.float32(out.scale)
    return _to_codes(np.rint(left * right * multiplier), out.zero_point, node.clamp)


def _max_pool(node: MaxPool, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    largest: Array = _windows(_padded(operands[0], node.padding, -128), node, node.kernel).max(axis=(4, 5))
    return largest


def _flatten(node: Flatten, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return operands[0].reshape(len(operands[0]), -1)


def _matmul(node: MatMul, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    left, right = (
        codes.astype(np.int16) - np.int16(grid.zero_point) for codes, grid in zip(operands, grids, strict=True)
    )
    scale = np.float32(grids[1].scale)
    multiplier = np.float32(grids[0].scale) * scale * np.float32(node.factor) / np.float32(out.scale)
    sums = _exact_matmul(left, right).astype(np.float32)
    return _to_codes(np.rint(sums * multiplier), out.zero_point, node.clamp)


def _softmax(node: Softmax, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    codes = operands[0].astype(np.int32)
    exponentials = node.table[codes.max(axis=-1, keepdims=True) - codes]
    total = exponentials.sum(axis=-1, keepdims=True, dtype=np.int32)
    return _on_grid(exponentials.astype(np.float32) / total.astype(np.float32), out, node.clamp)


def _layer_norm(node: LayerNorm, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    codes = operands[0].astype(np.int64)
    n = codes.shape[-1]
    total = codes.sum(axis=-1, keepdims=True)
    variance = n * np.square(codes).sum(axis=-1, keepdims=True) - np.square(total)
    deviation = np.sqrt(variance.astype(np.float32) + np.float32(node.epsilon))
    normal = (n * codes - total).astype(np.float32) / deviation
    return _on_grid(normal * node.gamma + node.beta, out, node.clamp)


def _reshape(node: Reshape, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return operands[0].reshape(len(operands[0]), *out.shape)


def _transpose(node: Transpose, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return operands[0].transpose(0, *(axis + 1 for axis in node.axes))


def _concat(node: Concat, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return np.concatenate(operands, axis=node.axis + 1)


def _slice(node: Slice, operands: list[Array], grids: list[Tensor], out: Tensor) -> Array:
    return np.take(operands[0], range(node.start, node.stop), axis=node.axis + 1)


_RUN: dict[type[Node], Callable[[Any, list[Array], list[Tensor], Tensor], Array]] = {
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
}
