"""Whole models as others run them: files of ONNX Runtime and LiteRT, and sessions that benchmarks.kernels times."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.litert import Running
from benchmarks.ort import session
from export.lowerings import tflite_stock
from msq.checkpoint import InputSpec
from msq.integer_model import IntegerModel
from train import models


class Onnx:
    """A file that takes images channels first. They are brought into that order once, in a run that does not count."""

    def __init__(self, path: Path) -> None:
        self._session = session(str(path))
        self._x: Any = None
        self.bytes = path.stat().st_size

    def run(self, _: None, inputs: dict[str, Any]) -> Any:
        """Return the output for inputs["x"], the same at every call."""
        if self._x is None:
            self._x = np.ascontiguousarray(inputs["x"].transpose(0, 3, 1, 2))
        return self._session.run(None, {"x": self._x})


class Lite(Running):
    """A file of LiteRT."""

    def __init__(self, path: Path) -> None:
        super().__init__(Interpreter(model_path=str(path), num_threads=1))
        self.bytes = path.stat().st_size


def float32(name: str, images: NDArray[np.float32], classes: int, folder: Path) -> Path:
    """Write a net of the same shape, exported by torch: how long it runs does not depend on its weights."""
    path = folder / "float32.onnx"
    if path.exists():
        return path
    module, (_, *size, _) = models.model(name), images.shape
    spec = InputSpec(height=size[0], width=size[1], channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    net = module.build(module.Options(), spec, classes).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        example = torch.zeros(1, 3, *size)
        torch.onnx.export(net, (example,), str(path), dynamo=False, opset_version=17, input_names=["x"])
    return path


def int8_onnx(source: Path, images: NDArray[np.float32], folder: Path) -> Path:
    """Write a float net quantized by ONNX Runtime: static, uint8 activations, int8 weights per channel."""
    path, prepared = folder / "int8.onnx", folder / "prepared.onnx"
    if path.exists():
        return path

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images.transpose(0, 3, 1, 2)[:, None])

        def get_next(self) -> Any:
            image = next(self._left, None)
            return None if image is None else {"x": np.ascontiguousarray(image)}

    quant_pre_process(str(source), str(prepared))
    quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


def int8_tflite(bundle: Path, folder: Path) -> Path:
    """Write the integer model of a bundle with int8 weights, of stock operators."""
    path = folder / "int8.tflite"
    path.write_bytes(tflite_stock.build(IntegerModel.load(bundle), containers="int8"))
    return path
