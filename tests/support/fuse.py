"""A small FUSE file system for tests: in memory, with delays and stalls by opcode.

The server speaks the kernel's protocol on ``/dev/fuse`` and needs no third-party package. It runs
as a separate process (this file, started as a script), so a request that is never answered cannot
involve the test process in any way but the one under test.

Linux only, and needs root. Typical use::

    with FuseMount({"a.txt": b"hello"}, direct_io=True) as mount:
        mount.stall("READ")
        ...                             # start something that reads mount.path / "a.txt"
        mount.wait_for("READ", 1)       # the request is now in the server, and stays there
        mount.release()

What the kernel does of its own accord, and a test may have to know:

* With ``attr_valid=0`` (the default) a buffered read that reaches past the known end of the file
  asks GETATTR before it asks READ.
* A buffered read waits for the page, which SIGKILL can end, and sends no INTERRUPT. With
  ``direct_io=True`` it waits for the request itself, which nothing but an answer (or the end of
  the connection) can end: that is the hung mount.
* Every close of a descriptor sends FLUSH, and so does the exec of a child that had inherited one:
  start subprocesses before stalling FLUSH.
* RELEASE is sent in the background: ``close()`` does not wait for its answer.
* The kernel stops asking for an operation once it was told ENOSYS, so STATX (sent when the birth
  time is asked for) and ACCESS are seen at most once; GETATTR then stands in for STATX.

The disk is imaginary, too: FSYNC and FSYNCDIR put a file's data and a directory's entries on it,
and `after_power_cut` tells what it would hold.  There are no hard links.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import heapq
import itertools
import json
import math
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

MS_NOSUID = 2
MS_NODEV = 4
MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

FS_TYPE = "fuse.anyio_uring_test"
_CAP_SYS_ADMIN = 21

OPCODES: dict[str, int] = {
    "LOOKUP": 1,
    "FORGET": 2,
    "GETATTR": 3,
    "SETATTR": 4,
    "READLINK": 5,
    "SYMLINK": 6,
    "MKNOD": 8,
    "MKDIR": 9,
    "UNLINK": 10,
    "RMDIR": 11,
    "RENAME": 12,
    "LINK": 13,
    "OPEN": 14,
    "READ": 15,
    "WRITE": 16,
    "STATFS": 17,
    "RELEASE": 18,
    "FSYNC": 20,
    "SETXATTR": 21,
    "GETXATTR": 22,
    "LISTXATTR": 23,
    "REMOVEXATTR": 24,
    "FLUSH": 25,
    "INIT": 26,
    "OPENDIR": 27,
    "READDIR": 28,
    "RELEASEDIR": 29,
    "FSYNCDIR": 30,
    "GETLK": 31,
    "SETLK": 32,
    "SETLKW": 33,
    "ACCESS": 34,
    "CREATE": 35,
    "INTERRUPT": 36,
    "BMAP": 37,
    "DESTROY": 38,
    "IOCTL": 39,
    "POLL": 40,
    "NOTIFY_REPLY": 41,
    "BATCH_FORGET": 42,
    "FALLOCATE": 43,
    "READDIRPLUS": 44,
    "RENAME2": 45,
    "LSEEK": 46,
    "COPY_FILE_RANGE": 47,
    "SETUPMAPPING": 48,
    "REMOVEMAPPING": 49,
    "SYNCFS": 50,
    "TMPFILE": 51,
    "STATX": 52,
}
_NAMES = {number: name for name, number in OPCODES.items()}

# These have no answer, or everything else waits for it.
_NOT_HELD = frozenset({"INIT", "FORGET", "BATCH_FORGET", "INTERRUPT", "NOTIFY_REPLY", "DESTROY"})

_PROTOCOL = (7, 31)
_ROOT_ID = 1
_MAX_WRITE = 1 << 20
_PAGE_SIZE = 4096

_FOPEN_DIRECT_IO = 1 << 0
_FOPEN_KEEP_CACHE = 1 << 1

_INIT_ASYNC_READ = 1 << 0
_INIT_BIG_WRITES = 1 << 5
_INIT_ASYNC_DIO = 1 << 15
_INIT_PARALLEL_DIROPS = 1 << 18
_INIT_MAX_PAGES = 1 << 22

_FATTR_MODE = 1 << 0
_FATTR_UID = 1 << 1
_FATTR_GID = 1 << 2
_FATTR_SIZE = 1 << 3
_FATTR_ATIME = 1 << 4
_FATTR_MTIME = 1 << 5
_FATTR_ATIME_NOW = 1 << 7
_FATTR_MTIME_NOW = 1 << 8

_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHH32x")
_ATTR = struct.Struct("=6Q10I")
_ENTRY_OUT = struct.Struct("=4Q2I")  # _ATTR follows
_ATTR_OUT = struct.Struct("=QI4x")  # _ATTR follows
_SETATTR_IN = struct.Struct("=I12xQ8xQQ8xII4xI4xII4x")
_OPEN_OUT = struct.Struct("=QI4x")
_CREATE_IN = struct.Struct("=IIII")
_READ_IN = struct.Struct("=QQIIQI4x")
_WRITE_IN = struct.Struct("=QQIIQI4x")
_WRITE_OUT = struct.Struct("=I4x")
_RELEASE_IN = struct.Struct("=QIIQ")
_STATFS_OUT = struct.Struct("=5Q4I24x")
_DIRENT = struct.Struct("=QQII")
_RENAME_IN = struct.Struct("=Q")  # the two names follow
_RENAME2_IN = struct.Struct("=QI4x")

_RENAME_NOREPLACE = 1


# --- mount(2) -------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def mount(
    source: str, target: str | os.PathLike[str], fs_type: str, flags: int = 0, data: str = ""
) -> None:
    """Call mount(2)."""
    done = _libc().mount(
        os.fsencode(source),
        os.fsencode(target),
        fs_type.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {fs_type}: {os.strerror(number)}", os.fspath(target))


def umount(target: str | os.PathLike[str], flags: int = MNT_DETACH) -> None:
    """Call umount2(2); lazily unless told otherwise."""
    if _libc().umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"umount2: {os.strerror(number)}", os.fspath(target))


def cannot_mount() -> str | None:
    """Why this process may not mount file systems, or None if it may."""
    if sys.platform != "linux":
        return "mounting a test file system needs Linux"
    if os.geteuid() != 0:
        return "mounting a test file system needs root"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1:
            return "mounting a test file system needs CAP_SYS_ADMIN"
    return None


def cannot_fuse() -> str | None:
    """Why FuseMount cannot work here, or None if it can: the reason for a skip."""
    reason = cannot_mount()
    if reason is None:
        try:
            os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
        except OSError as exc:
            reason = f"the FUSE test server needs /dev/fuse: {exc.strerror}"
    return reason


def unescape_mountinfo(text: str) -> str:
    r"""Undo the octal escapes (``\040`` for a space) of /proc/self/mountinfo."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def _own_mounts() -> Iterator[tuple[str, int]]:
    """The mount point and server process of each mount of this module."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            fs_type, source, *_ = right.split(" ")
            pid = source.rpartition(":")[2]
            if fs_type == FS_TYPE and pid.isdecimal():
                yield unescape_mountinfo(left.split(" ")[4]), int(pid)


def _sweep() -> None:
    """Unmount what a server left behind that was killed together with its test process."""
    for target, pid in list(_own_mounts()):
        try:
            os.readlink(f"/proc/{pid}/exe")  # fails for a zombie, too
        except OSError:
            with contextlib.suppress(OSError):
                umount(target)


# --- the server process ---------------------------------------------------------------------


class _OperationError(Exception):
    """The answer to a request is this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class _Node:
    """One file or directory."""

    ident: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, _Node] = field(default_factory=dict)
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    atime: int = field(default_factory=time.time_ns)
    mtime: int = field(default_factory=time.time_ns)
    ctime: int = field(default_factory=time.time_ns)
    disk_data: bytes = b""
    disk_children: dict[str, _Node] = field(default_factory=dict)

    def sync(self) -> None:
        """Have on the disk what is here: of a directory, the entries, not what they name."""
        self.disk_data, self.disk_children = bytes(self.data), dict(self.children)

    def attributes(self) -> bytes:
        """The kernel's ``struct fuse_attr``."""
        seconds, nanoseconds = zip(
            *(divmod(when, 10**9) for when in (self.atime, self.mtime, self.ctime)), strict=True
        )
        size = len(self.data)
        return _ATTR.pack(
            self.ident,
            size,
            -(-size // 512),
            *seconds,
            *nanoseconds,
            self.mode,
            self.nlink,
            self.uid,
            self.gid,
            0,
            _PAGE_SIZE,
            0,
        )

    def resize(self, size: int) -> None:
        """Truncate or extend with zeros."""
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))


