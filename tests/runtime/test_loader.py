"""A function's module is found as on Fn, with nothing of ours in its way, under every interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon import errors
from daemon.bundles.precompiler import WORTH_BYTES
from tests.contracts.kit import Kit, call

pytestmark = pytest.mark.processes

STARTS = ["auto", "exec"]


def bundle(kit: Kit, name: str, files: dict[str, str], **changes: Any) -> Any:
    """The plan of a function with these files in its bundle."""
    plan = kit.plan(name, source=files.get("function/func.py", ""), **changes)
    for path, text in files.items():
        target = Path(plan.bundle_dir) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return plan


async def answer(kit: Kit, plan: Any, body: bytes = b"") -> str:
    """What one call of a new instance gives."""
    async with kit.launch(plan) as worker:
        await worker.channel.ready()
        return (await call(worker, body)).body.decode()


def place(kit: Kit, plan: Any, name: str) -> str:
    """What the function calls a directory of its bundle."""
    return f"/{name}" if kit.launcher.sandbox.has_root else f"{plan.bundle_dir}/{name}"


def tree(root: Path) -> list[str]:
    """Everything beneath a directory."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("start", STARTS)
async def test_the_bundles_own_modules_win_over_the_standard_library_and_ours_are_not_there(
    kit: Kit, start: str
) -> None:
    files = {
        "function/func.py": """
import sys
import runtime, msgpack, wire_user, inner.deep, colorsys
import fdk, fdk.response
def handler(ctx, data=None):
    return "|".join([runtime.WHO, msgpack.WHO, wire_user.WHO, inner.deep.WHO, colorsys.WHO,
                     str("bundle" in fdk.__file__), __name__])
""",
        "function/runtime.py": "WHO = 'my runtime'\n",
        "function/wire_user.py": "try:\n    import runtime.wire\nexcept ImportError:\n    WHO = 'no wire'\n",
        "function/inner/deep.py": "WHO = 'a namespace package'\n",
        "function/colorsys.py": "WHO = 'my colours'\n",
        "python/msgpack/__init__.py": "WHO = 'my msgpack'\n",
        "python/fdk/__init__.py": "raise ImportError('the official one needs iso8601')\n",
    }
    plan = bundle(kit, "names", files, start=start)
    assert await answer(kit, plan) == "my runtime|my msgpack|no wire|a namespace package|my colours|False|func"


async def test_a_real_msgpack_with_its_extension_in_the_bundle(kit: Kit) -> None:
    import msgpack

    source = """
import msgpack
def handler(ctx, data=None):
    return msgpack.__file__ + str(msgpack.unpackb(msgpack.packb([1])))
"""
    plan = bundle(kit, "second", {"function/func.py": source, "python/.keep": ""})
    shutil.copytree(Path(msgpack.__file__).parent, Path(plan.bundle_dir) / "python" / "msgpack")
    text = await answer(kit, plan)
    assert text.startswith(place(kit, plan, "python"))
    assert text.endswith("[1]")


@pytest.mark.parametrize("start", STARTS)
async def test_the_search_path_is_the_bundle_and_the_standard_library(kit: Kit, start: str) -> None:
    source = """
import json, os, sys
def handler(ctx, data=None):
    return json.dumps({"path": sys.path, "cwd": os.getcwd(), "executable": sys.executable, "argv": sys.argv,
                       "main": hasattr(sys.modules["__main__"], "sys"), "prefix": sys.prefix})
"""
    import json

    plan = bundle(kit, "paths", {"function/func.py": source}, start=start)
    seen = json.loads(await answer(kit, plan))
    function = place(kit, plan, "function")
    assert seen["path"][:2] == [function, place(kit, plan, "python")]
    assert not [entry for entry in seen["path"] if "site-packages" in entry or "dist-packages" in entry]
    assert str(Path(__file__).parents[2]) not in seen["path"]
    assert seen["cwd"] == function
    assert seen["argv"] == [f"{function}/func.py"]
    if sys.prefix != sys.base_prefix:
        assert not seen["executable"].startswith(sys.prefix), "programs it starts would see the daemon's packages"


async def test_another_file_and_another_handler(kit: Kit) -> None:
    files = {"function/my-app.py": "async def entry(ctx, data=None):\n    return __name__\n"}
    assert await answer(kit, bundle(kit, "named", files, handler_file="my-app.py", handler_name="entry")) == "my-app"
    files = {"function/sub/mod.py": "def handler(ctx, data=None):\n    return __file__\n"}
    plan = bundle(kit, "deep", files, handler_file="sub/mod.py")
    assert await answer(kit, plan) == f"{place(kit, plan, 'function')}/sub/mod.py"


