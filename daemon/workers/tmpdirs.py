"""Directories of workers under the run directory: for temporary files, and for compiled modules of bundles."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import trio

PYCACHES_MAX = 256
"""Functions whose compiled modules are kept over a restart of the daemon."""


def prepare(run_dir: Path) -> None:
    """Make the directories, and remove what an earlier daemon left. Blocks; for the start of the daemon."""
    for name in ("tmp", "pycache", "root"):
        (run_dir / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for leftover in (run_dir / "tmp").iterdir():
        remove_tree(str(leftover))
    caches = sorted((run_dir / "pycache").iterdir(), key=lambda path: path.lstat().st_mtime)
    for stale in caches[:-PYCACHES_MAX]:
        remove_tree(str(stale))


def of_function(run_dir: Path, function_id: str) -> str:
    """Where the directories of one function's workers are."""
    return os.path.join(run_dir, "tmp", function_id)


def make(run_dir: Path, function_id: str, name: str) -> str:
    """A new directory for one worker's temporary files, where it has no root file system of its own."""
    path = os.path.join(of_function(run_dir, function_id), name)
    os.makedirs(path, 0o700)
    return path


def pycache(run_dir: Path, function_id: str) -> str:
    """Where a function's compiled modules go: one directory each, since functions trust each other with nothing.

    Its versions share it: what one of them compiled of their common dependencies the next one finds.
    """
    path = os.path.join(run_dir, "pycache", function_id)
    os.makedirs(path, 0o755, exist_ok=True)  # the one above it is closed; the function is perhaps another user
    return path


def forget_function(run_dir: Path, function_id: str) -> None:
    """Remove the compiled modules of a deleted function. Blocks."""
    remove_tree(os.path.join(run_dir, "pycache", function_id))


def forget_bundle(run_dir: Path, bundle_dir: str) -> None:
    """Remove what any function compiled of a bundle (or layer) that is gone from ``bundle_dir``. Blocks."""
    try:
        functions = os.listdir(os.path.join(run_dir, "pycache"))
    except FileNotFoundError:
        return
    for function_id in functions:
        # sys.pycache_prefix: the source's whole path below the prefix
        remove_tree(os.path.join(run_dir, "pycache", function_id, bundle_dir.lstrip("/")))


async def remove(path: str) -> None:
    """Remove a worker's directory with all that it left in there. Nothing writes to it any more."""
    try:
        os.rmdir(path)  # empty, as a rule
    except FileNotFoundError:
        pass
    except OSError:
        await trio.to_thread.run_sync(remove_tree, path)
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass  # the function has other workers


def remove_tree(path: str) -> None:
    """Remove whatever is at ``path``, following no link, to any depth, whatever the modes of what a function made.

    Errors are left alone: the next start of the daemon tries again.
    """
    try:
        parent, name = os.path.split(path)
        top = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _remove_at(top, name)
    finally:
        os.close(top)


def _remove_at(parent_fd: int, name: str) -> None:
    """Depth first with one open directory per level would run out of descriptors: deep directories are moved up."""
    try:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode):
            os.unlink(name, dir_fd=parent_fd)
            return
        top = _open_directory(parent_fd, name)
    except OSError:
        return
    number = 0
    try:
        while True:
            directories = _empty_files(top)
            if not directories:
                break
            for directory in directories:
                # What is in it comes up one level, under names of our own; then it is empty and can go.
                try:
                    inner = _open_directory(top, directory)
                except OSError:
                    return
                try:
                    for deeper in _empty_files(inner):
                        number += 1
                        os.chmod(deeper, 0o700, dir_fd=inner)  # moving a directory means to write into it
                        os.rename(deeper, f".stoker-{number}", src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(directory, dir_fd=top)
        os.rmdir(name, dir_fd=parent_fd)
    except OSError:
        return
    finally:
        os.close(top)


def _open_directory(parent_fd: int, name: str) -> int:
    """Open a directory, not a link to one, and make sure that it can be emptied."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=parent_fd)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent_fd)  # its owner is who we are; nobody else is left to swap it for a link
        fd = os.open(name, flags, dir_fd=parent_fd)
    os.fchmod(fd, 0o700)
    return fd


def _empty_files(fd: int) -> list[str]:
    """Remove everything in an open directory that is not a directory; the names of those that are."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return directories
