"""Checksums: an unaltered folder passes; a missing, cut or altered file is named; no file outside is looked at."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.checksums import sha256_of, verify_files
from msq.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(range(200)))
    (tmp_path / "evaluation" / "labels.npy").write_bytes(b"labels")
    return tmp_path


def manifest(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): sha256_of(file) for file in folder.rglob("*") if file.is_file()}


@given(content=st.binary(max_size=3000))
def test_the_digest_is_the_sha256_of_the_bytes(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "x"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()


def test_an_unaltered_folder_passes(folder):
    verify_files(folder, manifest(folder))


@pytest.mark.parametrize("name", ["weights.bin", "evaluation/labels.npy"])
def test_an_altered_file_is_named(folder, name):
    wanted = manifest(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=name):
        verify_files(folder, wanted)


def test_a_cut_file_is_named(folder):
    wanted = manifest(folder)
    (folder / "weights.bin").write_bytes(bytes(range(199)))
    with pytest.raises(BundleError, match=r"weights\.bin: sha256 is"):
        verify_files(folder, wanted)


def test_a_missing_file_is_named(folder):
    wanted = manifest(folder)
    (folder / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin: missing"):
        verify_files(folder, wanted)


def test_names_outside_the_folder_are_refused(folder):
    outside = folder.parent / "outside"
    outside.write_bytes(b"secret")
    digest = sha256_of(outside)
    for name in ("../outside", "evaluation/../../outside", str(outside)):
        with pytest.raises(BundleError, match="outside the folder"):
            verify_files(folder, {name: digest})
