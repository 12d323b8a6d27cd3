"""What the contract does not say of a phone over ADB: a real adb server, and a real adbd on an emulated machine."""

import os
import threading
from contextlib import closing
from pathlib import Path, PurePosixPath

import adbutils
import numpy as np
import pytest
from cable import Cable, listening

from devices.transports import adb
from devices.transports.adb import Adb
from devices.transports.vm import Vm
from msq.errors import DeviceError

SIZE = 2_000_000


@pytest.fixture
def device(phone) -> Vm:
    """What plays a phone, prepared."""
    return phone.prepared()


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    path = tmp_path / "noise.bin"
    path.write_bytes(np.random.default_rng().bytes(SIZE))
    return path


def test_a_runtime_that_needs_python_is_refused_before_anything_is_done(phone):
    with closing(Adb()) as device, pytest.raises(DeviceError, match="has no Python") as caught:
        device.prepare(phone.profile.model_copy(update={"address": "nowhere"}), [])
    assert "native" in caught.value.hint


def test_a_phone_that_is_not_connected_is_named_beside_those_that_are(phone, device: Vm):
    with (
        closing(Adb()) as other,
        pytest.raises(DeviceError, match=r"Small board: no link: .*not connected; connected are: 127\.0\.0\.1:"),
    ):
        other.prepare(phone.profile.model_copy(update={"address": "SERIAL"}), None)


def test_a_phone_that_is_off_is_said_to_be_out_of_reach(phone, device: Vm):
    with closing(Adb()) as other, pytest.raises(DeviceError, match="Small board: no link: failed to connect"):
        other.prepare(phone.profile.model_copy(update={"address": "127.0.0.1:9"}), None)


def test_a_program_outlives_a_restart_of_the_adb_server_and_is_heard_on(device: Vm):
    heard: list[str] = []

    def restart(line: str) -> None:
        heard.append(line)
        if line == "0":
            adbutils.AdbClient().server_kill()

    done = device.run(["sh", "-c", "for n in 0 1 2 3 4 5 6 7; do echo $n; sleep 0.3; done; exit 7"], 60, restart)
    assert done.returncode == 7
    assert heard == list("01234567") == done.stdout.split()


def test_an_upload_survives_a_restart_of_the_adb_server(device: Vm, noise: Path):
    timer = threading.Timer(0.1, adbutils.AdbClient().server_kill)
    timer.start()
    device.put([noise], PurePosixPath())
    timer.join()
    device.get(PurePosixPath("noise.bin"), noise.with_name("back"))
    assert noise.with_name("back").read_bytes() == noise.read_bytes()


def test_an_upload_survives_a_link_that_is_cut(phone, noise: Path):
    phone.prepared().close()
    with closing(Cable(phone.machine.facts.port)) as cable, closing(Adb()) as device:
        device.prepare(phone.profile.model_copy(update={"address": f"127.0.0.1:{cable.port}"}), None)
        cable.cut_after(int(SIZE * 0.7))
        device.put([noise], PurePosixPath())
        device.get(PurePosixPath("noise.bin"), noise.with_name("back"))
        assert noise.with_name("back").read_bytes() == noise.read_bytes()


def test_an_upload_survives_a_restart_of_the_phone(phone, noise: Path, monkeypatch):
    monkeypatch.setattr(adb, "KEEP_ALIVE", 1.0)
    phone.prepared().close()
    with closing(phone.prepared()) as device:
        boot = device._inside._shell.boot
        begun = "until ls /data/local/tmp/msq/files/*.part; do sleep 0.02; done; busybox reboot -f"
        device.run(["sh", "-c", f"({begun}) >/dev/null 2>&1 </dev/null &"], 60)
        device.put([noise], PurePosixPath())
        device.get(PurePosixPath("noise.bin"), noise.with_name("back"))
        assert noise.with_name("back").read_bytes() == noise.read_bytes()
        assert device._inside._shell.boot != boot


def test_a_second_client_is_told_who_has_the_phone(phone, device: Vm):
    address = f"127.0.0.1:{phone.machine.facts.port}"
    with closing(Adb()) as other, pytest.raises(DeviceError, match=r"Small board is in use by \S+@\S+ since \d{4}-"):
        other.prepare(phone.profile.model_copy(update={"address": address}), None)
    assert device.run(["echo", "still ours"], 60).stdout == "still ours\n"


def test_neither_the_adb_server_nor_the_phone_is_reached_by_other_machines(phone, device: Vm):
    for port in (phone.machine.facts.port, int(os.environ["ANDROID_ADB_SERVER_PORT"])):
        assert listening(port) == [f"0100007F:{port:04X}"]


def test_a_program_that_wants_more_memory_is_ended_and_the_phone_stays_connected(device: Vm):
    done = device.run(["tail", "/dev/zero"], 120)
    assert (done.returncode, done.stderr) == (137, "out of memory: the device's kernel ended tail\n")
    assert device.run(["echo", "alive"], 60).stdout == "alive\n"


@pytest.mark.parametrize("name", ["$(touch hacked)", "'; touch hacked; '", "-rf", "line\nbreak", "grüße *"])
def test_names_are_never_taken_for_something_of_the_shell(device: Vm, tmp_path: Path, name: str):
    (tmp_path / name).write_text(name)
    device.put([tmp_path / name], PurePosixPath(name))
    device.get(PurePosixPath(name, name), tmp_path / "back")
    assert (tmp_path / "back").read_text() == name
    assert device.run(["sh", "-c", "find . -name hacked"], 60).stdout == ""
