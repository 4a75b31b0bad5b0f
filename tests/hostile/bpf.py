"""An evaluator of classic BPF as the kernel runs it for seccomp, and the checks it makes before it takes a program.

Written from linux/bpf_common.h, linux/filter.h and kernel/seccomp.c (`seccomp_check_filter`, `bpf_check_basics_ok`,
`bpf_check_classic`), not from the builder that it judges.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

WORD = 0xFFFF_FFFF
DATA_BYTES = 64
"""struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]."""
PROGRAM_MAX = 4096

LD_W_ABS, LD_W_LEN, LDX_W_LEN, LD_IMM, LDX_IMM, LD_MEM, LDX_MEM = 0x20, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61
ST, STX, TAX, TXA, RET_K, RET_A, JA = 0x02, 0x03, 0x07, 0x87, 0x06, 0x16, 0x05
ALU = {0x00: "+", 0x10: "-", 0x20: "*", 0x30: "/", 0x40: "|", 0x50: "&", 0x60: "<<", 0x70: ">>", 0xA0: "^"}
JUMPS = {0x10: "==", 0x20: ">", 0x30: ">=", 0x40: "&"}

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW = (
    0x8000_0000, 0, 0x0003_0000, 0x0005_0000, 0x7FC0_0000, 0x7FF0_0000, 0x7FFC_0000, 0x7FFF_0000,
)  # fmt: skip


class BadProgram(ValueError):
    """The kernel would refuse it."""


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    """Instructions as (code, jump if true, jump if false, k)."""
    if len(program) % 8:
        raise BadProgram("not a whole number of instructions")
    return [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]


def check(program: bytes) -> None:
    """Raise unless the kernel would take it: known instructions, jumps inside, aligned loads, a return at the end."""
    instructions = decode(program)
    if not 0 < len(instructions) <= PROGRAM_MAX:
        raise BadProgram(f"{len(instructions)} instructions")
    for at, (code, jt, jf, k) in enumerate(instructions):
        after = len(instructions) - at - 1
        kind = code & 0x07
        if code == LD_W_ABS:
            if k % 4 or k >= DATA_BYTES:
                raise BadProgram(f"{at}: load at {k}")
        elif kind == 0x05:
            furthest = k if code == JA else max(jt, jf)
            if (code != JA and code & 0xF0 not in JUMPS) or furthest >= after:
                raise BadProgram(f"{at}: jump of {furthest}, {after} instructions follow")
        elif kind == 0x04:
            if code & 0xF0 not in ALU and code & 0xF0 != 0x80:
                raise BadProgram(f"{at}: arithmetic {code:#x}")
            if code & 0xF8 == 0x30 and k == 0:
                raise BadProgram(f"{at}: division by 0")
        elif code in (LD_MEM, LDX_MEM, ST, STX):
            if k >= 16:
                raise BadProgram(f"{at}: scratch cell {k}")
        elif code not in (LD_W_LEN, LDX_W_LEN, LD_IMM, LDX_IMM, TAX, TXA, RET_K, RET_A):
            raise BadProgram(f"{at}: instruction {code:#x}")
    if instructions[-1][0] not in (RET_K, RET_A):
        raise BadProgram("no return at the end")


def run(program: bytes, *, number: int, arch: int, arguments: Iterable[int] = (), pointer: int = 0) -> int:
    """The verdict of one filter for one system call."""
    given = [a & (1 << 64) - 1 for a in arguments]
    data = struct.pack("<IIQ6Q", number & WORD, arch, pointer, *given, *[0] * (6 - len(given)))
    instructions = decode(program)
    a = x = at = 0
    cells = [0] * 16
    while True:
        code, jt, jf, k = instructions[at]
        at += 1
        source = x if code & 0x08 else k
        match code:
            case 0x20:
                a = struct.unpack_from("<I", data, k)[0]
            case 0x80 | 0x00:
                a = DATA_BYTES if code == LD_W_LEN else k
            case 0x81 | 0x01:
                x = DATA_BYTES if code == LDX_W_LEN else k
            case 0x60:
                a = cells[k]
            case 0x61:
                x = cells[k]
            case 0x02:
                cells[k] = a
            case 0x03:
                cells[k] = x
            case 0x07:
                x = a
            case 0x87:
                a = x
            case 0x06:
                return k
            case 0x16:
                return a
            case 0x05:
                at += k
            case _ if code & 0x07 == 0x05:
                true = {"==": a == source, ">": a > source, ">=": a >= source, "&": bool(a & source)}[
                    JUMPS[code & 0xF0]
                ]
                at += jt if true else jf
            case _ if code & 0x07 == 0x04:
                a = _calculate(code & 0xF0, a, source) & WORD
            case _:
                raise BadProgram(f"{at - 1}: instruction {code:#x}")


def _calculate(kind: int, a: int, b: int) -> int:
    if kind == 0x80:
        return -a
    match ALU[kind]:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return a // b if b else 0
        case "|":
            return a | b
        case "&":
            return a & b
        case "<<":
            return a << (b & 31)
        case ">>":
            return a >> (b & 31)
    return a ^ b


def together(verdicts: Iterable[int]) -> int:
    """What the kernel does with the verdicts of several filters: the strictest, of equals the one installed last."""
    order = [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW]
    return min(reversed(list(verdicts)), key=lambda verdict: order.index(verdict & 0xFFFF_0000))
