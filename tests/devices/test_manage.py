"""Looking after devices: `msq device …` and `msq doctor`, as their users call them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devices import doctor, manage
from msq.cli import main
from msq.errors import DeviceError, UsageError


@pytest.fixture
def msq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A function that runs the command line and returns exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["msq", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_info_tells_what_the_board_itself_says_beside_its_profile(msq, running: str):
    code, out, _ = msq("device", "info", running, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["engine"], found["machine"]) == ("qemu-system", "aarch64")
    assert found["observed"]["model"] == "Small board (emulated)"
    assert found["observed"]["cores"] == "2" and found["observed"]["python"].startswith("3.")
    assert 150 < int(found["observed"]["memory"].split()[0]) < 256
    assert found["facts"]["memory"] == "256 MiB"


def test_a_machine_that_runs_is_not_booted_again_and_has_a_shell(running: str, machine):
    manage.keep_running(running, None)
    argv = manage.shell(running)
    assert argv == ["ssh", "-F", str(machine.machine.config), "--", "board"]
    if shutil.which("ssh") is None:
        pytest.skip("no ssh here")
    done = subprocess.run([*argv, "uname -m"], capture_output=True, text=True, check=False)
    assert done.stdout == "aarch64\n", done.stderr


def test_shells_of_boards_are_those_of_their_ways():
    assert manage.shell("ssh:pi@10.0.0.7:2222") == ["ssh", "-p", "2222", "--", "pi@10.0.0.7"]
    assert manage.shell("adb:R58M")[1:] == ["-s", "R58M", "shell"]


@pytest.mark.parametrize("address", ["-oProxyCommand=touch hacked", "-oProxyCommand=touch hacked@board", "a b; c"])
def test_an_address_of_a_projects_file_is_never_an_option_nor_two_words(address: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manage.add("pi", address, None, None, project=True)
    argv = manage.shell("pi")
    assert argv == ["ssh", "--", address]
    if shutil.which("ssh"):
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert not Path("hacked").exists()


@pytest.mark.parametrize(("device", "said"), [("raspberrypi", "vm:raspberrypi4"), ("local", "this machine")])
def test_a_device_without_a_shell_names_what_has_one(device: str, said: str):
    with pytest.raises(UsageError, match="no shell") as caught:
        manage.shell(device)
    assert said in caught.value.hint


def test_a_machine_that_does_not_run_has_no_shell_and_nothing_to_end(msq, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MSQ_CACHE", str(tmp_path))
    with pytest.raises(DeviceError, match="does not run") as caught:
        manage.shell("vm:jetson")
    assert caught.value.hint == "msq device up vm:jetson"
    code, _, said = msq("device", "down", "vm:jetson")
    assert (code, said) == (0, "vm:jetson did not run\n")


def test_only_a_machine_can_be_ended(msq):
    code, _, said = msq("device", "down", "raspberrypi")
    assert code == 2 and "no emulated machine" in said and "vm:NAME" in said


def test_boards_are_added_and_listed(msq, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert msq("device", "add", "pi", "--host", "me@there", "--profile", "raspberrypi5")[0] == 0
    code, out, _ = msq("device", "list")
    assert code == 0
    assert "pi                pi (Raspberry Pi 5), ssh me@there" in out.splitlines()


def test_boards_are_asked_what_is_on_them_and_one_out_of_reach_hides_no_other(
    msq, running: str, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    manage.add("gone", "nobody@127.0.0.1:9", None, None, project=True)
    code, out, _ = msq("device", "list", "--ask")
    assert code == 0
    assert out.splitlines()[-2:] == [
        "gone              gone, ssh nobody@127.0.0.1:9",
        f"{'':<18}{manage.summary('gone')}",
    ]
    assert "gone: no link" in manage.summary("gone")
    assert "numpy 2." in manage.summary(running) and "; memory 2" in manage.summary(running)


def test_doctor_finds_all_that_these_tests_use(msq):
    code, out, _ = msq("doctor", "--json")
    missing = {check["name"] for check in json.loads(out)["checks"] if not check["ok"]}
    assert missing <= {"ssh", "an SSH key"}
    assert code == (10 if missing else 0)


def test_doctor_names_what_is_missing_for_what_and_how_to_mend_it(msq, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "KERNELS", tmp_path)
    code, out, said = msq("doctor")
    assert code == 10
    assert "error: missing: Debian's package tools, packed kernels, ssh" in said
    assert "for packed kernels, the runtime native: make kernels" in out
    assert "for msq device shell: sudo apt-get install openssh-client" in out


def test_doctor_names_a_broken_devices_file(msq, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text("[pi")
    code, out, said = msq("doctor")
    assert code == 10 and "devices.toml: not TOML" in out and "missing: devices.toml" in said


def test_every_fault_of_the_documentation_has_its_test():
    folder = Path(__file__).parent
    text = (folder.parent.parent / "docs" / "devices.md").read_text()
    rows = [line.split("|") for line in text.split("## When something goes wrong")[1].splitlines() if "`" in line]
    cited = [row[4] for row in rows if len(row) > 5]
    assert len(cited) >= 19
    for cell in cited:
        spans = re.findall("`([^`]*)`", cell)
        tests = "\n".join((folder / f"{name}.py").read_text() for name in spans if (folder / f"{name}.py").exists())
        names = [span for span in spans if "…" in span]
        assert names, cell
        for name in names:
            pattern = "def test_" + "".join("[a-z_]*" if part == "…" else part for part in re.split("(…)", name))
            assert re.search(pattern, tests), name
