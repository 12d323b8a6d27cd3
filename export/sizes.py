"""What a bundle weighs: its files against what the bits say, and the weights that stay in memory."""

import math
from collections.abc import Sequence
from pathlib import Path

from export.lowerings import Lowering
from msq.bundle import Layer, Sizes
from msq.checkpoint import Site
from msq.errors import BudgetError
from msq.integer_model import IntegerModel
from msq.nodes import Constant, LayerNorm
from runtimes import Adapter

FACTOR = 1.02
SLACK = 32 * 1024
"""Bytes that the model file's graph may take."""


def layers(model: IntegerModel, sites: Sequence[Site]) -> tuple[Layer, ...]:
    """Return the weighted layers as they are stored, in the order in which they run."""
    packed = {node.name: node.weight.packed.nbytes for node in model.weighted()}
    by_name = {site.name: site for site in sites}
    return tuple(_layer(by_name[name], size) for name, size in packed.items())


def _layer(site: Site, packed_bytes: int) -> Layer:
    return Layer(
        name=site.name,
        op=site.op,
        shape=site.shape,
        weights=math.prod(site.shape),
        bits=site.bits,
        paper_bits=site.paper_bits,
        packed_bytes=packed_bytes,
        beta=site.beta,
        omega=site.omega,
    )


def sizes(model: IntegerModel, lowering: Lowering, runtime: Adapter, folder: Path) -> Sizes:
    """Return the sizes of a model lowered into `folder`, to be run by a runtime.

    Raises:
        BudgetError: the deployed files exceed 1.02 · (weights + parameters) + 32 KiB, in the format's containers.
    """
    weighted = list(model.weighted())
    counts = [node.weight.outputs * node.weight.inputs for node in weighted]
    weight_bytes, parameter_bytes = model.weight_bytes, model.parameter_bytes
    model_bytes = sum((folder / name).stat().st_size for name in lowering.DEPLOYED)
    limit = int(FACTOR * lowering.content_bytes(model)) + SLACK
    if model_bytes > limit:
        packed = sum(node.weight.packed.nbytes for node in weighted)
        raise BudgetError(
            f"the model takes {model_bytes} bytes, more than the {limit} that its bits allow "
            f"({weight_bytes} of weights, stored in {packed} with the layout's filling)",
            hint="layers with few inputs or outputs, such as depthwise ones, fill the packed layout badly",
        )
    resident, note = runtime.resident(model)
    return Sizes(
        weight_bytes=weight_bytes,
        parameter_bytes=parameter_bytes,
        model_bytes=model_bytes,
        limit_bytes=limit,
        float32_bytes=4 * (sum(counts) + sum(node.weight.outputs for node in weighted) + _unquantized(model)),
        int8_bytes=sum(counts) + parameter_bytes,
        resident_weight_bytes=resident,
        resident_note=note,
    )


def _unquantized(model: IntegerModel) -> int:
    """Return how many parameters there are beside layers' weights and biases: layer norms', positions, tokens."""
    nodes = (node for node in model.nodes if isinstance(node, LayerNorm | Constant))
    return sum(array.size for node in nodes for array in node.arrays().values())
