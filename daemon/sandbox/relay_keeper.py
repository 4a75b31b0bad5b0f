"""Keeps a function's network connected where a program carries its packets: when that ends, another one takes over.

In the same namespace, under the filter that is there: running calls and instances go on. They lose the connections they
had, and until the next program is ready they reach nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import trio

from daemon.sandbox import relays
from daemon.sandbox.blocks import NetworkError
from runtime import linux

PAUSE_FIRST_S = 0.1
"""From a program's end to its successor's start; twice that after each one that ends or fails soon."""
PAUSE_MAX_S = 30.0
STEADY_S = 60.0
"""A program that ran for so long ended by chance: the first pause again."""


class Keeper:
    """The relay of one network. Its task is `run`."""

    def __init__(
        self, relay: relays.Relay, *, method: str, program: str, pid: int, device: str, start_s: float, owner: str,
        log: Any, on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        """``relay``: runs already; taken over. ``pid``: a process in the network; ``owner``: whose it is, for the log.

        ``start_s``: how long a successor may take to connect. ``on_end`` is called when a relay has ended by itself.
        """
        self.trouble = ""
        """Why functions reach nothing now, for people; empty while a relay runs."""
        self._relay: relays.Relay | None = relay
        self._method = method
        self._program = program
        self._pid = pid
        self._device = device
        self._start_s = start_s
        self._owner = owner
        self._log = log
        self._on_end = on_end
        self._network = _network_of(pid)
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._started = False

    async def run(self) -> None:
        """Replace the relay whenever it ends, until `stop` is called."""
        self._started = True
        if self._relay is None:
            return  # it was let go of before
        pause_s = PAUSE_FIRST_S
        try:
            with self._scope:
                while True:
                    began_s = trio.current_time()
                    await self._until_end()
                    if trio.current_time() - began_s >= STEADY_S:
                        pause_s = PAUSE_FIRST_S
                    pause_s = await self._replace(pause_s)
        finally:
            self._over.set()

    async def _until_end(self) -> None:
        assert self._relay is not None
        await self._relay.ended()
        self.trouble = f"{self._method} {self._relay.how()}"
        self._relay.close()
        self._relay = None
        self._on_end()

    async def _replace(self, pause_s: float) -> float:
        """Start relays until one connects; the pause before the next one."""
        while True:
            if not self._is_alive():
                await trio.sleep_forever()  # the function ended, and the relay for that reason: `stop` comes
            self._log.warning(
                "functions reach nothing outside: what carries their packets has ended and is started again",
                owner=self._owner, reason=self.trouble, again_in_s=round(pause_s, 1),
            )  # fmt: skip
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
            try:
                with trio.fail_after(self._start_s):
                    self._relay = await relays.start(self._method, self._program, self._way_in(), self._device)
            except (NetworkError, OSError) as exc:
                self.trouble = str(exc)
            except trio.TooSlowError:
                self.trouble = f"{self._method} did not connect within {self._start_s:g} s"
            else:
                self.trouble = ""
                self._log.info("functions reach outside again", owner=self._owner, method=self._method)
                return pause_s

    def _is_alive(self) -> bool:
        return linux.state_and_parent(self._pid)[0] not in ("", "Z", "X")

    def _way_in(self) -> int:
        """A process in the network by which it can be entered; by its number alone it could be another's by now.

        A program's first process shows its namespaces to nobody, so that the program cannot look into it. The program
        itself does.

        Raises:
          NetworkError: there is none.
        """
        for pid in (self._pid, *linux.children(self._pid)):
            if _network_of(pid) == self._network != (0, 0):
                return pid
        raise NetworkError("the function lets nobody into its network any more")

    async def stop(self) -> None:
        """Start no more relays. Then `close`."""
        self._scope.cancel(reason="the network is let go of")
        if self._started:
            await self._over.wait()

    def close(self) -> None:
        """End the relay. May be called again."""
        if self._relay is not None:
            self._relay.close()
            self._relay = None


def _network_of(pid: int) -> tuple[int, int]:
    """Which network namespace a process is in; zeros if it does not show that, or is gone."""
    try:
        found = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
