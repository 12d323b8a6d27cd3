"""The lock of a device: one client at a time, whoever they are, for two would disturb each other's measurement."""

import getpass
import os
import queue
import shlex
import socket
from contextlib import suppress
from datetime import datetime

from devices.link import Link, LinkError, Program
from msq.errors import DeviceError, MsqError

# Held by a shell that lives as long as the link that its stdin comes over. The lock is a folder's, for a file of
# another user could not be replaced in one that all may write in; what is beside it only tells who holds it.
_HOLD = """
mkdir {folder} 2>/dev/null && chmod 777 {folder}
command -v flock >/dev/null || {{ echo missing; exit 1; }}
exec 9<{folder} || {{ echo missing; exit 1; }}
tries=0
until flock -n 9; do
    token=; read -r token process who < {folder}/holder
    if [ "$token" != {token} ] && [ $tries -ge 5 ]; then echo "busy $process $who"; exit 1; fi
    # Our own, left behind by a link that broke.
    [ "$token" = {token} ] && kill -9 "$process" 2>/dev/null
    tries=$((tries + 1)); [ $tries -lt 50 ] || {{ echo "busy $process $who"; exit 1; }}
    sleep 0.1
done
new=$(mktemp {folder}/XXXXXX) && echo {token} $$ {who} > "$new" && chmod 644 "$new" && mv -f "$new" {folder}/holder
echo held
cat >/dev/null 9<&-
"""


class DeviceLock:
    """Taken by `take`, and again after the link broke; freed by `free`, or by the end of the link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._token = os.urandom(8).hex()
        self._holder: Program | None = None

    def take(self) -> None:
        """Take it, unless another client has it.

        Raises:
            DeviceError: another one has it; the message says who.
            LinkError: the link broke.
        """
        who = f"{getpass.getuser()}@{socket.gethostname()} since {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
        words = {"folder": f"{self._link.shared}/msq.lock", "token": self._token, "who": who}
        program = self._link.start(_HOLD.format(**{name: shlex.quote(word) for name, word in words.items()}))
        said = _first_line(program)
        if said == "held":
            self._holder = program
            return
        if said.startswith("busy"):
            _, process, *holder = [*"".join(filter(str.isprintable, said)).split(" "), "?"]
            raise DeviceError(
                f"{self._link.name} is in use by {' '.join(holder).removesuffix(' ?') or 'another client'}",
                hint=f"wait until that is over; or, if it hangs, end process {process} on the device",
            )
        raise DeviceError(
            f"{self._link.name}: the device cannot be locked: it has no flock, or {self._link.shared} is not writable",
            hint="install util-linux or busybox there",
        )

    def free(self) -> None:
        """Free it, and wait until it is. Harmless when it was not taken, or the link is broken."""
        if self._holder is None:
            return
        self._holder.end_input()
        with suppress(DeviceError):  # then the device frees it when it sees that the link is gone
            self._holder.speech.listen(10)
        self._holder = None


def _first_line(program: Program, silence: float = 30.0) -> str:
    said = b""
    while b"\n" not in said:
        try:
            heard = program.speech.next(silence)
        except queue.Empty:
            raise LinkError("the device's shell does not answer", hint="is it overloaded?") from None
        if isinstance(heard, MsqError):
            raise heard
        if isinstance(heard, int):
            break
        said += heard[1] if heard[0] == "out" else b""
    return said.decode("utf-8", errors="replace").split("\n")[0]
