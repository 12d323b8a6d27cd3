"""Several devices and runtimes at once: each is measured, and one that fails takes no other along."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from msq.cli import app
from msq.errors import DeviceError, UsageError
from msq.fleet_cli import runtimes_of
from msq.measurement import Measurement
from tests.devices.conftest import small_model, write_bundle


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "native", "native", small_model(), pictures[:4])


def measured(bundle: Path, evaluation: Path, out: Path, *options: str):
    store = ["--store", str(out.with_suffix(".db"))]
    given = [str(bundle), "--evaluation", str(evaluation), "--images", "20", "--out", str(out), *store, *options]
    return CliRunner().invoke(app, ["measure", *given])


def test_all_runtimes_of_a_bundle_are_measured_on_every_device(packed: Path, evaluation: Path, tmp_path: Path):
    done = measured(packed, evaluation, tmp_path / "out", "--device", "raspberrypi,local", "--runtime", "all")
    assert done.exit_code == 0, done.output
    assert runtimes_of(packed, "all") == ["native", "reference"]
    found = {
        (device, runtime): Measurement.read(tmp_path / "out" / device / f"{runtime}.json")
        for device in ("raspberrypi", "local")
        for runtime in ("native", "reference")
    }
    assert len({one.predictions for one in found.values()}) == 1
    assert all(one.runtime == runtime for (_, runtime), one in found.items())
    assert found["local", "native"].latency_seconds and not found["raspberrypi", "native"].latency_seconds
    for device, runtime in found:
        assert f"{device} " in done.stdout and f" {runtime} " in done.stdout


def test_one_that_fails_is_told_and_the_others_are_kept(packed: Path, evaluation: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = measured(packed, evaluation, out, "--device", "ssh:nobody@127.0.0.1:1,local", "--runtime", "native")
    assert isinstance(done.exception, DeviceError)
    assert str(done.exception) == "1 of 2 measurements failed; the first: ssh:nobody@127.0.0.1:1, native"
    assert "Connection refused" in done.stdout
    assert Measurement.read(out / "local" / "native.json").device.name == "local"
    assert not list(out.glob("ssh-*/*.json"))


def test_a_fleet_that_cannot_be_is_refused(packed: Path, evaluation: Path, tmp_path: Path):
    for device, runtime in (("local,local", "native"), ("local", "native,nonsense")):
        done = measured(packed, evaluation, tmp_path / "out", "--device", device, "--runtime", runtime)
        assert isinstance(done.exception, UsageError)
