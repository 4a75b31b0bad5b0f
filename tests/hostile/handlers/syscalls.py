"""Forty calls that no function needs, with arguments that do nothing should they be let through.

Must happen: EPERM or ENOSYS from the filter, before the kernel looks at the arguments (EFAULT, EINVAL, EBADF say that
it did).
"""

from kit import ARM, Report, in_child, syscall

#         name: (x86-64, aarch64, arguments)
CALLS = {
    "ptrace": (101, 117, (999, 0, 0, 0)),
    "process_vm_readv": (310, 270, (-1, 0, 0, 0, 0, 0)),
    "process_vm_writev": (311, 271, (-1, 0, 0, 0, 0, 0)),
    "bpf": (321, 280, (999, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, -1, -1, 0)),
    "userfaultfd": (323, 282, (0xFFFF,)),
    "io_uring_setup": (425, 425, (0, 0)),
    "io_uring_enter": (426, 426, (-1, 0, 0, 0, 0, 0)),
    "io_uring_register": (427, 427, (-1, 0, 0, 0)),
    "keyctl": (250, 219, (9999, 0, 0, 0, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "request_key": (249, 218, (0, 0, 0, 0)),
    "kexec_load": (246, 104, (0, 9999, 0, 0)),
    "kexec_file_load": (320, 294, (-1, -1, 0, 0, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "finit_module": (313, 273, (-1, 0, 0)),
    "delete_module": (176, 106, (0, 0)),
    "open_by_handle_at": (304, 265, (-1, 0, 0)),
    "name_to_handle_at": (303, 264, (-1, 0, 0, 0, 0)),
    "pidfd_getfd": (438, 438, (-1, -1, 0)),
    "setns": (308, 268, (-1, 0)),
    "fsopen": (430, 430, (0, 0)),
    "fsmount": (432, 432, (-1, 0, 0)),
    "fspick": (433, 433, (-1, 0, 0)),
    "open_tree": (428, 428, (-1, 0, 0)),
    "move_mount": (429, 429, (-1, 0, -1, 0, 0)),
    "mount_setattr": (442, 442, (-1, 0, 0, 0, 0)),
    "swapon": (167, 224, (0, 0)),
    "swapoff": (168, 225, (0,)),
    "settimeofday": (164, 170, (1, 0)),
    "clock_settime": (227, 112, (9999, 0)),
    "clock_adjtime": (305, 266, (9999, 0)),
    "adjtimex": (159, 171, (0,)),
    "reboot": (169, 142, (0, 0, 0, 0)),
    "acct": (163, 89, (1,)),
    "quotactl": (179, 60, (0, 0, 0, 0)),
    "syslog": (103, 116, (9999, 0, 0)),
    "iopl": (172, None, (9,)),
    "ioperm": (173, None, (0, 0, 9)),
    "modify_ldt": (154, None, (9999, 0, 0)),
    "shmget": (29, 194, (0, 0, 0)),
    "semget": (64, 190, (0, -1, 0)),
    "msgget": (68, 186, (1, 0)),
    "mq_open": (240, 180, (0, 0, 0, 0)),
    "vhangup": (153, 58, ()),
    "lookup_dcookie": (212, 18, (0, 0, 0)),
    "nfsservctl": (180, 42, (0, 0, 0)),
    "move_pages": (279, 239, (0, 0, 0, 0, 0, 0x7FFF)),
    "migrate_pages": (256, 238, (0, 0, 0, 0)),
    "kcmp": (312, 272, (0, 0, 0, 0, 0)),
    "fanotify_init": (300, 262, (0xFFFFFFF, 0)),
}
CONDITIONAL = {"vhangup"}
"""Succeeds without arguments where it is allowed: only reported, in case there is a terminal to hang up."""


def handler(ctx, data=None):
    report = Report(data)
    for name, (x86, arm, arguments) in CALLS.items():
        number = arm if ARM else x86
        if number is None or name in CONDITIONAL:
            continue
        kind, value = in_child(lambda n=number, a=arguments: refusal(n, a))
        if (kind, value) == ("signal", 31) or (kind == "value" and value in ("EPERM", "ENOSYS")):
            report.facts[name] = str(value)
        else:
            report.violation(f"allowed-{name}", f"{kind} {value}")
    return report.reply()


def refusal(number, arguments):
    import errno

    try:
        return f"returned {syscall(number, *arguments)}"
    except OSError as exc:
        return errno.errorcode[exc.errno]
