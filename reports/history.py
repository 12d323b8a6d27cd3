"""History: kept measurements as rows, for a table of people's or for a spreadsheet."""

from collections.abc import Iterator, Sequence

from msq.measurement import Measurement
from reports import figures as shown
from reports import wording
from reports.store import Kept


def rows(found: Sequence[Kept]) -> Iterator[tuple[str, ...]]:
    """Yield a header, then a row a measurement: what was measured, and the figures that are asked for first."""
    yield "Id", "Created", "Release", "Model", "Method", "Device", "Runtime", "Bits", "Size", "Top-1", "p90", "From"
    for kept in found:
        measurement = kept.measurement
        figures_, p90 = shown.recorded(measurement), shown.times(measurement).get("p90")
        manifest = measurement.manifest if isinstance(measurement, Measurement) else None
        accuracy = shown.device_accuracy(measurement)
        yield tuple(
            map(
                wording.printable,
                (
                    kept.id[:12],
                    measurement.created[:16].replace("T", " "),
                    kept.release or "",
                    measurement.name,
                    manifest.method if manifest else "–",
                    measurement.device.name,
                    measurement.runtime,
                    f"{manifest.average_bits:.2f}" if manifest else "–",
                    wording.figure(figures_["model_bytes"]) if "model_bytes" in figures_ else "–",
                    wording.figure(accuracy) if accuracy else "–",
                    wording.figure(p90) if p90 else "–",
                    wording.BADGE[shown.observed(measurement.device)],
                ),
            )
        )


def figures(found: Sequence[Kept]) -> Iterator[tuple[object, ...]]:
    """Yield a header, then a row a figure, with its unit and where it comes from."""
    yield (
        *("id", "created", "release", "model", "method", "device", "runtime"),
        *("figure", "value", "unit", "kind", "low", "high", "n"),
    )
    for kept in found:
        measurement = kept.measurement
        of = (
            *(kept.id, measurement.created, kept.release or "", measurement.name),
            measurement.manifest.method if isinstance(measurement, Measurement) else "",
            *(measurement.device.name, measurement.runtime),
        )
        for name, one in shown.recorded(measurement).items():
            yield *of, name, one.value, one.unit, one.kind.value, one.low, one.high, one.n
