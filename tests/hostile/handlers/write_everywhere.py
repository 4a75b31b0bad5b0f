"""Writes outside of /tmp, into its own code and packages. Must happen: refused everywhere."""

import os
import sys

from kit import Report


def handler(ctx, data=None):
    report = Report(data)
    here = os.path.dirname(os.path.abspath(__file__))
    report.facts["cwd"] = os.getcwd()
    code = {here, os.path.dirname(here), sys.prefix, os.path.dirname(os.__file__), os.path.dirname(sys.executable)}
    for directory in sorted(code):
        report.refused("wrote-own-code", lambda d=directory: write(f"{d}/stoker-hostile"))
    report.refused("wrote-own-code", lambda: os.open(__file__, os.O_WRONLY))
    report.refused("wrote-own-code", lambda: os.rename(here + "/kit.py", here + "/kit.away"))
    report.refused("wrote-own-code", lambda: os.unlink(here + "/kit.py"))
    report.refused("wrote-own-code", lambda: os.setxattr(__file__, "user.x", b"1"))
    for directory in ("/", "/etc", "/usr", "/var", "/var/tmp", "/root", "/home", "/run", "/dev", "/dev/shm", "/opt",
                      "/srv", "/proc", "/sys", "/lib", "/bin", "/python", *report.told["directories"]):  # fmt: skip
        if os.path.realpath(directory) == os.path.realpath(os.environ.get("TMPDIR", "/tmp")):
            continue  # another name of its own
        report.refused("wrote-outside", lambda d=directory: write(f"{d}/stoker-hostile"))
        report.refused("wrote-outside", lambda d=directory: make_and_remove(f"{d}/stoker-hostile-dir"))
    for file in ("/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/proc/self/oom_score_adj", "/proc/sys/kernel/hostname",
                 "/proc/sysrq-trigger", "/sys/power/state", *report.told["files"]):  # fmt: skip
        if file == "/proc/self/oom_score_adj":  # a process may volunteer to be killed first, not exempt itself
            report.refused("wrote-outside", lambda f=file: write(f, b"-1000", create=False))
        else:
            report.refused("wrote-outside", lambda f=file: os.close(os.open(f, os.O_WRONLY)))
    for path in (__file__, here, *report.told["files"], *report.told["directories"]):
        if what := change(path):
            report.violation("changed", f"{what} of {path}")
    write(os.environ.get("TMPDIR", "/tmp") + "/allowed")
    return report.reply()


def change(path):
    """Whether mode, times or owner of a file that it cannot open can be changed; judged by the effect, then undone."""
    try:
        before = os.stat(path)
    except OSError:
        return ""
    changed = ""
    try:
        os.chmod(path, before.st_mode ^ 0o1000)
        if os.stat(path).st_mode != before.st_mode:
            changed = "mode"
            os.chmod(path, before.st_mode)
    except OSError:
        pass
    try:
        os.utime(path, (1, 1))
        if os.stat(path).st_mtime == 1:
            changed += " times"
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    except OSError:
        pass
    return changed


def make_and_remove(path):
    os.mkdir(path)
    os.rmdir(path)


def write(path, data=b"x", create=True):
    fd = os.open(path, os.O_WRONLY | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
        if create:
            os.unlink(path)
    return path
