"""The ONNX Runtime adapter: what it promises, and how it refuses."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import runtimes
from msq.errors import BundleError

adapter = runtimes.adapter("onnxruntime-stock")


def write_model(path: Path) -> None:
    """Write a model that doubles images of shape (n, 2, 2, 1)."""
    shape = ["n", 2, 2, 1]
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "input"], ["output"])],
        "double",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def test_every_runtime_says_what_it_reads_and_what_it_is():
    for name in runtimes.names():
        found = runtimes.adapter(name)
        assert found.LOWERING
        assert found.MODE in ("stock", "hook", "native", "oracle")
        if runtimes.host_of(name) == name:  # others have an environment of their own
            assert found.version()


def test_the_board_gets_the_release_that_the_host_has():
    assert (f"onnxruntime=={version('onnxruntime')}",) == adapter.PACKAGES
    assert adapter.version() == version("onnxruntime")


def test_probe_is_loaded_only_when_tensors_are_asked_for(tmp_path: Path):
    write_model(tmp_path / "model.onnx")
    session = adapter.load(tmp_path, 1)
    assert session.run(np.ones((3, 2, 2, 1), np.float32)).tolist() == np.full((3, 2, 2, 1), 2).tolist()
    with pytest.raises(BundleError, match=r"probe\.onnx"):
        session.tensors(np.ones((3, 2, 2, 1), np.float32))


@pytest.mark.parametrize("content", [b"", b"no model at all", None])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx: ONNX Runtime refuses it") as caught:
        adapter.load(tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_images_of_another_shape_are_refused_in_one_line(tmp_path: Path):
    write_model(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: ONNX Runtime failed") as caught:
        adapter.load(tmp_path, 1).run(np.ones((3, 5, 5, 1), np.float32))
    assert "\n" not in str(caught.value)
