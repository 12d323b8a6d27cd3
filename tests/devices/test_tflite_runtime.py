"""tflite-runtime, on a Python and a NumPy of its own, runs what litert runs."""

from pathlib import Path

import numpy as np
import pytest

from devices import provision, wheels
from devices.measure import measure
from msq.errors import DeviceError
from runtimes import tflite_runtime
from tests.devices.conftest import small_model, write_bundle


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "litert", "litert", small_model(), pictures[:4])


@pytest.mark.parametrize(("device", "machine"), [("local", "x86_64"), ("raspberrypi", "aarch64")])
def test_it_gives_the_oracles_answers_through_our_delegate(packed: Path, evaluation: Path, device: str, machine: str):
    found = measure(packed, evaluation, device, "tflite-runtime", images=32)
    assert found.parity.equal_to_oracle and found.parity.equal_to_host
    assert found.runtime_version == "2.14.0" and found.runtime_mode == "hook"
    assert found.environment.libraries["numpy"] == "1.26.4" and "packed kernels" in found.environment.libraries
    assert found.environment.python is not None and found.environment.python.startswith("3.11.")
    assert found.environment.machine in (machine, "aarch64")
    assert found.predictions == measure(packed, evaluation, "local", "litert", images=32).predictions


def test_a_board_of_another_python_is_refused_before_anything_is_fetched():
    with pytest.raises(DeviceError, match=r"has Python 3\.13; this runtime has wheels for 3\.11 alone") as caught:
        provision.site(provision.board(), tflite_runtime.PACKAGES)
    assert "litert" in caught.value.hint


def test_what_a_runtime_wants_is_pinned_with_numpy_once():
    assert wheels.pinned(tflite_runtime.PACKAGES) == ["tflite-runtime==2.14.0", "numpy==1.26.4"]
    assert wheels.python_of(tflite_runtime.PACKAGES) == "3.11" and wheels.python_of(["numpy==2.0.0"]) is None
    assert wheels.pinned(["onnxruntime"])[0] == f"numpy=={np.__version__}"
