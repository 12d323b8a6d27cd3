"""clang with libFuzzer and AddressSanitizer, unpacked without root, beside the C library that it needs."""

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from msq.apt import PrivateApt, extract
from msq.atomic import atomic_folder
from msq.cache import cache_folder
from msq.errors import DeviceError

REVISION = 1
"""Raised when what is made from the same packages changes."""
SUITE = "trixie"
LLVM = 19
PACKAGES = (f"clang-{LLVM}", f"lld-{LLVM}", f"llvm-{LLVM}", f"libclang-rt-{LLVM}-dev")
TOOLS = ("clang", "ld.lld", "llvm-symbolizer", "llvm-profdata", "llvm-cov")

# A tool of this release runs with the loader and the libraries of this release, whatever the machine has.
_SCRIPT = """\
#!/bin/sh
root=$(cd "${{0%/*}}/.." && pwd)
exec "$root/{loader}" --library-path "$root/{libraries}" "$root/usr/lib/llvm-{version}/bin/{tool}" {options} "$@"
"""
# So do the programs that it makes. A compiler that was started by a loader cannot find its own files.
_CLANG_OPTIONS = (
    '--sysroot="$root" -resource-dir="$root/usr/lib/llvm-{version}/lib/clang/{version}" --ld-path="$root/bin/ld.lld" '
    '-Wl,--dynamic-linker="$root/{loader}" -Wl,-rpath,"$root/{libraries}" -Qunused-arguments'
)


def toolchain() -> Path:
    """Return the folder whose bin/ holds TOOLS, making it first if it is not cached.

    Raises:
        AptError: the packages cannot be fetched. DeviceError: they do not run here. StorageError: no space for them.
    """
    key = hashlib.sha256(json.dumps([REVISION, SUITE, PACKAGES]).encode()).hexdigest()[:12]
    folder = cache_folder("clang", key)
    if not folder.is_dir():
        with Console(stderr=True).status("fetching clang and its sanitizers …"), atomic_folder(folder) as temporary:
            _make(temporary)
    return folder


def _make(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetch.", dir=root.parent) as name:
        source = PrivateApt(Path(name, "apt"), suites=[SUITE])
        source.update()
        for package in source.download(PACKAGES, Path(name, "debs"), dependencies=True):
            extract(package, root)
    for link in ("lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    shutil.rmtree(root / "usr/share")
    (loader,) = root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")
    names = {
        "loader": loader.relative_to(root).as_posix(),
        "libraries": loader.parent.relative_to(root).as_posix(),
        "version": LLVM,
    }
    (root / "bin").mkdir()
    for tool in TOOLS:
        options = _CLANG_OPTIONS.format(**names) if tool == "clang" else ""
        script = root / "bin" / tool
        script.write_text(_SCRIPT.format(tool=tool, options=options, **names), encoding="utf-8")
        script.chmod(0o755)
        done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(f"{tool} of Debian {SUITE} does not run here: {done.stderr.strip()}")
