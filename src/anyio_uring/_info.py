"""`driver_info`: what would serve a run that starts now, and why.

It tells the same story as ``_runtime._driver`` and the drivers do, without a run; a test compares
it with what they do.  Nothing here is on a hot path, and nothing is opened for reading or writing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from . import _handle, _mounts, _probe
from ._settings import allowed_tiers, current_settings, workers_cap

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

    from ._probe import Verdict
    from ._settings import Settings

NOW = "now"
RING = "ring"
WORKER = "ring (kernel worker)"
THREAD = "thread"
POLLED = "event loop, then thread"


class DriverInfo(NamedTuple):
    """What serves files here, and why; as :func:`driver_info` returns it.

    :ivar driver: ``"uring"``, ``"thread"``, or ``"none"``: io_uring is required by the setting and
        cannot be had, so opening a file raises :exc:`UringUnavailableError`
    :ivar uring_available: whether this process can have an io_uring, whatever the settings say
    :ivar reason: why this driver
    :ivar compiled: whether the compiled core is installed; without it everything goes to threads
    :ivar kernel: name and release of the operating system's kernel
    :ivar remedy: what to do to have io_uring; empty if there is nothing to be done
    :ivar errno: what the kernel answered when it refused a ring
    :ivar setup_flags: flags that this kernel accepts for a ring
    :ivar features: feature bits of its io_uring, of those that matter here
    :ivar operations: operations that the ring serves
    :ivar missing_operations: those it lacks; threads serve them
    :ivar workers_max: kernel worker threads that a loop may use (0: no ring)
    :ivar path: the path that was asked about, or None
    :ivar file_system: the type of the file system it is on, as the kernel names it; "unknown" where
        that cannot be told
    :ivar tiers: for that path (for the files in it, if it is a directory): what is done -> the tier
        that serves it.  A text that begins with ``now``, ``ring`` or ``thread`` (``event loop`` for
        streams without a ring)

    >>> import anyio_uring
    >>> info = anyio_uring.driver_info()
    >>> info.driver in ("uring", "thread")
    True
    """

    driver: Literal["uring", "thread", "none"]
    uring_available: bool
    reason: str
    compiled: bool
    kernel: str
    remedy: str = ""
    errno: int | None = None
    setup_flags: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    missing_operations: tuple[str, ...] = ()
    workers_max: int = 0
    path: str | None = None
    file_system: str | None = None
    tiers: Mapping[str, str] = MappingProxyType({})


def driver_info(path: StrOrBytesPath | None = None) -> DriverInfo:
    """Say which driver a run that starts now would have, why, and what it would serve how.

    Needs no event loop.  The first call in a process makes a ring and gives it up again.  With a
    path it looks the path up, which can wait for a disk or a server.

    :param path: also tell about this file, or the files in this directory
    :raises FileNotFoundError: `path` does not exist; likewise the other errors of a path
    :raises ValueError: ``ANYIO_URING_DRIVER`` holds something that is no driver

    >>> import anyio_uring
    >>> "cached read" in anyio_uring.driver_info("/etc/passwd").tiers
    True
    """
    settings = current_settings()
    verdict = _probe.probe()
    driver, reason, remedy = _choice(settings, verdict)
    name: str | None = None
    file_system: str | None = None
    tiers: dict[str, str] = {}
    if path is not None:
        name = os.fsdecode(path)
        st_mode, file_system, now, local = _facts(path)
        has = set(verdict.operations) if driver == "uring" else set()
        if not _handle.COMPILED or NOW not in allowed_tiers():
            now, local = _mounts.NOW_NEVER, False
        tiers = _tiers_of(st_mode, file_system, now, local, has)
    cap = workers_cap(settings)
    import platform  # takes longer to import than this module

    return DriverInfo(
        driver=driver,
        uring_available=verdict.available,
        reason=reason,
        remedy=remedy,
        errno=verdict.errno,
        compiled=_handle.COMPILED,
        kernel=f"{platform.system()} {platform.release()}",
        setup_flags=verdict.setup_flags,
        features=verdict.features,
        operations=verdict.operations,
        missing_operations=verdict.missing_operations,
        workers_max=cap if driver == "uring" else 0,
        path=name,
        file_system=file_system,
        tiers=MappingProxyType(tiers),
    )


def _choice(
    settings: Settings, verdict: Verdict
) -> tuple[Literal["uring", "thread", "none"], str, str]:
    """(driver, reason, remedy), by the rules of ``_runtime._driver``."""
    if settings.driver == "thread":
        return (
            "thread",
            "the driver setting is 'thread' (configure(), or ANYIO_URING_DRIVER)",
            "" if not verdict.available else "Set it to 'auto' to use io_uring.",
        )
    if "ring" not in allowed_tiers():
        return "thread", "anyio_uring.testing.force_tiers leaves the ring out", ""
    if verdict.available:
        return "uring", verdict.reason, ""
    if settings.driver == "uring":
        return "none", f"the driver setting is 'uring', and {verdict.reason}", verdict.remedy
    return "thread", verdict.reason, verdict.remedy


def _facts(path: StrOrBytesPath) -> tuple[int, str, int, bool]:
    """(st_mode, file system, NOW_*, local) of what a path names."""
    if not hasattr(os, "O_PATH"):
        return os.stat(path).st_mode, "unknown", _mounts.NOW_NEVER, False
    # Not opened: that could wait for a peer, or have an effect (a tape, a watchdog)
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if _handle.COMPILED:
            st_mode, _, _, file_system, now, local = _handle.fd_facts(fd)
            return st_mode, file_system, now, local
        mount = _mounts.mount_of(os.fsdecode(path))
        file_system = "unknown" if mount is None else mount.fs_type
        return os.fstat(fd).st_mode, file_system, _mounts.NOW_NEVER, False
    finally:
        os.close(fd)


def _tiers_of(
    st_mode: int, file_system: str, now: int, local: bool, has: set[str]
) -> dict[str, str]:
    """What is done -> the tier that serves it; `has`: the ring's operations."""
    if not (stat.S_ISREG(st_mode) or stat.S_ISDIR(st_mode) or stat.S_ISBLK(st_mode)):
        worker, waiting = (WORKER, RING) if has else (THREAD, POLLED)
        return {"open": worker, "read": waiting, "write": waiting, "close": worker}

    def tier(operation: str, now_first: bool = False) -> str:
        rest = WORKER if operation in has else THREAD
        return f"{NOW}, else {rest}" if now_first else rest

    # These file systems tell io_uring when a page has come; elsewhere a worker waits for it.
    cold = RING if file_system in _mounts.NOWAIT and "read" in has else tier("read")
    if now == _mounts.NOW_PLAIN:
        cold = NOW  # tmpfs without swap: nothing is ever cold
    cached = cold if now == _mounts.NOW_NEVER else NOW
    if now == _mounts.NOW_RESIDENT:
        cached = f"{NOW} if this user owns or may write the file, else {cold}"
    # Overlayfs is no local file system for certain; what is opened read-only is, by all we know
    open_now = local or now == _mounts.NOW_RESIDENT
    return {
        "open": tier("openat", open_now),
        "create": tier("openat"),
        "cached read": cached,
        "cold read": cold,
        "large read": tier("read"),
        "write": tier("write"),
        "truncate": tier("ftruncate"),
        "fsync": tier("fsync"),
        "size": tier("statx", local),
        "stat of a path": tier("statx", open_now),
        "change of a directory": tier("rename"),
        "list of a directory": THREAD,
        "close": tier("close", open_now),
        "close after writing": tier("close"),
    }
