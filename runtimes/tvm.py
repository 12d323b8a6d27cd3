"""TVM with the packed kernels: machine code that TVM's Relax virtual machine runs.

The compiler, a quarter of a gigabyte, stays out: TVM's runtime library and FFI are all that is loaded.
"""

import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import platform
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError, DeviceError, UsageError
from msq.integer_model import WEIGHTS_FILE, IntegerModel
from msq.nodes import Constant, Conv2d, Linear
from runtimes import _kernels
from runtimes._kernels import aligned, kernels

LOWERING = "tvm"
MODE = "hook"
STEPWISE = False

STEPS_FILE = "steps.json"
DISTRIBUTIONS = ("apache-tvm", "apache-tvm-ffi")
INSTALL = "make deploy RUNTIME=tvm installs it; elsewhere pip install apache-tvm apache-tvm-ffi"

_CPU, _POOLED = 1, 2
_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError, OSError)
"""What errors of TVM become in Python, by their kind."""
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}

Array = NDArray[Any]


def library_file(machine: str) -> str:
    """Return the name of a bundle's library for a machine, as the system names it."""
    return f"model-{machine}.so"


def _pinned(distribution: str) -> str:
    try:
        return f"{distribution}=={importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return distribution


PACKAGES = tuple(map(_pinned, DISTRIBUTIONS))


def version() -> str:
    """Return the installed release. Raises DeviceError when there is none."""
    _ffi()
    return importlib.metadata.version(DISTRIBUTIONS[0])


def libraries() -> dict[str, str]:
    """Return the tier of the packed kernels. Raises DeviceError when they are not built."""
    return {"packed kernels": kernels().tier()}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return the bytes of what packed layers hold, and of the parameters of other operations once more, as copies."""
    held, note = _kernels.resident(model)
    others = (node for node in model.nodes if not isinstance(node, Conv2d | Linear))
    copied = sum(array.nbytes for node in others for array in node.arrays().values())
    return held + copied, f"{note}; the parameters of operations without weights are copied at load"


def load(bundle: Path, threads: int) -> "TvmSession":
    """Load a bundle's library for this machine.

    Args:
        bundle: the bundle's folder. threads: within a layer.
    Raises:
        DeviceError: TVM is not installed.
        BundleError: there is no library for this machine, or TVM refuses it.
        UsageError: that many threads cannot be had.
    """
    return TvmSession(bundle, threads)


class TvmSession:
    """A loaded model. Not for several threads at once.

    Args:
        bundle: folder. threads: within a packed layer, at least 1; what TVM compiled runs on one.
    """

    def __init__(self, bundle: Path, threads: int) -> None:
        if threads < 1:
            raise UsageError(f"{threads} threads; at least 1 is needed", hint="the calling thread counts as one")
        self._bundle, self._threads, self._path = bundle, threads, bundle / library_file(platform.machine())
        self._ffi = _ffi()
        _require_library(self._path)
        weights = _mapped(bundle / WEIGHTS_FILE)
        try:
            self._machine = _opened(self._ffi, self._path)["vm_load_executable"]()
            self._machine["vm_initialization"](_CPU, 0, _POOLED)
            self._state = self._machine["load"](self._ffi.from_dlpack(weights), threads)
            self._main = self._machine["main"]
        except _REFUSALS as error:
            raise BundleError(f"{self._path}: TVM refuses it: {_one_line(error)}", hint="export again") from None
        self._image, self._input = np.empty((1, 0), np.float32), None

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 (n, …), of images float32 (n, height, width, channels), one after another."""
        outputs = [self._run_one(image) for image in np.asarray(images, np.float32)]
        if outputs:
            return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        model = IntegerModel.load(self._bundle)
        return np.zeros((0, *model.tensors[model.output].shape), np.float32)

    def _run_one(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._image.shape[1:] != image.shape:
            # At a multiple of 64 bytes, as what TVM compiled takes for granted.
            self._image = aligned(image.nbytes)[: image.nbytes].view(np.float32).reshape(1, *image.shape)
            self._input = self._ffi.from_dlpack(self._image)
        self._image[0] = image
        try:
            return _copied(self._main(self._input, self._state))
        except _REFUSALS as error:
            raise BundleError(f"{self._path}: TVM failed: {_one_line(error)}", hint="see the bundle's input") from None

    def tensors(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """Return every int8 tensor and the output by name, batch first: what the calls of the deployed function write.

        A layer that does the addition behind it is run once more without it, for the tensor between them.

        Raises:
            BundleError: the library makes other calls than steps.json says.
        """
        watched, calls = TvmSession(self._bundle, self._threads), _Calls()
        watched._machine["set_instrument"](self._ffi.convert(calls.look))
        names = [name for step in _steps(self._bundle / STEPS_FILE) for name in step]
        found: dict[str, list[Array]] = {name: [] for name in names}
        for image in np.asarray(images, np.float32):
            calls.made.clear()
            watched._run_one(image)
            if len(calls.made) != len(names):
                raise BundleError(f"{self._path}: its calls are not those of {STEPS_FILE}", hint="export again")
            for name, value in zip(names, calls.made, strict=True):
                found[name].append(value)
        constants = [node for node in IntegerModel.load(self._bundle).nodes if isinstance(node, Constant)]
        return {name: np.concatenate(values) for name, values in found.items()} | {
            node.output: np.broadcast_to(node.codes, (len(images), *node.codes.shape)) for node in constants
        }


class _Calls:
    """What the calls of a function write, in order, as the virtual machine shows them."""

    def __init__(self) -> None:
        self.made: list[Array] = []

    def look(self, _: Any, name: str, before: bool, returned: Any, *arguments: Any) -> int:
        """Be shown a call before it is done, and after."""
        if name.startswith("vm.builtin.") and name != "vm.builtin.reshape":
            return 0
        if not before:
            self.made.append(_copied(arguments[-1] if returned is None else returned))
        elif name == "msq_run" and len(arguments) == _WITH_SUM:
            layer, x, _, y = arguments
            layer(x, y)
            self.made.append(_copied(y))
        return 0


_WITH_SUM = 4
"""Arguments of a layer that does an addition: itself, its input, the addition's other one, and its output."""


def _copied(tensor: Any) -> Array:
    return np.array(np.from_dlpack(tensor))


def _steps(path: Path) -> list[list[str]]:
    try:
        steps: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file", hint="export again") from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON: {error}", hint="export again") from None
    return steps


def _mapped(path: Path) -> NDArray[np.uint8]:
    """Return a file's bytes, mapped; they count as writable, which TVM wants, but nothing writes to them."""
    try:
        return np.memmap(path, np.uint8, "c") if path.stat().st_size else aligned(1)[:0]
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file", hint="export again") from None


def _opened(ffi: Any, path: Path) -> Any:
    """Return a library, opened by a name of its own: by one that it knows, the system gives what it opened before."""
    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder, path.name)
        name.symlink_to(path.absolute())
        return ffi.load_module(name, keep_module_alive=False)


