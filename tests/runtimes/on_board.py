"""Runs on an emulated board: every tier that it has, over cases whose results the host worked out."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from msq.errors import DeviceError
from runtimes._kernels import Kernels, Layer, Threads, aligned


def at_home(weight):
    """Return a weight whose packed bytes lie at a multiple of 64."""
    packed = aligned(weight.packed.nbytes)[: weight.packed.nbytes]
    packed[:] = weight.packed
    return replace(weight, packed=packed)


def main() -> None:
    library = Kernels(Path("libmsq_kernels.so").resolve())
    cases, arithmetic, products = pickle.loads(Path("cases.pickle").read_bytes())
    threads = Threads(2, library)
    for tier in library.built_tiers():
        try:
            library.use_tier(tier)
        except DeviceError:
            continue
        for index, (node, source, out, x, sums, y, residual, total) in enumerate(cases):
            layer = Layer(replace(node, weight=at_home(node.weight)), source, out, library)
            runs = [
                (sums, layer.run(x, sums=True)),
                (y, layer.run(x, threads=threads)),
                (total, layer.run(x, residual=residual)),
            ]
            for wanted, found in runs:
                if not np.array_equal(found, wanted):
                    sys.exit(f"{tier}: case {index} differs: {node}")
        for node, operands, grids, out, wanted in arithmetic:
            if not np.array_equal(library.combine(node, *operands, grids, out), wanted):
                sys.exit(f"{tier}: it differs: {node} of {[codes.size for codes in operands]}")
        for node, p, q, grids, out, wanted in products:
            if not np.array_equal(library.matmul(node, p, q, grids, out, threads), wanted):
                sys.exit(f"{tier}: it differs: {node} of {p.shape} and {q.shape}")
        print(tier)


main()
