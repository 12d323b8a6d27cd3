"""Random integer models for tests, built operation by operation."""

import numpy as np

from export.elementwise import exponentials
from msq.integer_model import IntegerModel
from msq.nodes import (
    Add,
    AveragePool,
    Concat,
    Constant,
    Conv2d,
    Dequantize,
    Flatten,
    LayerNorm,
    Linear,
    Lookup,
    MatMul,
    MaxPool,
    Multiply,
    Node,
    Quantize,
    Reshape,
    Slice,
    Softmax,
    Tensor,
    Transpose,
    Weight,
)

WHOLE = (-128, 127)


class Chain:
    """A random integer model, built operation by operation."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = {"input": Tensor("input", shape, "float32")}
        self.nodes: list[Node] = []
        self.last = self._add(Quantize, ("input",), self._grid(shape, 0.05), clamp=WHOLE)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors[self.last].shape

    def _grid(self, shape: tuple[int, ...], scale: float | None = None) -> Tensor:
        scale = float(np.float32(scale or self.rng.uniform(0.01, 0.2)))
        return Tensor(f"t{len(self.nodes)}", shape, "int8", scale, int(self.rng.integers(-128, 128)))

    def _same_grid(self, shape: tuple[int, ...]) -> Tensor:
        before = self.tensors[self.last]
        return Tensor(f"t{len(self.nodes)}", shape, "int8", before.scale, before.zero_point)

    def _clamp(self) -> tuple[int, int]:
        if self.rng.random() < 0.5:
            return WHOLE
        return int(self.rng.integers(-128, 0)), int(self.rng.integers(1, 128))

    def _add(self, kind: type[Node], inputs: tuple[str, ...], out: Tensor, **options: object) -> str:
        name = f"n{len(self.nodes)}"
        self.tensors[out.name] = out
        self.nodes.append(kind(name, inputs, out.name, f"net.{name}", **options))
        self.last = out.name
        return out.name

    def _weight(
        self, shape: tuple[int, ...], bits: int, scale: float, depthwise: bool = False
    ) -> tuple[Weight, np.ndarray]:
        a, z = (
            [(1, 2 ** (bits - 1)), (2, 2**bits - 1)][int(self.rng.integers(2)) if bits < 8 else 0] if bits else (1, 0)
        )
        codes = self.rng.integers(0, 2**bits, shape).astype(np.uint8)
        scales = (self.rng.uniform(0.2, 1, shape[0]) * self.rng.choice([-1, 1], shape[0]) * scale).astype(np.float32)
        bias = self.rng.integers(-2000, 2000, shape[0]).astype(np.int32)
        return Weight.from_codes(codes, bits, a, z, scales, depthwise), bias

    def conv(self, bits, outputs, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), groups=1):
        height, width, channels = self.shape
        rows = (height + padding[0] + padding[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        columns = (width + padding[1] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        scale = 0.2 / 2 ** max(bits - 1, 0) / np.sqrt(np.prod(kernel) * channels / groups)
        depthwise = groups == channels == outputs
        weight, bias = self._weight((outputs, *kernel, channels // groups), bits, scale, depthwise)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "clamp": self._clamp()}
        return self._add(
            Conv2d, (self.last,), self._grid((rows, columns, outputs)), weight=weight, bias=bias, **options
        )

    def linear(self, bits: int, outputs: int) -> str:
        weight, bias = self._weight((outputs, *self.shape), bits, 0.1 / 2 ** max(bits - 1, 0))
        out = self._grid((outputs,))
        return self._add(Linear, (self.last,), out, weight=weight, bias=bias, clamp=self._clamp())

    def add(self, other: str) -> str:
        shape = np.broadcast_shapes(self.shape, self.tensors[other].shape)
        return self._add(Add, (self.last, other), self._grid(shape), clamp=self._clamp())

    def multiply(self, other: str) -> str:
        shape = np.broadcast_shapes(self.shape, self.tensors[other].shape)
        return self._add(Multiply, (self.last, other), self._grid(shape, 0.5), clamp=self._clamp())

    def lookup(self) -> str:
        table = tuple(int(code) for code in self.rng.integers(-128, 128, 256))
        return self._add(Lookup, (self.last,), self._grid(self.shape), table=table)

    def average_pool(self) -> str:
        return self._add(AveragePool, (self.last,), self._grid((1, 1, self.shape[2])), clamp=self._clamp())

    def max_pool(self, kernel: int, stride: int, padding: int) -> str:
        rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in self.shape[:2])
        out = self._same_grid((rows, columns, self.shape[2]))
        options = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (padding,) * 4}
        return self._add(MaxPool, (self.last,), out, **options)

    def tokens(self) -> str:
        height, width, channels = self.shape
        return self._add(Reshape, (self.last,), self._same_grid((height * width, channels)))

    def constant(self, shape: tuple[int, ...]) -> str:
        codes = self.rng.integers(-128, 128, shape).astype(np.int8)
        return self._add(Constant, (), self._grid(shape), codes=codes)

    def tokens_linear(self, bits: int, outputs: int) -> str:
        weight, bias = self._weight((outputs, self.shape[-1]), bits, 0.1 / 2 ** max(bits - 1, 0))
        out = self._grid((*self.shape[:-1], outputs))
        return self._add(Linear, (self.last,), out, weight=weight, bias=bias, clamp=self._clamp())

    def matmul(self, left: str, right: str) -> str:
        (*leading, m, k), n = self.tensors[left].shape, self.tensors[right].shape[-1]
        options = {"factor": float(self.rng.uniform(0.1, 1)), "clamp": self._clamp()}
        return self._add(MatMul, (left, right), self._grid((*leading, m, n), 0.02 * k), **options)

    def softmax(self) -> str:
        source = self.tensors[self.last]
        out = Tensor(f"t{len(self.nodes)}", self.shape, "int8", float(np.float32(1 / 255)), -128)
        table = exponentials(source.scale, self.shape[-1])
        return self._add(Softmax, (self.last,), out, table=table, clamp=self._clamp())

    def layer_norm(self) -> str:
        n, scale = self.shape[-1], self.tensors[self.last].scale
        gamma, beta = self.rng.normal(0, 1, (2, n)).astype(np.float32)
        epsilon = float(np.float32(n * n * 1e-6 / (scale * scale)))
        options = {"gamma": gamma, "beta": beta, "epsilon": epsilon, "clamp": self._clamp()}
        return self._add(LayerNorm, (self.last,), self._grid(self.shape, 0.02), **options)

    def transpose(self, *axes: int) -> str:
        shape = tuple(self.shape[axis] for axis in axes)
        return self._add(Transpose, (self.last,), self._same_grid(shape), axes=axes)

    def reshape(self, *shape: int) -> str:
        return self._add(Reshape, (self.last,), self._same_grid(shape))

    def cut(self, axis: int, start: int, stop: int) -> str:
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        return self._add(Slice, (self.last,), self._same_grid(shape), axis=axis, start=start, stop=stop)

    def concat(self, other: str, axis: int) -> str:
        sizes = self.tensors[other].shape[axis] + self.shape[axis]
        shape = (*self.shape[:axis], sizes, *self.shape[axis + 1 :])
        return self._add(Concat, (other, self.last), self._same_grid(shape), axis=axis)

    def block(self, bits: int, heads: int, mlp: int) -> str:
        """A transformer's block over (tokens, features)."""
        before, (tokens, features) = self.last, self.shape
        self.layer_norm()
        self.tokens_linear(bits, 3 * features)
        self.reshape(tokens, 3, heads, features // heads)
        qkv, parts = self.transpose(1, 2, 0, 3), []
        for index in range(3):
            self.last = qkv
            self.cut(0, index, index + 1)
            parts.append(self.reshape(heads, tokens, features // heads))
        q, k, v = parts
        self.last = k
        self.matmul(q, self.transpose(0, 2, 1))
        self.matmul(self.softmax(), v)
        self.transpose(1, 0, 2)
        self.reshape(tokens, features)
        self.tokens_linear(bits, features)
        before = self.add(before)
        self.layer_norm()
        self.tokens_linear(bits, mlp)
        self._add(Lookup, (self.last,), self._grid(self.shape), table=tuple(range(127, -129, -1)))
        self.tokens_linear(bits, features)
        return self.add(before)

    def flatten(self) -> str:
        return self._add(Flatten, (self.last,), self._same_grid((int(np.prod(self.shape)),)))

    def model(self) -> IntegerModel:
        self.tensors["output"] = Tensor("output", self.shape, "float32")
        last = Dequantize("last", (self.last,), "output", "")
        return IntegerModel(self.tensors, (*self.nodes, last), "input", "output")

    def images(self, count: int = 2) -> np.ndarray:
        return self.rng.normal(0, 4, (count, *self.tensors["input"].shape)).astype(np.float32)


def transformer(seed: int = 0) -> Chain:
    chain = Chain(seed, (8, 8, 3))
    chain.conv(8, 12, (2, 2), (2, 2), (0,) * 4)
    chain.tokens()
    chain.add(chain.constant((16, 12)))
    chain.block(5, 3, 20)
    chain.block(3, 2, 24)
    chain.layer_norm()
    chain.cut(0, 0, 1)
    chain.reshape(12)
    chain.linear(4, 10)
    return chain


def everything(seed: int = 0) -> Chain:
    """A model with every operation, and layers of every width."""
    chain = Chain(seed, (9, 8, 3))
    chain.conv(3, 18)
    wide = chain.conv(5, 18, (3, 3), (1, 1))
    chain.conv(7, 18, groups=3)
    chain.add(wide)
    deep = chain.conv(4, 18, groups=18)
    chain.multiply(wide)
    chain.lookup()
    chain.conv(0, 18)
    chain.add(deep)
    whole = chain.add(chain.last)
    gate = chain.average_pool()
    chain.last = whole
    chain.multiply(gate)
    chain.max_pool(3, 2, 1)
    chain.conv(2, 20, (2, 3), (2, 1), (1, 0, 2, 1), (1, 2), 2)
    chain.tokens()
    chain.transpose(1, 0)
    part = chain.cut(0, 3, 9)
    chain.concat(part, 0)
    chain.transpose(1, 0)
    chain.tokens_linear(1, 12)
    rows = chain.layer_norm()
    chain.matmul(rows, chain.transpose(1, 0))
    chain.softmax()
    chain.add(chain.constant(chain.shape))
    chain.flatten()
    chain.linear(6, 10)
    chain.linear(8, 7)
    return chain
