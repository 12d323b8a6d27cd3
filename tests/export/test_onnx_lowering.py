"""Random models in every runtime against the oracle; and the ONNX lowering in onnx's own evaluator."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import pytest
from chains import Chain, transformer
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

import runtimes
from export.lowerings import _functions, lowering
from msq.packing import ATOM
from runtimes._kernels import kernels


def assert_equal_in_every_runtime(chain: Chain) -> None:
    """Compare every tensor of every runtime with the oracle's, bit for bit."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = chain.model().save(folder)
        lowering("onnx").lower(model, folder)
        lowering("tflite").lower(model, folder)
        images = chain.images()
        oracle = runtimes.adapter("reference").load(folder, 1).tensors(images)
        for runtime, threads in (("onnxruntime-stock", 1), ("onnxruntime", 2), ("native", 2), ("litert", 2)):
            session = runtimes.adapter(runtime).load(folder, threads)
            found = session.tensors(images)
            assert found.keys() == oracle.keys()
            for node in model.nodes:
                differs = f"{runtime}: {node.kind} {node}"
                np.testing.assert_array_equal(found[node.output], oracle[node.output], err_msg=differs)
            np.testing.assert_array_equal(session.run(images), oracle["output"])


widths = st.integers(0, 8)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(5, 9), st.integers(5, 9), st.integers(1, 4)),
    bits=st.tuples(*[widths] * 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    grouping=st.sampled_from(["plain", "grouped", "depthwise"]),
    pool=st.sampled_from(["average", "max", "none"]),
)
def test_every_runtime_equals_the_oracle_bit_for_bit(
    seed, shape, bits, kernel, stride, dilation, padding, grouping, pool
):
    chain = Chain(seed, shape)
    chain.conv(bits[0], 4)
    groups = {"plain": 1, "grouped": 2, "depthwise": 4}[grouping]
    chain.conv(bits[1], 8, kernel, stride, padding, dilation, groups)
    left = chain.last
    chain.conv(bits[2], 8)
    chain.add(left)
    if pool == "average":
        chain.average_pool()
    elif pool == "max" and min(chain.shape[:2]) > 1:
        chain.max_pool(2, 2, 1)
    chain.flatten()
    chain.linear(bits[3], 5)
    assert_equal_in_every_runtime(chain)


@pytest.mark.parametrize("bits", range(9))
def test_every_width_runs_in_convolutions_and_linear_layers(bits: int):
    chain = Chain(bits, (6, 6, 5))
    chain.conv(bits, 19)
    chain.conv(bits, 19, groups=19)
    chain.flatten()
    chain.linear(bits, 17)
    assert_equal_in_every_runtime(chain)


def test_a_map_may_be_the_output():
    chain = Chain(3, (6, 5, 2))
    chain.conv(4, 3)
    assert_equal_in_every_runtime(chain)


def test_an_operand_may_be_added_to_itself():
    chain = Chain(4, (4, 4, 2))
    chain.add(chain.last)
    assert_equal_in_every_runtime(chain)


@pytest.fixture
def lowered(tmp_path: Path) -> Path:
    """The folder of a lowered model with layers of several widths, an addition and both pools."""
    chain = Chain(0, (12, 12, 3))
    chain.conv(7, 16)
    left = chain.last
    chain.conv(3, 16)
    chain.add(left)
    chain.max_pool(2, 2, 0)
    chain.conv(0, 16, groups=16)
    chain.conv(5, 32)
    chain.average_pool()
    chain.flatten()
    chain.linear(2, 10)
    model = chain.model().save(tmp_path)
    lowering("onnx").lower(model, tmp_path)
    return tmp_path


