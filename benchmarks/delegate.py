"""LiteRT with our delegate beside LiteRT alone: make bench-litert.

Layers and the zoo's models, one image at a time on one thread. The rival of a model is the same integer model with int8
weights in stock operators; that of a linear layer has int4 or int2 weights too. They take turns in one process, run by
run, and the 10th percentile of each counts.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from ai_edge_litert.interpreter import Interpreter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import litert
from benchmarks.kernels import interleaved
from benchmarks.layers import CONVOLUTIONS, DEPTHWISE, LINEAR, Layer
from benchmarks.models import MODELS, Model, made_up, trained
from benchmarks.ort import integer_model
from benchmarks.result import Bar, at_least, at_most, finish
from export.capture import capture
from export.lowerings import lowering, tflite_stock
from msq.cli import run
from msq.integer_model import IntegerModel
from runtimes._litert import MODEL_FILE, open_file
from runtimes.litert import delegate, libraries

WIDTHS = (2, 3, 4, 6)
NARROW = (2, 4)
"""Widths that LiteRT's linear layers have too."""
CONVOLUTIONAL, LINEAR_SPEED = 0.90, 1.0


def main(
    rounds: int = 60,
    only: Annotated[str, typer.Option(help="comma-separated models, or none; default: all")] = "",
    layers: Annotated[bool, typer.Option(help="time layers too")] = True,
    out: Path = Path("build/bench"),
) -> None:
    """Time layers and models with our delegate and without, and judge the bars."""
    figures: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        chosen = [*CONVOLUTIONS, *DEPTHWISE, *LINEAR] if layers else []
        for layer in track(chosen, "layers", console=Console(stderr=True)):
            sessions: dict[str, Any] = {"LiteRT int8": litert.session(layer)}
            if not layer.size:
                sessions |= {f"LiteRT int{width}": litert.session(layer, width) for width in NARROW}
            for bits in WIDTHS:
                sessions[f"packed {bits}"] = _packed(integer_model(layer, bits), Path(name) / f"{layer.name} {bits}")
            figures += _timed(layer.name, sessions, layer.shape, rounds)
        models = [model for model in MODELS if not only or model.name in only.split(",")]
        for model in track(models, "models", console=Console(stderr=True)):
            images, folder = made_up(model), out / "models" / model.name
            integers = capture(folder / "checkpoint", trained(model, images, folder))
            sessions = {"LiteRT int8": _stock(integers), "packed": _packed(integers, Path(name) / model.name)}
            figures += _timed(model.name, sessions, images.shape[1:], rounds)
    _print(figures)
    settings = {"rounds": rounds, "threads": 1, "widths": WIDTHS, **libraries()}
    raise SystemExit(finish("delegate", settings, figures, bars(figures, models), out, target="litert"))


def _stock(model: IntegerModel) -> litert.Running:
    return litert.Running(Interpreter(model_content=tflite_stock.build(model, containers="int8"), num_threads=1))


def _packed(model: IntegerModel, folder: Path) -> litert.Running:
    folder.mkdir()
    lowering("tflite").lower(model, folder)
    return litert.Running(open_file(folder / MODEL_FILE, 1, delegate(1)))


def _timed(name: str, sessions: dict[str, Any], shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    return [
        {"net": name, "what": what, "microseconds": [round(1e6 * time, 1) for time in times]}
        for what, times in interleaved(sessions, shape, rounds).items()
    ]


def percentile(figures: list[dict[str, Any]], net: str, what: str) -> float | None:
    """Return the 10th percentile of a rival's microseconds on a layer or model."""
    found = [one["microseconds"] for one in figures if (one["net"], one["what"]) == (net, what)]
    return float(np.percentile(found[0], 10)) if found else None


def ratios(figures: list[dict[str, Any]], layers: list[Layer], what: str, rival: str) -> list[float]:
    """Return what's time over the rival's, layer by layer."""
    pairs = [(percentile(figures, layer.name, what), percentile(figures, layer.name, rival)) for layer in layers]
    return [ours / theirs for ours, theirs in pairs if ours is not None and theirs is not None]


def bars(figures: list[dict[str, Any]], models: list[Model]) -> list[Bar]:
    """Return what the delegate must reach: the worst layer of each kind and width, and every model."""
    found = []
    for kind, layers in (("convolutions", CONVOLUTIONS), ("depthwise", DEPTHWISE)):
        for bits in WIDTHS:
            worst = max(ratios(figures, layers, f"packed {bits}", "LiteRT int8"), default=None)
            found.append(at_most(f"{kind}, {bits} bits: time / LiteRT int8, worst", worst, CONVOLUTIONAL))
    for bits in NARROW:
        worst = max(ratios(figures, LINEAR, f"packed {bits}", f"LiteRT int{bits}"), default=None)
        speed = None if worst is None else 1 / worst
        found.append(at_least(f"linear, {bits} bits: speed / LiteRT int{bits}, worst", speed, LINEAR_SPEED))
    for model in models:
        ours, theirs = (percentile(figures, model.name, what) for what in ("packed", "LiteRT int8"))
        ratio = None if ours is None or theirs is None else ours / theirs
        found.append(at_most(f"{model.name}: time / LiteRT int8", ratio, CONVOLUTIONAL))
    return found


def _print(figures: list[dict[str, Any]]) -> None:
    table = Table("net", "what", "µs, 10th percentile")
    for one in figures:
        table.add_row(one["net"], one["what"], f"{np.percentile(one['microseconds'], 10):.0f}")
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
