"""Reads what one worker prints: two pipes, cut into lines, each tagged with the call that was running."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from daemon.logs.book import FunctionLog

READ_BYTES = 64 * 2**10
"""A pipe holds 64 KiB by default: one read empties it."""
DRAIN_READS_MAX = 2
"""Reads of each pipe when a call begins: bounded, for a thread of the function may write without end."""
LINE_COST_BYTES = 160
"""What a line costs in the rate beyond its text: an empty line is not free to store."""
PARTIAL_S = 1.0
"""A line that has no end yet is written when nothing came for this long."""
REPORT_S = 1.0
"""Drops are reported at most this often."""
FLOOD_PAUSE_S = 0.002
"""POLICY: after each read that was dropped a flooding pipe rests this long times the number of flooders on the node:
the flooding function waits, nobody else. 64 KiB in 2 ms are 32 MB/s."""


class _Stream:
    """One of the two pipes and the line that is not complete yet."""

    __slots__ = ("fd", "name", "open", "partial", "skipping")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.open = True
        self.partial = b""
        self.skipping = False  # in a line whose begin was dropped: its rest goes too


class OutputReader:
    """Owns the daemon's ends of a worker's stdout and stderr, both non-blocking, until `close`."""

    def __init__(self, log: FunctionLog, *, instance_id: int, stdout_fd: int, stderr_fd: int) -> None:
        self._log = log
        self._limits = log.limits
        self._instance = str(instance_id)
        self._streams = (_Stream("stdout", stdout_fd), _Stream("stderr", stderr_fd))
        self._call_id = ""
        self._tokens = float(self._limits.burst_bytes)
        self._tokens_at_s = trio.current_time()
        self._lost_bytes = 0
        self._reported_s = -REPORT_S
        self._poll = select.poll()
        for stream in self._streams:
            self._poll.register(stream.fd, select.POLLIN)
        self._finished = trio.Event()
        self._closed = False

    def watch(self, fd: int) -> None:
        """Have `begin_call` look at this descriptor too: one system call instead of two."""
        self._poll.register(fd, select.POLLIN)

    def begin_call(self, call_id: str) -> bool:
        """From here on output belongs to this call; what is still in the pipes belongs to the one before.

        The hot path of every call: one poll(2) when nothing is pending. Returns whether there was anything, on the
        pipes or on the descriptor that is watched with them.
        """
        out, err = self._streams
        events = self._poll.poll(0)
        if events or out.partial or err.partial or out.skipping or err.skipping:
            self._drain()
        self._call_id = call_id
        return bool(events)

    def end_call(self) -> None:
        """The call is answered: take what it printed and end its last line. Later output is outside of any call."""
        out, err = self._streams
        if self._poll.poll(0) or out.partial or err.partial or out.skipping or err.skipping:
            self._drain()
        self._call_id = ""

    async def run(self) -> None:
        """Read until both pipes have ended or `close` was called."""
        async with trio.open_nursery() as nursery:
            for stream in self._streams:
                nursery.start_soon(self._follow, stream)
        self._report(force=True)
        self._finished.set()

    async def finished(self) -> None:
        """Wait until both pipes have ended."""
        await self._finished.wait()

    def close(self) -> None:
        """Take what is left, end the last lines, close the pipes. Idempotent."""
        if self._closed:
            return
        self._drain()
        self._report(force=True)
        self._closed = True
        for stream in self._streams:
            if stream.open:
                self._poll.unregister(stream.fd)
                stream.open = False
            trio.lowlevel.notify_closing(stream.fd)
            os.close(stream.fd)
        self._finished.set()

    async def _follow(self, stream: _Stream) -> None:
        while stream.open:
            try:
                with trio.move_on_after(PARTIAL_S if stream.partial else float("inf")) as quiet:
                    await trio.lowlevel.wait_readable(stream.fd)
            except trio.ClosedResourceError:
                return
            if quiet.cancelled_caught:
                self._end_line(stream)
            elif stream.open and self._read(stream) and self._tokens <= 0:
                await self._rest()

    async def _rest(self) -> None:
        book = self._log.book
        book.flooders += 1
        try:
            await trio.sleep(FLOOD_PAUSE_S * book.flooders)
        finally:
            book.flooders -= 1

    def _drain(self) -> None:
        for stream in self._streams:
            for _ in range(DRAIN_READS_MAX):
                if not stream.open or not self._read(stream):
                    break
            self._end_line(stream)

    def _read(self, stream: _Stream) -> bool:
        """One read; False if there was nothing."""
        try:
            data = os.read(stream.fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            stream.open = False
            self._poll.unregister(stream.fd)
            self._end_line(stream)
            return False
        self._refill()
        self._feed(stream, data)
        return True

    def _refill(self) -> None:
        now_s = trio.current_time()
        gained = (now_s - self._tokens_at_s) * self._limits.rate_bytes_s
        self._tokens = min(self._limits.burst_bytes, self._tokens + gained)
        self._tokens_at_s = now_s

    def _feed(self, stream: _Stream, data: bytes) -> None:
        """Cut into lines while the rate allows; the rest is dropped."""
        at, longest = 0, self._limits.line_bytes_max
        if stream.skipping:
            at = data.find(b"\n") + 1
            if at == 0:
                self._lose(len(data))
                return
            self._lose(at)
            stream.skipping = False
        while at < len(data):
            if self._tokens <= 0:
                self._lose(len(stream.partial) + len(data) - at)
                stream.partial = b""
                stream.skipping = not data.endswith(b"\n")
                return
            room = longest - len(stream.partial)
            end = data.find(b"\n", at, at + room + 1)
            if end >= 0:
                self._line(stream, stream.partial + data[at:end])
                at = end + 1
            elif len(data) - at > room:  # longer than a line may be: the rest goes to the next one
                whole = stream.partial + data[at : at + room]
                at += room
                end = _character_end(whole)
                self._line(stream, whole[:end])
                stream.partial = whole[end:]
            else:
                stream.partial += data[at:]
                return
        self._report()

    def _line(self, stream: _Stream, line: bytes) -> None:
        stream.partial = b""
        self._tokens -= len(line) + LINE_COST_BYTES
        text = line.decode("utf-8", "replace")
        self._log.write(stream.name, text, call_id=self._call_id, instance_id=self._instance)

    def _end_line(self, stream: _Stream) -> None:
        stream.skipping = False
        if stream.partial:
            self._line(stream, stream.partial)

    def _lose(self, size: int) -> None:
        self._lost_bytes += size
        self._log.drop(size)
        self._report()

    def _report(self, *, force: bool = False) -> None:
        if not self._lost_bytes:
            return
        now_s = trio.current_time()
        if force or now_s - self._reported_s >= REPORT_S:
            self._reported_s = now_s
            rate = self._limits.rate_bytes_s
            self._log.platform(
                f"{self._lost_bytes} bytes of output were dropped: over {rate} bytes/s (logs.rate_bytes_s)",
                call_id=self._call_id, instance_id=self._instance,
            )  # fmt: skip
            self._lost_bytes = 0


def _character_end(text: bytes) -> int:
    """Where to cut so that no UTF-8 character is cut in two: at most three bytes before the end."""
    for i in range(1, min(4, len(text)) + 1):
        byte = text[-i]
        if byte & 0xC0 != 0x80:  # the first byte of a character, which is i bytes long so far
            needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(text) - i if needed > i and i < len(text) else len(text)
    return len(text)
