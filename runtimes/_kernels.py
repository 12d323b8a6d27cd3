"""The C library of packed kernels (runtimes/kernels), called by ctypes: standard library and numpy only."""

import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError, DeviceError, MsqError
from msq.integer_model import IntegerModel
from msq.nodes import Add, Conv2d, Linear, MatMul, Multiply, Tensor

ABI = 3
KERNELS = Path(__file__).parent / "kernels" / "lib"
"""Where `make kernels` puts the library, in a folder for each processor."""
LIBRARY_VARIABLE = "MSQ_KERNELS_LIBRARY"
"""Environment variable that names another file."""
ALIGNMENT = 64
CHANNEL_BYTES = 8
"""Bytes that a prepared layer holds for a channel: its multiplier, and its bias with the zero point folded in."""
_UNSUPPORTED, _ABI = 3, 5

Array = NDArray[Any]


class _Spec(ctypes.Structure):
    _fields_ = [
        ("abi", c_uint32),
        ("bits", c_int32),
        ("a", c_int32),
        ("z", c_int32),
        ("outputs", c_int32),
        ("inputs", c_int32),
        ("groups", c_int32),
        ("depthwise", c_int32),
        ("kernel", c_int32 * 2),
        ("stride", c_int32 * 2),
        ("dilation", c_int32 * 2),
        ("padding", c_int32 * 4),
        ("packed", c_void_p),
        ("packed_bytes", c_size_t),
        ("weight_scale", c_void_p),
        ("bias", c_void_p),
        ("input_scale", c_float),
        ("output_scale", c_float),
        ("input_zero", c_int32),
        ("output_zero", c_int32),
        ("low", c_int32),
        ("high", c_int32),
    ]


