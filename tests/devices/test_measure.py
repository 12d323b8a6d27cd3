import shutil
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from devices.measure import measure, prepare
from msq.bundle import GOLDEN_FILE, HOST_PREDICTIONS_FILE, MANIFEST_FILE, Manifest
from msq.checksums import sha256_of
from msq.errors import BundleError, ParityError, UsageError
from msq.measurement import Measurement
from msq.provenance import Kind, proportion
from runtimes import adapter


@pytest.fixture(scope="module")
def emulated(bundle: Path, evaluation: Path, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    out = tmp_path_factory.mktemp("measurement") / "raspberrypi.json"
    found = measure(bundle, evaluation, "raspberrypi", runtime, out=out)
    assert Measurement.read(out) == found
    return found


@pytest.fixture(scope="module")
def local(bundle: Path, evaluation: Path, runtime: str) -> Measurement:
    return measure(bundle, evaluation, "local", runtime)


def test_an_emulator_yields_no_time_and_no_memory(emulated: Measurement):
    assert emulated.device.engine == "qemu-user"
    assert emulated.latency_seconds == ()
    assert not {name for name in emulated.figures if name.startswith(("latency", "first")) or "memory" in name}
    assert (emulated.protocol, emulated.conditions) == (None, ())
    assert "seconds" not in {figure.unit for figure in emulated.figures.values()}


def test_figures_say_where_they_come_from(emulated: Measurement, local: Measurement):
    assert emulated.figures["top1"].kind is Kind.EMULATED
    assert local.figures["top1"].kind is Kind.MEASURED_HOST
    assert local.figures["latency_p50"].kind is Kind.MEASURED_HOST
    for found in (emulated, local):
        assert found.figures["model_bytes"].kind is Kind.ARTEFACT
        assert found.figures["resident_weight_bytes"].kind is Kind.MODELLED


def test_device_and_host_agree_on_every_image(emulated: Measurement, local: Measurement):
    assert emulated.predictions == local.predictions
    assert emulated.parity == local.parity
    assert emulated.parity.equal_to_host and emulated.parity.max_lsb_to_oracle <= 1


def test_top1_is_the_share_of_right_predictions_with_wilsons_interval(emulated: Measurement, evaluation: Path):
    labels = np.load(evaluation / "labels.npy")
    assert [found.label for found in emulated.predictions] == labels[[p.index for p in emulated.predictions]].tolist()
    right = sum(found.label == found.predicted for found in emulated.predictions)
    top1 = emulated.figures["top1"]
    expected = proportion(right, 300, top1.kind, top1.note)
    assert top1 == expected


def test_the_environment_is_what_was_observed(emulated: Measurement, local: Measurement, runtime: str):
    assert (emulated.environment.machine, local.environment.emulator) == ("aarch64", None)
    assert emulated.environment.emulator and emulated.environment.emulator.endswith("-cpu cortex-a72")
    assert emulated.runtime_version == local.runtime_version == adapter(runtime).version()
    if runtime == "native":
        assert emulated.environment.python is None
        assert emulated.environment.libraries == {"packed kernels": "neon", "packed kernels, images": "scalar"}
    else:
        assert emulated.environment.libraries["numpy"] == np.__version__
        assert emulated.runtime_version == emulated.environment.libraries[runtime]


def test_latency_has_every_sample_and_its_quantiles(local: Measurement):
    assert local.figures["latency_p50"].n == len(local.latency_seconds) == 200
    assert local.figures["latency_p50"].value == pytest.approx(median(local.latency_seconds))
    assert local.figures["latency_p50"].value <= local.figures["latency_p90"].value


def test_memory_is_told_by_what_it_is_made_of(local: Measurement):
    found = {name: figure.value for name, figure in local.figures.items() if name.endswith("_memory")}
    assert found.keys() == {f"{name}_memory" for name in ("peak", "load_peak", "run_peak", "anonymous", "file")}
    assert found["peak_memory"] == max(found["load_peak_memory"], found["run_peak_memory"])
    assert local.figures["first_answer"].unit == "seconds"


def test_a_protocol_decides_how_often_and_by_which_estimator(plain: Path, evaluation: Path):
    found = measure(plain, evaluation, "local", "native", images=4, protocol="tflite-compat")
    assert found.protocol == "tflite-compat"
    assert len(found.latency_seconds) >= 50
    assert found.figures["latency_p90"].value == sorted(found.latency_seconds)[int(0.9 * len(found.latency_seconds))]
    assert len(found.conditions) == 2
    with pytest.raises(UsageError, match="unknown protocol 'slow'"):
        measure(plain, evaluation, "local", "native", images=4, protocol="slow")


def test_images_that_the_host_classed_otherwise_are_listed(copy: Path, evaluation: Path, runtime: str):
    first = measure(copy, evaluation, "local", runtime)
    assert first.disagreements == ()
    host = np.array([said.predicted for said in first.predictions])
    host[[3, 7]] = (host[[3, 7]] + 1) % 5
    np.save(copy / HOST_PREDICTIONS_FILE, host)
    again = measure(copy, evaluation, "local", runtime)
    assert [said.index for said in again.disagreements] == [3, 7]
    np.save(copy / HOST_PREDICTIONS_FILE, host[:-1])
    with pytest.raises(BundleError, match=r"host-predictions.npy: classes of \(299,\) images"):
        measure(copy, evaluation, "local", runtime)


def test_a_subset_is_drawn_by_its_seed_and_recorded(plain: Path, evaluation: Path):
    draws = [measure(plain, evaluation, "local", "reference", images=20, seed=seed) for seed in (0, 0, 1)]
    indices = [[found.index for found in draw.predictions] for draw in draws]
    assert indices[0] == indices[1] != indices[2]
    assert len(set(indices[0])) == draws[0].figures["top1"].n == 20


def reseal(bundle: Path) -> None:
    manifest = Manifest.read(bundle / MANIFEST_FILE)
    files = {name: sha256_of(bundle / name) for name in manifest.files}
    manifest.model_copy(update={"files": files}).write(bundle / MANIFEST_FILE)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def with_difference(bundle: Path, tensor: str, lsb: int, *, host_agrees: bool) -> Path:
    with np.load(bundle / GOLDEN_FILE) as archive:
        golden = dict(archive)
    oracle = golden[f"oracle/{tensor}"]
    host = golden.get(f"host/{tensor}", oracle).copy()
    if host_agrees:
        golden[f"host/{tensor}"] = host
    oracle.flat[0] = host.flat[0] + (lsb if host.flat[0] < 100 else -lsb)
    np.savez(bundle / GOLDEN_FILE, **golden)
    reseal(bundle)
    return bundle


def test_outputs_that_differ_from_the_hosts_are_a_parity_error(copy: Path, evaluation: Path, runtime: str, tmp_path):
    other = with_difference(copy, "second", 1, host_agrees=False)
    with pytest.raises(
        ParityError, match=r"differ from the exporting host's \(operators: (add by 1, )?conv2d by 1 LSB\)"
    ):
        measure(other, evaluation, "local", runtime, images=4, out=tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


def test_outputs_far_from_the_oracle_are_a_parity_error(copy: Path, evaluation: Path, runtime: str):
    with pytest.raises(ParityError, match=r"differ from the oracle's \(operators: add by 2 LSB\)"):
        measure(with_difference(copy, "summed", 2, host_agrees=True), evaluation, "local", runtime, images=4)


def test_a_stock_operator_may_be_one_lsb_from_the_oracle_and_is_named(copy: Path, evaluation: Path, runtime: str):
    other = with_difference(copy, "summed", 1, host_agrees=True)
    if runtime in ("native", "reference"):
        with pytest.raises(ParityError):
            measure(other, evaluation, "local", runtime, images=4)
    else:
        found = measure(other, evaluation, "local", runtime, images=4)
        assert (found.parity.equal_to_host, found.parity.differing) == (True, {"add": 1})


def test_an_altered_bundle_is_refused_before_anything_is_set_up(plain: Path, tmp_path: Path, evaluation: Path):
    copy = Path(shutil.copytree(plain, tmp_path / "copy"))
    with (copy / "weights.bin").open("r+b") as stream:
        stream.write(b"\xff\x00\xff")
    with pytest.raises(BundleError, match=r"weights\.bin: sha256"):
        measure(copy, evaluation, "raspberrypi", "reference")


def test_a_bundle_for_another_runtime_is_refused(bundle: Path, evaluation: Path, runtime: str):
    other = "onnxruntime" if runtime in ("native", "reference") else "reference"
    with pytest.raises(UsageError, match=f"runtime '{other}' reads bundles lowered to") as caught:
        measure(bundle, evaluation, "local", other)
    assert f"export the checkpoint for {other}" in caught.value.hint


def test_unknown_names_are_refused(plain: Path, evaluation: Path):
    with pytest.raises(UsageError, match="unknown device 'toaster'"):
        measure(plain, evaluation, "toaster", "reference")
    with pytest.raises(UsageError, match="unknown runtime 'crayon'"):
        prepare("local", "crayon")


def test_an_evaluation_set_that_does_not_fit_is_refused(plain: Path, tmp_path: Path):
    with pytest.raises(BundleError, match=r"images\.npy: missing"):
        measure(plain, tmp_path, "local", "reference")
    np.save(tmp_path / "images.npy", np.zeros((3, 4, 4, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int64))
    with pytest.raises(BundleError, match=r"the model wants uint8 \(n, 9, 9, 2\)"):
        measure(plain, tmp_path, "local", "reference")
    np.save(tmp_path / "images.npy", np.zeros((2, 9, 9, 2), np.uint8))
    with pytest.raises(BundleError, match="2 images and labels of shape"):
        measure(plain, tmp_path, "local", "reference")
    (tmp_path / "images.npy").write_bytes(b"not an array")
    with pytest.raises(BundleError, match=r"images\.npy: missing or not a \.npy file"):
        measure(plain, tmp_path, "local", "reference")
