"""The measurement: what a device run found, with every raw sample and the provenance of every figure."""

import json
from pathlib import Path
from typing import Literal

from msq.artefact import Artefact, Strict
from msq.bundle import Manifest
from msq.provenance import Figure, Kind

RuntimeMode = Literal["stock", "hook", "native", "oracle"]
"""Whose code computed; runtimes.Adapter says what each is."""

Engine = Literal["board", "host", "qemu-user", "qemu-system"]
"""What ran the code: real silicon, or QEMU's processor under this machine's kernel, or with a kernel of its own."""

OBSERVED: dict[Engine, Kind] = {
    "board": Kind.MEASURED_BOARD,
    "host": Kind.MEASURED_HOST,
    "qemu-user": Kind.EMULATED,
    "qemu-system": Kind.EMULATED,
}
"""The kind of what is observed where a device's programs run on this."""


class Device(Strict):
    """What ran the model. facts are profile data (of the board that is meant), never observations."""

    name: str
    title: str
    transport: str
    engine: Engine
    cpu: str
    facts: dict[str, str]

    @property
    def emulated(self) -> bool:
        """Whether its times say nothing of a board."""
        return OBSERVED[self.engine] is Kind.EMULATED


class Environment(Strict):
    """What was observed where the agent ran: machine, Python, kernel, emulator, threads, library versions."""

    machine: str
    python: str | None
    """None where the agent was msq-run."""
    kernel: str
    emulator: str | None
    threads: int
    libraries: dict[str, str]


class TensorParity(Strict):
    """Golden vectors on the device, over every int8 tensor and the output."""

    tensors: int
    values: int
    equal_to_host: bool
    """Bit for bit the outputs that the exporting host's runtime gave."""
    equal_to_oracle: bool
    max_lsb_to_oracle: int
    differing: dict[str, int] = {}
    """Operator kind → largest difference to the oracle in LSB."""


class Prediction(Strict):
    """One test image: its index in the evaluation set, its label and what the device said."""

    index: int
    label: int
    predicted: int
    host: int | None = None
    """What the exporting host said of it, where the bundle tells."""


class Conditions(Strict):
    """A device's processors at one moment, as far as it told: by processor; temperatures in thousandths of °C."""

    governors: tuple[str, ...]
    frequencies_khz: tuple[int, ...]
    limits_khz: tuple[int, ...]
    temperatures: dict[str, int]


class Observation(Artefact):
    """A device's answers for one model. figures holds what a report shows, by name.

    Names in use: top1, host_top1 (Manifest.net: the full test set on the host), model_bytes, weight_bytes,
    resident_weight_bytes; only where they can be measured truly: latency_p50, latency_p90, latency_p95, latency_p99,
    first_answer, peak_memory, load_peak_memory, run_peak_memory, anonymous_memory, file_memory.
    """

    runtime: str
    runtime_version: str
    runtime_mode: RuntimeMode
    device: Device
    environment: Environment
    figures: dict[str, Figure]
    predictions: tuple[Prediction, ...]
    protocol: str | None = None
    """How inferences were timed, a name of devices.protocol."""
    conditions: tuple[Conditions, ...] = ()
    """Before and after they were."""
    doubts: tuple[str, ...] = ()
    """What speaks against the times, though the run was repeated."""
    latency_seconds: tuple[float, ...] = ()
    """Raw samples of single-image inference in order; empty on emulators, whose times mean nothing."""
    created: str
    command: str

    @property
    def disagreements(self) -> tuple[Prediction, ...]:
        """The images that the device and the exporting host gave different classes."""
        return tuple(said for said in self.predictions if said.host not in (None, said.predicted))


class Measurement(Observation):
    """A device's answers for one bundle."""

    manifest: Manifest
    manifest_sha256: str
    parity: TensorParity

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.manifest.name


class FileMeasurement(Observation):
    """A device's answers for one model file of any origin, which nobody but its own runtime can check."""

    name: str
    """Of the file."""
    sha256: str
    size: tuple[int, int, int]
    """Height, width and channels of its images."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """As in msq.checkpoint.InputSpec."""


Measured = Measurement | FileMeasurement


def read(path: Path) -> Measured:
    """Read a measurement, of a bundle or of a model file, whichever the file holds. Raises BundleError."""
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        keys = {}
    of_file = isinstance(keys, dict) and "sha256" in keys and "manifest" not in keys
    return FileMeasurement.read(path) if of_file else Measurement.read(path)
