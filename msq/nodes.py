"""What the integer model is made of: tensors, packed weights and operations, and exactly what each operation computes.

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

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from msq.packing import pack, unpack

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
class Weight:
    """A layer's packed weights.

    shape is (out, kernel height, kernel width, in / groups) for a convolution, (out, in) for a linear layer;
    packed is uint8 in the layout of msq.packing, over the matrix (out, everything else); scale is float32 (out,).
    depthwise: every output has an input channel of its own, and the layout is that of depthwise layers.
    """

    bits: int
    a: int
    z: int
    shape: tuple[int, ...]
    packed: NDArray[np.uint8]
    scale: NDArray[np.float32]
    depthwise: bool = False

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Number of weights of one output channel."""
        return int(np.prod(self.shape[1:]))

    @classmethod
    def from_codes(
        cls, codes: NDArray[np.uint8], bits: int, a: int, z: int, scale: NDArray[np.float32], depthwise: bool = False
    ) -> "Weight":
        """Pack codes of shape (out, …). Raises BundleError when a code does not fit the width."""
        matrix = np.ascontiguousarray(codes).reshape(codes.shape[0], -1)
        packed = pack(matrix, bits, depthwise)
        return cls(bits, a, z, tuple(codes.shape), packed, np.asarray(scale, np.float32), depthwise)

    def codes(self) -> NDArray[np.uint8]:
        """Return the unsigned codes u, uint8, of `shape`."""
        return unpack(self.packed, self.outputs, self.inputs, self.bits, self.depthwise).reshape(self.shape)

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
