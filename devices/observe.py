"""What is observed of any model on a device: classes of images, and time and memory where they are real."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from devices.agent import Latency, Memory, Place
from devices.dispatch import Agent, First, dispatch
from devices.figures import KIND, observed
from devices.profile import Profile
from devices.protocol import PROTOCOLS
from devices.quantiles import ESTIMATORS
from devices.steadiness import steady_latency
from devices.transport import Transport
from msq import plugins
from msq.measurement import Conditions, Device, Environment, Prediction
from msq.provenance import Kind

IMAGES_A_RUN = 128
"""Fewer are not worth another process's start."""


@dataclass(frozen=True)
class Found(Generic[First]):
    """What an agent found; latency and memory only where they mean something."""

    first: First
    """What was asked for beside the images."""
    predicted: list[int]
    latency: Latency | None
    memory: Memory | None
    doubts: tuple[str, ...]


def require_protocol(name: str) -> None:
    """Do nothing when there is a protocol of that name. Raises UsageError."""
    if name not in PROTOCOLS:
        raise plugins.unknown(name, list(PROTOCOLS), "protocol")


def observe(
    agent: Agent,
    title: str,
    first: Callable[[], First],
    images: NDArray[np.uint8],
    timed: NDArray[np.uint8],
    protocol: str,
) -> Found[First]:
    """Have an agent do all that means something on its device.

    Args:
        title: what is said of it while it runs. first: to be done beside; see devices.dispatch.
        images: to classify, uint8 (n, height, width, channels). timed: one, by which time and memory are measured.
        protocol: name of one of devices.protocol.PROTOCOLS.
    """
    engine = agent.transport.engine
    # Where nothing is timed, runs may share the processors; where something is, they would disturb one another.
    emulated = KIND[engine] is Kind.EMULATED
    processors = len(os.sched_getaffinity(0)) if emulated else 1
    runs = max(1, min(processors, len(images) // IMAGES_A_RUN))
    latency, doubts = (None, ()) if emulated else steady_latency(agent, timed, PROTOCOLS[protocol])
    memory = None if engine == "qemu-user" else agent.memory(timed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{title}: images", total=len(images))
        found, predicted = dispatch(agent, first, images, runs, lambda count: progress.advance(task, count))
    return Found(found, predicted, latency, memory, doubts)


def fields(
    found: Found[Any],
    place: Place,
    facts: Profile,
    transport: Transport,
    threads: int,
    protocol: str,
    chosen: NDArray[np.int64],
    labels: NDArray[np.int64],
    host: list[int] | None,
    command: str | None,
) -> dict[str, Any]:
    """Return what an Observation of msq.measurement says, but for whose runtime it was.

    Args:
        place: where it was observed. chosen: indices of the images in the test set. labels: of the whole test set.
        host: the classes that the host gave the whole test set, if they are known.
        command: what the user typed; by default this process's own arguments.
    """
    latency = found.latency
    right = np.asarray(found.predicted, np.int64) == labels[chosen]
    return {
        "runtime_version": place.runtime_version,
        "device": _device(facts, transport),
        "environment": Environment(
            machine=place.machine,
            python=place.python,
            kernel=place.kernel,
            emulator=transport.emulator,
            threads=threads,
            libraries=place.libraries,
        ),
        "figures": observed(transport.engine, right, latency, found.memory, ESTIMATORS[protocol]),
        "predictions": tuple(
            Prediction(index=int(index), label=int(labels[index]), predicted=answer, host=host and host[index])
            for index, answer in zip(chosen, found.predicted, strict=True)
        ),
        "protocol": protocol if latency else None,
        "latency_seconds": tuple(latency.seconds) if latency else (),
        "conditions": tuple(Conditions(**vars(state)) for state in (latency.before, latency.after)) if latency else (),
        "doubts": found.doubts,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if command is None else command,
    }


def _device(facts: Profile, transport: Transport) -> Device:
    return Device(
        name=facts.name,
        title=facts.title,
        transport=facts.transport,
        engine=transport.engine,
        cpu=facts.qemu_cpu if transport.engine == "qemu-user" and facts.qemu_cpu else facts.processor,
        facts=facts.facts,
    )
