"""The parity table: what it says of a bundle that is right, and of one that is not."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from devices.verify import table, verify
from msq.bundle import GOLDEN_FILE, MANIFEST_FILE, Manifest
from msq.checksums import sha256_of
from msq.cli import app
from msq.errors import ParityError, UsageError


@pytest.fixture
def other(plain: Path, tmp_path: Path) -> Path:
    """The small bundle with another sum among its golden vectors."""
    copy = Path(shutil.copytree(plain, tmp_path / "copy"))
    with np.load(copy / GOLDEN_FILE) as archive:
        golden = dict(archive)
    golden["host/summed"] = golden["oracle/summed"].copy()
    golden["oracle/summed"].flat[0] += 2 if golden["oracle/summed"].flat[0] < 100 else -2
    np.savez(copy / GOLDEN_FILE, **golden)
    manifest = Manifest.read(copy / MANIFEST_FILE)
    files = {name: sha256_of(copy / name) for name in manifest.files}
    manifest.model_copy(update={"files": files}).write(copy / MANIFEST_FILE)
    return copy


def printed(bundle: Path, *, by_tensor: bool, device: str = "local") -> str:
    found = io.StringIO()
    Console(width=120, file=found).print(table(verify(bundle, device, "native"), by_tensor=by_tensor))
    return found.getvalue()


def test_a_right_bundle_is_equal_everywhere(plain: Path):
    found = verify(plain, "raspberrypi", "native")
    found.require()
    assert (found.place.machine, found.golden.agreeing, found.golden.images) == ("aarch64", 4, 4)
    assert printed(plain, by_tensor=False).count("equal, bit for bit") == 7  # kinds of node
    assert printed(plain, by_tensor=True).count("equal, bit for bit") == len(found.golden.tensors)


def test_a_difference_is_told_by_kind_and_by_tensor_and_refused_where_none_may_be(other: Path):
    (kind,) = (line for line in printed(other, by_tensor=False).splitlines() if "add" in line)
    (tensor,) = (line for line in printed(other, by_tensor=True).splitlines() if "summed" in line)
    assert "│ 2 " in kind and "│ 2 " in tensor
    with pytest.raises(ParityError, match=r"local, native: .*add by 2 LSB"):
        verify(other, "local", "native").require()


def test_the_command_prints_and_exits_as_it_should(plain: Path, other: Path):
    done = CliRunner().invoke(app, ["verify", str(plain), "--runtime", "native", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["golden"]["tensors"][0]["max_lsb"] == 0
    done = CliRunner().invoke(app, ["verify", str(other), "--runtime", "native"])
    assert isinstance(done.exception, ParityError)
    assert "against the oracle" in done.stdout


def test_a_bundle_for_another_runtime_is_refused(plain: Path):
    with pytest.raises(UsageError, match="reads bundles lowered to"):
        verify(plain, "local", "onnxruntime")
