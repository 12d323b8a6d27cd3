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
    panels, blocks = (rows + 15) // 16, (columns + 31) // 32
    out = np.zeros(panels * blocks * bits * 64, np.uint8)
    split = {0: [], 1: [1], 2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}[bits]
    for n in range(rows):
        for k in range(columns):
            block_start = (n // 16 * blocks + k // 32) * bits * 64
            byte = n % 16 * 4 + k % 4
            group = k % 32 // 4
            code, atom = int(codes[n, k]), 0
            for width in split:
                groups_of_a_byte = 8 // width
                position = block_start + (atom + group // groups_of_a_byte) * 64 + byte
                out[position] |= (code & ((1 << width) - 1)) << (group % groups_of_a_byte * width)
                code >>= width
                atom += width
    return out


@pytest.mark.parametrize("bits", WIDTHS)
@given(outputs=outputs, inputs=inputs, seed=st.integers(0, 2**32 - 1))
def test_unpack_returns_the_codes_that_were_packed(bits, outputs, inputs, seed):
    codes = codes_of(outputs, inputs, bits, seed)
    assert np.array_equal(unpack(pack(codes, bits), outputs, inputs, bits), codes)


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
    assert size == -(-outputs // 16) * -(-inputs // 32) * bits * ATOM
    if outputs % 16 == 0 and inputs % 32 == 0:
        assert size * 8 == outputs * inputs * bits


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
