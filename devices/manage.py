"""Looking after devices: set one up, keep an emulated machine running, ask a board what it is, open its shell."""

import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import adbutils

from devices import own
from devices import transport as transports
from devices.board_info import board_info
from devices.machine import Machine, home
from devices.profile import Profile, profile, profiles
from devices.provision import locked
from devices.transport import Engine
from devices.transports.ssh import SshLink
from msq.artefact import Strict
from msq.errors import DeviceError, MsqError, UsageError


class Info(Strict):
    """A device: what its profile says, and what it says itself."""

    name: str
    title: str
    transport: str
    engine: Engine
    emulator: str | None
    machine: str
    observed: dict[str, str]
    facts: dict[str, str]


def info(device: str) -> Info:
    """Ask a device what it is. Raises UsageError: it is unknown; DeviceError: it cannot be reached or is in use."""
    facts = profile(device)
    with closing(transports.transport(facts.transport)) as transport:
        transport.prepare(facts, None)
        # The root of an emulated processor has no shell; there is nothing of a board to be asked either.
        observed = {} if transport.engine == "qemu-user" else board_info(transport, python=facts.link != "adb")
        return Info(
            name=facts.name,
            title=facts.title,
            transport=facts.transport,
            engine=transport.engine,
            emulator=transport.emulator,
            machine=transport.machine,
            observed=observed,
            facts=facts.facts,
        )


def summary(device: str) -> str:
    """Return a line of what is on a device and how it is; or of why it cannot be asked."""
    try:
        observed = info(device).observed
    except MsqError as error:
        return str(error)
    told = [f"{name} {observed[name]}" for name in ("memory", "governor", "temperature", "power") if name in observed]
    return "; ".join([observed.get("installed", "no runtimes"), *told])


def add(name: str, host: str | None, serial: str | None, of: str | None, *, project: bool) -> Path:
    """Name a board of the user's own, and return the file that it was written into.

    Args:
        of: name of its profile. project: the file of the project, rather than the user's.
    Raises:
        UsageError: the name is taken, or the profile unknown.
    """
    if name in {alias for found in profiles() for alias in (found.name, *found.aliases)}:
        raise UsageError(f"{name!r} is the name of a profile", hint="choose another name")
    if of is not None:
        profile(of)
    if (host is None) == (serial is None):
        raise UsageError("a board is reached by either --host or --serial", hint="give one of them")
    file = own.files()[0 if project else 1]
    own.add(name, own.Own(host=host, serial=serial, profile=of), file)
    return file


def keep_running(device: str, packages: Sequence[str] | None) -> None:
    """Boot an emulated machine that stays until `down`; nothing for another device, or when it runs.

    Args:
        packages: distributions that its Python has at once, beside numpy; others are installed later, as on a board.
    Raises:
        DeviceError: it cannot be provisioned, or does not boot.
    """
    facts = profile(device)
    facts.admit(packages)
    if facts.transport == "vm":
        with locked(home(facts).parent):
            if Machine.running(facts) is None:
                Machine.boot(facts, home(facts), packages, stays=True)


def down(device: str) -> bool:
    """End the machine that `keep_running` booted; return whether one ran. Raises UsageError: it is no such device."""
    facts = profile(device)
    if facts.transport != "vm":
        raise UsageError(
            f"device {device!r} is no emulated machine, so nothing of it keeps running here",
            hint=f"machines are named vm:NAME; {facts.name!r} is reached by {facts.transport}",
        )
    machine = Machine.running(facts)
    if machine:
        machine.stop()
        shutil.rmtree(machine.folder)
    return machine is not None


def shell(device: str) -> list[str]:
    """Return the argv that opens a device's shell.

    Raises:
        UsageError: it has none.
        DeviceError: the machine does not run, or the program is missing here.
    """
    facts = profile(device)
    if facts.transport == "vm":
        return _machine_shell(device, facts)
    if facts.transport == "adb":
        return [adb(), "-s", facts.address, "shell"]
    if facts.transport == "ssh":
        return SshLink(facts.title, facts.address).command()
    raise UsageError(
        f"device {device!r} has no shell of its own",
        hint=f"vm:{facts.name} is a whole machine that has" if facts.qemu_cpu else "it is this machine",
    )


def _machine_shell(device: str, facts: Profile) -> list[str]:
    machine = Machine.running(facts)
    if machine is None:
        raise DeviceError(f"{device} does not run", hint=f"msq device up {device}")
    if machine.facts.link == "ssh":
        return SshLink(facts.title, "board", machine.config).command()
    open_shell = '"$0" connect "$1" >/dev/null && exec "$0" -s "$1" shell'
    return ["sh", "-c", open_shell, adb(), f"127.0.0.1:{machine.facts.port}"]


def adb() -> str:
    """Return the path of adb: this machine's, else the one that adbutils brings. Raises DeviceError."""
    try:
        path: str = adbutils.adb_path()
    except adbutils.AdbError:
        raise DeviceError("adb is not installed here", hint="sudo apt-get install adb") from None
    return path
