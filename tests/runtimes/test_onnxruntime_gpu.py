"""Which execution providers run a model where a board has several. No GPU is here: what one computes is not tried."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import runtimes
from devices.golden import Golden, TensorDifference
from devices.measure import require_parity
from msq.errors import ParityError
from runtimes import onnxruntime_gpu
from runtimes.onnxruntime_gpu import providers

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder with a model that doubles its input."""
    shape = ["batch", 2, 2, 1]
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "input"], ["output"])],
        "double",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("has", "takes"),
    [
        ([CPU, CUDA, TENSORRT], [TENSORRT, CUDA, CPU]),
        ([CPU, CUDA], [CUDA, CPU]),
        (["AzureExecutionProvider", CPU], [CPU]),
    ],
)
def test_tensorrt_comes_before_cuda_and_cuda_before_the_cpu(has: list[str], takes: list[str], monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: has)
    assert providers() == takes


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_said_to_have_run_the_model(bundle: Path, monkeypatch):
    monkeypatch.setattr(onnxruntime_gpu, "available_providers", lambda: [CUDA, CPU])
    session = runtimes.adapter("onnxruntime-gpu").load(bundle, 1)
    assert isinstance(session, runtimes.Placed) and session.providers() == (CPU,)
    assert session.run(np.ones((3, 2, 2, 1), np.float32)).tolist() == np.full((3, 2, 2, 1), 2).tolist()


def test_what_a_gpu_computes_may_differ_from_the_hosts_but_no_further_from_the_oracles():
    near, far = (Golden([TensorDifference("sum", "add", 8, lsb, 20.0)], False, 1, 1) for lsb in (1, 2))
    require_parity(near, "stock", "here", cpu=False)
    for golden, cpu in ((near, True), (far, False)):
        with pytest.raises(ParityError):
            require_parity(golden, "stock", "here", cpu=cpu)
