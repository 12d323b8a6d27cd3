"""Significance: how far two sets of raw samples differ, with a 95 % interval and, where a test is named, its p.

Samples of one run share its luck: a process's memory layout, a processor's clock. Where A and B were run in turns,
`in_turns` compares run with run, and only that speaks of another day's run; `quantiles` speaks of the two runs it sees.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from msq.artefact import Strict
from msq.provenance import Z95, Kind, proportion

RESAMPLES = 10_000
DRIFT = 0.05
"""A run is taken to be steady while it drifts by less (docs/measuring.md): so does one run beside another."""
SEED = 0
"""The same samples give the same interval."""


class Difference(Strict):
    """What B is beside A: B − A of shares, B / A of everything else.

    p is the probability of at least such a difference if there were none; None where only an interval is given.
    """

    value: float
    low: float
    high: float
    p: float | None
    test: str
    tolerance: float = 0.0
    """A ratio that may be so near to 1, as a share, is no clear difference whatever the interval says."""


def paired_shares(a: ArrayLike, b: ArrayLike) -> Difference:
    """Return the difference of two shares of right answers to the same questions.

    Args:
        a, b: bool (n,), n ≥ 1: whether each answer was right, in the same order.
    Source: Q. McNemar (1947), as an exact binomial test; D. Bonett, R. Price (2012) for the interval.
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    n, gained, lost = len(first), int((second & ~first).sum()), int((first & ~second).sum())
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    value = (gained - lost) / n
    # The interval is around an estimate that is drawn to zero.
    low, high = max(-1.0, min(up - down - half, value)), min(1.0, max(up - down + half, value))
    return Difference(value=value, low=low, high=high, p=p, test=f"McNemar, exact, {n:,} images")


def shares(a: tuple[float, int], b: tuple[float, int]) -> Difference:
    """Return the difference of two shares of different questions, or of answers that were not kept one by one.

    Args:
        a, b: share of right answers, and of how many, ≥ 1.
    Source: R. Newcombe (1998), hybrid score interval of two independent proportions (method 10).
    """
    first, second = (proportion(share * n, n, Kind.ARTEFACT) for share, n in (a, b))
    assert first.low is not None and first.high is not None and second.low is not None and second.high is not None
    value = second.value - first.value
    low = value - math.hypot(second.value - second.low, first.high - first.value)
    high = value + math.hypot(second.high - second.value, first.value - first.low)
    return Difference(value=value, low=low, high=high, p=None, test="two proportions, Newcombe")


def quantiles(a: Sequence[float], b: Sequence[float], share: float) -> Difference:
    """Return the ratio of two quantiles with a bootstrap interval; of medians with p by the Mann-Whitney U test too.

    Args:
        a, b: samples > 0, at least one each. share: of the quantile, in (0, 1).
    """
    first, second = np.sort(np.asarray(a, np.float64)), np.sort(np.asarray(b, np.float64))
    random = np.random.default_rng(SEED)
    ratios = _resampled(second, share, random) / _resampled(first, share, random)
    low, high = np.quantile(ratios, [0.025, 0.975])
    value = second[_rank(len(second), share)] / first[_rank(len(first), share)]
    p, test = None, "bootstrap, of these two runs"
    if share == 0.5:
        # It asks whether one of two samples is longer more often than not, which says nothing of their tails.
        p, test = float(stats.mannwhitneyu(first, second).pvalue), f"Mann-Whitney U and {test}"
    return Difference(value=float(value), low=float(low), high=float(high), p=p, test=test, tolerance=DRIFT)


def in_turns(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Return the mean ratio of rounds that were run in turns, one value of A and one of B a round, ≥ 2 rounds.

    Of the logarithms, by Student's t.
    """
    logs = np.log(np.asarray(b, np.float64)) - np.log(np.asarray(a, np.float64))
    mean, error = float(logs.mean()), float(stats.sem(logs))
    if error < 1e-12:
        value = math.exp(mean)
        return Difference(value=value, low=value, high=value, p=None, test="rounds in turns, all alike")
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    p = float(stats.ttest_1samp(logs, 0.0).pvalue)
    test = f"{len(logs)} rounds in turns, paired t"
    return Difference(value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), p=p, test=test)


def _rank(count: int, share: float) -> int:
    """Return the index of the quantile among sorted samples: the nearest rank."""
    return max(0, math.ceil(count * share) - 1)


def _resampled(ordered: NDArray[np.float64], share: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the quantile of RESAMPLES bootstrap samples.

    No sample need be drawn: the k-th smallest of n uniform numbers is Beta(k, n + 1 − k), and falls on one of ours.
    """
    count, rank = len(ordered), _rank(len(ordered), share) + 1
    drawn: NDArray[np.float64] = random.beta(rank, count + 1 - rank, RESAMPLES)
    return ordered[np.minimum((drawn * count).astype(np.int64), count - 1)]