async def test_the_bundle_stays_as_it_was_unpacked_and_compiled_modules_are_kept_elsewhere(kit: Kit) -> None:
    source = f"import helper\n\n\ndef handler(ctx, data=None):\n    return helper.__cached__\n{' ' * WORTH_BYTES}"
    files = {"function/func.py": source, "function/helper.py": "", "python/package/__init__.py": ""}
    for start in STARTS:
        plan = bundle(kit, f"clean {start}", files, start=start, function_id=start)
        cached = Path(await answer(kit, plan)).name
        assert tree(Path(plan.bundle_dir)) == sorted({"function", "python", "python/package", *files})
        pycache = kit.directory / "run" / "pycache" / start
        with trio.fail_after(30):
            while not list(pycache.rglob(cached)):  # noqa: ASYNC110 - it is done in the background
                await trio.sleep(0.01)
        (compiled,) = pycache.rglob(cached)
        compiled.write_bytes(compiled.read_bytes()[:16] + b"not a module")  # so it is seen that it is used
        kit.launcher.stop_template(plan.revision)
        with pytest.raises(errors.InitFailed, match="marshal"):
            await answer(kit, plan)


async def test_a_missing_bundle_is_an_init_failure(kit: Kit) -> None:
    from dataclasses import replace

    from daemon import errors

    for start in STARTS:
        plan = replace(kit.plan("echo"), bundle_dir="/nonexistent", revision=start, start=start)
        with pytest.raises(errors.InitFailed):
            await answer(kit, plan)


async def test_subprocesses_and_multiprocessing_work_in_a_handler(kit: Kit) -> None:
    source = """
import concurrent.futures, multiprocessing, subprocess, sys
def double(n): return 2 * n
def handler(ctx, data=None):
    context = multiprocessing.get_context(data.getvalue().decode())
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        doubled = list(pool.map(double, range(4)))
    done = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return f"{doubled} {done.stdout.strip()} {list(pool.map(double, range(2)))}"
"""
    plan = bundle(kit, "pools", {"function/func.py": source})
    for method in (b"fork", b"spawn"):
        assert await answer(kit, plan, method) == "[0, 2, 4, 6] 42 [0, 2]"


def interpreters() -> list[str]:
    """Other Pythons that this machine has, at most one of each minor version."""
    found: dict[str, str] = {}
    candidates = [f"/usr/bin/python3.{minor}" for minor in range(11, 16)]
    for root in ("/root/.pyenv/versions", os.path.expanduser("~/.pyenv/versions")):
        if os.access(root, os.R_OK | os.X_OK):
            candidates += [f"{root}/{name}/bin/python3" for name in os.listdir(root)]
    for path in candidates:
        if os.access(path, os.X_OK):
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([path, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
            version = done.stdout.strip()
            if done.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 11):
                found.setdefault(version, path)
    found.pop(f"{sys.version_info.major}.{sys.version_info.minor}", None)
    return sorted(found.values())


async def test_other_interpreters_fork_too(kit: Kit) -> None:
    others = interpreters()
    if not others:
        pytest.skip("no other Python of version 3.11 or later on this machine")
    source = """
import json, sys
def handler(ctx, data=None):
    return json.dumps([list(sys.version_info[:2]), sys.path, "msgpack" in sys.modules, data.getvalue().decode()])
"""
    import json

    for path in others:
        for start, kinds in (("auto", ["boot", "fork"]), ("exec", ["exec", "exec"])):
            plan = bundle(
                kit, f"{path} {start}".replace("/", "-"), {"function/func.py": source}, start=start, interpreter=path
            )
            for kind in kinds:
                async with kit.launch(plan) as worker:
                    info = await worker.channel.ready()
                    assert worker.start_kind == kind
                    version, search, leaked, body = json.loads((await call(worker, "grüße".encode() * 9999)).body)
                    assert str(info["python"]).startswith(".".join(map(str, version)))
                    assert version != list(sys.version_info[:2])
                    assert not leaked
                    assert not [entry for entry in search if "site-packages" in entry]
                    assert body == "grüße" * 9999


async def test_an_interpreter_that_cannot_be_run(kit: Kit) -> None:
    from daemon import errors

    for start in STARTS:
        for interpreter in ("/nonexistent/python3.99", "/bin/false"):
            with pytest.raises(errors.InitFailed):
                await answer(kit, kit.plan("echo", revision=start + interpreter, start=start, interpreter=interpreter))
