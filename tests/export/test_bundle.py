"""A checkpoint becomes a bundle: whole, verifiable, within its size, the same bytes every time; or nothing."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import runtimes
from export.bundle import export
from export.lowerings import lowering
from msq.bundle import CARD_FILE, GOLDEN_FILE, HOST_PREDICTIONS_FILE, LABELS_FILE, MANIFEST_FILE, Manifest
from msq.checkpoint import CHECKPOINT_FILE, IMAGES_FILE, PROGRAM_FILE
from msq.errors import BudgetError, BundleError, LoweringError, UsageError
from msq.integer_model import IntegerModel
from msq.packing import packed_size

EXPORTED = [
    name for name in runtimes.names() if runtimes.adapter(name).LOWERING != "file" and runtimes.host_of(name) == name
]


@pytest.fixture(scope="module", params=EXPORTED)
def bundle(request: pytest.FixtureRequest, residual_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the residual net for each runtime."""
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    export(residual_checkpoint, out, request.param)
    return out


def runtimes_of(manifest: Manifest) -> list[str]:
    """Return the runtimes that read a bundle, whichever it was exported for."""
    return [name for name in EXPORTED if manifest.lowering == runtimes.adapter(name).LOWERING]


def exported_for(manifest: Manifest) -> str:
    """Return the runtime that a bundle was exported for."""
    return next(name for name in runtimes_of(manifest) if name in manifest.versions)


def test_every_file_of_a_bundle_is_in_its_manifest_and_verifies(bundle: Path):
    manifest = Manifest.open(bundle)
    assert set(manifest.files) | {MANIFEST_FILE} == {path.name for path in bundle.iterdir()}


def test_a_bundle_runs_and_gives_its_golden_outputs(bundle: Path):
    manifest = Manifest.open(bundle)
    golden = np.load(bundle / GOLDEN_FILE)
    expected = {name.removeprefix("oracle/"): golden[name] for name in golden.files if name.startswith("oracle/")}
    for runtime in runtimes_of(manifest):
        found = runtimes.adapter(runtime).load(bundle, 1).tensors(golden["input"])
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], golden.get(f"host/{name}", values))


def test_parity_is_bit_exact_and_the_oracle_is_faithful_to_training(bundle: Path):
    manifest = Manifest.open(bundle)
    if manifest.parity.whole is None:
        assert (manifest.parity.max_lsb, manifest.parity.differing) == (0, {})
    else:
        # A stock runtime that adds in its own way: nothing but its sums may differ.
        assert manifest.parity.differing.keys() <= {"add"}
        assert manifest.parity.max_lsb <= 1
        assert manifest.parity.whole.agreeing >= 0.95 * manifest.parity.whole.images
    assert manifest.parity.values > 10_000
    assert manifest.fidelity is not None
    assert manifest.fidelity.agreeing >= 0.95 * manifest.fidelity.images


