"""The TFLite lowering: what LiteRT makes of it beside the oracle, and what lies in the file."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from chains import WHOLE, Chain, transformer
from hypothesis import given, settings
from hypothesis import strategies as st

import runtimes
from export.lowerings import _tflite_layers, lowering, tflite_stock
from export.parity import lsb
from msq.errors import LoweringError
from msq.integer_model import IntegerModel
from msq.nodes import Conv2d, Linear, Node, Tensor, Weight
from runtimes._litert_weights import CONTAINERS, container, positive

ROUNDS_ITSELF = {"quantize", "add", "matmul", "softmax", "layer_norm"}
"""What LiteRT may round to the next code; everything else it computes bit for bit as the oracle does."""
WIDTHS = {schema.TensorType.INT8: 8, schema.TensorType.INT4: 4, schema.TensorType.INT2: 2}


def assert_close_in_litert(chain: Chain) -> None:
    """Compare every node, fed by the oracle, with the oracle's."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = chain.model().save(folder)
        lowering("tflite-stock").lower(model, folder)
        images = chain.images()
        oracle = runtimes.adapter("reference").load(folder, 1).tensors(images)
        found = runtimes.adapter("litert-stock").load(folder, 1).tensors(images)
        assert found.keys() == oracle.keys()
        for node in model.nodes:
            expected, actual = oracle[node.output], found[node.output]
            assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
            if node.kind in ROUNDS_ITSELF or is_left_by_xnnpack(node):
                assert lsb(model, node.output, expected, actual) <= 1, node
            else:
                np.testing.assert_array_equal(actual, expected, err_msg=f"{node.kind} {node}")


def is_left_by_xnnpack(node: Node) -> bool:
    """Say whether a layer keeps a negative scale, for −128 has no opposite: LiteRT's own kernel runs it."""
    return isinstance(node, Conv2d | Linear) and bool((positive(node)[1] < 0).any())


def tables(content: bytes) -> schema.ModelT:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content))


def stored(model: schema.ModelT, name: str) -> schema.TensorT:
    (tensor,) = (tensor for tensor in model.subgraphs[0].tensors if tensor.name.decode() == name)
    return tensor


