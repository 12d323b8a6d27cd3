"""The native runtime: what it holds, and what it refuses. That it computes what the oracle does is tested beside the
other runtimes, on random models."""

import copy
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from chains import Chain
from hypothesis import given, settings
from hypothesis import strategies as st

import runtimes
from export.elementwise import exponentials
from msq.errors import BundleError, MsqError, UsageError
from msq.integer_model import GRAPH_FILE, WEIGHTS_FILE, IntegerModel
from msq.nodes import (
    Add,
    AveragePool,
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
    Softmax,
    Tensor,
    Weight,
)
from runtimes._kernels import aligned, kernels
from runtimes.native import ABI, LIBRARY_VARIABLE, NativeSession, _library, _Options

native = runtimes.adapter("native")
LIBRARY = _library()

SHAPE = (8, 8, 3)


def conv(rng: np.random.Generator, name: str, source: str, outputs: int, inputs: int, bits: int) -> Conv2d:
    codes = rng.integers(0, 2**bits, (outputs, 3, 3, inputs)).astype(np.uint8)
    weight = Weight.from_codes(codes, bits, 2, 2**bits - 1, rng.uniform(0.001, 0.01, outputs).astype(np.float32))
    bias = rng.integers(-500, 500, outputs).astype(np.int32)
    return Conv2d(name, (source,), f"{name}.y", "", weight, bias, padding=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a residual model, not to be altered."""
    rng = np.random.default_rng(0)
    int8 = lambda name, *shape: Tensor(name, shape, "int8", 0.05, 3)  # noqa: E731
    tensors = [
        Tensor("x", SHAPE, "float32"),
        int8("q", *SHAPE),
        int8("a.y", 8, 8, 16),
        int8("b.y", 8, 8, 16),
        int8("sum", 8, 8, 16),
        int8("pooled", 4, 4, 16),
        int8("mean", 1, 1, 16),
        int8("flat", 16),
        int8("logits", 5),
        Tensor("y", (5,), "float32"),
    ]
    head = Weight.from_codes(rng.integers(0, 8, (5, 16)).astype(np.uint8), 3, 1, 4, np.full(5, 0.02, np.float32))
    nodes = (
        Quantize("image", ("x",), "q", ""),
        conv(rng, "a", "q", 16, 3, 5),
        conv(rng, "b", "a.y", 16, 16, 2),
        Add("add", ("b.y", "a.y"), "sum", "", (3, 127)),
        MaxPool("pool", ("sum",), "pooled", ""),
        AveragePool("average", ("pooled",), "mean", ""),
        Flatten("flatten", ("mean",), "flat", ""),
        Linear("head", ("flat",), "logits", "", head, np.arange(5, dtype=np.int32)),
        Dequantize("result", ("logits",), "y", ""),
    )
    folder = tmp_path_factory.mktemp("native")
    IntegerModel({tensor.name: tensor for tensor in tensors}, nodes, "x", "y").save(folder)
    return folder


def tiers() -> list[str]:
    usable = [tier for tier in kernels().built_tiers() if LIBRARY.msq_use_tier(tier.encode()) == 0]
    LIBRARY.msq_use_tier(None)
    return usable


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 2, (count, *SHAPE)).astype(np.float32)


def altered(bundle: Path, folder: Path, graph: object) -> Path:
    (folder / GRAPH_FILE).write_text(graph if isinstance(graph, str) else json.dumps(graph))
    shutil.copyfile(bundle / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    return folder


def graph_of(bundle: Path) -> dict:
    return json.loads((bundle / GRAPH_FILE).read_text())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_oracle_s_outputs(bundle: Path, threads: int):
    expected = runtimes.adapter("reference").load(bundle, 1).run(images(5))
    np.testing.assert_array_equal(native.load(bundle, threads).run(images(5)), expected)


@pytest.mark.parametrize("tier", tiers())
def test_every_tier_gives_the_oracle_s_tensors(bundle: Path, tier: str):
    expected = runtimes.adapter("reference").load(bundle, 1).tensors(images(2))
    LIBRARY.msq_use_tier(tier.encode())
    try:
        session = native.load(bundle, 1)
        found, output = session.tensors(images(2)), session.run(images(2))
    finally:
        LIBRARY.msq_use_tier(None)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    np.testing.assert_array_equal(output, expected["y"])


@st.composite
def pools(draw):
    """A max_pool, whose window may lie in the padding altogether, and its tensors."""
    size = draw(st.tuples(*[st.integers(1, 9)] * 2))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    stride = draw(st.tuples(*[st.integers(1, 4)] * 2))
    room = [size[i] + padding[i] + padding[i + 2] for i in (0, 1)]
    kernel = tuple(draw(st.integers(1, min(room[i], 5))) for i in (0, 1))
    channels = draw(st.sampled_from([1, 3, 16, 64, 70, 200]))
    out = [(room[i] - kernel[i]) // stride[i] + 1 for i in (0, 1)]
    grid = ("int8", 0.05, draw(st.integers(-128, 127)))
    node = MaxPool("node", ("a",), "b", "", kernel, stride, padding)
    return [node], [Tensor("a", (*size, channels), *grid), Tensor("b", (*out, channels), *grid)]


@st.composite
def products(draw):
    """A matmul by a constant, and its tensors."""
    leading = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    m, k, n = draw(st.tuples(st.integers(1, 30), st.integers(1, 70), st.integers(1, 150)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    zeros, corners = rng.integers(-128, 128, 3).tolist(), draw(st.booleans())
    codes = (
        rng.choice([-128, 127], (*leading, k, n)) if corners else rng.integers(-128, 128, (*leading, k, n))
    ).astype(np.int8)
    tensors = [
        Tensor("a", (*leading, m, k), "int8", 0.05, zeros[0]),
        Tensor("c", codes.shape, "int8", 0.1, zeros[1]),
        Tensor("b", (*leading, m, n), "int8", float(np.float32(0.03 * k)), zeros[2]),
    ]
    factor, clamp = draw(st.floats(0.1, 2)), draw(st.sampled_from([(-128, 127), (-3, 100)]))
    return [Constant("codes", (), "c", "", codes), MatMul("node", ("a", "c"), "b", "", factor, clamp)], tensors


@st.composite
def normalizations(draw):
    """A softmax or a layer_norm, and its tensors."""
    rows, n = draw(st.integers(1, 4)), draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clamp = draw(st.sampled_from([(-128, 127), (-100, 50)]))
    source = Tensor("a", (rows, n), "int8", float(np.float32(rng.uniform(0.01, 0.3))), int(rng.integers(-128, 128)))
    if draw(st.booleans()):
        out = Tensor("b", source.shape, "int8", float(np.float32(1 / 255)), -128)
        node = Softmax("node", ("a",), "b", "", exponentials(source.scale, n), clamp)
    else:
        out = Tensor("b", source.shape, "int8", 0.02, int(rng.integers(-128, 128)))
        gamma, beta = rng.normal(0, 1, (2, n)).astype(np.float32)
        node = LayerNorm("node", ("a",), "b", "", gamma, beta, float(np.float32(rng.uniform(1e-3, 10))), clamp)
    return [node], [source, out]


@pytest.mark.parametrize("tier", tiers())
@given(case=st.one_of(pools(), products(), normalizations()), seed=st.integers(0, 2**32 - 1), threads=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_operations_without_weights_are_the_oracle_s_on_every_tier(tier: str, case, seed: int, threads: int):
    nodes: list[Node]
    nodes, (a, *_, b) = case
    whole = (
        Quantize("first", ("x",), "a", ""),
        *nodes,
        Dequantize("last", ("b",), "y", ""),
    )
    tensors = [Tensor("x", a.shape, "float32"), *case[1], Tensor("y", b.shape, "float32")]
    x = np.random.default_rng(seed).normal(0, 4, (2, *a.shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        IntegerModel({tensor.name: tensor for tensor in tensors}, whole, "x", "y").save(Path(folder))
        expected = runtimes.adapter("reference").load(Path(folder), 1).run(x)
        LIBRARY.msq_use_tier(tier.encode())
        try:
            found = native.load(Path(folder), threads).run(x)
        finally:
            LIBRARY.msq_use_tier(None)
    np.testing.assert_array_equal(found, expected)


def test_no_calculation_is_undefined():
    """All of this file on a build that stops where one is; `make sanitize` looks for reads out of bounds too."""
    checked = Path(__file__).parents[2] / "build" / "kernels" / "checked" / "libmsq_native.so"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "not undefined", __file__]
    environment = os.environ | {LIBRARY_VARIABLE: str(checked)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_arena_is_no_larger_than_what_must_be_kept_at_once(bundle: Path):
    session = NativeSession(bundle)
    memory = session.memory()
    assert memory.arena_bound <= memory.arena <= 1.05 * memory.arena_bound
    assert memory.weights == (bundle / WEIGHTS_FILE).stat().st_size
    nodes = session.profile(lambda: session.run(images(1)))
    assert max(node.arena_bytes for node in nodes) == memory.arena_bound
    # A residual block takes the layer's input, its padded copy, and one map that the sum replaces; whole it takes more.
    assert memory.arena < NativeSession(bundle, fuse=False).memory().arena + 8 * 8 * 16


def test_a_model_in_memory_is_the_model_of_the_files(bundle: Path):
    text, weights = (np.fromfile(bundle / name, np.uint8) for name in (GRAPH_FILE, WEIGHTS_FILE))
    room = aligned(weights.size + 1)
    room[: weights.size] = weights
    options, model = _Options(ABI, 1, 1), ctypes.c_void_p()
    sizes = lambda at: (text.ctypes.data, text.size, room.ctypes.data + at, weights.size)  # noqa: E731
    load = LIBRARY.msq_model_load_memory
    load.argtypes = [ctypes.c_void_p, ctypes.c_size_t] * 2 + [ctypes.c_void_p] * 2
    assert load(*sizes(1), ctypes.byref(options), ctypes.byref(model)) == 2
    assert LIBRARY.msq_error() == b"weights lie 1 bytes behind a multiple of 64"
    assert load(*sizes(0), ctypes.byref(options), ctypes.byref(model)) == 0
    text[:] = 0  # not needed any more
    x, y = images(2), np.empty((2, 5), np.float32)
    assert LIBRARY.msq_model_run(model, 2, x.ctypes.data, x.nbytes, y.ctypes.data, y.nbytes) == 0
    LIBRARY.msq_model_free(model)
    np.testing.assert_array_equal(y, native.load(bundle, 1).run(x))


def repeated_twice() -> Chain:
    """An addition of a column and a row, as large as each other and smaller than their sum, which a layer could do."""
    chain = Chain(5, (4, 4, 3))
    whole = chain.last
    column = chain.conv(4, 4, (1, 4), padding=(0,) * 4)
    chain.last = whole
    chain.conv(4, 4, (4, 1), padding=(0,) * 4)
    chain.add(column)
    return chain


def beyond_the_map() -> Chain:
    """Windows that lie partly, or wholly, in the padding."""
    chain = Chain(6, (3, 2, 3))
    chain.max_pool(4, 1, 3)
    chain.max_pool(2, 3, 5)
    return chain


@pytest.mark.parametrize("made", [repeated_twice, beyond_the_map])
def test_what_a_fuzzer_found_gives_the_oracle_s_outputs(made, tmp_path: Path):
    chain = made()
    chain.model().save(tmp_path)
    x = chain.images()
    expected = runtimes.adapter("reference").load(tmp_path, 1).run(x)
    np.testing.assert_array_equal(native.load(tmp_path, 1).run(x), expected)


def test_the_profile_names_every_node_and_what_a_layer_does_for_another(bundle: Path):
    session = NativeSession(bundle)
    nodes = session.profile(lambda: session.run(images(3)))
    assert [node.name for node in nodes] == [node.name for node in IntegerModel.load(bundle).nodes]
    assert {node.name for node in nodes if node.is_fused} == {"add"}
    assert {node.runs for node in nodes if not node.is_fused} == {3}
    assert all(node.seconds > 0 for node in nodes if node.kind == "conv2d")


def test_no_threads_are_refused(bundle: Path):
    with pytest.raises(UsageError, match="0 threads; at least 1 is needed"):
        native.load(bundle, 0)


def test_images_of_another_shape_are_refused(bundle: Path):
    with pytest.raises(BundleError, match=r"images are \(8, 8, 1\), the model of .* takes \(8, 8, 3\)"):
        native.load(bundle, 1).run(images(2)[..., :1])


def test_what_is_not_a_number_is_refused_and_the_session_goes_on(bundle: Path):
    session, wrong = native.load(bundle, 1), images(3)
    wrong[2, 0, 1, 1] = np.nan
    with pytest.raises(BundleError, match="image 2: element 4 is not a number"):
        session.run(wrong)
    wrong[2, 0, 1, 1] = np.inf
    expected = runtimes.adapter("reference").load(bundle, 1).run(wrong)
    np.testing.assert_array_equal(session.run(wrong), expected)


def change(path: str, value: object):
    def apply(graph: dict) -> dict:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        at = graph
        for key in parents:
            at = at[key]
        at[last] = value
        return graph

    return apply


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (change("schema_version", 2), "schema version 2 is newer than 1"),
        (change("nodes/1/kind", "convolve"), "node a: the operation convolve is not known here"),
        (change("nodes/1/inputs/0", "sum"), "conv2d a: its input sum is not made before it"),
        (change("nodes/1/inputs/0", "no"), "conv2d a: its input 0 is no tensor of the model"),
        (change("nodes/2/output", "a.y"), r"conv2d b: its output a\.y is made twice"),
        (change("nodes/1/weight/bits", 9), "conv2d a: bits wants 1 whole numbers from 0 to 8"),
        (change("nodes/1/weight/bits", 4), "conv2d a: the array packed has .* elements, .* are wanted"),
        (change("nodes/1/weight/z", 5), "conv2d a: weights of 5 bits are 2 · code − 5"),
        (change("nodes/1/stride/0", 0), "conv2d a: stride wants 2 whole numbers from 1 to 1024"),
        (change("nodes/1/stride/0", 2), "conv2d a: its output is no int8 map of 4 × 8 × 16"),
        (change("nodes/3/clamp", [5, 4]), "add add: clamp 5 to 4"),
        (change("arrays/b.packed/offset", 1 << 40), r"conv2d b: the array packed ends behind the \d+ bytes"),
        (change("arrays/b.packed/offset", 32), "conv2d b: the array packed lies at no multiple of 64"),
        (change("tensors/1/scale", 0), "tensor q: its scale is not above 0"),
        (change("tensors/1/shape", [8, 8]), "quantize image: its tensors' shapes or dtypes do not fit it"),
        (change("tensors/2/shape", [1 << 24] * 3), r"tensor a\.y: larger than a gibibyte"),
        (change("output", "x"), "no node makes the model's output"),
        # Of these, whatever they name, every one would be sought among all.
        (change("nodes/3/inputs", ["q"] * 20000), "a model's nodes have at most 16384 inputs"),
        (change("arrays", {f"a{i}": 0 for i in range(20000)}), "a model has at most 16384 arrays"),
    ],
)
def test_a_model_that_lies_is_refused_by_name(bundle: Path, tmp_path: Path, mistake, message: str):
    folder = altered(bundle, tmp_path, mistake(graph_of(bundle)))
    with pytest.raises(BundleError, match=message) as caught:
        native.load(folder, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema_version": 1,}', "[" * 100, '{"schema_version": 1} 2', '"\\x"', "-"]
)
def test_what_is_no_json_is_refused_with_the_byte(bundle: Path, tmp_path: Path, text: str):
    with pytest.raises(BundleError, match=r"model\.json: not JSON at byte \d+"):
        native.load(altered(bundle, tmp_path, text), 1)


@pytest.mark.parametrize("name", [GRAPH_FILE, WEIGHTS_FILE])
def test_a_file_that_is_missing_or_cut_is_refused(bundle: Path, tmp_path: Path, name: str):
    shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError):
        native.load(tmp_path, 1)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: No such file"):
        native.load(tmp_path, 1)


@pytest.mark.parametrize(("name", "make"), [(GRAPH_FILE, os.mkfifo), (WEIGHTS_FILE, os.mkdir)])
def test_what_is_no_file_is_refused(bundle: Path, tmp_path: Path, name: str, make):
    shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(BundleError, match=f"{name}: not a file"):
        native.load(tmp_path, 1)


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, inner in items for leaf in leaves(inner, (*path, key)))]


ANYTHING = st.one_of(
    st.integers(-(2**63), 2**63), st.integers(-3, 20), st.floats(), st.text(max_size=3), st.none(), st.booleans(),
    st.lists(st.integers(-1, 1 << 24), max_size=5), st.sampled_from(["q", "a.y", "sum", "x", "y", "conv2d", "add"]),
)  # fmt: skip


@settings(max_examples=300)
@given(data=st.data())
def test_a_model_altered_anywhere_runs_or_is_refused(bundle: Path, tmp_path_factory: pytest.TempPathFactory, data):
    graph = copy.deepcopy(graph_of(bundle))
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([leaf for leaf in leaves(graph) if leaf]))
        at = graph
        for key in parents:
            at = at[key]
        if data.draw(st.booleans()):
            at[last] = data.draw(ANYTHING)
        else:
            del at[last]
    folder = altered(bundle, tmp_path_factory.mktemp("altered"), graph)
    try:
        session = native.load(folder, 1)
        session.run(np.zeros((1, *SHAPE), np.float32))
    except MsqError as error:
        assert "\n" not in str(error)
