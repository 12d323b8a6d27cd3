"""Model files of any origin: what they are fed, whose answers count, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from devices.measure_file import PIXELS, measure_file
from export.lowerings._tflite_file import File, Operator, Type, schema
from msq.cli import app
from msq.errors import BundleError, UsageError
from msq.measurement import FileMeasurement
from msq.preprocessing import normalise
from msq.provenance import Kind

SIZE = (9, 9, 2)
SCALE, ZERO = 0.75, -128


@pytest.fixture
def int8(tmp_path: Path) -> Path:
    """A .tflite file of one operator: int8 codes become float32, so that the class is the brightest value's index."""
    file = File("int8")
    graph = file.subgraph("int8")
    x = graph.tensor("x", (1, *SIZE), Type.INT8, scales=[SCALE], zero_point=ZERO)
    y = graph.tensor("y", (1, *SIZE), Type.FLOAT32)
    graph.add(Operator.DEQUANTIZE, [x], y, schema.DequantizeOptionsT())
    graph.close([x], [y])
    path = tmp_path / "int8.tflite"
    path.write_bytes(file.content())
    return path


def onnx_file(path: Path, shape: tuple[object, ...], axes: tuple[int, int], elements: int = TensorProto.FLOAT) -> Path:
    """An .onnx file of the channels' means, times (1, 2) from a file of its own."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["m", "w"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.array([1, 2], np.float32), "w")]
    graph = helper.make_graph(
        nodes, "g", [value("x", elements, shape)], [value("y", TensorProto.FLOAT, ("n", 2))], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10)
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=4)
    return path


def brightest(pixels: str, pictures: np.ndarray) -> list[int]:
    """What the two channels' files say: the class of the larger of mean and twice the mean."""
    means = normalise(pictures, *PIXELS[pixels]).astype(np.float64).mean(axis=(1, 2)) * (1, 2)
    return means.argmax(axis=1).tolist()


def said(found: FileMeasurement) -> list[int]:
    return [one.predicted for one in found.predictions]


def test_int8_files_are_fed_on_their_own_grid(int8: Path, evaluation: Path, pictures: np.ndarray):
    found = measure_file(int8, "local", evaluation=evaluation, pixels="0..255", images=300)
    codes = np.clip(np.rint(pictures / SCALE) + ZERO, -128, 127)
    assert said(found) == codes.reshape(300, -1).argmax(axis=1).tolist()
    assert found.size == SIZE and found.runtime == "litert-file"
    assert found.figures["model_bytes"].value == int8.stat().st_size
    assert found.figures["latency_p90"].kind is Kind.MEASURED_HOST and len(found.latency_seconds) == 200


@pytest.mark.parametrize(
    ("shape", "axes"),
    [(("n", 2, 9, 9), (2, 3)), ((1, 2, 9, 9), (2, 3)), (("n", "h", "w", 2), (1, 2)), ((1, 9, 9, 2), (1, 2))],
)
@pytest.mark.parametrize("pixels", ["0..1", "-1..1"])
def test_onnx_files_of_any_order_get_the_same_images(
    tmp_path: Path, evaluation: Path, pictures: np.ndarray, shape, axes, pixels: str
):
    path = onnx_file(tmp_path / "any.onnx", shape, axes)
    found = measure_file(path, "local", evaluation=evaluation, pixels=pixels, images=300)
    assert said(found) == brightest(pixels, pictures)
    assert len(set(said(found))) == 2
    held = path.stat().st_size + Path(f"{path}.data").stat().st_size
    assert found.figures["model_bytes"].value == held


def test_bytes_are_not_scaled(tmp_path: Path, evaluation: Path, pictures: np.ndarray):
    path = onnx_file(tmp_path / "bytes.onnx", ("n", 9, 9, 2), (1, 2), TensorProto.UINT8)
    assert said(measure_file(path, "local", evaluation=evaluation, pixels="0..255", images=300)) == brightest(
        "0..255", pictures
    )


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_an_emulated_board_answers_as_this_machine_and_is_not_timed(
    int8: Path, tmp_path: Path, evaluation: Path, kind: str
):
    path = int8 if kind == "tflite" else onnx_file(tmp_path / "net.onnx", ("n", 2, 9, 9), (2, 3))
    out = tmp_path / "found.json"
    there = measure_file(path, "raspberrypi", evaluation=evaluation, images=64, out=out)
    assert said(there) == said(measure_file(path, "local", evaluation=evaluation, images=64))
    assert there.disagreements == () and FileMeasurement.read(out) == there
    assert there.figures["top1"].kind is Kind.EMULATED
    assert not there.latency_seconds and not any("latency" in name or "memory" in name for name in there.figures)


def test_without_an_evaluation_set_it_is_only_timed(int8: Path):
    found = measure_file(int8, "local")
    assert not found.predictions and "top1" not in found.figures
    assert "latency_p50" in found.figures and "peak_memory" in found.figures


def test_what_cannot_be_measured_is_refused_in_one_line(int8: Path, tmp_path: Path, evaluation: Path):
    two = onnx.load(str(onnx_file(tmp_path / "two.onnx", ("n", 2, 9, 9), (2, 3))))
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1,)))
    onnx.save(two, str(tmp_path / "two.onnx"))
    large = onnx_file(tmp_path / "large.onnx", ("n", 2, 10, 10), (2, 3))
    bad = {name: tmp_path / name for name in ("bad.tflite", "bad.onnx")}
    for path in bad.values():
        path.write_bytes(b"\xff" * 100)
    lost = onnx_file(tmp_path / "lost.onnx", ("n", 2, 9, 9), (2, 3))
    Path(f"{lost}.data").unlink()
    outside = onnx.load(str(onnx_file(tmp_path / "outside.onnx", ("n", 2, 9, 9), (2, 3))), load_external_data=False)
    for tensor in outside.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../outside" if entry.key == "location" else entry.value
    (tmp_path / "outside.onnx").write_bytes(outside.SerializeToString())
    cases: list[tuple[Path, type[Exception], str]] = [
        (tmp_path / "net.pt", UsageError, "no runtime takes such a file"),
        (tmp_path / "none.onnx", BundleError, "no such file"),
        (bad["bad.tflite"], BundleError, "refuses"),
        (bad["bad.onnx"], BundleError, "not an ONNX file"),
        (tmp_path / "two.onnx", BundleError, "not images"),
        (large, BundleError, r"the model wants uint8 \(n, 10, 10, 2\)"),
        (lost, BundleError, "keeps its weights"),
        (tmp_path / "outside.onnx", BundleError, "outside its folder"),
    ]
    for path, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            measure_file(path, "local", evaluation=evaluation)
        assert str(caught.value).startswith(str(path)) or path == large
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="range of pixels"):
        measure_file(int8, "local", pixels="0..2")
    with pytest.raises(UsageError, match="size of its images open"):
        measure_file(onnx_file(tmp_path / "open.onnx", ("n", 2, "h", "w"), (2, 3)), "local")


def test_the_command_measures_one_model(int8: Path, evaluation: Path, tmp_path: Path):
    out = str(tmp_path / "found.json")
    given = ["measure", "--out", out, "--evaluation", str(evaluation), "--images", "20"]
    done = CliRunner().invoke(app, [*given, "--model", str(int8)])
    assert done.exit_code == 0 and FileMeasurement.read(Path(out)).name == "int8.tflite"
    for wrong in (given, [*given, str(tmp_path), "--model", str(int8)], ["measure", "--out", out, str(tmp_path)]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, UsageError)
