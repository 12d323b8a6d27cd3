"""Runs: what the store holds of the same data, so that a measurement is seen among the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msq.measurement import Measurement
from msq.provenance import Figure, Kind, proportion
from reports import figures, wording
from reports.store import Store


@dataclass(frozen=True)
class Run:
    """A measurement as one of many; current is the one that the report is about.

    accuracy is of the whole test set, on the exporting host; None where nobody looked. bits is by layer.
    """

    label: str
    model: str
    method: str
    device: str
    runtime: str
    created: str
    release: str
    current: bool
    average_bits: Figure
    size: Figure
    accuracy: Figure | None
    latency: Figure | None
    bits: dict[str, int]

    @property
    def tip(self) -> str:
        """What the run is, in a line."""
        figures_ = [self.accuracy, self.size, self.average_bits, self.latency]
        said = ", ".join(wording.figure(figure) for figure in figures_ if figure)
        return f"{self.label}: {said}"


def runs(measurement: Measurement, store: Path | None) -> tuple[Run, ...]:
    """Return the measurement and all others of the store on the same data, the oldest first; of other data none.

    Accuracies on different data have no axis in common.
    """
    found: list[tuple[Measurement, str]] = []
    if store is not None and store.exists():
        with Store(store) as opened:
            found = [
                (kept.measurement, kept.release or "")
                for kept in opened.history()
                if isinstance(kept.measurement, Measurement)
            ]
    same = [(one, release) for one, release in found if one.manifest.data.sha256 == measurement.manifest.data.sha256]
    if not any(one == measurement for one, _ in same):
        same.append((measurement, ""))
    return tuple(_run(one, release, one == measurement) for one, release in same)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (x, y) that no other beats in both less x and more y, by rising x."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


def _run(measurement: Measurement, release: str, current: bool) -> Run:
    manifest, net = measurement.manifest, measurement.manifest.net
    return Run(
        label=f"{manifest.name}, {measurement.device.name}, {measurement.runtime}",
        model=manifest.name,
        method=manifest.method,
        device=measurement.device.name,
        runtime=measurement.runtime,
        created=measurement.created,
        release=release,
        current=current,
        average_bits=figures.average_bits(manifest),
        size=figures.file_size(manifest),
        accuracy=proportion(net.correct, net.n, Kind.MEASURED_HOST) if net else None,
        latency=figures.times(measurement).get("p50"),
        bits={layer.name: layer.bits for layer in manifest.layers},
    )
