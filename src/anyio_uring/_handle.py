"""`Handle`: an open descriptor and what is known about it; compiled, or its portable twin.

Which one is decided by what was built, not by what can be imported: a broken extension must fail
loudly instead of becoming the slow version.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from . import _mounts

__all__ = [
    "COMPILED",
    "CROWD",
    "MISS",
    "Errand",
    "Handle",
    "HandleOwner",
    "admitted",
    "ask_open",
    "ask_read",
    "ask_stat",
    "close_quick",
    "closes_quickly",
    "fd_facts",
    "open_now",
    "open_plain",
    "open_quick",
    "path_text",
    "plain_attributes",
    "pread_now",
    "read_now",
    "read_path_now",
    "read_quick",
    "remember",
    "seen_quick",
    "set_plain_files",
    "stat_now",
    "stat_quick",
]

try:
    import_module(f"{__package__}._uring")
except ModuleNotFoundError as missing:  # it was not built, or a module that it needs is not there
    if missing.name != f"{__package__}._uring":
        raise
    COMPILED = False
else:
    COMPILED = True
MISS = -1
_Function = TypeVar("_Function", bound=Callable[..., Any])


class PortableHandle:
    """The same facts without the compiled core; everything but the bookkeeping is a MISS."""

    __slots__ = (
        "__weakref__",
        "_mutex",
        "align",
        "append",
        "blksize",
        "busy",
        "closefd",
        "closes_now",
        "closing",
        "direct",
        "fd",
        "guard",
        "inflight",
        "kept",
        "local",
        "meter",
        "nonblocking",
        "now",
        "open_flags",
        "position",
        "readable",
        "regular",
        "seekable",
        "shared",
        "st_mode",
        "tried",
        "twin",
        "when_idle",
        "writable",
    )

    def __init__(
        self,
        fd: int,
        open_flags: int,
        *,
        closefd: bool = True,
        st_mode: int = 0,
        blksize: int = 0,
        now: int = 0,
        local: bool = False,
    ) -> None:
        access = open_flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
        self.fd = fd
        self.open_flags = open_flags
        self.closefd = closefd
        self.closes_now = False
        self.readable = access != os.O_WRONLY
        self.writable = access != os.O_RDONLY
        self.append = bool(open_flags & os.O_APPEND)
        self.nonblocking = bool(open_flags & getattr(os, "O_NONBLOCK", 0))
        self.direct = bool(open_flags & getattr(os, "O_DIRECT", 0))
        self.st_mode = st_mode
        self.blksize = blksize
        self.regular = stat.S_ISREG(st_mode)
        self.seekable = self.regular or stat.S_ISBLK(st_mode)
        self.local = local and self.regular
        self.now = now
        self.inflight = 0
        self.shared = self.closing = self.busy = self.tried = False
        self.position = self.align = 0
        self.guard: Any = None
        self.twin: Any = None
        self.kept = b""
        self.meter: Any = None
        self.when_idle: Callable[[], object] | None = None
        self._mutex = threading.Lock()

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0 and self.closefd:
            os.close(self.release())

    @property
    def closed(self) -> bool:
        return self.fd < 0 or self.closing

    def release(self) -> int:
        fd, self.fd, self.closing = self.fd, -1, True
        return fd

    def join(self) -> None:
        with self._mutex:
            self.inflight += 1

    def leave(self) -> None:
        with self._mutex:
            self.inflight -= 1
            if self.inflight or self.when_idle is None:
                return
            callback, self.when_idle = self.when_idle, None
        callback()

    def call_when_idle(self, callback: Callable[[], object]) -> bool:
        with self._mutex:
            if self.inflight == 0:
                return False
            self.when_idle = callback
            return True

    def pread(self, size: int, offset: int) -> bytes | None:
        return None

    def read(self, size: int) -> bytes | None:
        return None

    def pread_cached(self, size: int, offset: int) -> bytes | None:
        return None

    def fill_cached(self, whole: bytes, start: int, size: int, offset: int) -> int:
        return MISS

    def readinto_cached(self, buffer: Any, offset: int) -> int:
        return MISS

    def size_now(self) -> int:
        return MISS

    def close_now(self) -> int:
        return MISS


class PortableHandleOwner:
    """What a file object has of its handle without the compiled core."""

    _handle = PortableHandle(-1, 0)  # of a file that has not been initialised: it is closed
    _buffer: Any = None
    _text: Any = None
    _last_job: Any = None

    def __init__(
        self,
        handle: PortableHandle,
        name: object,
        mode: str,
        limiter: object = None,
        buffer: Any = None,
    ) -> None:
        self._handle = handle
        self._name = name
        self._mode = mode
        self._limiter = limiter
        self._buffer = buffer
        self._lines: dict[None, Any] = {}

    @property
    def _line(self) -> Any:
        if None not in self._lines:
            file: Any = self
            self._lines.setdefault(None, file._new_line())  # one step, whatever other threads do
        return self._lines[None]

    @_line.setter
    def _line(self, line: Any) -> None:
        self._lines[None] = line

    def __aenter__(self) -> Any:
        file: Any = self
        return file._enter()

    def __aexit__(self, *_: object) -> Any:
        file: Any = self
        return file.aclose()

    def __del__(self) -> None:
        if not self._handle.closed:
            self._dropped()

    def _dropped(self) -> None:
        pass


def _pread_portably(file: PortableHandleOwner, size: int, offset: int) -> bytes | None:
    return None


def _read_portably(file: PortableHandleOwner, size: int) -> bytes | None:
    return None


def _leave_attributes(cls: type) -> None:
    pass


def _open_portably(path: bytes, flags: int, meter: Any) -> Any:
    return MISS


def _stat_portably(path: bytes, follow: bool, meter: Any) -> Any:
    return MISS


def _stat_quick_portably(path: object, follow: bool, cost: int) -> Any:
    return None


def _seen_quick_portably(path: object, cost: int) -> bool:
    return False


def _read_quick_portably(path: object, cost: int) -> Any:
    return None


def _admit_portably(cost: int) -> Any:
    return None


def _open_quick_portably(path: object, flags: int, cost: int, meter: Any) -> Any:
    return None


def _open_plain_portably(file: object, *_: object) -> Any:
    return None


def _set_plain_files_portably(raw: Any, buffered: Any, buffer_size: Any) -> None:
    pass


def _close_quick_portably(file: PortableHandleOwner) -> bool:
    return False


def _as_it_is(function: _Function) -> _Function:
    return function


def _ask_portably(path: object, *_: object) -> Any:
    return None


def _read_path_portably(path: bytes, meter: Any) -> Any:
    return MISS


if TYPE_CHECKING or COMPILED:
    from . import _uring
    from ._uring import (
        CROWD,
        Errand,
        Handle,
        HandleOwner,
        admitted,
        ask_open,
        ask_read,
        ask_stat,
        close_quick,
        closes_quickly,
        open_now,
        open_plain,
        open_quick,
        path_text,
        plain_attributes,
        pread_now,
        read_now,
        read_path_now,
        read_quick,
        remember,
        seen_quick,
        set_plain_files,
        stat_now,
        stat_quick,
    )

    _uring.set_classifier(_mounts.classify, _mounts.is_whole)
else:
    CROWD = 0
    ask_open = ask_read = ask_stat = _ask_portably
    Handle = PortableHandle
    Errand = PortableHandle  # (nothing that is awaited)
    HandleOwner = PortableHandleOwner
    plain_attributes = _leave_attributes
    pread_now = _pread_portably
    read_now = _read_portably
    open_now = _open_portably
    stat_now = _stat_portably
    read_path_now = _read_path_portably
    stat_quick = _stat_quick_portably
    seen_quick = _seen_quick_portably
    read_quick = _read_quick_portably
    admitted = _admit_portably
    open_quick = _open_quick_portably
    open_plain = _open_plain_portably
    set_plain_files = _set_plain_files_portably
    close_quick = _close_quick_portably
    closes_quickly = _as_it_is
    path_text = str
    remember = type


def fd_facts(fd: int) -> tuple[int, int, int, str, int, bool]:
    """(st_mode, blksize, size, file system, how cached data is read, local) of a descriptor."""
    if COMPILED:
        return _uring.fd_facts(fd)
    status = os.fstat(fd)
    return (status.st_mode, getattr(status, "st_blksize", 0), status.st_size, "unknown", 0, False)
