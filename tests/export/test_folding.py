"""Folding keeps a channel's meaning, and proves that no accumulator overflows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.folding import LARGEST_BIAS, Affine, fold
from msq.errors import LoweringError

reals = st.floats(-3, 3, allow_nan=False, width=32)
positive = st.floats(1 / 64, 3, width=32)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@settings(max_examples=60, deadline=None)
@given(
    gamma=reals, beta=reals, mean=reals, variance=positive, own=reals, sums=st.integers(-50_000, 50_000), scale=positive
)
def test_folded_scale_and_bias_mean_what_bias_and_batch_norm_mean(gamma, beta, mean, variance, own, sums, scale):
    affine = Affine.of_bias(1, column(own)).then_batch_norm(
        column(gamma), column(beta), column(mean), column(variance), 1e-5
    )
    integers, weight_scale, input_scale = np.ones((1, 8), np.int8), column(scale / 100), 0.02
    folded, bias = fold(integers, weight_scale, affine, input_scale, "conv")
    real = sums * input_scale * float(weight_scale[0]) + float(np.float32(own))
    expected = (real - float(np.float32(mean))) / np.sqrt(float(np.float32(variance)) + 1e-5) * gamma + beta
    step = input_scale * abs(float(folded[0]))
    found = (sums + int(bias[0])) * input_scale * float(folded[0])
    assert abs(found - expected) <= 0.5 * step + 1e-4 * (1 + abs(expected))


def test_a_negative_gain_gives_a_negative_scale():
    affine = Affine(np.array([-2.0]), np.array([1.0]))
    scale, bias = fold(np.ones((1, 4), np.int8), column(0.5), affine, 0.1, "conv")
    assert scale.tolist() == [-1.0]
    assert bias.tolist() == [-10]


@pytest.mark.parametrize("gain", [0.0, 1e-30, -1e-12])
@pytest.mark.parametrize("offset", [0.0, 0.7, -1e3])
def test_a_dead_channel_is_its_offset(gain: float, offset: float):
    affine = Affine(np.array([gain]), np.array([offset]))
    scale, bias = fold(np.full((1, 9), 7, np.int8), column(0.01), affine, 0.05, "conv")
    assert abs(int(bias[0])) <= LARGEST_BIAS + 64
    assert np.isfinite(scale).all()
    assert (bias * 0.05 * scale.astype(np.float64))[0] == pytest.approx(offset, rel=1e-6)
    products = 255 * 7 * 9 * 0.05
    assert products * abs(float(scale[0])) <= products * abs(gain) * 0.011 + 1e-4 * abs(offset) + 1e-20


def test_sums_that_could_overflow_are_refused_by_module_path():
    integers = np.full((1, 70_000), -128, np.int8)
    with pytest.raises(LoweringError, match=r"layer4\.fc: .*int32"):
        fold(integers, column(0.01), Affine.of_bias(1, None), 0.1, "layer4.fc")


def test_a_gain_beyond_float32_is_refused_by_module_path():
    affine = Affine(np.array([1e39]), np.array([0.0]))
    with pytest.raises(LoweringError, match=r"layer1\.conv: .*beyond float32"):
        fold(np.ones((1, 1), np.int8), column(10.0), affine, 0.1, "layer1.conv")


def test_a_scale_that_is_not_finite_is_refused_by_module_path():
    affine = Affine(np.array([np.nan]), np.array([0.0]))
    with pytest.raises(LoweringError, match=r"layer1\.conv: .*not finite"):
        fold(np.ones((1, 1), np.int8), column(1), affine, 0.1, "layer1.conv")
