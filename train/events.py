"""A TensorBoard event file, written in the caller's thread.

PyTorch's SummaryWriter writes in a thread of its own, which on a full disk prints a traceback; the format is the same.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from msq.atomic import storage_errors


class EventFile:
    """Scalars by step. TensorBoard reads the files of a folder in the order of their names, which begin with the time.

    Args:
        folder: it lies there. purge_step: what older files of the folder say of this step and later ones is struck out.
    Raises:
        StorageError: it cannot be written; so do all methods.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        with storage_errors(self._path):
            self._records = RecordWriter(self._path.open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars by name."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=Summary(value=values))

    def flush(self) -> None:
        """Bring all to the disk."""
        with storage_errors(self._path):
            self._records.flush()

    def close(self) -> None:
        """Bring all to the disk and end the file."""
        with storage_errors(self._path):
            self._records.close()

    def _write(self, **fields: object) -> None:
        with storage_errors(self._path):
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
