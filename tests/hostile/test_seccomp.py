"""The system-call filters, judged by an evaluator and tables of our own: for every call the verdict is the table's."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime import seccomp
from tests.hostile import bpf

ARCHES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
FOREIGN = [0x4000_0003, 0x4000_0028, 0x2800_0028, 0xC000_00F3, 0x8000_0016, 0, 0xFFFF_FFFF]
"""i386, arm, mips, riscv64, s390x and two that nobody has."""
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
CALLS = {  # number of the calls whose arguments matter: written down here once more, from the headers
    "x86_64": {"socket": 41, "clone": 56, "unshare": 272, "ioctl": 16, "personality": 135, "mount": 165},
    "aarch64": {"socket": 198, "clone": 220, "unshare": 97, "ioctl": 29, "personality": 92, "mount": 40},
}
EPERM, ENOSYS = bpf.ERRNO | errno.EPERM, bpf.ERRNO | errno.ENOSYS
NAMESPACES = {"time": 0x80, "mnt": 0x2_0000, "cgroup": 0x200_0000, "uts": 0x400_0000, "ipc": 0x800_0000,
              "user": 0x1000_0000, "pid": 0x2000_0000, "net": 0x4000_0000}  # fmt: skip
OF_INSTANCES = ("user", "mnt", "pid", "ipc")


def programs(machine: str, *, inet: bool = True, namespaces: bool = True, instance: bool = False) -> list[bytes]:
    made = [seccomp.template_filter(machine, inet=inet, namespaces=namespaces)]
    return [*made, seccomp.instance_filter(machine)] if instance else made


def verdict(filters: list[bytes], machine: str, number: int, arguments: tuple[int, ...] = ()) -> int:
    return bpf.together(bpf.run(f, number=number, arch=ARCHES[machine], arguments=arguments) for f in filters)


def refused_numbers(machine: str) -> dict[int, int]:
    column = ("x86_64", "aarch64").index(machine)
    table = {numbers[column]: EPERM for numbers in seccomp.REFUSED.values() if numbers[column] is not None}
    table |= {numbers[column]: ENOSYS for numbers in seccomp.ABSENT.values() if numbers[column] is not None}
    return table  # type: ignore[return-value]


def wanted(
    machine: str, number: int, arguments: tuple[int, ...], *, inet: bool, namespaces: bool, instance: bool
) -> set[int]:
    """The verdicts that are right, said again in words other than the builder's. A set: errno may differ."""
    low = [argument & 0xFFFF_FFFF for argument in (*arguments, 0, 0, 0)[:3]]
    number &= 0xFFFF_FFFF
    if machine == "x86_64" and number >= 0x4000_0000:
        return {bpf.KILL_PROCESS, EPERM, ENOSYS}
    call = {n: name for name, n in CALLS[machine].items()}.get(number)
    allowed, forbidden = {bpf.ALLOW}, {EPERM}
    match call:
        case "socket":
            family, kind, protocol = low[0], low[1] & 0xF, low[2]
            if family == 1:  # without namespaces the daemon's own socket could be reached
                return allowed if namespaces else {bpf.ERRNO | errno.EAFNOSUPPORT}
            if family == 16:
                return allowed if protocol == 0 else {bpf.ERRNO | errno.EPROTONOSUPPORT}
            if family in (2, 10) and inet:
                if kind not in (1, 2):
                    return forbidden
                return allowed if protocol in (0, 6, 17) else {bpf.ERRNO | errno.EPROTONOSUPPORT}
            return {bpf.ERRNO | errno.EAFNOSUPPORT}
        case "clone" | "unshare":
            kinds = {name for name, bit in NAMESPACES.items() if low[0] & bit}
            if call == "clone":
                kinds -= {"time"}  # in clone's flags that bit belongs to the signal
            tolerated = set() if instance or not namespaces else set(OF_INSTANCES)
            return forbidden if kinds - tolerated else allowed
        case "ioctl":
            return forbidden if low[1] in (0x5412, 0x541C) else allowed
        case "personality":
            return allowed if low[0] in (0, 0xFFFF_FFFF) else forbidden
        case "mount":
            return forbidden if instance or not namespaces else allowed
    if not namespaces and (right := wanted_in_a_shared_world(machine, number, low, arguments)) is not None:
        return right
    if number in (table := refused_numbers(machine)):
        return {table[number]}
    return {ENOSYS} if number > seccomp.NEWEST else allowed


