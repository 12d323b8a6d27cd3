"""The lowering for the oracle, which reads the integer model itself: nothing is added to it."""

from pathlib import Path

from msq.integer_model import GRAPH_FILE, WEIGHTS_FILE, IntegerModel

NAME = "integer"
DEPLOYED = (GRAPH_FILE, WEIGHTS_FILE)
PACKAGES = ()


def content_bytes(model: IntegerModel) -> int:
    """Return the bytes of the weights' bits and of the parameters: the format has every width."""
    return model.weight_bytes + model.parameter_bytes


def lower(model: IntegerModel, folder: Path) -> list[str]:
    """Write nothing: model.json and weights.bin are the model."""
    return []
