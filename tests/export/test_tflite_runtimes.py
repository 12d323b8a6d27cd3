"""The table of what runs where, held to the runtimes themselves: a file runs where it says, and only there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from devices import provision
from export.lowerings import tflite, tflite_stock
from export.lowerings._tflite_file import File, Operator, Type, schema
from export.lowerings._tflite_layers import packed
from export.lowerings._tflite_runtimes import good_for, table
from runtimes import tflite_runtime
from runtimes._litert import LITERT, TFLITE_RUNTIME, Release
from tests.export.chains import Chain

_RUN = """
import sys
from {module} import Interpreter
model = Interpreter(model_path=sys.argv[1], num_threads=1)
model.allocate_tensors()
model.invoke()
"""
RELEASES = {"LiteRT": LITERT, "tflite-runtime": TFLITE_RUNTIME}


def runs(path: Path, release: Release) -> bool:
    """Whether a runtime, in a process of its own, runs a file."""
    own = str(provision.own_site(tflite_runtime.PACKAGES)) if release is TFLITE_RUNTIME else ""
    command = [sys.executable, "-c", _RUN.format(module=release.module), str(path)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": own}, capture_output=True).returncode == 0


def layer(operator: int, options: object, shape: tuple[int, ...], bits: int) -> bytes:
    """A file of one layer of 8 outputs and inputs, its weights of so many bits."""
    file = File("layer")
    graph = file.subgraph("layer")
    size = (1, 4, 4, 8) if len(shape) == 4 else (1, 8)
    x, y = (graph.tensor(name, size, Type.INT8, scales=[0.05]) for name in "xy")
    axis = 3 if operator == Operator.DEPTHWISE_CONV_2D else 0
    kind, data = {8: Type.INT8, 4: Type.INT4, 2: Type.INT2}[bits], packed(np.ones(shape, np.int8), bits)
    w = graph.tensor("w", shape, kind, scales=[0.01] * 8, axis=axis, data=data)
    b = graph.tensor("b", (8,), Type.INT32, scales=[0.0005] * 8, data=np.zeros(8, np.int32))
    graph.add(operator, [x, w, b], y, options)
    graph.close([x], [y])
    return file.content()


def spatial(options: object) -> object:
    options.padding = schema.Padding.SAME  # type: ignore[attr-defined]
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1  # type: ignore[attr-defined]
    options.depthMultiplier = 1  # type: ignore[attr-defined]
    return options


def linear(bits: int) -> bytes:
    return layer(Operator.FULLY_CONNECTED, schema.FullyConnectedOptionsT(), (8, 8), bits)


CASES = {
    "linear 8": linear(8),
    "linear 4": linear(4),
    "linear 2": linear(2),
    "convolution": layer(Operator.CONV_2D, spatial(schema.Conv2DOptionsT()), (8, 3, 3, 8), 8),
    "depthwise": layer(Operator.DEPTHWISE_CONV_2D, spatial(schema.DepthwiseConv2DOptionsT()), (1, 3, 3, 8), 8),
}


def transformer() -> Chain:
    """Nearly every node there is."""
    chain = Chain(3, (4, 4, 4))
    first = chain.conv(8, 4)
    chain.conv(4, 4, groups=4)
    chain.add(first)
    chain.max_pool(2, 2, 1)
    chain.tokens()
    chain.block(3, 2, 4)
    chain.layer_norm()
    chain.cut(0, 0, 1)
    chain.reshape(4)
    chain.linear(8, 2)
    return chain


def test_the_table_tells_of_the_releases_that_are_used_here():
    assert list(table()) == [f"LiteRT {LITERT.version()}", tflite_runtime.PACKAGES[0].split(";")[0].replace("==", " ")]


@pytest.mark.parametrize("content", CASES.values(), ids=CASES)
def test_layers_run_where_the_table_says(tmp_path: Path, content: bytes):
    (tmp_path / "layer.tflite").write_bytes(content)
    for runtime in table():
        release = RELEASES[runtime.split()[0]]
        assert runs(tmp_path / "layer.tflite", release) == (runtime in good_for(content))


def test_all_other_operators_run_in_every_runtime(tmp_path: Path):
    content = tflite_stock.build(transformer().model(), containers="int8")
    (tmp_path / "all.tflite").write_bytes(content)
    assert good_for(content) == tuple(table())
    assert all(runs(tmp_path / "all.tflite", release) for release in RELEASES.values())


def test_packed_files_are_for_all_that_take_our_delegate():
    model = transformer().model()
    assert good_for(tflite.build(model, [model.output])) == tuple(table())
