"""A file fetched from its public source, kept only when its digest is the expected one."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from msq.atomic import atomic_file
from msq.checksums import sha256_of
from msq.errors import DataError

_SECONDS_WITHOUT_A_BYTE = 30


def fetch(address: str, path: Path, sha256: str | None = None) -> None:
    """Download a file to `path`, with a progress bar on a terminal.

    Args:
        address: its URL. path: where it goes; written only when complete.
        sha256: hex digest it must have, None when its content is verified later.
    Raises:
        DataError: the source cannot be reached, breaks off, or sends another file.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with (
            atomic_file(path) as temporary,
            urllib.request.urlopen(address, timeout=_SECONDS_WITHOUT_A_BYTE) as answer,
            temporary.open("wb") as out,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            promised = int(answer.headers.get("Content-Length") or 0)
            task = progress.add_task(path.name, total=promised or None)
            while piece := answer.read(1 << 18):
                out.write(piece)
                progress.advance(task, len(piece))
            out.flush()
            if promised and out.tell() != promised:
                raise DataError(f"{address}: broke off after {out.tell()} of {promised} bytes", hint="try again")
            if sha256 and (found := sha256_of(temporary)) != sha256:
                raise DataError(f"{address}: sha256 is {found[:12]}…, expected {sha256[:12]}…")
    except urllib.error.URLError as error:
        raise DataError(f"{address}: cannot be fetched: {error.reason}", hint="check the network") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise DataError(f"{address}: broke off: {error}", hint="try again") from None


def verify(content: bytes, digest: str, what: str, algorithm: str = "sha256") -> None:
    """Check a file's content against its published digest.

    Raises:
        DataError: it is another one; the message names the file.
    """
    found = hashlib.new(algorithm, content).hexdigest()
    if found != digest:
        raise DataError(
            f"{what}: altered or cut: {algorithm} of its content is {found[:12]}…, expected {digest[:12]}…",
            hint="delete the file, then fetch it again",
        )
