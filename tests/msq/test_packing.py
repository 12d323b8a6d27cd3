"""The packed weight layout against a second implementation, written bit by bit from its description."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.errors import BundleError
from msq.packing import ATOM, pack, packed_size, planes, unpack

WIDTHS = range(9)
# Around the edges of a panel (16), a group (4) and a block (32), and some in between.
outputs = st.integers(1, 50)
inputs = st.integers(1, 100)


def codes_of(outputs: int, inputs: int, bits: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, (outputs, inputs), dtype=np.uint8)


def packed_naively(codes: np.ndarray, bits: int) -> np.ndarray:
    """The layout as its description reads, one code at a time."""
    rows, columns = codes.shape
    panels, row_groups = (rows + 15) // 16, (columns + 3) // 4
    blocks = (panels * row_groups + 7) // 8
    out = np.zeros(blocks * bits * 64, np.uint8)
    split = {0: [], 1: [1], 2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}[bits]
    for n in range(rows):
        for k in range(columns):
            group_of_layer = n // 16 * row_groups + k // 4
            block_start, group = group_of_layer // 8 * bits * 64, group_of_layer % 8
            byte = n % 16 * 4 + k % 4
            code, atom = int(codes[n, k]), 0
            for width in split:
                groups_of_a_byte = 8 // width
                position = block_start + (atom + group // groups_of_a_byte) * 64 + byte
                out[position] |= (code & ((1 << width) - 1)) << (group % groups_of_a_byte * width)
                code >>= width
                atom += width
    return out


@pytest.mark.parametrize("bits", WIDTHS)
@given(outputs=outputs, inputs=inputs, seed=st.integers(0, 2**32 - 1), depthwise=st.booleans())
def test_unpack_returns_the_codes_that_were_packed(bits, outputs, inputs, seed, depthwise):
    codes = codes_of(outputs, inputs, bits, seed)
    assert np.array_equal(unpack(pack(codes, bits, depthwise), outputs, inputs, bits, depthwise), codes)


@pytest.mark.parametrize("bits", WIDTHS)
@given(channels=outputs, taps=st.integers(1, 49), seed=st.integers(0, 2**32 - 1))
def test_a_depthwise_layer_lies_tap_by_tap_and_is_filled_by_less_than_a_block(bits, channels, taps, seed):
    codes = codes_of(channels, taps, bits, seed)
    packed = pack(codes, bits, depthwise=True)
    # As one panel of 16 outputs × 4 inputs a group whose bytes are those of the flat order.
    flat = np.zeros(-(-codes.size // 512) * 512, np.uint8)
    flat[: codes.size] = codes.T.reshape(-1)
    as_panel = flat.reshape(-1, 16, 4).transpose(1, 0, 2).reshape(16, -1)
    assert np.array_equal(packed, packed_naively(as_panel, bits))
    assert packed.nbytes == packed_size(channels, taps, bits, depthwise=True)
    assert packed.nbytes - codes.size * bits / 8 < 64 * max(bits, 1)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("shape", [(1, 1), (15, 31), (16, 32), (17, 33), (3, 100), (40, 5)])
def test_every_byte_lies_where_the_description_says(bits, shape):
    codes = codes_of(*shape, bits, seed=bits)
    assert np.array_equal(pack(codes, bits), packed_naively(codes, bits))


@pytest.mark.parametrize("bits", WIDTHS)
@given(outputs=outputs, inputs=inputs)
def test_the_size_is_that_of_whole_blocks_of_the_width(bits, outputs, inputs):
    size = packed_size(outputs, inputs, bits)
    assert size == pack(codes_of(outputs, inputs, bits, 0), bits).size
    groups = -(-outputs // 16) * -(-inputs // 4)
    assert size == -(-groups // 8) * bits * ATOM
    if outputs % 16 == 0 and inputs % 4 == 0:
        assert size * 8 - outputs * inputs * bits < 512 * max(bits, 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_planes_of_a_width_hold_exactly_its_bits(bits):
    assert sum(planes(bits)) == bits


@pytest.mark.parametrize("bits", range(8))
def test_a_code_that_does_not_fit_its_width_is_refused(bits):
    codes = np.zeros((2, 3), np.uint8)
    codes[1, 2] = 1 << bits
    with pytest.raises(BundleError, match=f"does not fit {bits} bits"):
        pack(codes, bits)


@pytest.mark.parametrize("bits", [-1, 9])
def test_a_width_out_of_range_is_refused(bits):
    with pytest.raises(BundleError, match=r"not in 0\.\.8"):
        pack(np.zeros((1, 1), np.uint8), bits)
    with pytest.raises(BundleError, match=r"not in 0\.\.8"):
        unpack(np.zeros(0, np.uint8), 1, 1, bits)


def test_packed_weights_of_another_size_are_refused():
    packed = pack(codes_of(20, 40, 3, 0), 3)
    with pytest.raises(BundleError, match="20 × 40 at 3 bits"):
        unpack(packed[:-1], 20, 40, 3)
