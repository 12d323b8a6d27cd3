"""An emulated machine: its memory limit, its isolation, and what breaks while it is used over its real sshd."""

import lzma
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

import asyncssh
import numpy as np
import pytest
from cable import Cable, listening
from sshd import board

from devices import disk
from devices.initrd import FOLDER, Entry, archive, modules
from devices.machine import Machine, memory_mib
from devices.measure import measure
from devices.transports.ssh import Ssh
from devices.transports.vm import Vm
from msq.errors import DeviceError, StorageError
from msq.provenance import Kind

MIB = 1 << 20


@pytest.fixture
def device(machine) -> Vm:
    """The emulated machine, prepared."""
    return machine.prepared()


def said(device: Vm, script: str) -> str:
    done = device.run(["sh", "-c", script], 60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_the_board_that_the_profile_says_with_no_more_memory(device: Vm, machine):
    assert (device.engine, device.machine) == ("qemu-system", "aarch64")
    assert device.emulator and "-cpu cortex-a53, -m 256" in device.emulator
    total = int(said(device, "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) * 1024
    assert 0.7 * 256 * MIB < total < 256 * MIB
    assert "0xd03" in said(device, "cat /proc/cpuinfo")
    assert said(device, "cat /proc/device-tree/model") == "Small board (emulated)\0"


def test_a_program_that_wants_more_memory_is_ended_alone_and_the_cause_is_named(device: Vm):
    done = device.run(["tail", "/dev/zero"], 120)
    assert done.returncode == 128 + 9
    assert done.stderr.endswith("out of memory: the device's kernel ended tail\n")
    assert said(device, "echo alive") == "alive\n"


def test_only_this_machine_reaches_it_and_it_reaches_nothing(device: Vm, machine):
    port = machine.machine.facts.port
    assert listening(port) == [f"0100007F:{port:04X}"]
    done = device.run(["sh", "-c", f"echo | nc -w 2 10.0.2.2 {port}"], 60)
    assert done.returncode


def test_a_full_disk_is_named_nothing_half_written_stays_and_room_helps(device: Vm, tmp_path: Path):
    file = tmp_path / "large.bin"
    file.write_bytes(np.random.default_rng().bytes(3 * MIB))
    files = "/root/.cache/msq/files"
    said(device, f"mount -t tmpfs -o size=1m full {files}")
    try:
        with pytest.raises(StorageError, match=r"Small board: no space left on the device: sending large\.bin"):
            device.put([file], PurePosixPath("d"))
        assert said(device, f"ls {files}; ls d 2>/dev/null || true") == ""
    finally:
        said(device, f"umount {files}")
    device.put([file], PurePosixPath("d"))
    device.get(PurePosixPath("d/large.bin"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_a_restart_while_a_program_runs_is_named_and_the_board_can_be_used_again(machine, tmp_path: Path):
    device = machine.prepared()
    (tmp_path / "kept").write_text("on the disk")
    device.put([tmp_path / "kept"], PurePosixPath())
    with pytest.raises(DeviceError, match="Small board restarted while sh ran"):
        device.run(["sh", "-c", "sync; reboot -f; sleep 60"], 120)
    device.get(PurePosixPath("kept"), tmp_path / "back")
    assert (tmp_path / "back").read_text() == "on the disk"
    # What was not on the disk yet is lost: nothing runs beside it.
    with pytest.raises(DeviceError, match="Small board restarted before ls ran"):
        device.run(["ls"], 60)
    device.close()
    assert said(machine.prepared(), "ls") == ""


def test_a_working_folder_without_room_is_named_before_a_program_starts(machine):
    base = "/root/.cache/msq"
    said(machine.prepared(), f"mount -t tmpfs -o size=64k full {base}")
    machine.prepared().close()
    device = machine.prepared()
    try:
        device.run(["sh", "-c", "cat /dev/zero > fill"], 60)
        with pytest.raises(StorageError, match="no space left on the device: starting sh failed"):
            device.run(["sh", "-c", "echo started"], 60)
    finally:
        # Not as a program, for which there is no room.
        device._inside._shell.must(f"umount -l {base}", "")
        device.close()


@contextmanager
def through(machine, tmp_path: Path) -> Iterator[tuple[Ssh, Cable]]:
    """A prepared transport to the machine's real sshd, over a cable that can be cut."""
    machine.prepared().close()
    port = machine.machine.facts.port
    with closing(Cable(port)) as cable:
        hosts = (machine.machine.folder / "known_hosts").read_text()
        (tmp_path / "hosts").write_text(hosts.replace(f":{port}", f":{cable.port}"))
        config = machine.machine.config.read_text().replace(f"Port {port}", f"Port {cable.port}")
        config = config.replace(str(machine.machine.folder / "known_hosts"), str(tmp_path / "hosts"))
        (tmp_path / "config").write_text(config)
        with closing(Ssh(tmp_path / "config")) as device:
            device.prepare(board("ssh"), None)
            yield device, cable


def test_an_upload_to_a_real_sshd_goes_on_where_the_link_was_cut_and_so_does_a_program(machine, tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(np.random.default_rng().bytes(3 * MIB))
    with through(machine, tmp_path) as (device, cable):
        before = cable.carried
        cable.cut_after(5 * MIB // 2)
        device.put([file], PurePosixPath())
        device.get(PurePosixPath("file"), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == file.read_bytes()
        # At most 2 MiB, SSH's window, were on their way at the cut; from the start again it would be 5.5.
        assert cable.carried - before < 5 * MIB
        program = "for n in 0 1 2 3 4 5 6 7 8 9; do echo $n; sleep 0.2; done; exit 3"
        done = device.run(["sh", "-c", program], 60, lambda line: cable.cut() if line == "4" else None)
        assert (done.returncode, done.stdout.split()) == (3, list("0123456789"))


def test_a_machine_with_another_key_than_the_one_that_was_booted_is_refused(machine, tmp_path: Path):
    known = machine.machine.folder / "known_hosts"
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (tmp_path / "hosts").write_text(f"{known.read_text().split()[0]} {other}")
    (tmp_path / "config").write_text(machine.machine.config.read_text().replace(str(known), str(tmp_path / "hosts")))
    with closing(Ssh(tmp_path / "config")) as device, pytest.raises(DeviceError, match="host key is not the one"):
        device.prepare(board("ssh"), None)


def test_a_measurement_on_it_has_the_oracles_answers_and_the_guests_memory_but_no_times(
    running: str, native: Path, evaluation: Path
):
    found = measure(native, evaluation, running, "native", images=20)
    assert (found.device.engine, found.environment.machine) == ("qemu-system", "aarch64")
    assert found.parity.equal_to_oracle and found.parity.equal_to_host
    here = measure(native, evaluation, "local", "native", images=20)
    assert [said.predicted for said in found.predictions] == [said.predicted for said in here.predictions]
    assert 0 < found.figures["peak_memory"].value < 32 * MIB
    assert found.figures["peak_memory"].kind == Kind.EMULATED
    assert not found.latency_seconds
    assert not [name for name, figure in found.figures.items() if figure.unit == "seconds"]


def test_a_processor_that_qemu_does_not_know_is_named(machine, tmp_path: Path):
    odd = machine.profile.model_copy(update={"qemu_cpu": "cortex-a999"})
    with pytest.raises(DeviceError, match=r"QEMU ended before .*unable to find CPU model 'cortex-a999'"):
        Machine.boot(odd, tmp_path / "odd")


def test_a_machine_ends_with_the_process_that_booted_it_even_when_that_is_killed(machine, tmp_path: Path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom devices.machine import Machine\n"
        "from devices.profile import profile\nMachine.boot(profile('raspberrypi3b'), Path(sys.argv[1]))"
    )
    victim = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "m")])
    while not (tmp_path / "m" / "pid").exists():
        assert victim.poll() is None
        time.sleep(0.05)
    qemu = int((tmp_path / "m" / "pid").read_text())
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    end = time.monotonic() + 30
    while Path(f"/proc/{qemu}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{qemu}").exists()


def test_a_board_with_more_memory_than_this_machine_can_give_gets_what_it_can_and_that_is_said(machine, capsys):
    large = machine.profile.model_copy(update={"memory_mib": 1 << 30})
    given = memory_mib(large)
    assert 0 < given < 1 << 30
    assert f"has {1 << 30} MiB; this machine can give {given} MiB" in capsys.readouterr().err


def test_an_archive_is_what_another_cpio_unpacks(device: Vm, tmp_path: Path):
    files = {f"folder/{size} bytes": bytes(range(size)) for size in (0, 1, 2, 3, 4, 5)}
    entries = {"folder": FOLDER, **{name: Entry(data) for name, data in files.items()}}
    (tmp_path / "a.gz").write_bytes(archive(entries) + archive({"second": Entry(b"2", 0o100755)}))
    device.put([tmp_path / "a.gz"], PurePosixPath("unpacked"))
    # Linux reads one behind the other; cpio stops at the first one's end.
    said(device, "cd unpacked && gzip -dc a.gz | { cpio -i; cpio -i; } 2>&1")
    for name, data in files.items():
        device.get(PurePosixPath("unpacked", name), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
    assert said(device, "[ -x unpacked/second ] && cat unpacked/second") == "2"


def test_without_mke2fs_its_package_is_named(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(disk, "mke2fs", lambda: None)
    with pytest.raises(DeviceError, match="mke2fs is not installed") as caught:
        disk.make_disk(tmp_path, tmp_path / "disk", 64)
    assert "e2fsprogs" in caught.value.hint


def test_modules_come_after_those_they_need(tmp_path: Path):
    needs = {"net": "failover,core-part", "failover": "", "core_part": "base", "base": "", "unused": ""}
    for name, others in needs.items():
        data = b"\x7fELF\0license=GPL\0depends=" + others.encode() + b"\0name=" + name.encode() + b"\0"
        packed = lzma.compress(data) if name == "base" else data
        (tmp_path / f"{name}.ko{'.xz' if name == 'base' else ''}").write_bytes(packed)
    loaded = modules(tmp_path, ["net"])
    assert list(loaded) == ["failover", "base", "core_part", "net"]
    assert loaded["base"].startswith(b"\x7fELF")
    with pytest.raises(DeviceError, match="no module absent"):
        modules(tmp_path, ["absent"])
