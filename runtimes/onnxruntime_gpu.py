"""ONNX Runtime, stock, on the best that a board has: TensorRT, else CUDA, else its CPU."""

from collections.abc import Sequence
from pathlib import Path

from runtimes.onnxruntime_stock import (
    LOWERING,
    MODE,
    PACKAGES,
    STEPWISE,
    OnnxRuntimeSession,
    available_providers,
    libraries,
    resident,
    version,
)

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "libraries", "load", "resident", "version"]

PREFERRED = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


class PlacedSession(OnnxRuntimeSession):
    """It tells where it runs; see runtimes.Placed."""

    def providers(self) -> Sequence[str]:
        """Return the providers that ONNX Runtime took, which leaves out those that did not start."""
        return tuple(self._session.get_providers())


def providers() -> list[str]:
    """Return those of PREFERRED that this build has, in that order. Raises DeviceError: it is not installed."""
    available = available_providers()
    return [name for name in PREFERRED if name in available]


def load(bundle: Path, threads: int) -> PlacedSession:
    """Load model.onnx of a bundle; what a provider cannot run, the next one does.

    Args:
        bundle: the bundle's folder. threads: within an operator, on the CPU.
    Raises:
        DeviceError: ONNX Runtime is not installed.
        BundleError: it refuses the model.
    """
    return PlacedSession(bundle, threads, providers=providers())
