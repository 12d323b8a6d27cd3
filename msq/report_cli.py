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
    out: Annotated[Path | None, typer.Option(help="Page to write (HTML).")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose gates are judged.")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML of the gates to write.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown to write, for a pull request.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV to write, a row a figure.")] = None,
    model_card: Annotated[Path | None, typer.Option(help="Model card to write, as Hugging Face reads it.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What max_regression is judged against: a measurement's file, an id of the store or a release; "
            "default: the store's last release of the same model, device and runtime."
        ),
    ] = None,
    store: StorePath = DEFAULT,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder with the test images, whose worst confusions the page shows.")
    ] = None,
    as_json_: Json = False,
) -> None:
    """Write a report, print its table and judge the recipe's gates; exits with 12 when one fails."""
    from reports.report import Outputs
    from reports.report import report as run
    from reports.terminal import show

    gates = RecipeFile.read(recipe).recipe.gates if recipe else None
    outputs = Outputs(page=out, markdown=markdown, csv=csv, card=model_card, junit=junit)
    result = run(measurement, outputs, gates, baseline, store, evaluation)
    if as_json_:
        print_json(result.document)
    else:
        show(result, output)
    result.raise_for_gates()
