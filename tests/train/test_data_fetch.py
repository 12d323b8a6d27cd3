"""Fetching, from a real server on this machine: only whole and right files are kept."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from msq.errors import DataError
from train.data.fetch import fetch, verify

CONTENT = bytes(range(256)) * 2000


class Handler(BaseHTTPRequestHandler):
    """/file is CONTENT; /cut promises all of it and sends half; anything else is not there."""

    def do_GET(self) -> None:
        if self.path not in ("/file", "/cut"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/file" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_fetched_file_is_the_one_that_was_asked_for(server, tmp_path):
    fetch(f"{server}/file", tmp_path / "new" / "file", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "digest", "why"),
    [("cut", None, "broke off"), ("file", "0" * 64, "sha256 is"), ("nothing", None, "cannot be fetched")],
)
def test_a_wrong_cut_or_missing_file_is_refused_and_not_kept(server, tmp_path, page, digest, why):
    with pytest.raises(DataError, match=why):
        fetch(f"{server}/{page}", tmp_path / "file", digest)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file")


def test_content_of_another_digest_is_refused_by_name():
    verify(b"abc", hashlib.sha256(b"abc").hexdigest(), "file")
    with pytest.raises(DataError, match="some file: altered or cut"):
        verify(b"abd", hashlib.sha256(b"abc").hexdigest(), "some file")
