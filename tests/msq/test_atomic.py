"""Atomic writes: the old content or the new, never half of it, and nothing left lying about."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from msq.atomic import atomic_file, atomic_folder, write_text
from msq.errors import StorageError

FULL = Path("/dev/full")
"""A device on which every write fails for want of space: a real ENOSPC out of the kernel."""

needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")

Writer = Callable[[Path], AbstractContextManager[Path]]


class Stopped(Exception):
    """Something that goes wrong while writing."""


def content(path: Path) -> dict[str, str]:
    """Every file under `path`, or `path` itself, with its text."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path.parent)): file.read_text() for file in files}


@pytest.fixture(params=[atomic_file, atomic_folder], ids=["file", "folder"])
def case(request, tmp_path) -> tuple[Writer, Path, Callable[[Path, str], None]]:
    """A way to write, where to, and how text gets into what it yields."""

    def put(temporary: Path, text: str) -> None:
        (temporary if request.param is atomic_file else temporary / "model.json").write_text(text)

    return request.param, tmp_path / "new folder" / "artefact", put


def test_what_was_written_is_there_and_nothing_else(case):
    writer, path, put = case
    with writer(path) as temporary:
        put(temporary, "first")
        assert not path.exists()
    assert list(content(path).values()) == ["first"]
    assert list(path.parent.iterdir()) == [path]


def test_the_new_replaces_the_old(case):
    writer, path, put = case
    for text in ("first", "second"):
        with writer(path) as temporary:
            put(temporary, text)
    assert list(content(path).values()) == ["second"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_and_no_debris(case):
    writer, path, put = case
    with writer(path) as temporary:
        put(temporary, "old")
    with pytest.raises(Stopped), writer(path) as temporary:
        put(temporary, "half of the n")
        raise Stopped
    assert list(content(path).values()) == ["old"]
    assert list(path.parent.iterdir()) == [path]


@needs_full
def test_no_space_is_a_storage_error_that_leaves_the_old(case):
    writer, path, put = case
    with writer(path) as temporary:
        put(temporary, "old")
    with pytest.raises(StorageError, match="no space left") as caught, writer(path) as temporary:
        target = temporary if temporary.is_file() else temporary / "model.json"
        target.unlink(missing_ok=True)
        target.symlink_to(FULL)
        put(temporary, "x" * 100_000)
    assert str(path) in str(caught.value)
    assert list(content(path).values()) == ["old"]
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write everywhere; so be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_no_permission_is_a_storage_error(case, unprivileged):
    writer, path, _ = case
    path = Path("/usr") / path.name
    with pytest.raises(StorageError, match="not writable"), writer(path):
        pass


@pytest.mark.parametrize("below", ["model.json", "x/model.json"])
def test_a_file_where_a_folder_is_needed_is_a_storage_error(tmp_path, below):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="taken"), atomic_file(tmp_path / "taken" / below):
        pass


def test_a_folder_where_a_file_is_needed_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="not writable"):
        write_text(tmp_path, "text")
    assert tmp_path.is_dir()


def test_a_writer_killed_half_way_leaves_the_old(tmp_path):
    path = tmp_path / "model.json"
    write_text(path, "old")
    program = (
        "import os, signal, sys; from pathlib import Path; from msq.atomic import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_others_may_read_what_was_written(case):
    writer, path, put = case
    with writer(path) as temporary:
        put(temporary, "text")
    assert path.stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize(("free", "raised"), [(1000, StorageError), (1 << 30, RuntimeError)])
def test_a_writer_that_does_not_say_why_it_failed_failed_for_space_only_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, raised: type[Exception]
) -> None:
    """torch and numpy raise errors of their own. The disk's free space is the one thing faked here."""
    monkeypatch.setattr("msq.atomic.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(raised), atomic_file(tmp_path / "weights.pt"):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert list(tmp_path.iterdir()) == []
