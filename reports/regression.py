"""Regression gates: whether a measurement is worse than a released one by more than the recipe allows.

Judged by what was found, not by the end of an interval; but a difference that the raw samples do not bear out fails
nothing, and is not passed either: it is not judged. Nor is what is of another kind, or was measured otherwise.
"""

from collections.abc import Iterator
from fractions import Fraction

from msq.measurement import Measurement
from msq.recipe import Regression
from reports import wording
from reports.compare import HIGHER_IS_BETTER, Change, changes
from reports.figures import observed
from reports.gates import GateResult

FIGURES = {
    "top1": ("host_top1", "Top-1 beside the release"),
    "latency": ("latency_p90", "Latency beside the release, p90"),
    "peak_memory": ("peak_memory", "Peak memory beside the release"),
    "size": ("model_bytes", "Model file beside the release"),
}
"""Keys of a recipe's max_regression, the figures that they are about, and their titles."""


def evaluate(limits: Regression, measurement: Measurement, baseline: Measurement | None) -> Iterator[GateResult]:
    """Yield the result of each limit that is set; baseline is of the same model, device and runtime."""
    found, apart = changes([baseline], [measurement]) if baseline else ([], [])
    known = {change.figure: change for change in found}
    reasons = {one.figure: one.why for one in apart}
    for key, limit in limits.model_dump(exclude_none=True).items():
        figure, title = FIGURES[key]
        allowed = wording.points(limit) if figure in HIGHER_IS_BETTER else wording.percent(limit)
        result = GateResult(
            name=f"max_regression.{key}",
            title=title,
            wanted=f"at most {allowed} worse",
            found="–",
            kind=observed(measurement.device),
            outcome="not judged",
            margin="no earlier release in the store; --baseline names one"
            if baseline is None
            else reasons.get(figure, "neither measurement has it"),
        )
        yield result.model_copy(update=_judged(known[figure], limit)) if figure in known else result


def _judged(change: Change, limit: float) -> dict[str, object]:
    of_shares = change.figure in HIGHER_IS_BETTER
    worse = _exact(change.base) - _exact(change.other) if of_shares else _growth(change)
    spare = Fraction(str(limit)) - worse
    words = wording.points if of_shares else wording.percent
    said = f"{words(abs(float(worse)))} {'worse' if worse > 0 else 'better'}" if worse else "as good"
    if spare >= 0:
        outcome, margin = "passed", f"{words(float(spare))} to spare" if spare else "exactly met"
    elif change.verdict == "no clear difference" and not of_shares:
        outcome, margin = "not judged", "the samples bear out no clear difference; measure longer, or in turns"
    else:
        outcome, margin = "failed", f"missed by {words(float(-spare))}"
    if change.difference and not of_shares:
        margin += f" (95 %: {change.difference.low - 1:+.1%} … {change.difference.high - 1:+.1%})"
    return {"found": said, "kind": change.kind, "outcome": outcome, "margin": margin}


def _growth(change: Change) -> Fraction:
    return Fraction(change.other) / Fraction(change.base) - 1 if change.base else Fraction(0)


def _exact(share: float) -> Fraction:
    """Return the share as the ratio of counts that it was made of: 0.917, not the nearest binary fraction."""
    return Fraction(share).limit_denominator(100_000_000)
