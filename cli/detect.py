"""Which handler a Python file has, and written for which platform: read, never run, from its syntax tree."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CliError

FILE_BYTES_MAX = 2 * 2**20
NAMES = (
    "func.py", "lambda_function.py", "main.py", "app.py", "application.py", "wsgi.py", "asgi.py", "handler.py",
    "index.py",
)  # fmt: skip
"""Files that are looked at first in a directory."""
_WSGI = {"Flask", "Bottle", "get_wsgi_application", "Pyramid", "make_wsgi_app"}
_ASGI = {"Starlette", "FastAPI", "Quart", "Litestar", "BlackSheep", "Sanic", "QuartTrio", "get_asgi_application"}
_APP_NAMES = ("app", "application", "api")


@dataclass(frozen=True, slots=True)
class Found:
    """A handler."""

    file: str
    """Relative to the function's directory."""
    name: str
    adapter: str
    """Empty: it is a handler of the FDK."""
    why: str


def detect(directory: Path, file: Path | None = None) -> Found:
    """The handler of a directory, or of one file in it.

    Raises:
      CliError: there is none, there are several kinds in one file and none stands out, or a file is no Python.
    """
    files = [file] if file is not None else _candidates(directory)
    for path in files:
        if found := in_file(path, path.relative_to(directory).as_posix()):
            return found
    looked = ", ".join(path.name for path in files) or "no Python file"
    raise CliError(
        f"no handler found in {directory} (looked at: {looked})",
        hint="known: handler(ctx, data) of Fn, handler(event, context) of AWS Lambda, functions-framework, "
        "an app of Flask, Starlette, FastAPI, Quart and the like; or write func.yaml by hand",
    )


def _candidates(directory: Path) -> list[Path]:
    first = [directory / name for name in NAMES if (directory / name).is_file()]
    return first + [path for path in sorted(directory.glob("*.py")) if path not in first]


def in_file(path: Path, shown: str) -> Found | None:
    """The handler of one file, or None."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise CliError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as exc:
        raise CliError(f"cannot read {path}: {exc.strerror}") from exc
    except (SyntaxError, ValueError) as exc:
        raise CliError(f"{path} is no Python: {exc}") from exc
    applications: list[Found] = []
    functions: list[Found] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions += _function(node, shown)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            applications += _application(node, shown)
    decorated = [found for found in functions if found.adapter.startswith("google")]
    named = [found for found in applications if found.name in _APP_NAMES]
    for group in (decorated, named, applications, functions):
        if group:
            return group[0]
    return None


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, shown: str) -> list[Found]:
    for decorator in node.decorator_list:
        match _dotted(decorator):
            case "functions_framework.http" | "functions_framework.aio.http":
                return [Found(shown, node.name, "google-http", "decorated with functions_framework.http")]
            case "functions_framework.cloud_event" | "functions_framework.aio.cloud_event":
                return [Found(shown, node.name, "google-event", "decorated with functions_framework.cloud_event")]
    names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
    if names[:1] == ["ctx"] and len(names) == 2:
        return [Found(shown, node.name, "", f"{node.name}(ctx, {names[1]}): a handler of Fn")]
    if len(names) == 2 and names[0] in ("event", "_event") and names[1] in ("context", "_context", "ctx", "_"):
        return [Found(shown, node.name, "lambda", f"{node.name}({', '.join(names)}): a handler of AWS Lambda")]
    if names == ["scope", "receive", "send"] and isinstance(node, ast.AsyncFunctionDef):
        return [Found(shown, node.name, "asgi", "an ASGI application")]
    if names == ["environ", "start_response"]:
        return [Found(shown, node.name, "wsgi", "a WSGI application")]
    if node.name == "lambda_handler":
        return [Found(shown, node.name, "lambda", "named lambda_handler")]
    return []


def _application(node: ast.Assign | ast.AnnAssign, shown: str) -> list[Found]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name) or not isinstance(node.value, ast.Call):
        return []
    called = _dotted(node.value.func).rpartition(".")[2]
    for names, adapter in ((_WSGI, "wsgi"), (_ASGI, "asgi")):
        if called in names:
            return [Found(shown, targets[0].id, adapter, f"{targets[0].id} = {called}(...)")]
    return []


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *parts]) if isinstance(node, ast.Name) else ""
