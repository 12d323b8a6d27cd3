"""Provisioning of the emulated board: an arm64 Debian root and qemu-user, made once and cached.

Nothing is installed on this machine and no root privileges are needed: packages are unpacked, not installed, and
the emulator is a static program of its package. A cached folder is complete or absent, whatever stops its making.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from devices import debs, wheels
from msq.apt import AptError, extract
from msq.atomic import atomic_folder
from msq.cache import cache_folder
from msq.errors import DeviceError

REVISION = 1
"""Raised when what is made from the same packages changes."""
PYTHON = "3.13"
SUITES = {PYTHON: debs.SUITE, "3.11": "bookworm"}
"""Releases of Python that a board can have, and the Debian that has it."""
LIBC = {PYTHON: "2.41", "3.11": "2.36"}


def root_packages(python: str = PYTHON) -> tuple[str, ...]:
    """Return the packages of Python and of the libraries that it, numpy and the runtimes link to."""
    shared = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libbz2-1.0", "liblzma5", "libffi8")
    renamed = "libssl3t64" if python == PYTHON else "libssl3"
    own = (f"libpython{python}-minimal", f"python{python}-minimal", f"libpython{python}-stdlib")
    return (*shared, renamed, "libzstd1", "libuuid1", *own)


QEMU_PACKAGE = "qemu-user"
"""From the suite's release 10 on it is static, and shows its programs a /proc/cpuinfo that fits -cpu."""
QEMU = "qemu-aarch64"

COUNTING_SUITE = "bookworm"
"""Its qemu-user 7.2 is the last of Debian's that takes plugins; it is not static."""
COUNTING_PACKAGES = (
    QEMU_PACKAGE,
    "libc6",
    "libgcc-s1",
    "zlib1g",
    "libcapstone4",
    "libglib2.0-0",
    "libpcre2-8-0",
    "libnuma1",
    "liburing2",
    "libgnutls30",
    "libgmp10",
    "libhogweed6",
    "libidn2-0",
    "libnettle8",
    "libp11-kit0",
    "libffi8",
    "libtasn1-6",
    "libunistring2",
)
"""The emulator and all it is linked to, the C library included: what this machine has may be older."""

messages = Console(stderr=True)


