"""Parity counts steps of the grid, names the operator, and refuses what is not the oracle's result."""

import numpy as np
import pytest

from export.parity import fidelity, parity, whole
from msq.errors import ParityError
from msq.integer_model import IntegerModel
from msq.nodes import Add, Dequantize, Quantize, Tensor


@pytest.fixture
def model() -> IntegerModel:
    tensors = {
        "input": Tensor("input", (3,), "float32"),
        "q": Tensor("q", (3,), "int8", 0.5),
        "sum": Tensor("sum", (3,), "int8", 0.25),
        "output": Tensor("output", (3,), "float32"),
    }
    nodes = (
        Quantize("quantize", ("input",), "q", ""),
        Add("block.add", ("q", "q"), "sum", "block"),
        Dequantize("dequantize", ("sum",), "output", ""),
    )
    return IntegerModel(tensors, nodes, "input", "output")


@pytest.fixture
def oracle() -> dict[str, np.ndarray]:
    return {
        "q": np.array([[1, 2, 3]], np.int8),
        "sum": np.array([[4, 8, -128]], np.int8),
        "output": np.array([[1, 2, -32]], np.float32),
    }


def test_equal_tensors_differ_by_nothing(model, oracle):
    found = parity(model, oracle, dict(oracle))
    assert (found.tensors, found.values, found.max_lsb, found.differing) == (3, 9, 0, {})


def test_one_step_is_allowed_and_its_operator_named(model, oracle):
    other = {**oracle, "sum": oracle["sum"] + np.int8(1), "output": oracle["output"] + np.float32(0.25)}
    found = parity(model, oracle, other)
    assert (found.max_lsb, found.differing) == (1, {"add": 1, "dequantize": 1})


@pytest.mark.parametrize(
    ("tensor", "wrong", "said"),
    [
        ("sum", np.array([[4, 8, 127]], np.int8), r"block\.add \(add\) differs from the oracle by 255 LSB"),
        ("output", np.array([[1.5, 2, -32]], np.float32), r"dequantize \(dequantize\) differs .* by 2 LSB"),
        ("q", np.array([[1, 2]], np.int8), r"quantize \(quantize\): its result is of shape \(1, 2\)"),
    ],
)
def test_another_result_is_refused_by_operator(model, oracle, tensor, wrong, said):
    with pytest.raises(ParityError, match=said):
        parity(model, oracle, {**oracle, tensor: wrong})


def test_a_missing_tensor_is_refused(model, oracle):
    del oracle["sum"]
    with pytest.raises(ParityError, match="missing"):
        parity(model, {**oracle, "sum": np.zeros((1, 3), np.int8)}, oracle)


def test_a_model_that_disagrees_with_its_training_is_refused(model):
    rng = np.random.default_rng(0)
    trained = rng.normal(size=(64, 3)).astype(np.float32)
    assert fidelity(model, trained, trained).agreeing == 64
    with pytest.raises(ParityError, match="agree on"):
        fidelity(model, trained, -trained)


def test_a_runtime_whose_roundings_add_up_to_other_classes_is_refused(model):
    oracle = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    assert whole(model, oracle, oracle).agreeing == 64
    with pytest.raises(ParityError, match="the runtime and the oracle agree on"):
        whole(model, oracle, -oracle)


def test_few_images_never_refuse_a_model(model):
    trained = np.eye(3, dtype=np.float32)
    assert fidelity(model, trained, -trained).agreeing == 0
