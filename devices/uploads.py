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
whole=$(sha256sum {shas} 2>/dev/null) missing=
for sha in {shas}; do
    case "$whole" in *"$sha  $sha"*) continue; esac
    [ ! -e $sha ] || rm -f $sha
    if [ -f $sha.part ]; then echo $sha $(wc -c < $sha.part); else echo $sha 0; fi
    missing=yes
done
touch -c {shas}
"""
# The end of its input may be that of the link: what is not all there stays for the next time.
_RECEIVE = """
cd {store} || exit 1
cat {redirect} {sha}.part || {{ rm -f {sha}.part; exit 1; }}
[ $(wc -c < {sha}.part) -ge {size} ] || exit {altered}
if [ "$(sha256sum < {sha}.part)" = "{sha}  -" ]; then
    # One that a broken link left behind may have been quicker.
    mv {sha}.part {sha} 2>/dev/null || [ -f {sha} ]
    exit $?
fi
rm -f {sha}.part
exit {altered}
"""
_ALTERED = 45
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
                what, place = f"writing into {PurePosixPath(folder).name}", self._placing(known, folder)
                # Where nothing is missing, the one script does all.
                answer = self._shell.must(f'{self._asking(known)}[ -z "$missing" ] || exit 0\n{place}', what)
                for sha, there in _sizes(answer).items():
                    self._bring(next(file for file, other in known.items() if other == sha), sha, there)
                if answer:
                    self._shell.must(place, what)

    def _asking(self, known: Mapping[Path, str]) -> str:
        return _ASK.format(store=shlex.quote(self._store), shas=" ".join(dict.fromkeys(known.values())))

    def _bring(self, file: Path, sha: str, there: int) -> None:
        for offset in (there, 0):
            if self._sent(file, sha, offset):
                return
        raise DeviceError(
            f"{self._shell.link.name}: {file.name} does not arrive as it was sent",
            hint="was it changed meanwhile? if not, the device's storage or memory may be at fault",
        )

    def _sent(self, file: Path, sha: str, there: int) -> bool:
        """Send a file of which the board has the beginning; return whether all arrived as it is."""
        size, breaks = file.stat().st_size, 0
        words = {"store": shlex.quote(self._store), "sha": sha, "size": size, "altered": _ALTERED}
        while True:
            seen = self._shell.openings
            offset = there if there <= size else 0
            try:
                script = _RECEIVE.format(**words, redirect=">>" if offset else ">")
                done = self._shell.send(file, offset, script)
            except LinkError as error:
                self._shell.reopen(seen)
                left = _sizes(self._shell.must(self._asking({file: sha}), "looking for files"))
                if not left:
                    return True
                before, there = there, left[sha]
                breaks = 0 if there > before else breaks + 1
                if breaks >= BREAKS:
                    raise LinkError(
                        f"{self._shell.link.name}: the link breaks again and again while {file.name} is sent: {error}",
                        hint=error.hint,
                    ) from None
                continue
            if done.returncode not in (0, _ALTERED):
                raise self._shell.failure(done, f"sending {file.name} ({size / 2**20:.1f} MiB)")
            return done.returncode == 0

    def _placing(self, known: Mapping[Path, str], folder: str) -> str:
        script = f"mkdir -p {shlex.quote(folder)} || exit 1\n"
        for file, sha in known.items():
            target = f"{folder}/{file.name}"
            words = {"store": self._store, "new": f"{folder}/.msq-new-{sha[:16]}", "target": target}
            quoted = {name: shlex.quote(word) for name, word in words.items()}
            executable = f" && chmod 755 {quoted['new']}" if file.stat().st_mode & stat.S_IXUSR else ""
            script += _PLACE.format(**quoted, sha=sha, executable=executable)
        return script


def _sizes(answer: str) -> dict[str, int]:
    """Return what is missing, with the bytes that the board has of it."""
    return {sha: int(size) for sha, size in (line.split() for line in answer.splitlines())}
