"""The oracle against torch's float64 convolutions and against its own definition, element by element."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import runtimes
from export.elementwise import exponentials
from msq.errors import BundleError
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
    MatMul,
    MaxPool,
    Node,
    Quantize,
    Reshape,
    Slice,
    Softmax,
    Tensor,
    Transpose,
    Weight,
)
from runtimes.reference import BATCH, ReferenceSession

SCALE = 0.5


def int8(name: str, shape: tuple[int, ...], scale: float = SCALE, zero_point: int = 0) -> Tensor:
    return Tensor(name, shape, "int8", float(np.float32(scale)), zero_point)


def run(nodes: list[Node], tensors: list[Tensor], codes: np.ndarray) -> dict[str, np.ndarray]:
    """Run nodes on codes: the input's grid has scale 1 and zero point 0, so that its codes are its values."""
    shape = codes.shape[1:]
    source = [Tensor("input", shape, "float32"), tensors[0]]
    first = Quantize("quantize", ("input",), tensors[0].name, "")
    last = Dequantize("dequantize", (nodes[-1].output,), "output", "")
    output = Tensor("output", tensors[-1].shape, "float32")
    model = IntegerModel(
        {tensor.name: tensor for tensor in (*source, *tensors[1:], output)}, (first, *nodes, last), "input", "output"
    )
    real = (codes.astype(np.float32) - np.float32(tensors[0].zero_point)) * np.float32(tensors[0].scale)
    values = ReferenceSession(model).tensors(real)
    np.testing.assert_array_equal(values[tensors[0].name], codes)
    return values


def random_codes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape).astype(np.int8)


def requantized(sums: np.ndarray, scale: np.ndarray, x: Tensor, y: Tensor, clamp: tuple[int, int]) -> np.ndarray:
    multiplier = np.float32(x.scale) * scale / np.float32(y.scale)
    rounded = np.rint(sums.astype(np.int32).astype(np.float32) * multiplier).astype(np.float64)
    return np.clip(rounded + y.zero_point, *clamp).astype(np.int8)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(1, 8),
    groups=st.sampled_from([1, 2, 3]),
    depth=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
)
def test_convolution_sums_equal_torch_float64(seed, bits, groups, depth, kernel, stride, dilation, padding):
    rng = np.random.default_rng(seed)
    outputs = groups * 2
    a, z = (1, 2 ** (bits - 1)) if bits == 8 else (2, 2**bits - 1)
    codes = rng.integers(0, 2**bits, (outputs, *kernel, depth)).astype(np.uint8)
    scale = rng.uniform(-0.02, 0.02, outputs).astype(np.float32)
    weight = Weight.from_codes(codes, bits, a, z, scale)
    bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
    x = random_codes(rng, 2, 7, 6, groups * depth)
    zero_point = int(rng.integers(-128, 128))
    top, left, bottom, right = padding
    real = torch.from_numpy(x.astype(np.float64) - zero_point).permute(0, 3, 1, 2)
    real = torch.nn.functional.pad(real, (left, right, top, bottom))
    kernels = torch.from_numpy(weight.integers().astype(np.float64)).permute(0, 3, 1, 2)
    sums = torch.nn.functional.conv2d(real, kernels, None, stride, 0, dilation, groups).permute(0, 2, 3, 1).numpy()
    source, result = int8("x", x.shape[1:], 0.25, zero_point), int8("y", sums.shape[1:], 0.5, -7)
    node = Conv2d("conv", ("x",), "y", "", weight, bias, stride, padding, dilation, groups, (-100, 90))
    found = run([node], [source, result], x)["y"]
    np.testing.assert_array_equal(found, requantized(sums + bias, scale, source, result, node.clamp))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(1, 700), outputs=st.integers(1, 20))
