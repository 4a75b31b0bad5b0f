"""The system-call filters of workers, built by hand for x86-64 and aarch64. Pure: numbers in, a BPF program out.

Two filters, since a process can only add to what it has. The *template's* refuses what no function needs and what has
been a way out of a sandbox: other processes' memory, kernel programs and rings, keys, modules, mounts by the new
interface, file handles, odd address families, raw sockets, time, System V IPC. Namespaces of the kinds that an instance
is made of, and `mount`, are left to it. The *instance's* is short and refuses these as well.

Sources: linux/seccomp.h, linux/bpf_common.h, linux/audit.h, and the numbers of asm/unistd_64.h (x86-64) and
asm-generic/unistd.h (aarch64). A generated filter by libseccomp would cost each worker 13 ms; these cost 0.2.
"""

from __future__ import annotations

import errno
import struct

TYPE_CHECKING = False  # the real one costs an import of typing in every worker
if TYPE_CHECKING:
    from collections.abc import Iterable

X86_64, AARCH64 = "x86_64", "aarch64"
ARCHITECTURES = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
"""AUDIT_ARCH_* of linux/audit.h by the name that `os.uname` has."""
_COLUMN = {X86_64: 0, AARCH64: 1}
X32_BIT = 0x4000_0000
"""Set in the number of every system call of the x32 interface, which looks like x86-64 otherwise."""
NEWEST = 469
"""The last system call known here (file_setattr, Linux 6.17); newer ones do not exist for a function."""

KILL, ALLOW, _ERRNO = 0x8000_0000, 0x7FFF_0000, 0x0005_0000  # SECCOMP_RET_KILL_PROCESS, _ALLOW, _ERRNO

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x0002_0000, 0x0200_0000, 0x0400_0000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000
OF_INSTANCES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC
"""The namespaces that an instance gets, so that its template must be able to make them."""
NOT_OF_INSTANCES = CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWCGROUP
EVERY_NAMESPACE = OF_INSTANCES | NOT_OF_INSTANCES

REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    # the kernel's programs and rings
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    # keys, kernel, modules, machine
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "reboot": (169, 142), "syslog": (103, 116), "acct": (163, 89), "vhangup": (153, 58), "swapon": (167, 224),
    "swapoff": (168, 225), "quotactl": (179, 60), "quotactl_fd": (443, 443), "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42), "ioperm": (173, None), "iopl": (172, None), "modify_ldt": (154, None),
    "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None),
    "create_module": (174, None), "get_kernel_syms": (177, None), "query_module": (178, None),
    # files by handle, mounts
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "setns": (308, 268), "chroot": (161, 51),
    "pivot_root": (155, 41), "umount2": (166, 39), "open_tree": (428, 428), "open_tree_attr": (467, 467),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # time and names
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162),
    # System V IPC, queues
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183), "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
    # memory
    "memfd_secret": (447, 447), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450), "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