@dataclass
class _Request:
    """One request of the kernel."""

    opcode: str
    unique: int
    nodeid: int
    uid: int
    gid: int
    payload: bytes
    held: bool = False


class _Server:
    """The file system, the device, and the table of delays.

    One thread reads the device and answers at once what is not delayed. A second one answers what
    is delayed as it falls due, so that any number of delayed requests run concurrently. What is
    stalled waits in a table, with no thread at all.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._mountpoint: str = config["mountpoint"]
        self._remove_mountpoint: bool = config["remove_mountpoint"]
        self._entry_valid = _valid(config["entry_valid"])
        self._attr_valid = _valid(config["attr_valid"])
        self._max_background: int = config["max_background"]
        self._honour_interrupts: bool = config["honour_interrupts"]
        self._open_flags = (_FOPEN_DIRECT_IO if config["direct_io"] else 0) | (
            _FOPEN_KEEP_CACHE if config["keep_cache"] else 0
        )
        self._options = f",allow_other{',default_permissions' * config['default_permissions']}"

        # Guards everything below; notified whenever a request is counted or becomes due.
        self._changed = threading.Condition()
        self._seen: Counter[str] = Counter()
        self._delays: dict[str, float] = {}
        self._stalled: set[str] = set()
        self._waiting: dict[int, _Request] = {}
        self._due: list[tuple[float, int]] = []
        self._closing = False
        self._ready = threading.Event()

        self._idents = itertools.count(_ROOT_ID)
        self._handles = itertools.count(1)
        self._listings: dict[int, list[tuple[str, _Node]]] = {}
        self._nodes: dict[int, _Node] = {}
        self._root = self._new_node(stat.S_IFDIR | 0o755)
        for name, content in config["files"].items():
            self._add_file(name, base64.b64decode(content))
        for node in self._nodes.values():
            node.sync()

        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)

    # The tree.

    def _new_node(self, mode: int) -> _Node:
        node = _Node(next(self._idents), mode, nlink=2 if stat.S_ISDIR(mode) else 1)
        self._nodes[node.ident] = node
        return node

    def _add_file(self, name: str, content: bytes) -> None:
        *parents, leaf = name.split("/")
        directory = self._root
        for parent in parents:
            if parent not in directory.children:
                directory.children[parent] = self._new_node(stat.S_IFDIR | 0o755)
                directory.nlink += 1
            directory = directory.children[parent]
        directory.children[leaf] = node = self._new_node(stat.S_IFREG | 0o644)
        node.data[:] = content

    def _find(self, name: str) -> _Node:
        node = self._root
        for part in name.split("/"):
            node = node.children[part]
        return node

    # The life of the process.

    def start(self) -> None:
        """Mount, and serve from threads; returns when the kernel has been greeted."""
        with contextlib.suppress(OSError):
            _sweep()
        mount(
            f"anyio_uring_test:{os.getpid()}",
            self._mountpoint,
            FS_TYPE,
            MS_NOSUID | MS_NODEV,
            f"fd={self._fd},rootmode=40000,user_id=0,group_id=0{self._options}",
        )
        for target in (self._read_requests, self._answer_due):
            threading.Thread(target=target, daemon=True).start()
        if not self._ready.wait(30):
            raise TimeoutError("the kernel sent no INIT")

    def stop(self) -> None:
        """Fail what is waiting and unmount; the exit of the process ends the connection."""
        with self._changed:
            self._closing = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for request in waiting:
            self._reply(request, errno.EIO)
        with contextlib.suppress(OSError):
            umount(self._mountpoint)
        if self._remove_mountpoint:
            with contextlib.suppress(OSError):
                os.rmdir(self._mountpoint)

    # Requests.

    def _read_requests(self) -> None:
        buffer = bytearray(_MAX_WRITE + _PAGE_SIZE)
        view = memoryview(buffer)
        while True:
            try:
                size = os.readv(self._fd, [buffer])
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue  # ENOENT: the request was withdrawn while it was being read
                return  # ENODEV: unmounted
            _, opcode, unique, nodeid, uid, gid, *_ = _IN_HEADER.unpack_from(buffer)
            name = _NAMES.get(opcode, str(opcode))
            payload = bytes(view[_IN_HEADER.size : size])
            self._accept(_Request(name, unique, nodeid, uid, gid, payload))

    def _accept(self, request: _Request) -> None:
        interrupted: _Request | None = None
        with self._changed:
            # Whoever has waited for the count must find the request in the table.
            self._seen[request.opcode] += 1
            self._changed.notify_all()
            if request.opcode == "INTERRUPT" and self._honour_interrupts:
                (unique,) = struct.unpack_from("=Q", request.payload)
                interrupted = self._waiting.pop(unique, None)
            if request.opcode in self._stalled or request.opcode in self._delays:
                if self._closing:
                    self._reply(request, errno.EIO)
                    return
                self._waiting[request.unique] = request
                request.held = request.opcode in self._stalled
                if not request.held:
                    due = time.monotonic() + self._delays[request.opcode]
                    heapq.heappush(self._due, (due, request.unique))
                return
        if interrupted is not None:
            self._reply(interrupted, errno.EINTR)
        self._answer(request)

    def _answer_due(self) -> None:
        while True:
            with self._changed:
                while True:
                    left = self._due[0][0] - time.monotonic() if self._due else None
                    if left is not None and left <= 0:
                        break
                    self._changed.wait(left)
                # Not there any more if it was interrupted.
                request = self._waiting.pop(heapq.heappop(self._due)[1], None)
            if request is not None:
                self._answer(request)

    def _answer(self, request: _Request) -> None:
        """Do what is asked, and tell the kernel."""
        handler: Callable[[_Request], bytes | None] | None
        handler = getattr(self, f"_do_{request.opcode.lower()}", None)
        try:
            if handler is None:
                raise _OperationError(errno.ENOSYS)
            with self._changed:
                answer = handler(request)
        except _OperationError as exc:
            self._reply(request, exc.number)
        except Exception:  # noqa: BLE001 - whoever waits for the answer must get one
            traceback.print_exc()
            self._reply(request, errno.EIO)
        else:
            if answer is not None:
                self._reply(request, 0, answer)
            if request.opcode == "INIT":
                self._ready.set()

    def _reply(self, request: _Request, error: int, answer: bytes = b"") -> None:
        header = _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), -error, request.unique)
        try:
            os.writev(self._fd, [header, answer])
        except OSError as exc:
            # ENOENT: nobody waits for it any more; ENODEV: unmounted.
            if exc.errno not in (errno.ENOENT, errno.ENODEV):
                print(f"answer to {request.opcode}: {exc}", file=sys.stderr, flush=True)

    # Operations: each returns the body of the answer, None for no answer at all, or fails.

    def _do_init(self, request: _Request) -> bytes:
        major, minor, max_readahead, flags = _INIT_IN.unpack_from(request.payload)
        if (major, minor) < _PROTOCOL:
            raise _OperationError(errno.EPROTO)
        flags &= (
            _INIT_ASYNC_READ
            | _INIT_BIG_WRITES
            | _INIT_ASYNC_DIO
            | _INIT_PARALLEL_DIROPS
            | _INIT_MAX_PAGES
        )
        background = self._max_background
        return _INIT_OUT.pack(
            *_PROTOCOL,
            max_readahead,
            flags,
            background,
            max(1, background * 3 // 4),
            _MAX_WRITE,
            1,
            _MAX_WRITE // _PAGE_SIZE,
            0,
        )

    def _do_forget(self, request: _Request) -> None:
        return  # nodes live as long as the server: nothing to forget

    _do_batch_forget = _do_forget
    _do_interrupt = _do_forget  # see _accept

    def _do_destroy(self, request: _Request) -> bytes:
        return b""

    def _node(self, request: _Request) -> _Node:
        return self._nodes[request.nodeid]

    def _entry(self, node: _Node) -> bytes:
        entry_seconds, entry_nanoseconds = self._entry_valid
        attr_seconds, attr_nanoseconds = self._attr_valid
        head = _ENTRY_OUT.pack(
            node.ident, 0, entry_seconds, attr_seconds, entry_nanoseconds, attr_nanoseconds
        )
        return head + node.attributes()

    def _do_lookup(self, request: _Request) -> bytes:
        node = self._node(request).children.get(_name(request.payload))
        if node is None:
            raise _OperationError(errno.ENOENT)
        return self._entry(node)

    def _do_getattr(self, request: _Request) -> bytes:
        return _ATTR_OUT.pack(*self._attr_valid) + self._node(request).attributes()

    def _do_setattr(self, request: _Request) -> bytes:
        valid, size, atime, mtime, atime_ns, mtime_ns, mode, uid, gid = _SETATTR_IN.unpack_from(
            request.payload
        )
        node = self._node(request)
        node.ctime = now = time.time_ns()
        if valid & _FATTR_SIZE:
            node.resize(size)
            node.mtime = now
        if valid & _FATTR_MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & _FATTR_UID:
            node.uid = uid
        if valid & _FATTR_GID:
            node.gid = gid
        if valid & _FATTR_ATIME:
            node.atime = now if valid & _FATTR_ATIME_NOW else atime * 10**9 + atime_ns
        if valid & _FATTR_MTIME:
            node.mtime = now if valid & _FATTR_MTIME_NOW else mtime * 10**9 + mtime_ns
        return self._do_getattr(request)

    def _do_open(self, request: _Request) -> bytes:
        return _OPEN_OUT.pack(next(self._handles), self._open_flags)

    def _do_create(self, request: _Request) -> bytes:
        _, mode, umask, _ = _CREATE_IN.unpack_from(request.payload)
        directory = self._node(request)
        name = _name(request.payload[_CREATE_IN.size :])
        node = directory.children.get(name)
        if node is None:
            node = self._new_node(stat.S_IFREG | stat.S_IMODE(mode) & ~umask)
            node.uid, node.gid = request.uid, request.gid
            directory.children[name] = node
            directory.mtime = directory.ctime = time.time_ns()
        return self._entry(node) + self._do_open(request)

    def _do_unlink(self, request: _Request) -> bytes:
        directory = self._node(request)
        node = directory.children.pop(_name(request.payload), None)
        if node is None:
            raise _OperationError(errno.ENOENT)
        node.nlink -= 1
        node.ctime = directory.mtime = directory.ctime = time.time_ns()
        return b""

    def _do_read(self, request: _Request) -> bytes:
        _, offset, size, *_ = _READ_IN.unpack_from(request.payload)
        return bytes(self._node(request).data[offset : offset + size])

    def _do_write(self, request: _Request) -> bytes:
        _, offset, size, *_ = _WRITE_IN.unpack_from(request.payload)
        node = self._node(request)
        if offset > len(node.data):
            node.resize(offset)
        node.data[offset : offset + size] = request.payload[_WRITE_IN.size :][:size]
        node.mtime = node.ctime = time.time_ns()
        return _WRITE_OUT.pack(size)

    def _do_flush(self, request: _Request) -> bytes:
        return b""

    def _do_fsync(self, request: _Request) -> bytes:
        self._node(request).sync()
        return b""

    _do_fsyncdir = _do_fsync

    def _do_rename(self, request: _Request) -> bytes:
        (ident,) = _RENAME_IN.unpack_from(request.payload)
        return self._rename(request, ident, request.payload[_RENAME_IN.size :])

    def _do_rename2(self, request: _Request) -> bytes:
        ident, flags = _RENAME2_IN.unpack_from(request.payload)
        if flags != _RENAME_NOREPLACE:
            raise _OperationError(errno.EINVAL)
        return self._rename(request, ident, request.payload[_RENAME2_IN.size :], replace=False)

    def _rename(
        self, request: _Request, ident: int, names: bytes, *, replace: bool = True
    ) -> bytes:
        old, new, _ = names.split(b"\0")
        source, target = self._node(request), self._nodes[ident]
        if not replace and os.fsdecode(new) in target.children:
            raise _OperationError(errno.EEXIST)
        node = source.children.pop(os.fsdecode(old), None)
        if node is None:
            raise _OperationError(errno.ENOENT)
        replaced = target.children.get(os.fsdecode(new))
        if replaced is not None:
            replaced.nlink -= 1
        target.children[os.fsdecode(new)] = node
        source.mtime = target.mtime = time.time_ns()
        return b""

    _do_release = _do_flush

    def _do_opendir(self, request: _Request) -> bytes:
        # A snapshot, so that the offsets stay true while files come and go.
        handle, node = next(self._handles), self._node(request)
        children = [(name, node.children[name]) for name in sorted(node.children)]
        self._listings[handle] = [(".", node), ("..", node), *children]
        return _OPEN_OUT.pack(handle, 0)

    def _do_readdir(self, request: _Request) -> bytes:
        handle, offset, size, *_ = _READ_IN.unpack_from(request.payload)
        answer = bytearray()
        for index, (name, node) in enumerate(self._listings[handle][offset:], offset + 1):
            raw = os.fsencode(name)
            entry = _DIRENT.pack(node.ident, index, len(raw), stat.S_IFMT(node.mode) >> 12) + raw
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return bytes(answer)

    def _do_releasedir(self, request: _Request) -> bytes:
        handle, *_ = _RELEASE_IN.unpack_from(request.payload)
        self._listings.pop(handle, None)
        return b""

    def _do_statfs(self, request: _Request) -> bytes:
        free, files = 1 << 20, 1 << 20
        return _STATFS_OUT.pack(free, free, free, files, files, _PAGE_SIZE, 255, _PAGE_SIZE, 0)

    # Control: one connection for each call, so that a call that waits holds up no other.

    def control(self, listener: socket.socket) -> None:
        """Answer control calls, for ever."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._control_one, args=[connection], daemon=True).start()

    def _control_one(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            call = json.loads(stream.readline())
            try:
                answer = {"value": getattr(self, f"_call_{call['name']}")(**call["arguments"])}
            except Exception as exc:  # noqa: BLE001 - it is the caller's to deal with
                answer = {"error": f"{type(exc).__name__}: {exc}"}
            with contextlib.suppress(OSError):  # the caller may have gone
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()

    def _call_delay(self, seconds: dict[str, float]) -> None:
        with self._changed:
            self._delays.update(seconds)
            self._delays = {opcode: delay for opcode, delay in self._delays.items() if delay > 0}

    def _call_stall(self, opcodes: list[str]) -> None:
        with self._changed:
            self._stalled.update(opcodes)

    def _call_release(self, opcodes: list[str], error: int) -> int:
        with self._changed:
            chosen = set(opcodes) or set(OPCODES)
            self._stalled -= chosen
            freed = [
                request
                for request in self._waiting.values()
                if request.held and request.opcode in chosen
            ]
            for request in freed:
                del self._waiting[request.unique]
        for request in freed:
            if error:
                self._reply(request, error)
            else:
                self._answer(request)
        return len(freed)

    def _call_seen(self) -> dict[str, int]:
        with self._changed:
            return dict(self._seen)

    def _call_held(self) -> dict[str, int]:
        with self._changed:
            return Counter(r.opcode for r in self._waiting.values() if r.held)

    def _call_wait_for(self, opcode: str, count: int, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._seen[opcode] >= count, timeout)

    def _call_content(self, name: str) -> str:
        with self._changed:
            return base64.b64encode(self._find(name).data).decode()

    def _call_disk(self, entries_synced: bool) -> dict[str, str]:
        def walk(directory: _Node, prefix: str) -> Iterator[tuple[str, str]]:
            children = directory.disk_children if entries_synced else directory.children
            for name, node in children.items():
                if stat.S_ISDIR(node.mode):
                    yield from walk(node, f"{prefix}{name}/")
                else:
                    yield prefix + name, base64.b64encode(node.disk_data).decode()

        with self._changed:
            return dict(walk(self._root, ""))


def _valid(seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds, as the kernel has them."""
    fraction, whole = math.modf(seconds)
    return int(whole), int(fraction * 10**9)


def _name(payload: bytes) -> str:
    return os.fsdecode(payload.partition(b"\0")[0])


def _stop_on_signal(number: int, frame: object) -> None:
    sys.exit(0)


def _serve() -> None:
    """The server process: configuration on stdin, whose end is the end of the server."""
    signal.signal(signal.SIGTERM, _stop_on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test process decides what Ctrl-C means
    config = json.loads(sys.stdin.readline())
    # A child that the test process forked may keep our stdin open after the test process died.
    parent = os.pidfd_open(config["parent"])
    server = _Server(config)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # the kernel chooses an abstract address
    listener.listen(128)
    try:
        try:
            server.start()
        except OSError as exc:
            print(json.dumps({"error": str(exc)}), flush=True)
            return
        threading.Thread(target=server.control, args=[listener], daemon=True).start()
        print(json.dumps({"address": listener.getsockname().hex()}), flush=True)
        poll = select.poll()
        poll.register(sys.stdin, select.POLLIN)
        poll.register(parent, select.POLLIN)
        poll.poll()
    finally:
        server.stop()
        # Not through the interpreter's shutdown, which would wait for threads; the device is
        # closed by this, and with it the connection.
        os._exit(0)


# --- the test process -----------------------------------------------------------------------


class FuseServerError(RuntimeError):
    """The server could not do what it was asked to, or is not there any more."""


class FuseMount:
    """A mounted in-memory file system whose answers can be delayed or withheld.

    :param files: contents by name; ``a/b`` makes the directory ``a``
    :param mountpoint: an existing directory; a temporary one if not given
    :param direct_io: bypass the page cache: each read is a READ, and waits unkillably
    :param keep_cache: keep cached pages over an open
    :param entry_valid: seconds for which the kernel may use a name without LOOKUP
    :param attr_valid: seconds for which the kernel may use attributes without GETATTR
    :param honour_interrupts: answer EINTR to a waiting request when it is interrupted; a hung
        mount does not
    :param default_permissions: have the kernel check modes (which asks GETATTR more often)
    :param max_background: how many requests without a waiting caller (read-ahead, asynchronous
        direct I/O, RELEASE) the kernel may send at a time
    """

    CLOSE_TIMEOUT = 10.0  # seconds for the server to unmount, until it is killed

    path: Path

    def __init__(
        self,
        files: Mapping[str, bytes],
        mountpoint: Path | None = None,
        *,
        direct_io: bool = False,
        keep_cache: bool = False,
        entry_valid: float = 3600.0,
        attr_valid: float = 0.0,
        honour_interrupts: bool = False,
        default_permissions: bool = False,
        max_background: int = 1024,
    ) -> None:
        reason = cannot_fuse()
        if reason is not None:
            raise FuseServerError(reason)
        self._owner = os.getpid()
        self._closed = False
        self._remove_mountpoint = mountpoint is None
        self.path = mountpoint or Path(tempfile.mkdtemp(prefix="fuse-"))
        # Isolated mode keeps the modules next to this file from shadowing the standard library's;
        # its own session keeps what is aimed at the test process's group from hitting the server
        # before it could unmount.
        self._process = subprocess.Popen(
            [sys.executable, "-I", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        config = {
            "files": {name: base64.b64encode(data).decode() for name, data in files.items()},
            "mountpoint": os.fspath(self.path),
            "remove_mountpoint": self._remove_mountpoint,
            "parent": self._owner,
            "direct_io": direct_io,
            "keep_cache": keep_cache,
            "entry_valid": entry_valid,
            "attr_valid": attr_valid,
            "honour_interrupts": honour_interrupts,
            "default_permissions": default_permissions,
            "max_background": max_background,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(config).encode() + b"\n")
            self._process.stdin.flush()
            hello = json.loads(self._process.stdout.readline() or b"{}")
            if "address" not in hello:
                raise FuseServerError(hello.get("error", "the FUSE test server did not start"))
        except BaseException:
            self.close()
            raise
        self._address = bytes.fromhex(hello["address"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def _call(self, name: str, /, patience: float = 0.0, **arguments: Any) -> Any:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(patience + 30)
                connection.connect(self._address)
                connection.sendall(
                    json.dumps({"name": name, "arguments": arguments}).encode() + b"\n"
                )
                with connection.makefile("rb") as stream:
                    answer = json.loads(stream.readline() or b'{"error": "it went away"}')
        except OSError as exc:
            raise FuseServerError(f"cannot reach the FUSE test server: {exc}") from exc
        if "error" in answer:
            raise FuseServerError(answer["error"])
        return answer["value"]

    def delay(self, **seconds: float) -> None:
        """Answer these opcodes so much later from now on; 0 ends the delay."""
        for opcode in seconds:
            _check(opcode, _NOT_HELD)
        self._call("delay", seconds=seconds)

    def stall(self, *opcodes: str) -> None:
        """Hold requests of these opcodes from now on, until released."""
        for opcode in opcodes:
            _check(opcode, _NOT_HELD)
        self._call("stall", opcodes=opcodes)

    def release(self, *opcodes: str, error: int = 0) -> int:
        """End the stall of these opcodes (or all); returns how many requests were held.

        They are answered, with this errno if one is given, before the call returns.
        """
        for opcode in opcodes:
            _check(opcode)
        freed: int = self._call("release", opcodes=opcodes, error=error)
        return freed

    def seen(self, opcode: str) -> int:
        """How many requests of this opcode the server has received since it was mounted."""
        _check(opcode)
        return self.counts().get(opcode, 0)

    def counts(self) -> dict[str, int]:
        """How many requests the server has received, by opcode."""
        counts: dict[str, int] = self._call("seen")
        return counts

    def held(self, opcode: str) -> int:
        """How many requests of this opcode are stalled now."""
        _check(opcode)
        held: dict[str, int] = self._call("held")
        return held.get(opcode, 0)

    @property
    def interrupts(self) -> int:
        """How many interrupts (a signal to a process that waits for an answer) were received."""
        return self.seen("INTERRUPT")

    def wait_for(self, opcode: str, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until so many requests of this opcode were received since it was mounted."""
        _check(opcode)
        if not self._call("wait_for", timeout, opcode=opcode, count=count, timeout=timeout):
            raise TimeoutError(
                f"{count} {opcode} requests not seen within {timeout:g} s: {self.counts()}"
            )

    def content(self, name: str) -> bytes:
        """What the server holds for this file, without going through the mount."""
        return base64.b64decode(self._call("content", name=name))

    def after_power_cut(self, *, entries_synced: bool) -> dict[str, bytes]:
        """What the disk would hold if the power went now, by name.

        :param entries_synced: of directories it has what was synced; if not, what is there now,
            since a file system may write that at any time.  Of files it has what was synced.
        """
        disk: dict[str, str] = self._call("disk", entries_synced=entries_synced)
        return {name: base64.b64decode(data) for name, data in disk.items()}

    def close(self) -> None:
        """Unmount, whatever is stalled, open or dead; held requests fail. May be repeated."""
        if self._closed or os.getpid() != self._owner:  # a forked child has nothing to unmount
            return
        self._closed = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # tells the server to unmount and exit
        try:
            self._process.wait(self.CLOSE_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        # In case the server was killed. By its process id, since the directory may be another's.
        for target, pid in list(_own_mounts()):
            if pid == self._process.pid:
                with contextlib.suppress(OSError):  # another server may have swept it up
                    umount(target)
        if self._remove_mountpoint:
            with contextlib.suppress(FileNotFoundError):
                self.path.rmdir()


def _check(opcode: str, refused: frozenset[str] = frozenset()) -> None:
    if opcode not in OPCODES:
        raise ValueError(f"unknown FUSE opcode: {opcode!r}")
    if opcode in refused:
        raise ValueError(f"{opcode} cannot be delayed or stalled")


if __name__ == "__main__":
    _serve()
