"""LiteRT with our delegate: what it promises, and how it refuses. That it gives the oracle's integers is tested beside
the other runtimes, on random models."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, load_delegate
from chains import WHOLE, Chain, transformer
from hypothesis import given, settings
from hypothesis import strategies as st

import runtimes
from export.lowerings import _tflite_layers, _tflite_moves, lowering
from msq.errors import BundleError, DeviceError, MsqError
from msq.integer_model import IntegerModel
from msq.nodes import AveragePool, MaxPool
from runtimes import _kernels
from runtimes.litert import LIBRARY_VARIABLE, _library

adapter = runtimes.adapter("litert")
PLACE, LIBRARY = _library()


def net(seed: int = 0) -> Chain:
    """Layers of several widths, sums that a layer can do and one that it cannot, and what lies between partitions."""
    chain = Chain(seed, (10, 9, 3))
    chain.conv(5, 16)
    left = chain.last
    chain.conv(3, 16, groups=16)
    chain.conv(2, 16, (1, 1), padding=(0,) * 4)
    left = chain.add(left)
    chain.lookup()
    chain.max_pool(2, 1, 0)
    chain.average_pool()
    chain.multiply(left)
    chain.conv(0, 7)
    chain.flatten()
    chain.linear(7, 5)
    return chain


def written(chain: Chain, folder: Path) -> Path:
    lowering("tflite").lower(chain.model().save(folder), folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the net, not to be altered."""
    return written(net(), tmp_path_factory.mktemp("litert"))


IMAGES = net().images(3)


def tiers() -> list[str]:
    usable = [name for name in _kernels.kernels().built_tiers() if LIBRARY.msq_use_tier(name.encode()) == 0]
    LIBRARY.msq_use_tier(None)
    return usable


@contextmanager
def tier(name: str) -> Iterator[None]:
    LIBRARY.msq_use_tier(name.encode())
    try:
        yield
    finally:
        LIBRARY.msq_use_tier(None)


@pytest.mark.parametrize("name", tiers())
def test_every_tier_gives_the_oracle_s_tensors(name: str, tmp_path: Path):
    for index, chain in enumerate((net(1), transformer(2))):
        folder = tmp_path / str(index)
        folder.mkdir()
        written(chain, folder)
        images = chain.images()
        oracle = runtimes.adapter("reference").load(folder, 1).tensors(images)
        with tier(name):
            assert adapter.libraries() == {"packed kernels": name}
            session = adapter.load(folder, 1)
            found, output = session.tensors(images), session.run(images)
        assert found.keys() == oracle.keys()
        for tensor, values in oracle.items():
            np.testing.assert_array_equal(found[tensor], values, err_msg=tensor)
        np.testing.assert_array_equal(output, oracle["output"])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_oracle_s_outputs(bundle: Path, threads: int):
    expected = runtimes.adapter("reference").load(bundle, 1).run(IMAGES)
    np.testing.assert_array_equal(adapter.load(bundle, threads).run(IMAGES), expected)


