"""The registry: the one service through which apps, functions and triggers change, for every API.

Order of a change: check the rules (`rules`, with Fn's texts in Fn's order), write to the store, and in the same
commit's ``apply`` change the catalog and tell the deployer. What was acknowledged is on disk.
"""

from __future__ import annotations

from daemon.registry.asynchronous import Asynchronous
from daemon.registry.base import Deploys
from daemon.registry.changes import AppChange, FunctionChange, Page, TriggerChange
from daemon.registry.triggers import Triggers

__all__ = ["AppChange", "Deploys", "FunctionChange", "Page", "Registry", "TriggerChange"]


class Registry(Triggers, Asynchronous):
    """Apps, functions and triggers. One object per daemon."""
