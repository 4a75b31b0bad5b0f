"""System calls by another door: x32 numbers, int 0x80, out-of-range numbers. Must happen: ENOSYS, EPERM or a kill."""

import ctypes
import mmap
import os

from kit import ARM, Report, in_child, syscall

X32 = 0x40000000
INT80_GETPID = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
INT80_GETUID = b"\xb8\x18\x00\x00\x00\xcd\x80\xc3"
INT80_SOCKET = (
    b"\xbb\x11\x00\x00\x00\xb9\x03\x00\x00\x00\xba\x00\x00\x00\x00\xb8\x67\x01\x00\x00\xcd\x80\xc3"  # socket(PACKET)
)


def handler(ctx, data=None):
    report = Report(data)
    if not ARM:
        for number in (39, 0, 101, 165, 272, 512, 520, 545):
            kind, value = in_child(lambda n=number: by_number(X32 | n))
            report.check(kind == "signal" or value in ("ENOSYS", "EPERM"), "x32", f"{number}: {kind} {value}")
        for code in (INT80_GETPID, INT80_GETUID, INT80_SOCKET):
            kind, value = in_child(lambda c=code: run_code(c))
            report.check(kind == "signal" or (kind == "value" and value < 0), "int80", f"{kind} {value}")
            report.facts["int80"] = f"{kind} {value}"
    for number in (-1, 100_000, 2**31 - 1, 335, 450 + 200):
        kind, value = in_child(lambda n=number: by_number(n))
        report.check(kind == "signal" or value in ("ENOSYS", "EPERM"), "odd-number", f"{number}: {kind} {value}")
    kind, value = in_child(os.getpid)
    report.check(kind == "value", "broken", "getpid must work")
    return report.reply()


def by_number(number):
    import errno

    try:
        return f"returned {syscall(number, 0, 0, 0, 0, 0, 0)}"
    except OSError as exc:
        return errno.errorcode[exc.errno]


def run_code(code):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()
