"""The packed weight layout: b-bit codes in 64-byte atoms, the same on disk and in memory, on x86 and aarch64.

This plain-numpy packer and unpacker is the specification that every kernel is tested against.

Codes lie in groups of 64, and a layer's groups follow one another. Which codes make a group:

    dense       A layer is a matrix of N outputs × K inputs (K runs over kernel row, kernel column, input channel), cut
                into panels of 16 outputs and groups of 4 inputs, both filled up with code 0. Byte j of a group is
                output j // 4 of the panel and input j % 4: the operand order of vpdpbusd and sdot. The groups of one
                panel follow one another, then come those of the next panel.
    depthwise   A layer of one input channel an output is a matrix of taps × channels, read row by row: 64 codes a
                group, whatever row they are of, filled up at the end.

8 groups make a block, the last one filled up with code 0; a panel may begin within a block. A block of width b is
exactly b atoms of 64 bytes: 512 · b bits. A byte of an atom holds one plane of several groups:

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
GROUP = 4
"""Inputs of a group: the products that one 32-bit lane of a dot instruction sums."""
ATOM = 64
"""Bytes of an atom: one AVX-512 register, or four consecutive NEON registers. Also the codes of a group."""
GROUPS = 8
"""Groups of a block."""

Bytes = NDArray[np.uint8]


def planes(bits: int) -> tuple[int, ...]:
    """Return the plane widths of a code of `bits` (0..8), from the plane of its lowest bits upwards.

    Raises:
        BundleError: bits is not in 0..8.
    """
    if not 0 <= bits <= 8:
        raise BundleError(f"weight width {bits} is not in 0..8")
    return (8,) if bits == 8 else tuple(width for width in (4, 2, 1) if bits & width)


def packed_size(outputs: int, inputs: int, bits: int, depthwise: bool = False) -> int:
    """Return the bytes that a matrix of outputs × inputs codes of `bits` takes, filling included."""
    groups = -(-outputs * inputs // ATOM) if depthwise else -(-outputs // PANEL) * -(-inputs // GROUP)
    return -(-groups // GROUPS) * bits * ATOM


def pack(codes: Bytes, bits: int, depthwise: bool = False) -> Bytes:
    """Pack a matrix of codes.

    Args:
        codes: uint8, shape (N, K), every code in [0, 2^bits − 1].
        bits: width, 0..8. With 0 every code must be 0.
        depthwise: the layout of a layer whose outputs have one input channel each; K counts its taps.
    Returns:
        uint8, shape (packed_size(N, K, bits, depthwise),).
    Raises:
        BundleError: the width is not in 0..8, or a code does not fit it.
    """
    widths = planes(bits)
    if codes.size and int(codes.max()) >= 1 << bits:
        raise BundleError(f"code {int(codes.max())} does not fit {bits} bits")
    groups = _channel_groups(codes) if depthwise else _panel_groups(codes)
    blocks = -(-len(groups) // GROUPS)
    filled = np.zeros((blocks * GROUPS, ATOM), np.uint8)
    filled[: len(groups)] = groups
    atoms, low = [np.zeros((blocks, 0, ATOM), np.uint8)], 0
    for width in widths:
        fields = ((filled >> low) & ((1 << width) - 1)).reshape(blocks, width, 8 // width, ATOM)
        shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(-1, 1)
        atoms.append(np.bitwise_or.reduce(fields << shifts, axis=2).astype(np.uint8))
        low += width
    return np.ascontiguousarray(np.concatenate(atoms, axis=1)).reshape(-1)


def _panel_groups(codes: Bytes) -> Bytes:
    """Return the groups of a matrix of (outputs, inputs), (groups, 64)."""
    outputs, inputs = codes.shape
    panels, groups = -(-outputs // PANEL), -(-inputs // GROUP)
    filled = np.zeros((panels * PANEL, groups * GROUP), np.uint8)
    filled[:outputs, :inputs] = codes
    return filled.reshape(panels, PANEL, groups, GROUP).transpose(0, 2, 1, 3).reshape(-1, ATOM)


def _channel_groups(codes: Bytes) -> Bytes:
    """Return the groups of a matrix of (channels, taps), (groups, 64), tap by tap."""
    filled = np.zeros(-(-codes.size // ATOM) * ATOM, np.uint8)
    filled[: codes.size] = codes.T.reshape(-1)
    return filled.reshape(-1, ATOM)


def unpack(packed: Bytes, outputs: int, inputs: int, bits: int, depthwise: bool = False) -> Bytes:
    """Return the codes that `pack` packed.

    Args:
        packed: uint8, shape (packed_size(outputs, inputs, bits, depthwise),).
        outputs: N. inputs: K. bits: width, 0..8. depthwise: as they were packed.
    Returns:
        uint8, shape (N, K).
    Raises:
        BundleError: the width is not in 0..8, or `packed` has another size.
    """
    widths = planes(bits)
    wanted = packed_size(outputs, inputs, bits, depthwise)
    if packed.size != wanted:
        raise BundleError(
            f"packed weights hold {packed.size} bytes; {outputs} × {inputs} at {bits} bits takes {wanted}"
        )
    blocks = packed_size(outputs, inputs, 1, depthwise) // ATOM
    atoms = packed.reshape(blocks, bits, ATOM)
    groups = np.zeros((blocks, GROUPS, ATOM), np.uint8)
    first, low = 0, 0
    for width in widths:
        shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(-1, 1)
        fields = (atoms[:, first : first + width, None, :] >> shifts) & ((1 << width) - 1)
        groups |= (fields << low).reshape(blocks, GROUPS, ATOM).astype(np.uint8)
        first, low = first + width, low + width
    if depthwise:
        return np.ascontiguousarray(groups.reshape(-1)[: outputs * inputs].reshape(inputs, outputs).T)
    panels, row = -(-outputs // PANEL), -(-inputs // GROUP)
    matrix = groups.reshape(-1, ATOM)[: panels * row].reshape(panels, row, PANEL, GROUP).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(matrix.reshape(panels * PANEL, row * GROUP)[:outputs, :inputs])
