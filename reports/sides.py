"""Sides: what stands on each side of a comparison, and which measurements of two sides belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from msq.errors import UsageError
from msq.measurement import Measured, Measurement
from msq.measurement import read as read_measurement
from reports.store import Store


@dataclass(frozen=True)
class Side:
    """Measurements under the name that the user gave them, the oldest first."""

    name: str
    measurements: tuple[Measured, ...]

    def groups(self) -> dict[str, list[Measured]]:
        """Return the measurements by what was measured where."""
        found: dict[str, list[Measured]] = {}
        for measurement in self.measurements:
            found.setdefault(what(measurement), []).append(measurement)
        return found


def what(measurement: Measured) -> str:
    """Return model, device and runtime of a measurement in words."""
    return f"{measurement.name} on {measurement.device.name}, {measurement.runtime}"


def read(name: str, store: Path) -> Side:
    """Return the side that a word of the command line names.

    A measurement's file; a folder, all of whose *.json are measurements; else, in the store, the begin of a
    measurement's id or the name of a release.

    Raises:
        UsageError: it is none of these. BundleError: a file is no measurement.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise UsageError(f"{path}: no measurements (*.json)", hint="`msq bundle diff` compares bundles")
        found = [read_measurement(file) for file in files]
    elif path.is_file():
        found = [read_measurement(path)]
    elif store.exists():
        with Store(store) as opened:
            found = [kept.measurement for kept in opened.get(name)]
    else:
        raise UsageError(f"{name}: no such file or folder, and there is no store {store}", hint="--store names another")
    return Side(name, tuple(sorted(found, key=lambda measurement: measurement.created)))


def baseline(measurement: Measurement, name: str | None, store: Path) -> Measurement | None:
    """Return what a measurement is judged against: what `name` names, else the store's last release of the same.

    Raises:
        UsageError: `name` has no measurement of the same model, device and runtime. Else as `read`.
    """
    if name is None:
        if not store.exists():
            return None
        with Store(store) as opened:
            kept = opened.last_release(measurement)
        return kept.measurement if kept and isinstance(kept.measurement, Measurement) else None
    found = read(name, store).groups()
    newest = found[what(measurement)][-1] if what(measurement) in found else None
    if not isinstance(newest, Measurement):
        raise UsageError(f"{name}: no measurement of {what(measurement)}", hint=f"it has {'; '.join(found)}")
    return newest


def matched(base: Side, other: Side) -> tuple[dict[str, tuple[list[Measured], list[Measured]]], list[str], list[str]]:
    """Return what both sides have, what only the other has (new), and what only the base has (missing).

    Measurements of the same model, device and runtime belong together. Where both sides are of one thing only, those
    two are compared, whatever they are: two models, two devices.
    """
    first, second = base.groups(), other.groups()
    if len(first) == len(second) == 1:
        (a, olds), (b, news) = *first.items(), *second.items()
        return {a if a == b else f"{a} → {b}": (olds, news)}, [], []
    return (
        {name: (first[name], second[name]) for name in first if name in second},
        [name for name in second if name not in first],
        [name for name in first if name not in second],
    )


def rounds(a: Sequence[Measured], b: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    """Return the rounds in which A and B, each sorted by time, were run in turns; none where they were not.

    In a round either may come first; the next begins when both are done.
    """
    pairs = list(zip(a, b, strict=False))
    if len(a) != len(b) or len(a) < 2:
        return []
    in_turns = all(
        max(one.created for one in before) <= min(one.created for one in after) for before, after in pairwise(pairs)
    )
    return pairs if in_turns else []
