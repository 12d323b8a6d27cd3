"""Gates: whether a measurement may be released, and by how much each gate is met or missed.

Accuracy is judged on the full test set, run by the deployed model on the exporting host, and not on the device's
sample, whose 95 % interval is wider than the drops that gates forbid. That is sound only while the device reproduces
the host bit for bit; so where its outputs differ, the accuracy gates fail, and so does the standing gate `bit_exact`,
which no recipe can switch off.

Time and memory are judged where they were measured, on a board or the host, and by what was measured; elsewhere their
gates are not judged, which neither passes nor fails them.

Limits are compared as the decimal numbers that the recipe writes: 92.30 − 91.30 is 1 point, no more.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

from msq.artefact import Strict
from msq.bundle import Manifest
from msq.checkpoint import Accuracy
from msq.measurement import Measurement
from msq.provenance import Kind
from msq.recipe import Gates
from reports import wording
from reports.figures import observed

Outcome = Literal["passed", "failed", "not judged"]


class GateResult(Strict):
    """One gate: what was wanted, what was found, where that comes from, and by how much, in words."""

    name: str
    """bit_exact, or the recipe's key."""
    title: str
    wanted: str
    found: str
    kind: Kind
    outcome: Outcome
    margin: str

    @property
    def words(self) -> str:
        """The result in one line."""
        return f"{self.title}: {self.found}, wanted {self.wanted} ({self.margin})"


def evaluate(gates: Gates | None, measurement: Measurement) -> list[GateResult]:
    """Judge a measurement by the standing gate and by those that are set."""
    results = [_bit_exact(measurement)]
    if gates is None:
        return results
    if gates.min_top1 is not None:
        results.append(_top1(gates.min_top1, measurement))
    if gates.max_drop_vs_float is not None:
        results.append(_drop(gates.max_drop_vs_float, measurement))
    if gates.max_size_kb is not None:
        results.append(_size(gates.max_size_kb, measurement.manifest))
    if gates.max_latency_p90_ms is not None:
        limit = _exact(gates.max_latency_p90_ms) / 1000
        results.append(
            _measured("max_latency_p90_ms", "Latency, p90", "latency_p90", limit, wording.duration, measurement)
        )
    if gates.max_peak_memory_kb is not None:
        limit = _exact(gates.max_peak_memory_kb) * 1024
        results.append(_measured("max_peak_memory_kb", "Peak memory", "peak_memory", limit, wording.size, measurement))
    return results


def verdict(results: Sequence[GateResult]) -> str:
    """Return the outcome of all gates in a few words."""
    outcomes = Counter(result.outcome for result in results)
    failed, left = outcomes["failed"], outcomes["not judged"]
    aside = f", {left} not judged here" if left else ""
    if failed:
        return (
            f"Fails {failed} of {len(results)} gates{aside}" if len(results) > 1 else "Outputs differ from the host's"
        )
    if left:
        return f"Passes {outcomes['passed']} of {len(results)} gates{aside}"
    return f"Passes all {len(results)} gates" if len(results) > 1 else "Bit-exact; no other gates set"


def _outcome(passed: bool) -> Outcome:
    return "passed" if passed else "failed"


def _bit_exact(measurement: Measurement) -> GateResult:
    parity = measurement.parity
    return GateResult(
        name="bit_exact",
        title="Outputs on the device",
        wanted="equal to the host's",
        found="equal" if parity.equal_to_host else "different",
        kind=observed(measurement.device),
        outcome=_outcome(parity.equal_to_host),
        margin=f"{parity.values:,} values compared",
    )


def _top1(limit: float, measurement: Measurement) -> GateResult:
    net = measurement.manifest.net
    spare = _share(net) - _exact(limit) if net else None
    return _accuracy_gate(
        "min_top1",
        "Top-1 on the full test set",
        f"at least {wording.percent(limit)}",
        wording.percent(net.top1) if net else None,
        spare,
        measurement,
    )


def _drop(limit: float, measurement: Measurement) -> GateResult:
    base, net = _float(measurement.manifest), measurement.manifest.net
    drop = _share(base) - _share(net) if base and net else None
    found = None
    if drop is not None:
        found = wording.points(float(drop)) + (" above float" if drop < 0 else "")
    return _accuracy_gate(
        "max_drop_vs_float",
        "Drop against float",
        f"at most {wording.points(limit)}",
        found,
        None if drop is None else _exact(limit) - drop,
        measurement,
    )


def _accuracy_gate(
    name: Literal["min_top1", "max_drop_vs_float"],
    title: str,
    wanted: str,
    found: str | None,
    spare: Fraction | None,
    measurement: Measurement,
) -> GateResult:
    """Return the result of a gate on accuracy. spare is what is left to the limit, negative when it is missed."""
    if found is None or spare is None:
        passed, margin = False, "the checkpoint has no such accuracy"
    elif not measurement.parity.equal_to_host:
        passed, margin = False, "void: outputs differ from the host's"
    else:
        passed, margin = spare >= 0, _margin(spare, wording.points(float(spare)))
    kind = Kind.MEASURED_HOST
    return GateResult(
        name=name,
        title=title,
        wanted=wanted,
        found=found or "not measured",
        kind=kind,
        outcome=_outcome(passed),
        margin=margin,
    )


def _size(limit_kb: float, manifest: Manifest) -> GateResult:
    limit = _exact(limit_kb) * 1024
    spare = limit - manifest.sizes.model_bytes
    return GateResult(
        name="max_size_kb",
        title="Model file",
        wanted=f"at most {wording.size(float(limit))}",
        found=wording.size(manifest.sizes.model_bytes),
        kind=Kind.ARTEFACT,
        outcome=_outcome(spare >= 0),
        margin=_margin(spare, wording.size(abs(float(spare)))),
    )


def _measured(
    name: Literal["max_latency_p90_ms", "max_peak_memory_kb"],
    title: str,
    figure: str,
    limit: Fraction,
    words: Callable[[float], str],
    measurement: Measurement,
) -> GateResult:
    """Return the result of a gate on a figure that must have been measured: limit and figure in the figure's unit."""
    found = measurement.figures.get(figure)
    wanted = f"at most {words(float(limit))}"
    if found is None or found.kind not in (Kind.MEASURED_BOARD, Kind.MEASURED_HOST):
        margin = f"{wording.engine(measurement.device)}: nothing was measured"
        kind = observed(measurement.device)
        return GateResult(
            name=name, title=title, wanted=wanted, found="–", kind=kind, outcome="not judged", margin=margin
        )
    spare = limit - Fraction(found.value)
    return GateResult(
        name=name,
        title=title,
        wanted=wanted,
        found=words(found.value),
        kind=found.kind,
        outcome=_outcome(spare >= 0),
        margin=_margin(spare, words(abs(float(spare)))),
    )


def _margin(spare: Fraction, amount: str) -> str:
    if not spare:
        return "exactly met"
    return f"{amount} to spare" if spare > 0 else f"missed by {amount}"


def _float(manifest: Manifest) -> Accuracy | None:
    return next((accuracy for accuracy in manifest.accuracy if accuracy.what == "float" and accuracy.n), None)


def _share(accuracy: Accuracy) -> Fraction:
    return Fraction(accuracy.correct, accuracy.n)


def _exact(limit: float) -> Fraction:
    """Return the decimal number that was written: 0.01, not the nearest binary fraction."""
    return Fraction(str(limit))
