"""Facts about the host: kernel log, addresses, hardware, other tenants. Must happen: nothing to read, nothing to set."""

import os

from kit import Report

UNREADABLE = (
    "/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/proc/kpagecount", "/proc/kpageflags", "/proc/iomem", "/proc/modules",
    "/proc/slabinfo", "/proc/vmallocinfo", "/proc/sched_debug", "/proc/timer_list", "/proc/keys", "/proc/config.gz",
    "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/firmware", "/sys/class/dmi/id/product_uuid",
    "/sys/kernel/vmcoreinfo", "/sys/fs/bpf", "/proc/acpi", "/proc/scsi", "/proc/bus", "/proc/latency_stats",
)  # fmt: skip
UNWRITABLE = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
    "/proc/sys/kernel/ns_last_pid", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/randomize_va_space", "/proc/sys/fs/binfmt_misc/register", "/sys/kernel/uevent_helper",
    "/proc/irq/default_smp_affinity",
)  # fmt: skip


def handler(ctx, data=None):
    report = Report(data)
    for path in UNREADABLE:
        try:
            content = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(256)
        except OSError:
            continue
        if path in ("/proc/kallsyms",) and not content.split(None, 1)[0].strip(b"0"):
            continue  # addresses hidden
        if content:
            report.violation("kernel-info", f"{path}: {content[:40]!r}")
    for path in UNWRITABLE:
        report.refused("kernel-writable", lambda p=path: os.close(os.open(p, os.O_WRONLY)))
    name = os.uname().nodename
    report.facts["hostname"] = name
    report.check(name != report.told["hostname"], "hostname", name) if report.told["own_uts"] else None
    try:
        with open("/proc/self/mountinfo") as file:
            lines = file.read()
        # Where a bind mount comes from shows, on every Linux: a path, no content.
        report.facts["mountinfo_tells"] = [told for told in report.told["paths"] if told in lines]
    except OSError as exc:
        report.facts["mountinfo"] = str(exc)
    return report.reply()
