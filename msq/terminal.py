"""What the modules of the command line share: where they print, and options that several commands have."""

import json
import sys
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType

from msq.artefact import as_json

# What a program reads goes to stdout; progress and messages for people go to stderr.
messages = Console(stderr=True)
output = Console()

Runtime = Annotated[
    str, typer.Option(help="Runtime, a file of runtimes/: onnxruntime, native, litert, tvm, reference.")
]
DeviceName = Annotated[
    str,
    typer.Option(
        help="Device: a profile or a board of devices.toml by name, a profile's path (TOML), "
        "vm:NAME, ssh:user@host or adb:SERIAL."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def print_json(value: BaseModel) -> None:
    """Print a result for programs, on stdout."""
    sys.stdout.write(json.dumps(as_json(value), indent=1) + "\n")


def print_wide(shown: RenderableType) -> None:
    """Print tables on stdout; where that is no terminal, a row stays a line."""
    (output if output.is_terminal else Console(width=200, color_system=None)).print(shown)
