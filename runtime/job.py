"""What the daemon tells the process that becomes a template or an instance of its own: one document in a memfd.

The spawner passes the descriptor on unread, so that no function's configuration ever lies in the memory from which
another function's processes are forked.
"""

from __future__ import annotations

import os

import msgpack

from runtime.walls import Walls

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from typing import Any

JOB_BYTES_MAX = 16 * 2**20
"""Longest document: a function's whole configuration and some paths."""


class Job:
    """Everything a worker process needs to know. (Not a dataclass: importing those costs a worker 6 ms.)"""

    __slots__ = (
        "adapter",
        "command",
        "debugger",
        "directory",
        "environment",
        "handler_file",
        "handler_name",
        "interpreter",
        "packages",
        "pycache",
        "response_bytes_max",
        "roots",
        "socket_directory",
        "tmp",
        "walls",
    )

    def __init__(
        self,
        *,
        roots: list[str],
        interpreter: str,
        directory: str,
        packages: str,
        handler_file: str,
        handler_name: str,
        adapter: str,
        environment: dict[str, str],
        tmp: str,
        pycache: str,
        walls: Walls,
        response_bytes_max: int,
        command: list[str] | None = None,
        socket_directory: str = "",
        debugger: str = "",
    ) -> None:
        self.roots = roots
        """Directories that hold runtime, fdk and msgpack; on the search path only until these are imported."""
        self.interpreter = interpreter
        """Another Python to run, or empty: the spawner's own."""
        self.directory = directory
        """The bundle's ``function/``: working directory and first on the search path."""
        self.packages = packages
        """The bundle's ``python/``, second on the search path; perhaps absent on disk."""
        self.handler_file = handler_file
        self.handler_name = handler_name
        self.adapter = adapter
        """Which of `fdk.adapters` calls the handler; empty: none, it is a handler of the FDK."""
        self.environment = environment
        """The whole environment but ``TMPDIR``."""
        self.tmp = tmp
        """The process's own directory for temporary files."""
        self.pycache = pycache
        """Where compiled modules of the bundle are kept; the bundle itself stays as it was unpacked."""
        self.walls = walls
        self.response_bytes_max = response_bytes_max
        self.command = command or []
        """A program and its arguments, in place of a handler; empty: there is a handler."""
        self.socket_directory = socket_directory
        """Where that program listens; does not exist yet."""
        self.debugger = debugger
        """debugpy's directory; empty: it is not debugged."""

    def to_memfd(self) -> int:
        """A new descriptor of the document, for `from_fd`."""
        document = {name: getattr(self, name) for name in self.__slots__} | {"walls": self.walls.document()}
        payload: bytes = msgpack.packb(document, use_bin_type=True)
        fd = os.memfd_create("stoker-job", os.MFD_CLOEXEC)
        try:
            while payload:
                payload = payload[os.write(fd, payload) :]
        except OSError:
            os.close(fd)
            raise
        return fd

    @classmethod
    def from_fd(cls, fd: int) -> Job:
        """Read the document and leave ``fd`` open."""
        parts, offset = [], 0
        while offset <= JOB_BYTES_MAX and (part := os.pread(fd, 2**20, offset)):
            parts.append(part)
            offset += len(part)
        document: dict[str, Any] = msgpack.unpackb(b"".join(parts), raw=False)
        document["walls"] = Walls(**document["walls"])
        return cls(**document)