class _Residual(ctypes.Structure):
    _fields_ = [
        ("values", c_void_p),
        ("ratio", c_float),
        ("residual_ratio", c_float),
        ("zero", c_int32),
        ("sum_zero", c_int32),
        ("low", c_int32),
        ("high", c_int32),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        ("x", c_void_p),
        ("batch", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("y", c_void_p),
        ("sums", c_void_p),
        ("residual", POINTER(_Residual)),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]


class _Arithmetic(ctypes.Structure):
    _fields_ = [
        ("p_zero", c_int32),
        ("q_zero", c_int32),
        ("zero", c_int32),
        ("low", c_int32),
        ("high", c_int32),
        ("p_ratio", c_float),
        ("q_ratio", c_float),
        ("multiplier", c_float),
    ]


class _Product(ctypes.Structure):
    _fields_ = [
        ("batch", c_int32),
        ("m", c_int32),
        ("k", c_int32),
        ("n", c_int32),
        ("p_zero", c_int32),
        ("q_zero", c_int32),
        ("zero", c_int32),
        ("low", c_int32),
        ("high", c_int32),
        ("multiplier", c_float),
    ]


class Kernels:
    """The library, loaded.

    Args:
        path: of the shared library.
    Raises:
        DeviceError: it cannot be loaded, or is of another ABI version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.c = open_library(path, "the packed kernels", "msq_kernels_abi", ABI)
        self.c.msq_use_threads.argtypes = [c_int32]
        self.c.msq_use_threads.restype = None
        for name in ("msq_error", "msq_tier_name", "msq_built_tier"):
            getattr(self.c, name).restype = c_char_p
        self.c.msq_built_tier.argtypes = [c_int32]
        self.c.msq_use_tier.argtypes = [c_char_p]
        self.c.msq_layer_create.argtypes = [POINTER(_Spec), POINTER(c_void_p)]
        self.c.msq_layer_destroy.argtypes = [c_void_p]
        self.c.msq_layer_destroy.restype = None
        self.c.msq_layer_output.argtypes = [c_void_p, c_int32, c_int32, c_int32 * 2]
        self.c.msq_layer_workspace.argtypes = [c_void_p, c_int32, c_int32, c_int32, c_void_p, POINTER(c_size_t)]
        self.c.msq_layer_run.argtypes = [c_void_p, POINTER(_Call), c_void_p]
        for name in ("msq_add", "msq_multiply"):
            steps = [c_size_t, c_void_p, c_int32, c_void_p, c_int32, c_void_p]
            getattr(self.c, name).argtypes = [POINTER(_Arithmetic), *steps]
        self.c.msq_matmul_workspace.argtypes = [POINTER(_Product), c_void_p, POINTER(c_size_t)]
        self.c.msq_matmul.argtypes = [POINTER(_Product), *[c_void_p] * 4, c_size_t, c_void_p]
        self.c.msq_threads_create.argtypes = [c_int32, POINTER(c_void_p)]
        self.c.msq_threads_destroy.argtypes = [c_void_p]
        self.c.msq_threads_destroy.restype = None

    def built_tiers(self) -> Iterator[str]:
        """Yield the tiers of this library, best first; not all may run here."""
        index = 0
        while (name := self.c.msq_built_tier(index)) is not None:
            yield name.decode()
            index += 1

    def tier(self) -> str:
        """Return the tier that new layers use. Raises DeviceError when MSQ_KERNELS_TIER cannot be had."""
        name = self.c.msq_tier_name()
        if name is None:
            raise self.error(_UNSUPPORTED)
        return str(name.decode())

    def use_tier(self, name: str | None) -> None:
        """Make new layers use a tier, or the best again. Raises DeviceError where the processor lacks it."""
        self.check(self.c.msq_use_tier(name.encode() if name else None))

    def use_threads(self, count: int) -> None:
        """Let the hooks of runtimes use so many of the runtime's threads at once."""
        self.c.msq_use_threads(count)

    def combine(self, node: Add | Multiply, p: Array, q: Array, grids: tuple[Tensor, Tensor], out: Tensor) -> Array:
        """Return the node's result, int8 (n,), of p and q on their grids: int8 (n,) each, or (1,) for all.

        Raises:
            BundleError: a zero point or a limit is not in int8, or the scales have no ratio.
        """
        scales = [np.float32(tensor.scale) for tensor in (*grids, out)]
        arithmetic = _Arithmetic(
            p_zero=grids[0].zero_point,
            q_zero=grids[1].zero_point,
            zero=out.zero_point,
            low=node.clamp[0],
            high=node.clamp[1],
            p_ratio=scales[0] / scales[2],
            q_ratio=scales[1] / scales[2],
            multiplier=scales[0] * scales[1] / scales[2],
        )
        y = np.empty(max(p.size, q.size), np.int8)
        function = self.c.msq_add if isinstance(node, Add) else self.c.msq_multiply
        steps = [int(codes.size > 1) for codes in (p, q)]
        codes = [np.ascontiguousarray(codes) for codes in (p, q)]
        operands = [codes[0].ctypes.data, steps[0], codes[1].ctypes.data, steps[1]]
        self.check(function(ctypes.byref(arithmetic), y.size, *operands, y.ctypes.data))
        return y

    def matmul(
        self,
        node: MatMul,
        p: Array,
        q: Array,
        grids: tuple[Tensor, Tensor],
        out: Tensor,
        threads: "Threads | None" = None,
        y: Array | None = None,
    ) -> Array:
        """Return the node's result, int8 (batch, m, n), of p, int8 (batch, m, k), and q, int8 (batch, k, n).

        Args:
            y: where the result is written, if not into a new array: contiguous, of its shape.
        Raises:
            BundleError: the sizes are out of range, or a zero point or a limit is not in int8.
        """
        scales = [np.float32(tensor.scale) for tensor in (*grids, out)]
        (batch, m, k), n = p.shape, q.shape[2]
        spec = _Product(
            batch=batch,
            m=m,
            k=k,
            n=n,
            p_zero=grids[0].zero_point,
            q_zero=grids[1].zero_point,
            zero=out.zero_point,
            low=node.clamp[0],
            high=node.clamp[1],
            multiplier=scales[0] * scales[1] * np.float32(node.factor) / scales[2],
        )
        pool, needed = threads.pool if threads else None, c_size_t()
        self.check(self.c.msq_matmul_workspace(ctypes.byref(spec), pool, ctypes.byref(needed)))
        workspace = aligned(needed.value)
        y = np.empty((batch, m, n), np.int8) if y is None else y
        places = [array.ctypes.data for array in (p, q, y, workspace)]
        self.check(self.c.msq_matmul(ctypes.byref(spec), *places, needed.value, pool))
        return y

    def check(self, status: int) -> None:
        """Raise what a status says: DeviceError for this machine, BundleError for a layer that lies."""
        if status:
            raise self.error(status)

    def error(self, status: int) -> MsqError:
        """Return the error of a status that is not 0."""
        reason = self.c.msq_error().decode()
        if status in (_UNSUPPORTED, _ABI):
            return DeviceError(reason, hint="unset MSQ_KERNELS_TIER, or name a tier that this processor has")
        return BundleError(f"packed kernels: {reason}", hint="export the model again")


def open_library(path: Path, what: str, version: str, wanted: int) -> Any:
    """Return a C library of ours, whose function `version` tells that its interface is the wanted one.

    Raises:
        DeviceError: it cannot be loaded, or has another interface version.
    """
    try:
        library = ctypes.CDLL(str(path))
        tell = getattr(library, version)
    except (OSError, AttributeError) as error:
        raise DeviceError(f"{path}: not {what}: {error}", hint="make kernels builds it") from None
    tell.restype = c_uint32
    if (found := int(tell())) != wanted:
        raise DeviceError(
            f"{path}: {what}, but with interface version {found}, wanted is {wanted}",
            hint="make kernels builds it anew",
        )
    return library


def library_path(name: str, variable: str) -> Path:
    """Return the file that an environment variable names, or the library of this processor that was built."""
    named = os.environ.get(variable)
    return Path(named) if named else KERNELS / platform.machine() / name


@functools.lru_cache
def kernels() -> Kernels:
    """Return the library of this processor, or what MSQ_KERNELS_LIBRARY names. Raises DeviceError."""
    return Kernels(library_path("libmsq_kernels.so", LIBRARY_VARIABLE))


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return the bytes of the packed weights, mapped from their file, scales, biases, and constants of the kernels."""
    layers = list(model.weighted())
    held = sum(node.weight.packed.nbytes + CHANNEL_BYTES * node.weight.outputs for node in layers)
    return model.parameter_bytes + held, "packed weights mapped from weights.bin; a panel is unpacked while it runs"


class Threads:
    """A pool of threads, the calling one included. Raises BundleError for a count that cannot be had."""

    def __init__(self, count: int, library: Kernels | None = None) -> None:
        self._library = library or kernels()
        self.pool = c_void_p()
        self._library.check(self._library.c.msq_threads_create(count, ctypes.byref(self.pool)))

    def __del__(self) -> None:
        if getattr(self, "pool", None):
            self._library.c.msq_threads_destroy(self.pool)


class Layer:
    """A layer of the integer model, prepared.

    Args:
        node: its weights are read where they lie; they must be at a multiple of 64 bytes.
        source, out: the tensors that it reads and writes.
    Raises:
        BundleError: the layer says what cannot be. DeviceError: the tier asked for cannot be had.
    """

    def __init__(self, node: Conv2d | Linear, source: Tensor, out: Tensor, library: Kernels | None = None) -> None:
        self._library = library or kernels()
        self._out, self._node = out, node
        weight = node.weight
        shape = weight.shape if len(weight.shape) == 4 else (weight.outputs, 1, 1, weight.inputs)
        conv = node if isinstance(node, Conv2d) else None
        scale, bias = np.ascontiguousarray(weight.scale, np.float32), np.ascontiguousarray(node.bias, np.int32)
        spec = _Spec(
            abi=ABI,
            bits=weight.bits,
            a=weight.a,
            z=weight.z,
            outputs=weight.outputs,
            inputs=shape[3],
            groups=conv.groups if conv else 1,
            depthwise=weight.depthwise,
            kernel=(c_int32 * 2)(*shape[1:3]),
            stride=(c_int32 * 2)(*(conv.stride if conv else (1, 1))),
            dilation=(c_int32 * 2)(*(conv.dilation if conv else (1, 1))),
            padding=(c_int32 * 4)(*(conv.padding if conv else (0, 0, 0, 0))),
            packed=weight.packed.ctypes.data if weight.bits else None,
            packed_bytes=weight.packed.nbytes,
            weight_scale=scale.ctypes.data,
            bias=bias.ctypes.data,
            input_scale=source.scale,
            output_scale=out.scale,
            input_zero=source.zero_point,
            output_zero=out.zero_point,
            low=node.clamp[0],
            high=node.clamp[1],
        )
        self._layer = c_void_p()
        self._library.check(self._library.c.msq_layer_create(ctypes.byref(spec), ctypes.byref(self._layer)))

    def __del__(self) -> None:
        if getattr(self, "_layer", None):
            self._library.c.msq_layer_destroy(self._layer)

    def run(
        self,
        x: NDArray[np.int8],
        *,
        sums: bool = False,
        residual: tuple[Add, NDArray[np.int8], Tensor, Tensor] | None = None,
        threads: Threads | None = None,
        out: Array | None = None,
    ) -> Array:
        """Return the layer's result for int8 (batch, height, width, channels), or (rows, features) of a linear layer.

        Args:
            x: the input. sums: return the int32 sums before requantization. threads: a pool.
            residual: an addition on the result: its node, its other input with that tensor, and its output's tensor.
            out: where the result is written, if not into a new array: contiguous, of its shape and dtype.
        """
        x = np.ascontiguousarray(x)
        batch, height, width, _ = x.shape if x.ndim == 4 else (1, 1, len(x), 0)
        size = (c_int32 * 2)()
        c, pool = self._library.c, threads.pool if threads else None
        self._library.check(c.msq_layer_output(self._layer, height, width, size))
        outputs = self._node.weight.outputs
        shape = (batch, size[0], size[1], outputs) if x.ndim == 4 else (len(x), outputs)
        y = np.empty(shape, np.int32 if sums else np.int8) if out is None else out
        needed = c_size_t()
        self._library.check(c.msq_layer_workspace(self._layer, batch, height, width, pool, ctypes.byref(needed)))
        workspace = aligned(needed.value)
        call = _Call(
            x=x.ctypes.data,
            batch=batch,
            height=height,
            width=width,
            y=None if sums else y.ctypes.data,
            sums=y.ctypes.data if sums else None,
            workspace=workspace.ctypes.data,
            workspace_bytes=needed.value,
        )
        if residual is not None:
            add, values, other, total = residual
            values = np.ascontiguousarray(values)
            call.residual = ctypes.pointer(
                _Residual(
                    values=values.ctypes.data,
                    ratio=np.float32(self._out.scale) / np.float32(total.scale),
                    residual_ratio=np.float32(other.scale) / np.float32(total.scale),
                    zero=other.zero_point,
                    sum_zero=total.zero_point,
                    low=add.clamp[0],
                    high=add.clamp[1],
                )
            )
        self._library.check(c.msq_layer_run(self._layer, ctypes.byref(call), pool))
        return y


def aligned(size: int) -> NDArray[np.uint8]:
    """Return an array of `size` bytes (at least one) at a multiple of 64."""
    room = np.empty(max(size, 1) + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + max(size, 1)]
