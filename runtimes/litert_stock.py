"""LiteRT as released: convolutions on int8 weights, linear layers on int8, int4 or int2, by XNNPACK."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError
from msq.integer_model import IntegerModel
from msq.nodes import Constant
from runtimes import _litert_weights
from runtimes._litert import MODEL_FILE, PACKAGES, PROBE_FILE, Array, File, one_line, open_file, version
from runtimes.reference import ReferenceSession

__all__ = ["LOWERING", "MODE", "PACKAGES", "STEPWISE", "libraries", "load", "resident", "version"]

LOWERING = "tflite-stock"
MODE = "stock"
STEPWISE = True


def libraries() -> dict[str, str]:
    """Return nothing: it runs alone, and XNNPACK is part of it."""
    return {}


def resident(model: IntegerModel) -> tuple[int, str]:
    """Return the bytes of weights at their containers' widths, with scales and biases: XNNPACK's packed copies."""
    held = model.parameter_bytes + sum(_litert_weights.held(node) for node in model.weighted())
    return held, "XNNPACK holds a packed copy, int8 or the linear layers' int4 and int2, beside the mapped file"


def load(bundle: Path, threads: int) -> "LitertStockSession":
    """Load model.tflite of a bundle on the CPU.

    Args:
        bundle: the bundle's folder. threads: threads within an operator.
    Raises:
        DeviceError: LiteRT is not installed.
        BundleError: it refuses the model.
    """
    return LitertStockSession(bundle, threads)


class LitertStockSession:
    """model.tflite loaded; probe.tflite, every node as a graph of its own, loads when asked for.

    Args:
        bundle: folder. threads: within an operator.
    Raises:
        BundleError: LiteRT refuses the model.
    """

    def __init__(self, bundle: Path, threads: int) -> None:
        self._bundle, self._threads = bundle, threads
        self._model = File(bundle / MODEL_FILE, threads)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 (n, …), of images float32 (n, height, width, channels), one after another."""
        return self._model.run(images)[0]

    def tensors(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """Return what every node computes from the oracle's tensors, by its output's name, batch first.

        LiteRT rounds sums, pools and attention in its own way. Fed by the oracle, a node shows its own difference
        and not those of the nodes before it.

        Raises:
            BundleError: the nodes, each fed by those before it, give another output than the whole model does.
        """
        model = IntegerModel.load(self._bundle)
        probe = _Probe(self._bundle / PROBE_FILE, self._threads, model)
        found: dict[str, list[Array]] = {}
        for image in np.ascontiguousarray(images, np.float32)[:, np.newaxis]:
            chained = probe.walk({model.input: image}, {})
            if not np.array_equal(chained[model.output], self.run(image)):
                raise BundleError(
                    f"{self._bundle / PROBE_FILE}: its nodes compute another output than {MODEL_FILE}",
                    hint="report the model",
                )
            given = {model.input: image, **ReferenceSession(model).tensors(image)}
            for name, value in probe.walk({}, given).items():
                found.setdefault(name, []).append(value)
        return {name: np.concatenate(values) for name, values in found.items()}


class _Probe:
    """probe.tflite: a signature a node, named as the node is; its inputs and output are named as the tensors are."""

    def __init__(self, path: Path, threads: int, model: IntegerModel) -> None:
        self._model, self._path = model, path
        self._interpreter = open_file(path, threads)
        steps = [node for node in model.nodes if not isinstance(node, Constant)]
        try:
            self._runners = {node.name: self._interpreter.get_signature_runner(node.name) for node in steps}
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"{path}: LiteRT refuses it: {one_line(error)}", hint="export again") from None

    def walk(self, start: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """Return every node's output for one image; a node's inputs are `given`, or else what nodes before it gave."""
        found: dict[str, Array] = {}
        for node in self._model.nodes:
            if isinstance(node, Constant):
                found[node.output] = node.codes[np.newaxis]
                continue
            runner = self._runners[node.name]
            known = {**start, **found, **given}
            found[node.output] = runner(**{name: known[name] for name in runner.get_input_details()})[node.output]
        return found