"""EPERM. Name: number on x86-64, on aarch64; None: the architecture has no such call."""
ABSENT: dict[str, tuple[int | None, int | None]] = {
    # ENOSYS, so that a C library takes the older way. clone3 has its flags in memory, where no filter can see them.
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
UNCOUNTED: dict[str, tuple[int, int]] = {"memfd_create": (319, 279)}
"""ENOSYS where no control group counts the memory: pages of such a file that nobody has mapped are nobody's."""
BY_PATH: dict[str, tuple[int | None, int | None]] = {
    "chown": (92, None), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "setxattrat": (463, 463), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
"""EPERM where there are no namespaces: Landlock has no rights for these, and the user is the daemon's."""
IN_VAIN: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmodat": (268, 53), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
}  # fmt: skip
"""Likewise, but they say that they have done it: half of all programs that copy or unpack files need that."""
OF_OTHERS: dict[str, tuple[tuple[int, ...], tuple[int, int]]] = {
    "prlimit64": ((0,), (302, 261)), "sched_setaffinity": ((0,), (203, 122)), "sched_setscheduler": ((0,), (144, 119)),
    "sched_setparam": ((0,), (142, 118)), "sched_setattr": ((0,), (314, 274)), "setpriority": ((0, 0), (141, 140)),
    "ioprio_set": ((1, 0), (251, 30)),
}  # fmt: skip
"""EPERM likewise, unless the first arguments are these: the process means itself. And the numbers."""
UTIMENSAT, FCHMODAT2 = (280, 88), (452, 452)
CHECKED: dict[str, tuple[int, int]] = {
    "socket": (41, 198), "clone": (56, 220), "unshare": (272, 97), "ioctl": (16, 29), "personality": (135, 92),
    "mount": (165, 40),
}  # fmt: skip

_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _DGRAM, _TYPE_MASK = 1, 2, 0xF
_TCP, _UDP, _NETLINK_ROUTE = 6, 17, 0
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
"""Push characters into a terminal's input; and into the console's."""
_PERSONALITY_QUERY = 0xFFFF_FFFF

# linux/bpf_common.h: load a word of struct seccomp_data; compare; mask; return
_LD, _JEQ, _JGE, _JGT, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x25, 0x45, 0x54, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

INSTRUCTIONS_MAX = 4096
"""BPF_MAXINSNS of linux/bpf_common.h."""

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k


def refuse(number: int) -> int:
    """The verdict that makes a system call fail with errno ``number``."""
    return _ERRNO | number


def template_filter(machine: str, *, inet: bool = True, namespaces: bool = True, memfd: bool = True) -> bytes:
    """The filter of a function version's template, and so of all its instances.

    ``machine`` as `os.uname` has it. ``inet``: sockets to the network can be made at all. ``namespaces``: instances get
    namespaces of their own, made by the template. Without them it refuses those, and stands in for what they would
    separate: other processes' settings, attributes of files, UNIX sockets with a name (the daemon's is one).
    ``memfd``: files in memory can be made.

    Raises:
      ValueError: no filter for this machine.
    """
    column = _column(machine)
    program = _prologue(machine)
    clone_refused = NOT_OF_INSTANCES if namespaces else EVERY_NAMESPACE
    program += _checked("socket", column, _socket(inet, local=namespaces))
    program += _checked("clone", column, _if_any_bit(0, clone_refused))
    program += _checked("unshare", column, _if_any_bit(0, clone_refused | CLONE_NEWTIME))
    program += _checked("ioctl", column, _if_equal(1, (_TIOCSTI, _TIOCLINUX)))
    program += _checked("personality", column, _unless_equal(0, (0, _PERSONALITY_QUERY)))
    verdicts = [(name[column], refuse(errno.EPERM)) for name in REFUSED.values()]
    verdicts += [(name[column], refuse(errno.ENOSYS)) for name in ABSENT.values()]
    if not memfd:
        verdicts += [(name[column], refuse(errno.ENOSYS)) for name in UNCOUNTED.values()]
    if not namespaces:
        program += _shared_world(column)
        verdicts.append((CHECKED["mount"][column], refuse(errno.EPERM)))
        verdicts.append((FCHMODAT2[column], refuse(errno.ENOSYS)))  # C libraries then call fchmodat
        verdicts += [(name[column], refuse(errno.EPERM)) for name in BY_PATH.values()]
        verdicts += [(name[column], refuse(0)) for name in IN_VAIN.values()]
    for low, high, verdict in _ranges((number, verdict) for number, verdict in verdicts if number is not None):
        if low == high:
            program += [(_JEQ, 0, 1, low), (_RET, 0, 0, verdict)]
        else:
            program += [(_JGE, 0, 2, low), (_JGT, 1, 0, high), (_RET, 0, 0, verdict)]
    program += [(_JGT, 0, 1, NEWEST), (_RET, 0, 0, refuse(errno.ENOSYS)), (_RET, 0, 0, ALLOW)]
    return _encode(program)


def instance_filter(machine: str) -> bytes:
    """What an instance adds to its template's filter: no more namespaces, no mounts.

    Raises:
      ValueError: no filter for this machine.
    """
    column = _column(machine)
    program = _prologue(machine)
    program += _checked("clone", column, _if_any_bit(0, EVERY_NAMESPACE))
    program += _checked("unshare", column, _if_any_bit(0, EVERY_NAMESPACE | CLONE_NEWTIME))
    program += [(_JEQ, 0, 1, CHECKED["mount"][column]), (_RET, 0, 0, refuse(errno.EPERM)), (_RET, 0, 0, ALLOW)]
    return _encode(program)


def _column(machine: str) -> int:
    if machine not in _COLUMN:
        raise ValueError(f"no system-call filter for {machine}: there are those of {', '.join(_COLUMN)}")
    return _COLUMN[machine]


def _prologue(machine: str) -> list[Instruction]:
    """Another architecture's calls have other numbers: whoever makes one is killed. Leaves the number loaded."""
    program = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, ARCHITECTURES[machine]),
        (_RET, 0, 0, KILL),
        (_LD, 0, 0, _NUMBER),
    ]
    if machine == X86_64:
        # 0xFFFFFFFF, "no system call", is above the bit as well, but ptrace, which could set it, is refused.
        program += [(_JGE, 0, 1, X32_BIT), (_RET, 0, 0, KILL)]
    return program


