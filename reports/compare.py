"""Comparison: how measurements differ, figure by figure, and whether the raw samples say that it is no accident.

Figures of different kinds (measured on a board, on the host, emulated, counted, modelled) are never compared: they are
listed apart, with the reason. What is new, missing or newly failing is no difference of a figure, and stands apart too.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Literal

from msq.artefact import Artefact, Strict
from msq.measurement import Measured, Measurement
from msq.provenance import MEANING, Figure, Kind
from msq.recipe import Gates
from reports import gates, sides, significance
from reports.figures import LATENCY, average_bits, recorded
from reports.sides import Side
from reports.significance import Difference

Verdict = Literal["better", "worse", "equal", "no clear difference", "not tested"]
EXACT = (Kind.ARTEFACT, Kind.COUNTED, Kind.MODELLED)
"""Kinds of figures that are the same whenever they are taken: any difference is one."""
HIGHER_IS_BETTER = ("top1", "host_top1")


class Change(Strict):
    """One figure of both sides, of one kind. difference is None where there is nothing to test it by.

    base and other are what was compared: of answers to the same images, the shares of those; of rounds in turns,
    geometric means.
    """

    figure: str
    unit: str
    kind: Kind
    base: float
    other: float
    difference: Difference | None
    verdict: Verdict


class Apart(Strict):
    """A figure that is not compared, and why."""

    figure: str
    why: str


class Pair(Strict):
    """What one side measured beside what the base did. Gates are named where they passed on one side only."""

    what: str
    base: str
    other: str
    changes: tuple[Change, ...]
    apart: tuple[Apart, ...]
    newly_failing: tuple[str, ...]
    mended: tuple[str, ...]


class Presence(Strict):
    """What one side measured and the other did not."""

    side: str
    what: str


class Comparison(Artefact):
    """Every other side beside the first one, the base."""

    base: str
    others: tuple[str, ...]
    pairs: tuple[Pair, ...]
    new: tuple[Presence, ...]
    missing: tuple[Presence, ...]


def compare(names: Sequence[str], store: Path, limits: Gates | None = None) -> Comparison:
    """Compare measurements with those of the first name; names are those that reports.sides.read takes.

    Args:
        limits: gates of a recipe; bit-exactness is looked at in any case.
    Raises:
        UsageError, BundleError: as of reports.sides.read.
    """
    base, *others = (sides.read(name, store) for name in names)
    pairs, new, missing = [], [], []
    for other in others:
        both, only_other, only_base = sides.matched(base, other)
        pairs += [_pair(what, base, other, *found, limits) for what, found in both.items()]
        new += [Presence(side=other.name, what=what) for what in only_other]
        missing += [Presence(side=other.name, what=what) for what in only_base]
    return Comparison(
        base=base.name,
        others=tuple(side.name for side in others),
        pairs=tuple(pairs),
        new=tuple(new),
        missing=tuple(missing),
    )


def changes(olds: Sequence[Measured], news: Sequence[Measured]) -> tuple[list[Change], list[Apart]]:
    """Return how the figures of two sides differ, and those that cannot be compared.

    Args:
        olds, news: measurements of one thing each, the oldest first, at least one. The newest are compared, and all of
            them where they were run in turns.
    """
    old, new = olds[-1], news[-1]
    found, apart = [], []
    first, second = _figures(old), _figures(new)
    for name in dict.fromkeys([*first, *second]):
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            apart.append(Apart(figure=name, why=f"only the {'other' if a is None else 'base'} has it"))
        elif why := _unlike(name, a, b, old, new):
            apart.append(Apart(figure=name, why=why))
        else:
            base, other, difference = _tested(name, a, b, olds, news)
            verdict = _verdict(name, a, b, difference)
            found.append(
                Change(
                    figure=name,
                    unit=a.unit,
                    kind=a.kind,
                    base=base,
                    other=other,
                    difference=difference,
                    verdict=verdict,
                )
            )
    return found, apart


def _pair(what: str, base: Side, other: Side, olds: list[Measured], news: list[Measured], limits: Gates | None) -> Pair:
    found, apart = changes(olds, news)
    failed = [_failed(each[-1], limits) for each in (olds, news)]
    return Pair(
        what=what,
        base=base.name,
        other=other.name,
        changes=tuple(found),
        apart=tuple(apart),
        newly_failing=tuple(sorted(failed[1] - failed[0])),
        mended=tuple(sorted(failed[0] - failed[1])),
    )


def _failed(measurement: Measured, limits: Gates | None) -> set[str]:
    """Return the titles of the gates that fail; what is no bundle has none."""
    results = gates.evaluate(limits, measurement) if isinstance(measurement, Measurement) else []
    return {result.title for result in results if result.outcome == "failed"}


def _figures(measurement: Measured) -> dict[str, Figure]:
    found = recorded(measurement)
    if isinstance(measurement, Measurement):
        found["average_bits"] = average_bits(measurement.manifest)
    return found


def _unlike(name: str, a: Figure, b: Figure, old: Measured, new: Measured) -> str:
    """Return why two figures of one name are not the same thing; an empty string where they are."""
    if a.kind is not b.kind:
        return f"different kinds: {MEANING[a.kind]} beside {MEANING[b.kind]}"
    if a.unit != b.unit:
        return f"different units: {a.unit} and {b.unit}"
    if name in HIGHER_IS_BETTER and _other_data(old, new):
        return "different data"
    if a.unit == "seconds" and old.environment.threads != new.environment.threads:
        return f"different threads: {old.environment.threads} and {new.environment.threads}"
    if name.startswith(LATENCY) and old.protocol != new.protocol:
        return f"different protocols: {old.protocol} and {new.protocol}"
    return ""


def _other_data(old: Measured, new: Measured) -> bool:
    """Say whether two were tested on different data: by their digests or, of model files, by the images' labels."""
    if isinstance(old, Measurement) and isinstance(new, Measurement):
        return old.manifest.data != new.manifest.data
    labels = {said.index: said.label for said in old.predictions}
    shared = [said for said in new.predictions if said.index in labels]
    return not shared or any(labels[said.index] != said.label for said in shared)


