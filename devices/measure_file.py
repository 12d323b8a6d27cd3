"""Measurement of a model file of any origin, in its own runtime: what stands beside a bundle's figures."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices import transport as transports
from devices.measure import evaluation_set
from devices.observe import fields, observe, require_protocol
from devices.profile import profile
from devices.python_agent import PythonAgent
from devices.sample import choose, enough
from msq.bundle import MANIFEST_FILE
from msq.checksums import sha256_of
from msq.errors import BundleError, UsageError
from msq.measurement import FileMeasurement
from msq.plugins import unknown
from msq.preprocessing import normalise
from msq.provenance import Figure, Kind
from runtimes import litert_file, onnxruntime_file

RUNTIMES: dict[str, tuple[str, ModuleType]] = {
    litert_file.SUFFIX: ("litert-file", litert_file),
    onnxruntime_file.SUFFIX: ("onnxruntime-file", onnxruntime_file),
}
PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0..1": ((0.0,), (1.0,)),
    "0..255": ((0.0,), (1 / 255,)),
    "-1..1": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""What becomes of pixels from 0 to 255: mean and std as in msq.checkpoint.InputSpec."""
BATCH = 64

Images = NDArray[np.uint8]


def measure_file(
    model: Path,
    device: str,
    *,
    evaluation: Path | None = None,
    pixels: str = "0..1",
    images: int | None = None,
    out: Path | None = None,
    threads: int = 1,
    protocol: str = "quick",
    seed: int = 0,
    command: str | None = None,
) -> FileMeasurement:
    """Run a .tflite or .onnx file on a device, in LiteRT or ONNX Runtime as released.

    Nothing says what its answers must be: they are compared with those of this machine, image by image.

    Args:
        model: takes images, (n, height, width, channels) or channels first, and gives classes first. In int8 or uint8
            they are on the file's own grid.
        device: as in devices.measure, as are out, threads, protocol, seed and command.
        evaluation: folder with images.npy and labels.npy; without it nothing is classified.
        pixels: a name of PIXELS. images: how many test images; by default enough for ±1 % at 95 %.
    Raises:
        UsageError: the device, the protocol or the pixels are unknown, or no runtime takes such a file.
        BundleError: the file is missing or refused, or the evaluation set does not fit.
        DeviceError: the device cannot be set up, or failed.
    """
    facts = profile(device)
    require_protocol(protocol)
    if pixels not in PIXELS:
        raise unknown(pixels, list(PIXELS), "range of pixels")
    if model.suffix not in RUNTIMES:
        raise UsageError(f"{model}: no runtime takes such a file", hint=f"there are runtimes of {', '.join(RUNTIMES)}")
    if not model.is_file():
        raise BundleError(f"{model}: no such file")
    runtime, adapter = RUNTIMES[model.suffix]
    with _folder(model, *PIXELS[pixels]) as folder:
        session = _loaded(adapter, folder, model, threads)
        size, (pictures, labels) = _fitting(model, session.size, evaluation)
        chosen = choose(len(labels), images or enough(0.5), seed)
        asked = np.asarray(pictures[chosen])
        known = np.full(len(labels), -1)
        known[chosen] = _classes(session, asked, *PIXELS[pixels])
        with closing(transports.transport(facts.transport)) as transport:
            transport.prepare(facts, adapter.PACKAGES)
            agent = PythonAgent(transport, folder, runtime, threads)
            timed = asked[:1] if len(asked) else np.random.default_rng(seed).integers(0, 256, (1, *size), np.uint8)
            found = observe(agent, f"{facts.title}, {model.name}", agent.place, asked, timed, protocol)
            common = fields(
                found, found.first, facts, transport, threads, protocol, chosen, labels, known.tolist(), command
            )
        held = sum(path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST_FILE)
    figures = common["figures"] | {"model_bytes": Figure(value=held, unit="bytes", kind=Kind.ARTEFACT)}
    mean, std = PIXELS[pixels]
    measurement = FileMeasurement(
        **common | {"figures": figures},
        runtime=runtime,
        runtime_mode="stock",
        name=model.name,
        sha256=sha256_of(model),
        size=size,
        mean=mean,
        std=std,
    )
    if out is not None:
        measurement.write(out)
    return measurement


@contextmanager
def _folder(model: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> Iterator[Path]:
    """Yield a folder with the file, what it refers to, and as much of a manifest as the agent on a device reads."""
    with TemporaryDirectory(prefix="msq-file-") as temporary:
        folder = Path(temporary)
        for path in (model, *_data_of(model)):
            target = folder / path.relative_to(model.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        manifest = {"input": {"mean": mean, "std": std}, "files": files}
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
        yield folder


def _loaded(adapter: ModuleType, folder: Path, model: Path, threads: int) -> Any:
    try:
        return adapter.load(folder, threads)
    except BundleError as error:
        said = str(error).replace(str(folder), str(model.parent))
        raise BundleError(said, hint="is it whole, and made for this runtime?") from None


def _data_of(model: Path) -> list[Path]:
    """Return the files that an ONNX file keeps its weights in, beside itself."""
    if model.suffix != onnxruntime_file.SUFFIX:
        return []
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        found = onnx.load(str(model), load_external_data=False)
    except DecodeError:
        raise BundleError(f"{model}: not an ONNX file") from None
    names = {ExternalDataInfo(tensor).location for tensor in found.graph.initializer if uses_external_data(tensor)}
    for name in sorted(names):
        if not (model.parent / name).resolve().is_relative_to(model.parent.resolve()):
            raise BundleError(f"{model}: it refers to {name!r}, outside its folder")
        if not (model.parent / name).is_file():
            raise BundleError(f"{model.parent / name}: no such file, where {model.name} keeps its weights")
    return [model.parent / name for name in sorted(names)]


def _fitting(
    model: Path, size: tuple[int | None, ...], evaluation: Path | None
) -> tuple[tuple[int, int, int], tuple[Images, NDArray[np.int64]]]:
    """Return the size of the images, which an evaluation set says where the model does not, and that set."""
    if evaluation is None:
        if None in size:
            raise UsageError(f"{model}: it leaves the size of its images open", hint="give an evaluation set of them")
        height, width, channels = (int(one or 0) for one in size)
        return (height, width, channels), (np.empty((0, height, width, channels), np.uint8), np.empty(0, np.int64))
    pictures, labels = evaluation_set(evaluation, size)
    height, width, channels = pictures.shape[1:]
    return (height, width, channels), (pictures, labels)


def _classes(session: Any, images: Images, mean: tuple[float, ...], std: tuple[float, ...]) -> list[int]:
    found: list[int] = []
    for first in range(0, len(images), BATCH):
        output = session.run(normalise(images[first : first + BATCH], mean, std))
        found += output.reshape(len(output), -1).argmax(axis=1).tolist()
    return found
