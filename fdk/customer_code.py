"""The author's file: loaded at the first call, not before."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    import types
    from collections.abc import Callable
    from typing import Any


class DelayedImport:
    """A module that is imported from its file when it is first asked for. A failed import is tried again."""

    def __init__(self, func_module_path: str) -> None:
        """``func_module_path``: the file; its stem becomes the module's name."""
        self._path = func_module_path
        self._module: types.ModuleType | None = None

    @property
    def executed(self) -> bool:
        """Whether the module is there already."""
        return self._module is not None

    def get_module(self) -> types.ModuleType:
        """The module. Raises whatever its import raises."""
        if self._module is None:
            from importlib.machinery import SourceFileLoader
            from importlib.util import module_from_spec, spec_from_loader

            name = os.path.splitext(os.path.basename(self._path))[0]
            spec = spec_from_loader(name, SourceFileLoader(name, self._path))
            if spec is None or spec.loader is None:
                raise ImportError(f"cannot load {self._path}", name=name, path=self._path)
            module = module_from_spec(spec)
            sys.modules[name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                sys.modules.pop(name, None)
                raise
            self._module = sys.modules.get(name, module)
        return self._module


class Function:
    """The handler in an author's file."""

    def __init__(self, func_module_path: str, entrypoint: str = "handler") -> None:
        """``entrypoint``: the handler's name in the file."""
        self._delayed_module_class = DelayedImport(func_module_path)
        self._entrypoint = entrypoint

    def handler(self) -> Callable[..., Any]:
        """The handler. Raises AttributeError when the file has none of that name, or what its import raises."""
        found: Callable[..., Any] = getattr(self._delayed_module_class.get_module(), self._entrypoint)
        return found
