"""Measurement: a bundle runs on a device, and every figure comes back with where it comes from."""

import os
import shlex
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import runtimes
from devices import transport as transports
from devices.agent import Answer, Job
from devices.dispatch import dispatch
from devices.golden import Golden
from devices.native_agent import NativeAgent
from devices.profile import Profile, profile
from devices.python_agent import PythonAgent
from devices.sample import choose, enough
from devices.transport import Engine, Transport
from msq.bundle import MANIFEST_FILE, Manifest
from msq.checksums import sha256_of
from msq.errors import BundleError, ParityError, UsageError
from msq.measurement import Device, Environment, Measurement, Prediction, RuntimeMode, TensorParity
from msq.provenance import Figure, Kind, proportion

KIND: dict[Engine, Kind] = {
    "board": Kind.MEASURED_BOARD,
    "host": Kind.MEASURED_HOST,
    "qemu-user": Kind.EMULATED,
}
BATCH = 32
LATENCY_SAMPLES = 200
IMAGES_AN_AGENT = 128
"""Fewer are not worth another agent's start."""
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
        threads: of the runtime. On an emulated board several agents of one thread share the images instead.
        command: what the user typed; by default this process's own arguments.
    Raises:
        UsageError: the device or runtime is unknown, or the bundle is for another runtime.
        BundleError: the bundle or the evaluation set is missing, altered or does not fit.
        DeviceError: the device cannot be set up, or failed.
        ParityError: its outputs differ from the exporting host's, or from the oracle's by more than MAX_LSB.
    """
    facts, adapter, manifest = profile(device), runtimes.adapter(runtime), Manifest.open(bundle)
    if manifest.lowering != adapter.LOWERING:
        raise UsageError(
            f"runtime {runtime!r} reads bundles lowered to {adapter.LOWERING!r}; {bundle} is {manifest.lowering!r}",
            hint=f"export the checkpoint for {runtime}",
        )
    pictures, labels = _evaluation(evaluation, manifest)
    chosen = choose(len(labels), images or enough(_expected(manifest)), seed)
    with closing(transports.transport(facts.transport)) as transport:
        transport.prepare(facts, adapter.PACKAGES)
        answers = _run(transport, facts, bundle, runtime, np.asarray(pictures[chosen]), threads)
        first = answers[0]
        if first.golden is None:
            raise BundleError(f"{bundle}: the agent compared no golden vectors")
        _require_parity(first.golden, adapter.MODE, f"{facts.name}, {runtime}")
        predicted = [prediction for answer in answers for prediction in answer.predictions]
        measurement = Measurement(
            manifest=manifest,
            manifest_sha256=sha256_of(bundle / MANIFEST_FILE),
            runtime=runtime,
            runtime_version=first.runtime_version,
            runtime_mode=cast(RuntimeMode, adapter.MODE),
            device=_device(facts, transport),
            environment=Environment(
                machine=first.machine,
                python=first.python,
                kernel=first.kernel,
                emulator=transport.emulator,
                threads=threads,
                libraries=first.libraries,
            ),
            parity=TensorParity(**vars(first.golden)),
            figures=_figures(manifest, transport.engine, first, np.asarray(predicted) == labels[chosen]),
            predictions=tuple(
                Prediction(index=int(index), label=int(labels[index]), predicted=answer)
                for index, answer in zip(chosen, predicted, strict=True)
            ),
            latency_seconds=tuple(first.latency_seconds),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if command is None else command,
        )
    if out is not None:
        measurement.write(out)
    return measurement


def _run(
    transport: Transport, facts: Profile, bundle: Path, runtime: str, images: NDArray[np.uint8], threads: int
) -> list[Answer]:
    emulated = transport.engine == "qemu-user"
    # Where nothing is timed, agents may share the processors; where something is, they would disturb one another.
    processors = len(os.sched_getaffinity(0)) if emulated else 1
    agents = max(1, min(processors, len(images) // IMAGES_AN_AGENT))
    job = Job(
        bundle="bundle",
        runtime=runtime,
        threads=threads,
        images="",
        batch=BATCH,
        golden=True,
        latency_samples=0 if emulated else LATENCY_SAMPLES,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{facts.title}, {runtime}: images", total=len(images))
        agent = (NativeAgent if runtimes.adapter(runtime).PACKAGES is None else PythonAgent)(transport, bundle)
        return dispatch(agent, job, images, agents, lambda count: progress.advance(task, count))


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


def _expected(manifest: Manifest) -> float:
    """Return the share of right answers to expect; a half, which asks for most images, where nothing is known."""
    return manifest.net.top1 if manifest.net else 0.5


def _require_parity(golden: Golden, mode: str, where: str) -> None:
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


def _figures(manifest: Manifest, engine: Engine, answer: Answer, right: NDArray[np.bool_]) -> dict[str, Figure]:
    sizes, observed = manifest.sizes, KIND[engine]
    figures = {
        "top1": proportion(int(right.sum()), len(right), observed, "random subset of the test images"),
        "model_bytes": Figure(value=sizes.model_bytes, unit="bytes", kind=Kind.ARTEFACT),
        "weight_bytes": Figure(value=sizes.weight_bytes, unit="bytes", kind=Kind.ARTEFACT),
        "resident_weight_bytes": Figure(
            value=sizes.resident_weight_bytes, unit="bytes", kind=Kind.MODELLED, note=sizes.resident_note
        ),
    }
    if net := manifest.net:
        note = "the whole test set on the exporting host"
        figures["host_top1"] = proportion(net.correct, net.n, Kind.MEASURED_HOST, note)
    if answer.latency_seconds:
        for name, quantile in (("latency_p50", 0.5), ("latency_p90", 0.9)):
            value = float(np.quantile(answer.latency_seconds, quantile))
            note = "preprocessing left out; quantile by linear interpolation (Hyndman–Fan 7)"
            figures[name] = Figure(value=value, unit="seconds", kind=observed, n=len(answer.latency_seconds), note=note)
    if answer.peak_memory_bytes is not None:
        note = "the whole process: Python, the runtime and the model, one image at a time"
        figures["peak_memory"] = Figure(value=answer.peak_memory_bytes, unit="bytes", kind=observed, note=note)
    return figures
