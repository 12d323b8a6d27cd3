"""Golden vectors: what a device computed beside what the oracle and the exporting host did.

Standard library, numpy and the integer model only: it runs on the device where that has Python.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError
from msq.integer_model import IntegerModel
from msq.nodes import Dequantize, Tensor

GOLDEN_FILE = "golden.npz"
"""As in msq.bundle, whose schema needs more than a board has."""
TINY = 1e-30
"""Power that keeps a ratio finite where there is no signal, or a difference of signs of zero."""


@dataclass(frozen=True)
class TensorDifference:
    """A tensor beside the oracle's, over all golden images.

    sqnr_db: 10 · log10 of the oracle's power over the difference's, after dequantization; None where nothing differs.
    """

    name: str
    kind: str
    """Of the node that makes it."""
    values: int
    max_lsb: int
    sqnr_db: float | None


@dataclass(frozen=True)
class Golden:
    """The bundle's golden vectors, compared; see msq.measurement.TensorParity."""

    tensors: list[TensorDifference]
    equal_to_host: bool
    images: int
    agreeing: int
    """Images that get the oracle's class."""

    @property
    def values(self) -> int:
        """Values that were compared."""
        return sum(tensor.values for tensor in self.tensors)

    @property
    def max_lsb_to_oracle(self) -> int:
        """The largest difference."""
        return max((tensor.max_lsb for tensor in self.tensors), default=0)

    @property
    def differing(self) -> dict[str, int]:
        """Kind of node → largest difference in LSB, of those that differ."""
        found: dict[str, int] = {}
        for tensor in self.tensors:
            if tensor.max_lsb:
                found[tensor.kind] = max(tensor.max_lsb, found.get(tensor.kind, 0))
        return found


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
    differences: list[TensorDifference] = []
    equal_to_host = True
    for name, wanted in oracle.items():
        if name not in producer or name not in found or found[name].shape != wanted.shape:
            raise BundleError(
                f"{bundle / GOLDEN_FILE}: tensor {name!r} does not fit the bundle's model",
                hint="export the model again",
            )
        node = producer[name]
        grid = model.tensors[node.inputs[0] if isinstance(node, Dequantize) else name]
        equal_to_host &= _equal(found[name], golden.get(f"host/{name}", wanted))
        lsb, sqnr = 0, None
        if not _equal(found[name], wanted):
            lsb, sqnr = _distance(found[name], wanted, grid)
        differences.append(TensorDifference(name, node.kind, wanted.size, lsb, sqnr))
    wanted, actual = (x[model.output].reshape(len(golden["input"]), -1).argmax(axis=1) for x in (oracle, found))
    return Golden(differences, equal_to_host, len(wanted), int((wanted == actual).sum()))


def _distance(found: NDArray[Any], wanted: NDArray[Any], grid: Tensor) -> tuple[int, float]:
    """Return the largest difference in steps of a grid, and the ratio of signal and difference in dB."""
    is_float = wanted.dtype == np.float32
    signal = wanted.astype(np.float64) - (0 if is_float else grid.zero_point)
    noise = found.astype(np.float64) - wanted.astype(np.float64)
    largest = np.abs(noise).max() / (grid.scale if is_float else 1.0)
    decibels = 10 * (np.log10((signal**2).sum() + TINY) - np.log10((noise**2).sum() + TINY))
    # A difference far below a step still is one.
    return max(1, ceil(largest - 1e-3)), float(decibels)


def _equal(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    """Say whether two arrays hold the same bits."""
    return found.dtype == wanted.dtype and found.tobytes() == wanted.tobytes()
