"""Shares come with the interval that their number of samples allows."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.provenance import Z95, Kind, proportion


@given(n=st.integers(1, 10_000), data=st.data())
def test_the_limits_are_the_shares_from_which_the_observed_one_is_z_deviations_away(
    n: int, data: st.DataObject
) -> None:
    found = proportion(data.draw(st.integers(0, n)), n, Kind.EMULATED)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    for limit in (found.low, found.high):
        if 0 < limit < 1:
            assert abs(found.value - limit) == pytest.approx(Z95 * sqrt(limit * (1 - limit) / n), abs=1e-9)


def test_the_interval_is_the_published_one() -> None:
    # R: binom::binom.confint(15, 50, methods = "wilson")
    found = proportion(15, 50, Kind.EMULATED)
    assert (found.low, found.high) == pytest.approx((0.1910, 0.4375), abs=1e-4)
