"""Our figures beside LiteRT's own benchmark tool, on the same file on this machine: make bench-tool.

The tool times inferences in its process, our measurement in an agent's; both on one thread, the file's input in place.
They take turns, and of each the median of its medians counts. The tool rounds to 0.01 ms, so the model takes some:
the zoo's MobileNetV2 with int8 weights in stock operators.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.models import MODELS, made_up, trained
from benchmarks.result import Bar, at_least, at_most, finish
from devices.measure_file import measure_file
from export.capture import capture
from export.lowerings import tflite_stock
from msq.cli import run

TOOL = "ai_edge_litert.tools.benchmark_litert_model"
WITHIN = 0.05
RUNS = 200


def main(rounds: int = 5, model: str = "mobilenet-v2", out: Path = Path("build/bench")) -> None:
    """Time one file by the tool and by msq measure, in turns, and judge how far apart they are."""
    (chosen,) = (one for one in MODELS if one.name == model)
    folder = out / "models" / chosen.name
    integers = capture(folder / "checkpoint", trained(chosen, made_up(chosen), folder))
    figures: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        path = Path(name) / f"{chosen.name}.tflite"
        path.write_bytes(tflite_stock.build(integers, containers="int8"))
        for _ in track(range(rounds), "rounds", console=Console(stderr=True)):
            figures.append({"what": "tool", "seconds": _tool(path, Path(name) / "result.json")})
            found = measure_file(path, "local", protocol="tflite-compat")
            figures.append({"what": "msq measure", "seconds": median(found.latency_seconds)})
    _print(figures)
    settings = {"rounds": rounds, "threads": 1, "model": model, "tool": TOOL, "protocol": "tflite-compat"}
    raise SystemExit(finish("tool", settings, figures, bars(figures), out))


def _tool(path: Path, result: Path) -> float:
    command = [sys.executable, "-m", TOOL, "--model", str(path), "--num_threads", "1", "--num_runs", str(RUNS)]
    subprocess.run([*command, "--result_json", str(result)], check=True, capture_output=True, env=dict(os.environ))
    return float(json.loads(result.read_text(encoding="utf-8"))["latency"]["median_ms"]) / 1000


def typical(figures: list[dict[str, Any]], what: str) -> float | None:
    """Return the median of a rival's medians, in seconds."""
    return median(found) if (found := [one["seconds"] for one in figures if one["what"] == what]) else None


def bars(figures: list[dict[str, Any]]) -> list[Bar]:
    """Return what must hold: the same figure, both ways, but for 5 %."""
    ours, theirs = typical(figures, "msq measure"), typical(figures, "tool")
    ratio = None if ours is None or theirs is None else ours / theirs
    return [
        at_most("msq measure / LiteRT's tool", ratio, 1 + WITHIN),
        at_least("msq measure / LiteRT's tool", ratio, 1 - WITHIN),
    ]


def _print(figures: list[dict[str, Any]]) -> None:
    table = Table("by", "ms, median of each run")
    for what in ("tool", "msq measure"):
        times = [f"{1000 * one['seconds']:.2f}" for one in figures if one["what"] == what]
        table.add_row(what, ", ".join(times))
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