SELF = {"prlimit64": {0: 0}, "sched_setaffinity": {0: 0}, "sched_setscheduler": {0: 0}, "sched_setparam": {0: 0},
        "sched_setattr": {0: 0}, "setpriority": {0: 0, 1: 0}, "ioprio_set": {0: 1, 1: 0}}  # fmt: skip
"""Calls that may name another process, and the arguments that mean the caller: who, or which kind and who."""


def wanted_in_a_shared_world(machine: str, number: int, low: list[int], arguments: tuple[int, ...]) -> set[int] | None:
    """Where there are no namespaces: other processes and files that cannot be opened must not be changed."""
    column = ("x86_64", "aarch64").index(machine)
    for name, (_, numbers) in seccomp.OF_OTHERS.items():
        if number == numbers[column]:
            itself = all(low[index] == value for index, value in SELF[name].items())
            return {bpf.ALLOW} if itself else {EPERM}
    if number == seccomp.UTIMENSAT[column]:
        path = arguments[1] & (1 << 64) - 1 if len(arguments) > 1 else 0
        return {bpf.ERRNO} if path else {bpf.ALLOW}
    if number in {numbers[column] for numbers in seccomp.BY_PATH.values()}:
        return {EPERM}
    if number in {numbers[column] for numbers in seccomp.IN_VAIN.values()}:
        return {bpf.ERRNO}
    return {ENOSYS} if number == seccomp.FCHMODAT2[column] else None


machines = st.sampled_from(sorted(ARCHES))
NARROWED = [92, 302, 203, 144, 141, 251, 261, 122, 319, 279, 280, 88, 90, 53, 452]
numbers = st.one_of(
    st.integers(0, 520),
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted({n for calls in CALLS.values() for n in calls.values()})),
    st.sampled_from(NARROWED),
    st.integers(0x4000_0000, 0x4000_0220),
)
words = st.one_of(
    st.integers(0, 50),
    st.sampled_from(sorted(NAMESPACES.values())),
    st.sampled_from([0x5412, 0x541C, 0x5413, 0xFFFF_FFFF, 0x0004_0000, 1 | 0o4000, 2 | 0o2000000, 3]),
    st.integers(0, 2**32 - 1),
)
arguments = st.tuples(*[st.one_of(words, st.builds(lambda low, high: low | high << 32, words, words))] * 6)


@settings(max_examples=1500, deadline=None)
@given(machines, numbers, arguments, st.booleans(), st.booleans(), st.booleans())
@example("x86_64", 41, (1 << 32 | 17, 3, 0, 0, 0, 0), True, True, True)  # the high half does not hide AF_PACKET
@example("x86_64", 56, (17 | 0x1000_0000, 0, 0, 0, 0, 0), True, True, True)
@example("x86_64", 16, (0, 1 << 32 | 0x5412, 0, 0, 0, 0), True, True, True)
def test_the_verdict_is_the_tables(
    machine: str, number: int, arguments: tuple[int, ...], inet: bool, namespaces: bool, instance: bool
) -> None:
    filters = programs(machine, inet=inet, namespaces=namespaces, instance=instance)
    right = wanted(machine, number, arguments, inet=inet, namespaces=namespaces, instance=instance)
    assert verdict(filters, machine, number, arguments) in right


