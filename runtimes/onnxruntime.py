"""ONNX Runtime with the packed kernels: they run the model's packed operators on the weights as the file holds them."""

from pathlib import Path

from msq.integer_model import IntegerModel
from runtimes._kernels import kernels
from runtimes.onnxruntime_stock import LOWERING, PACKAGES, STEPWISE, OnnxRuntimeSession, version

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "libraries", "load", "resident", "version"]

MODE = "hook"
CHANNEL_BYTES = 8
"""Bytes that a prepared layer holds for a channel: its multiplier, and its bias with the zero point folded in."""


def libraries() -> dict[str, str]:
    """Return the tier of the packed kernels. Raises DeviceError when they are not built."""
    return {"packed kernels": kernels().tier()}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return the bytes of the packed weights, mapped from their file, scales, biases, and constants of the kernels."""
    layers = list(model.weighted())
    held = sum(node.weight.packed.nbytes + CHANNEL_BYTES * node.weight.outputs for node in layers)
    return model.parameter_bytes + held, "packed weights mapped from weights.bin; a panel is unpacked while it runs"


def load(bundle: Path, threads: int) -> OnnxRuntimeSession:
    """Load model.onnx of a bundle on the CPU, its packed operators on the packed kernels.

    Args:
        bundle: the bundle's folder. threads: threads within an operator.
    Raises:
        DeviceError: ONNX Runtime is not installed, or the kernels are not built.
        BundleError: it refuses the model.
    """
    library = kernels()
    library.use_threads(threads)
    return OnnxRuntimeSession(bundle, threads, library.path)
