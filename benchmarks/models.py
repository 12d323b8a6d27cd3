"""Whole models at MSQ's bits beside ONNX Runtime's int8: make bench-models.

Each model of the zoo goes through the toolchain on a few made-up images, which is enough for mixed widths, and runs as
its bundle, on the native runtime and through the hooks into ONNX Runtime and TVM. The rival is what a user gets without
us: the float net exported by torch and quantized by ONNX Runtime's own tool (static, uint8 activations, int8 weights
per channel). All take and return float32, on one thread; they take turns in one process, run by run, and the 10th
percentile of each counts.
"""

import contextlib
import io
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import runtimes
from benchmarks.kernels import interleaved
from benchmarks.ort import session
from benchmarks.result import Bar, at_most, finish
from export.bundle import export
from msq.checkpoint import Checkpoint, InputSpec
from msq.cli import run
from msq.integer_model import GRAPH_FILE, WEIGHTS_FILE
from msq.recipe import RecipeFile
from runtimes.onnxruntime_stock import MODEL_FILE
from runtimes.tvm import library_file
from train import models
from train.fit import train

BITS = 2.6
"""Stored bits a weight: 20× by the papers' convention."""


@dataclass(frozen=True)
class Model:
    """A model of the zoo on square images of `size` pixels."""

    name: str
    size: int


MODELS = (
    Model("resnet8", 32),
    Model("resnet20", 32),
    Model("mobilenet-v2", 224),
    Model("efficientnet-lite0", 224),
    Model("resnet50", 224),
)
IMAGES = 8


def main(
    rounds: int = 40,
    only: Annotated[str, typer.Option(help="comma-separated models; default: all")] = "",
    out: Path = Path("build/bench"),
) -> None:
    """Time every model beside its rivals, and judge the bars."""
    wanted = [model for model in MODELS if not only or model.name in only.split(",")]
    figures: list[dict[str, Any]] = []
    for model in track(wanted, "models", console=Console(stderr=True)):
        folder = out / "models" / model.name
        images = _images(model)
        checkpoint = _trained(model, images, folder)
        bundles = {runtime: folder / name for runtime, name in (("onnxruntime", "bundle"), ("tvm", "tvm"))}
        for runtime, bundle in bundles.items():
            if not (bundle / "manifest.json").exists():
                export(folder / "checkpoint", bundle, runtime)
        sessions: dict[str, _Bundle | _Onnx] = {
            "native": _Bundle(bundles["onnxruntime"], "native", GRAPH_FILE),
            "packed": _Bundle(bundles["onnxruntime"], "onnxruntime", MODEL_FILE),
            "tvm": _Bundle(bundles["tvm"], "tvm", library_file(platform.machine())),
            "int8": _Onnx(_quantized(model, images, folder)),
            "float32": _Onnx(_float(model, folder)),
        }
        for name, times in interleaved(sessions, images.shape[1:], rounds).items():
            figures.append({
                "model": model.name,
                "what": name,
                "bits": {"int8": 8, "float32": 32}.get(name, checkpoint.average_bits),
                "bytes": sessions[name].bytes,
                "microseconds": [round(1e6 * time, 1) for time in times],
            })  # fmt: skip
    _print(figures)
    settings = {"rounds": rounds, "threads": 1, "bits": BITS}
    raise SystemExit(finish("models", settings, figures, bars(figures), out))


class _Bundle:
    """A bundle on the packed kernels, in a runtime."""

    def __init__(self, folder: Path, runtime: str, model: str) -> None:
        self._session = runtimes.adapter(runtime).load(folder, 1)
        self.bytes = sum((folder / name).stat().st_size for name in (model, WEIGHTS_FILE))

    def run(self, _: None, inputs: dict[str, Any]) -> Any:
        return self._session.run(inputs["x"])


class _Onnx:
    """A file that takes images channels first. They are brought into that order once, in a run that does not count."""

    def __init__(self, path: Path) -> None:
        self._session = session(str(path))
        self._x: Any = None
        self.bytes = path.stat().st_size

    def run(self, _: None, inputs: dict[str, Any]) -> Any:
        if self._x is None:
            self._x = np.ascontiguousarray(inputs["x"].transpose(0, 3, 1, 2))
        return self._session.run(None, {"x": self._x})


