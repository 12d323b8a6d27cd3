"""The TVM adapters: what they promise, and how they refuse."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from chains import Chain, everything

import runtimes
import runtimes.tvm
from export.lowerings import tvm
from msq.errors import BundleError, DeviceError, UsageError
from runtimes._kernels import aligned

adapter = runtimes.adapter("tvm")
LIBRARY = "model-x86_64.so"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "written"
    folder.mkdir()
    tvm.lower(everything().model().save(folder), folder)
    return folder


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))


IMAGES = everything().images(3)


def test_the_board_gets_the_releases_that_the_host_has():
    names = ("apache-tvm", "apache-tvm-ffi")
    assert tuple(f"{name}=={version(name)}" for name in names) == adapter.PACKAGES
    assert adapter.version() == version("apache-tvm")
    assert set(runtimes.adapter("tvm-stock").libraries()) == set()
    assert set(adapter.libraries()) == {"packed kernels"}


def test_images_run_one_after_another_and_none_give_none(bundle: Path):
    session = adapter.load(bundle, 1)
    one_by_one = [session.run(IMAGES[index : index + 1]) for index in range(3)]
    np.testing.assert_array_equal(session.run(IMAGES), np.concatenate(one_by_one))
    assert session.run(IMAGES[:0]).shape == (0, 7)


def test_sessions_do_not_disturb_one_another(bundle: Path):
    sessions = [adapter.load(bundle, threads) for threads in (1, 2)]
    expected = sessions[0].run(IMAGES)
    found = [session.run(IMAGES[index : index + 1]) for index in range(3) for session in sessions]
    np.testing.assert_array_equal(np.concatenate(found[::2]), expected)
    np.testing.assert_array_equal(np.concatenate(found[1::2]), expected)
    tensors = sessions[0].tensors(IMAGES)
    np.testing.assert_array_equal(tensors["output"], expected)
    del sessions[0]
    np.testing.assert_array_equal(sessions[0].run(IMAGES), expected)


def test_layers_outlive_their_library(bundle: Path):
    ffi = runtimes.tvm._ffi()
    library = runtimes.tvm._opened(ffi, bundle / LIBRARY)
    session = library.get_function("msq_session", query_imports=True)(2)
    del library
    gc.collect()
    del session


def test_a_model_exported_anew_into_its_folder_is_the_one_that_runs(bundle: Path, tmp_path: Path):
    before = adapter.load(bundle, 1)
    expected = before.run(IMAGES)
    (tmp_path / "new").mkdir()
    tvm.lower(everything(1).model().save(tmp_path / "new"), tmp_path / "new", ("x86-64",))
    shutil.rmtree(bundle)
    (tmp_path / "new").rename(bundle)
    oracle = runtimes.adapter("reference").load(bundle, 1)
    np.testing.assert_array_equal(adapter.load(bundle, 1).run(IMAGES), oracle.run(IMAGES))
    np.testing.assert_array_equal(before.run(IMAGES), expected)


def test_tvm_s_compiler_is_not_loaded_to_run_a_model(bundle: Path):
    program = f"""if True:
        import sys
        from pathlib import Path
        import numpy as np, runtimes
        runtimes.adapter("tvm").load(Path({str(bundle)!r}), 1).run(np.zeros((1, 9, 8, 3), np.float32))
        assert "tvm_compiler" not in Path("/proc/self/maps").read_text()
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize("tier", ["scalar", "no-such-tier"])
def test_the_linked_kernels_take_the_tier_that_is_asked_for(bundle: Path, tier: str):
    program = f"""if True:
        import sys
        from pathlib import Path
        import numpy as np, runtimes
        from msq.errors import MsqError
        try:
            print(runtimes.adapter("tvm").load(Path({str(bundle)!r}), 1).run(np.zeros((1, 9, 8, 3), np.float32))[0, 0])
        except MsqError as error:
            sys.exit(str(error))
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "MSQ_KERNELS_TIER": tier}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    if tier == "scalar":
        expected = adapter.load(bundle, 1).run(np.zeros((1, 9, 8, 3), np.float32))
        assert (done.returncode, float(done.stdout)) == (0, expected[0, 0])
    else:
        assert done.returncode == 1
        assert "TVM refuses it: packed kernels: no tier is named no-such-tier here" in done.stderr


def test_a_bundle_without_this_machine_s_library_names_those_there_are(bundle: Path):
    (bundle / LIBRARY).unlink()
    with pytest.raises(BundleError, match=rf"{LIBRARY}: no such file; libraries of this bundle: model-aarch64\.so"):
        adapter.load(bundle, 1)


def test_a_library_of_another_machine_is_refused_in_one_line(bundle: Path):
    shutil.copy(bundle / "model-aarch64.so", bundle / LIBRARY)
    with pytest.raises(BundleError, match="a library of another machine; this is x86_64"):
        adapter.load(bundle, 1)


@pytest.mark.parametrize("kept", [0, 10, 100, 5000, -1])
def test_a_cut_library_is_refused_in_one_line(bundle: Path, kept: int):
    content = (bundle / LIBRARY).read_bytes()
    (bundle / LIBRARY).write_bytes(content[:kept])
    with pytest.raises(BundleError, match=r"model-x86_64\.so: (cut at byte|not a library)") as caught:
        adapter.load(bundle, 1)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_no_model_is_refused_in_one_line(bundle: Path):
    shutil.copy(runtimes.tvm.kernels().path, bundle / LIBRARY)
    with pytest.raises(BundleError, match="TVM refuses it") as caught:
        adapter.load(bundle, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["tvm", "tvm-stock"])
def test_cut_weights_are_refused_in_one_line(bundle: Path, runtime: str):
    content = (bundle / "weights.bin").read_bytes()
    (bundle / "weights.bin").write_bytes(content[:-1])
    with pytest.raises(BundleError, match="TVM refuses it") as caught:
        runtimes.adapter(runtime).load(bundle, 1)
    assert "\n" not in str(caught.value)
    (bundle / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: no such file"):
        runtimes.adapter(runtime).load(bundle, 1)


def test_the_linked_functions_refuse_what_they_cannot_take(bundle: Path):
    ffi = runtimes.tvm._ffi()
    library = runtimes.tvm._opened(ffi, bundle / LIBRARY)
    msq_session, msq_layer, msq_run = (
        library.get_function(name, query_imports=True) for name in ("msq_session", "msq_layer", "msq_run")
    )
    room = aligned(4160)
    room[:] = 1  # scales are above 0
    weights, askew = (ffi.from_dlpack(room[begin : begin + 4096]) for begin in (0, 16))
    words = np.array([0, 8, 16, 2, 1, 2, 4, 8, 1, 0, *[1] * 6, *[0] * 6, 0, 0, -128, 127, *[0] * 6], np.int32)
    words[20:22] = np.array([1, 1], np.float32).view(np.int32)
    session = msq_session(1)

    def layer(place: int = 0, value: int = 0, size: int = 32):
        changed = words.copy()
        changed[place] = value
        return msq_layer(session, weights, ffi.from_dlpack(changed[:size]))

    def tensor(shape: tuple[int, ...], dtype: type = np.int8):
        return ffi.from_dlpack(np.ones(shape, dtype))

    made = layer()
    msq_run(made, tensor((3, 8)), tensor((3, 4)))
    wrong: list[Callable[[], object]] = [
        lambda: msq_session(),
        lambda: msq_session("two"),
        lambda: msq_session(-1),
        lambda: msq_layer(session, weights),
        lambda: msq_layer(weights, weights, weights),
        lambda: msq_layer(session, askew, ffi.from_dlpack(words)),
        lambda: layer(size=31),
        lambda: layer(0, 1000),
        lambda: layer(1, -1),
        lambda: layer(3, 9),
        lambda: layer(6, 0),
        lambda: layer(7, 1 << 30),
        lambda: layer(8, 3),
        lambda: layer(10, -1),
        lambda: msq_run(),
        lambda: msq_run(weights, tensor((3, 8)), tensor((3, 4))),
        lambda: msq_run(made, tensor((3, 8))),
        lambda: msq_run(made, tensor((3, 7)), tensor((3, 4))),
        lambda: msq_run(made, tensor((3, 8)), tensor((2, 4))),
        lambda: msq_run(made, tensor((3, 8), np.uint8), tensor((3, 4))),
        lambda: msq_run(made, tensor((3, 8)), tensor((2, 4)), tensor((3, 4))),
        lambda: msq_run(made, *[tensor((3, 8))] * 3, tensor((3, 4))),
    ]
    for number, call in enumerate(wrong):
        with pytest.raises(ValueError, match="packed kernels: "):
            print(number, call())


def test_steps_of_another_model_are_refused(bundle: Path):
    (bundle / "steps.json").write_text('[["t0"]]')
    session = adapter.load(bundle, 1)
    with pytest.raises(BundleError, match=r"its calls are not those of steps\.json"):
        session.tensors(IMAGES)
    (bundle / "steps.json").write_text("[")
    with pytest.raises(BundleError, match=r"steps\.json: not JSON"):
        session.tensors(IMAGES)
    (bundle / "steps.json").unlink()
    with pytest.raises(BundleError, match=r"steps\.json: no such file"):
        session.tensors(IMAGES)
    assert session.run(IMAGES).shape == (3, 7)


def test_images_of_another_shape_are_refused_in_one_line(bundle: Path):
    session = adapter.load(bundle, 1)
    for shape in ((3, 5, 5, 1), (3, 9, 8)):
        with pytest.raises(BundleError, match=r"model-x86_64\.so: TVM failed") as caught:
            session.run(np.ones(shape, np.float32))
        assert "\n" not in str(caught.value)
    assert session.run(IMAGES).shape == (3, 7)


@pytest.mark.parametrize("threads", [0, -3])
def test_no_threads_are_refused(bundle: Path, threads: int):
    with pytest.raises(UsageError, match=f"{threads} threads"):
        adapter.load(bundle, threads)


def test_without_tvm_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tvm_ffi", None)
    runtimes.tvm._ffi.cache_clear()
    with pytest.raises(DeviceError, match="TVM is not installed here") as caught:
        adapter.version()
    assert "pip install apache-tvm apache-tvm-ffi" in caught.value.hint


def test_parameters_that_are_copied_count_twice():
    chain = Chain(0, (4, 12))
    chain.tokens_linear(3, 12)
    chain.layer_norm()
    model = chain.model()
    (layer,) = model.weighted()
    held, note = adapter.resident(model)
    assert held == model.parameter_bytes + layer.weight.packed.nbytes + 8 * 12 + 8 * 12
    assert "mapped" in note and "copied" in note
