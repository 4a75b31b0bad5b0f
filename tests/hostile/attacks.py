"""How each hostile function is driven: its settings, its calls, and what is looked for besides what it reports itself.

One entry for each row of the list of attacks; an attack without an entry in `DRIVES` is deployed and called once.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import http.client
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from tests.hostile.site import HANDLERS, answer_of
from tests.hostile.visit import CRASH, OOM, Visit, settle
from tests.system.daemon import Reply

ATTACKS = sorted(path.stem for path in HANDLERS.glob("*.py") if path.stem not in ("kit", "clean"))
DRIVES: dict[str, Callable[[Visit], None]] = {}
PLENTY_MIB = 512
"""Memory for attacks that must meet another limit first."""


def drive(function: Callable[[Visit], None]) -> Callable[[Visit], None]:
    DRIVES[function.__name__] = function
    return function


def run(visit: Visit) -> list[str]:
    """Do the attack; everything that should not have been possible."""
    try:
        DRIVES.get(visit.name, once)(visit)
    except Exception as exc:  # whatever is judged from outside is judged all the same
        visit.violation("no-answer", f"{type(exc).__name__}: {exc}")
    return visit.judge()


def once(visit: Visit) -> None:
    visit.send()
    visit.call()


# -- memory, processes, time -------------------------------------------------------------------------------------------


@drive
def mem_bytes(visit: Visit) -> None:
    visit.send()
    visit.fill_memory()


@drive
def mem_shared_mmap(visit: Visit) -> None:
    visit.send()
    visit.fill_memory()


@drive
def mem_children(visit: Visit) -> None:
    visit.send()
    visit.fill_memory()


@drive
def mem_tmpfs_memfd(visit: Visit) -> None:
    visit.send()
    visit.fill_memory()


@drive
def mem_at_import(visit: Visit) -> None:
    started = visit.site.try_deploy(
        "mem-at-import", (HANDLERS / "mem_at_import.py").read_text(), app="hostile", memory=128, config={"ARMED": "1"}
    )
    visit.check(started.status == 422, "wrong-outcome", f"{started.status} {started.body[:500]!r}")
    visit.check(b"memory" in started.body.lower(), "wrong-outcome", f"no word of memory: {started.body[:500]!r}")


@drive
def mem_virtual_only(visit: Visit) -> None:
    visit.send(memory=256)
    visit.check(visit.call()["facts"]["threads"] == 17, "threads", "")


@drive
def fork_bomb(visit: Visit) -> None:
    visit.send(memory=PLENTY_MIB)
    if stopped_for_processes(visit) or visit.violations:
        return
    # The limit was proven: now what is left behind.
    visit.either(*may_run_out(visit), leave=True)


@drive
def fork_bomb_tree(visit: Visit) -> None:
    visit.send(memory=PLENTY_MIB)
    visit.either("function-crashed", "function-out-of-memory")  # where the daemon counts: that it was, or its end


@drive
def thread_bomb(visit: Visit) -> None:
    visit.send(memory=PLENTY_MIB)
    stopped_for_processes(visit)


def may_run_out(visit: Visit) -> tuple[str, ...]:
    """A program's children share nothing with a template: many may be over the memory where that is only measured."""
    configuration = visit.site.configuration
    return OOM if configuration.programs and not configuration.groups else ()


def stopped_for_processes(visit: Visit) -> bool:
    """Whether the call was ended because of its processes, as where the kernel does not count them, the daemon does."""
    reply = visit.either("function-crashed", *may_run_out(visit))
    if reply.status == 200:
        return False
    if reply.json["code"] in OOM:
        return True
    # The kill may be noticed before its reason.
    told = b"processes, limit" in reply.body or b"closed its pipe" in reply.body
    visit.check(told or visit.violations, "wrong-outcome", f"{reply.body[:300]!r}")
    return True


@drive
def cpu_spin_no_sigterm(visit: Visit) -> None:
    visit.send(timeout=1)
    visit.error("function-timeout")


@drive
def cpu_c_call(visit: Visit) -> None:
    visit.send(timeout=1)
    visit.error("function-timeout")


@drive
def cpu_after_response(visit: Visit) -> None:
    visit.send()
    visit.call(burn_s=1.0)
    for _ in range(5):
        visit.call()


