"""The commands that run a bundle, or a model file, on a device: msq measure, verify, classify."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from msq.errors import UsageError
from msq.fleet_cli import fleet, runtimes_of
from msq.measurement import Measured
from msq.store_cli import StorePath
from msq.terminal import DeviceName, Json, Runtime, output, print_json, print_wide
from reports.store import DEFAULT, Store

Protocol = Annotated[
    str, typer.Option(help="How inferences are timed: quick, tflite-compat, mlperf-single-stream (docs/measuring.md).")
]
Images = Annotated[
    int | None, typer.Option(min=1, help="Test images to run; default: enough for ±1 % at 95 % confidence.")
]


def measure(
    out: Annotated[Path, typer.Option(help="Measurement to write (JSON).")],
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a bundle.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder with images.npy and labels.npy of the test set.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Instead of a bundle, a .tflite or .onnx file of any origin.")
    ] = None,
    pixels: Annotated[
        str, typer.Option(help="What such a file takes pixels as: 0..1, 0..255, -1..1 or imagenet.")
    ] = "0..1",
    device: DeviceName = "local",
    runtime: Runtime = "onnxruntime",
    images: Images = None,
    protocol: Protocol = "quick",
    store: StorePath = DEFAULT,
    as_json_: Json = False,
) -> None:
    """Run a bundle on a device: accuracy, parity, sizes; latency and memory only where they are real.

    Several devices, comma-separated, go side by side, with several runtimes, or all that read the bundle; --out is a
    folder then.
    """
    from devices.measure import measure as run
    from devices.measure_file import measure_file
    from reports.file_table import file_table

    if (bundle is None) == (model is None):
        raise UsageError("measure wants one model", hint="give the folder of a bundle, or --model and a file")
    if bundle is not None and ("," in device or "," in runtime or runtime == "all"):
        options = ["--protocol", protocol, "--store", str(store), *(["--images", str(images)] if images else [])]
        options += ["--evaluation", str(evaluation)] if evaluation else []
        fleet(bundle, device.split(","), runtimes_of(bundle, runtime), out, options)
        return
    found: Measured
    if model is not None:
        found = measure_file(
            model, device, evaluation=evaluation, pixels=pixels, images=images, protocol=protocol, out=out
        )
        print_wide(file_table(found))
    elif bundle is not None and evaluation is not None:
        found = run(bundle, evaluation, device, runtime, images=images, protocol=protocol, out=out)
    else:
        raise UsageError("a bundle is measured with its test set", hint="give --evaluation and its folder")
    with Store(store) as opened:
        opened.add(found)
    if as_json_:
        print_json(found)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    device: DeviceName = "local",
    runtime: Runtime = "onnxruntime",
    layers: Annotated[
        bool, typer.Option("--layers", help="A row for every tensor, not for every kind of node.")
    ] = False,
    as_json_: Json = False,
) -> None:
    """Run a bundle's golden vectors on a device and print how they compare; exits with 9 where they must not differ."""
    from devices.verify import table
    from devices.verify import verify as run

    verified = run(bundle, device, runtime)
    if as_json_:
        sys.stdout.write(json.dumps(verified.as_dict(), indent=1) + "\n")
    else:
        output.print(table(verified, by_tensor=layers))
    verified.require()


def classify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    images: Annotated[
        list[Path], typer.Argument(help="Image files, of any size where the bundle says what becomes of it.")
    ],
    device: DeviceName = "local",
    runtime: Runtime = "onnxruntime",
    as_json_: Json = False,
) -> None:
    """Print the class of each image: framed and normalised as the bundle says, run on a device."""
    from devices.classify import classify as run

    found = dict(zip(map(str, images), run(bundle, images, device, runtime), strict=True))
    if as_json_:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        output.print("\n".join(f"{name}: {label}" for name, label in found.items()), highlight=False, markup=False)
