"""An emulated machine that runs: a folder holds its keys, its console, and how it is reached on 127.0.0.1."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import asyncssh

from devices.guest import Guest, guest, packages_disk
from devices.initrd import FOLDER, Entry, archive
from devices.profile import Profile
from devices.provision import messages
from msq.artefact import Artefact
from msq.cache import cache_folder
from msq.errors import DeviceError, MsqError, UsageError

BOOT = 120.0
"""Seconds within which it boots, also where this machine is busy."""
SPARE_MIB = 512
"""Memory that is left to this machine."""

_LISTENS = {"ssh": (22, "Server listening"), "adb": (5555, "adbd listening on tcp")}
_FACTS, _CONSOLE, _PID, SSH_CONFIG = "machine.json", "console", "pid", "ssh_config"
# Ends when its stdin does, whatever ended the one who holds it.
_TIED = '"$@" </dev/null & read -r _; kill -9 $! 2>/dev/null'


class Facts(Artefact):
    """What runs in a machine's folder."""

    profile: str
    cpu: str
    memory_mib: int
    """Of the guest; less than the board's where this machine has not as much."""
    cores: int
    link: Literal["ssh", "adb"]
    port: int
    """Of 127.0.0.1, at which the guest's server is reached."""
    emulator: str
    """Name and release."""


