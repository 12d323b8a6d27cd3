"""ONNX Runtime with the packed kernels: they run the model's packed operators on the weights as the file holds them."""

from pathlib import Path

from runtimes._kernels import kernels, resident
from runtimes.onnxruntime_stock import LOWERING, PACKAGES, STEPWISE, OnnxRuntimeSession, version

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "libraries", "load", "resident", "version"]

MODE = "hook"


def libraries() -> dict[str, str]:
    """Return the tier of the packed kernels. Raises DeviceError when they are not built."""
    return {"packed kernels": kernels().tier()}


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
