"""The packed TFLite lowering: what lies in the file. What LiteRT makes of it is tested beside the other runtimes."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from chains import WHOLE, Chain, transformer
from flatbuffers import flexbuffers
from hypothesis import given, settings
from hypothesis import strategies as st

from export.lowerings import lowering, tflite
from msq.integer_model import IntegerModel
from msq.nodes import Linear, Node, Tensor

MOVES = {"dequantize", "flatten", "reshape", "transpose", "concat", "slice", "constant"}
DTYPES = {
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.FLOAT32: np.float32,
}


class File:
    """A .tflite file, read."""

    def __init__(self, model: IntegerModel) -> None:
        self.content = tflite.build(model, [model.output])
        self._model = schema.Model.GetRootAsModel(self.content)
        self._graph = self._model.Subgraphs(0)

    def operators(self) -> list[tuple[str, schema.Operator]]:
        """Return every operator with its custom name, or that of the schema."""
        numbers = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        found = []
        for operator in map(self._graph.Operators, range(self._graph.OperatorsLength())):
            code = self._model.OperatorCodes(operator.OpcodeIndex())
            found.append(((code.CustomCode() or b"").decode() or numbers[code.BuiltinCode()], operator))
        return found

    def tensor(self, index: int) -> schema.Tensor:
        return self._graph.Tensors(index)

    def array(self, index: int) -> tuple[np.ndarray, int]:
        """Return a constant, and the place of its bytes in the file."""
        tensor = self._graph.Tensors(index)
        buffer = self._model.Buffers(tensor.Buffer())
        values = buffer.DataAsNumpy().view(DTYPES[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
        return values, buffer._tab.Vector(buffer._tab.Offset(4))


def arrays_of(node: Node) -> list[np.ndarray]:
    found = [np.array(node.table, np.int8)] if node.kind == "lookup" else list(node.arrays().values())
    return [array for array in found if array.size]


def everything(seed: int, bits: tuple[int, ...]) -> Chain:
    chain = Chain(seed, (9, 8, 5))
    chain.conv(bits[0], 12)
    left = chain.last
    chain.conv(bits[1], 12, groups=12)
    chain.add(left)
    chain.max_pool(2, 1, 1)
    chain.lookup()
    chain.multiply(chain.average_pool())
    chain.flatten()
    chain.linear(bits[2], 70)
    chain.softmax()
    chain.layer_norm()
    return chain


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), bits=st.tuples(*[st.integers(0, 8)] * 3))
def test_an_operator_holds_its_node_s_arrays_as_they_are_and_weights_lie_where_kernels_read_them(seed, bits):
    for model in (everything(seed, bits).model(), transformer(seed).model()):
        file = File(model)
        ours = {
            file.tensor(operator.Outputs(0)).Name().decode(): (name, operator)
            for name, operator in file.operators()
            if name.startswith("msq.")
        }
        assert ours.keys() == {node.output for node in model.nodes if node.kind not in MOVES}
        for node in model.nodes:
            if node.kind in MOVES:
                continue
            name, operator = ours[node.output]
            assert name == f"msq.{node.kind}"
            inputs = operator.InputsAsNumpy().tolist()
            assert [file.tensor(index).Name().decode() for index in inputs[: len(node.inputs)]] == list(node.inputs)
            constants = inputs[len(node.inputs) :]
            for index, expected in zip(constants, arrays_of(node), strict=True):
                found, place = file.array(index)
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)
                assert place % (64 if expected.dtype == np.uint8 else 16) == 0


def test_options_are_what_the_integer_model_says_of_a_node():
    chain = Chain(0, (6, 7, 4))
    chain.conv(3, 8, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), groups=2)
    model = chain.model()
    (node,) = model.weighted()
    (operator,) = (operator for name, operator in File(model).operators() if name == "msq.conv2d")
    assert flexbuffers.Loads(operator.CustomOptionsAsNumpy().tobytes()) == {
        "weight": {"bits": 3, "a": node.weight.a, "z": node.weight.z, "shape": [8, 3, 2, 2], "depthwise": False},
        "stride": [2, 1],
        "padding": [1, 0, 2, 1],
        "dilation": [1, 2],
        "groups": 2,
        "clamp": list(node.clamp),
    }


def test_what_moves_codes_is_a_stock_operator():
    names = [name for name, _ in File(transformer().model()).operators()]
    stock = {"RESHAPE", "TRANSPOSE", "SLICE", "DEQUANTIZE"}
    assert stock == {name for name in names if not name.startswith("msq.")}


def test_the_file_says_what_its_tensors_are():
    chain = transformer()
    interpreter = Interpreter(model_content=File(chain.model()).content)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["input"], "outputs": ["output"]}}
    named = {tensor["name"]: tensor for tensor in interpreter.get_tensor_details()}
    for tensor in chain.tensors.values():
        found = named[tensor.name]
        assert tuple(found["shape"]) == (1, *tensor.shape)
        if tensor.dtype == "int8":
            assert found["quantization"] == (pytest.approx(tensor.scale), tensor.zero_point)


def deep(bits: int) -> IntegerModel:
    """A ResNet-56's layers, and a classifier, over small maps."""
    chain = Chain(bits, (16, 16, 3))
    chain._clamp = lambda: WHOLE  # type: ignore[method-assign]
    for stage, outputs in enumerate((16, 32, 64)):
        chain.conv(bits, outputs, stride=(2, 2) if stage else (1, 1))
        for _ in range(9):
            left = chain.last
            chain.conv(bits, outputs)
            chain.conv(bits, outputs)
            chain.add(left)
    chain.average_pool()
    chain.flatten()
    weight, bias = chain._weight((10, 64), bits, 0.01)
    chain._add(Linear, (chain.last,), Tensor("scores", (10,), "int8", 0.1), weight=weight, bias=bias)
    return chain.model()


@pytest.mark.parametrize("bits", range(9))
def test_a_file_is_as_large_as_its_bits_and_parameters_say(bits: int, tmp_path: Path):
    model = deep(bits).save(tmp_path)
    assert tflite.content_bytes(model) == model.weight_bytes + model.parameter_bytes
    assert lowering("tflite").lower(model, tmp_path) == ["model.tflite", "probe.tflite"]
    assert (tmp_path / "model.tflite").stat().st_size <= 1.02 * tflite.content_bytes(model) + 32 * 1024


def test_the_same_model_gives_the_same_bytes():
    model, again = transformer().model(), transformer().model()
    assert tflite.build(model, [model.output]) == tflite.build(again, [again.output])
