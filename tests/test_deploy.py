"""The main job, end to end and for real: images in, a report of what an emulated board did out."""

import sys
from pathlib import Path

import numpy as np
import pytest

from devices.classify import classify
from msq.bundle import Manifest
from msq.checkpoint import Checkpoint
from msq.cli import main
from msq.errors import DataError
from msq.measurement import Measurement
from msq.provenance import Kind
from reports.store import Store


@pytest.fixture
def deploy(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    def run(device: str, runtime: str = "onnxruntime") -> Measurement:
        build = recipe.parent / "build"
        arguments = ["msq", "deploy", str(recipe), "--device", device, "--runtime", runtime, "--build", str(build)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        assert (build / "tiny" / runtime / f"{device}.html").read_text().startswith("<!DOCTYPE html>")
        return Measurement.read(build / "tiny" / runtime / f"{device}.json")

    return run


def test_a_recipe_becomes_a_report_of_every_device_and_all_compute_the_same(recipe: Path, deploy) -> None:
    pi, phone, host = deploy("raspberrypi"), deploy("android"), deploy("local")
    oracle, native = deploy("jetson", "reference"), deploy("raspberrypi", "native")
    litert, tvm = deploy("raspberrypi", "litert"), deploy("jetson", "tvm")
    for found in (pi, phone, host, oracle, native, litert, tvm):
        assert found.parity.equal_to_host
        assert found.parity.equal_to_oracle
        assert found.predictions == pi.predictions
    files = sorted((recipe.parent / "data" / "test").rglob("*.png"))
    bundle, labels = recipe.parent / "build" / "tiny" / "onnxruntime" / "bundle", pi.manifest.labels
    assert classify(bundle, files, "local", "onnxruntime") == [labels[said.predicted] for said in pi.predictions]
    with pytest.raises(DataError, match="not a readable image"):
        classify(bundle, [recipe], "local", "onnxruntime")
    assert pi.environment.machine == "aarch64"
    assert {figure.kind for figure in pi.figures.values() if figure.unit == "seconds"} == set()
    assert host.figures["latency_p50"].kind == Kind.MEASURED_HOST
    with Store(recipe.parent / "build" / "store.db") as store:
        kept = [one.measurement for one in store.history()]
    assert len(kept) == 7 and all(found in kept for found in (pi, phone, host, oracle, native, litert, tvm))
    checkpoint = Checkpoint.open(recipe.parent / "build" / "tiny" / "checkpoint")
    manifest = Manifest.open(recipe.parent / "build" / "tiny" / "onnxruntime" / "bundle")
    assert [layer.bits for layer in manifest.layers] == [site.bits for site in checkpoint.sites]
    assert manifest.average_bits <= 3
    stored = sum(site.bits * int(np.prod(site.shape)) for site in checkpoint.sites) / 8
    assert manifest.sizes.weight_bytes == int(np.ceil(stored))
    sizes = manifest.sizes
    assert sizes.model_bytes <= 1.02 * (sizes.weight_bytes + sizes.parameter_bytes) + 32 * 1024
    assert [accuracy.what for accuracy in manifest.accuracy] == ["float", "ptq8", "trained", "deployed"]
    assert manifest.net is not None and manifest.net.n == len(pi.predictions)
    assert sum(said.label == said.predicted for said in pi.predictions) == manifest.net.correct
