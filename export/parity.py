"""Parity: what a runtime computes, against the oracle; and what the oracle computes, against the trained program."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msq.bundle import Fidelity, Parity
from msq.errors import ParityError
from msq.integer_model import IntegerModel

Array = NDArray[Any]

ALLOWED_LSB = 1
"""A runtime's stock operators may round once more than the oracle."""
PLAUSIBLE_AGREEMENT = 0.9
"""Rounding turns the class of a few images; a mistake of capture that of most."""
ENOUGH_IMAGES = 64
"""Fewer images say too little about agreement."""


def parity(model: IntegerModel, oracle: Mapping[str, Array], found: Mapping[str, Array]) -> Parity:
    """Compare a runtime's tensors with the oracle's.

    Args:
        model: what both ran. oracle, found: every int8 tensor and the output by name, batch first.
    Raises:
        ParityError: a tensor is missing, has another shape, or differs by more than 1 LSB; the first such is named.
    """
    largest, values, differing = 0, 0, dict[str, int]()
    for node in model.nodes:
        expected, actual = oracle[node.output], found.get(node.output)
        if actual is None or actual.shape != expected.shape:
            shape = "missing" if actual is None else f"of shape {actual.shape}"
            raise ParityError(f"{node.name} ({node.kind}): its result is {shape}, the oracle's of {expected.shape}")
        distance = lsb(model, node.output, expected, actual)
        if distance > ALLOWED_LSB:
            raise ParityError(
                f"{node.name} ({node.kind}) differs from the oracle by {distance} LSB in this runtime",
                hint="an x86 processor without VNNI lets sums saturate where weights exceed ±64: export on another "
                "machine; otherwise report the operator with its shapes",
            )
        if distance:
            differing[node.kind] = max(distance, differing.get(node.kind, 0))
        largest, values = max(largest, distance), values + expected.size
    return Parity(tensors=len(model.nodes), values=values, max_lsb=largest, differing=differing)


def fidelity(model: IntegerModel, trained: Array, integer: Array) -> Fidelity:
    """Compare the integer model's outputs with the trained program's, both float32 (n, classes).

    Raises:
        ParityError: over 64 images or more, less than 90 % get the same class.
    """
    return _agreement(
        model,
        (trained, integer),
        "the integer model and the trained program",
        hint="the program does not mean what export read from it; report the model",
    )


def whole(model: IntegerModel, oracle: Array, found: Array) -> Fidelity:
    """Compare the outputs of a runtime that rounds in its own way with the oracle's, both float32 (n, classes).

    Raises:
        ParityError: over 64 images or more, less than 90 % get the same class.
    """
    return _agreement(
        model,
        (oracle, found),
        "the runtime and the oracle",
        hint="differences of one step at every operator add up too far here: choose a runtime that is exact",
    )


def _agreement(model: IntegerModel, outputs: tuple[Array, Array], who: str, *, hint: str) -> Fidelity:
    first, second = outputs
    agreeing = int((first.argmax(axis=-1) == second.argmax(axis=-1)).sum())
    result = Fidelity(images=len(first), agreeing=agreeing, max_lsb=lsb(model, model.output, first, second))
    if result.images >= ENOUGH_IMAGES and agreeing < PLAUSIBLE_AGREEMENT * result.images:
        raise ParityError(f"{who} agree on {agreeing} of {result.images} images only", hint=hint)
    return result


def lsb(model: IntegerModel, tensor: str, expected: Array, actual: Array) -> int:
    """Return the largest difference between two values of a tensor, in steps of its grid."""
    if not expected.size:
        return 0
    scale = 1.0
    if model.tensors[tensor].dtype == "float32":
        (node,) = (node for node in model.nodes if node.output == tensor)
        scale = model.tensors[node.inputs[0]].scale
    distance = np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max() / scale
    # Upwards, so that no difference is called none; float noise below a thousandth of a step is none.
    return int(np.ceil(distance - 1e-3))
