"""ONNX Runtime as released: it inlines the packed operators' function bodies and folds them into int8 weights."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError, DeviceError
from msq.integer_model import IntegerModel

LOWERING = "onnx"
MODE = "stock"
STEPWISE = False

MODEL_FILE = "model.onnx"
PROBE_FILE = "probe.onnx"
DISTRIBUTION = "onnxruntime"
CPU = ("CPUExecutionProvider",)


def _pinned() -> str:
    try:
        return f"{DISTRIBUTION}=={importlib.metadata.version(DISTRIBUTION)}"
    except importlib.metadata.PackageNotFoundError:
        return DISTRIBUTION


PACKAGES = (_pinned(),)


def version() -> str:
    """Return the installed release. Raises DeviceError when there is none."""
    return str(_import().__version__)


def libraries() -> dict[str, str]:
    """Return nothing: it runs alone."""
    return {}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return one byte a weight, with scales and biases: ONNX Runtime unpacks them while it loads."""
    held = model.parameter_bytes + sum(node.weight.outputs * node.weight.inputs for node in model.weighted())
    return held, "stock ONNX Runtime folds the unpacking at load and holds int8 weights; its own prepacking adds to it"


def load(bundle: Path, threads: int) -> "OnnxRuntimeSession":
    """Load model.onnx of a bundle on the CPU.

    Args:
        bundle: the bundle's folder. threads: threads within an operator.
    Raises:
        DeviceError: ONNX Runtime is not installed.
        BundleError: it refuses the model.
    """
    return OnnxRuntimeSession(bundle, threads)


class OnnxRuntimeSession:
    """model.onnx loaded; probe.onnx, the same graph with every int8 tensor as an output, loads when asked for.

    Args:
        bundle: folder. threads: within an operator. library: of custom operators, if any.
        providers: execution providers, the first one preferred.
    Raises:
        BundleError: ONNX Runtime refuses the model.
    """

    def __init__(self, bundle: Path, threads: int, library: Path | None = None, providers: Sequence[str] = CPU) -> None:
        self._bundle, self._threads, self._library, self._providers = bundle, threads, library, providers
        self._session = open_file(bundle / MODEL_FILE, threads, library, providers)
        self._probe: Any = None

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 (n, …), of images float32 (n, height, width, channels)."""
        (output,) = call(self._session, np.asarray(images, np.float32), self._bundle / MODEL_FILE)
        return np.asarray(output, np.float32)

    def tensors(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return every int8 tensor and the output by name, batch first and channels last."""
        if self._probe is None:
            self._probe = open_file(self._bundle / PROBE_FILE, self._threads, self._library, self._providers)
        values = call(self._probe, np.asarray(images, np.float32), self._bundle / PROBE_FILE)
        names = [output.name for output in self._probe.get_outputs()]
        return dict(zip(names, values, strict=True))


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(f"ONNX Runtime is not installed here: {error}", hint=f"pip install {PACKAGES[0]}") from None
    return onnxruntime


def available_providers() -> list[str]:
    """Return the execution providers that the installed build has. Raises DeviceError when there is none."""
    return [str(name) for name in _import().get_available_providers()]


def _refusals() -> tuple[type[Exception], ...]:
    """Return the exception classes of ONNX Runtime: it has one a status code, without a common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(cls for cls in vars(state).values() if isinstance(cls, type) and issubclass(cls, Exception))


def open_file(path: Path, threads: int, library: Path | None = None, providers: Sequence[str] = CPU) -> Any:
    """Return a session of an .onnx file.

    Args:
        threads: within an operator. library: of custom operators, if any.
        providers: execution providers, the first one preferred.
    Raises:
        DeviceError: ONNX Runtime is not installed. BundleError: it refuses the model.
    """
    onnxruntime = _import()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        if library is not None:
            options.register_custom_ops_library(str(library))
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except _refusals() as error:
        raise BundleError(f"{path}: ONNX Runtime refuses it: {_one_line(error)}", hint="export again") from None


def call(session: Any, images: NDArray[Any], path: Path) -> list[NDArray[Any]]:
    """Return the outputs for a session's one input. Raises BundleError, of the file at `path`."""
    name = session.get_inputs()[0].name
    try:
        outputs: list[NDArray[Any]] = session.run(None, {name: np.ascontiguousarray(images)})
    except _refusals() as error:
        raise BundleError(f"{path}: ONNX Runtime failed: {_one_line(error)}", hint="see the bundle's input") from None
    return outputs


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