def test_linear_sums_equal_int64_arithmetic(seed, inputs, outputs):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0, 0.01, outputs).astype(np.float32)
    weight = Weight.from_codes(rng.integers(0, 256, (outputs, inputs)).astype(np.uint8), 8, 1, 128, scale)
    bias = rng.integers(-(2**20), 2**20, outputs).astype(np.int32)
    x = random_codes(rng, 3, inputs)
    source, result = int8("x", (inputs,), 0.125, 127), int8("y", (outputs,), 0.5, 3)
    sums = (x.astype(np.int64) - 127) @ weight.integers().astype(np.int64).T + bias
    found = run([Linear("fc", ("x",), "y", "", weight, bias)], [source, result], x)["y"]
    np.testing.assert_array_equal(found, requantized(sums, scale, source, result, (-128, 127)))


def test_sums_beyond_float32_stay_exact():
    inputs = 4000
    weight = Weight.from_codes(np.full((1, inputs), 255, np.uint8), 8, 1, 128, np.array([1e-6], np.float32))
    x = np.full((1, inputs), 127, np.int8)
    x[0, 0] = 126
    sums = np.array([[127 * (127 * inputs - 1)]])
    source, result = int8("x", (inputs,)), int8("y", (1,), 1e-3)
    found = run([Linear("fc", ("x",), "y", "", weight, np.zeros(1, np.int32))], [source, result], x)["y"]
    np.testing.assert_array_equal(found, requantized(sums, weight.scale, source, result, (-128, 127)))


@settings(max_examples=30, deadline=None)
@given(
    scales=st.tuples(*[st.floats(0.01, 10)] * 3),
    zero_points=st.tuples(*[st.integers(-128, 127)] * 3),
    clamp=st.tuples(st.integers(-128, 0), st.integers(1, 127)),
)
def test_addition_rounds_each_operand_to_the_grid_of_the_result(scales, zero_points, clamp):
    p, y = int8("p", (16, 16, 1), scales[0], zero_points[0]), int8("y", (16, 16, 1), scales[2], zero_points[2])
    q = int8("q", (16, 16, 1), p.scale, p.zero_point)
    codes = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
    found = run(
        [MaxPool("same", ("p",), "q", "", (1, 1), (1, 1)), Add("add", ("p", "q"), "y", "", clamp)], [p, q, y], codes
    )["y"]
    ratio = np.float32(p.scale) / np.float32(y.scale)
    expected = []
    for code in codes.reshape(-1):
        step = int(np.rint(np.float32(int(code) - p.zero_point) * ratio))
        expected.append(min(max(2 * step + y.zero_point, clamp[0]), clamp[1]))
    np.testing.assert_array_equal(found.reshape(-1), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 9), width=st.integers(1, 9))
def test_average_pool_is_the_mean_within_half_a_step(seed, height, width):
    x = random_codes(np.random.default_rng(seed), 2, height, width, 3)
    source, result = int8("x", x.shape[1:], 1.0, 5), int8("y", (1, 1, 3), 1.0, -4)
    found = run([AveragePool("pool", ("x",), "y", "")], [source, result], x)["y"]
    mean = (x.astype(np.float64) - 5).mean(axis=(1, 2), keepdims=True) - 4
    assert np.abs(found - np.clip(mean, -128, 127)).max() <= 0.5 + 1e-4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kernel=st.integers(1, 3), stride=st.integers(1, 3), data=st.data())
