"""The integer model on disk: what is saved is loaded, and a damaged folder is refused with its reason."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.errors import BundleError
from msq.integer_model import ALIGNMENT, GRAPH_FILE, WEIGHTS_FILE, IntegerModel
from msq.nodes import (
    NODES,
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
    Quantize,
    Reshape,
    Slice,
    Softmax,
    Tensor,
    Transpose,
    Weight,
)


def weight(shape: tuple[int, ...], bits: int, seed: int) -> Weight:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << bits, shape, dtype=np.uint8)
    scale = random.random(shape[0], dtype=np.float32) + np.float32(0.01)
    return Weight.from_codes(codes, bits, a=1, z=1 << bits >> 1, scale=scale)


def small_model(bits: tuple[int, int, int] = (3, 5, 2)) -> IntegerModel:
    """Every kind of node once or twice: a residual block on a 6×6 image of three channels, then a little attention."""
    int8 = {"dtype": "int8", "scale": 0.05, "zero_point": -3}
    tensors = (
        Tensor("x", (6, 6, 3), "float32"),
        Tensor("q", (6, 6, 3), **int8),
        Tensor("c1", (6, 6, 18), **int8),
        Tensor("c2", (6, 6, 18), **int8),
        Tensor("c3", (6, 6, 18), **int8),
        Tensor("c4", (6, 6, 18), **int8),
        Tensor("sum", (6, 6, 18), **int8),
        Tensor("small", (3, 3, 18), **int8),
        Tensor("mean", (1, 1, 18), **int8),
        Tensor("tokens", (9, 18), **int8),
        Tensor("turned", (18, 9), **int8),
        Tensor("products", (9, 9), **int8),
        Tensor("shares", (9, 9), **int8),
        Tensor("token", (1, 9), **int8),
        Tensor("joined", (10, 9), **int8),
        Tensor("normal", (10, 9), **int8),
        Tensor("cut", (8, 9), **int8),
        Tensor("flat", (18,), **int8),
        Tensor("scores", (10,), **int8),
        Tensor("y", (10,), "float32"),
    )

    def bias(n: int) -> np.ndarray:
        return np.arange(n, dtype=np.int32) * 1000 - 5

    nodes = (
        Quantize("quantize", ("x",), "q", ""),
        Conv2d("conv1", ("q",), "c1", "stem.conv", weight((18, 3, 3, 3), bits[0], 1), bias(18), padding=(1, 1, 1, 1)),
        Conv2d(
            "conv2",
            ("c1",),
            "c2",
            "block.conv",
            weight((18, 3, 3, 1), bits[1], 2),
            bias(18),
            padding=(2, 2, 2, 2),
            dilation=(2, 2),
            groups=18,
            clamp=(-3, 127),
        ),
        Lookup("lookup", ("c2",), "c3", "block.act", tuple(range(127, -129, -1))),
        Multiply("multiply", ("c1", "c3"), "c4", "block", clamp=(-100, 100)),
        Add("add", ("c4", "c2"), "sum", "block", clamp=(-3, 127)),
        MaxPool("max_pool", ("sum",), "small", "pool"),
        Reshape("reshape", ("small",), "tokens", "attention"),
        Transpose("transpose", ("tokens",), "turned", "attention", (1, 0)),
        MatMul("matmul", ("tokens", "turned"), "products", "attention", 0.125, (-100, 127)),
        Softmax("softmax", ("products",), "shares", "attention", np.arange(256, 0, -1, dtype=np.int32)),
        Constant("token", (), "token", "", np.arange(9, dtype=np.int8).reshape(1, 9)),
        Concat("concat", ("token", "shares"), "joined", "", 0),
        LayerNorm("norm", ("joined",), "normal", "norm", np.ones(9, np.float32), np.zeros(9, np.float32), 1e-3),
        Slice("slice", ("normal",), "cut", "", 0, 1, 9),
        AveragePool("pool", ("small",), "mean", "mean"),
        Flatten("flatten", ("mean",), "flat", "flatten"),
        Linear("linear", ("flat",), "scores", "linear", weight((10, 18), bits[2], 3), bias(10)),
        Dequantize("dequantize", ("scores",), "y", ""),
    )
    return IntegerModel({tensor.name: tensor for tensor in tensors}, nodes, "x", "y")


def assert_same(found: IntegerModel, wanted: IntegerModel) -> None:
    assert (found.tensors, found.input, found.output) == (wanted.tensors, wanted.input, wanted.output)
    assert len(found.nodes) == len(wanted.nodes)
    for one, other in zip(found.nodes, wanted.nodes, strict=True):
        assert type(one) is type(other)
        mine, theirs = dict(vars(one)), dict(vars(other))
        if isinstance(one, Conv2d | Linear):
            for arrays in (mine, theirs):
                arrays.update({f"weight.{name}": value for name, value in vars(arrays.pop("weight")).items()})
        assert mine.keys() == theirs.keys()
        for name in mine:
            if isinstance(theirs[name], np.ndarray):
                assert mine[name].dtype == theirs[name].dtype, name
                assert np.array_equal(mine[name], theirs[name]), name
            else:
                assert mine[name] == theirs[name], name


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small_model().save(tmp_path)
    return tmp_path


def test_the_small_model_has_every_kind_of_node():
    assert {node.kind for node in small_model().nodes} == set(NODES)


@given(bits=st.tuples(*[st.integers(0, 8)] * 3))
def test_a_loaded_model_is_the_one_that_was_saved(bits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    wanted = small_model(bits)
    saved = wanted.save(folder)
    found = IntegerModel.load(folder)
    assert_same(saved, wanted)
    assert_same(found, wanted)
    assert found.placed == saved.placed


def test_every_array_lies_at_a_64_byte_boundary_and_inside_the_file(saved):
    placed = IntegerModel.load(saved).placed
    size = (saved / WEIGHTS_FILE).stat().st_size
    assert len(placed) == 3 * 3 + len(("table", "codes", "gamma", "beta"))
    for stored in placed.values():
        assert stored.offset % ALIGNMENT == 0
        assert stored.offset + stored.size <= size


def test_arrays_do_not_overlap(saved):
    spans = sorted((s.offset, s.offset + s.size) for s in IntegerModel.load(saved).placed.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@given(bits=st.integers(1, 8), seed=st.integers(0, 1000))
def test_integers_are_a_times_code_minus_z(bits, seed):
    stored = weight((5, 7), bits, seed)
    assert np.array_equal(stored.integers().astype(int), stored.codes().astype(int) - (1 << bits >> 1))


def test_a_layer_of_no_bits_has_zero_weights_and_stores_none():
    empty = Weight.from_codes(np.zeros((4, 9), np.uint8), 0, a=1, z=0, scale=np.ones(4, np.float32))
    assert empty.packed.size == 0
    assert not empty.integers().any()


def test_truncated_weights_are_refused_naming_the_array(saved):
    path = saved / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BundleError, match=r"weights\.bin: linear\.bias ends at byte"):
        IntegerModel.load(saved)


def test_emptied_weights_are_refused(saved):
    (saved / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(BundleError, match=r"weights\.bin"):
        IntegerModel.load(saved)


@pytest.mark.parametrize("name", [GRAPH_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: no such file"):
        IntegerModel.load(saved)


@given(share=st.floats(0, 0.99))
def test_a_cut_graph_is_refused(share, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_model().save(folder)
    path = folder / GRAPH_FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError, match=r"model\.json: not an integer model"):
        IntegerModel.load(folder)


def altered(folder: Path, **changes: object) -> None:
    path = folder / GRAPH_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_schema_is_refused_as_such(saved):
    altered(saved, schema_version=99)
    with pytest.raises(BundleError, match="schema version 99 is newer"):
        IntegerModel.load(saved)


def test_an_unknown_kind_of_node_is_named(saved):
    altered(saved, nodes=[{"kind": "warp", "name": "n", "inputs": ["x"], "output": "y", "module": ""}])
    with pytest.raises(BundleError, match="'n' has the unknown kind 'warp'"):
        IntegerModel.load(saved)


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"schema_version": 1}', '{"schema_version": "new"}'])
def test_json_that_is_no_model_is_refused(saved, content):
    (saved / GRAPH_FILE).write_text(content)
    with pytest.raises(BundleError, match="not an integer model"):
        IntegerModel.load(saved)


def test_parameter_bytes_are_all_of_the_file_but_the_packed_weights_and_the_gaps(saved):
    model = IntegerModel.load(saved)
    packed = sum(stored.size for name, stored in model.placed.items() if name.endswith(".packed"))
    assert model.parameter_bytes == sum(stored.size for stored in model.placed.values()) - packed
