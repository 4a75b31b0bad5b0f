"""What exists, in memory: the invoke path reads only this. Pure; kept equal to the store by its writers.

Whoever changes the store changes this in the ``apply`` of the same write, so that both go through the same
states in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.model import App, Compartment, Function, Trigger

MATCH = "stoker.dev/match"
"""Annotation of a trigger or function: ``exact`` (as Fn) or ``prefix``, then paths below the source are its, too."""
PREFIX_SEGMENTS_MAX = 64
"""A path deeper than this is not looked for above."""


class Catalog:
    """Compartments, apps, functions and triggers by id, and triggers by where they listen."""

    def __init__(self) -> None:
        self.compartments: dict[str, Compartment] = {}
        self.tenancy_id = ""
        """The root compartment."""
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.triggers: dict[str, Trigger] = {}
        self._app_ids: dict[str, str] = {}
        self._functions_of: dict[str, set[str]] = {}
        self._triggers_of: dict[str, set[str]] = {}
        self._sources: dict[tuple[str, str], str] = {}

    def load(
        self,
        apps: Iterable[App],
        functions: Iterable[Function],
        triggers: Iterable[Trigger],
        compartments: Iterable[Compartment] = (),
    ) -> None:
        """Replace everything by what is stored."""
        self.__init__()  # type: ignore[misc]  # start from nothing
        for compartment in compartments:
            self.put_compartment(compartment)
        for app in apps:
            self.put_app(app)
        for function in functions:
            self.put_function(function)
        for trigger in triggers:
            self.put_trigger(trigger)

    def put_compartment(self, compartment: Compartment) -> None:
        """Add a compartment or replace the one with its id; the one without a parent is the tenancy."""
        self.compartments[compartment.id] = compartment
        if not compartment.parent_id:
            self.tenancy_id = compartment.id

    def drop_compartment(self, compartment_id: str) -> None:
        """Forget a compartment; the store has seen to it that nothing is in it."""
        self.compartments.pop(compartment_id, None)

    def compartment_of(self, app: App) -> str:
        """The id of the compartment that an app is in."""
        return app.compartment_id or self.tenancy_id

    def ancestry(self, compartment_id: str) -> tuple[str, ...]:
        """A compartment and all that it is in, the tenancy last; empty for an unknown one."""
        found = []
        while (compartment := self.compartments.get(compartment_id)) is not None:
            found.append(compartment.id)
            compartment_id = compartment.parent_id
        return tuple(found)

    def app(self, app_id: str) -> App | None:
        """The app with this id."""
        return self.apps.get(app_id)

    def app_named(self, name: str) -> App | None:
        """The app with this name."""
        return self.apps.get(self._app_ids.get(name, ""))

    def function(self, function_id: str) -> Function | None:
        """The function with this id."""
        return self.functions.get(function_id)

    def functions_of(self, app_id: str) -> list[Function]:
        """The functions of an app, in no order."""
        return [self.functions[function_id] for function_id in self._functions_of.get(app_id, ())]

    def trigger(self, app_name: str, source: str) -> tuple[App, Trigger] | None:
        """The trigger that listens at ``/t/{app_name}{source}``.

        Exact equality, as in Fn; else the nearest one above whose own annotation, or whose function's, says ``prefix``.
        """
        app = self.app_named(app_name)
        if app is None:
            return None
        trigger_id = self._sources.get((app.id, source))
        if trigger_id is None:
            return self._above(app, source)
        return (app, self.triggers[trigger_id])

    def _above(self, app: App, source: str) -> tuple[App, Trigger] | None:
        path = source
        for _ in range(PREFIX_SEGMENTS_MAX):
            path, slash, _rest = path.rpartition("/")
            if not slash:
                return None
            for candidate in (path + "/", path):
                trigger_id = self._sources.get((app.id, candidate))
                if trigger_id is not None and self._matches_prefix(self.triggers[trigger_id]):
                    return (app, self.triggers[trigger_id])
        return None

    def _matches_prefix(self, trigger: Trigger) -> bool:
        own = trigger.annotations.get(MATCH)
        if own is None and (function := self.functions.get(trigger.fn_id)) is not None:
            own = function.annotations.get(MATCH)
        return own == "prefix"

    def put_app(self, app: App) -> None:
        """Add an app or replace the one with its id; names are immutable."""
        self.apps[app.id] = app
        self._app_ids[app.name] = app.id
        self._functions_of.setdefault(app.id, set())

    def drop_app(self, app_id: str) -> None:
        """Forget an app with its functions and triggers; nothing happens if it is not there."""
        for function_id in self._functions_of.pop(app_id, set()).copy():
            self.drop_function(function_id)
        if (app := self.apps.pop(app_id, None)) is not None:
            del self._app_ids[app.name]

    def put_function(self, function: Function) -> None:
        """Add a function or replace the one with its id."""
        self.functions[function.id] = function
        self._functions_of.setdefault(function.app_id, set()).add(function.id)
        self._triggers_of.setdefault(function.id, set())

    def drop_function(self, function_id: str) -> None:
        """Forget a function with its triggers; nothing happens if it is not there."""
        for trigger_id in self._triggers_of.pop(function_id, set()).copy():
            self.drop_trigger(trigger_id)
        if (function := self.functions.pop(function_id, None)) is not None:
            self._functions_of.get(function.app_id, set()).discard(function_id)

    def put_trigger(self, trigger: Trigger) -> None:
        """Add a trigger or replace the one with its id."""
        self.drop_trigger(trigger.id)
        self.triggers[trigger.id] = trigger
        self._triggers_of.setdefault(trigger.fn_id, set()).add(trigger.id)
        self._sources[trigger.app_id, trigger.source] = trigger.id

    def drop_trigger(self, trigger_id: str) -> None:
        """Forget a trigger; nothing happens if it is not there."""
        if (trigger := self.triggers.pop(trigger_id, None)) is not None:
            self._triggers_of.get(trigger.fn_id, set()).discard(trigger_id)
            del self._sources[trigger.app_id, trigger.source]  # its own: the store keeps sources unique