def test_max_pool_equals_torch(seed, kernel, stride, data):
    padding = data.draw(st.integers(0, kernel // 2))
    x = random_codes(np.random.default_rng(seed), 2, 7, 6, 3)
    expected = torch.nn.functional.max_pool2d(
        torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2), kernel, stride, padding
    )
    expected = expected.permute(0, 2, 3, 1).numpy()
    node = MaxPool("pool", ("x",), "y", "", (kernel, kernel), (stride, stride), (padding,) * 4)
    found = run([node], [int8("x", x.shape[1:]), int8("y", expected.shape[1:])], x)["y"]
    np.testing.assert_array_equal(found, expected)


def real(codes: np.ndarray, grid: Tensor) -> torch.Tensor:
    return (torch.from_numpy(codes.astype(np.float64)) - grid.zero_point) * grid.scale


def codes_apart(found: np.ndarray, expected: torch.Tensor, grid: Tensor, clamp: tuple[int, int]) -> float:
    """Return how far codes lie from the real codes of what torch computes."""
    return float(np.abs(found - np.clip((expected / grid.scale + grid.zero_point).numpy(), *clamp)).max())


grids = st.tuples(st.floats(0.01, 0.2), st.integers(-128, 127))
clamps = st.tuples(st.integers(-128, 0), st.integers(1, 127))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    leading=st.lists(st.integers(1, 3), max_size=2),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 300), st.integers(1, 9)),
    grids=st.tuples(grids, grids, grids),
    factor=st.floats(0.05, 1),
    clamp=clamps,
)
def test_product_of_activations_is_torchs_within_half_a_code(seed, leading, sizes, grids, factor, clamp):
    rng, (m, k, n) = np.random.default_rng(seed), sizes
    p, q = int8("p", (*leading, m, k), *grids[0]), int8("q", (*leading, k, n), *grids[1])
    y = int8("y", (*leading, m, n), grids[2][0] * k, grids[2][1])
    x, other = random_codes(rng, 2, *p.shape), random_codes(rng, *q.shape)
    nodes = [Constant("c", (), "q", "", other), MatMul("product", ("p", "q"), "y", "", factor, clamp)]
    found = run(nodes, [p, q, y], x)["y"]
    product = torch.matmul(real(x, p), real(other, q)) * factor
    assert codes_apart(found, product, y, clamp) <= 0.5 + 1e-3


def test_products_beyond_float32_stay_exact():
    x = np.full((1, 1, 4001), 127, np.int8)
    x[..., 0] = 126
    y = int8("y", (1, 1), 2.0**20)
    right = Constant("c", (), "q", "", np.full((4001, 1), 127, np.int8))
    found = run(
        [right, MatMul("m", ("p", "q"), "y", "", 1.0)],
        [int8("p", (1, 4001), 1, -128), int8("q", (4001, 1), 1, -128), y],
        x,
    )
    sums = 255 * 255 * 4001 - 255
    assert found["y"].item() == min(np.rint(np.float32(sums) / np.float32(2**20)), 127)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 600)),
    grid=grids,
    narrow=st.integers(1, 255),
    bits=st.integers(2, 8),
)
def test_softmax_is_torchs_within_one_code(seed, shape, grid, narrow, bits):
    codes = np.random.default_rng(seed).integers(-128, narrow - 127, (2, *shape)).astype(np.int8)
    x, y, clamp = int8("x", shape, *grid), int8("y", shape, 1 / (2**bits - 1), -128), (-128, 2**bits - 129)
    node = Softmax("softmax", ("x",), "y", "", exponentials(x.scale, shape[-1]), clamp)
    found = run([node], [x, y], codes)["y"]
    assert codes_apart(found, torch.softmax(real(codes, x), -1), y, clamp) <= 0.51


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 4), max_size=2).flatmap(
        lambda leading: st.integers(1, 800).map(lambda features: (*leading, features))
    ),
    spread=st.integers(0, 127),
    grids=st.tuples(grids, grids),
    clamp=clamps,
)
def test_layer_norm_is_torchs_within_one_code(seed, shape, spread, grids, clamp):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-spread, spread + 1, (2, *shape)).astype(np.int8)
    x, y, n = int8("x", shape, *grids[0]), int8("y", shape, *grids[1]), shape[-1]
    gamma, beta = rng.normal(0, 1, n).astype(np.float32), rng.normal(0, 1, n).astype(np.float32)
    epsilon = float(np.float32(n * n * 1e-6 / x.scale**2))
    found = run([LayerNorm("norm", ("x",), "y", "", gamma, beta, epsilon, clamp)], [x, y], codes)["y"]
    weights = [torch.from_numpy(array.astype(np.float64)) for array in (gamma, beta)]
    wanted = torch.nn.functional.layer_norm(real(codes, x), (n,), *weights, eps=1e-6)
    assert codes_apart(found, wanted, y, clamp) <= 0.51


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.lists(st.integers(1, 5), min_size=2, max_size=4), data=st.data())
def test_codes_are_moved_as_torch_moves_them(seed, shape, data):
    codes = random_codes(np.random.default_rng(seed), 2, *shape)
    axes = data.draw(st.permutations(range(len(shape))))
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    x = int8("x", tuple(shape))
    moved = torch.from_numpy(codes).permute(0, *(axis + 1 for axis in axes)).contiguous()
    cut = torch.from_numpy(codes).narrow(axis + 1, start, shape[axis] - start)
    both = torch.cat([cut, torch.from_numpy(codes)], axis + 1)
    tensors = [int8("moved", tuple(moved.shape[1:])), int8("flat", (codes[0].size,)), int8("cut", tuple(cut.shape[1:]))]
    nodes = [
        Transpose("transpose", ("x",), "moved", "", tuple(axes)),
        Reshape("reshape", ("moved",), "flat", ""),
        Slice("slice", ("x",), "cut", "", axis, start, shape[axis]),
        Concat("concat", ("cut", "x"), "both", "", axis),
    ]
    found = run(nodes, [x, *tensors, int8("both", tuple(both.shape[1:]))], codes)
    for name, wanted in (("moved", moved), ("flat", moved.reshape(2, -1)), ("cut", cut), ("both", both)):
        np.testing.assert_array_equal(found[name], wanted.numpy())


