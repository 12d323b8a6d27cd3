"""The contract of devices/transport.py, over every transport there is: a new one is tested by being there."""

import threading
from contextlib import closing
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from devices import transport as transports
from devices.profile import Profile, profile
from devices.transport import Transport
from msq.errors import DeviceError, UsageError
from runtimes._kernels import KERNELS


def python(device: Transport, program: str, timeout: float = 60):
    return device.run(["python3", "-c", program], timeout)


@pytest.mark.parametrize("size", [0, 1, 100_003])
def test_what_was_put_comes_back_byte_for_byte(device: Transport, tmp_path: Path, size: int):
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "some file.bin").write_bytes(data)
    device.put([tmp_path / "some file.bin"], PurePosixPath("a/b"))
    device.get(PurePosixPath("a/b/some file.bin"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_programs_see_what_was_put_and_what_they_write_can_be_got(device: Transport, tmp_path: Path):
    (tmp_path / "in.txt").write_text("grüße")
    device.put([tmp_path / "in.txt"], PurePosixPath("data"))
    program = "open('out.txt', 'w').write(open('data/in.txt').read().upper())"
    assert python(device, program).returncode == 0
    device.get(PurePosixPath("out.txt"), tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "GRÜSSE"


def test_a_file_put_again_takes_the_place_of_the_older_one(device: Transport, tmp_path: Path):
    for text in ("old and longer", "new"):
        (tmp_path / "f").write_text(text)
        device.put([tmp_path / "f"], PurePosixPath())
    device.get(PurePosixPath("f"), tmp_path / "back")
    assert (tmp_path / "back").read_text() == "new"


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes_come_back(device: Transport, code: int):
    assert python(device, f"import sys; sys.exit({code})").returncode == code


def test_a_program_that_a_signal_killed_has_the_code_that_a_shell_would_give(device: Transport):
    assert python(device, "import os; os.kill(os.getpid(), 9)").returncode == 128 + 9


def test_stdout_and_stderr_are_kept_apart_and_lines_are_passed_on(device: Transport):
    heard: list[str] = []
    program = "import sys; print('one'); print('two'); print('oops', file=sys.stderr)"
    done = device.run(["python3", "-c", program], 60, heard.append)
    assert (done.stdout, done.stderr, heard) == ("one\ntwo\n", "oops\n", ["one", "two"])


def test_a_program_that_falls_silent_is_stopped_and_its_last_words_are_told(device: Transport):
    program = "import sys, time; print('nearly there', file=sys.stderr, flush=True); time.sleep(600)"
    with pytest.raises(DeviceError, match=r"no sign of life for 2 s.*nearly there"):
        python(device, program, timeout=2)


def test_a_program_that_goes_on_talking_outlives_the_timeout(device: Transport):
    program = "import time\nfor n in range(9): print(n, flush=True); time.sleep(0.4)"
    assert python(device, program, timeout=3).returncode == 0


def test_a_program_that_was_put_runs_as_one(device: Transport, tmp_path: Path):
    program = KERNELS / device.machine / "msq-run"
    device.put([program], PurePosixPath())
    done = device.run(["./msq-run", "--version"], 60)
    assert (done.returncode, done.stdout[:7]) == (0, "msq-run")
    assert python(device, "import platform; print(platform.machine())").stdout.strip() == device.machine


def test_a_program_that_is_not_there_is_a_device_error(device: Transport):
    with pytest.raises(DeviceError, match="no-such-program"):
        device.run(["no-such-program"], 60)


def test_a_file_that_is_not_there_is_a_device_error_and_nothing_is_written(device: Transport, tmp_path: Path):
    with pytest.raises(DeviceError, match=r"nothing\.txt"):
        device.get(PurePosixPath("nothing.txt"), tmp_path / "local")
    assert not (tmp_path / "local").exists()


@pytest.mark.parametrize("place", ["/tmp", "../elsewhere"])
def test_places_outside_the_working_folder_are_refused(device: Transport, tmp_path: Path, place: str):
    (tmp_path / "f").touch()
    with pytest.raises(DeviceError, match="outside"):
        device.put([tmp_path / "f"], PurePosixPath(place))


def test_several_programs_run_at_once(device: Transport):
    # Each waits for the other's file: one after the other, neither would end.
    program = (
        "import pathlib, sys, time; me, other = sys.argv[1:]; pathlib.Path(me).touch()\n"
        "while not pathlib.Path(other).exists(): time.sleep(0.05)"
    )
    codes: list[int] = []

    def run(*names: str) -> None:
        codes.append(device.run(["python3", "-c", program, *names], 30).returncode)

    threads = [threading.Thread(target=run, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]


def test_closing_stops_what_still_runs_and_may_be_repeated(device: Transport):
    started = threading.Event()
    program = "import time; print('up', flush=True); time.sleep(600)"
    codes: list[int] = []

    def run() -> None:
        done = device.run(["python3", "-c", program], 60, lambda line: started.set())
        codes.append(done.returncode)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    device.close()
    thread.join(60)
    device.close()
    assert codes == [128 + 9]


def test_numpy_is_there_in_the_release_of_this_machine(device: Transport, request: pytest.FixtureRequest):
    if "adb" in request.node.name:
        pytest.skip("a phone has no Python; what plays one has, without numpy")
    assert python(device, "import numpy; print(numpy.__version__)").stdout.strip() == np.__version__


@pytest.fixture(scope="module")
def emulated():
    with closing(transports.transport("emulator")) as transport:
        transport.prepare(profile("jetson"), [])
        yield transport


def test_the_emulator_really_runs_aarch64_code(emulated: Transport):
    program = "import platform, struct, sys; print(platform.machine(), struct.calcsize('P') * 8, sys.byteorder)"
    assert python(emulated, program).stdout.split() == ["aarch64", "64", "little"]
    assert emulated.emulator and "-cpu cortex-a76" in emulated.emulator


def test_programs_on_the_emulator_see_the_processor_and_the_board_of_the_profile(emulated: Transport):
    program = "print(open('/proc/cpuinfo').read(), open('/proc/device-tree/model').read())"
    said = python(emulated, program).stdout
    assert "0xd0b" in said  # CPU part of Cortex-A76
    assert "NVIDIA Jetson Orin Nano 8GB (emulated CPU)" in said


def test_this_machines_environment_does_not_reach_the_emulated_board(monkeypatch, emulated: Transport):
    monkeypatch.setenv("PYTHONSTARTUP", "host")
    monkeypatch.setenv("MSQ_SECRET", "host")
    assert "host" not in python(emulated, "import os; print(os.environ)").stdout


def test_the_tier_that_is_asked_for_here_is_the_emulated_board_s_too(monkeypatch, emulated: Transport):
    monkeypatch.setenv("MSQ_KERNELS_TIER", "scalar")
    assert python(emulated, "import os; print(os.environ['MSQ_KERNELS_TIER'])").stdout.strip() == "scalar"


def test_an_unknown_transport_is_refused():
    with pytest.raises(UsageError, match="unknown transport 'pigeon'"):
        transports.transport("pigeon")


@pytest.mark.parametrize("cpu", [None, "max", "cortex-a999"])
def test_a_processor_that_the_emulator_must_not_or_cannot_play_is_refused(cpu: str | None):
    board = Profile(name="odd", title="Odd", processor="odd", qemu_cpu=cpu)
    with closing(transports.transport("emulator")) as transport, pytest.raises(UsageError, match="odd"):
        transport.prepare(board, [])


def test_closing_leaves_no_folder_behind():
    transport = transports.transport("local")
    folder: Path = transport.folder  # type: ignore[attr-defined]
    assert folder.is_dir()
    transport.close()
    assert not folder.exists()


def test_a_board_that_needs_no_python_has_none(tmp_path: Path):
    with closing(transports.transport("emulator")) as device:
        device.prepare(profile("raspberrypi3b"), None)
        with pytest.raises(DeviceError, match="python3: no such program"):
            python(device, "")
        device.put([KERNELS / "aarch64" / "msq-run"], PurePosixPath())
        assert device.run(["./msq-run", "--version"], 60).returncode == 0
