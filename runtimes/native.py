"""The native runtime (runtimes/executor): the integer model itself, run in C on the packed kernels."""

import ctypes
import functools
import os
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError, DeviceError, MsqError, UsageError
from runtimes import Memory
from runtimes._kernels import KERNELS, library_path, open_library, resident

__all__ = ["LOWERING", "MODE", "PACKAGES", "NativeSession", "libraries", "load", "program", "resident", "version"]

LOWERING = "integer"
MODE = "native"
STEPWISE = False
PACKAGES = None

ABI = 1
LIBRARY_VARIABLE = "MSQ_NATIVE_LIBRARY"
"""Environment variable that names another file."""
_RANK = 6
_Place = c_char * 0
_UNSUPPORTED, _ABI, _INPUT = 3, 5, 8


class _Options(ctypes.Structure):
    _fields_ = [("abi", c_uint32), ("threads", c_int32), ("fuse", c_int32)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", c_int32 * _RANK),
        ("count", c_size_t),
        ("scale", c_float),
        ("zero_point", c_int32),
    ]


class _Node(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("kind", c_char_p),
        ("output", c_char_p),
        ("is_fused", c_int32),
        ("runs", c_uint64),
        ("nanoseconds", c_uint64),
        ("arena_bytes", c_size_t),
    ]


class _Memory(ctypes.Structure):
    _fields_ = [("arena", c_size_t), ("arena_bound", c_size_t), ("weights", c_size_t)]


_WATCHER = CFUNCTYPE(None, c_void_p, c_int32, POINTER(_Tensor), c_void_p)


@dataclass(frozen=True)
class NodeProfile:
    """A node as it ran: seconds in all its runs, and the bytes of the arena that are in use meanwhile."""

    name: str
    kind: str
    is_fused: bool
    """Another node does its work."""
    runs: int
    seconds: float
    arena_bytes: int


def version() -> str:
    """Return the library's release. Raises DeviceError when it is not built."""
    release: bytes = _library().msq_native_version()
    return release.decode()


def libraries() -> dict[str, str]:
    """Return the tier of the packed kernels. Raises DeviceError when they are not built or the tier cannot be had."""
    library = _library()
    name = library.msq_tier_name()
    if name is None:
        raise _error(library, _UNSUPPORTED)
    return {"packed kernels": name.decode()}


def program(machine: str) -> Path:
    """Return msq-run, the static program, for an architecture as uname names it. Raises DeviceError."""
    path = KERNELS / machine / "msq-run"
    if not path.is_file():
        raise DeviceError(f"{path}: msq-run is not built for {machine}", hint="make kernels builds it")
    return path


def load(bundle: Path, threads: int) -> "NativeSession":
    """Load model.json and weights.bin of a bundle.

    Args:
        bundle: the bundle's folder. threads: within an operation, at least 1.
    Raises:
        BundleError: a file is missing, cut or describes no model. UsageError: that many threads cannot be had.
        DeviceError: the library is not built.
    """
    return NativeSession(bundle, threads)