class Machine:
    """A machine that runs, or did, in a folder. Use `boot` or `running`."""

    def __init__(self, folder: Path, facts: Facts, child: subprocess.Popen[bytes] | None = None) -> None:
        self.folder, self.facts, self._child = folder, facts, child

    @classmethod
    def running(cls, profile: Profile) -> Self | None:
        """Return the machine that `msq device up` left running for a profile, if there is one."""
        folder = home(profile)
        try:
            machine = cls(folder, Facts.read(folder / _FACTS))
        except MsqError:
            return None
        return machine if machine._process() else None

    @classmethod
    def boot(
        cls, profile: Profile, folder: Path, packages: Sequence[str] | None = None, *, stays: bool = False
    ) -> Self:
        """Boot a machine and wait until its server listens.

        Args:
            folder: made when missing; what an older machine left in it is removed.
            packages: distributions ("name==version") that its Python has beside numpy; None: not even that.
            stays: whether it outlives this process.
        Raises:
            UsageError: the profile names no processor, or one that QEMU does not know.
            DeviceError: it cannot be provisioned, or does not boot.
        """
        if profile.qemu_cpu is None:
            raise UsageError(f"device {profile.name!r} names no qemu_cpu", hint="add it to the profile")
        image = guest()
        packed = None if packages is None else packages_disk(packages)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        facts = Facts(
            profile=profile.name,
            cpu=profile.qemu_cpu,
            memory_mib=memory_mib(profile),
            cores=min(profile.cores or 1, len(os.sched_getaffinity(0))),
            link=profile.link,
            port=_free_port(),
            emulator=f"qemu-system-aarch64 {_release(image)}",
        )
        (folder / "own").write_bytes(image.initrd.read_bytes() + archive(_own(folder, profile, facts, packed)))
        command = _command(image, folder, facts, packed)
        environment = {"TMPDIR": str(folder)}
        with messages.status(f"booting {profile.title} in QEMU …"), (folder / "qemu").open("wb") as said:
            process = subprocess.Popen(
                command if stays else ["/bin/sh", "-c", _TIED, "sh", *command],
                env=environment,
                stdin=subprocess.DEVNULL if stays else subprocess.PIPE,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            machine = cls(folder, facts, process)
            try:
                machine._wait()
            except BaseException:
                machine.stop()
                raise
        facts.write(folder / _FACTS)
        return machine

    @property
    def config(self) -> Path:
        """An SSH configuration that knows it as "board"."""
        return self.folder / SSH_CONFIG

    def stop(self) -> None:
        """End it. Its folder stays, for whoever wants to read its console. Harmless when it does not run."""
        if self._child and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        elif process := self._process():
            os.kill(process, signal.SIGKILL)
        (self.folder / _FACTS).unlink(missing_ok=True)

    def _process(self) -> int | None:
        """Return the number of its QEMU, None when it has ended."""
        try:
            number = int((self.folder / _PID).read_text())
            # The number may have been given to another process since.
            mine = str(self.folder).encode() in Path(f"/proc/{number}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return number if mine else None

    def _wait(self) -> None:
        wanted, end = _LISTENS[self.facts.link][1], time.monotonic() + BOOT
        console = self.folder / _CONSOLE
        seen = False
        while time.monotonic() < end:
            alive = self._process() is not None
            seen |= alive
            text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
            if wanted in text:
                return
            said = (self.folder / "qemu").read_text(errors="replace").strip().splitlines()
            if not alive and (seen or said):
                raise DeviceError(
                    f"QEMU ended before {self.facts.profile} had booted: {said[-1] if said else 'it said nothing'}",
                    hint=f"its console is in {console}",
                )
            time.sleep(0.05)
        last = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing"]
        raise DeviceError(
            f"{self.facts.profile} did not boot within {BOOT:g} s; the last on its console: {last[-1]}",
            hint=f"is this machine overloaded? the console is in {console}",
        )


def home(profile: Profile) -> Path:
    """Return the folder of the machine that `msq device up` boots for a profile."""
    return cache_folder("machines", profile.name)


def memory_mib(profile: Profile) -> int:
    """Return the board's memory in MiB, or what this machine can give of it, which is said."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    can = int(lines["MemAvailable"].split()[0]) // 1024 - SPARE_MIB
    wanted = profile.memory_mib or 1024
    if can < wanted:
        messages.print(
            f"{profile.name}: has {wanted} MiB; this machine can give {can} MiB", style="yellow", highlight=False
        )
    return min(can, wanted)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _release(image: Guest) -> str:
    done = subprocess.run([*image.emulator, "--version"], capture_output=True, text=True, check=False, env={})
    if done.returncode:
        raise DeviceError(
            f"QEMU does not run here: {(done.stderr.strip().splitlines() or ['no message'])[-1]}",
            hint=f"delete {image.tools} and run again",
        )
    return done.stdout.split("version ")[1].split()[0]


def _own(folder: Path, profile: Profile, facts: Facts, packed: Path | None) -> dict[str, Entry]:
    """Make the machine's keys and the configuration that reaches it; return what goes into the guest."""
    client, server = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    (folder / "key").touch(0o600)
    client.write_private_key(folder / "key")
    (folder / "known_hosts").write_bytes(f"[127.0.0.1]:{facts.port} ".encode() + server.export_public_key())
    (folder / SSH_CONFIG).write_text(
        f"Host board\n HostName 127.0.0.1\n Port {facts.port}\n User root\n IdentityFile {folder / 'key'}\n"
        f" IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile {folder / 'known_hosts'}\n"
        # The quickest, as the guest is slow and the link does not leave this machine.
        " GlobalKnownHostsFile none\n KexAlgorithms curve25519-sha256\n"
    )
    return {
        "own": FOLDER,
        "own/model": Entry(f"{profile.title} (emulated)\0".encode()),
        "own/link": Entry(facts.link.encode()),
        "own/host_key": Entry(server.export_private_key(), 0o100600),
        "own/authorized_keys": Entry(client.export_public_key()),
    } | ({"own/packages": Entry(b"")} if packed else {})


def _command(image: Guest, folder: Path, facts: Facts, packed: Path | None) -> list[str]:
    inside = _LISTENS[facts.link][0]
    return [
        *image.emulator,
        *("-machine", "virt,gic-version=3", "-cpu", facts.cpu, "-smp", str(facts.cores), "-m", str(facts.memory_mib)),
        *("-accel", "tcg,thread=multi", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(image.kernel), "-initrd", str(folder / "own")),
        *("-append", "console=ttyAMA0 quiet loglevel=3 mitigations=off random.trust_cpu=on"),
        # What it writes goes to a file that has no name.
        *("-drive", f"file={image.disk},format=raw,if=none,id=disk,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=disk,romfile="),
        *(_packages(packed) if packed else ()),
        # It reaches nothing, and is reached by this machine alone.
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{facts.port}-:{inside}"),
        *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        *("-serial", f"file:{folder / _CONSOLE}", "-pidfile", str(folder / _PID)),
    ]


def _packages(packed: Path) -> list[str]:
    disk = f"file={packed},format=raw,if=none,id=packages,readonly=on"
    return ["-drive", disk, "-device", "virtio-blk-pci,drive=packages,romfile="]