def test_golden_inputs_are_the_first_test_images_preprocessed(bundle: Path, residual_checkpoint: Path, nets):
    images = np.load(residual_checkpoint / IMAGES_FILE)[:4].astype(np.float64)
    expected = (images / 255 - np.array(nets.MEAN)) / np.array(nets.STD)
    found = np.load(bundle / GOLDEN_FILE)["input"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sizes_are_those_of_the_files_and_within_the_limit(bundle: Path):
    manifest = Manifest.open(bundle)
    sizes = manifest.sizes
    assert sizes.model_bytes == sum((bundle / name).stat().st_size for name in lowering(manifest.lowering).DEPLOYED)
    assert sizes.weight_bytes == -(-sum(layer.bits * layer.weights for layer in manifest.layers) // 8)
    content = lowering(manifest.lowering).content_bytes(IntegerModel.load(bundle))
    assert sizes.model_bytes <= sizes.limit_bytes <= 1.02 * content + 32 * 1024
    if manifest.lowering not in ("tflite-stock", "tvm", "tvm-stock"):
        # TFLite has no convolution below 8 bits, and TVM's libraries have code beside.
        assert content == sizes.weight_bytes + sizes.parameter_bytes
    for layer in manifest.layers:
        assert layer.packed_bytes == packed_size(layer.shape[0], int(np.prod(layer.shape[1:])), layer.bits)


def test_every_byte_of_the_deployed_files_is_accounted_for(bundle: Path):
    manifest = Manifest.open(bundle)
    of_file: dict[str, int] = {}
    for part in manifest.audit:
        assert part.bytes >= 0
        of_file[part.file] = of_file.get(part.file, 0) + part.bytes
    deployed = lowering(manifest.lowering).DEPLOYED
    assert of_file == {name: (bundle / name).stat().st_size for name in deployed}
    weights = {part.layer: part.bytes for part in manifest.audit if part.what == "weights"}
    stored = {layer.name: layer.packed_bytes for layer in manifest.layers if layer.packed_bytes}
    assert weights.keys() >= stored.keys() if manifest.lowering == "tflite-stock" else weights == stored
    parameters = sum(part.bytes for part in manifest.audit if part.what == "parameters")
    if manifest.lowering not in ("tflite", "tflite-stock"):
        assert parameters == manifest.sizes.parameter_bytes
    assert ("code" in {part.what for part in manifest.audit}) == manifest.lowering.startswith("tvm")


def test_nothing_is_exported_for_a_runtime_of_others_files(residual_checkpoint: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="runs files that others made"):
        export(residual_checkpoint, tmp_path / "bundle", "litert-file")


def test_activations_of_a_runtime_that_plans_them_are_in_the_manifest_and_on_the_card(bundle: Path):
    manifest = Manifest.open(bundle)
    assert (manifest.arena is None) == (manifest.lowering != "integer" or "native" not in manifest.versions)
    if manifest.arena:
        names = [node.name for node in IntegerModel.load(bundle).nodes]
        assert [name for name in names if name in manifest.arena.timeline] == list(manifest.arena.timeline)
        assert max(manifest.arena.timeline.values()) == manifest.arena.bound_bytes <= manifest.arena.bytes
        assert f"One arena of {manifest.arena.bytes} bytes" in (bundle / CARD_FILE).read_text()


def test_the_classes_that_the_host_gave_are_kept(bundle: Path, residual_checkpoint: Path):
    manifest, labels = Manifest.open(bundle), np.load(residual_checkpoint / "evaluation" / "labels.npy")
    assert manifest.net and manifest.net.correct == (np.load(bundle / HOST_PREDICTIONS_FILE) == labels).sum()


def test_labels_and_card_tell_people_what_the_model_is(bundle: Path):
    assert json.loads((bundle / LABELS_FILE).read_text()) == list("abcde")
    card = (bundle / CARD_FILE).read_text(encoding="utf-8")
    assert "| float | 83.33 % | 80 | 96 |" in card
    assert "| block2.shortcut.0 | conv2d |" in card


def test_the_tar_holds_the_folder(bundle: Path, tmp_path: Path):
    with tarfile.open(bundle.with_name("bundle.tar")) as archive:
        archive.extractall(tmp_path, filter="data")
    assert Manifest.open(tmp_path / "bundle") == Manifest.open(bundle)


def test_exporting_again_gives_identical_bytes(bundle: Path, residual_checkpoint: Path, tmp_path: Path):
    export(residual_checkpoint, tmp_path / "bundle", exported_for(Manifest.open(bundle)))
    assert (tmp_path / "bundle.tar").read_bytes() == bundle.with_name("bundle.tar").read_bytes()


def test_an_altered_bundle_is_refused_by_the_file_s_name(residual_checkpoint: Path, tmp_path: Path):
    export(residual_checkpoint, tmp_path / "bundle", "reference")
    path = tmp_path / "bundle" / "weights.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin: sha256"):
        Manifest.open(tmp_path / "bundle")


def test_a_truncated_checkpoint_is_refused_by_the_file_s_name(nets, make_checkpoint, tmp_path: Path):
    folder = make_checkpoint(nets.Map())
    program = folder / PROGRAM_FILE
    program.write_bytes(program.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"program\.pt2: sha256"):
        export(folder, tmp_path / "bundle", "reference")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match=CHECKPOINT_FILE):
        export(tmp_path, tmp_path / "bundle", "reference")


def test_an_unknown_runtime_is_refused_with_those_there_are(residual_checkpoint: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="onnxruntime, onnxruntime-file, onnxruntime-gpu, onnxruntime-stock"):
        export(residual_checkpoint, tmp_path / "bundle", "onnxruntim")


def test_a_refused_model_leaves_no_bundle(nets, make_checkpoint, tmp_path: Path):
    net = nets.Map()
    net.conv[1] = nn.Tanh()
    with pytest.raises(LoweringError, match=r"conv\.1: operator aten\.tanh"):
        export(make_checkpoint(net), tmp_path / "out" / "bundle", "onnxruntime")
    assert not (tmp_path / "out").exists()


def test_a_model_larger_than_its_bits_allow_is_refused(
    nets, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Small nets are mostly graph, which the slack is for.
    monkeypatch.setattr("export.sizes.SLACK", 1024)
    torch.manual_seed(0)
    with pytest.raises(BudgetError, match="more than the"):
        export(make_checkpoint(nets.Residual()), tmp_path / "bundle", "onnxruntime")
    assert not (tmp_path / "bundle").exists()


def test_a_processor_for_a_format_without_machine_code_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="a bundle of onnx is the same for all processors"):
        export(tmp_path / "checkpoint", tmp_path / "bundle", "onnxruntime", ("cortex-a76",))
