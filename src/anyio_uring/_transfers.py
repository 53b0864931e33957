"""Whole transfers by system calls that may block: what a worker thread runs.

At offset -1 they use the file's own position.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from ._errors import os_error, unsupported

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from ._ops import Done

# One read(2) or write(2) moves at most this much (macOS refuses more, Linux cuts off).
TRANSFER_MAX = 1 << 30
# A multiple of this suits every file opened with O_DIRECT.
DIRECT_UNIT = 4096
CHUNK = 64 << 10
FALLOC_FL_KEEP_SIZE = 1

if hasattr(os, "pread"):
    pread, pwrite = os.pread, os.pwrite
else:
    # Windows: by way of the descriptor's own position, which is put back
    _moving = threading.Lock()

    def pread(fd: int, size: int, offset: int, /) -> bytes:
        with _moving:
            before = os.lseek(fd, 0, os.SEEK_CUR)
            try:
                os.lseek(fd, offset, os.SEEK_SET)
                return os.read(fd, size)
            finally:
                os.lseek(fd, before, os.SEEK_SET)

    def pwrite(fd: int, data: ReadableBuffer, offset: int, /) -> int:
        with _moving:
            before = os.lseek(fd, 0, os.SEEK_CUR)
            try:
                os.lseek(fd, offset, os.SEEK_SET)
                return os.write(fd, data)
            finally:
                os.lseek(fd, before, os.SEEK_SET)


def _read(fd: int, size: int, offset: int) -> bytes:
    size = min(size, TRANSFER_MAX)
    try:
        return os.read(fd, size) if offset == -1 else pread(fd, size, offset)
    except OSError as error:
        if error.errno != errno.EINVAL or not _is_direct(fd):
            raise
    # O_DIRECT wants its memory aligned, which bytes are by chance only.  Nothing has happened.
    with mmap.mmap(-1, max(size, 1)) as memory, memoryview(memory)[:size] as view:
        count = os.readv(fd, [view]) if offset == -1 else os.preadv(fd, [view], offset)
        return bytes(view[:count])


def _is_direct(fd: int) -> bool:
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    import fcntl

    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & flag)


def pread_full(fd: int, size: int, offset: int) -> bytes:
    data = _read(fd, size, offset)
    if len(data) == size or not data:
        return data
    chunks = [data]
    got = len(data)
    while got < size:
        try:
            chunk = _read(fd, size - got, -1 if offset == -1 else offset + got)
        except OSError:
            break  # the part counts, as in read(2); the next call meets the error
        if not chunk:
            break
        chunks.append(chunk)
        got += len(chunk)
    return b"".join(chunks)


def read_to_end(fd: int, offset: int) -> bytes:
    """As `io.FileIO.readall`: the size is a hint (files of /proc say 0), EOF decides."""
    size = os.fstat(fd).st_size
    position = offset if offset >= 0 else os.lseek(fd, 0, os.SEEK_CUR)
    chunks: list[bytes] = []
    got = 0
    while True:
        wanted = max(size - position - got + 1, CHUNK)
        wanted += -wanted % DIRECT_UNIT
        chunk = _read(fd, wanted, -1 if offset == -1 else offset + got)
        if not chunk:
            return b"".join(chunks) if len(chunks) != 1 else chunks[0]
        chunks.append(chunk)
        got += len(chunk)


def read_line(fd: int, limit: int) -> bytes:
    """A line at the kernel's own position, byte by byte."""
    line = bytearray()
    while len(line) < limit:
        try:
            byte = os.read(fd, 1)
        except OSError:
            os.lseek(fd, -len(line), os.SEEK_CUR)  # its begin is not lost
            raise
        line += byte
        if not byte or byte == b"\n":
            break
    return bytes(line)


def allocate(fd: int, offset: int, size: int, keep_size: bool) -> None:
    """fallocate(2).  Not posix_fallocate(3), where there is a choice: on a file system without it
    the C library writes to every block instead.

    :raises io.UnsupportedOperation: the system has no such call
    """
    call = _fallocate()
    if call is None:
        if keep_size or not hasattr(os, "posix_fallocate"):
            raise unsupported("this system cannot allocate space for a file")
        os.posix_fallocate(fd, offset, size)
        return
    import ctypes

    while call(fd, FALLOC_FL_KEEP_SIZE if keep_size else 0, offset, size):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise os_error(number)


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """The C library's function, in its version for big files."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        call.restype = ctypes.c_int
    return call


def write_all(fd: int, view: memoryview, offset: int, whole: bool, report: Done) -> int:
    put = 0
    size = len(view)
    try:
        if size <= TRANSFER_MAX:
            put = os.write(fd, view) if offset == -1 else pwrite(fd, view, offset)
        while put < size:
            with view[put : put + TRANSFER_MAX] as part:
                count = os.write(fd, part) if offset == -1 else pwrite(fd, part, offset + put)
            if not count:
                break
            put += count
        if whole and put < size:  # the kernel wrote nothing and said so
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return put
    except OSError as error:
        if error.errno == errno.ESPIPE and offset != -1 and not whole:
            # Files of /proc can be written, but not at an offset of one's choice
            os.lseek(fd, offset, os.SEEK_SET)
            put = os.write(fd, view)
            return put
        if whole or not put:
            raise
        return put
    finally:
        report(put)