def _checked(name: str, column: int, block: list[Instruction]) -> list[Instruction]:
    """``block`` for that call only; every way through it ends in a verdict."""
    return _for(CHECKED[name][column], block)


def _for(number: int, block: list[Instruction]) -> list[Instruction]:
    return [(_JEQ, 0, len(block), number), *block]


def _shared_world(column: int) -> list[Instruction]:
    """What processes of one user may do to each other and to files that they cannot open."""
    program: list[Instruction] = []
    for own, numbers in OF_OTHERS.values():
        block: list[Instruction] = []
        for index, value in enumerate(own):
            block += [_argument(index), (_JEQ, 1, 0, value), (_RET, 0, 0, refuse(errno.EPERM))]
        program += _for(numbers[column], [*block, (_RET, 0, 0, ALLOW)])
    # With a path, whose address may have a low half of 0: in vain. Without one it is futimens, of a file that is open.
    by_path: list[Instruction] = []
    for half in (_argument(1), (_LD, 0, 0, _ARGUMENTS + 8 + 4)):
        by_path += [half, (_JEQ, 1, 0, 0), (_RET, 0, 0, refuse(0))]
    return program + _for(UTIMENSAT[column], [*by_path, (_RET, 0, 0, ALLOW)])


def _argument(index: int) -> Instruction:
    """Load the low half of an argument: all that are looked at are ints, or flags within 32 bits."""
    return (_LD, 0, 0, _ARGUMENTS + 8 * index)


def _if_any_bit(index: int, bits: int) -> list[Instruction]:
    return [_argument(index), (_JSET, 0, 1, bits), (_RET, 0, 0, refuse(errno.EPERM)), (_RET, 0, 0, ALLOW)]


def _if_equal(index: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(index), *tests, (_RET, 0, 0, ALLOW), (_RET, 0, 0, refuse(errno.EPERM))]


def _unless_equal(index: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(index), *tests, (_RET, 0, 0, refuse(errno.EPERM)), (_RET, 0, 0, ALLOW)]


def _socket(inet: bool, local: bool) -> list[Instruction]:
    """NETLINK_ROUTE, which C libraries ask for addresses; TCP and UDP if ``inet``; UNIX if ``local``, pairs always.

    Nothing raw, and no other protocol: MPTCP and SCTP would get round Landlock's rules for TCP.
    """
    netlink = [_argument(2), *_unless_equal(2, (_NETLINK_ROUTE,))[1:]]
    netlink[-2] = (_RET, 0, 0, refuse(errno.EPROTONOSUPPORT))
    internet = [
        _argument(1),
        (_AND, 0, 0, _TYPE_MASK),
        (_JEQ, 2, 0, _STREAM),
        (_JEQ, 1, 0, _DGRAM),
        (_RET, 0, 0, refuse(errno.EPERM)),
        _argument(2),
        (_JEQ, 3, 0, 0),
        (_JEQ, 2, 0, _TCP),
        (_JEQ, 1, 0, _UDP),
        (_RET, 0, 0, refuse(errno.EPROTONOSUPPORT)),
        (_RET, 0, 0, ALLOW),
    ]
    families = [(_NETLINK, 1)] + ([(_UNIX, 0)] if local else []) + ([(_INET, 2), (_INET6, 2)] if inet else [])
    program = [_argument(0)]
    # After the tests: refused; then allowed (UNIX); then netlink's block; then the internet's.
    starts = [1, 2, 2 + len(netlink)]
    for i, (family, target) in enumerate(families):
        program.append((_JEQ, len(families) - 1 - i + starts[target], 0, family))
    program += [(_RET, 0, 0, refuse(errno.EAFNOSUPPORT)), (_RET, 0, 0, ALLOW), *netlink]
    return program + (internet if inet else [])


def _ranges(verdicts: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Neighbouring numbers with one verdict as (first, last, verdict): fewer instructions, a cheaper installation."""
    ranges: list[tuple[int, int, int]] = []
    for number, verdict in sorted(verdicts):
        if ranges and ranges[-1][1] == number - 1 and ranges[-1][2] == verdict:
            ranges[-1] = (ranges[-1][0], number, verdict)
        else:
            ranges.append((number, number, verdict))
    return ranges


def _encode(program: list[Instruction]) -> bytes:
    assert len(program) <= INSTRUCTIONS_MAX
    assert all(jt < 256 and jf < 256 for _, jt, jf, _ in program)
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