@pytest.mark.parametrize("machine", ARCHES)
def test_every_number_without_arguments(machine: str) -> None:
    for instance in (False, True):
        filters = programs(machine, instance=instance)
        for number in [*range(1024), 2**31 - 1, 2**31, 2**32 - 1, *range(0x4000_0000, 0x4000_0220)]:
            right = wanted(machine, number, (), inet=True, namespaces=True, instance=instance)
            assert verdict(filters, machine, number) in right, number


@pytest.mark.parametrize("machine", ARCHES)
def test_another_architecture_is_killed(machine: str) -> None:
    other = [arch for name, arch in ARCHES.items() if name != machine]
    for program in programs(machine, instance=True):
        for arch in [*FOREIGN, *other]:
            for number in (0, 1, 20, 39, 41, 56, 102, 165, 359):
                assert bpf.run(program, number=number, arch=arch) == bpf.KILL_PROCESS


@pytest.mark.parametrize("machine", ARCHES)
def test_the_kernel_would_take_them(machine: str) -> None:
    for inet in (True, False):
        for namespaces in (True, False):
            for program in programs(machine, inet=inet, namespaces=namespaces, instance=True):
                bpf.check(program)


@settings(max_examples=120, deadline=None)
@given(machines, st.data())
def test_a_changed_program_is_noticed(machine: str, draw: st.DataObject) -> None:
    """Teeth: flip a verdict or a number in the program, and some call has another verdict, or the kernel refuses it."""
    program = bytearray(seccomp.template_filter(machine))
    instructions = bpf.decode(bytes(program))
    at = draw.draw(st.integers(0, len(instructions) - 1))
    code, _, _, k = instructions[at]
    if code == bpf.RET_K:
        changed = bpf.ALLOW if k != bpf.ALLOW else bpf.KILL_PROCESS
        program[8 * at + 4 : 8 * at + 8] = changed.to_bytes(4, "little")
    elif code & 0x07 == 0x05:
        program[8 * at + 2], program[8 * at + 3] = program[8 * at + 3], program[8 * at + 2]
    else:
        return
    try:
        bpf.check(bytes(program))
    except bpf.BadProgram:
        return
    sockets = [(2, 1), (2, 3), (1, 1), (16, 3), (16, 3, 9), (2, 1, 99), (10, 2, 17), (17, 3), (2, 1, 6), (2, 2)]
    others = [(), (0x4000_0000,) * 6, (0, 0x5412), (0, 0x541C), (5, 5, 5), (0xFFFF_FFFF,) * 6]
    interesting: list[tuple[int, ...]] = [*others, *sockets]
    for number in [*range(600), 0x4000_0001, 0xFFFF_FFFF]:
        for given_arguments in interesting if number in CALLS[machine].values() else interesting[:1]:
            for arch in (ARCHES[machine], 0x4000_0003):
                before = bpf.run(seccomp.template_filter(machine), number=number, arch=arch, arguments=given_arguments)
                if bpf.run(bytes(program), number=number, arch=arch, arguments=given_arguments) != before:
                    return
    pytest.fail(f"instruction {at} can be changed and nothing notices: it is dead")


@pytest.mark.parametrize("machine", ARCHES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    """The names in our tables have the numbers of the installed kernel headers."""
    header = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed (linux-libc-dev)")
    text = header.read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    column = ("x86_64", "aarch64").index(machine)
    tables = {**seccomp.REFUSED, **seccomp.ABSENT, **seccomp.CHECKED, **seccomp.BY_PATH, **seccomp.IN_VAIN}
    tables |= {**seccomp.UNCOUNTED, **{name: numbers for name, (_, numbers) in seccomp.OF_OTHERS.items()}}
    tables |= {"utimensat": seccomp.UTIMENSAT, "fchmodat2": seccomp.FCHMODAT2}
    wrong = {
        name: (numbers[column], known[name])
        for name, numbers in tables.items()
        if name in known and known[name] != numbers[column]
    }
    assert not wrong
    found = sum(name in known for name in tables)
    assert found > 0.7 * len([n for n in tables.values() if n[column] is not None]), (
        f"only {found} names are in {header}"
    )
