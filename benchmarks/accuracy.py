"""Accuracy of every method at matched stored size, from the same float net, over the same epochs: make bench-accuracy.
And of MSQ with one option changed at a time, which is the evidence for its defaults: make bench-ablation.

Every run is a recipe that is trained as a user would; finished runs are kept and not repeated, so that the benchmark
can be interrupted and goes on. All methods get the same epochs after the same float run.
"""

import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.result import Bar, at_least, finish
from msq.atomic import write_text
from msq.checkpoint import Checkpoint
from msq.cli import run
from msq.errors import BudgetError
from msq.recipe import RecipeFile
from train.fit import train

MATCHED = 2.6
"""Stored bits a weight: 20× by the papers' convention, which leaves the sign out (32 / 20 + 1)."""


@dataclass(frozen=True)
class Entrant:
    """One row of the table: a method with its options at a budget. split: how it divides the epochs."""

    name: str
    method: str
    bits: float = MATCHED
    options: dict[str, Any] = field(default_factory=dict)

    def section(self, epochs: int) -> dict[str, Any]:
        """Return the recipe's method section for a number of epochs."""
        tuning = max(1, round(epochs * 0.4))
        split: dict[str, Any] = {
            "msq": {"prune_epochs": epochs - tuning, "finetune_epochs": tuning},
            "dorefa": {"prune_epochs": epochs - tuning, "finetune_epochs": tuning},
            "bsq": {"bit_epochs": epochs - tuning, "finetune_epochs": tuning},
            "csq": {"bit_epochs": epochs - tuning, "finetune_epochs": tuning},
        }.get(self.method, {"epochs": epochs})
        return {"name": self.method, **split, **self.options}


ENTRANTS = (
    Entrant("MSQ", "msq"),
    Entrant("MSQ without the Hessian", "msq", options={"hessian_samples": 0}),
    Entrant("BSQ", "bsq"),
    Entrant("CSQ", "csq"),
    Entrant("HAWQ", "hawq"),
    Entrant("DoReFa codes under MSQ's rule", "dorefa"),
    Entrant("LSQ 2 bits", "lsq", 2),
    Entrant("LSQ 3 bits", "lsq", 3),
    Entrant("LSQ 4 bits", "lsq", 4),
    # What float training over the same epochs would reach, as nearly as a quantized net shows it.
    Entrant("LSQ 8 bits", "lsq", 8),
)

ABLATION = (
    Entrant("MSQ", "msq"),
    Entrant("offset", "msq", options={"representation": "offset"}),
    Entrant("divisor 2^n − 1", "msq", options={"divisor": "2^n-1"}),
    Entrant("one scale a layer", "msq", options={"per_channel": False}),
    Entrant("no L1 term", "msq", options={"strength": 0.0}),
    Entrant("λ / 10", "msq", options={"strength": 1e-4}),
    Entrant("λ · 10", "msq", options={"strength": 1e-2}),
    Entrant("α = 0: the pace alone", "msq", options={"alpha": 0.0}),
    Entrant("α = 0.2", "msq", options={"alpha": 0.2}),
    Entrant("α = 0.5", "msq", options={"alpha": 0.5}),
    Entrant("α alone: no pace", "msq", options={"keep_pace": False}),
    Entrant("a look every 20 steps", "msq", options={"interval": 20}),
    Entrant("a look every 180 steps", "msq", options={"interval": 180}),
    Entrant("no Hessian", "msq", options={"hessian_samples": 0}),
    Entrant("8 vectors a trace", "msq", options={"hessian_samples": 8}),
    Entrant("Ω of the drop", "msq", options={"perturbation": "drop"}),
    Entrant("half distilled", "msq", options={"distillation": 0.5}),
    Entrant("peak rate 0.01", "msq", options={"learning_rate": 0.01}),
    Entrant("peak rate 0.05", "msq", options={"learning_rate": 0.05}),
)


def main(
    data: Annotated[str, typer.Option(help="dataset of the recipes, with its options, as YAML")] = "{name: cifar10}",
    model: str = "resnet20",
    seeds: int = 3,
    float_epochs: int = 6,
    epochs: Annotated[int, typer.Option(help="of every method, after the float run")] = 5,
    batch_size: int = 128,
    precision: str = "bf16-mixed" if torch.cuda.is_available() else "32-true",
    only: Annotated[str, typer.Option(help="comma-separated methods or rows; default: all")] = "",
    ablation: Annotated[bool, typer.Option("--ablation", help="MSQ's options instead of the rivals")] = False,
    jobs: Annotated[int, typer.Option(help="runs side by side, each on its share of the processors", min=1)] = 1,
    out: Path = Path("build/bench"),
) -> None:
    """Train every method over every seed, print means and spreads, and judge the bars."""
    section = yaml.safe_load(data)
    benchmark, entrants = ("ablation", ABLATION) if ablation else ("accuracy", ENTRANTS)
    wanted = [one for one in entrants if not only or {one.method, one.name} & set(only.split(","))]
    settings = {
        "data": section["name"], "model": model, "seeds": seeds, "float_epochs": float_epochs, "epochs": epochs,
        "batch_size": batch_size, "precision": precision, "jobs": jobs,
    }  # fmt: skip
    runs = [
        Run(
            entrant.name,
            {
                "name": f"bench-{seed}-{number}",
                "data": section,
                "model": {"name": model},
                "method": entrant.section(epochs),
                "budget": {"average_bits": entrant.bits},
                "float": {"epochs": float_epochs, "batch_size": batch_size},
                "precision": precision,
                "seed": seed,
            },
            out / "accuracy",
        )
        # Seed by seed, so that what is done after any interruption compares all methods.
        for seed in range(seeds)
        for number, entrant in enumerate(wanted)
    ]
    # The first run of a seed leaves the float net that its others start from.
    first, rest = runs[:: len(wanted)], [run for at, run in enumerate(runs) if at % len(wanted)]
    figures: list[dict[str, Any]] = []
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        for stage in (first, rest):
            for found in map(_trained, stage) if jobs == 1 else pool.map(_trained, stage):
                figures.append(found)
                _print(figures, settings)
    raise SystemExit(finish(benchmark, settings, figures, [] if ablation else bars(figures), out))