@dataclass(frozen=True)
class Board:
    """A cached emulated board: the emulator and the root it runs programs of."""

    folder: Path
    python: str

    @property
    def root(self) -> Path:
        """The arm64 file system."""
        return self.folder / "root"

    @property
    def target(self) -> wheels.Target:
        """Whose wheels it takes."""
        return wheels.Target(self.python, libc=LIBC[self.python])

    @property
    def emulator(self) -> list[str]:
        """The argv that starts the emulator."""
        return [str(self.folder / QEMU)]

    @property
    def version(self) -> str:
        """Name and release of the emulator."""
        said = output([*self.emulator, "--version"])
        return f"{QEMU} {said.split('version ')[1].split()[0]}"

    def cpus(self) -> list[str]:
        """Return the processors that the emulator knows, "max" left out: no board is that."""
        # Its exit code after listing is 1 in some releases, 0 in others.
        command = [*self.emulator, "-cpu", "help"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        return [name.strip() for name in listed if name.startswith(" ") and name.strip() != "max"]

    def command(self, root: Path, cpu: str, argv: Sequence[str]) -> list[str]:
        """Return the argv that runs a program on an emulated `cpu`, with absolute paths looked up in `root` first."""
        return [*self.emulator, "-L", str(root), "-cpu", cpu, *argv]


@dataclass(frozen=True)
class CountingBoard(Board):
    """A board's root in an emulator that takes plugins. tools: where its packages lie. plugin: a shared library."""

    tools: Path
    plugin: Path

    @property
    def emulator(self) -> list[str]:
        """The argv that starts the emulator with the plugin."""
        return [*of_packages(self.tools, QEMU), "-plugin", str(self.plugin)]


def of_packages(tools: Path, program: str) -> list[str]:
    """Return the argv that starts a program of unpacked packages, by their own loader and libraries."""
    loader = next(tools.glob("**/ld-linux-*.so.*"))
    libraries = ":".join(str(folder) for folder in sorted(tools.glob("**/lib/*-linux-gnu")))
    return [str(loader), "--library-path", libraries, str(tools / "usr" / "bin" / program)]


def board(python: str | None = None) -> Board:
    """Return the emulated board, making it first if it is not cached.

    Args:
        python: a key of SUITES; by default PYTHON.
    Raises:
        DeviceError: this machine lacks what is needed, or the packages cannot be fetched.
        StorageError: no space for it.
    """
    python = python or PYTHON
    packages = root_packages(python)
    made_from = [REVISION, SUITES[python], *packages, QEMU_PACKAGE, host_architecture()]
    return Board(cached("board", made_from, partial(_make_board, python)), python)


def site(board: Board, packages: Sequence[str]) -> Path:
    """Return a folder with numpy and `packages` for the board's Python, making it first if it is not cached.

    Args:
        packages: distributions, "name==version"; where the version is left out, it is this machine's.
    Raises:
        DeviceError: there are no such wheels, or they cannot be fetched.
        StorageError: no space for them.
    """
    wheels.require_python(packages, board.python, "the emulated board")
    pins = wheels.pinned(packages)
    names = [wheels.normalised(pin.partition("==")[0]) for pin in pins]

    def make(folder: Path) -> None:
        with messages.status(f"fetching {', '.join(pins)} for aarch64 …"):
            wheels.install(pins, board.target, folder)
            _check(board, wheels.LOAD, folder, names)

    return cached("site", [REVISION, board.python, board.folder.name, wheels.LOAD, *pins], make)


def own_site(packages: Sequence[str]) -> Path | None:
    """Return a folder with packages that this machine's Python lacks in these releases, making it if it is not cached.

    None where it has them all. Raises as `site`.
    """
    pins = wheels.pinned(packages)
    if all(wheels.is_installed(pin) for pin in pins):
        return None
    python = ".".join(platform.python_version_tuple()[:2])
    wheels.require_python(packages, python, "this machine")
    target = wheels.Target(python, platform.machine(), platform.libc_ver()[1])
    names = [wheels.normalised(pin.partition("==")[0]) for pin in pins]

    def make(folder: Path) -> None:
        with messages.status(f"fetching {', '.join(pins)} …"):
            wheels.install(pins, target, folder)
            output([sys.executable, "-c", wheels.LOAD, *names], {**os.environ, "PYTHONPATH": str(folder)})

    return cached("own-site", [REVISION, sys.version, wheels.LOAD, *pins], make)


def counting(board: Board, plugin: Path) -> CountingBoard:
    """Return the board in an emulator that a plugin is given to, making the emulator first if it is not cached.

    Raises:
        DeviceError: this machine lacks what is needed, or the packages cannot be fetched.
        StorageError: no space for it.
    """
    architecture = host_architecture()

    def make(folder: Path) -> None:
        with messages.status("fetching an emulator that takes plugins …"):
            for package in debs.obtain(COUNTING_PACKAGES, architecture, COUNTING_SUITE):
                unpack(package, folder)

    tools = cached("counting", [REVISION, COUNTING_SUITE, *COUNTING_PACKAGES, architecture], make)
    return CountingBoard(board.folder, board.python, tools, plugin)


def _make_board(python: str, folder: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        raise DeviceError(
            "dpkg-deb is not installed here, which unpacks the emulated board",
            hint="run on Debian or Ubuntu, install the package dpkg, or choose the device local",
        )
    with messages.status("fetching the emulated board: arm64 Python and QEMU …"):
        packages = debs.obtain(root_packages(python), "arm64", SUITES[python])
        (emulator,) = debs.obtain([QEMU_PACKAGE], host_architecture())
    with messages.status("unpacking the emulated board …"):
        made = Board(folder, python)
        for package in packages:
            unpack(package, made.root)
        _extract_emulator(emulator, folder / QEMU)
        # Made by packages' scripts, which did not run.
        _merge(made.root / "lib", made.root / "usr/lib")
        (made.root / "usr/bin/python3").symlink_to(f"python{python}")
        for documents in ("doc", "man", "lintian"):
            shutil.rmtree(made.root / "usr/share" / documents, ignore_errors=True)
        _check(made, "import ctypes, hashlib, json, lzma, ssl, zipfile", folder)


def _merge(old: Path, new: Path) -> None:
    """Leave a link to `new` in place of `old`, whose files, of which older packages have some, are moved there."""
    if old.is_dir():
        shutil.copytree(old, new, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(old)
    old.symlink_to(new.relative_to(old.parent))


def unpack(package: Path, root: Path) -> None:
    """Unpack a .deb into a folder. Raises DeviceError."""
    try:
        extract(package, root)
    except AptError as error:
        raise DeviceError(str(error), hint=f"delete {package} and run again to fetch it anew") from None


def _extract_emulator(package: Path, target: Path) -> None:
    """Take the one emulator out of a package that holds one for each of thirty architectures."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacker:
        try:
            with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
                wanted = next((member for member in archive if member.name == f"./usr/bin/{QEMU}"), None)
                source = archive.extractfile(wanted) if wanted else None
                if source is None:
                    raise tarfile.ReadError("no such member")
                with target.open("wb") as stream:
                    shutil.copyfileobj(source, stream)
        except tarfile.TarError:
            hint = f"delete {package} and run again to fetch it anew"
            raise DeviceError(f"{package.name}: holds no whole {QEMU}", hint=hint) from None
        finally:
            unpacker.kill()
    target.chmod(0o755)


def _check(board: Board, statements: str, python_path: Path, arguments: Sequence[str] = ()) -> None:
    """Run Python on the board: what does not run is not cached, and bytecode is written for later runs."""
    program = f"import platform\n{statements}\nprint(platform.machine())"
    argv = [str(board.root / "usr/bin/python3"), "-c", program, *arguments]
    said = output(board.command(board.root, "cortex-a53", argv), {"PYTHONPATH": str(python_path)})
    if said.strip() != "aarch64":
        raise DeviceError(f"the emulated board is a {said.strip()!r}, not an aarch64")


def output(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Return what a program of the emulated board says on stdout. Raises DeviceError when it fails."""
    try:
        done = subprocess.run(
            command, env=environment or {}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise DeviceError(f"{command[0]}: cannot be started: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeviceError(
            f"the emulated board does not run: {said[-1]}",
            hint=f"delete {debs.drop_in()} and run again to fetch it anew",
        )
    return done.stdout


def host_architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    if shutil.which("dpkg") is None:
        raise DeviceError(
            "dpkg is not installed here, which unpacks the emulated board",
            hint="run on Debian or Ubuntu, install the package dpkg, or choose the device local",
        )
    return output(["dpkg", "--print-architecture"]).strip()


def cached(kind: str, made_from: Sequence[object], make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache that `make` filled, now or once before; it is whole or absent.

    Args:
        kind: first part of its name. made_from: all that it depends on, for another of which it is another folder.
    Raises:
        MsqError: what `make` raises.
    """
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
    folder = cache_folder("emulator", f"{kind}-{key}")
    if folder.is_dir():
        return folder
    with locked(folder.parent):
        if not folder.is_dir():
            # Whoever left these was killed, as only the holder of the lock writes here; where a child of it still
            # does, the next one to come removes the rest.
            for stale in folder.parent.glob(f".{kind}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            with atomic_folder(folder) as temporary:
                make(temporary)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time set something up in a folder, which is made when missing; the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with messages.status("waiting for another run to set the emulated board up …"):
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield
