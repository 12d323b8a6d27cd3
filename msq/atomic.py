"""Files written whole or not at all: a reader never sees half a file, whatever stops the writer."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msq.errors import MsqError, StorageError

# No permission, or a file where a folder is needed, or the other way round.
_REFUSED = frozenset({errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})


_NEARLY_FULL = 1 << 20
"""Free bytes below which a failed write is taken to have failed for want of space."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` for want of space or permission into a StorageError."""
    try:
        yield
    except MsqError:
        raise
    except Exception as error:
        if told := _explained(path, error):
            raise told from error
        raise


def _explained(path: Path, error: Exception) -> StorageError | None:
    number = error.errno if isinstance(error, OSError) else None
    if number in _REFUSED:
        return StorageError(f"{path}: not writable: {os.strerror(number)}", hint="choose another folder")
    # numpy, torch and safetensors have writers of their own, whose errors do not say that the disk is full.
    if number in (errno.ENOSPC, errno.EDQUOT) or (number is None and _free(path) < _NEARLY_FULL):
        return StorageError(f"{path}: no space left to write it", hint=f"free space under {path.parent}")
    return None


def _free(path: Path) -> int:
    return shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, else it is removed.

    Raises:
        StorageError: no space, no permission, or a file where a folder is needed.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            with storage_errors(path):
                # Judged before the half-written file is removed, which would free the space it took.
                yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it takes the place of `path`.

    An older folder of that name is removed only after the new one is complete.

    Raises:
        StorageError: no space, no permission, or a file where a folder is needed.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            with storage_errors(path):
                yield temporary
            temporary.chmod(0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                path.rename(old / path.name)
                temporary.rename(path)
                shutil.rmtree(old)
            else:
                temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
