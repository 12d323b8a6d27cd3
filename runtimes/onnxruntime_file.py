"""ONNX Runtime as released, on an .onnx file of any origin: what `msq measure --model` runs.

The folder that it loads holds that one file, and what it refers to. Images are turned where it wants channels first.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError
from msq.integer_model import IntegerModel
from runtimes.onnxruntime_stock import PACKAGES, call, open_file, version

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "SUFFIX", "libraries", "load", "resident", "version"]

LOWERING = "file"
MODE = "stock"
STEPWISE = True
SUFFIX = ".onnx"
CHANNELS = (1, 3)
"""Of images as a rule; else they are fewer than rows and columns."""
MANY = 1 << 30
DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


def libraries() -> dict[str, str]:
    """Return nothing: it runs alone."""
    return {}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Raise BundleError: nothing is exported for it."""
    raise BundleError("a model file as it is has no integer model")


def load(bundle: Path, threads: int) -> "OnnxRuntimeFileSession":
    """Load the .onnx file of a folder on the CPU.

    Args:
        bundle: folder. threads: within an operator.
    Raises:
        DeviceError: ONNX Runtime is not installed.
        BundleError: it refuses the model, or that takes other than images.
    """
    return OnnxRuntimeFileSession(next(bundle.glob(f"*{SUFFIX}")), threads)


class OnnxRuntimeFileSession:
    """An .onnx file of one input, loaded; its first output counts.

    Attributes:
        size: height, width and channels of the images that it takes; None where it leaves a size open.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._session = path, open_file(path, threads)
        inputs = self._session.get_inputs()
        shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape) if inputs else ()
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in DTYPES:
            said = ", ".join(f"{one.type} {one.shape}" for one in inputs)
            raise BundleError(
                f"{path}: its inputs are {said}, not images",
                hint=f"one input of rank 4 and {', '.join(DTYPES)} is wanted",
            )
        self._dtype = DTYPES[inputs[0].type]
        self._is_one_by_one = shape[0] == 1
        first, last = (size or MANY for size in (shape[1], shape[3]))
        self._is_channels_first = first in CHANNELS or (last not in CHANNELS and first < last)
        self.size = (*shape[2:], shape[1]) if self._is_channels_first else shape[1:]

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the first output, float32 (n, …), of images float32 (n, height, width, channels)."""
        batches = images[:, np.newaxis] if self._is_one_by_one else [images]
        return np.concatenate([self._run(batch) for batch in batches])

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if np.issubdtype(self._dtype, np.integer):
            range_ = np.iinfo(self._dtype)
            images = np.clip(np.rint(images), range_.min, range_.max)
        ordered = images.transpose(0, 3, 1, 2) if self._is_channels_first else images
        return np.asarray(call(self._session, ordered.astype(self._dtype), self._path)[0], np.float32)

    def tensors(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the output alone: what lies between is the file's own affair."""
        return {str(self._session.get_outputs()[0].name): self.run(images)}
