"""Python on a board: found as it is, or completed by wheels in a private folder there."""

import ast
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from devices import wheels
from devices.provision import messages
from devices.shell import Shell
from devices.uploads import Uploads
from msq.errors import DeviceError

# Prints a dict. It imports next to nothing, as a board may be slow. A distribution leaves a folder of its name,
# and the private folder is named by Python's release too, for that may change.
_LOOK = """
import os, sys
version, site = "%d.%d" % sys.version_info[:2], sys.argv[1] + "-%d.%d" % sys.version_info[:2]
try: libc = os.confstr("CS_GNU_LIBC_VERSION")
except ValueError: libc = ""
def found(paths):
    names = {}
    for path in paths:
        for entry in os.listdir(path) if os.path.isdir(path) else ():
            if entry.endswith((".dist-info", ".egg-info")):
                name, _, release = entry[:-10].partition("-")
                # A build for GPUs is that distribution too.
                name = name.replace("-", "_").replace(".", "_").lower().removesuffix("_gpu")
                names.setdefault(name, release.split("-")[0])
    return {name: names[name] for name in sys.argv[2:] if name in names}
print({"version": version, "bits": 64 if sys.maxsize > 2**32 else 32, "libc": libc, "machine": os.uname().machine,
    "site": site, "own": found(sys.path), "private": found([site, *sys.path])})
"""


def environment(shell: Shell, uploads: Uploads, base: str, packages: Sequence[str]) -> Mapping[str, str]:
    """Return the environment in which the board's python3 has numpy and `packages`, installing what is missing.

    Args:
        base: absolute folder of the board under which wheels are installed.
        packages: distributions, "name==version"; where the version is left out, it is this machine's.
    Raises:
        DeviceError: it has no Python, or one that there are no wheels for.
        StorageError: no space there.
    """
    pins = wheels.pinned(packages)
    wanted = {wheels.normalised(name): release for name, release in (pin.split("==") for pin in pins)}
    site = f"{base}/python-{hashlib.sha256(json.dumps(pins).encode()).hexdigest()[:16]}"
    board = _look(shell, site, list(wanted))
    wheels.require_python(packages, board["version"], shell.link.name)
    if board["own"] == wanted:
        return {}
    if board["private"] != wanted:
        target = wheels.Target(board["version"], board["machine"], board["libc"].removeprefix("glibc "))
        with messages.status(f"installing {', '.join(pins)} on {shell.link.name} …"):
            try:
                files = wheels.fetch(pins, target)
            except DeviceError as error:
                raise DeviceError(f"{shell.link.name}: {error}", hint=error.hint) from None
            uploads.put(files, f"{board['site']}.wheels")
            _unpack(shell, board["site"], [file.name for file in files], list(wanted))
        board = _look(shell, site, list(wanted))
    if lost := [pin for pin, name in zip(pins, wanted, strict=True) if board["private"].get(name) != wanted[name]]:
        raise DeviceError(
            f"{shell.link.name}: {', '.join(lost)} cannot be used after its installation",
            hint=f"remove {board['site']} on the device and run again",
        )
    return {"PYTHONPATH": board["site"]}


def _look(shell: Shell, site: str, names: Sequence[str]) -> dict[str, Any]:
    script = f"command -v python3 >/dev/null || exit 127\npython3 -c {shlex.quote(_LOOK)} {shlex.join([site, *names])}"
    done = shell.run(script)
    native = "or choose the runtime native, which needs no Python"
    if done.returncode == 127:
        raise DeviceError(f"{shell.link.name} has no python3", hint=f"sudo apt-get install python3 there; {native}")
    try:
        board: dict[str, Any] = ast.literal_eval(done.stdout)
    except (ValueError, SyntaxError):
        raise shell.failure(done, "asking its python3 what it is") from None
    if board["bits"] != 64 or not board["libc"].startswith("glibc "):
        kind = f"{board['bits']}-bit, C library {board['libc'] or 'unknown'}"
        raise DeviceError(
            f"{shell.link.name}: its python3 is {kind}; the runtimes come for 64 bits and glibc",
            hint=f"install a 64-bit system there, {native}",
        )
    return board


def _unpack(shell: Shell, site: str, names: Sequence[str], distributions: Sequence[str]) -> None:
    """Wheels are zip files of what lies in the folder they are installed into: no pip is needed there."""
    new, final, folder = (shlex.quote(path) for path in (f"{site}.new", site, f"{site}.wheels"))
    lines = [f"rm -rf {new} {final} && mkdir {new} || exit 1"]
    lines += [f"python3 -m zipfile -e {folder}/{shlex.quote(name)} {new} || exit 1" for name in names]
    load = shlex.join(["python3", "-c", wheels.LOAD, *distributions])
    lines += [f"PYTHONPATH={new} {load} || exit 1", f"mv {new} {final} && rm -rf {folder}"]
    shell.must("\n".join(lines), "installing wheels", silence=600)
