"""Golden vectors: what a device computed beside what the oracle and the exporting host did.

Standard library, numpy and the integer model only: it runs on the device where that has Python.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError
from msq.integer_model import IntegerModel
from msq.nodes import Dequantize

GOLDEN_FILE = "golden.npz"
"""As in msq.bundle, whose schema needs more than a board has."""


@dataclass(frozen=True)
class Golden:
    """The bundle's golden vectors, compared on this device; see msq.measurement.TensorParity."""

    tensors: int
    values: int
    equal_to_host: bool
    equal_to_oracle: bool
    max_lsb_to_oracle: int
    differing: dict[str, int] = field(default_factory=dict)


def compare(tensors: Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]], bundle: Path) -> Golden:
    """Have the golden input run and compare every int8 tensor and the output with the oracle's and the host's.

    A difference of a float output counts in steps of the grid that it was dequantized from, rounded up.

    Args:
        tensors: gives the tensors that the runtime makes of images, by name; see runtimes.Session.tensors.
        bundle: folder with the integer model and the golden vectors.
    Raises:
        BundleError: golden vectors are missing or of another shape than the runtime's tensors.
    """
    model = IntegerModel.load(bundle)
    producer = {node.output: node for node in model.nodes}
    with np.load(bundle / GOLDEN_FILE) as archive:
        golden = {name: archive[name] for name in archive.files}
    found = tensors(golden["input"])
    oracle = {name.removeprefix("oracle/"): value for name, value in golden.items() if name.startswith("oracle/")}
    differing: dict[str, int] = {}
    equal_to_host = True
    for name, wanted in oracle.items():
        if name not in producer or name not in found or found[name].shape != wanted.shape:
            raise BundleError(
                f"{bundle / GOLDEN_FILE}: tensor {name!r} does not fit the bundle's model",
                hint="export the model again",
            )
        node = producer[name]
        step = model.tensors[node.inputs[0]].scale if isinstance(node, Dequantize) else 1.0
        equal_to_host &= _equal(found[name], golden.get(f"host/{name}", wanted))
        if not _equal(found[name], wanted):
            largest = np.abs(found[name].astype(np.float64) - wanted.astype(np.float64)).max() / step
            # A difference far below a step still is one.
            lsb = max(1, ceil(largest - 1e-3))
            differing[node.kind] = max(lsb, differing.get(node.kind, 0))
    return Golden(
        tensors=len(oracle),
        values=sum(value.size for value in oracle.values()),
        equal_to_host=equal_to_host,
        equal_to_oracle=not differing,
        max_lsb_to_oracle=max(differing.values(), default=0),
        differing=differing,
    )


def _equal(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Say whether two arrays hold the same bits."""
    return found.dtype == wanted.dtype and found.tobytes() == wanted.tobytes()
