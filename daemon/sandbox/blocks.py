"""A share of the machine's addresses and device names for one daemon: several may run beside each other.

Block N of 256 has the addresses POOL.N.0/24, devices ``stkN-...`` and the nftables table ``stoker_N``. Who holds the
lock ``N.lock`` in `DIRECTORY` owns all of that. The lock goes with the process, however that ends: so what is found
under a name whose lock is free was left behind, and is removed; under any other name nothing is ever touched.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import subprocess
from pathlib import Path

from daemon.core.network import host_rules
from daemon.sandbox.netlink import Netlink

DIRECTORY = Path("/run/stoker-network")
BLOCKS = 256
PREFIX = "stk"
FORWARDING = "forwarding"
"""File in `DIRECTORY`: devices whose forwarding we switched on, one a line."""
NFT_S = 20.0
"""How long one run of ``nft`` or ``iptables`` may take."""
_DEVICE = re.compile(rf"{PREFIX}([0-9]{{1,3}})-[0-9]{{1,5}}")
_TABLE = re.compile(r"\bstoker_([0-9]{1,3})\b")
_CONF = Path("/proc/sys/net/ipv4/conf")
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class NetworkError(Exception):
    """A function's network cannot be made; the text says why."""


class Block:
    """One block, held until `close`."""

    def __init__(self, number: int, lock: int, pool: ipaddress.IPv4Network, nft: str) -> None:
        self.number = number
        self._lock = lock
        self._nft = nft
        self.devices = f"{PREFIX}{number}-"
        self.table = f"stoker_{number}"
        base = pool.network_address + 256 * number
        self.network = f"{base}/24"
        self.gateway = str(base + 1)
        """The machine's end of every cable."""
        self.pool = str(pool)
        self._base = base
        self.users = ""
        """Range of users that functions in mode host run as."""
        self.ports: list[int] = []
        """The daemon's TCP ports, which those do not reach."""
        self._guard = False
        self._prepared = False

    def address(self, slot: int) -> str:
        """The function's address in one of the slots 2 to 254."""
        return str(self._base + slot)

    def prepare(self, *, relay: bool) -> None:
        """The machine's side for every cable: routed outwards. Done once, and again when another program routes too.

        Raises:
          NetworkError: the packet filter cannot be set.
        """
        ours = not _on(_IP_FORWARD)
        if ours:
            self._switch_on()  # there may be new devices
        if self._prepared and ours == self._guard:
            return
        rules = host_rules(
            self.table, devices=self.devices, network=self.network, relay=self.gateway if relay else "", guard=ours,
            users=self.users, ports=self.ports,
        )  # fmt: skip
        # One transaction: the table is never half there.
        run(self._nft, f"add table inet {self.table}\ndelete table inet {self.table}\n{rules}")
        self._guard, self._prepared = ours, True

    def try_rules(self) -> None:
        """Set all that `prepare` ever may, in the present network namespace: one that is thrown away.

        Raises:
          NetworkError: the kernel lacks what a rule needs.
        """
        everything = host_rules(
            self.table, devices=self.devices, network=self.network, relay=self.gateway, guard=True, users="1-2",
            ports=(1,),
        )  # fmt: skip
        run(self._nft, everything)

    def _switch_on(self) -> None:
        """Let packets pass from and to the devices that there are, where nothing was routed before.

        Not by the switch for all: the guard in the table would then forbid other programs what they had switched on.
        """
        changed = [path.parent.name for path in _CONF.glob("*/forwarding") if _may_switch(path)]
        if changed:
            with (DIRECTORY / FORWARDING).open("a") as record:
                record.writelines(f"{name}\n" for name in changed)
        for name in changed:
            _write(_CONF / name / "forwarding", "1")

    def close(self) -> None:
        """Remove everything of the block and let it go. Cables go with their other ends, or here."""
        try:
            sweep(self.number, self._nft)
        finally:
            _unlock(self.number, self._lock)
        sweep_free(self._nft)


def _may_switch(path: Path) -> bool:
    return (
        path.parent.name not in ("all", "default", "lo") and not path.parent.name.startswith(PREFIX) and not _on(path)
    )


def claim(pool: str, nft: str, *, wanted: int) -> Block:
    """A block that nobody holds, ``wanted`` if it is free; what its former owner left is removed.

    Raises:
      NetworkError: none is free, or the machine's addresses overlap with the pool.
    """
    network = ipaddress.IPv4Network(pool)
    with Netlink() as netlink:
        for known in netlink.networks():
            other = ipaddress.IPv4Network(known, strict=False)
            if other.overlaps(network) and other.prefixlen != 32:
                raise NetworkError(f"network.addresses {pool} overlaps with {known}, which is routed here already")
    DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep_free(nft)
    for offset in range(BLOCKS):
        number = (wanted + offset) % BLOCKS
        if (lock := _lock(number)) >= 0:
            return Block(number, lock, network, nft)
    raise NetworkError(f"all {BLOCKS} blocks of {pool} are taken by other daemons")


def sweep_free(nft: str) -> None:
    """Remove what daemons left that are gone; the switches too, when none is left that needs them."""
    with Netlink() as netlink:
        numbers = {int(match[1]) for name in netlink.links() if (match := _DEVICE.fullmatch(name))}
    numbers |= {int(number) for number in _TABLE.findall(run(nft, "list tables inet\n"))}
    held = False
    for number in sorted(numbers | {int(path.stem) for path in DIRECTORY.glob("*.lock") if path.stem.isdecimal()}):
        if (lock := _lock(number)) < 0:
            held = True
            continue
        if number in numbers:
            sweep(number, nft)
        _unlock(number, lock)
    if not held:
        switch_back()


def sweep(number: int, nft: str) -> None:
    """Remove the devices and the table of a block, whose lock the caller holds."""
    with Netlink() as netlink:
        for name in netlink.links():
            if (match := _DEVICE.fullmatch(name)) and int(match[1]) == number:
                netlink.remove(name)
    table = f"stoker_{number}"
    run(nft, f"add table inet {table}\ndelete table inet {table}\n")


def switch_back() -> None:
    """Undo what `Block.prepare` switched on, unless another program routes by now."""
    record = DIRECTORY / FORWARDING
    try:
        names = set(record.read_text().split())
    except OSError:
        return
    for name in names:
        if "/" not in name and not _on(_IP_FORWARD):
            _write(_CONF / name / "forwarding", "0")
    record.unlink(missing_ok=True)


def run(program: str, text: str, *, arguments: tuple[str, ...] = ("-f", "-")) -> str:
    """Feed ``nft`` (or another program) its rules; what it prints.

    Raises:
      NetworkError: it refuses; with its words.
    """
    try:
        done = subprocess.run(
            [program, *arguments], input=text.encode(), capture_output=True, timeout=NFT_S, env={}, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NetworkError(f"{program}: {exc}") from exc
    if done.returncode:
        raise NetworkError(f"{os.path.basename(program)}: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done.stdout.decode(errors="replace")


def _lock(number: int) -> int:
    """A descriptor that holds the block's lock, or -1 when another daemon does."""
    path = DIRECTORY / f"{number}.lock"
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return -1
        try:
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd
        except OSError:
            pass
        os.close(fd)  # its former owner has just removed it: that lock is nobody's


def _unlock(number: int, fd: int) -> None:
    """Let go of a lock, and remove its file while it is still ours."""
    (DIRECTORY / f"{number}.lock").unlink(missing_ok=True)
    os.close(fd)


def _on(path: Path) -> bool:
    try:
        return path.read_text().strip() not in ("", "0")
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        pass  # the device is gone
