"""The private apt, as far as it goes without a network."""

import shutil
import subprocess

import pytest

from msq import apt

needs_dpkg = pytest.mark.skipif(not apt.available(), reason="needs apt and dpkg")


@needs_dpkg
def test_a_package_is_unpacked_without_running_its_scripts(tmp_path):
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN" / "control").write_text(
        "Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: sample\n"
    )
    script = source / "DEBIAN" / "preinst"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    (source / "usr/share/sample").mkdir(parents=True)
    (source / "usr/share/sample/file").write_text("content")
    package = tmp_path / "sample.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", source, package], check=True, capture_output=True)
    apt.extract(package, tmp_path / "root")
    assert (tmp_path / "root/usr/share/sample/file").read_text() == "content"
    assert not (tmp_path / "ran").exists()


@needs_dpkg
def test_a_damaged_package_is_named(tmp_path):
    package = tmp_path / "sample.deb"
    package.write_bytes(b"!<arch>\nnot a package")
    with pytest.raises(apt.AptError, match=r"sample\.deb"):
        apt.extract(package, tmp_path / "root")


def test_without_apt_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("apt-get") is None
    with pytest.raises(apt.AptError, match="not installed"):
        apt.PrivateApt(tmp_path / "apt")


@needs_dpkg
def test_an_unknown_package_is_an_error_and_the_host_is_not_touched(tmp_path):
    # Never updated, so it knows no package at all, though the host's own lists may be full.
    with pytest.raises(apt.AptError, match="download failed"):
        apt.PrivateApt(tmp_path / "apt").download(["dpkg"], tmp_path / "debs")
