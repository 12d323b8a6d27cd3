"""Whole models at MSQ's bits beside ONNX Runtime's and LiteRT's int8: make bench-models.

Each model of the zoo goes through the toolchain on a few made-up images, which is enough for mixed widths, and runs as
its bundle, on the native runtime and through the hooks into ONNX Runtime and TVM. One rival is what a user gets without
us: the float net exported by torch and quantized by ONNX Runtime's own tool (static, uint8 activations, int8 weights
per channel). The other is the same integer model as a TFLite file with int8 weights. All take and return float32, on
one thread; they take turns in one process, run by run, and the 10th percentile of each counts. ResNet-8 also meets
MLPerf Tiny's own int8 file, which takes and returns int8. What processes take to start and hold is told as in
footprint.py.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import runtimes
from benchmarks.footprint import footprints, ours, rival
from benchmarks.kernels import interleaved
from benchmarks.peers import MLPERF_TINY_RESNET8
from benchmarks.result import Bar, at_most, finish
from benchmarks.rivals import Lite, Onnx, float32, int8_onnx, int8_tflite
from export.bundle import export
from msq.bundle import MANIFEST_FILE, Manifest
from msq.checkpoint import CHECKPOINT_FILE, Checkpoint
from msq.checksums import sha256_of
from msq.cli import run
from msq.integer_model import GRAPH_FILE, WEIGHTS_FILE
from msq.recipe import RecipeFile
from runtimes.native import program
from runtimes.onnxruntime_stock import MODEL_FILE
from runtimes.tvm import library_file
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
RIVALS = ("int8", "litert", "mlperf")
"""Of eight bits."""
IMAGES = 10
"""As many as classes."""


def main(
    rounds: int = 40,
    starts: Annotated[int, typer.Option(help="of each process")] = 10,
    only: Annotated[str, typer.Option(help="comma-separated models; default: all")] = "",
    out: Path = Path("build/bench"),
) -> None:
    """Time every model beside its rivals, and judge the bars."""
    wanted = [model for model in MODELS if not only or model.name in only.split(",")]
    figures: list[dict[str, Any]] = []
    for model in track(wanted, "models", console=Console(stderr=True)):
        folder = out / "models" / model.name
        images = made_up(model)
        checkpoint = trained(model, images, folder)
        bundles = {runtime: folder / name for runtime, name in (("onnxruntime", "bundle"), ("tvm", "tvm"))}
        for runtime, bundle in bundles.items():
            if not _is_of(bundle, folder / "checkpoint"):
                export(folder / "checkpoint", bundle, runtime)
        bundle = bundles["onnxruntime"]
        plain = float32(model.name, images, IMAGES, folder)
        quantized, lite = int8_onnx(plain, images, folder), int8_tflite(bundle, folder)
        sessions: dict[str, _Bundle | Onnx | Lite] = {
            "native": _Bundle(bundle, "native", GRAPH_FILE),
            "packed": _Bundle(bundle, "onnxruntime", MODEL_FILE),
            "tvm": _Bundle(bundles["tvm"], "tvm", library_file(platform.machine())),
            "int8": Onnx(quantized),
            "litert": Lite(lite),
            "float32": Onnx(plain),
        }
        if model.name == "resnet8":
            sessions["mlperf"] = Lite(MLPERF_TINY_RESNET8.path())
        processes = {
            "native": ours(program(platform.machine()), bundle),
            "int8": rival("onnxruntime", quantized),
            "litert": rival("litert", lite),
        }
        took = footprints(processes, images[:1], folder, starts)
        for name, times in interleaved(sessions, images.shape[1:], rounds).items():
            figures.append({
                "model": model.name,
                "what": name,
                "bits": 32 if name == "float32" else 8 if name in RIVALS else checkpoint.average_bits,
                "bytes": sessions[name].bytes,
                "microseconds": [round(1e6 * time, 1) for time in times],
                **took.get(name, {}),
            })  # fmt: skip
    _print(figures)
    settings = {"rounds": rounds, "starts": starts, "threads": 1, "bits": BITS}
    raise SystemExit(finish("models", settings, figures, bars(figures), out))


def _is_of(bundle: Path, checkpoint: Path) -> bool:
    """Say whether the bundle was made of the checkpoint."""
    path = bundle / MANIFEST_FILE
    return path.is_file() and Manifest.read(path).checkpoint_sha256 == sha256_of(checkpoint / CHECKPOINT_FILE)


class _Bundle:
    """A bundle on the packed kernels, in a runtime."""

    def __init__(self, folder: Path, runtime: str, model: str) -> None:
        self._session = runtimes.adapter(runtime).load(folder, 1)
        self.bytes = sum((folder / name).stat().st_size for name in (model, WEIGHTS_FILE))

    def run(self, _: None, inputs: dict[str, Any]) -> Any:
        return self._session.run(inputs["x"])


def made_up(model: Model) -> Any:
    """Return images float32 (n, size, size, 3) whose neighbours are alike, as a photograph's are."""
    coarse = np.random.default_rng(0).uniform(0, 255, (IMAGES, 8, 8, 3)).astype(np.uint8)
    fine = [Image.fromarray(image).resize((model.size, model.size), Image.Resampling.BICUBIC) for image in coarse]
    return np.stack([np.asarray(image, np.float32) / 255 for image in fine])


