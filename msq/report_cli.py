"""`msq report`: the page of a measurement, its gates, and the same for programs."""

from pathlib import Path
from typing import Annotated

import typer

from msq.recipe import RecipeFile
from msq.store_cli import StorePath
from msq.terminal import Json, output, print_json
from reports.store import DEFAULT


def report(
    measurement: Annotated[Path, typer.Argument(help="Measurement (JSON).")],
    out: Annotated[Path, typer.Option(help="Page to write (HTML).")],
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose gates are judged.")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML of the gates to write.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What max_regression is judged against: a measurement's file, an id of the store or a release; "
            "default: the store's last release of the same model, device and runtime."
        ),
    ] = None,
    store: StorePath = DEFAULT,
    as_json_: Json = False,
) -> None:
    """Write the report page and print its table; exits with 12 when a gate of the recipe fails."""
    from reports.report import report as run
    from reports.terminal import show

    gates = RecipeFile.read(recipe).recipe.gates if recipe else None
    result = run(measurement, out, gates, junit, baseline, store)
    if as_json_:
        print_json(result)
    else:
        show(result, output)
    result.raise_for_gates()