def test_no_calculation_is_undefined():
    """All of this file on a build that stops where one is."""
    checked = Path(__file__).parents[2] / "build" / "kernels" / "checked" / "libmsq_litert.so"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "not undefined", __file__]
    environment = os.environ | {LIBRARY_VARIABLE: str(checked)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_board_gets_the_release_that_the_host_has():
    assert (f"ai-edge-litert=={version('ai-edge-litert')}",) == adapter.PACKAGES
    assert adapter.version() == version("ai-edge-litert")


def test_images_run_one_after_another_and_none_give_none(bundle: Path):
    session = adapter.load(bundle, 1)
    one_by_one = [session.run(IMAGES[index : index + 1]) for index in range(3)]
    np.testing.assert_array_equal(session.run(IMAGES), np.concatenate(one_by_one))
    assert session.run(IMAGES[:0]).shape == (0, 5)


def test_the_probe_is_loaded_only_when_tensors_are_asked_for(tmp_path: Path):
    session = adapter.load(written(net(), tmp_path), 1)
    (tmp_path / "probe.tflite").unlink()
    assert session.run(IMAGES).shape == (3, 5)
    with pytest.raises(BundleError, match=r"probe\.tflite: no such file"):
        session.tensors(IMAGES)


HELD = """
import sys
from pathlib import Path
import numpy as np
import runtimes

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

small, large = (Path(name) for name in sys.argv[1:])
adapter = runtimes.adapter("litert")
image = np.zeros((1, 1, 1, 2048), np.float32)
kept = [adapter.load(small, 1)]
kept[0].run(image)
before = anonymous()
kept.append(adapter.load(large, 1))
kept[1].run(image)
print(anonymous() - before)
"""


def test_weights_stay_where_the_file_is_mapped(tmp_path: Path):
    """One that unpacked them would hold eight megabytes more, one that copied them two."""
    for name, outputs in (("small", 16), ("large", 4096)):
        chain = Chain(0, (1, 1, 2048))
        chain.flatten()
        chain.linear(2, outputs)
        (tmp_path / name).mkdir()
        written(chain, tmp_path / name)
    command = [sys.executable, "-c", HELD, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    packed = 2048 * 4096 * 2 // 8
    assert int(done.stdout) < packed // 4
    model = IntegerModel.load(tmp_path / "large")
    held, note = adapter.resident(model)
    assert held == packed + model.parameter_bytes + 8 * 4096
    assert "mapped from model.tflite" in note


def without_delegate(path: Path) -> None:
    Interpreter(model_path=str(path)).allocate_tensors()


def test_litert_alone_does_not_run_a_packed_file(bundle: Path):
    with pytest.raises(RuntimeError, match=r"msq\.quantize"):
        without_delegate(bundle / "model.tflite")


def test_a_file_without_packed_operators_is_not_run_by_litert_alone(tmp_path: Path):
    model = net().model().save(tmp_path)
    lowering("tflite-stock").lower(model, tmp_path)
    without_delegate(tmp_path / "model.tflite")
    with pytest.raises(BundleError, match=r"model\.tflite: it has no packed operators"):
        adapter.load(tmp_path, 1)


def test_a_delegate_that_is_not_there_or_is_another_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for path in (tmp_path / "no.so", Path(__file__), _kernels.kernels().path):
        _library.cache_clear()
        monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
        with pytest.raises(DeviceError, match="not the delegate for LiteRT") as caught:
            adapter.load(bundle, 1)
        assert "make kernels" in caught.value.hint
    monkeypatch.undo()
    monkeypatch.setattr("runtimes.litert.ABI", 99)
    _library.cache_clear()
    with pytest.raises(DeviceError, match="the delegate for LiteRT, but with interface version 1, wanted is 99"):
        adapter.load(bundle, 1)
    monkeypatch.undo()
    _library.cache_clear()
    adapter.load(bundle, 1)


@pytest.mark.parametrize("count", [0, -1, 257])
def test_a_number_of_threads_that_cannot_be_had_is_refused(bundle: Path, count: int):
    with pytest.raises(DeviceError, match=f"{count} threads; 1 to 256 can be had"):
        adapter.load(bundle, count)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"thread": 1}, "unknown option thread;"),
        ({"threads": "2x"}, "2x threads"),
        ({"copy": 2}, "copy=2; it is 0 or 1"),
    ],
)
def test_options_that_the_delegate_has_not_are_refused(options: dict, said: str):
    with pytest.raises(ValueError, match=said):
        load_delegate(str(PLACE), options)


def test_a_tier_that_cannot_be_had_is_refused(bundle: Path):
    program = f"""
from pathlib import Path
import runtimes
try:
    runtimes.adapter("litert").load(Path({str(bundle)!r}), 1)
except runtimes.litert.DeviceError as error:
    print(error)
"""
    environment = os.environ | {"MSQ_KERNELS_TIER": "sse9"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "no tier is named sse9 here" in done.stdout


def test_a_file_that_is_cut_is_refused(bundle: Path, tmp_path: Path):
    whole = (bundle / "model.tflite").read_bytes()
    (tmp_path / "model.tflite").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match=r"model\.tflite: LiteRT refuses it: The model is not a valid Flatbuffer"):
        adapter.load(tmp_path, 1)


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


def test_what_is_not_a_number_is_refused_and_the_session_goes_on(bundle: Path):
    session, wrong = adapter.load(bundle, 1), IMAGES.copy()
    wrong[1, 0, 1, 2] = np.nan
    with pytest.raises(BundleError, match="tensor input: element 5 is not a number"):
        session.run(wrong)
    np.testing.assert_array_equal(session.run(IMAGES), adapter.load(bundle, 1).run(IMAGES))


def test_an_input_cannot_be_resized(bundle: Path):
    delegate = load_delegate(str(PLACE))
    interpreter = Interpreter(model_path=str(bundle / "model.tflite"), experimental_delegates=[delegate])
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], (2, 10, 9, 3))
    with pytest.raises(RuntimeError, match="tensor input: the file's shape cannot be changed"):
        interpreter.allocate_tensors()


