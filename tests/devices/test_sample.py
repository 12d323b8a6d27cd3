import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.sample import choose, enough
from msq.provenance import Kind, proportion


@given(total=st.integers(1, 3000), wanted=st.integers(1, 4000), seed=st.integers(0, 9))
def test_the_sample_holds_different_images_in_order_and_all_when_there_are_too_few(total, wanted, seed):
    found = choose(total, wanted, seed)
    assert len(found) == min(total, wanted)
    assert (np.diff(found) > 0).all()
    assert found[0] >= 0 and found[-1] < total
    assert (found == choose(total, wanted, seed)).all()


def test_other_seeds_draw_other_samples():
    assert (choose(1000, 100, 0) != choose(1000, 100, 1)).any()


@given(share=st.floats(0, 1), margin=st.sampled_from([0.005, 0.01, 0.05]))
def test_enough_images_bound_the_share_to_the_margin_and_far_fewer_do_not(share, margin):
    def half_width(n: int) -> float:
        found = proportion(share * n, n, Kind.EMULATED)
        assert found.low is not None and found.high is not None
        return (found.high - found.low) / 2

    n = enough(share, margin)
    assert half_width(n) <= margin + 1e-9
    assert half_width(n - 1) > margin - 1e-9


def test_nine_in_ten_right_takes_about_3500_images():
    assert enough(0.9) == pytest.approx(1.96**2 * 0.9 * 0.1 / 0.01**2, rel=0.005)
