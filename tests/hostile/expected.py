"""Attacks that today"s sandbox lets through, by configuration, with the layer that is missing. Each is a strict
expectation: the day it is held off, its line must go.
"""

from __future__ import annotations

_LET_THROUGH: list[tuple[str, str, str, str]] = [
    # attack, configurations, names of violations, what is missing
    ("abi_tricks", "no-userns user root cgroup2", "int80", "seccomp"),
    ("cgroup_escape", "root cgroup2", "cgroup-mkdir cgroup-writable", "the new root"),
    ("devices", "root cgroup2", "mknod opened-device", "the new root"),
    ("devices", "no-userns user", "opened-device", "the new root"),
    ("disk_fill_tmp", "no-userns user root cgroup2", "tmp-over-limit tmp-without-limit", "a /tmp of its own"),
    ("fd_exhaustion", "root cgroup2", "in-flight-without-limit", "no capabilities"),
    ("fork_bomb", "user cgroup2 no-userns", "no-answer", "a limit on processes"),
    ("inode_fill_tmp", "root user cgroup2 no-userns", "inodes-over-limit inodes-without-limit", "a /tmp of its own"),
    ("kernel_info", "root user cgroup2", "hostname kernel-info kernel-writable", "the new root"),
    ("kernel_info", "no-userns", "kernel-info kernel-writable", "the new root"),
    ("kill_others", "root user cgroup2 no-userns", "kill kill-all pidfd-kill tgkill tkill", "the pid namespace"),
    ("mem_at_import", "root", "wrong-outcome", "a report by the cgroup of a killed import"),
    ("mem_tmpfs_memfd", "root", "left-behind", "a /tmp of its own, and a cgroup"),
    ("mem_tmpfs_memfd", "user cgroup2 no-userns", "memory-over-limit", "a /tmp of its own, and a cgroup"),
    (
        "namespaces",
        "root cgroup2",
        "bind-mount clone-cgroup clone-ipc clone-mnt clone-net clone-pid clone-user clone-uts clone3-cgroup clone3-ipc clone3-mnt clone3-net clone3-pid clone3-time clone3-user clone3-uts fsopen left-behind mount mount-left mount_setattr move_mount open_tree remount sethostname setns umount unshare-cgroup unshare-ipc unshare-mnt unshare-net unshare-pid unshare-time unshare-user unshare-uts",
        "seccomp",
    ),
    ("namespaces", "user no-userns", "clone-user clone3-user setns unshare-user", "seccomp"),
    ("net_raw", "user no-userns", "netlink odd-family", "seccomp"),
    ("net_raw", "root cgroup2", "netlink odd-family raw-socket", "seccomp"),
    (
        "net_reach",
        "user no-userns root cgroup2",
        "reached-abstract reached-host reached-metadata reached-socket",
        "the network namespace",
    ),
    ("path_tricks", "root cgroup2", "chroot escaped-root open-by-handle pivot-root", "the new root"),
    ("path_tricks", "user no-userns", "escaped-root", "the new root"),
    ("privileges", "no-userns", "bounding-set", "a uid of its own and no capabilities"),
    ("privileges", "user", "bounding-set uid", "a uid of its own and no capabilities"),
    ("privileges", "root cgroup2", "no-answer", "a uid of its own and no capabilities"),
    ("prlimit_others", "cgroup2", "affinity nice priority read-limits realtime scheduler", "the pid namespace"),
    ("prlimit_others", "root", "affinity nice priority read-limits scheduler", "the pid namespace"),
    ("prlimit_others", "user no-userns", "affinity priority read-limits scheduler", "the pid namespace"),
    ("proc_of_others", "root cgroup2", "canary-found read-others saw-others", "the pid namespace"),
    ("proc_of_others", "user no-userns", "read-others saw-others", "the pid namespace"),
    (
        "ptrace_others",
        "user no-userns root cgroup2",
        "kcmp pidfd-getfd proc-mem ptrace-allowed vm-read vm-write",
        "seccomp",
    ),
    ("read_host_files", "user no-userns root cgroup2", "canary-found listed-secret read-secret", "the new root"),
    (
        "syscalls",
        "root cgroup2",
        "allowed-acct allowed-add_key allowed-adjtimex allowed-bpf allowed-clock_adjtime allowed-clock_settime allowed-fanotify_init allowed-fsmount allowed-fsopen allowed-fspick allowed-io_uring_enter allowed-io_uring_register allowed-io_uring_setup allowed-kcmp allowed-keyctl allowed-migrate_pages allowed-modify_ldt allowed-mount_setattr allowed-move_mount allowed-move_pages allowed-mq_open allowed-msgget allowed-name_to_handle_at allowed-open_by_handle_at allowed-open_tree allowed-perf_event_open allowed-pidfd_getfd allowed-process_vm_readv allowed-process_vm_writev allowed-ptrace allowed-quotactl allowed-reboot allowed-request_key allowed-semget allowed-setns allowed-settimeofday allowed-shmget allowed-swapoff allowed-swapon allowed-syslog allowed-userfaultfd",
        "seccomp",
    ),
    (
        "syscalls",
        "user no-userns",
        "allowed-add_key allowed-adjtimex allowed-bpf allowed-clock_adjtime allowed-clock_settime allowed-io_uring_enter allowed-io_uring_register allowed-io_uring_setup allowed-kcmp allowed-keyctl allowed-migrate_pages allowed-modify_ldt allowed-mount_setattr allowed-move_pages allowed-mq_open allowed-msgget allowed-name_to_handle_at allowed-open_by_handle_at allowed-open_tree allowed-perf_event_open allowed-pidfd_getfd allowed-process_vm_readv allowed-process_vm_writev allowed-ptrace allowed-quotactl allowed-request_key allowed-semget allowed-setns allowed-settimeofday allowed-shmget allowed-userfaultfd",
        "seccomp",
    ),
    ("sysv_ipc", "user no-userns root cgroup2", "ipc-on-host", "the ipc namespace"),
    ("thread_bomb", "user no-userns cgroup2", "no-process-limit", "a limit on processes"),
    ("write_everywhere", "root cgroup2", "left-behind touched-outside wrote-outside wrote-own-code", "the new root"),
    ("write_everywhere", "user no-userns", "touched-outside wrote-outside wrote-own-code", "the new root"),
    ("fork_bomb_tree", "user no-userns cgroup2", "no-process-limit", "sometimes: a limit on processes"),
]

EXPECTED = {
    (configuration, attack): (frozenset(names.split()), f"{missing} is missing")
    for attack, configurations, names, missing in _LET_THROUGH
    for configuration in configurations.split()
}
"""``(configuration, attack): (names of violations, why)``."""