def test_weights_that_lie_at_no_multiple_of_64_bytes_are_copied_if_asked_for_and_else_refused_by_name(bundle: Path):
    whole, kept = (bundle / "model.tflite").read_bytes(), []
    image = IMAGES[:1]
    for _ in range(8):  # as bytes, a model lies anywhere
        kept.append(bytes(bytearray(whole)))
        behind = (id(kept[-1]) + bytes.__basicsize__ - 1) % 64
        interpreter = Interpreter(
            model_content=kept[-1], experimental_delegates=[load_delegate(str(PLACE), {"copy": 1})]
        )
        assert_gives(interpreter, image, adapter.load(bundle, 1).run(image))
        if behind:
            with pytest.raises((RuntimeError, ValueError), match=f"conv2d t1: its packed weights lie {behind} bytes"):
                Interpreter(
                    model_content=kept[-1], experimental_delegates=[load_delegate(str(PLACE))]
                ).allocate_tensors()


def assert_gives(interpreter: Interpreter, image: np.ndarray, output: np.ndarray) -> None:
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    np.testing.assert_array_equal(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), output)


def options(content: bytes) -> list[tuple[int, int]]:
    """Return the places and sizes of all that custom operators say of themselves in a file; like ones share it."""
    graph, found = schema.Model.GetRootAsModel(content).Subgraphs(0), set()
    for operator in map(graph.Operators, range(graph.OperatorsLength())):
        if operator.CustomOptionsLength():
            found.add((operator._tab.Vector(operator._tab.Offset(14)), operator.CustomOptionsLength()))
    return sorted(found)


def test_options_that_are_cut_are_refused_by_the_operator_s_name(bundle: Path, tmp_path: Path):
    whole = (bundle / "model.tflite").read_bytes()
    for place, size in options(whole):
        for left in (0, 1, 2, size // 2, size - 1):
            content = bytearray(whole)
            content[place - 4 : place] = left.to_bytes(4, "little")
            (tmp_path / "model.tflite").write_bytes(content)
            with pytest.raises(BundleError, match=r"msq: \w+ t\d+: its options .*FlexBuffer") as caught:
                adapter.load(tmp_path, 1)
            assert "\n" not in str(caught.value)
            assert "unresolved" not in str(caught.value)


@settings(max_examples=200)
@given(data=st.data())
def test_options_altered_anywhere_run_or_are_refused(bundle: Path, tmp_path_factory: pytest.TempPathFactory, data):
    content = bytearray((bundle / "model.tflite").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place, size = data.draw(st.sampled_from(options(bytes(content))))
        content[place + data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("altered")
    (folder / "model.tflite").write_bytes(content)
    try:
        adapter.load(folder, 1).run(IMAGES[:1])
    except MsqError as error:
        assert "\n" not in str(error)


def nodes(folder: Path) -> list[str]:
    """Return what LiteRT knows of a packed file's operators: those of the file, then those that took some over."""
    interpreter = Interpreter(str(folder / "model.tflite"), experimental_delegates=[load_delegate(str(PLACE))])
    interpreter.allocate_tensors()
    return [operator["op_name"] for operator in interpreter._get_ops_details()]


def test_a_convolutional_net_is_one_node(bundle: Path):
    assert nodes(bundle).count("DELEGATE") == 1


def test_operators_of_litert_s_own_can_stand_between_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stock = {MaxPool: _tflite_layers.max_pool, AveragePool: _tflite_layers.average_pool}
    monkeypatch.setattr(_tflite_moves, "EMIT", {**_tflite_moves.EMIT, **stock})
    chain = net(4)
    chain._clamp = lambda: WHOLE  # type: ignore[method-assign]
    written(chain, tmp_path)
    assert {"MAX_POOL_2D", "MEAN", "msq.conv2d"} <= set(nodes(tmp_path))
    images = chain.images()
    oracle = runtimes.adapter("reference").load(tmp_path, 1)
    session = adapter.load(tmp_path, 2)
    np.testing.assert_array_equal(session.run(images), oracle.run(images))
    for name, values in oracle.tensors(images).items():
        np.testing.assert_array_equal(session.tensors(images)[name], values, err_msg=name)


def test_sums_are_done_by_the_layer_before_them_unless_somebody_wants_its_own_result(tmp_path: Path):
    """A chain of whole codes, whose results are the same however its sums are done."""
    chain = Chain(3, (6, 6, 8))
    chain._clamp = lambda: WHOLE  # type: ignore[method-assign]
    first = chain.conv(4, 8)
    own = chain.conv(3, 8)
    chain.add(first)
    chain.add(own)
    written(chain, tmp_path)
    oracle = runtimes.adapter("reference").load(tmp_path, 1)
    images = chain.images()
    session = adapter.load(tmp_path, 1)
    np.testing.assert_array_equal(session.run(images), oracle.run(images))
    for name, values in oracle.tensors(images).items():
        np.testing.assert_array_equal(session.tensors(images)[name], values)
