"""An initial RAM disk for Linux: an archive in the format "newc", of files that this machine need not have as such."""

import gzip
import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msq.errors import DeviceError


@dataclass(frozen=True)
class Entry:
    """A file. mode: as of stat, type included."""

    data: bytes
    mode: int = 0o100644


FOLDER = Entry(b"", 0o40755)


def archive(entries: Mapping[str, Entry]) -> bytes:
    """Return entries (path without leading / → entry, folders before what is in them) as a gzipped archive, all root's.

    Several archives one behind the other are one to Linux.
    Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
    """
    out = bytearray()
    for number, (name, entry) in enumerate([*entries.items(), ("TRAILER!!!", Entry(b"", 0))], 1):
        path = name.encode() + b"\0"
        links = 2 if entry is FOLDER else 1
        fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(path), 0)
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + path, entry.data):
            out += part + bytes(-len(part) % 4)
    return gzip.compress(bytes(out), 1)


def modules(folder: Path, wanted: list[str]) -> dict[str, bytes]:
    """Return kernel modules and all that they need, in an order in which they load: name → module.

    Args:
        folder: of a kernel's modules, where depmod need not have run. wanted: names without ".ko".
    Raises:
        DeviceError: one is not there.
    """
    files = {_name(file.name): file for file in folder.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded:
            return
        if name not in files:
            raise DeviceError(f"the kernel has no module {name}", hint="this is a bug of the toolchain")
        data = files[name].read_bytes()
        module = lzma.decompress(data) if files[name].suffix == ".xz" else data
        if needs := re.search(rb"\0depends=([^\0]*)\0", module):
            for other in filter(None, needs[1].decode().split(",")):
                load(_name(other))
        loaded[name] = module

    for name in wanted:
        load(_name(name))
    return loaded


def _name(file: str) -> str:
    return file.split(".")[0].replace("-", "_")