@dataclass(frozen=True)
class Run:
    """One training: an entrant's recipe. folder: where what is finished is kept."""

    entrant: str
    recipe: dict[str, Any]
    folder: Path


def _trained(run: Run) -> dict[str, Any]:
    """Train, as far as not yet done, and return the figures; of a run that misses its budget, why."""
    folder = run.folder / run.recipe["name"]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.yaml", yaml.safe_dump(run.recipe, sort_keys=False))
    recipe = RecipeFile.read(folder / "recipe.yaml")
    known = {"entrant": run.entrant, "seed": run.recipe["seed"]}
    try:
        checkpoint = train(recipe, folder / "checkpoint", run.folder / "work", Console())
    except BudgetError as error:  # what it shows of an option
        return {**known, "failed": str(error), "recipe": run.recipe}
    # Where the data lay is of no use elsewhere; which they were is said by their digest.
    data = {key: value for key, value in run.recipe["data"].items() if key != "path"} | checkpoint.data.model_dump()
    return {**known, **figures_of(checkpoint), "recipe": run.recipe | {"data": data}}


def figures_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the figures of one run: accuracies as fractions of the test set, stored and paper bits, seconds."""
    top1 = {accuracy.what: accuracy.top1 for accuracy in checkpoint.accuracy}
    return {
        "top1": top1["trained"],
        "float_top1": top1["float"],
        "ptq8_top1": top1["ptq8"],
        "stored_bits": checkpoint.average_bits,
        "paper_compression": checkpoint.paper_compression,
        "test_images": checkpoint.accuracy[0].n,
        "seconds": checkpoint.seconds,
    }


def mean(figures: list[dict[str, Any]], entrant: str, key: str = "top1") -> float | None:
    """Return the mean of a figure over an entrant's seeds, None where it has no run that ended well."""
    found = [figure[key] for figure in figures if figure["entrant"] == entrant and "failed" not in figure]
    return statistics.fmean(found) if found else None


def bars(figures: list[dict[str, Any]]) -> list[Bar]:
    """Return what the benchmark must show; differences are in percentage points of means over seeds."""

    def points(left: float | None, right: float | None) -> float | None:
        return None if left is None or right is None else 100 * (left - right)

    ours = mean(figures, "MSQ")
    compression = mean(figures, "MSQ", "paper_compression")
    return [
        at_least("MSQ's compression, paper's convention", compression, 20),
        at_least("MSQ − float, points", points(ours, mean(figures, "MSQ", "float_top1")), -0.5),
        at_least("MSQ − 8 bits trained as long, points", points(ours, mean(figures, "LSQ 8 bits")), -0.5),
        at_least("MSQ − BSQ, points", points(ours, mean(figures, "BSQ")), -0.1),
        at_least("MSQ − CSQ, points", points(ours, mean(figures, "CSQ")), -0.1),
        at_least("Hessian on − off, points", points(ours, mean(figures, "MSQ without the Hessian")), 0),
    ]


def _print(figures: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    table = Table("method", "top-1", "spread", "stored bits", "seeds", title=json.dumps(settings))
    for name in dict.fromkeys(figure["entrant"] for figure in figures):
        found = [figure for figure in figures if figure["entrant"] == name and "failed" not in figure]
        if not found:
            table.add_row(name, "misses the budget", "–", "–", "–")
            continue
        top1 = [figure["top1"] for figure in found]
        spread = f"±{statistics.stdev(top1):.2%}" if len(top1) > 1 else "–"
        bits = statistics.fmean(figure["stored_bits"] for figure in found)
        table.add_row(name, f"{statistics.fmean(top1):.2%}", spread, f"{bits:.2f}", str(len(found)))
    floats = {figure["seed"]: figure["float_top1"] for figure in figures if "failed" not in figure}
    if floats:
        table.add_row("float", f"{statistics.fmean(floats.values()):.2%}", "–", "32", str(len(floats)))
    Console().print(table)


if __name__ == "__main__":
    run(lambda: typer.run(main))
