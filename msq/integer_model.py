"""The integer model: the one intermediate representation that every lowering reads and the oracle runs.

A list of nodes (msq.nodes) over NHWC tensors, without a batch dimension in the shapes. It is stored as model.json (the
graph) beside weights.bin (packed codes, scales and biases at 64-byte boundaries, fit to be mapped into memory
and referred to by a runtime's own model file). Standard library and numpy only: it also runs on boards.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from msq.errors import BundleError
from msq.nodes import NODES, Array, Conv2d, Linear, Node, Tensor, Weight

SCHEMA = 1
ALIGNMENT = 64
GRAPH_FILE = "model.json"
WEIGHTS_FILE = "weights.bin"


@dataclass(frozen=True)
class Stored:
    """Where an array lies in weights.bin: byte offset (a multiple of 64), dtype name and shape."""

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes the array takes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class IntegerModel:
    """The graph: tensors by name, nodes in the order in which they run, one input and one output tensor."""

    tensors: dict[str, Tensor]
    nodes: tuple[Node, ...]
    input: str
    output: str
    placed: dict[str, Stored] = field(default_factory=dict, compare=False)
    """Where each array lies in weights.bin, by "<node name>.<array>"; empty until saved or loaded."""

    def weighted(self) -> Iterator[Conv2d | Linear]:
        """Yield the nodes that carry weights, in order."""
        for node in self.nodes:
            if isinstance(node, Conv2d | Linear):
                yield node

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights' bits fill: Σ bits · weights / 8, rounded up."""
        return -(-sum(node.weight.bits * node.weight.outputs * node.weight.inputs for node in self.weighted()) // 8)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of what lies beside the packed weights: scales, biases, constants, tables."""
        return sum(array.nbytes for node in self.nodes for name, array in node.arrays().items() if name != "packed")

    def save(self, folder: Path) -> "IntegerModel":
        """Write model.json and weights.bin into `folder`; return the model with `placed` filled in.

        Not atomic by itself: write into a folder that is moved into place when complete.
        """
        placed: dict[str, Stored] = {}
        with (folder / WEIGHTS_FILE).open("wb") as stream:
            for node in self.nodes:
                for name, array in node.arrays().items():
                    stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
                    placed[f"{node.name}.{name}"] = Stored(stream.tell(), array.dtype.name, tuple(array.shape))
                    stream.write(np.ascontiguousarray(array).tobytes())
        graph = {
            "schema_version": SCHEMA,
            "input": self.input,
            "output": self.output,
            "tensors": [asdict(tensor) for tensor in self.tensors.values()],
            "nodes": [node_to_json(node) for node in self.nodes],
            "arrays": {name: asdict(stored) for name, stored in placed.items()},
        }
        (folder / GRAPH_FILE).write_text(json.dumps(graph, indent=1) + "\n", encoding="utf-8")
        return IntegerModel(self.tensors, self.nodes, self.input, self.output, placed)

    @classmethod
    def load(cls, folder: Path) -> "IntegerModel":
        """Read model.json and map weights.bin into memory.

        Raises:
            BundleError: a file is missing, cut, of a newer schema or does not describe a model.
        """
        path = folder / GRAPH_FILE
        try:
            graph = json.loads(path.read_text(encoding="utf-8"))
            version = graph["schema_version"]
            if version > SCHEMA:
                raise BundleError(f"{path}: schema version {version} is newer than {SCHEMA}, the newest readable here")
            placed = {name: Stored(s["offset"], s["dtype"], tuple(s["shape"])) for name, s in graph["arrays"].items()}
            arrays = _map_arrays(folder / WEIGHTS_FILE, placed)
            tensors = {t["name"]: Tensor(**{**t, "shape": tuple(t["shape"])}) for t in graph["tensors"]}
            nodes = tuple(_node_from_json(entry, arrays) for entry in graph["nodes"])
            return cls(tensors, nodes, graph["input"], graph["output"], placed)
        except FileNotFoundError as error:
            raise BundleError(f"{error.filename}: no such file", hint="export the model again") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{path}: not an integer model: {error}", hint="export the model again") from None


def _map_arrays(path: Path, placed: Mapping[str, Stored]) -> dict[str, Array]:
    size = path.stat().st_size
    blob = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    arrays: dict[str, Array] = {}
    for name, stored in placed.items():
        end = stored.offset + stored.size
        if stored.offset < 0 or end > size:
            raise BundleError(f"{path}: {name} ends at byte {end}, the file at {size}", hint="export the model again")
        arrays[name] = blob[stored.offset : end].view(stored.dtype).reshape(stored.shape)
    return arrays


def node_to_json(node: Node) -> dict[str, Any]:
    """Return what model.json says of a node: all but its arrays."""
    entry: dict[str, Any] = {"kind": node.kind}
    for item in fields(node):
        value = getattr(node, item.name)
        if isinstance(value, Weight):
            names = ("bits", "a", "z", "shape", "depthwise")
            entry["weight"] = {name: getattr(value, name) for name in names}
        elif not isinstance(value, np.ndarray):
            entry[item.name] = value
    return entry


def _node_from_json(entry: Mapping[str, Any], arrays: Mapping[str, Array]) -> Node:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "kind"}
    name = entry["name"]
    if (weight := entry.get("weight")) is not None:
        values["weight"] = Weight(
            weight["bits"],
            weight["a"],
            weight["z"],
            tuple(weight["shape"]),
            arrays[f"{name}.packed"],
            arrays[f"{name}.scale"],
            weight["depthwise"],
        )
    try:
        kind = NODES[entry["kind"]]
    except KeyError:
        raise BundleError(f"node {name!r} has the unknown kind {entry['kind']!r}") from None
    values |= {item.name: arrays[key] for item in fields(kind) if (key := f"{name}.{item.name}") in arrays}
    make: Callable[..., Node] = kind
    return make(**values)
