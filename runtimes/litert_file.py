"""LiteRT as released, on a .tflite file of any origin: what `msq measure --model` runs.

The folder that it loads holds that one file. Images and outputs that the file has in int8 or uint8 are brought to and
from its grids, so that all files of one net can be fed the same.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError
from msq.integer_model import IntegerModel
from runtimes._litert import PACKAGES, Array, one_line, open_file, version

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "SUFFIX", "libraries", "load", "resident", "version"]

LOWERING = "file"
MODE = "stock"
STEPWISE = True
SUFFIX = ".tflite"


def libraries() -> dict[str, str]:
    """Return nothing: it runs alone, and XNNPACK is part of it."""
    return {}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Raise BundleError: nothing is exported for it."""
    raise BundleError("a model file as it is has no integer model")


def load(bundle: Path, threads: int) -> "LitertFileSession":
    """Load the .tflite file of a folder on the CPU.

    Args:
        bundle: folder. threads: within an operator.
    Raises:
        DeviceError: LiteRT is not installed.
        BundleError: it refuses the model, or that takes other than one image.
    """
    return LitertFileSession(next(bundle.glob(f"*{SUFFIX}")), threads)


class LitertFileSession:
    """A .tflite file of one input, loaded; its first output counts.

    Attributes:
        size: height, width and channels of the images that it takes.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._interpreter = path, open_file(path, threads)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._output = inputs[0], outputs[0]
        shape = tuple(int(size) for size in self._input["shape"])
        if len(inputs) != 1 or len(shape) != 4 or shape[0] != 1:
            raise BundleError(
                f"{path}: its inputs are {[details['shape'].tolist() for details in inputs]}, not one image",
                hint="one input of shape (1, height, width, channels) is wanted",
            )
        self.size = shape[1:]

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the first output, float32 (n, …), of images float32 (n, height, width, channels), one by one."""
        found = []
        for image in images:
            try:
                self._interpreter.set_tensor(self._input["index"], _stored(image[np.newaxis], self._input))
                self._interpreter.invoke()
            except (ValueError, RuntimeError) as error:
                raise BundleError(f"{self._path}: LiteRT failed: {one_line(error)}") from None
            found.append(_meant(self._interpreter.get_tensor(self._output["index"]), self._output))
        return np.concatenate(found)

    def tensors(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """Return the output alone: what lies between is the file's own affair."""
        return {str(self._output["name"]): self.run(images)}


def _grid(details: dict[str, Any]) -> tuple[float, int]:
    """Return scale and zero point of a tensor; 1 and 0 where it has none."""
    scale, zero = details["quantization"]
    return (float(scale), int(zero)) if scale else (1.0, 0)


def _stored(values: Array, details: dict[str, Any]) -> Array:
    dtype = details["dtype"]
    if not np.issubdtype(dtype, np.integer):
        return np.ascontiguousarray(values, dtype)
    (scale, zero), range_ = _grid(details), np.iinfo(dtype)
    codes: Array = np.clip(np.rint(values / np.float32(scale)) + zero, range_.min, range_.max).astype(dtype)
    return codes


def _meant(values: Array, details: dict[str, Any]) -> NDArray[np.float32]:
    scale, zero = _grid(details) if np.issubdtype(values.dtype, np.integer) else (1.0, 0)
    return np.asarray((values.astype(np.float32) - np.float32(zero)) * np.float32(scale), np.float32)
