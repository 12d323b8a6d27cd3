"""Profiles: what a device is. One TOML file each in profiles/, or a file of the user's own."""

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from devices.own import own_devices
from msq import plugins
from msq.artefact import Strict, first_problem
from msq.errors import DeviceError, UsageError


class Profile(Strict):
    """A device's nominal facts, for people and for bounds, and how it is reached. No fact here was observed."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    aliases: tuple[str, ...] = ()
    transport: str = "emulator"
    """A file of devices/transports."""
    address: str = ""
    """Where it is, in its transport's words: "[user@]host[:port]" for ssh, a serial or "host:port" for adb."""
    processor: str
    """The board's own processor, as its maker names it."""
    link: Literal["ssh", "adb"] = "ssh"
    """The way to the board, and to the whole machine that is emulated for it."""
    qemu_cpu: str | None = None
    """The model of qemu-aarch64 that runs the code; never "max", which no board is."""
    stand_in: str = ""
    """In what the emulated device is not the real one."""
    cores: int | None = Field(None, ge=1)
    clock_mhz: int | None = Field(None, ge=1)
    memory_mib: int | None = Field(None, ge=1)
    bandwidth_gb_s: float | None = Field(None, gt=0)
    """Peak of the memory bus, 10⁹ bytes a second."""
    l1d_kib: int | None = Field(None, ge=1)
    """Of one core."""
    l2_kib: int | None = Field(None, ge=1)
    l2_shared: bool = True
    l3_kib: int | None = Field(None, ge=1)

    @property
    def facts(self) -> dict[str, str]:
        """The facts as short texts with their units, for people."""
        shared = "shared" if self.l2_shared else "of each core"
        texts = {
            "processor": self.processor,
            "emulated as": self.qemu_cpu,
            "stand-in": self.stand_in or None,
            "cores": self.cores,
            "clock": self.clock_mhz and f"{self.clock_mhz} MHz",
            "memory": self.memory_mib and f"{self.memory_mib} MiB",
            "memory bandwidth": self.bandwidth_gb_s and f"{self.bandwidth_gb_s:g} GB/s peak",
            "L1 data cache": self.l1d_kib and f"{self.l1d_kib} KiB of each core",
            "L2 cache": self.l2_kib and f"{self.l2_kib} KiB {shared}",
            "L3 cache": self.l3_kib and f"{self.l3_kib} KiB shared",
        }
        return {name: str(text) for name, text in texts.items() if text is not None}

    def admit(self, packages: Sequence[str] | None) -> None:
        """Let a runtime in that needs these distributions of Python; None needs no Python.

        Raises:
            DeviceError: the device is a phone, or plays one, and that has no Python.
        """
        if packages is not None and self.link == "adb" and self.transport in ("adb", "vm"):
            raise DeviceError(
                f"{self.title} has no Python, which this runtime needs",
                hint="choose the runtime native, which needs none",
            )


def names() -> list[str]:
    """Return the names of the profiles there are, aliases left out."""
    return [found.name for found in profiles()]


def profiles() -> list[Profile]:
    """Return the profiles there are, by name."""
    folder = files("devices") / "profiles"
    entries = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return [_read(entry) for entry in sorted(entries, key=lambda entry: entry.name)]


def profile(name: str) -> Profile:
    """Return what a device is and how it is reached, by any name that it has.

    Args:
        name: of a profile, or its alias; of a board in devices.toml; a TOML file when it ends in .toml;
            "vm:NAME", a profile emulated as a whole machine; "ssh:[user@]host[:port]" or "adb:SERIAL", any board.
    Raises:
        UsageError: there is none; the message lists those there are. Or a file does not fit its schema.
    """
    prefix, _, rest = name.partition(":")
    if prefix in ("ssh", "adb") and rest:
        return _unknown_board(prefix, rest)
    if prefix == "vm" and rest:
        return profile(rest).model_copy(update={"transport": "vm"})
    if name.endswith(".toml"):
        return _read(Path(name))
    known = {alias: found for found in profiles() for alias in (found.name, *found.aliases)}
    if name in known:
        return known[name]
    boards = own_devices()
    if name not in boards:
        raise plugins.unknown(name, sorted([*known, *boards]), "device")
    board = boards[name]
    if board.profile is None:
        return _unknown_board(board.transport, board.address).model_copy(update={"name": name, "title": name})
    facts = profile(board.profile)
    # Nothing stands in for the real one.
    real = {"name": name, "title": f"{name} ({facts.title})", "qemu_cpu": None, "stand_in": "", "aliases": ()}
    way = {"transport": board.transport, "link": board.transport, "address": board.address}
    return facts.model_copy(update=real | way)


def _unknown_board(transport: str, address: str) -> Profile:
    name = f"{transport}-{re.sub('[^a-z0-9]+', '-', address.lower()).strip('-')}"
    facts = {"name": name, "title": address, "processor": "whatever the board has"}
    return Profile(**facts, transport=transport, address=address, link="adb" if transport == "adb" else "ssh")


def _read(file: Traversable) -> Profile:
    hint = "devices/profiles holds examples"
    try:
        return Profile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(
            f"{file}: no such device profile", hint=f"devices with a profile: {', '.join(names())}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not TOML: {error}", hint=hint) from None
    except ValidationError as error:
        raise UsageError(f"{file}: {first_problem(error)}", hint=hint) from None
