"""Measurement: a bundle runs on a device, and every figure comes back with where it comes from."""

import os
import shlex
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import runtimes
from devices import transport as transports
from devices.agent import Latency, Memory, Place
from devices.deployment import deployed, opened
from devices.dispatch import Agent, dispatch
from devices.figures import KIND, figures
from devices.golden import Golden
from devices.profile import Profile, profile
from devices.protocol import PROTOCOLS, Protocol
from devices.quantiles import ESTIMATORS
from devices.sample import choose, enough
from devices.steadiness import steady_latency
from devices.transport import Engine, Transport
from msq import plugins
from msq.bundle import HOST_PREDICTIONS_FILE, MANIFEST_FILE, Manifest
from msq.checksums import sha256_of
from msq.errors import BundleError, ParityError
from msq.measurement import (
    Conditions,
    Device,
    Environment,
    Measurement,
    Prediction,
    RuntimeMode,
    TensorParity,
)
from msq.provenance import Kind

IMAGES_A_RUN = 128
"""Fewer are not worth another process's start."""
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
    if protocol not in PROTOCOLS:
        raise plugins.unknown(protocol, list(PROTOCOLS), "protocol")
    pictures, labels = _evaluation(evaluation, manifest)
    chosen = choose(len(labels), images or enough(_expected(manifest)), seed)
    with deployed(bundle, runtime, facts, threads) as agent:
        transport = agent.transport
        title = f"{facts.title}, {runtime}"
        pixels = np.asarray(pictures[chosen])
        found = _run(agent, transport.engine, title, pixels, PROTOCOLS[protocol])
        require_parity(found.golden, adapter.MODE, f"{facts.name}, {runtime}")
        place, latency = found.place, found.latency
        right = np.asarray(found.predicted) == labels[chosen]
        measurement = Measurement(
            manifest=manifest,
            manifest_sha256=sha256_of(bundle / MANIFEST_FILE),
            runtime=runtime,
            runtime_version=place.runtime_version,
            runtime_mode=cast(RuntimeMode, adapter.MODE),
            device=_device(facts, transport),
            environment=Environment(
                machine=place.machine,
                python=place.python,
                kernel=place.kernel,
                emulator=transport.emulator,
                threads=threads,
                libraries=place.libraries,
            ),
            parity=_parity(found.golden),
            figures=figures(manifest, transport.engine, right, latency, found.memory, ESTIMATORS[protocol]),
            predictions=_predictions(chosen, labels, found.predicted, _host_predictions(bundle, len(labels))),
            protocol=protocol if latency else None,
            latency_seconds=tuple(latency.seconds) if latency else (),
            conditions=tuple(Conditions(**vars(state)) for state in (latency.before, latency.after)) if latency else (),
            doubts=found.doubts,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if command is None else command,
        )
    if out is not None:
        measurement.write(out)
    return measurement


@dataclass(frozen=True)
class _Found:
    """What an agent found; latency and memory only where they mean something."""

    place: Place
    golden: Golden
    predicted: list[int]
    latency: Latency | None
    memory: Memory | None
    doubts: tuple[str, ...]


def _run(agent: Agent, engine: Engine, title: str, images: NDArray[np.uint8], protocol: Protocol) -> _Found:
    """Have an agent do all that means something on its device."""
    emulated = KIND[engine] is Kind.EMULATED
    # Where nothing is timed, runs may share the processors; where something is, they would disturb one another.
    processors = len(os.sched_getaffinity(0)) if emulated else 1
    runs = max(1, min(processors, len(images) // IMAGES_A_RUN))
    latency, doubts = (None, ()) if emulated else steady_latency(agent, images[:1], protocol)
    memory = None if engine == "qemu-user" else agent.memory(images[:1])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{title}: images", total=len(images))
        place, golden, predicted = dispatch(agent, images, runs, lambda count: progress.advance(task, count))
    return _Found(place, golden, predicted, latency, memory, doubts)


def _parity(golden: Golden) -> TensorParity:
    return TensorParity(
        tensors=len(golden.tensors),
        values=golden.values,
        equal_to_host=golden.equal_to_host,
        equal_to_oracle=not golden.max_lsb_to_oracle,
        max_lsb_to_oracle=golden.max_lsb_to_oracle,
        differing=golden.differing,
    )


def _predictions(
    chosen: NDArray[np.int64], labels: NDArray[np.int64], predicted: list[int], host: list[int] | None
) -> tuple[Prediction, ...]:
    return tuple(
        Prediction(index=int(index), label=int(labels[index]), predicted=answer, host=host and host[index])
        for index, answer in zip(chosen, predicted, strict=True)
    )


def _evaluation(folder: Path, manifest: Manifest) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    arrays: list[NDArray[Any]] = []
    for name in ("images.npy", "labels.npy"):
        try:
            arrays.append(np.load(folder / name, mmap_mode="r"))
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise BundleError(
                f"{folder / name}: missing or not a .npy file: {error}", hint="train writes it, beside the checkpoint"
            ) from None
    images, labels = arrays
    spec = manifest.input
    if images.dtype != np.uint8 or images.shape[1:] != (spec.height, spec.width, spec.channels):
        raise BundleError(
            f"{folder / 'images.npy'}: {images.dtype} {images.shape}, "
            f"the bundle wants uint8 (n, {spec.height}, {spec.width}, {spec.channels})",
            hint="give the evaluation folder of the checkpoint that the bundle was made of",
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


def require_parity(golden: Golden, mode: str, where: str) -> None:
    """Do nothing when outputs are what they must be.

    Args:
        mode: of the runtime, see runtimes.Adapter. where: device and runtime, for the message.
    Raises:
        ParityError: they differ from the exporting host's, or from the oracle's by more than MAX_LSB, or at all where
            the runtime must be exact.
    """
    differing = (
        ", ".join(f"{kind} by {lsb}" for kind, lsb in sorted(golden.differing.items())) or "none from the oracle"
    )
    if not golden.equal_to_host:
        raise ParityError(
            f"{where}: outputs on the golden vectors differ from the exporting host's (operators: {differing} LSB)",
            hint="export the bundle again with the runtime's release that the device has",
        )
    if golden.max_lsb_to_oracle > (0 if mode in ("oracle", "native") else MAX_LSB):
        raise ParityError(
            f"{where}: outputs on the golden vectors differ from the oracle's (operators: {differing} LSB)",
            hint="another runtime may compute these operators exactly",
        )


def _device(facts: Profile, transport: Transport) -> Device:
    return Device(
        name=facts.name,
        title=facts.title,
        transport=facts.transport,
        engine=transport.engine,
        cpu=facts.qemu_cpu if transport.engine == "qemu-user" and facts.qemu_cpu else facts.processor,
        facts=facts.facts,
    )
