"""The integer model: the one intermediate representation that every lowering reads and the oracle runs.

A list of nodes over NHWC tensors, without a batch dimension in the shapes. It is stored as model.json (the
graph) beside weights.bin (packed codes, scales and biases at 64-byte boundaries, fit to be mapped into memory
and referred to by a runtime's own model file). Standard library and numpy only: it also runs on boards.

Number semantics (exact, the same in every runtime):
    weight        w = a·u − z, real value scale[c] · w
    accumulate    acc = Σ (x − zero_point_x) · w in int32; padding pads with zero_point_x
    requantize    y = clamp(rint(float32(acc + bias) · m[c]) + zero_point_y),  m = (s_x · s_w[c]) / s_y in float32
    add           y = clamp(rint(float32(p − z_p) · (s_p/s_y)) + rint(float32(q − z_q) · (s_q/s_y)) + z_y)
    multiply      y = clamp(rint(float32((p − z_p) · (q − z_q)) · m) + z_y),  m = (s_p · s_q) / s_y in float32
    lookup        y = table[q + 128]
    average pool  as a convolution by weights 1 whose scale is 1/(height·width)
    quantize      y = clamp(rint(x / s_y) + z_y)
    matmul        acc = Σ_k (p − z_p) · (q − z_q) in int32, requantized by m = ((s_p · s_q) · factor) / s_y in float32
    softmax       e = table[max(x) − x];  y = quantize(float32(e) / float32(Σ e)), Σ in int32
    layer norm    d = n · x − Σ x,  v = n · Σ x² − (Σ x)² over the n features, as integers;
                  y = quantize((float32(d) / √(float32(v) + epsilon)) · γ + β)
rint rounds half to even. Every operation on float32 values is rounded to float32 by itself, in the order in which
parentheses and formulas give it; sums are of integers only, so their order does not matter.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from msq.errors import BundleError
from msq.packing import pack, unpack

SCHEMA = 1
ALIGNMENT = 64
GRAPH_FILE = "model.json"
WEIGHTS_FILE = "weights.bin"

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """An activation: float32, or int8 with real value scale · (q − zero_point).

    shape leaves the batch out: (height, width, channels), (tokens, features), (heads, tokens, features), (features,) …
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int8"]
    scale: float = 1.0
    zero_point: int = 0


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
class Weight:
    """A layer's packed weights.

    shape is (out, kernel height, kernel width, in / groups) for a convolution, (out, in) for a linear layer;
    packed is uint8 in the layout of msq.packing, over the matrix (out, everything else); scale is float32 (out,).
    """

    bits: int
    a: int
    z: int
    shape: tuple[int, ...]
    packed: NDArray[np.uint8]
    scale: NDArray[np.float32]

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Number of weights of one output channel."""
        return int(np.prod(self.shape[1:]))

    @classmethod
    def from_codes(cls, codes: NDArray[np.uint8], bits: int, a: int, z: int, scale: NDArray[np.float32]) -> "Weight":
        """Pack codes of shape (out, …). Raises BundleError when a code does not fit the width."""
        matrix = np.ascontiguousarray(codes).reshape(codes.shape[0], -1)
        return cls(bits, a, z, tuple(codes.shape), pack(matrix, bits), np.asarray(scale, np.float32))

    def codes(self) -> NDArray[np.uint8]:
        """Return the unsigned codes u, uint8, of `shape`."""
        return unpack(self.packed, self.outputs, self.inputs, self.bits).reshape(self.shape)

    def integers(self) -> NDArray[np.int8]:
        """Return w = a·u − z, int8, of `shape`; all zero at width 0."""
        if self.bits == 0:
            return np.zeros(self.shape, np.int8)
        return (self.a * self.codes().astype(np.int32) - self.z).astype(np.int8)


@dataclass(frozen=True)
class Node:
    """One operation. module is the path of the layer of the user's model that it came from."""

    kind: ClassVar[str]
    name: str
    inputs: tuple[str, ...]
    output: str
    module: str

    def arrays(self) -> dict[str, Array]:
        """Return what of the node lies in weights.bin, by name."""
        found: dict[str, Array] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Weight):
                found |= {"packed": value.packed, "scale": value.scale}
            elif isinstance(value, np.ndarray):
                found[item.name] = value
        return found


@dataclass(frozen=True)
class Quantize(Node):
    """float32 → int8: clamp(rint(x / scale) + zero_point)."""

    kind: ClassVar[str] = "quantize"
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class Dequantize(Node):
    """int8 → float32: float32(q − zero_point) · scale."""

    kind: ClassVar[str] = "dequantize"


