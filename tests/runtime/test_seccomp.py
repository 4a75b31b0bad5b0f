"""The system-call filters: every verdict, by running the programs in a small BPF machine; and what the kernel does."""

from __future__ import annotations

import errno
import os
import platform
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import seccomp

MACHINES = sorted(seccomp.ARCHITECTURES)
COLUMN = {"x86_64": 0, "aarch64": 1}
PROGRAMS = {
    (machine, inet, namespaces): seccomp.template_filter(machine, inet=inet, namespaces=namespaces)
    for machine in MACHINES
    for inet in (True, False)
    for namespaces in (True, False)
}
U32 = st.integers(0, 2**32 - 1)


def run(program: bytes, number: int, arch: int, *arguments: int) -> int:
    """The verdict of a program; an instruction that the kernel would not know is an error, and so is a jump outside."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", number - 2**32 if number >= 2**31 else number, arch, 0, *padded)
    instructions = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        code, yes, no, k = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x15:
                at += yes if accumulator == k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x25:
                at += yes if accumulator > k else no
            case 0x45:
                at += yes if accumulator & k else no
            case 0x54:
                accumulator &= k
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"instruction {code:#x}")


def verdict(machine: str, number: int, *arguments: int, inet: bool = True, namespaces: bool = True) -> int:
    return run(PROGRAMS[machine, inet, namespaces], number, seccomp.ARCHITECTURES[machine], *arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_refused_is_refused_and_nothing_else(machine: str) -> None:
    column = COLUMN[machine]
    refused = {numbers[column] for numbers in seccomp.REFUSED.values()} - {None}
    absent = {numbers[column] for numbers in seccomp.ABSENT.values()} - {None}
    checked = {numbers[column] for numbers in seccomp.CHECKED.values()}
    assert not refused & absent
    assert not checked & (refused | absent)
    for number in range(600):
        expected = seccomp.ALLOW
        if number in refused:
            expected = seccomp.refuse(errno.EPERM)
        elif number in absent or number > seccomp.NEWEST:
            expected = seccomp.refuse(errno.ENOSYS)
        if number not in checked:
            assert verdict(machine, number) == expected, number


@given(st.sampled_from(MACHINES), U32, U32)
def test_another_architecture_is_killed_whatever_it_calls(machine: str, number: int, arch: int) -> None:
    if arch != seccomp.ARCHITECTURES[machine]:
        for program in (PROGRAMS[machine, True, True], seccomp.instance_filter(machine)):
            assert run(program, number, arch) == seccomp.KILL


@given(U32)
def test_x32_is_killed(number: int) -> None:
    for program in (PROGRAMS["x86_64", True, True], seccomp.instance_filter("x86_64")):
        killed = run(program, number, seccomp.ARCHITECTURES["x86_64"], 0) == seccomp.KILL
        assert killed == (number >= seccomp.X32_BIT)


@given(st.sampled_from(sorted(PROGRAMS)), U32, st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_every_call_has_a_verdict(key: tuple[str, bool, bool], number: int, arguments: list[int]) -> None:
    machine = key[0]
    for program in (PROGRAMS[key], seccomp.instance_filter(machine)):
        found = run(program, number, seccomp.ARCHITECTURES[machine], *arguments)
        assert found in (seccomp.ALLOW, seccomp.KILL) or found >> 16 == 5


@given(st.sampled_from(MACHINES), st.integers(0, 2**64 - 1), st.booleans())
def test_which_namespaces_can_be_made(machine: str, flags: int, namespaces: bool) -> None:
    column = COLUMN[machine]
    low = flags & 0xFFFF_FFFF
    for name in ("clone", "unshare"):
        number = seccomp.CHECKED[name][column]
        bad = seccomp.NOT_OF_INSTANCES if namespaces else seccomp.EVERY_NAMESPACE
        every = seccomp.EVERY_NAMESPACE
        if name == "unshare":  # for clone the bit is part of the exit signal
            bad, every = bad | seccomp.CLONE_NEWTIME, every | seccomp.CLONE_NEWTIME
        allowed = verdict(machine, number, flags, namespaces=namespaces) == seccomp.ALLOW
        assert allowed == (not low & bad)
        own = run(seccomp.instance_filter(machine), number, seccomp.ARCHITECTURES[machine], flags)
        assert (own == seccomp.ALLOW) == (not low & every)


@given(
    st.sampled_from(MACHINES), st.booleans(), st.one_of(st.sampled_from([1, 2, 10, 16]), U32),
    st.one_of(st.sampled_from([1, 2, 3, 5, 10]), U32), st.one_of(st.sampled_from([0, 1, 6, 17, 58, 132, 262]), U32),
)  # fmt: skip
def test_which_sockets_can_be_made(machine: str, inet: bool, family: int, kind: int, protocol: int) -> None:
    found = verdict(machine, seccomp.CHECKED["socket"][COLUMN[machine]], family, kind, protocol, inet=inet)
    internet = inet and family in (2, 10)
    if not internet and family not in (1, 16):
        assert found == seccomp.refuse(errno.EAFNOSUPPORT)
    elif family == 1:
        assert found == seccomp.ALLOW
    elif family == 16:
        assert (found == seccomp.ALLOW) == (protocol == 0)
    elif kind & 0xF not in (1, 2):
        assert found == seccomp.refuse(errno.EPERM)
    else:
        assert (found == seccomp.ALLOW) == (protocol in (0, 6, 17))


@given(st.sampled_from(MACHINES), U32)
def test_terminals_and_personalities(machine: str, value: int) -> None:
    ioctl, personality = (seccomp.CHECKED[name][COLUMN[machine]] for name in ("ioctl", "personality"))
    assert verdict(machine, ioctl, 0, value) == seccomp.ALLOW or value in (0x5412, 0x541C)
    for wicked in (0x5412, 0x541C, 0x5412 | 1 << 32):
        assert verdict(machine, ioctl, 0, wicked) == seccomp.refuse(errno.EPERM)
    assert (verdict(machine, personality, value) == seccomp.ALLOW) == (value in (0, 0xFFFF_FFFF))


@pytest.mark.parametrize("machine", MACHINES)
def test_mounting(machine: str) -> None:
    mount = seccomp.CHECKED["mount"][COLUMN[machine]]
    assert verdict(machine, mount) == seccomp.ALLOW
    assert verdict(machine, mount, namespaces=False) == seccomp.refuse(errno.EPERM)
    own = run(seccomp.instance_filter(machine), mount, seccomp.ARCHITECTURES[machine])
    assert own == seccomp.refuse(errno.EPERM)


@given(st.sampled_from(MACHINES), st.integers(0, 2**64 - 1), U32)
def test_without_namespaces_the_filter_stands_in_for_them(machine: str, first: int, second: int) -> None:
    column = COLUMN[machine]

    def found(number: int | None, *arguments: int) -> int:
        return seccomp.ALLOW if number is None else verdict(machine, number, *arguments, namespaces=False)

    for own, numbers in seccomp.OF_OTHERS.values():
        mine = (first & 0xFFFF_FFFF, second)[: len(own)] == own
        assert found(numbers[column], first, second) == (seccomp.ALLOW if mine else seccomp.refuse(errno.EPERM))
        assert found(numbers[column], *own) == seccomp.ALLOW
        assert verdict(machine, numbers[column], first, second) == seccomp.ALLOW
    for numbers in seccomp.BY_PATH.values():
        assert numbers[column] is None or found(numbers[column]) == seccomp.refuse(errno.EPERM)
    for numbers in seccomp.IN_VAIN.values():
        assert numbers[column] is None or found(numbers[column]) == seccomp.refuse(0)
    for path in (first, 1 << 32, 0x7F00_0000_0000):
        assert (found(seccomp.UTIMENSAT[column], 3, path) == seccomp.ALLOW) == (path == 0)
    assert found(seccomp.UTIMENSAT[column], 3, 0) == seccomp.ALLOW
    assert found(seccomp.CHECKED["socket"][column], 1, 1, 0) == seccomp.refuse(errno.EAFNOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
def test_memory_that_nobody_counts(machine: str) -> None:
    number = seccomp.UNCOUNTED["memfd_create"][COLUMN[machine]]
    program = seccomp.template_filter(machine, memfd=False)
    assert verdict(machine, number) == seccomp.ALLOW
    assert run(program, number, seccomp.ARCHITECTURES[machine]) == seccomp.refuse(errno.ENOSYS)


def test_an_unknown_machine_has_no_filter() -> None:
    for build in (seccomp.template_filter, seccomp.instance_filter):
        with pytest.raises(ValueError, match="riscv64"):
            build("riscv64")


HEADERS = {
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = next((path for path in HEADERS[machine] if path.exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed (linux-libc-dev)")
    # The 64-bit numbers come first where a name has two.
    found: dict[str, int] = {}
    for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()):
        found.setdefault(name, int(number))
    column = COLUMN[machine]
    compared = 0
    others = {name: numbers for name, (_, numbers) in seccomp.OF_OTHERS.items()}
    others |= {"utimensat": seccomp.UTIMENSAT, "fchmodat2": seccomp.FCHMODAT2}
    more = (seccomp.UNCOUNTED, seccomp.BY_PATH, seccomp.IN_VAIN, others)
    for table in (seccomp.REFUSED, seccomp.ABSENT, seccomp.CHECKED, *more):
        for name, numbers in table.items():
            if name in found:
                assert numbers[column] == found[name], name
                compared += 1
            else:  # newer than the headers, or not of this architecture
                assert numbers[column] is None or numbers[column] > max(found.values()), name
    assert compared > 70


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no filter for this machine")
@pytest.mark.processes
def test_the_kernel_takes_the_programs() -> None:
    from runtime import linux, privileges

    for program in (PROGRAMS[platform.machine(), True, True], seccomp.instance_filter(platform.machine())):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                linux.set_no_new_privs()
                privileges.filter_system_calls(program)
                try:
                    os.unshare(0x0400_0000) if hasattr(os, "unshare") else privileges._libc.unshare(0x0400_0000)
                except PermissionError:
                    pass
                code = 0 if os.getpid() and "Seccomp:\t2" in Path("/proc/self/status").read_text() else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
