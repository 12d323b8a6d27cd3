"""Sampling of test images: how many are enough, which ones, and how sure the share of right answers then is."""

from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

Z = 1.959964
"""Normal quantile of a two-sided 95 % interval."""

LEAST = 400
"""Where nearly all answers are right, the normal approximation asks for too few."""


def enough(share: float, margin: float = 0.01) -> int:
    """Return how many images give a share of right answers within ± margin at 95 %.

    n = z² · p · (1 − p) / margin², for an expected share p, and at least LEAST.
    """
    return max(LEAST, ceil(Z**2 * share * (1 - share) / margin**2))


def choose(total: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return `wanted` different indices below `total` at random, sorted; all of them when it has no more.

    The same seed gives the same indices.
    """
    if wanted >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, wanted, replace=False))


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of `right` in `n` ≥ 1 trials.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    share = right / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