@dataclass(frozen=True)
class Conv2d(Node):
    """Convolution, grouped or depthwise; clamp is the output range in codes (a ReLU is clamp[0] = zero_point)."""

    kind: ClassVar[str] = "conv2d"
    weight: Weight
    bias: NDArray[np.int32]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """top, left, bottom, right"""
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class Linear(Node):
    """Fully connected layer over the last dimension."""

    kind: ClassVar[str] = "linear"
    weight: Weight
    bias: NDArray[np.int32]
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class Add(Node):
    """Sum of two tensors of one rank, each first brought to the output's grid; a dimension of 1 is repeated."""

    kind: ClassVar[str] = "add"
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class AveragePool(Node):
    """Global average over height and width: (h, w, c) → (1, 1, c)."""

    kind: ClassVar[str] = "average_pool"
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class Lookup(Node):
    """Any function of one code: y = table[q + 128]. So activation functions are exact in every runtime."""

    kind: ClassVar[str] = "lookup"
    table: tuple[int, ...]


@dataclass(frozen=True)
class Multiply(Node):
    """Product of two tensors of one rank; a dimension of 1 is repeated."""

    kind: ClassVar[str] = "multiply"
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class MaxPool(Node):
    """Maximum over windows; padding never wins. Input and output share one grid."""

    kind: ClassVar[str] = "max_pool"
    kernel: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """top, left, bottom, right"""


@dataclass(frozen=True)
class Flatten(Node):
    """(h, w, c) → (h·w·c,). Input and output share one grid."""

    kind: ClassVar[str] = "flatten"


@dataclass(frozen=True)
class MatMul(Node):
    """Product of two activations, (…, m, k) · (…, k, n) → (…, m, n), times a real factor."""

    kind: ClassVar[str] = "matmul"
    factor: float = 1.0
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class Softmax(Node):
    """Softmax over the last dimension.

    table is int32 (256,): integers in proportion to e^(−s_x·d) for a code that is d below the largest of its row;
    table[0] times the length of a row is below 2^31.
    """

    kind: ClassVar[str] = "softmax"
    table: NDArray[np.int32]
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class LayerNorm(Node):
    """Layer normalization over the last dimension, of n features.

    gamma and beta are float32 (n,); epsilon, a float32, is n² · ε / s_x², for the integer variance v counts in such
    units. n is below 2^16.
    """

    kind: ClassVar[str] = "layer_norm"
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    epsilon: float
    clamp: tuple[int, int] = (-128, 127)


@dataclass(frozen=True)
class Reshape(Node):
    """The same codes in another shape, the last dimension running fastest. Input and output share one grid."""

    kind: ClassVar[str] = "reshape"


@dataclass(frozen=True)
class Transpose(Node):
    """The output's dimension i is the input's axes[i]; the batch is not counted. Both share one grid."""

    kind: ClassVar[str] = "transpose"
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Concat(Node):
    """Tensors one after another along axis, the batch not counted. All inputs lie on the output's grid."""

    kind: ClassVar[str] = "concat"
    axis: int


@dataclass(frozen=True)
class Slice(Node):
    """Indices start to stop − 1 of axis, the batch not counted. Input and output share one grid."""

    kind: ClassVar[str] = "slice"
    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Constant(Node):
    """A tensor that is the same for every image of a batch; it has no inputs. codes is int8, of the output's shape."""

    kind: ClassVar[str] = "constant"
    codes: NDArray[np.int8]


_ALL: tuple[type[Node], ...] = (
    Quantize, Dequantize, Conv2d, Linear, Add, AveragePool, Lookup, Multiply, MaxPool, Flatten,
    MatMul, Softmax, LayerNorm, Reshape, Transpose, Concat, Slice, Constant,
)  # fmt: skip
NODES = {cls.kind: cls for cls in _ALL}


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
            "nodes": [_node_to_json(node) for node in self.nodes],
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


def _node_to_json(node: Node) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": node.kind}
    for item in fields(node):
        value = getattr(node, item.name)
        if isinstance(value, Weight):
            entry["weight"] = {"bits": value.bits, "a": value.a, "z": value.z, "shape": value.shape}
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
        )
    try:
        kind = NODES[entry["kind"]]
    except KeyError:
        raise BundleError(f"node {name!r} has the unknown kind {entry['kind']!r}") from None
    values |= {item.name: arrays[key] for item in fields(kind) if (key := f"{name}.{item.name}") in arrays}
    make: Callable[..., Node] = kind
    return make(**values)
