"""The LiteRT adapter: what it promises, and how it refuses."""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import runtimes
from export.lowerings import lowering
from msq.errors import BundleError, DeviceError
from msq.integer_model import IntegerModel
from msq.nodes import Add, Dequantize, Linear, Quantize, Tensor, Weight

adapter = runtimes.adapter("litert-stock")
IMAGES = np.random.default_rng(1).normal(0, 1, (3, 2, 2, 4)).astype(np.float32)


def small(random: np.random.Generator) -> IntegerModel:
    tensors = {
        "input": Tensor("input", (2, 2, 4), "float32"),
        "q": Tensor("q", (2, 2, 4), "int8", 0.03, 3),
        "y": Tensor("y", (2, 2, 4), "int8", 0.05, -7),
        "sum": Tensor("sum", (2, 2, 4), "int8", 0.06, 1),
        "output": Tensor("output", (2, 2, 4), "float32"),
    }
    codes = random.integers(0, 4, (4, 4)).astype(np.uint8)
    weight = Weight.from_codes(codes, 2, 1, 2, np.full(4, 0.4, np.float32))
    nodes = (
        Quantize("quantize", ("input",), "q", ""),
        Linear("linear", ("q",), "y", "linear", weight, np.zeros(4, np.int32)),
        Add("add", ("q", "y"), "sum", "add"),
        Dequantize("dequantize", ("sum",), "output", ""),
    )
    return IntegerModel(tensors, nodes, "input", "output")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = small(np.random.default_rng(0)).save(tmp_path)
    assert lowering("tflite-stock").lower(model, tmp_path) == ["model.tflite", "probe.tflite"]
    return tmp_path


def test_the_board_gets_the_release_that_the_host_has():
    assert (f"ai-edge-litert=={version('ai-edge-litert')}",) == adapter.PACKAGES
    assert adapter.version() == version("ai-edge-litert")


def test_linear_layers_stay_packed_in_memory():
    model = small(np.random.default_rng(0))
    held, note = adapter.resident(model)
    assert held == model.parameter_bytes + 16 * 2 // 8
    assert "packed" in note


def test_images_run_one_after_another_and_none_give_none(bundle: Path):
    session = adapter.load(bundle, 1)
    one_by_one = [session.run(IMAGES[index : index + 1]) for index in range(3)]
    np.testing.assert_array_equal(session.run(IMAGES), np.concatenate(one_by_one))
    assert session.run(IMAGES[:0]).shape == (0, 2, 2, 4)


def test_tensors_are_what_each_node_makes_of_the_oracle_s(bundle: Path):
    oracle = runtimes.adapter("reference").load(bundle, 1).tensors(IMAGES)
    found = adapter.load(bundle, 1).tensors(IMAGES)
    assert found.keys() == oracle.keys()
    np.testing.assert_array_equal(found["y"], oracle["y"])
    # The sum may be off by one, but what comes after it is fed with the oracle's sum.
    assert np.abs(found["sum"].astype(int) - oracle["sum"]).max() <= 1
    np.testing.assert_array_equal(found["output"], oracle["output"])


def test_a_probe_of_another_model_is_refused(bundle: Path, tmp_path: Path):
    other = small(np.random.default_rng(5))
    (bundle / "probe.tflite").write_bytes(lowering("tflite-stock").build_probe(other))  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match=r"probe\.tflite: its nodes compute another output"):
        adapter.load(bundle, 1).tensors(IMAGES)


def test_the_probe_is_loaded_only_when_tensors_are_asked_for(bundle: Path):
    (bundle / "probe.tflite").unlink()
    session = adapter.load(bundle, 1)
    assert session.run(IMAGES).shape == (3, 2, 2, 4)
    with pytest.raises(BundleError, match=r"probe\.tflite: no such file"):
        session.tensors(IMAGES)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\0\0\0\0TFL3", None])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.tflite: (LiteRT refuses it|no such file)") as caught:
        adapter.load(tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_are_refused_in_one_line(bundle: Path):
    with pytest.raises(BundleError, match=r"model\.tflite: LiteRT failed") as caught:
        adapter.load(bundle, 1).run(np.ones((3, 5, 5, 1), np.float32))
    assert "\n" not in str(caught.value)


def test_without_litert_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(DeviceError, match="ai-edge-litert is not installed here") as caught:
        adapter.version()
    assert caught.value.hint.startswith("pip install ai-edge-litert==")
