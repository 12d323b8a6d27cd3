"""TVM as released: it compiles the packed layers too, from TIR, and runs them on the weights as the file holds them."""

from msq.integer_model import IntegerModel
from runtimes.tvm import PACKAGES, STEPWISE, load, version

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "libraries", "load", "resident", "version"]

LOWERING = "tvm-stock"
MODE = "stock"


def libraries() -> dict[str, str]:
    """Return nothing: it runs alone."""
    return {}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return the bytes of the packed weights, and of all parameters twice: mapped, and as copies."""
    held = 2 * model.parameter_bytes + sum(node.weight.packed.nbytes for node in model.weighted())
    return held, "packed weights mapped from weights.bin; parameters are copied at load"
