"""Files on their way to a board: kept there by their sha256, so that none is sent twice, and resumed after a break."""

import shlex
import stat
import threading
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from devices.link import LinkError
from devices.shell import Shell
from msq.checksums import sha256_of
from msq.errors import DeviceError

AT_ONCE = 50
"""Files a script: commands have a limit."""
BREAKS = 8
"""How often the link may break during one file while nothing of it arrives."""

# Prints "SHA256 bytes" of what is missing; what is there but altered is removed. Few processes, as a board may be slow.
_ASK = """
cd {store} || exit 1
whole=$(sha256sum {shas} 2>/dev/null)
for sha in {shas}; do
    case "$whole" in *"$sha  $sha"*) continue; esac
    [ ! -e $sha ] || rm -f $sha
    if [ -f $sha.part ]; then echo $sha $(wc -c < $sha.part); else echo $sha 0; fi
done
touch -c {shas}
"""
_ACCEPT = """
cd {store} || exit 1
if [ "$(sha256sum < {sha}.part)" = "{sha}  -" ]; then mv {sha}.part {sha}; else rm -f {sha}.part; fi
[ -f {sha} ]
"""
_PLACE = """
cp {store}/{sha} {new}{executable} && mv -f {new} {target} || {{ rm -f {new}; exit 1; }}
"""


class Uploads:
    """A folder of the board that holds files by their content. One thread at a time sends.

    Args:
        store: absolute path of the folder, which exists.
    """

    def __init__(self, shell: Shell, store: str) -> None:
        self._shell, self._store = shell, store
        self._sending = threading.Lock()

    def put(self, files: Sequence[Path], folder: str) -> None:
        """Bring files, with their permissions, into a folder of the board (absolute), each whole or not at all.

        Raises:
            StorageError: no space there.
            DeviceError: the link broke too often, or what arrived is not what was sent.
        """
        pending = iter(files)
        with self._sending:
            while some := list(islice(pending, AT_ONCE)):
                known = {file: sha256_of(file) for file in some}
                self._bring(known)
                self._place(known, folder)

    def _bring(self, known: Mapping[Path, str]) -> None:
        for sha, there in self._missing(list(known.values())).items():
            file = next(file for file, other in known.items() if other == sha)
            for _ in range(2):
                self._send(file, sha, there)
                if self._shell.run(_ACCEPT.format(store=shlex.quote(self._store), sha=sha)).returncode == 0:
                    break
                there = 0
            else:
                raise DeviceError(
                    f"{self._shell.link.name}: {file.name} does not arrive as it was sent",
                    hint="was it changed meanwhile? if not, the device's storage or memory may be at fault",
                )

    def _missing(self, shas: Sequence[str]) -> dict[str, int]:
        """Return those of `shas` that the board has not whole, with the bytes that it has of them."""
        script = _ASK.format(store=shlex.quote(self._store), shas=" ".join(dict.fromkeys(shas)))
        answer = self._shell.must(script, "looking for files")
        return {sha: int(size) for sha, size in (line.split() for line in answer.splitlines())}

    def _send(self, file: Path, sha: str, there: int) -> None:
        size, breaks = file.stat().st_size, 0
        part = shlex.quote(f"{self._store}/{sha}.part")
        while True:
            seen = self._shell.openings
            offset = there if there <= size else 0
            try:
                done = self._shell.send(file, offset, f"cat {'>>' if offset else '>'} {part}")
            except LinkError as error:
                self._shell.reopen(seen)
                before, there = there, self._missing([sha]).get(sha, 0)
                breaks = 0 if there > before else breaks + 1
                if breaks >= BREAKS:
                    raise LinkError(
                        f"{self._shell.link.name}: the link breaks again and again while {file.name} is sent: {error}",
                        hint=error.hint,
                    ) from None
                continue
            if done.returncode:
                self._shell.run(f"rm -f {part}")
                raise self._shell.failure(done, f"sending {file.name} ({size / 2**20:.1f} MiB)")
            return

    def _place(self, known: Mapping[Path, str], folder: str) -> None:
        script = f"mkdir -p {shlex.quote(folder)} || exit 1\n"
        for file, sha in known.items():
            target = f"{folder}/{file.name}"
            words = {"store": self._store, "new": f"{folder}/.msq-new-{sha[:16]}", "target": target}
            quoted = {name: shlex.quote(word) for name, word in words.items()}
            executable = f" && chmod 755 {quoted['new']}" if file.stat().st_mode & stat.S_IXUSR else ""
            script += _PLACE.format(**quoted, sha=sha, executable=executable)
        self._shell.must(script, f"writing into {PurePosixPath(folder).name}")
