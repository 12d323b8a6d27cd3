"""Percentiles of latency, each by a named estimator: three kinds are in use, and they differ in the tail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

CONFIDENCE = 0.99
"""Of the early-stopping estimate; MLPerf's."""
LEAST_SAMPLES = {0.95: 130, 0.99: 662}
"""Below that a percentile says nothing: as many as let one run be slower than it, with MLPerf's confidence."""


def linear(seconds: Sequence[float], quantile: float) -> float:
    """Return a quantile by linear interpolation (Hyndman and Fan 1996, type 7), as numpy does."""
    return float(np.quantile(seconds, quantile))


def indexed(seconds: Sequence[float], quantile: float) -> float:
    """Return the sample at ⌊n · q⌋ in the order of size, as LiteRT's and ONNX Runtime's own tools do."""
    return sorted(seconds)[min(int(len(seconds) * quantile), len(seconds) - 1)]


def early_stopping(seconds: Sequence[float], quantile: float) -> float | None:
    """Return the latency that a quantile is below with a confidence of 99 %; None where samples are too few.

    The largest t is found with P(X ≤ t) ≤ 1 − 0.99 for X slower runs of n, X ~ Binomial(n, 1 − q); the t − 1 slowest
    are left out, and the slowest of the rest is the estimate.

    Source: MLPerf Inference rules, appendix "Early stopping criterion", with tolerance 0.
    """
    count = len(seconds)
    # ppf is the smallest t with P(X ≤ t) ≥ 1 − 0.99.
    slower = int(binom.ppf(1 - CONFIDENCE, count, 1 - quantile))
    if binom.cdf(slower, count, 1 - quantile) > 1 - CONFIDENCE:
        slower -= 1
    return sorted(seconds)[count - slower] if slower >= 1 else None


@dataclass(frozen=True)
class Estimator:
    """How a protocol's percentiles are worked out, and what that is called."""

    estimate: Callable[[Sequence[float], float], float | None]
    name: str


ESTIMATORS = {
    "quick": Estimator(linear, "quantile by linear interpolation (Hyndman–Fan 7)"),
    "tflite-compat": Estimator(indexed, "the sample at ⌊n · q⌋"),
    "mlperf-single-stream": Estimator(early_stopping, "early-stopping estimate, 99 % confidence"),
}
"""By protocol."""


def percentiles(seconds: Sequence[float], estimator: Estimator) -> dict[int, float]:
    """Return p50, p90, p95 and p99 of latencies, without those for which there are too few samples.

    Args:
        seconds: at least one.
    """
    found: dict[int, float] = {}
    for quantile in (0.5, 0.9, 0.95, 0.99):
        if len(seconds) >= LEAST_SAMPLES.get(quantile, 1):
            value = estimator.estimate(seconds, quantile)
            if value is not None:
                found[round(100 * quantile)] = value
    return found
