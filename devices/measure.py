"""Measurement: a bundle runs on a device, and every figure comes back with where it comes from."""

from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import runtimes
from devices import transport as transports
from devices.deployment import deployed, opened
from devices.figures import of_bundle
from devices.golden import Golden
from devices.observe import fields, observe, require_protocol
from devices.profile import profile
from devices.sample import choose, enough
from msq.bundle import HOST_PREDICTIONS_FILE, MANIFEST_FILE, Manifest
from msq.checksums import sha256_of
from msq.errors import BundleError, ParityError
from msq.measurement import Measurement, RuntimeMode, TensorParity

MAX_LSB = 1
"""How far a stock operator may be from the oracle."""


def prepare(device: str, runtime: str) -> None:
    """Set a device up for a runtime, so that a later measurement starts at once.

    Raises:
        UsageError: the device or the runtime is unknown.
        DeviceError: it cannot be set up.
    """
    facts, adapter = profile(device), runtimes.adapter(runtime)
    with closing(transports.transport(facts.transport)) as transport:
        transport.prepare(facts, adapter.PACKAGES)


def measure(
    bundle: Path,
    evaluation: Path,
    device: str,
    runtime: str,
    *,
    images: int | None = None,
    out: Path | None = None,
    threads: int = 1,
    protocol: str = "quick",
    seed: int = 0,
    command: str | None = None,
) -> Measurement:
    """Run a bundle on a device: golden vectors, test images, and time and memory where they are real.

    Args:
        bundle: folder of a bundle.
        evaluation: folder with images.npy and labels.npy, as in msq.checkpoint.
        device: name of a profile, or path of one (TOML). runtime: name of an adapter in runtimes/.
        images: how many test images, drawn at random by `seed`; by default enough for ±1 % at 95 %.
        out: where the measurement is written as JSON, if anywhere.
        threads: of the runtime. On an emulated board several runs of one thread share the images instead.
        protocol: name of one of devices.protocol.PROTOCOLS, by which inferences are timed.
        command: what the user typed; by default this process's own arguments.
    Raises:
        UsageError: the device, runtime or protocol is unknown, or the bundle is for another runtime.
        BundleError: the bundle or the evaluation set is missing, altered or does not fit.
        DeviceError: the device cannot be set up, or failed.
        ParityError: its outputs differ from the exporting host's, or from the oracle's by more than MAX_LSB.
    """
    facts, (adapter, manifest) = profile(device), opened(bundle, runtime)
    require_protocol(protocol)
    spec = manifest.input
    pictures, labels = evaluation_set(evaluation, (spec.height, spec.width, spec.channels))
    chosen = choose(len(labels), images or enough(_expected(manifest)), seed)
    host = _host_predictions(bundle, len(labels))
    with deployed(bundle, runtime, facts, threads) as agent:
        pixels = np.asarray(pictures[chosen])
        found = observe(agent, f"{facts.title}, {runtime}", agent.golden, pixels, pixels[:1], protocol)
        place, golden = found.first
        require_parity(golden, adapter.MODE, f"{facts.name}, {runtime}", cpu=place.cpu)
        common = fields(found, place, facts, agent.transport, threads, protocol, chosen, labels, host, command)
    measurement = Measurement(
        **common | {"figures": common["figures"] | of_bundle(manifest)},
        manifest=manifest,
        manifest_sha256=sha256_of(bundle / MANIFEST_FILE),
        runtime=runtime,
        runtime_mode=cast(RuntimeMode, adapter.MODE),
        parity=_parity(golden),
    )
    if out is not None:
        measurement.write(out)
    return measurement


def _parity(golden: Golden) -> TensorParity:
    return TensorParity(
        tensors=len(golden.tensors),
        values=golden.values,
        equal_to_host=golden.equal_to_host,
        equal_to_oracle=not golden.max_lsb_to_oracle,
        max_lsb_to_oracle=golden.max_lsb_to_oracle,
        differing=golden.differing,
    )


def evaluation_set(folder: Path, size: tuple[int | None, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images, uint8 (n, height, width, channels) and mapped, and labels, int64 (n,), of an evaluation set.

    Args:
        folder: with images.npy and labels.npy.
        size: height, width and channels that images must have; None of what may be any.
    Raises:
        BundleError: they are missing, or do not fit.
    """
    arrays: list[NDArray[Any]] = []
    for name in ("images.npy", "labels.npy"):
        try:
            arrays.append(np.load(folder / name, mmap_mode="r"))
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise BundleError(
                f"{folder / name}: missing or not a .npy file: {error}", hint="train writes it, beside the checkpoint"
            ) from None
    images, labels = arrays
    given = images.shape[1:]
    fits = len(size) == len(given) and all(x in (None, y) for x, y in zip(size, given, strict=True))
    if images.dtype != np.uint8 or not fits:
        raise BundleError(
            f"{folder / 'images.npy'}: {images.dtype} {images.shape}, "
            f"the model wants uint8 (n, {', '.join(str(one or 'any') for one in size)})",
            hint="give the evaluation folder of the checkpoint that the model was made of",
        )
    if not len(images) or labels.shape != (len(images),):
        raise BundleError(f"{folder}: {len(images)} images and labels of shape {labels.shape}")
    return images, labels


def _host_predictions(bundle: Path, images: int) -> list[int] | None:
    """Return the class that the exporting host gave each test image; None where the bundle does not tell."""
    path = bundle / HOST_PREDICTIONS_FILE
    if not path.is_file():
        return None
    found = np.load(path)
    if found.shape != (images,):
        raise BundleError(
            f"{path}: classes of {found.shape} images, the evaluation set has {images}",
            hint="give the evaluation folder of the checkpoint that the bundle was made of",
        )
    return [int(index) for index in found]


def _expected(manifest: Manifest) -> float:
    """Return the share of right answers to expect; a half, which asks for most images, where nothing is known."""
    return manifest.net.top1 if manifest.net else 0.5


def require_parity(golden: Golden, mode: str, where: str, *, cpu: bool) -> None:
    """Do nothing when outputs are what they must be.

    Args:
        mode: of the runtime, see runtimes.Adapter. where: device and runtime, for the message.
        cpu: whether a CPU computed them; others add up in orders of their own.
    Raises:
        ParityError: they differ from the exporting host's, or from the oracle's by more than MAX_LSB, or at all where
            the runtime must be exact.
    """
    differing = (
        ", ".join(f"{kind} by {lsb}" for kind, lsb in sorted(golden.differing.items())) or "none from the oracle"
    )
    if cpu and not golden.equal_to_host:
        raise ParityError(
            f"{where}: outputs on the golden vectors differ from the exporting host's (operators: {differing} LSB)",
            hint="export the bundle again with the runtime's release that the device has",
        )
    if golden.max_lsb_to_oracle > (0 if mode in ("oracle", "native") else MAX_LSB):
        raise ParityError(
            f"{where}: outputs on the golden vectors differ from the oracle's (operators: {differing} LSB)",
            hint="another runtime may compute these operators exactly",
        )
