"""`msq compare`: how measurements differ, and whether that is no accident."""

from pathlib import Path
from typing import Annotated

import typer

from msq import atomic
from msq.errors import UsageError
from msq.recipe import RecipeFile
from msq.store_cli import StorePath
from msq.terminal import Json, print_json, print_wide
from reports.store import DEFAULT


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE OTHER…", help="Each a measurement's file, a folder of them, an id of the store, or a release."
        ),
    ],
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose gates may newly fail.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown to write, for a pull request.")] = None,
    store: StorePath = DEFAULT,
    as_json_: Json = False,
) -> None:
    """Compare measurements with the first one: by raw samples where there are, and never across kinds of figures."""
    from reports.compare import compare as run
    from reports.compare_view import as_markdown, terminal

    if len(names) < 2:
        raise UsageError("one side only", hint="msq compare BASE OTHER [OTHER…]")
    comparison = run(names, store, RecipeFile.read(recipe).recipe.gates if recipe else None)
    if markdown:
        atomic.write_text(markdown, as_markdown(comparison))
    if as_json_:
        print_json(comparison)
    else:
        print_wide(terminal(comparison))
