"""Streams and queues on the local disk, by name: where OCI's STREAM, QUEUE and NOTIFICATION kinds end without a route.

A stream is a file of JSON lines, ``streams/NAME.jsonl``; when it is full it becomes ``NAME.jsonl.1``. A queue is a
directory of files, ``queues/NAME[/CHANNEL]/new/ID.json``: a consumer reads one and deletes it, and nothing half-written
is ever seen. Both are on the disk when the methods return. They block: to be called in a thread.
"""

from __future__ import annotations

import os
from pathlib import Path

from daemon.config.detached import Destinations


class LocalFull(Exception):
    """The queue holds as many messages as it may."""


class LocalQueues:
    """All local streams and queues below one directory."""

    def __init__(self, directory: Path, settings: Destinations) -> None:
        self.directory = directory
        self._settings = settings

    def append(self, stream: str, record: str) -> None:
        """Add a line to a stream.

        Raises:
          OSError: the disk refuses.
        """
        path = self.directory / "streams" / f"{stream}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        line = record.encode() + b"\n"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            size = os.fstat(fd).st_size
            if size and size + len(line) > self._settings.stream_bytes_max:
                os.rename(path, path.with_name(path.name + ".1"))
                os.close(fd)
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
                size = 0
            written = os.write(fd, line)
            if written < len(line):  # the disk is full: half a line must not stay
                os.ftruncate(fd, size)
                raise OSError(28, os.strerror(28))
            os.fsync(fd)
        finally:
            os.close(fd)

    def put(self, queue: str, channel: str, message_id: str, record: str) -> None:
        """Add a message to a queue; the same id again replaces it.

        Raises:
          LocalFull, OSError: there are too many; the disk refuses.
        """
        base = self.directory / "queues" / queue
        directory = (base / channel if channel else base) / "new"
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        if sum(1 for _ in os.scandir(directory)) >= self._settings.queue_messages_max:
            raise LocalFull(f"queue {queue} holds {self._settings.queue_messages_max} messages")
        partial = directory.parent / f".{message_id}.partial"
        with partial.open("w", encoding="utf-8") as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(directory / f"{message_id}.json")
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
