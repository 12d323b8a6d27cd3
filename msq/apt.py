"""A private apt: Debian packages fetched without root and without touching the host's own package state."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msq.errors import MsqError, StorageError

_HINT = "check the network and the apt sources of this machine"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Read with --config-file, thus after the host's files: the host's proxy and mirror settings stay in force, what
# would touch its state, or call hooks that need root, does not.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "{folder}/archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Get::AllowUnauthenticated "false";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
"""


class AptError(MsqError):
    """apt is missing, cannot reach its sources, or has no such package."""


class PrivateApt:
    """An apt whose lists, cache and (empty) list of installed packages lie in a folder of one's own.

    Args:
        folder: where its state lies; made when missing. One process at a time: apt locks it.
        architecture: Debian's name (amd64, arm64); None is the host's.
        suites: Debian suites ("bookworm", "bookworm-updates", "bookworm-security") fetched from $MSQ_DEBIAN_MIRROR,
            else the Debian mirror that the host uses; None is the host's sources as they are.
    """

    def __init__(self, folder: Path, architecture: str | None = None, suites: Sequence[str] | None = None) -> None:
        if not available():
            raise AptError("apt-get and dpkg are not installed here", hint="run on Debian or Ubuntu")
        self._folder, self._suites = folder.absolute(), suites
        self._configuration = self._folder / "apt.conf"
        for name in ("state", "lists/partial", "cache", "archives/partial", "parts"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "state" / "status").touch()
        host = _output(["dpkg", "--print-architecture"], "dpkg").strip()
        text = _CONFIGURATION.format(folder=self._folder, architecture=architecture or host)
        if suites is not None:
            text += f'Dir::Etc::sourcelist "{self._folder}/sources.list";\n'
            text += f'Dir::Etc::sourceparts "{self._folder}/parts";\n'
            text += f'Dir::Etc::preferencesparts "{self._folder}/parts";\n'
            (self._folder / "sources.list").write_text(_sources(suites), encoding="utf-8")
        self._configuration.write_text(text, encoding="utf-8")

    def update(self) -> None:
        """Fetch the package lists; one source out of several may fail.

        Raises:
            AptError: no source, or with `suites` not every one, could be reached.
        """
        self._apt("update", *(["--error-on=any"] if self._suites else []))
        # apt only warns when the network is down.
        if not any((self._folder / "lists").glob("*Release")):
            raise AptError("apt-get update reached none of its sources", hint=_HINT)

    def download(self, packages: Iterable[str], into: Path, *, dependencies: bool = False) -> list[Path]:
        """Fetch packages as .deb files, their signatures checked by apt.

        Args:
            packages: names, or name=version.
            into: folder for the files; made when missing.
            dependencies: fetch all they depend on too, as for a system with nothing installed.
        Returns:
            The files, sorted by name.
        Raises:
            AptError: a package is unknown or cannot be fetched.
        """
        into.mkdir(parents=True, exist_ok=True)
        if not dependencies:
            self._apt("download", *packages, folder=into)
            return sorted(into.glob("*.deb"))
        archives = self._folder / "archives"
        for stale in archives.glob("*.deb"):
            stale.unlink()
        self._apt("install", "--yes", "--download-only", *packages)
        return [Path(shutil.move(file, into / file.name)) for file in sorted(archives.glob("*.deb"))]

    def dependency(self, package: str) -> str:
        """Return the name of the first package that `package` depends on. Raises AptError."""
        command = ["apt-cache", "--config-file", str(self._configuration), "depends", package]
        for line in _output(command, f"apt-cache depends {package}").splitlines():
            if line.strip().startswith("Depends:"):
                return line.split()[1]
        raise AptError(f"{package} depends on nothing", hint=_HINT)

    def _apt(self, *arguments: str, folder: Path | None = None) -> None:
        command = ["apt-get", "--quiet=2", "--config-file", str(self._configuration), *arguments]
        _output(command, f"apt-get {arguments[0]}", folder)


def available() -> bool:
    """Say whether this machine has apt and dpkg."""
    return all(shutil.which(tool) for tool in ("apt-get", "dpkg", "dpkg-deb"))


def extract(package: Path, into: Path) -> None:
    """Unpack the files of a .deb into a folder, running none of its scripts. Raises AptError."""
    into.mkdir(parents=True, exist_ok=True)
    _output(["dpkg-deb", "--extract", str(package), str(into)], f"unpacking {package.name}")


def _output(command: Sequence[str], what: str, folder: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg"))]
    reason = (said or done.stderr.splitlines() or ["no message"])[0]
    if "No space left" in done.stderr or "enough free space" in done.stderr:
        raise StorageError(f"{what}: {reason}", hint="free space and run it again")
    raise AptError(f"{what} failed: {reason}", hint=_HINT)


def _sources(suites: Iterable[str]) -> str:
    if not KEYRING.is_file():
        raise AptError(f"{KEYRING}: missing", hint="install the package debian-archive-keyring")
    mirror = os.environ.get("MSQ_DEBIAN_MIRROR", "").rstrip("/") or next(_debian_mirrors(), None)
    if mirror is None:
        raise AptError(
            "no Debian mirror is among the apt sources of this machine",
            hint="set MSQ_DEBIAN_MIRROR to one near you, an address that ends in /debian",
        )
    lines = []
    for suite in suites:
        address = mirror.removesuffix("/debian") + "/debian-security" if suite.endswith("-security") else mirror
        lines.append(f"deb [signed-by={KEYRING}] {address} {suite} main\n")
    return "".join(lines)


def _debian_mirrors() -> Iterator[str]:
    """Yield the addresses of Debian mirrors (ending in /debian) among the host's sources."""
    root = Path("/etc/apt")
    files = [root / "sources.list", *sorted((root / "sources.list.d").glob("*"))]
    for file in files:
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("deb ", "URIs:")):
                for word in line.split():
                    if "://" in word and word.rstrip("/").endswith("/debian"):
                        yield word.rstrip("/")
