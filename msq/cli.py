"""The command line: parses, calls one stage, shows what it returns. `msq --help` lists the commands."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from msq import __version__, plugins
from msq.bundle import Arena
from msq.bundle_cli import bundle_app
from msq.compare_cli import compare
from msq.device_cli import device_app, doctor, list_devices
from msq.errors import MsqError, StorageError
from msq.measure_cli import Images, classify, measure, verify
from msq.recipe import RecipeFile
from msq.report_cli import report
from msq.store_cli import history, store_app
from msq.terminal import DeviceName, Json, Runtime, messages, output, print_json

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(device_app, name="device")
app.command()(doctor)
app.add_typer(store_app, name="store")
app.add_typer(bundle_app, name="bundle")

RecipePath = Annotated[Path, typer.Argument(help="Recipe, a YAML file (docs/recipes.md).")]


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print(f"msq {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """From a PyTorch model to a measured mixed-precision deployment."""


@app.command()
def check(
    recipe: RecipePath,
    device: DeviceName = "local",
    runtime: Runtime = "onnxruntime",
) -> None:
    """Check that the recipe, the device and the runtime are known and fit, before hours of work depend on it."""
    import runtimes
    from devices.profile import profile

    RecipeFile.read(recipe)
    profile(device).admit(runtimes.adapter(runtime).PACKAGES)


@app.command()
def train(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    work: Annotated[Path, typer.Option(help="Folder of what a later run can go on from.")] = Path("build/work"),
    as_json_: Json = False,
) -> None:
    """Train a recipe: float run, 8-bit baseline, method. A stopped run goes on where it was."""
    from train.fit import train as run

    checkpoint = run(RecipeFile.read(recipe), out, work, messages)
    if as_json_:
        print_json(checkpoint)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write; the same as .tar beside it.")],
    runtime: Runtime = "onnxruntime",
    processor: Annotated[
        list[str] | None,
        typer.Option(help="Processor that TVM's machine code is made for, e.g. cortex-a76; at most one of a machine."),
    ] = None,
    as_json_: Json = False,
) -> None:
    """Lower a checkpoint to a bundle for a runtime, and check it against the oracle."""
    from export.bundle import export as run

    manifest = run(checkpoint, out, runtime, processor or ())
    sizes, parity = manifest.sizes, manifest.parity
    messages.print(
        f"{out}: {sizes.model_bytes / 1024:.1f} KiB at {manifest.average_bits:.2f} bits a weight "
        f"(limit {sizes.limit_bytes / 1024:.1f}); {parity.values} values of {parity.tensors} tensors, "
        f"largest difference to the oracle {parity.max_lsb} LSB",
        highlight=False,
        soft_wrap=True,
    )
    if manifest.good_for:
        messages.print(f"runs in {', '.join(manifest.good_for)}", highlight=False, soft_wrap=True)
    if manifest.arena:
        messages.print(_arena_line(manifest.arena), highlight=False, soft_wrap=True)
    if as_json_:
        print_json(manifest)


for command in (measure, verify, classify, report, compare, history):
    app.command()(command)


@app.command()
def deploy(
    recipe: RecipePath,
    device: DeviceName = "raspberrypi",
    runtime: Runtime = "onnxruntime",
    build: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path("build"),
    images: Images = None,
) -> None:
    """Do it all: train, export, measure, report. `make deploy` does the same and redoes only what changed."""
    check(recipe, device, runtime)
    name = RecipeFile.read(recipe).recipe.name
    run = build / name
    train(recipe, run / "checkpoint", build / "work")
    export(run / "checkpoint", run / runtime / "bundle", runtime)
    where = device.replace(":", "-").replace("/", "-")
    measurement = run / runtime / f"{where}.json"
    pictures, store = run / "checkpoint" / "evaluation", build / "store.db"
    measure(
        measurement,
        run / runtime / "bundle",
        pictures,
        device=device,
        runtime=runtime,
        images=images,
        store=store,
    )
    report(measurement, run / runtime / f"{where}.html", recipe, store=store, evaluation=pictures)


@app.command()
def bits(checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.")]) -> None:
    """Print the bit map of a checkpoint as JSON: stored bits by layer."""
    from msq.bitmap import BitMap
    from msq.checkpoint import Checkpoint

    print_json(BitMap.of(Checkpoint.open(checkpoint)))


@app.command("list")
def list_plugins(
    what: Annotated[str, typer.Argument(help="models, data, methods, lowerings, runtimes or devices")],
) -> None:
    """List the plug-ins of a kind: what a recipe or a command can name."""
    packages = {
        "models": "train.models",
        "data": "train.data.sets",
        "methods": "train.methods",
        "lowerings": "export.lowerings",
        "runtimes": "runtimes",
    }
    if what == "devices":
        list_devices()
    elif what in packages:
        output.print("\n".join(plugins.names(packages[what])), highlight=False)
    else:
        raise plugins.unknown(what, [*packages, "devices"], "kind of plug-in")


def _arena_line(arena: Arena) -> str:
    """Return the arena's size and what is in use of it as nodes run, a block a node."""
    eighths = "▁▂▃▄▅▆▇█"
    shape = "".join(eighths[7 * size // arena.bytes] for size in arena.timeline.values())
    busiest = max(arena.timeline, key=arena.timeline.__getitem__)
    return (
        f"arena: {arena.bytes / 1024:.1f} KiB, {arena.bytes / arena.bound_bytes:.2f} × the least that any plan takes; "
        f"fullest at {busiest}: {shape}"
    )


def main() -> None:
    """Run the command line."""
    run(app)


def run(command: Callable[[], object]) -> None:
    """Run a command; a user's error is one line and a hint on stderr, and its class's exit code."""
    try:
        command()
    except MsqError as error:
        sys.exit(_fail(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(
            _fail(StorageError(f"{error.filename or 'disk'}: no space left", hint="free some space and run again"))
        )


def _fail(error: MsqError) -> int:
    messages.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    if error.hint:
        messages.print(f"[bold]hint:[/] {escape(error.hint)}", highlight=False, soft_wrap=True)
    return error.exit_code