def integers(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return the integers of a constant, whatever its width, in its shape."""
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    if tensor.type == schema.TensorType.INT32:
        return data.view(np.int32).reshape(tensor.shape)
    width = WIDTHS[tensor.type]
    fields = (data[:, np.newaxis] >> np.arange(0, 8, width)).reshape(-1)[: int(np.prod(tensor.shape))]
    return (fields.astype(np.uint8) << (8 - width)).astype(np.int8).reshape(tensor.shape) >> (8 - width)


widths = st.integers(0, 8)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(5, 9), st.integers(5, 9), st.integers(1, 4)),
    bits=st.tuples(*[widths] * 4),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.sampled_from([1, 2, 4]),
    pool=st.sampled_from(["average", "max", "none"]),
)
def test_every_node_of_a_net_gives_the_oracle_s_codes_in_litert(
    seed, shape, bits, kernel, stride, dilation, padding, groups, pool
):
    chain = Chain(seed, shape)
    chain.conv(bits[0], 4)
    chain.conv(bits[1], 8, kernel, stride, padding, dilation, groups)
    left = chain.last
    chain.conv(bits[2], 8)
    chain.add(left)
    chain.multiply(left)
    chain.lookup()
    if pool == "average":
        chain.average_pool()
    elif pool == "max" and min(chain.shape[:2]) > 1:
        chain.max_pool(2, 2, 1)
    chain.flatten()
    chain.linear(bits[3], 5)
    assert_close_in_litert(chain)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_node_of_a_transformer_gives_the_oracle_s_codes_in_litert(seed):
    assert_close_in_litert(transformer(seed))


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    leading=st.lists(st.integers(1, 3), max_size=2),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 90), st.integers(1, 40)),
)
def test_products_of_activations_give_the_oracle_s_codes(seed, leading, sizes):
    m, k, n = sizes
    chain = Chain(seed, (*leading, m, k))
    chain.matmul(chain.last, chain.constant((*leading, k, n)))
    assert_close_in_litert(chain)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), shape=st.lists(st.integers(1, 90), min_size=1, max_size=3))
def test_softmax_and_layer_norm_give_the_oracle_s_codes(seed, shape):
    chain = Chain(seed, shape)
    chain.layer_norm()
    chain.softmax()
    assert_close_in_litert(chain)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_moved_and_joined_codes_give_the_oracle_s(seed, shape, data):
    chain = Chain(seed, tuple(shape))
    axis = data.draw(st.integers(0, len(shape) - 1))
    whole = chain.last
    chain.cut(axis, data.draw(st.integers(0, shape[axis] - 1)), shape[axis])
    chain.concat(whole, axis)
    chain.transpose(*data.draw(st.permutations(range(len(shape)))))
    chain.reshape(int(np.prod(chain.shape)))
    assert_close_in_litert(chain)


@pytest.mark.parametrize("inputs", [7, 10, 12])
@pytest.mark.parametrize("bits", range(9))
def test_every_width_runs_in_linear_layers(bits: int, inputs: int):
    chain = Chain(bits, (5, inputs))
    chain.tokens_linear(bits, 19)
    chain.flatten()
    chain.linear(bits, 17)
    assert_close_in_litert(chain)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([1, 2, 4, 8]),
    power=st.integers(0, 40),
    kind=st.sampled_from(["conv", "linear"]),
)
def test_multipliers_and_biases_beyond_what_xnnpack_holds_change_no_code(seed, bits, power, kind):
    chain = Chain(seed, (5, 5, 4))
    chain._weight = scaled(chain._weight, 2.0**power)  # type: ignore[method-assign]
    if kind == "conv":
        chain.conv(bits, 6)
    else:
        chain.tokens_linear(bits, 6)
    assert_close_in_litert(chain)


def scaled(make, factor: float):
    def made(*arguments: object) -> tuple[Weight, np.ndarray]:
        weight, bias = make(*arguments)
        weight.scale[:] *= np.float32(factor)
        bias *= np.int32(100_000)
        return weight, bias

    return made


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), bits=widths, kind=st.sampled_from(["conv", "depthwise", "linear"]))
def test_the_file_holds_the_layer_s_weights_scales_and_bias(seed, bits, kind):
    chain = Chain(seed, (6, 6, 8))
    {
        "conv": lambda: chain.conv(bits, 5),
        "depthwise": lambda: chain.conv(bits, 8, groups=8),
        "linear": lambda: chain.tokens_linear(bits, 5),
    }[kind]()
    model = chain.model()
    (node,) = model.weighted()
    file = tables(tflite_stock.build(model))
    weight, bias = stored(file, f"{node.module}.weight"), stored(file, f"{node.module}.bias")
    found = integers(file, weight)
    found = found.transpose(3, 1, 2, 0) if kind == "depthwise" else found
    scale = np.asarray(weight.quantization.scale, np.float32)
    column = (-1, *[1] * (found.ndim - 1))
    # A channel may be negated as a whole, so that its scale is positive.
    np.testing.assert_array_equal(
        found * scale.reshape(column), node.weight.integers() * node.weight.scale.reshape(column)
    )
    assert set(weight.quantization.zeroPoint) == {0}
    units = np.float32(model.tensors["t0"].scale) * scale
    np.testing.assert_array_equal(np.asarray(bias.quantization.scale, np.float32), units)
    np.testing.assert_array_equal(integers(file, bias) * np.sign(scale * node.weight.scale), node.bias)


@settings(max_examples=50)
@given(st.integers(1, 40), st.sampled_from([2, 4, 8]), st.integers(0, 2**32 - 1))
def test_packing_keeps_integers_and_fills_whole_bytes(count, bits, seed):
    values = np.random.default_rng(seed).integers(-(1 << bits - 1), 1 << bits - 1, count).astype(np.int8)
    content = _tflite_layers.packed(values, bits)
    assert len(content) == -(-count * bits // 8)
    fields = (content[:, np.newaxis] >> np.arange(0, 8, bits)).reshape(-1)[:count].astype(np.uint8)
    np.testing.assert_array_equal((fields << (8 - bits)).astype(np.int8) >> (8 - bits), values)


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [
        ("linear", [-2, 1, 0, 1], 2),
        ("linear", [-2, 2, 0, 1], 4),
        ("linear", [-8, 7, 0, 0], 4),
        ("linear", [-8, 8, 0, 0], 8),
        ("linear", [-2, 1, 0], 8),
        ("linear", [-2, 1], 4),
        ("conv2d", [-2, 1, 0, 1], 8),
    ],
)
def test_the_container_is_the_narrowest_that_litert_runs_well(kind, values, wanted):
    assert container(kind, np.array([values], np.int8), np.array([1000], np.int32)) == wanted
    assert wanted in CONTAINERS[kind]


@pytest.mark.parametrize(("bias", "wanted"), [(1 << 20, 2), (1 << 26, 4), (1 << 30, 8)])
def test_a_container_is_wide_enough_for_the_sums_that_xnnpack_makes_in_it(bias: int, wanted: int):
    assert container("linear", np.array([[-2, 1, 0, 1]], np.int8), np.array([bias], np.int32)) == wanted


def heavy(bits: int) -> IntegerModel:
    chain = Chain(3, (16, 16, 8))
    chain._clamp = lambda: WHOLE  # type: ignore[method-assign]
    chain.conv(bits, 64)
    chain.conv(bits, 64, stride=(2, 2))
    chain.average_pool()
    chain.flatten()
    node, out = Tensor("wide", (4096,), "int8", 0.1), 0.01
    weight, bias = chain._weight((4096, 64), bits, out)
    chain.last = chain._add(Linear, (chain.last,), node, weight=weight, bias=bias)
    return chain.model()


@pytest.mark.parametrize("containers", ["narrowest", "int8"])
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_a_file_is_as_large_as_its_containers_and_parameters_say(bits: int, containers: str):
    model = heavy(bits)
    file = tables(tflite_stock.build(model, containers=containers))
    size = 28 * sum(node.weight.outputs for node in model.weighted())
    for node in model.weighted():
        width = WIDTHS[stored(file, f"{node.module}.weight").type]
        assert width == (container(node.kind, node.weight.integers(), node.bias) if containers == "narrowest" else 8)
        size += node.weight.outputs * node.weight.inputs * width // 8
    if containers == "narrowest":
        assert tflite_stock.content_bytes(model) == size
    assert len(tflite_stock.build(model, containers=containers)) <= 1.02 * size + 8 * 1024


def test_containers_of_int8_change_no_output():
    chain = transformer()
    model, outputs = chain.model(), []
    (image,) = chain.images(1)
    for containers in ("narrowest", "int8"):
        interpreter = Interpreter(model_content=tflite_stock.build(model, containers=containers))
        runner = interpreter.get_signature_runner()
        outputs.append(runner(input=image[np.newaxis])["output"])
    np.testing.assert_array_equal(*outputs)


def test_xnnpack_takes_a_residual_net_whole():
    chain = Chain(0, (16, 16, 3))
    chain._clamp = lambda: WHOLE  # type: ignore[method-assign]
    chain.conv(8, 16)
    left = chain.last
    chain.conv(4, 16, groups=16)
    chain.conv(3, 16)
    chain.add(left)
    chain.conv(2, 32, stride=(2, 2), groups=4)
    chain.average_pool()
    chain.flatten()
    chain.linear(2, 10)
    interpreter = Interpreter(model_content=tflite_stock.build(chain.model()))
    interpreter.allocate_tensors()
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    assert names.count("DELEGATE") == 1


@pytest.mark.parametrize(
    ("scale", "zero_point", "clamp", "operators"),
    [
        (0.1, -128, (-128, 127), []),
        (0.1, -20, (-20, 127), []),
        (0.05, -128, (-128, -8), []),
        (0.1, -128, (-128, -113), ["MINIMUM"]),
        (0.1, 0, (-5, 100), ["MAXIMUM", "MINIMUM"]),
    ],
)
def test_a_clamp_is_fused_where_an_activation_says_it(scale, zero_point, clamp, operators):
    chain = Chain(1, (6, 6, 4))
    weight, bias = chain._weight((4, 1, 1, 4), 4, 0.05)
    out = Tensor("t1", (6, 6, 4), "int8", scale, zero_point)
    chain._add(Conv2d, (chain.last,), out, weight=weight, bias=bias, clamp=clamp)
    file = tables(tflite_stock.build(chain.model()))
    codes = [file.operatorCodes[operator.opcodeIndex].builtinCode for operator in file.subgraphs[0].operators]
    numbers = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    assert [numbers[code] for code in codes] == ["QUANTIZE", "CONV_2D", *operators, "DEQUANTIZE"]
    assert_close_in_litert(chain)


def test_the_file_says_what_its_tensors_are():
    chain = transformer()
    interpreter = Interpreter(model_content=tflite_stock.build(chain.model()))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["input"], "outputs": ["output"]}}
    named = {tensor["name"]: tensor for tensor in interpreter.get_tensor_details()}
    for tensor in chain.tensors.values():
        found = named[tensor.name]
        assert tuple(found["shape"]) == (1, *tensor.shape)
        if tensor.dtype == "int8":
            assert found["quantization"] == (pytest.approx(tensor.scale), tensor.zero_point)


def test_the_same_model_gives_the_same_bytes():
    assert tflite_stock.build(transformer().model()) == tflite_stock.build(transformer().model())
    assert tflite_stock.build_probe(transformer().model()) == tflite_stock.build_probe(transformer().model())


def test_weights_are_aligned_as_the_schema_demands():
    content = tflite_stock.build(transformer().model())
    file = schema.Model.GetRootAsModel(content)
    for index in range(file.BuffersLength()):
        buffer = file.Buffers(index)
        if buffer.DataLength():
            assert buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0


@pytest.mark.parametrize("kind", ["add", "multiply", "average_pool", "matmul"])
def test_a_grid_too_fine_for_its_sums_is_refused_by_the_layer_s_name(kind: str):
    chain = Chain(0, (4, 4, 4))
    chain._grid = lambda shape, scale=None: Tensor(f"t{len(chain.nodes)}", shape, "int8", 1e-6)  # type: ignore[method-assign]
    if kind == "average_pool":
        chain.average_pool()
    elif kind == "matmul":
        chain.matmul(chain.last, chain.last)
    else:
        getattr(chain, kind)(chain.last)
    with pytest.raises(LoweringError, match=rf"^net\.n1: .* in TFLite a {kind} takes less than 256") as caught:
        tflite_stock.build(chain.model())
    assert "calibrate" in caught.value.hint
