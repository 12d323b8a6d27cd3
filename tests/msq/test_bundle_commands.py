"""A bundle says what it holds, how it differs from another, and who made it; what was altered is refused."""

import json
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measurements import manifest

from msq.archive import write_archive
from msq.bundle import HOST_PREDICTIONS_FILE, MANIFEST_FILE, SIGNATURE_FILE, Manifest
from msq.checksums import sha256_of
from msq.cli import main
from msq.contents import cyclonedx
from msq.errors import BundleError
from msq.signature import CONTEXT, KEY, PUBLIC_KEY, Signature, make_key, public_key, sign, trusted_keys, verify

Msq = Callable[..., tuple[int, str, str]]


def bundle_in(folder: Path, classes: int = 10, **changed: object) -> Path:
    """Write a bundle of small files."""
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(200)))
    (folder / "model.json").write_text("{}")
    np.save(folder / HOST_PREDICTIONS_FILE, np.arange(100) % classes)
    files = {path.name: sha256_of(path) for path in folder.iterdir()}
    manifest().model_copy(update={"files": files, **changed}).write(folder / MANIFEST_FILE)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundle_in(tmp_path / "bundle")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_key(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def msq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Msq:
    monkeypatch.setenv("MSQ_KEYS", str(tmp_path / "own"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["msq", "bundle", *map(str, arguments)])
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int) and "Traceback" not in said.err
        return code, said.out, said.err

    return run


def test_what_was_signed_verifies_and_signing_again_gives_the_same(bundle: Path, keys: Path) -> None:
    first = sign(bundle, keys)
    assert verify(bundle, trusted_keys(keys)) == first == sign(bundle, keys)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_bundle_of_which_any_byte_was_altered_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("altered")
    bundle = bundle_in(folder / "bundle")
    make_key(folder / "keys")
    sign(bundle, folder / "keys")
    path = bundle / data.draw(st.sampled_from(sorted(path.name for path in bundle.iterdir())))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    before = Signature.read(bundle / SIGNATURE_FILE)
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    if path.name == SIGNATURE_FILE and same(path, before):
        return
    with pytest.raises(BundleError):
        verify(bundle, trusted_keys(folder / "keys"))


def same(path: Path, before: Signature) -> bool:
    """Say whether an altered signature file still says what it said: another blank is no other signature."""
    try:
        return Signature.read(path) == before
    except BundleError:
        return False


def test_a_stranger_in_the_folder_is_refused(bundle: Path, keys: Path) -> None:
    sign(bundle, keys)
    (bundle / "run.sh").write_text("rm -rf /")
    with pytest.raises(BundleError, match=r"'run\.sh' is not in the manifest"):
        verify(bundle, trusted_keys(keys))


def test_whose_key_is_not_trusted_is_refused_until_it_is(msq: Msq, bundle: Path, keys: Path) -> None:
    sign(bundle, keys)
    code, _, said = msq("verify", bundle)
    assert code == 8 and "which is not trusted" in said
    assert msq("verify", bundle, "--key", keys / PUBLIC_KEY)[0] == 0
    assert msq("trust", keys / PUBLIC_KEY)[0] == 0
    assert msq("verify", bundle)[0] == 0


def test_a_signature_of_another_bundle_or_of_other_words_is_none(bundle: Path, keys: Path, tmp_path: Path) -> None:
    other = bundle_in(tmp_path / "other", seed=1)
    sign(other, keys)
    shutil.copy(other / SIGNATURE_FILE, bundle / SIGNATURE_FILE)
    with pytest.raises(BundleError, match="not the signature of this manifest"):
        verify(bundle, trusted_keys(keys))


def test_openssl_verifies_it_too(bundle: Path, keys: Path, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    made = sign(bundle, keys)
    (tmp_path / "said").write_bytes(CONTEXT + (bundle / MANIFEST_FILE).read_bytes())
    (tmp_path / "signature").write_bytes(made.signature)
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        keys / PUBLIC_KEY,
        "-rawin",
        "-in",
        tmp_path / "said",
    ]
    done = subprocess.run([*command, "-sigfile", tmp_path / "signature"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Verified Successfully" in done.stdout


def test_a_key_is_its_owners_alone_and_made_once(bundle: Path, keys: Path) -> None:
    assert stat.S_IMODE((keys / KEY).stat().st_mode) == 0o600
    before, public = (keys / KEY).read_bytes(), (keys / PUBLIC_KEY).read_bytes()
    # A public half that was lost is made again, of the same key.
    (keys / PUBLIC_KEY).unlink()
    make_key(keys)
    assert ((keys / KEY).read_bytes(), (keys / PUBLIC_KEY).read_bytes()) == (before, public)
    assert sorted(path.name for path in keys.iterdir()) == [KEY, PUBLIC_KEY]
    (keys / KEY).chmod(0o640)
    with pytest.raises(BundleError, match="others may read it"):
        sign(bundle, keys)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_one_clear_line(bundle: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY).write_bytes(content)
    (tmp_path / KEY).chmod(0o600)
    with pytest.raises(BundleError, match="not a public key"):
        public_key(tmp_path / KEY)
    with pytest.raises(BundleError, match="cannot be used as a key"):
        sign(bundle, tmp_path)
    with pytest.raises(BundleError, match="no key to sign with"):
        sign(bundle, tmp_path / "none")


def test_the_archive_is_signed_with_the_folder_and_read_like_it(msq: Msq, bundle: Path) -> None:
    write_archive(bundle)
    assert msq("key")[0] == 0 and msq("sign", bundle)[0] == 0
    archive = bundle.with_name("bundle.tar")
    assert msq("verify", archive)[0] == 0
    assert "the same bundle" in msq("diff", bundle, archive)[1]
    code, _, said = msq("sign", archive)
    assert code == 2 and "not a bundle's folder" in said


def test_an_archive_that_writes_elsewhere_is_refused(msq: Msq, tmp_path: Path) -> None:
    for name in ("../outside", f"{tmp_path}/outside"):
        with tarfile.open(tmp_path / "evil.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        assert msq("list", tmp_path / "evil.tar")[0] == 8
    assert not (tmp_path / "outside").exists()
    (tmp_path / "text.tar").write_text("no archive")
    assert msq("list", tmp_path / "text.tar")[0] == 8


def test_the_bill_of_materials_names_every_file_with_its_sha256(msq: Msq, bundle: Path) -> None:
    bill = json.loads(msq("list", bundle, "--json")[1])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    files = {part["name"]: part["hashes"][0]["content"] for part in bill["components"] if part["type"] == "file"}
    assert files == {path.name: sha256_of(path) for path in bundle.iterdir()}
    packages = {part["name"]: part["version"] for part in bill["components"] if part["type"] == "library"}
    assert packages == manifest().versions
    references = [part["bom-ref"] for part in bill["components"]]
    assert len(set(references)) == len(references)
    assert set(bill["dependencies"][0]["dependsOn"]) <= set(references)
    assert bill == cyclonedx(bundle, Manifest.open(bundle))
    table = msq("list", bundle)[1]
    assert all(name in table for name in (*files, *packages))


def test_the_difference_is_what_was_changed_and_nothing_else(msq: Msq, bundle: Path, tmp_path: Path) -> None:
    layers = list(manifest().layers)
    layers[1] = layers[1].model_copy(update={"bits": 7})
    other = bundle_in(tmp_path / "other", classes=9, layers=tuple(layers), seed=5)
    found = json.loads(msq("diff", bundle, other, "--json")[1])
    assert [(one["what"], one["a"], one["b"]) for one in found["facts"]] == [("seed", "0", "5")]
    (layer,) = found["layers"]
    assert layer["what"] == layers[1].name and layer["a"].startswith("4 bits") and layer["b"].startswith("7 bits")
    assert [one["what"] for one in found["files"]] == [HOST_PREDICTIONS_FILE] and found["versions"] == []
    assert found["answers"] == {"images": 100, "different": int((np.arange(100) % 10 != np.arange(100) % 9).sum())}
    assert "test images are classed otherwise" in msq("diff", bundle, other)[1]


def test_a_bundle_that_is_not_whole_is_refused_by_every_command(msq: Msq, bundle: Path, tmp_path: Path) -> None:
    msq("key")
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "weights.bin").write_bytes(b"")
    for arguments in (("list", broken), ("sign", broken), ("verify", broken), ("diff", bundle, broken)):
        code, _, said = msq(*arguments)
        assert code == 8 and "weights.bin: sha256 is" in said