def test_quantize_rounds_half_to_even_and_clamps():
    tensor = int8("q", (6,), 2.0, 1)
    model = IntegerModel(
        {"input": Tensor("input", (6,), "float32"), "q": tensor, "output": Tensor("output", (6,), "float32")},
        (Quantize("quantize", ("input",), "q", "", (-8, 7)), Dequantize("dequantize", ("q",), "output", "")),
        "input",
        "output",
    )
    values = ReferenceSession(model).tensors(np.array([[1, 3, -1, 5, 1e30, -1e30]], np.float32))
    assert values["q"].tolist() == [[1, 3, 1, 3, 7, -8]]
    assert values["output"].tolist() == [[0, 4, 0, 4, 12, -18]]


def small_model() -> IntegerModel:
    rng = np.random.default_rng(0)
    weight = Weight.from_codes(rng.integers(0, 8, (3, 12)).astype(np.uint8), 3, 2, 7, np.full(3, 0.01, np.float32))
    tensors = [
        Tensor("input", (2, 2, 3), "float32"),
        int8("x", (2, 2, 3)),
        int8("flat", (12,)),
        int8("y", (3,), 0.1),
        Tensor("output", (3,), "float32"),
    ]
    nodes = (
        Quantize("quantize", ("input",), "x", ""),
        Flatten("flatten", ("x",), "flat", ""),
        Linear("fc", ("flat",), "y", "fc", weight, np.zeros(3, np.int32)),
        Dequantize("dequantize", ("y",), "output", ""),
    )
    return IntegerModel({tensor.name: tensor for tensor in tensors}, nodes, "input", "output")


def test_batches_of_run_give_what_one_batch_gives(tmp_path: Path):
    small_model().save(tmp_path)
    session = runtimes.adapter("reference").load(tmp_path, 1)
    images = np.random.default_rng(1).normal(0, 20, (BATCH + 5, 2, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(session.run(images), session.tensors(images)["output"])


def test_tensors_are_every_int8_tensor_and_the_output():
    values = ReferenceSession(small_model()).tensors(np.zeros((1, 2, 2, 3), np.float32))
    assert {name: value.dtype.name for name, value in values.items()} == {
        "x": "int8",
        "flat": "int8",
        "y": "int8",
        "output": "float32",
    }


def test_weights_file_that_was_cut_is_refused(tmp_path: Path):
    small_model().save(tmp_path)
    path = tmp_path / "weights.bin"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BundleError, match=r"weights\.bin"):
        runtimes.adapter("reference").load(tmp_path, 1)
