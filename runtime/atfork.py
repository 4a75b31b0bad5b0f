"""Keep the standard library's after-fork hooks out of our own forks.

`threading` and `logging` renew their locks in every forked child, for the sake of threads that held one at the fork. A
template has one thread, or is not forked (`template.why_not_forkable`), so there is nothing to renew; but the hooks
write into some 60 pages that template and instance share: 0.24 MB of each instance, and a tenth of a millisecond of
each start. An instance gets them back, since a function may well fork while it has threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_kept: list[dict[str, Callable[[], Any]]] = []


@contextmanager
def kept_back() -> Iterator[None]:
    """Within the block hooks are noted, not registered."""
    register = os.register_at_fork
    os.register_at_fork = lambda **hooks: _kept.append(hooks)
    try:
        yield
    finally:
        os.register_at_fork = register


def restore() -> None:
    """Register in this process what was kept back. Once, after the last fork of ours."""
    for hooks in _kept:
        os.register_at_fork(**hooks)
    _kept.clear()