def _tested(
    name: str, a: Figure, b: Figure, olds: Sequence[Measured], news: Sequence[Measured]
) -> tuple[float, float, Difference | None]:
    """Return what is compared of both sides, and the test of it by raw samples; None where there are none."""
    old, new = olds[-1], news[-1]
    if a.kind in EXACT:
        return a.value, b.value, None
    if name == "top1" and (paired := _same_images(old, new)):
        first, second = paired
        return sum(first) / len(first), sum(second) / len(second), significance.paired_shares(first, second)
    if a.unit == "fraction" and a.n and b.n:
        return a.value, b.value, significance.shares((a.value, a.n), (b.value, b.n))
    in_turns = [(recorded(x).get(name), recorded(y).get(name)) for x, y in sides.rounds(olds, news)]
    values = [
        (x.value, y.value) for x, y in in_turns if x and y and x.kind is y.kind is a.kind and x.value > 0 < y.value
    ]
    if len(values) > 1:
        xs, ys = zip(*values, strict=True)
        return geometric_mean(xs), geometric_mean(ys), significance.in_turns(xs, ys)
    percent = name.removeprefix(f"{LATENCY}p")
    if name.startswith(LATENCY) and percent.isdigit() and old.latency_seconds and new.latency_seconds:
        tested = significance.quantiles(old.latency_seconds, new.latency_seconds, int(percent) / 100)
        return a.value, b.value, tested
    return a.value, b.value, None


def _same_images(old: Measured, new: Measured) -> tuple[list[bool], list[bool]] | None:
    """Return, for the images that both were given, whether each was right; None where they are fewer than half.

    Then the pairs would tell less than all answers do, each side by itself.
    """
    first = {said.index: said.label == said.predicted for said in old.predictions}
    second = {said.index: said.label == said.predicted for said in new.predictions}
    shared = [index for index in first if index in second]
    if not shared or 2 * len(shared) < min(len(first), len(second)):
        return None
    return [first[index] for index in shared], [second[index] for index in shared]


def _verdict(name: str, a: Figure, b: Figure, difference: Difference | None) -> Verdict:
    if difference is not None:
        nothing = 0.0 if a.unit == "fraction" else 1.0
        if difference.low == difference.high == nothing:
            return "equal"
        if difference.low <= nothing + difference.tolerance and difference.high >= nothing - difference.tolerance:
            return "no clear difference"
        grew = difference.value > nothing
    elif a.value == b.value:
        return "equal"
    elif a.kind not in EXACT:
        return "not tested"
    else:
        grew = b.value > a.value
    return "better" if grew == (name in HIGHER_IS_BETTER) else "worse"
