"""What separates a function's processes from all else. Data: decided in the daemon, built by `runtime.confine`."""

from __future__ import annotations

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from typing import Any

    from runtime.rootfs import Root


class Walls:
    """One function version's. (Not a dataclass: importing those costs a worker 6 ms.) The defaults are none at all."""

    __slots__ = (
        "bind_ports",
        "cgroup_view",
        "connect_ports",
        "drop_capabilities",
        "filter_calls",
        "hosts_id",
        "instance_limits",
        "instance_namespaces",
        "internet",
        "landlock",
        "limits",
        "memfd",
        "namespaces",
        "network",
        "no_new_privs",
        "readable",
        "relayed",
        "root",
        "scoped",
        "writable",
    )

    def __init__(
        self,
        *,
        limits: dict[str, int],
        instance_limits: dict[str, int],
        no_new_privs: bool = False,
        namespaces: int = 0,
        instance_namespaces: int = 0,
        hosts_id: int = -1,
        root: Root | None = None,
        drop_capabilities: bool = False,
        filter_calls: bool = False,
        network: str = "",
        relayed: bool = False,
        internet: bool = True,
        memfd: bool = True,
        landlock: bool = False,
        scoped: bool = True,
        cgroup_view: bool = True,
        readable: list[str] | None = None,
        writable: list[str] | None = None,
        connect_ports: list[int] | None = None,
        bind_ports: list[int] | None = None,
    ) -> None:
        self.limits = limits
        """Resource limits of every process of the function, by the name after ``RLIMIT_``."""
        self.instance_limits = instance_limits
        """Resource limits that only instances get."""
        self.no_new_privs = no_new_privs
        self.namespaces = namespaces
        """CLONE_NEW* of the version's first process; 0: none."""
        self.instance_namespaces = instance_namespaces
        """CLONE_NEW* of each instance that is forked from a template."""
        self.hosts_id = hosts_id
        """User and group of the host that 1000 inside is; negative: the daemon's own."""
        self.root = root
        """The root file system; None: the host's."""
        self.drop_capabilities = drop_capabilities
        self.filter_calls = filter_calls
        """Whether system calls are filtered (`runtime.seccomp`)."""
        self.network = network
        """The mode of a network of the version's own, whose namespace is among ``namespaces``; empty: the host's."""
        self.relayed = relayed
        """Whether a program of the daemon, which is in the version's user namespace, carries that network's packets."""
        self.internet = internet
        """Whether sockets to the network can be made at all."""
        self.memfd = memfd
        """Whether files in memory can be made (memfd_create(2))."""
        self.landlock = landlock
        self.scoped = scoped
        """Whether Landlock keeps signals and abstract sockets inside too."""
        self.cgroup_view = cgroup_view
        """Whether a version with namespaces sees its own control group as the root of all."""
        self.readable = readable
        """Where there is no root file system of its own: what can be read; None: not restricted."""
        self.writable = writable
        """Likewise what a template can write; an instance, its own directory for temporary files."""
        self.connect_ports = connect_ports
        """TCP ports that can be connected to; None: not restricted. Likewise ``bind_ports``."""
        self.bind_ports = bind_ports

    def document(self) -> dict[str, Any]:
        """As a part of a job."""
        return {name: getattr(self, name) for name in self.__slots__}
