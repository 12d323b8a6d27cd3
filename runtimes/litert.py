"""LiteRT with our delegate (runtimes/delegate): it runs the packed operators on the weights as the file holds them."""

import ctypes
import functools
from ctypes import c_char_p, c_int32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError, DeviceError
from msq.integer_model import IntegerModel
from runtimes import _kernels
from runtimes._litert import LITERT, MODEL_FILE, PACKAGES, PROBE_FILE, File, Release, one_line, version

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "libraries", "load", "resident", "version"]

LOWERING = "tflite"
MODE = "hook"
STEPWISE = False

ABI = 1
LIBRARY_VARIABLE = "MSQ_LITERT_LIBRARY"
"""Environment variable that names another file."""


def libraries() -> dict[str, str]:
    """Return the tier of the packed kernels. Raises DeviceError when they are not built or the tier cannot be had."""
    _, library = _library()
    name = library.msq_tier_name()
    if name is None:
        raise DeviceError(library.msq_error().decode(), hint="unset MSQ_KERNELS_TIER, or name another tier")
    return {"packed kernels": name.decode()}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return the bytes of the packed weights, mapped from their file, scales, biases, and constants of the kernels."""
    held, _ = _kernels.resident(model)
    return held, "packed weights mapped from model.tflite; a panel is unpacked while it runs"


def load(bundle: Path, threads: int) -> "LitertSession":
    """Load model.tflite of a bundle on the CPU, its packed operators on our delegate.

    Args:
        bundle: the bundle's folder. threads: threads within an operator.
    Raises:
        DeviceError: LiteRT is not installed, or the delegate is not built or cannot be had with so many threads.
        BundleError: the model is refused, or has no packed operators.
    """
    return LitertSession(bundle, threads)


class LitertSession:
    """model.tflite loaded; probe.tflite, the same graph with every int8 tensor as an output, loads when asked for.

    Args:
        bundle: folder. threads: within an operator. release: whose interpreter.
    """

    def __init__(self, bundle: Path, threads: int, release: Release = LITERT) -> None:
        self._bundle, self._threads, self._release = bundle, threads, release
        self._model = _open(bundle / MODEL_FILE, threads, release)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 (n, …), of images float32 (n, height, width, channels), one after another."""
        return self._model.run(images)[0]

    def tensors(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every int8 tensor and the output by name, batch first and channels last."""
        probe = _open(self._bundle / PROBE_FILE, self._threads, self._release)
        return dict(zip(probe.names(), probe.run(images), strict=True))


def delegate(threads: int, release: Release = LITERT) -> Any:
    """Return a delegate, for one interpreter. Raises DeviceError when it is not built, or cannot have the threads."""
    place, _ = _library()
    try:
        return release.interpreter().load_delegate(str(place), {"threads": threads})
    except (ValueError, OSError) as error:
        raise DeviceError(f"the delegate for LiteRT cannot be had: {one_line(error)}") from None


def _open(path: Path, threads: int, release: Release) -> File:
    """Return a file on a delegate of its own. One that has nothing for it would run on LiteRT alone: it is refused."""
    taking = delegate(threads, release)
    file = File(path, threads, taking, release)
    if _library()[1].msq_litert_operators(taking._get_native_delegate_pointer()) == 0:
        raise BundleError(f"{path}: it has no packed operators", hint="export it for litert, or run it on litert-stock")
    return file


@functools.cache
def _library() -> tuple[Path, Any]:
    path = _kernels.library_path("libmsq_litert.so", LIBRARY_VARIABLE)
    library: ctypes.CDLL = _kernels.open_library(path, "the delegate for LiteRT", "msq_litert_abi", ABI)
    library.msq_error.restype = library.msq_tier_name.restype = c_char_p
    library.msq_use_tier.argtypes = [c_char_p]
    library.msq_litert_operators.argtypes, library.msq_litert_operators.restype = [c_void_p], c_int32
    return path, library