def trained(model: Model, images: Any, folder: Path) -> Checkpoint:
    """Return the checkpoint in `folder`/checkpoint, trained for as long as it takes to drop the bits."""
    for part in ("train", "test"):
        for index, image in enumerate(images):
            path = folder / "data" / part / f"class{index}" / f"{index}.png"
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


def percentile(figures: list[dict[str, Any]], model: str, what: str, which: str = "microseconds") -> float | None:
    """Return the 10th percentile of a figure of a rival on a model."""
    found = [one[which] for one in figures if (one["model"], one["what"]) == (model, what) and which in one]
    return float(np.percentile(found[0], 10)) if found else None


def bars(figures: list[dict[str, Any]]) -> list[Bar]:
    """Return what whole models must reach."""
    found = []

    def compare(what: str, name: str, our: str, their: str, which: str, most: float) -> None:
        first, second = percentile(figures, name, our, which), percentile(figures, name, their, which)
        found.append(at_most(f"{name} {what}", None if first is None or second is None else first / second, most))

    for name in dict.fromkeys(one["model"] for one in figures):
        compare("on the native runtime: time / ONNX Runtime int8", name, "native", "int8", "microseconds", 0.85)
        compare("on the native runtime: time / LiteRT int8", name, "native", "litert", "microseconds", 0.90)
        compare("through the hook: time / ONNX Runtime int8", name, "packed", "int8", "microseconds", 1.05)
        compare("in TVM: time / native runtime", name, "tvm", "native", "microseconds", 1.15)
        # Theirs without Python and numpy, ours whole: more than is asked of us.
        compare("memory of the process / ONNX Runtime's alone", name, "native", "int8", "alone_bytes", 0.5)
        compare("memory of the process / LiteRT's alone", name, "native", "litert", "alone_bytes", 0.5)
        compare("first answer / ONNX Runtime's", name, "native", "int8", "process_seconds", 0.2)
    small = {one["what"]: one for one in figures if one["model"] == "resnet8"}
    if "mlperf" in small:
        compare("on the native runtime: time / MLPerf Tiny's file", "resnet8", "native", "mlperf", "microseconds", 1.0)
        ratio = small["native"]["bytes"] / small["mlperf"]["bytes"]
        found.append(at_most("resnet8: file / MLPerf Tiny's", ratio, 1.0))
    return found


def _print(figures: list[dict[str, Any]]) -> None:
    columns = (
        "model",
        "what",
        "bits",
        "KiB",
        "µs, 10th percentile",
        "first answer, ms",
        "alone",
        "memory, MiB",
        "alone",
    )
    table = Table(*columns)
    for one in figures:
        name, what = one["model"], one["what"]
        time = percentile(figures, name, what)
        kinds = {"process_seconds": 1e3, "alone_seconds": 1e3, "process_bytes": 2**-20, "alone_bytes": 2**-20}
        values = [(percentile(figures, name, what, which), factor) for which, factor in kinds.items()]
        took = ["–" if value is None else f"{factor * value:.1f}" for value, factor in values]
        table.add_row(name, what, f"{one['bits']:.2f}", f"{one['bytes'] / 1024:.0f}", f"{time:.0f}", *took)
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
