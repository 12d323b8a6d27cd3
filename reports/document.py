"""The document: a report for programs. Page, Markdown, CSV and model card say the same; docs/reports.md explains it."""

from collections.abc import Sequence

from msq.artefact import Artefact, Strict
from msq.bundle import Arena, Layer
from msq.checkpoint import DataId
from msq.measurement import Device, Environment, Measurement, TensorParity
from msq.provenance import Figure
from reports import figures, gates
from reports.absences import absences
from reports.classes import classes
from reports.gates import GateResult
from reports.spreadsheet import csv_text


class Confused(Strict):
    """How often images of one class were taken for another; share is of the images of that class."""

    label: str
    predicted: str
    count: int
    share: float


class Absent(Strict):
    """What a reader would look for and was not measured, and why."""

    what: str
    why: str


class Made(Strict):
    """What it takes to make it again."""

    command: str
    seed: int
    data: DataId
    versions: dict[str, str]
    checkpoint_sha256: str
    manifest_sha256: str
    files: dict[str, str]
    """Files of the bundle → sha256."""


class Document(Artefact):
    """A report. figures and classes hold every number with its unit and where it comes from."""

    name: str
    model: str
    method: str
    runtime: str
    runtime_version: str
    runtime_mode: str
    device: Device
    environment: Environment
    created: str
    verdict: str
    passed: bool
    gates: tuple[GateResult, ...]
    figures: dict[str, Figure]
    classes: dict[str, Figure]
    """Share of each class's images that the device got right."""
    confusions: tuple[Confused, ...]
    parity: TensorParity
    layers: tuple[Layer, ...]
    arena: Arena | None
    doubts: tuple[str, ...]
    absences: tuple[Absent, ...]
    made: Made


def document(measurement: Measurement, results: Sequence[GateResult]) -> Document:
    """Return the report of a measurement whose gates were judged."""
    manifest, answers = measurement.manifest, classes(measurement)
    return Document(
        name=manifest.name,
        model=manifest.model,
        method=manifest.method,
        runtime=measurement.runtime,
        runtime_version=measurement.runtime_version,
        runtime_mode=measurement.runtime_mode,
        device=measurement.device,
        environment=measurement.environment,
        created=measurement.created,
        verdict=gates.verdict(results),
        passed=not any(result.outcome == "failed" for result in results),
        gates=tuple(results),
        figures=_figures(measurement),
        classes=answers.accuracy,
        confusions=tuple(Confused(**vars(found)) for found in answers.confusions),
        parity=measurement.parity,
        layers=manifest.layers,
        arena=manifest.arena,
        doubts=measurement.doubts,
        absences=tuple(Absent(**vars(found)) for found in absences(measurement)),
        made=Made(
            command=measurement.command,
            seed=manifest.seed,
            data=manifest.data,
            versions=manifest.versions,
            checkpoint_sha256=manifest.checkpoint_sha256,
            manifest_sha256=measurement.manifest_sha256,
            files=manifest.files,
        ),
    )


def as_csv(found: Document) -> str:
    """Return the figures, classes and layers as CSV: a row a figure, with its unit and where it comes from."""
    named = {
        **found.figures,
        **{f"class.{name}": figure for name, figure in found.classes.items()},
        **{f"layer.{layer.name}.bits": figures.stored(layer.bits, "bits") for layer in found.layers},
        **{f"layer.{layer.name}.packed_bytes": figures.stored(layer.packed_bytes) for layer in found.layers},
    }
    rows = (
        (name, one.value, one.unit, one.kind.value, one.low, one.high, one.n, one.note) for name, one in named.items()
    )
    return csv_text([("name", "value", "unit", "kind", "low", "high", "n", "note"), *rows])


def _figures(measurement: Measurement) -> dict[str, Figure]:
    """Return the figures that the measurement names, and those that follow from its manifest."""
    manifest = measurement.manifest
    accuracies = {
        f"accuracy.{one.what}": figure
        for one in manifest.accuracy
        if (figure := figures.test_set_accuracy(manifest, one.what))
    }
    return {
        **figures.recorded(measurement),
        **accuracies,
        "average_bits": figures.average_bits(manifest),
        "int8_bytes": figures.stored(manifest.sizes.int8_bytes),
        "float32_bytes": figures.stored(manifest.sizes.float32_bytes),
        "limit_bytes": figures.stored(manifest.sizes.limit_bytes),
    }