def test_stock_onnxruntime_folds_the_unpacking_into_int8_weights(lowered: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(lowered / "optimised.onnx")
    onnxruntime.InferenceSession(str(lowered / "model.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(lowered / "optimised.onnx").graph
    constants = {initializer.name: initializer for initializer in graph.initializer}
    unpacking = {"BitShift", "BitwiseAnd", "BitwiseOr", "Slice", "Cast", "Mul", "Sub", "ConstantOfShape", "Unsqueeze"}
    assert not unpacking & {node.op_type for node in graph.node}
    # It convolves with channels last, as the model's maps lie: nothing is turned about.
    assert "Transpose" not in {node.op_type for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    assert len(convolutions) == 6
    for node in convolutions:
        assert constants[node.input[3]].data_type == onnx.TensorProto.INT8


def test_with_the_packed_kernels_every_weighted_layer_is_still_packed_after_loading(lowered: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(kernels().path))
    options.optimized_model_filepath = str(lowered / "optimised.onnx")
    onnxruntime.InferenceSession(str(lowered / "model.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(lowered / "optimised.onnx", load_external_data=False).graph
    packed = [node.op_type for node in graph.node if node.op_type.startswith("Packed")]
    assert packed == ["PackedConv7", "PackedConv3", "PackedDepthwise0", "PackedConv5", "PackedLinear2"]


def test_every_weighted_layer_is_one_packed_operator(lowered: Path):
    graph = onnx.load(lowered / "model.onnx", load_external_data=False).graph
    packed = [node.op_type for node in graph.node if node.op_type.startswith("Packed")]
    assert packed == ["PackedConv7", "PackedConv3", "PackedDepthwise0", "PackedConv5", "PackedLinear2"]
    assert {node.domain for node in graph.node if node.op_type in packed} == {"msq"}


def test_no_weight_scale_or_bias_is_stored_twice(lowered: Path):
    for name in ("model.onnx", "probe.onnx"):
        proto = onnx.load(lowered / name, load_external_data=False)
        own = [tensor for tensor in proto.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
        assert max(len(tensor.raw_data) for tensor in own) <= 32
        external = [{entry.key: entry.value for entry in t.external_data} for t in proto.graph.initializer]
        places = [(entry["location"], entry["offset"]) for entry in external if entry]
        assert {location for location, _ in places} == {"weights.bin"}
        assert len(set(places)) == len(places) == 3 * 5 - 1


def test_onnx_checker_accepts_both_files(lowered: Path):
    for name in ("model.onnx", "probe.onnx"):
        onnx.checker.check_model(lowered / name, full_check=True)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(1, 8),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)),
    kind=st.sampled_from(["Conv", "Depthwise"]),
)
def test_unpacking_in_onnx_s_own_evaluator_gives_the_integers(seed, bits, shape, kind):
    chain = Chain(seed, (3, 3, 1))
    shape = (*shape[:3], 1) if kind == "Depthwise" else shape
    weight, _ = chain._weight(shape, bits, 1.0, kind == "Depthwise")
    body = _functions.Body()
    ordering = _functions.ordering(kind)
    weights = _functions._unpacked(body, bits, ordering)
    body.add("Identity", [weights], "y")
    unpack = body.function("Unpack", ["packed"], ["shape", "a", "z"])
    atoms = weight.packed.reshape(-1, bits, ATOM)
    graph = helper.make_graph(
        [helper.make_node("Unpack", ["packed"], ["w"], domain="msq", shape=shape, a=weight.a, z=weight.z)],
        "unpack",
        [helper.make_tensor_value_info("packed", onnx.TensorProto.UINT8, atoms.shape)],
        [helper.make_tensor_value_info("w", onnx.TensorProto.INT8, None)],
    )
    model = helper.make_model(
        graph,
        functions=[_functions.plane(), _functions.ORDERINGS[ordering](), unpack],
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("msq", 1)],
        ir_version=10,
    )
    (found,) = ReferenceEvaluator(model).run(None, {"packed": atoms})
    np.testing.assert_array_equal(found, weight.integers().transpose(0, 3, 1, 2))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    leading=st.lists(st.integers(1, 3), max_size=2),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 90), st.integers(1, 40)),
)
def test_products_of_activations_equal_the_oracle(seed, leading, sizes):
    m, k, n = sizes
    chain = Chain(seed, (*leading, m, k))
    chain.matmul(chain.last, chain.constant((*leading, k, n)))
    assert_equal_in_every_runtime(chain)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 9), max_size=2).flatmap(
        lambda leading: st.integers(1, 700).map(lambda features: (*leading, features))
    ),
)
def test_softmax_and_layer_norm_equal_the_oracle(seed, shape):
    chain = Chain(seed, shape)
    chain.layer_norm()
    chain.softmax()
    assert_equal_in_every_runtime(chain)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_moved_and_joined_codes_equal_the_oracle(seed, shape, data):
    chain = Chain(seed, tuple(shape))
    axis = data.draw(st.integers(0, len(shape) - 1))
    whole = chain.last
    chain.cut(axis, data.draw(st.integers(0, shape[axis] - 1)), shape[axis])
    chain.concat(whole, axis)
    chain.transpose(*data.draw(st.permutations(range(len(shape)))))
    chain.add(chain.constant(tuple(data.draw(st.sampled_from([1, size])) for size in chain.shape)))
    chain.reshape(int(np.prod(chain.shape)))
    assert_equal_in_every_runtime(chain)


@pytest.mark.parametrize("bits", range(9))
def test_every_width_runs_in_linear_layers_over_tokens_and_maps(bits: int):
    chain = Chain(bits, (5, 4, 7))
    chain.tokens_linear(bits, 19)
    chain.tokens()
    chain.tokens_linear(bits, 17)
    assert_equal_in_every_runtime(chain)


def test_maps_and_what_is_in_the_model_s_order_go_together():
    chain = Chain(1, (5, 4, 3))
    before = chain.last
    chain.tokens_linear(6, 3)
    chain.add(before)
    chain.concat(chain.last, 2)
    chain.layer_norm()
    chain.conv(5, 4)
    chain.max_pool(2, 2, 1)
    chain.softmax()
    chain.average_pool()
    assert_equal_in_every_runtime(chain)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_transformer_equals_the_oracle(seed):
    assert_equal_in_every_runtime(transformer(seed))


def test_onnx_s_own_evaluator_agrees_on_what_our_operators_are_made_of(tmp_path: Path):
    chain = Chain(5, (3, 7, 11))
    chain.layer_norm()
    chain.matmul(chain.last, chain.constant((3, 11, 6)))
    chain.softmax()
    chain.add(chain.constant((1, 7, 1)))
    model = chain.model().save(tmp_path)
    lowering("onnx").lower(model, tmp_path)
    images = chain.images(2)
    (found,) = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx")).run(None, {"input": images})
    np.testing.assert_array_equal(found, runtimes.adapter("reference").load(tmp_path, 1).run(images))


LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_LAYOUT", "ORT_ENABLE_ALL"]


@pytest.mark.parametrize("level", LEVELS)
def test_no_level_of_optimization_changes_a_code_of_a_transformer(level: str, tmp_path: Path):
    chain = transformer()
    model = chain.model().save(tmp_path)
    lowering("onnx").lower(model, tmp_path)
    images = chain.images(8)
    wanted = runtimes.adapter("reference").load(tmp_path, 1).run(images)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"input": images})[0], wanted)
    graph = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    # Operators that ONNX Runtime has for these patterns, and that round otherwise.
    assert not {node.op_type for node in graph.node} & {
        "LayerNormalization", "SimplifiedLayerNormalization", "Softmax", "QLinearSoftmax", "QLinearAdd", "QLinearMul",
        "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "Attention", "QAttention", "QLinearConcat",
    }  # fmt: skip
