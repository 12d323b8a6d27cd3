"""Percentiles beside what numpy and MLPerf's published numbers say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.quantiles import ESTIMATORS, early_stopping, indexed, linear, percentiles

SECONDS = st.lists(st.floats(1e-6, 10), min_size=1, max_size=800)
QUANTILES = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@given(SECONDS, QUANTILES)
def test_an_estimate_is_between_the_smallest_and_the_largest_and_does_not_depend_on_order(seconds, quantile):
    for estimate in (linear, indexed, early_stopping):
        found = estimate(seconds, quantile)
        assert found == estimate(sorted(seconds, reverse=True), quantile)
        assert found is None or min(seconds) <= found <= max(seconds)


@given(SECONDS)
def test_the_index_is_the_published_one(seconds):
    assert indexed(seconds, 0.9) == np.sort(seconds)[int(len(seconds) * 0.9)]


@pytest.mark.parametrize(("quantile", "least"), [(0.9, 64), (0.95, 130), (0.99, 662)])
def test_early_stopping_needs_as_many_queries_as_mlperf_says(quantile: float, least: int):
    assert early_stopping([1.0] * (least - 1), quantile) is None
    # With as many as that, no run may be left out.
    seconds = list(range(1, least + 1))
    assert early_stopping(seconds, quantile) == least


@given(st.integers(64, 3000), st.integers(0, 2**32 - 1))
def test_early_stopping_is_at_least_as_careful_as_the_sample_quantile(count: int, seed: int):
    seconds = np.random.default_rng(seed).exponential(size=count).tolist()
    found = early_stopping(seconds, 0.9)
    assert found is not None and found >= np.quantile(seconds, 0.9, method="lower")


def test_early_stopping_is_above_the_true_quantile_as_often_as_it_says():
    random, true = np.random.default_rng(0), -np.log(0.1)
    above = [early_stopping(random.exponential(size=500), 0.9) >= true for _ in range(2000)]
    assert np.mean(above) > 0.985


@pytest.mark.parametrize("name", ESTIMATORS)
def test_percentiles_that_too_few_samples_say_nothing_of_are_left_out(name: str):
    assert set(percentiles([0.1] * 661, ESTIMATORS[name])) == {50, 90, 95}
    assert set(percentiles([0.1] * 662, ESTIMATORS[name])) == {50, 90, 95, 99}
    assert set(percentiles([0.1] * 129, ESTIMATORS[name])) == {50, 90}
    assert 99 not in percentiles([0.1], ESTIMATORS[name])