def _images(model: Model) -> Any:
    """Return images float32 (n, size, size, 3) whose neighbours are alike, as a photograph's are."""
    coarse = np.random.default_rng(0).uniform(0, 255, (IMAGES, 8, 8, 3)).astype(np.uint8)
    fine = [Image.fromarray(image).resize((model.size, model.size), Image.Resampling.BICUBIC) for image in coarse]
    return np.stack([np.asarray(image, np.float32) / 255 for image in fine])


def _trained(model: Model, images: Any, folder: Path) -> Checkpoint:
    """Train for as long as it takes to drop the bits."""
    for part in ("train", "test"):
        for index, image in enumerate(images):
            path = folder / "data" / part / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 255).astype(np.uint8)).save(path)
    recipe = {
        "name": "bench",
        "data": {
            "name": "image-folder",
            "path": str((folder / "data").resolve()),
            "width": model.size,
            "height": model.size,
        },
        "model": {"name": model.name},
        "float": {"epochs": 1, "batch_size": IMAGES, "learning_rate": 1e-4},
        "method": {"name": "msq", "prune_epochs": 12, "finetune_epochs": 1, "interval": 1, "learning_rate": 1e-4},
        "budget": {"average_bits": BITS},
        "activations": {"range": "calibrated"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return train(RecipeFile.read(folder / "recipe.yaml"), folder / "checkpoint", folder / "work")


def _float(model: Model, folder: Path) -> Path:
    """Export a net of the same shape by torch: how long it runs does not depend on its weights."""
    path = folder / "float32.onnx"
    if path.exists():
        return path
    module = models.model(model.name)
    spec = InputSpec(height=model.size, width=model.size, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    net = module.build(module.Options(), spec, 2).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        example = torch.zeros(1, 3, model.size, model.size)
        torch.onnx.export(net, (example,), str(path), dynamo=False, opset_version=17, input_names=["x"])
    return path


def _quantized(model: Model, images: Any, folder: Path) -> Path:
    path, prepared = folder / "int8.onnx", folder / "prepared.onnx"
    if path.exists():
        return path

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images.transpose(0, 3, 1, 2)[:, None])

        def get_next(self) -> Any:
            image = next(self._left, None)
            return None if image is None else {"x": np.ascontiguousarray(image)}

    quant_pre_process(str(_float(model, folder)), str(prepared))
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


def percentile(figures: list[dict[str, Any]], model: str, what: str) -> float | None:
    """Return the 10th percentile of a rival's microseconds on a model."""
    found = [one["microseconds"] for one in figures if (one["model"], one["what"]) == (model, what)]
    return float(np.percentile(found[0], 10)) if found else None


def bars(figures: list[dict[str, Any]]) -> list[Bar]:
    """Return what whole models must reach."""
    found = []
    for name in dict.fromkeys(one["model"] for one in figures):
        theirs = percentile(figures, name, "int8")
        for what, how, most in (("native", "on the native runtime", 0.85), ("packed", "through the hook", 1.05)):
            ours = percentile(figures, name, what)
            ratio = None if ours is None or theirs is None else ours / theirs
            found.append(at_most(f"{name} {how}: time / ONNX Runtime int8", ratio, most))
        native, tvm = (percentile(figures, name, what) for what in ("native", "tvm"))
        ratio = None if native is None or tvm is None else tvm / native
        found.append(at_most(f"{name} in TVM: time / native runtime", ratio, 1.15))
    return found


def _print(figures: list[dict[str, Any]]) -> None:
    table = Table("model", "what", "bits", "KiB", "µs, 10th percentile")
    for one in figures:
        time = np.percentile(one["microseconds"], 10)
        table.add_row(one["model"], one["what"], f"{one['bits']:.2f}", f"{one['bytes'] / 1024:.0f}", f"{time:.0f}")
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
