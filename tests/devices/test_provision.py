import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devices import debs, guest, provision, wheels
from msq.errors import DeviceError

BOARD = "from devices import provision; print(provision.board().folder)"


def start(cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "MSQ_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", BOARD], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("MSQ_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def stocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the .deb files, as a user without network would put them there, and nothing else."""
    guest.guest()
    if not list(debs.drop_in().glob("*.deb")):
        pytest.skip("the board was cached by other means than this machine's debs folder")
    folder = debs.drop_in()
    monkeypatch.setenv("MSQ_CACHE", str(tmp_path))
    shutil.copytree(folder, debs.drop_in(), ignore=shutil.ignore_patterns(".*"))
    return tmp_path


@pytest.fixture
def tools(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_board_once_made_is_found_again_without_any_tool(tools: Path):
    path = shutil.which("dpkg", path="/usr/bin:/bin")
    assert path
    (tools / "dpkg").symlink_to(path)
    board = provision.board()
    before = board.folder.stat().st_mtime_ns
    assert provision.board() == board
    assert board.folder.stat().st_mtime_ns == before


def test_packages_once_installed_are_found_again():
    board = provision.board()
    assert provision.site(board, []) == provision.site(board, [])


def test_other_packages_get_a_folder_of_their_own(monkeypatch):
    made: list[list[str]] = []
    monkeypatch.setattr(provision, "cached", lambda kind, made_from, make: made.append(made_from))
    board = provision.Board(Path("board-1"), provision.PYTHON)
    provision.site(board, ["onnxruntime==1.0"])
    provision.site(board, ["onnxruntime==1.1"])
    assert made[0] != made[1]


def test_a_killed_provisioning_leaves_no_half_board_and_the_next_two_at_once_make_it_whole(stocked: Path):
    folder = stocked / "emulator"
    victim = start(stocked)
    while not list(folder.glob(".board-*/root/usr/lib")):
        assert victim.poll() is None, "it was over before it could be killed"
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not list(folder.glob("board-*"))
    (folder / ".board-older").mkdir()

    runs = [start(stocked), start(stocked)]
    (first, second) = (run.communicate()[0].strip() for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert first == second and Path(first).is_dir()
    assert not (folder / ".board-older").exists(), "what an older victim left is still there"


def test_a_machine_is_made_in_an_empty_cache_with_the_board_that_it_needs(stocked: Path):
    made = guest.guest()
    assert made.disk.stat().st_size == guest.DISK_MIB << 20
    assert not list((stocked / "emulator").glob(".*-*"))


def test_without_apt_the_error_names_each_file_and_where_to_put_it(cache: Path, tools: Path):
    for tool in ("dpkg", "dpkg-deb"):
        (tools / tool).symlink_to(str(shutil.which(tool, path="/usr/bin:/bin")))
    with pytest.raises(DeviceError, match="apt-get") as caught:
        provision.board()
    assert str(cache / "debs") in caught.value.hint
    for package in provision.root_packages():
        assert f"{package}_*_arm64.deb" in caught.value.hint
    assert not list((cache / "emulator").glob("*board-*"))


def test_without_network_the_error_names_each_file_and_where_to_put_it(cache: Path, monkeypatch):
    monkeypatch.setenv("MSQ_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    with pytest.raises(DeviceError, match="cannot be fetched") as caught:
        debs.obtain(["libc6"], "arm64")
    assert f"into {cache / 'debs'}: libc6_*_arm64.deb" in caught.value.hint
    assert not list((cache / "debs").glob("*"))


def test_without_network_the_kernel_is_named_whatever_its_release(cache: Path, monkeypatch):
    monkeypatch.setenv("MSQ_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    with pytest.raises(DeviceError, match="cannot be fetched") as caught:
        debs.kernel("cloud-arm64", "arm64")
    assert "linux-image-[0-9]*-cloud-arm64_*_arm64.deb" in caught.value.hint
    debs.drop_in().mkdir(exist_ok=True)
    there = debs.drop_in() / "linux-image-6.12.9+deb13-cloud-arm64_6.12.9-1_arm64.deb"
    there.touch()
    assert debs.kernel("cloud-arm64", "arm64") == there


@pytest.mark.parametrize(("libc", "newest"), [("2.17", 17), ("2.31", 31), ("2.41", 41)])
def test_wheels_are_asked_for_no_newer_library_than_the_board_has(libc: str, newest: int):
    platforms = wheels.Target("3.11", "aarch64", libc).platforms
    assert platforms[0] == f"manylinux_2_{newest}_aarch64"
    assert len(platforms) == newest - 15 and platforms[-1] == "manylinux2014_aarch64"


def test_only_what_was_not_put_by_hand_is_asked_for(cache: Path, tools: Path):
    debs.drop_in().mkdir()
    (debs.drop_in() / "libc6_2.41_arm64.deb").touch()
    with pytest.raises(DeviceError) as caught:
        debs.obtain(["libc6", "zlib1g"], "arm64")
    assert "zlib1g_" in caught.value.hint and "libc6_" not in caught.value.hint


def test_without_dpkg_the_error_says_so(cache: Path, tools: Path):
    with pytest.raises(DeviceError, match="dpkg is not installed"):
        provision.board()


@pytest.mark.parametrize("package", ["libc6_*_arm64", "qemu-user_*"])
def test_a_cut_package_is_named(stocked: Path, package: str):
    (file,) = debs.drop_in().glob(f"{package}.deb")
    os.truncate(file, 20_000)
    with pytest.raises(DeviceError) as caught:
        provision.board()
    assert str(file) in caught.value.hint
    assert not list((stocked / "emulator").glob("*board-*"))


def test_a_wheel_that_does_not_exist_is_named_with_the_folder_to_put_it(cache: Path, tmp_path: Path):
    with pytest.raises(DeviceError, match=r"numpy==0\.0\.1") as caught:
        wheels.install(["numpy==0.0.1"], wheels.Target(provision.PYTHON), tmp_path / "site")
    assert str(cache / "wheels") in caught.value.hint


def test_wheels_without_a_version_are_pinned_to_this_machines():
    found = wheels.pinned(["onnxruntime==1.2.3", "pytest"])
    assert found[1:] == ["onnxruntime==1.2.3", f"pytest=={pytest.__version__}"]
    with pytest.raises(DeviceError, match="no-such-distribution is not installed"):
        wheels.pinned(["no-such-distribution"])
