"""The files of one function's log: JSON lines, rotated, within a bound."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from daemon.config.settings import Logs
from daemon.logs.lines import level_of

CURRENT = "log.jsonl"

Record = tuple[float, str, str, str, str]
"""Unix time in seconds, call id, instance, stream, line."""


def form(record: Record) -> dict[str, str]:
    """A record as clients and files see it."""
    at, call_id, instance, stream, line = record
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "at": when, "call_id": call_id, "instance": instance, "stream": stream, "level": level_of(stream, line),
        "line": line,
    }  # fmt: skip


class Files:
    """The files of one function: ``log.jsonl``, the older ``log.jsonl.1``... Called by threads, one at a time."""

    def __init__(self, directory: Path, limits: Logs) -> None:
        """``directory``: made when there is something to write."""
        self._directory = directory
        self._path = directory / CURRENT
        self._bytes_max = limits.file_bytes_max
        self._files_max = limits.files_max
        self._checked = False

    def append(self, records: Iterable[Record]) -> None:
        """Add the records, rotating as often as needed: no file is ever above its limit by more than one line."""
        lines = [json.dumps(form(record), ensure_ascii=False).encode("utf-8", "replace") + b"\n" for record in records]
        # No more than these two: a data directory that was moved away must not be begun anew.
        self._directory.parent.mkdir(exist_ok=True, mode=0o700)
        self._directory.mkdir(exist_ok=True, mode=0o700)
        while lines:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                if not self._checked and size and os.pread(fd, 1, size - 1) != b"\n":
                    lines.insert(0, b"\n")  # a crash cut the last line: it must not swallow the next one
                self._checked = True
                count = 0
                while count < len(lines) and (size == 0 or size + len(lines[count]) <= self._bytes_max):
                    size += len(lines[count])
                    count += 1
                try:
                    _write_all(fd, b"".join(lines[:count]))
                except OSError:
                    self._checked = False  # perhaps the last line is cut
                    raise
            finally:
                os.close(fd)
            del lines[:count]
            if lines:
                self._rotate()

    def _rotate(self) -> None:
        for i in range(self._files_max - 1, 0, -1):
            newer = self._path if i == 1 else self._older(i - 1)
            with suppress(FileNotFoundError):
                os.replace(newer, self._older(i))
        if self._files_max == 1:
            self._path.unlink(missing_ok=True)

    def _older(self, i: int) -> Path:
        return self._directory / f"{CURRENT}.{i}"

    def read(self, last: int, call_id: str | None) -> list[dict[str, str]]:
        """The last lines of all, oldest first."""
        found: deque[dict[str, str]] = deque()
        for line in self._newest_first():
            if len(found) >= last:
                break
            if call_id is not None and call_id.encode() not in line:  # cheap, before the JSON
                continue
            with suppress(ValueError):  # a line that a crash cut in two
                value = json.loads(line)
                if call_id is None or value["call_id"] == call_id:
                    found.appendleft(value)
        return list(found)

    def paths(self) -> list[Path]:
        """The files, the newest first."""
        return [self._path, *(self._older(i) for i in range(1, self._files_max))]

    def _newest_first(self) -> Iterator[bytes]:
        for path in self.paths():
            with suppress(FileNotFoundError):
                yield from reversed(path.read_bytes().splitlines())


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