@drive
def slow_loris(visit: Visit) -> None:
    visit.send(timeout=3)
    visit.error("function-timeout", sleep_s=3.4)
    visit.call()
    time.sleep(0.5)  # the late answer's time: nothing may come of it
    visit.site.invoke(visit.function_id)
    visit.neighbour.call()


@drive
def child_left_behind(visit: Visit) -> None:
    visit.send(memory=PLENTY_MIB)  # where it is measured, pages that a program's children share count for each of them
    visit.call()
    visit.call(keep=True)
    visit.error("function-crashed", then_exit=True)


@drive
def child_holds_pipes(visit: Visit) -> None:
    visit.send(timeout=20)
    visit.error("function-crashed")  # not the timeout: the end of the worker was noticed


@drive
def exit_styles(visit: Visit) -> None:
    visit.send(timeout=4)
    for style in visit.call()["facts"]["styles"]:
        visit.error(*CRASH, style=style)
        visit.call()


# -- files -------------------------------------------------------------------------------------------------------------


@drive
def symlink_races(visit: Visit) -> None:
    visit.send()
    visit.call()


# -- other processes ---------------------------------------------------------------------------------------------------


@drive
def kill_others(visit: Visit) -> None:
    visit.send()
    visit.call()
    if not visit.violations and visit.confirmed_namespace():
        visit.either(*CRASH, armed=True)
        answer_of(visit.invoke())


# -- the protocol ------------------------------------------------------------------------------------------------------


@drive
def forge_response(visit: Visit) -> None:
    visit.send(timeout=3)
    for style in visit.call()["facts"]["styles"]:
        visit.error("invalid-response", "function-crashed", style=style)
        visit.call()


@drive
def forge_later(visit: Visit) -> None:
    visit.send(timeout=3)
    for by in ("thread", "child"):
        visit.call(by=by)
        time.sleep(0.15)  # the forged frame's time
        for _ in range(3):
            visit.either("invalid-response", "function-crashed")


@drive
def read_next_request(visit: Visit) -> None:
    visit.send(timeout=2)
    visit.call(steal=True)
    for _ in range(3):
        word = secrets.token_hex(4)
        reply = visit.either("function-timeout", "function-crashed", "invalid-response", echo=word)
        if reply.status == 200:
            visit.check(reply.json["echo"] == word, "wrong-answer", f"{reply.json}")


@drive
def stdout_games(visit: Visit) -> None:
    visit.send()
    before = len(visit.site.stderr())
    visit.call()
    visit.check("forged" not in visit.site.stderr()[before:], "forged-log", visit.site.stderr()[before:][-500:])
    logs = visit.site.request("GET", f"/stoker/v1/functions/{visit.function_id}/logs")
    visit.check(logs.status == 200 and b"\x1b" not in logs.body, "forged-log", f"{logs.status} {logs.body[:300]!r}")


@drive
def log_flood(visit: Visit) -> None:
    visit.send(timeout=20)
    visit.call()
    kept = sum(path.stat().st_size for path in Path(visit.site.data / "logs").rglob("*") if path.is_file())
    visit.check(kept < 32 * 2**20, "disk", f"{kept} bytes of log")


@drive
def huge_response(visit: Visit) -> None:
    visit.send(memory=PLENTY_MIB)
    visit.error("response-too-large", mib=16)
    visit.error("response-too-large", "function-out-of-memory", "function-failed", mib=200)
    visit.error("invalid-response", "function-crashed", mib=127, raw=True)
    visit.error("invalid-response", "function-crashed", mib=2, raw=True)
    visit.call()


