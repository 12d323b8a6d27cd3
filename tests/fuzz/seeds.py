"""Inputs that fuzzing starts from: small things that are right, of every kind that a fuzz target reads."""

import hashlib
import io
import json
import struct
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from flatbuffers import flexbuffers

from msq.integer_model import GRAPH_FILE, WEIGHTS_FILE, IntegerModel
from tests.export.chains import Chain


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Yield target, name and content of every seed."""
    for name, chain in _chains():
        text, weights = _files(chain.model())
        yield "model", name, text + b"\0\x01" + weights
        yield "json", name, text
        for entry in json.loads(text)["nodes"]:
            yield "flexbuffer", f"{name}-{entry['name']}", bytes(flexbuffers.Dumps(entry))
    for name, array in _arrays():
        stream = io.BytesIO()
        np.save(stream, array)
        yield "npy", name, stream.getvalue()
    yield "manifest", "rgb", _manifest([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    yield "manifest", "grey", _manifest([0.5], [0.5])
    for name, description in _layers():
        yield "layer", name, description


def _files(model: IntegerModel) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        graph = json.loads(Path(folder, GRAPH_FILE).read_text(encoding="utf-8"))
        return json.dumps(graph, separators=(",", ":")).encode(), Path(folder, WEIGHTS_FILE).read_bytes()


def _chains() -> Iterator[tuple[str, Chain]]:
    """Models of all operations between them, as small as they can be."""
    chain = Chain(0, (5, 4, 3))
    first = chain.conv(3, 4)
    chain.conv(2, 4)
    chain.add(first)
    chain.conv(5, 6, (1, 1), (2, 2), (0,) * 4)
    chain.average_pool()
    chain.flatten()
    chain.linear(4, 3)
    yield "residual", chain

    chain = Chain(1, (6, 5, 2))
    chain.conv(8, 16, (3, 2), padding=(1, 0, 1, 1))
    chain.conv(4, 16, groups=16)
    chain.conv(1, 8, (1, 3), padding=(0, 2, 0, 2), dilation=(1, 2), groups=2)
    chain.max_pool(2, 2, 1)
    yield "separable", chain

    chain = Chain(2, (4, 4, 6))
    whole = chain.conv(0, 6, (1, 1), padding=(0,) * 4)
    gate = chain.average_pool()
    chain.last = whole
    chain.multiply(gate)
    chain.lookup()
    chain.concat(whole, 2)
    yield "gated", chain

    chain = Chain(3, (2, 2, 3))
    chain.conv(8, 4, (1, 1), padding=(0,) * 4)
    chain.tokens()
    chain.add(chain.constant((4, 4)))
    chain.block(3, 2, 4)
    chain.layer_norm()
    chain.cut(0, 0, 1)
    chain.reshape(4)
    chain.linear(6, 2)
    yield "transformer", chain


def _arrays() -> Iterator[tuple[str, np.ndarray]]:
    yield "float32", np.zeros((2, 2, 1, 3), np.float32)
    yield "uint8", np.zeros((1, 2, 2, 1), np.uint8)
    yield "labels", np.arange(3, dtype=np.int64)


def _manifest(mean: list[float], std: list[float]) -> bytes:
    files = {name: hashlib.sha256(b"").hexdigest() for name in (GRAPH_FILE, WEIGHTS_FILE)}
    return json.dumps({"files": files, "input": {"mean": mean, "std": std}}).encode()


def _layers() -> Iterator[tuple[str, bytes]]:
    """Descriptions as layer.c reads them, each with a little to fill arrays with."""
    shapes = {  # outputs, inputs, groups, depthwise, kernel, stride, dilation, padding, batch, height, width
        "linear": (20, 36, 1, 0, 1, 1, 1, 1, 1, 1, *(0,) * 4, 1, 1, 2),
        "wide": (70, 12, 1, 0, 1, 1, 1, 1, 1, 1, *(0,) * 4, 1, 3, 4),
        "far": (128, 384, 1, 0, 1, 1, 1, 1, 1, 1, *(0,) * 4, 1, 2, 4),
        "pointwise": (17, 12, 1, 0, 1, 1, 1, 1, 1, 1, *(0,) * 4, 2, 4, 3),
        "strided": (8, 6, 1, 0, 1, 1, 2, 2, 1, 1, *(0,) * 4, 1, 5, 5),
        "first": (16, 3, 1, 0, 3, 3, 2, 2, 1, 1, *(1,) * 4, 1, 7, 8),
        "slid": (16, 8, 1, 0, 3, 3, 1, 1, 1, 1, *(1,) * 4, 1, 3, 18),
        "slid-first": (12, 3, 1, 0, 3, 3, 1, 1, 1, 1, *(1,) * 4, 2, 4, 13),
        "two-panels": (32, 16, 1, 0, 3, 3, 1, 1, 1, 1, *(1,) * 4, 1, 6, 8),
        "grouped": (24, 5, 3, 0, 3, 2, 1, 1, 1, 2, 1, 0, 1, 2, 3, 6, 5),
        "broad": (100, 1, 100, 1, 3, 3, 1, 1, 1, 1, *(1,) * 4, 1, 4, 5),
        "depthwise": (9, 1, 9, 1, 3, 3, 1, 1, 1, 1, *(1,) * 4, 1, 5, 6),
    }
    filling = np.random.default_rng(0).normal(0, 1e-2, 24).astype(np.float32).tobytes()
    for (index, (name, shape)), bits in product(enumerate(shapes.items()), (0, 3, 8)):
        *layer, batch, height, width = shape
        a, z = (2, 2**bits - 1) if index % 2 and bits < 8 else (1, 2**bits // 2)
        yield f"{name}-{bits}", struct.pack(
            "<4B17i2f7i2f2b2x", index, index, index, 0, bits, a, z, *layer, 0.05, 0.1, 3, -4, -128, 127,
            batch, height, width, 0.7, 1.2, 1, -2,
        ) + filling  # fmt: skip
