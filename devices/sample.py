"""Sampling of test images: how many are enough, and which ones."""

from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from msq.provenance import Z95


def enough(share: float, margin: float = 0.01) -> int:
    """Return how many images give a share of right answers within ± margin at 95 %, for an expected share p.

    The least n for which Wilson's interval is at most 2 · margin wide, from that width set equal:
    n = z² · (d + √(d² + m² − 4m⁴)) / 2m² with d = p(1 − p) − 2m². It is near z² · p(1 − p) / m² unless p is near
    0 or 1, where that would ask for too few.
    """
    spread = share * (1 - share) - 2 * margin**2
    return ceil(Z95**2 * (spread + sqrt(spread**2 + margin**2 - 4 * margin**4)) / (2 * margin**2))


def choose(total: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return `wanted` different indices below `total` at random, sorted; all of them when it has no more.

    The same seed gives the same indices.
    """
    if wanted >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, wanted, replace=False))
