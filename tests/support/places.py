"""The file systems that tests run on, one after another, under the names of their parameters.

`find_ext4` looks for a directory on ext4 proper; the others are mounted.  What is missing here
(root, a program of mkfs) is a reason to skip, told by :exc:`NoPlaceError`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .mounts import MissingToolError, cannot_mount, fs_type, loop, overlay, tmpfs

KINDS = ["ext4", "xfs", "btrfs", "tmpfs", "overlay"]
_MIB = 1 << 20


class NoPlaceError(RuntimeError):
    """This file system cannot be had here, for this reason."""


@contextlib.contextmanager
def place(kind: str) -> Iterator[Path]:
    """A directory on a file system of this kind; overlay's lower layer is an ext4.

    :raises NoPlaceError: it cannot be had here
    """
    if kind == "ext4" and (base := _on_ext4()) is not None:
        path = Path(tempfile.mkdtemp(prefix="ext4-", dir=base))
        try:
            yield path
        finally:
            shutil.rmtree(path)
        return
    if (reason := cannot_mount()) is not None:
        raise NoPlaceError(reason)
    with contextlib.ExitStack() as stack:
        try:
            if kind == "tmpfs":
                path = stack.enter_context(tmpfs())
            elif kind == "overlay":
                path = stack.enter_context(overlay({}, stack.enter_context(loop("ext4")))).path
            else:
                path = stack.enter_context(loop(kind))
        except MissingToolError as error:
            raise NoPlaceError(str(error)) from error
        yield path


def _on_ext4() -> str | None:
    for directory in (tempfile.gettempdir(), "/var/tmp", os.getcwd()):
        with contextlib.suppress(OSError, LookupError):
            if fs_type(directory) == "ext4":
                return directory
    return None


def evict(fd: int, size: int) -> bool:
    """Take a clean file's pages out of the cache; False if some stayed, as on tmpfs they do."""
    os.fsync(fd)
    for _ in range(20):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if not _cached(fd, size):
            return True
    return False


def _cached(fd: int, size: int) -> bool:
    """Whether a read of any part would be served from memory, where the kernel says so."""
    buffer = bytearray(1)
    for offset in range(0, size, 1 << 16):
        try:
            os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError:
            return False  # it does not say (overlayfs, tmpfs)
        return True
    return False