class NativeSession:
    """A loaded model. Not for several threads at once.

    Args:
        bundle: folder. threads: at least 1. fuse: let layers do the additions behind them.
    """

    def __init__(self, bundle: Path, threads: int = 1, *, fuse: bool = True) -> None:
        if threads < 1:
            raise UsageError(f"{threads} threads; at least 1 is needed", hint="the calling thread counts as one")
        self._bundle, self._threads = bundle, threads
        self._library = _library()
        self._model = c_void_p()
        options = _Options(ABI, threads, fuse)
        self._check(self._library.msq_model_load(os.fsencode(bundle), ctypes.byref(options), ctypes.byref(self._model)))
        self._shapes = []
        for look in (self._library.msq_model_input, self._library.msq_model_output):
            info = _Tensor()
            look(self._model, ctypes.byref(info))
            self._shapes.append(tuple(info.shape[: info.rank]))

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.msq_model_free(self._model)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 (n, …), of images float32 (n, height, width, channels).

        Raises:
            BundleError: images of another shape, or with a value that is not a number.
        """
        images = np.ascontiguousarray(images, np.float32)
        if images.shape[1:] != self._shapes[0]:
            raise BundleError(f"images are {images.shape[1:]}, the model of {self._bundle} takes {self._shapes[0]}")
        output = np.empty((len(images), *self._shapes[1]), np.float32)
        self._check(
            self._library.msq_model_run(
                self._model, len(images), _place(images), images.nbytes, _place(output), output.nbytes
            )
        )
        return output

    def tensors(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every int8 tensor and the output by name, batch first: of the model without fusion."""
        whole = NativeSession(self._bundle, self._threads, fuse=False)
        found: dict[str, list[NDArray[Any]]] = {}

        def look(_: object, image: int, tensor: Any, data: int) -> None:
            info = tensor.contents
            dtype = np.dtype(np.int8 if info.dtype else np.float32)
            values = np.frombuffer(ctypes.string_at(data, info.count * dtype.itemsize), dtype)
            found.setdefault(info.name.decode(), []).append(values.reshape(info.shape[: info.rank]))

        watcher = _WATCHER(look)
        self._library.msq_model_watch(whole._model, watcher, None)
        whole.run(images)
        return {name: np.stack(values) for name, values in found.items()}

    def memory(self) -> Memory:
        """Return what the model holds."""
        info = _Memory()
        self._library.msq_model_memory(self._model, ctypes.byref(info))
        return Memory(info.arena, info.arena_bound, info.weights)

    def timeline(self) -> dict[str, int]:
        """Return the bytes of the arena in use while each node runs, by its name; fused nodes are left out."""
        return {node.name: node.arena_bytes for node in self._nodes() if not node.is_fused}

    def profile(self, work: Callable[[], object]) -> list[NodeProfile]:
        """Do some work with the session, and return what each node took of it, in the order in which they run."""
        self._library.msq_model_profile(self._model, 1)
        try:
            work()
        finally:
            self._library.msq_model_profile(self._model, 0)
        return self._nodes()

    def _nodes(self) -> list[NodeProfile]:
        nodes = []
        for index in range(self._library.msq_model_nodes(self._model)):
            info = _Node()
            self._library.msq_model_node(self._model, index, ctypes.byref(info))
            nodes.append(
                NodeProfile(
                    name=info.name.decode(),
                    kind=info.kind.decode(),
                    is_fused=bool(info.is_fused),
                    runs=info.runs,
                    seconds=info.nanoseconds / 1e9,
                    arena_bytes=info.arena_bytes,
                )
            )
        return nodes

    def _check(self, status: int) -> None:
        if status:
            raise _error(self._library, status)


def _place(array: NDArray[Any]) -> Any:
    """Return an array as an argument of a function of C; what numpy has for it takes as long as a small layer."""
    if not array.flags.writeable:
        return array.ctypes.data
    return _Place.from_buffer(array)  # type: ignore[arg-type]  # it has a buffer, which its type says from 3.12 on


def _error(library: Any, status: int) -> MsqError:
    message = library.msq_error().decode(errors="replace")
    if status in (_UNSUPPORTED, _ABI):
        return DeviceError(message, hint="make kernels builds the library anew" if status == _ABI else "")
    return BundleError(message, hint="" if status == _INPUT else "export the model again")


@functools.cache
def _library() -> Any:
    path = library_path("libmsq_native.so", LIBRARY_VARIABLE)
    library = open_library(path, "the native runtime", "msq_native_abi", ABI)
    library.msq_error.restype = library.msq_tier_name.restype = library.msq_native_version.restype = c_char_p
    library.msq_use_tier.argtypes = [c_char_p]
    library.msq_model_load.argtypes = [c_char_p, POINTER(_Options), POINTER(c_void_p)]
    library.msq_model_run.argtypes = [c_void_p, c_int32, c_void_p, c_size_t, c_void_p, c_size_t]
    library.msq_model_watch.argtypes = [c_void_p, _WATCHER, c_void_p]
    library.msq_model_profile.argtypes = [c_void_p, c_int32]
    library.msq_model_nodes.argtypes = library.msq_model_free.argtypes = [c_void_p]
    library.msq_model_node.argtypes = [c_void_p, c_int32, POINTER(_Node)]
    library.msq_model_memory.argtypes = [c_void_p, POINTER(_Memory)]
    for name in ("msq_model_input", "msq_model_output"):
        getattr(library, name).argtypes = [c_void_p, POINTER(_Tensor)]
    for name in ("free", "input", "output", "memory", "watch", "profile", "node"):
        getattr(library, f"msq_model_{name}").restype = None
    return library
