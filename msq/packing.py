"""The packed weight layout: b-bit codes in 64-byte atoms, the same on disk and in memory, on x86 and aarch64.

This plain-numpy packer and unpacker is the specification that every kernel is tested against.

A layer's codes are a matrix of N outputs × K inputs (K runs over kernel row, kernel column, input channel).
It is cut into panels of 16 outputs, and each panel into blocks of 32 inputs; the last ones are filled up with
code 0. A block of width b is exactly b atoms of 64 bytes: 16 · 32 · b bits. Blocks of one panel follow one
another, then comes the next panel.

Within a block the 32 inputs form 8 groups of 4. Byte j of an atom belongs to output j // 4 of the panel and
to input j % 4 of a group: the operand order of vpdpbusd and sdot. A byte holds one plane of several groups:

    width b   planes (bits of the code, from the lowest)      atoms of a block
    8         8                                               one per group
    1..7      4 if b has bit 4, 2 if it has bit 2, 1 if 1     p atoms for a plane of p bits, in that order

In a plane of p bits, atom t holds groups t·(8/p) … (t+1)·(8/p) − 1, the first in its lowest p bits. A width-7
code is therefore low 4 bits | middle 2 bits << 4 | top bit << 6. Width 0 stores nothing.
"""

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError

PANEL = 16
"""Outputs of a panel."""
BLOCK = 32
"""Inputs of a block."""
ATOM = 64
"""Bytes of an atom: one AVX-512 register, or four consecutive NEON registers."""
GROUP = 4
"""Inputs of a group: the products that one 32-bit lane of a dot instruction sums."""
GROUPS = BLOCK // GROUP

Bytes = NDArray[np.uint8]


def planes(bits: int) -> tuple[int, ...]:
    """Return the plane widths of a code of `bits` (0..8), from the plane of its lowest bits upwards.

    Raises:
        BundleError: bits is not in 0..8.
    """
    if not 0 <= bits <= 8:
        raise BundleError(f"weight width {bits} is not in 0..8")
    return (8,) if bits == 8 else tuple(width for width in (4, 2, 1) if bits & width)


def packed_size(outputs: int, inputs: int, bits: int) -> int:
    """Return the bytes that a matrix of outputs × inputs codes of `bits` takes, filling included."""
    panels = -(-outputs // PANEL)
    blocks = -(-inputs // BLOCK)
    return panels * blocks * bits * ATOM


def pack(codes: Bytes, bits: int) -> Bytes:
    """Pack a matrix of codes.

    Args:
        codes: uint8, shape (N, K), every code in [0, 2^bits − 1].
        bits: width, 0..8. With 0 every code must be 0.
    Returns:
        uint8, shape (packed_size(N, K, bits),).
    Raises:
        BundleError: the width is not in 0..8, or a code does not fit it.
    """
    widths = planes(bits)
    outputs, inputs = codes.shape
    if codes.size and int(codes.max()) >= 1 << bits:
        raise BundleError(f"code {int(codes.max())} does not fit {bits} bits")
    panels, blocks = -(-outputs // PANEL), -(-inputs // BLOCK)
    filled = np.zeros((panels * PANEL, blocks * BLOCK), np.uint8)
    filled[:outputs, :inputs] = codes
    # → (panel, block, group, byte of the atom)
    grouped = filled.reshape(panels, PANEL, blocks, GROUPS, GROUP).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(panels, blocks, GROUPS, ATOM)
    atoms, low = [], 0
    for width in widths:
        plane = (grouped >> low) & ((1 << width) - 1)
        fields = plane.reshape(panels, blocks, width, 8 // width, ATOM)
        shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(-1, 1)
        atoms.append(np.bitwise_or.reduce(fields << shifts, axis=3).astype(np.uint8))
        low += width
    if not atoms:
        return np.zeros(0, np.uint8)
    return np.ascontiguousarray(np.concatenate(atoms, axis=2)).reshape(-1)


def unpack(packed: Bytes, outputs: int, inputs: int, bits: int) -> Bytes:
    """Return the codes that `pack` packed.

    Args:
        packed: uint8, shape (packed_size(outputs, inputs, bits),).
        outputs: N. inputs: K. bits: width, 0..8.
    Returns:
        uint8, shape (N, K).
    Raises:
        BundleError: the width is not in 0..8, or `packed` has another size.
    """
    widths = planes(bits)
    wanted = packed_size(outputs, inputs, bits)
    if packed.size != wanted:
        raise BundleError(
            f"packed weights hold {packed.size} bytes; {outputs} × {inputs} at {bits} bits takes {wanted}"
        )
    panels, blocks = -(-outputs // PANEL), -(-inputs // BLOCK)
    atoms = packed.reshape(panels, blocks, bits, ATOM)
    grouped = np.zeros((panels, blocks, GROUPS, ATOM), np.uint8)
    first, low = 0, 0
    for width in widths:
        shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(-1, 1)
        fields = (atoms[:, :, first : first + width, None, :] >> shifts) & ((1 << width) - 1)
        grouped |= (fields << low).reshape(panels, blocks, GROUPS, ATOM).astype(np.uint8)
        first, low = first + width, low + width
    matrix = grouped.reshape(panels, blocks, GROUPS, PANEL, GROUP).transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(matrix.reshape(panels * PANEL, blocks * BLOCK)[:outputs, :inputs])
