"""tflite-runtime, LiteRT's last release under its old name, with our delegate: what many a Raspberry Pi still has.

It loads bundles for litert. Its wheels end with CPython 3.11 and were built against NumPy 1, so it has an environment
of its own; bundles are exported, and checked on the exporting host, by LiteRT.
"""

from pathlib import Path

from runtimes._litert import TFLITE_RUNTIME
from runtimes.litert import LOWERING, MODE, STEPWISE, LitertSession, libraries, resident

__all__ = ["HOST", "LOWERING", "MODE", "PACKAGES", "STEPWISE", "libraries", "load", "resident", "version"]

HOST = "litert"
PACKAGES = ('tflite-runtime==2.14.0; python_version == "3.11"', "numpy==1.26.4")


def version() -> str:
    """Return the installed release. Raises DeviceError when there is none."""
    return TFLITE_RUNTIME.version()


def load(bundle: Path, threads: int) -> LitertSession:
    """Load model.tflite of a bundle on the CPU, its packed operators on our delegate.

    Args:
        bundle: the bundle's folder. threads: threads within an operator.
    Raises:
        DeviceError: tflite-runtime is not installed, or the delegate is not built, or not for so many threads.
        BundleError: the model is refused, or has no packed operators.
    """
    return LitertSession(bundle, threads, TFLITE_RUNTIME)
