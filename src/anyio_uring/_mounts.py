"""Which file system is a file on, and may the loop's thread touch it without sleeping?

Decided by the mount, not by the device number: overlayfs and btrfs subvolumes report device
numbers that no mount table lists, and anonymous numbers (tmpfs, FUSE, NFS) are used again after
an unmount.
"""

from __future__ import annotations

import os
from typing import NamedTuple

# On these an open, a stat and the close of a cached, linked file stay in memory.
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"})
# These answer preadv2(RWF_NOWAIT); others refuse it (EOPNOTSUPP), which costs one call to learn.
NOWAIT = frozenset({"ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs"})
# Here the kernel makes a file up while it is read: what a second read finds at an offset need not
# belong to what the first one found before it, unless they follow each other on one descriptor.
MADE_UP = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "configfs"})

NOW_NEVER, NOW_NOWAIT, NOW_PLAIN, NOW_RESIDENT = range(4)


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    mount_id: int
    device: tuple[int, int]
    mountpoint: str
    fs_type: str
    source: str


def read_mounts() -> list[Mount]:
    """The mount table of this process; empty where /proc is not mounted."""
    try:
        with open(
            "/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as table:
            return [_parse(line.rstrip("\n")) for line in table]
    except OSError:
        return []


def _parse(line: str) -> Mount:
    fields = line.split(" ")  # no other white space is one to the kernel
    separator = fields.index("-", 6)
    major, minor = fields[2].split(":")
    mountpoint = fields[4]
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mountpoint = mountpoint.replace(code, character)
    return Mount(
        int(fields[0]),
        (int(major), int(minor)),
        mountpoint,
        fields[separator + 1],
        fields[separator + 2],
    )


def classify(mount_id: int, major: int, minor: int) -> tuple[str, int, bool]:
    """(file system, how its cached data is read without sleeping, local) of a mount.

    The loop's thread asks this, but for nothing that a driver or a disk has to answer.

    :param mount_id: as in mountinfo; -1 if the kernel does not tell (before 5.8)
    """
    for mount in read_mounts():
        if mount.mount_id == mount_id or (mount_id < 0 and mount.device == (major, minor)):
            return facts_of(mount.fs_type)
    return "unknown", NOW_NEVER, False


def facts_of(fs_type: str) -> tuple[str, int, bool]:
    if fs_type == "tmpfs":
        return fs_type, NOW_NEVER if has_swap() else NOW_PLAIN, True
    if fs_type == "overlay":
        return fs_type, NOW_RESIDENT, False
    now = NOW_NOWAIT if fs_type in NOWAIT and nowait_is_sound() else NOW_NEVER
    return fs_type, now, fs_type in LOCAL


def has_swap() -> bool:
    """Whether pages of tmpfs can be on a disk; True when it cannot be known."""
    try:
        with open("/proc/swaps", "rb") as table:
            return len(table.readlines()) > 1
    except OSError:
        return True


def is_whole(now: int, local: bool, major: int, minor: int) -> bool:
    """Whether a read of a regular file on a mount, also with RWF_NOWAIT, which others refuse, that
    stops within a page has met the end of the file: what is not in memory, or cannot be read, is a
    page at least.  For a worker thread: a device is asked.
    """
    return local and now == NOW_NOWAIT and not may_be_dax(major, minor)


def may_be_dax(major: int, minor: int) -> bool:
    """Whether a device is memory that files are read from directly, where a read stops in the
    middle of a page that has gone bad; True when it cannot be known.
    """
    if major == 0:
        return False  # no device
    for queue in ("queue", "../queue"):  # of a disk, or of the one that it is a part of
        try:
            with open(f"/sys/dev/block/{major}:{minor}/{queue}/dax", "rb") as answer:
                return answer.read().strip() != b"0"
        except OSError:
            continue
    return True


def nowait_is_sound() -> bool:
    """False on Linux 5.9 and 5.10, whose RWF_NOWAIT reads could report a false end of file."""
    version = os.uname().release.split(".")
    return version[:2] not in (["5", "9"], ["5", "10"])


def umask_is_kept() -> bool:
    """False before Linux 6.0, where a file opened with O_TMPFILE could be free of it."""
    return int(os.uname().release.partition(".")[0]) >= 6


def mount_of(path: str) -> Mount | None:
    """The mount that `path` (an existing one) is on, for reports."""
    path = os.path.realpath(path)
    best: Mount | None = None
    for mount in read_mounts():
        inside = path == mount.mountpoint or path.startswith(mount.mountpoint.rstrip("/") + "/")
        # Later lines lie on top of earlier ones
        if inside and (best is None or len(mount.mountpoint) >= len(best.mountpoint)):
            best = mount
    return best
