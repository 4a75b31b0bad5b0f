"""Finds and imports the function's module, as it would be found on Fn, with nothing of ours in its way.

The search path is the bundle's ``function/``, its ``python/``, then the standard library: no site-packages of the
daemon. A bundle may hold a ``runtime.py`` or a msgpack of its own; ours are forgotten by the time its code runs. Our
``fdk`` stays: whatever a bundle ships under that name, the worker's is used.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import importlib.util
import os
import sys
import traceback
from types import CoroutineType, ModuleType, TracebackType

import fdk
from fdk.runner import Runner, prepare
from runtime.job import Job

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from typing import Any, TextIO

    from fdk.adapters.base import AdapterRunner

    AnyRunner = Runner | AdapterRunner

HIDDEN = ("runtime", "msgpack")
"""Packages that a function must not find in ``sys.modules``."""
THREAD_POOLS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Set to 1 unless the configuration says otherwise: a pool of threads made at import forbids forking, and a function
has a share of the machine, not all of it."""


_ADAPTERS = os.path.join(os.path.dirname(os.path.abspath(fdk.__file__)), "adapters")


class LoadError(Exception):
    """The function cannot be imported; the text is its traceback."""


def set_environment(job: Job) -> None:
    """The function's environment and nothing else."""
    os.environ.clear()
    os.environ.update(job.environment)
    for name in THREAD_POOLS:
        os.environ.setdefault(name, "1")
    os.environ["TMPDIR"] = job.tmp


def set_stdio() -> None:
    """New streams for what 1 and 2 are now; lines leave when they are complete, terminal or not."""
    sys.stdout = sys.__stdout__ = _stream(1)  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = _stream(2)  # type: ignore[misc, assignment]


def _stream(fd: int) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def set_path(job: Job) -> None:
    """``function/`` and ``python/`` before the standard library; our own directories no more."""
    ours = set(job.roots)
    sys.path[:] = [job.directory, job.packages, *(entry for entry in sys.path if entry not in ours)]
    sys.argv[:] = [os.path.join(job.directory, job.handler_file)]
    if job.pycache:
        _look_for_compiled(job)
    # The interpreter was started without `site`, which would add the machine's packages, and these along the way.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")


def _look_for_compiled(job: Job) -> None:
    """Compiled modules of the bundle are in a directory beside it; the standard library's are where they always are.

    `sys.pycache_prefix` would move both, and the second would have to be compiled again for each function.
    """
    external: Any = sys.modules["_frozen_importlib_external"]
    usual = external.cache_from_source
    ours = (job.directory + "/", job.packages + "/")
    sys.dont_write_bytecode = job.walls.root is not None  # there it is read-only

    def cache_from_source(path: Any, debug_override: Any = None, *, optimization: Any = None) -> Any:
        found = usual(path, debug_override, optimization=optimization)
        if isinstance(path, str) and path.startswith(ours):
            return os.path.join(job.pycache + os.path.dirname(path), os.path.basename(found))
        return found

    external.cache_from_source = cache_from_source


COMPILED_BYTES_MAX = 40_000
"""Most bytes of names in `compiled`: it goes into one control message. What is left out is told the next time."""


def compiled(job: Job) -> str:
    """The bundle's modules that had to be compiled because it had not been done before, one path a line."""
    if job.walls.root is None:
        return ""
    names: list[str] = []
    ours, room = (job.directory + "/", job.packages + "/"), COMPILED_BYTES_MAX
    for module in list(sys.modules.values()):
        try:
            name, cached = str(module.__file__), str(module.__cached__)
            size = len(name.encode("utf-8")) + 1
        except Exception:
            continue  # built in, a namespace package, or whatever a function has put there
        if name.startswith(ours) and size <= room and "\n" not in name and not os.path.exists(cached):
            names.append(name)
            room -= size
    return "\n".join(names)


def hide() -> None:
    """Forget our modules. Only after every import of ours has finished: ours go on working, by their own references."""
    for name in list(sys.modules):
        if name.partition(".")[0] in HIDDEN:
            del sys.modules[name]


def load(job: Job) -> ModuleType:
    """Import the handler's module under the name of its file.

    Raises:
      LoadError: with the traceback, whatever the module did, ``sys.exit`` included.
    """
    path = os.path.join(job.directory, job.handler_file)
    name = os.path.splitext(os.path.basename(path))[0]
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{job.handler_file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        if not callable(getattr(module, job.handler_name, None)):
            raise AttributeError(f"{job.handler_file} has no function {job.handler_name!r}")
        return module
    except BaseException as exc:
        raise LoadError(describe(exc)) from None


def prepared(job: Job) -> AnyRunner:
    """Import the handler's module, do once what its instances would do at their first calls, and give its runner.

    Raises:
      LoadError: with the traceback.
    """
    if not job.adapter:
        module = load(job)
        prepare(module, job.handler_name)
        warm_up(module)
        return Runner(module, job.handler_name)
    try:
        from fdk import adapters

        runner = adapters.load(job.adapter, os.path.join(job.directory, job.handler_file), job.handler_name)
    except BaseException as exc:
        raise LoadError(describe(exc)) from None
    if runner.module is not None:
        warm_up(runner.module)
    return runner


def warm_up(module: ModuleType) -> None:
    """Call the module's optional ``stoker_warm_up()``, once, before instances are made.

    Raises:
      LoadError: with the traceback.
    """
    hook = getattr(module, "stoker_warm_up", None)
    if hook is None:
        return
    try:
        result = hook()
        if type(result) is CoroutineType:
            import asyncio

            asyncio.run(result)
    except BaseException as exc:
        raise LoadError(describe(exc)) from None


def describe(exc: BaseException) -> str:
    """The traceback from the function's first frame on: ours would only confuse its author."""
    here = os.path.dirname(os.path.abspath(__file__))
    tb: TracebackType | None = exc.__traceback__
    while tb is not None and _is_ours(tb.tb_frame.f_code.co_filename, here):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(exc), exc, tb)).strip()


def _is_ours(filename: str, here: str) -> bool:
    return filename.startswith(("<frozen importlib", here, _ADAPTERS))
