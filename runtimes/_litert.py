"""LiteRT as a library: its version, opening a file, and running it image by image; with or without our delegate."""

import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError, DeviceError

MODEL_FILE = "model.tflite"
PROBE_FILE = "probe.tflite"

Array = NDArray[Any]


@dataclass(frozen=True)
class Release:
    """A distribution of the interpreter: LiteRT, or what it was before."""

    distribution: str
    module: str

    def version(self) -> str:
        """Return the installed release. Raises DeviceError when there is none."""
        self.interpreter()
        return importlib.metadata.version(self.distribution)

    def interpreter(self) -> Any:
        """Return the module of the interpreter. Raises DeviceError when it is not installed."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            said = f"{self.distribution} is not installed here: {error}"
            raise DeviceError(said, hint=f"pip install {self.pinned()}") from None

    def pinned(self) -> str:
        """Return "name==version" as it is installed here; the name alone where it is not."""
        try:
            return f"{self.distribution}=={importlib.metadata.version(self.distribution)}"
        except importlib.metadata.PackageNotFoundError:
            return self.distribution


LITERT = Release("ai-edge-litert", "ai_edge_litert.interpreter")
TFLITE_RUNTIME = Release("tflite-runtime", "tflite_runtime.interpreter")
PACKAGES = (LITERT.pinned(),)


def version() -> str:
    """Return LiteRT's release. Raises DeviceError when there is none."""
    return LITERT.version()


def open_file(path: Path, threads: int, delegate: Any = None, release: Release = LITERT) -> Any:
    """Return an interpreter of a .tflite file, ready to run.

    Args:
        threads: within an operator of LiteRT's own. delegate: what load_delegate gave, or None for LiteRT alone.
        release: whose interpreter.
    Raises:
        DeviceError: LiteRT is not installed. BundleError: there is no such file, or it is refused.
    """
    made = release.interpreter().Interpreter
    if not path.is_file():
        raise BundleError(f"{path}: no such file", hint="export again")
    try:
        delegates = None if delegate is None else [delegate]
        interpreter = made(model_path=str(path), num_threads=threads, experimental_delegates=delegates)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: LiteRT refuses it: {one_line(error)}", hint="export again") from None
    return interpreter


class File:
    """A .tflite file that takes one image, and gives its output first."""

    def __init__(self, path: Path, threads: int, delegate: Any = None, release: Release = LITERT) -> None:
        self._path, self._interpreter = path, open_file(path, threads, delegate, release)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = self._interpreter.get_output_details()

    def names(self) -> list[str]:
        """Return the names of the output tensors."""
        return [str(output["name"]) for output in self._outputs]

    def run(self, images: NDArray[np.float32]) -> list[Array]:
        """Return the outputs, batch first, of images float32 (n, height, width, channels), run one after another.

        Raises:
            BundleError: images of another shape, or what LiteRT fails at.
        """
        found = [np.empty((len(images), *output["shape"][1:]), output["dtype"]) for output in self._outputs]
        for index, image in enumerate(np.ascontiguousarray(images, np.float32)):
            try:
                self._interpreter.set_tensor(self._input, image[np.newaxis])
                self._interpreter.invoke()
            except (ValueError, RuntimeError) as error:
                raise BundleError(
                    f"{self._path}: LiteRT failed: {one_line(error)}", hint="see the bundle's input"
                ) from None
            for values, output in zip(found, self._outputs, strict=True):
                values[index] = self._interpreter.get_tensor(output["index"])[0]
        return found


def one_line(error: Exception) -> str:
    """Return an error's message without its line breaks."""
    return " ".join(str(error).split())