def _require_library(path: Path) -> None:
    """Refuse what is no whole library of this machine: to load a cut one may end the process."""
    try:
        with path.open("rb") as stream:
            head, size = stream.read(64), path.stat().st_size
    except FileNotFoundError:
        there = ", ".join(sorted(found.name for found in path.parent.glob("model-*.so"))) or "none"
        raise BundleError(
            f"{path}: no such file; libraries of this bundle: {there}", hint="export the model for this machine"
        ) from None
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        raise BundleError(f"{path}: not a library", hint="export again")
    (machine,), (sections,) = struct.unpack_from("<H", head, 18), struct.unpack_from("<Q", head, 40)
    entry, count = struct.unpack_from("<HH", head, 58)
    if machine != _ELF_MACHINES.get(platform.machine()):
        raise BundleError(f"{path}: a library of another machine; this is {platform.machine()}", hint="export again")
    # The table of sections is the end of the file.
    if size < sections + entry * count:
        raise BundleError(f"{path}: cut at byte {size}", hint="export again")


@functools.cache
def _ffi() -> Any:
    """Return TVM's FFI, with its runtime library loaded beside it. Raises DeviceError."""
    try:
        import tvm_ffi
    except ImportError as error:
        raise DeviceError(f"TVM is not installed here: {error}", hint=INSTALL) from None
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        raise DeviceError("TVM is not installed here: there is no tvm beside tvm_ffi", hint=INSTALL)
    path = Path(found.origin).parent / "lib" / "libtvm_runtime.so"
    try:
        # Its symbols are for the libraries that are loaded later.
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise DeviceError(f"{path}: TVM's runtime cannot be loaded: {error}", hint=INSTALL) from None
    return tvm_ffi


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