@drive
def bad_headers(visit: Visit) -> None:
    visit.send()
    for style in visit.call()["facts"]["styles"]:
        connection = http.client.HTTPConnection("127.0.0.1", visit.site.port, timeout=30)
        try:
            body = json.dumps(visit.told(style=style))
            connection.request("POST", f"/invoke/{visit.function_id}", body, {"Connection": "keep-alive"})
            got = connection.getresponse()
            reply = Reply(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
            visit.check("x-injected" not in reply.headers, "split", f"{style}: {reply.headers}")
            visit.check(len(reply.headers) < 300, "headers-without-limit", f"{style}: {len(reply.headers)}")
            if reply.status == 200:
                visit.check(b"violations" in reply.body, "split", f"{style}: {reply.body[:200]!r}")
            else:
                visit.check_error(reply, ("response-headers-too-large", "invalid-response", "function-failed"))
            connection.request("GET", "/health")  # what follows on the connection is the next reply, nothing else
            visit.check(json.loads(connection.getresponse().read())["status"] == "ok", "split", style)
        except (http.client.HTTPException, ValueError) as exc:
            visit.violation("split", f"{style}: {exc!r}")
        finally:
            connection.close()


# -- the machine ---


@drive
def sysv_ipc(visit: Visit) -> None:
    key = 0x5700_0000 + secrets.randbelow(0xFFFFFF)
    visit.send()
    visit.call(key=key)
    for kind in ("shm", "sem", "msg"):
        with open(f"/proc/sysvipc/{kind}") as table:
            found = [line for line in table if line.split()[0] == str(key)]
        visit.check(not found, "ipc-on-host", f"{kind} {found}")
        for line in found:
            remove_ipc(kind, int(line.split()[1]))


def remove_ipc(kind: str, number: int) -> None:
    """What was let through is not left on the machine."""
    libc = ctypes.CDLL(None)
    {"shm": libc.shmctl, "msg": libc.msgctl}.get(kind, lambda n, c, x: libc.semctl(n, 0, c))(number, 0, None)


@drive
def poison_template(visit: Visit) -> None:
    visit.send()
    visit.call(do="look")
    visit.call(do="poison", armed=visit.confirmed_namespace())
    visit.error("function-crashed", do="exit")
    for _ in range(2):
        visit.call(do="look")
        visit.error("function-crashed", do="exit")


@drive
def shared_memory_template(visit: Visit) -> None:
    visit.send()
    replies = visit.at_once(3, sleep_s=1.0)
    seen = [(facts["before"], facts["own"]) for facts in (answer_of(reply)["facts"] for reply in replies)]
    for reply in replies:
        visit.violations += reply.json["violations"]
    # A machine so busy that a call had to wait for another's instance: what that saw must be its own.
    visit.check(all(before == own for before, own in seen), "shared-mapping", f"{seen}")


@drive
def randomness(visit: Visit) -> None:
    visit.send()
    replies = [answer_of(reply) for reply in visit.at_once(4, sleep_s=0.4)]
    seen: dict[str, str] = {}
    for number, reply in enumerate(replies):
        for who, drawn in reply["drawn"].items():
            visit.check("failed" not in drawn, "failed", f"{drawn}")
            for source, value in drawn.items():
                here = f"{source} of {who} of call {number}"
                visit.check(value not in seen, "same-randomness", f"{here} and {seen.get(value)}: {value}")
                seen[value] = here


@drive
def threads_at_import(visit: Visit) -> None:
    visit.send()
    for _ in range(3):
        visit.call()
    used = [i for i in visit.site.instances(visit.function_id) if i["calls"]]
    kinds = {instance["start_kind"] for instance in used}
    visit.check(kinds == {"exec"}, "forked-with-threads", f"{kinds}")


@drive
def import_games(visit: Visit) -> None:
    visit.send()
    games = visit.call()["facts"]["games"]
    source = (HANDLERS / "import_games.py").read_text()
    extra = {"function/kit.py": (HANDLERS / "kit.py").read_text()}

    def play(game: str) -> tuple[str, Reply]:
        name = f"game-{game.replace(' ', '-').replace('.', '-')}"
        return game, visit.site.try_deploy(name, source, app="hostile", extra=extra, memory=128, config={"GAME": game})

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for game, reply in pool.map(play, games):
            if game == "fork and return" and reply.status == 200:  # it has a process too many, and works
                visit.site.invoke(reply.json["id"], "{}")
                visit.site.remove(reply.json["id"])
                continue
            code = reply.json.get("code") if reply.status != 200 else "deployed"
            visit.check(code == "deploy-failed", "wrong-outcome", f"{game}: {reply.status} {reply.body[:300]!r}")
            if reply.status == 200:
                visit.site.remove(reply.json["id"])
    visit.call()


@drive
def hook_the_runtime(visit: Visit) -> None:
    visit.send(timeout=2)
    for hook in visit.call()["facts"]["hooks"]:
        visit.either(*CRASH, hook=hook)
        last: list[Reply] = []

        def works_again(last: list[Reply] = last) -> bool:
            last[:] = [visit.invoke()]
            if last[0].status != 200:
                visit.check_error(last[0], CRASH)
            return last[0].status == 200

        settle(works_again)
        visit.violations += answer_of(last[0])["violations"]
