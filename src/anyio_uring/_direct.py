"""Direct I/O (O_DIRECT) at any offset and of any size: what a worker thread does about it.

The kernel takes whole blocks of the file only, in memory that is aligned to them.  A read takes
the blocks round what is asked for.  A write that begins or ends within a block reads that block
first; one that ends within the last block of the file writes zeros behind its end, and then sets
the size right.  Until it has, others see the zeros.

`handle.align` is the size of a block, and 0 for a file whose user sees to all this himself.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ._errors import os_error, unsupported
from ._handle import COMPILED
from ._transfers import pread_full, read_to_end, write_all

if TYPE_CHECKING:
    from ._handle import Handle
    from ._ops import Done

O_DIRECT: int = getattr(os, "O_DIRECT", 0)
# Where the system does not say what a file wants: no common device wants more.
ALIGN_DEFAULT = 4096
# One transfer, and one buffer, of a thread.
TRANSFER_BYTES = 1 << 20
BUFFERS_KEPT_MAX = 4

_buffers: list[mmap.mmap] = []


class BlockGuard:
    """Writes of whole blocks go side by side; one that has to read a block before, or to set the
    size of the file, goes alone: between its steps it would undo what others write.

    Going alone is for threads, since it waits; nobody else does.
    """

    __slots__ = ("_active", "_alone", "_changed", "_process", "_shares")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._shares = 0
        self._alone = 0  # threads that go alone, or wait for it
        self._active = False

    def _check_process(self) -> None:
        """In a forked child whoever holds it is in the parent."""
        if self._process != os.getpid():
            self._begin()

    def share(self) -> bool:
        """Begin a write of whole blocks; False if somebody goes alone, or is about to."""
        self._check_process()
        with self._changed:
            if self._alone:
                return False
            self._shares += 1
            return True

    def unshare(self) -> None:
        with self._changed:
            self._shares -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        self._check_process()
        with self._changed:
            self._alone += 1
            try:
                self._changed.wait_for(lambda: not self._shares and not self._active)
            except BaseException:
                self._alone -= 1
                raise
            self._active = True
        try:
            yield
        finally:
            with self._changed:
                self._alone -= 1
                self._active = False
                self._changed.notify_all()


def check_system() -> None:
    """:raises io.UnsupportedOperation: the system has no direct I/O"""
    if not O_DIRECT:
        raise unsupported("direct I/O: this system has no O_DIRECT")


def alignment(fd: int) -> int:
    """The size of the blocks in which direct I/O on a descriptor works."""
    memory = offset = 0
    if COMPILED:
        from ._uring import dio_alignment

        memory, offset = dio_alignment(fd)
    return max(memory, offset) if offset else ALIGN_DEFAULT


def switch_to_direct(fd: int, flags: int) -> int:
    """Give a descriptor the flags of a direct one: no O_APPEND, with which the kernel would not
    write the last block again.  Returns the flags that the file goes by.
    """
    import fcntl

    now = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = (now | O_DIRECT) & ~os.O_APPEND
    if wanted != now:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
    return flags | O_DIRECT


def whole_blocks(handle: Handle, size: int, offset: int) -> bool:
    """Whether a write needs nothing but to be written."""
    align = handle.align
    return offset >= 0 and not handle.append and not offset % align and not size % align


def quiet(handle: Handle) -> AbstractContextManager[None]:
    """For a thread: no write of ours is under way that goes by the size of the file."""
    return handle.guard.alone() if handle.align else nullcontext()


@contextmanager
def _borrowed() -> Iterator[memoryview]:
    """Aligned memory for one transfer."""
    try:
        buffer = _buffers.pop()
    except IndexError:
        # Private: the ones that are kept would be the same memory in a forked child
        buffer = mmap.mmap(-1, TRANSFER_BYTES, flags=mmap.MAP_PRIVATE)
    with memoryview(buffer) as memory:
        yield memory
    if len(_buffers) < BUFFERS_KEPT_MAX:
        _buffers.append(buffer)


# -- any file -------------------------------------------------------------------------------------


def pread_any(handle: Handle, size: int, offset: int) -> bytes:
    """`size` bytes, fewer only at the end of the file; offset -1: the kernel's own position."""
    if not handle.align:
        return pread_full(handle.fd, size, offset)
    return _at_position(handle, offset, lambda at: _read_blocks(handle, size, at))


def read_to_end_any(handle: Handle, offset: int) -> bytes:
    if not handle.align:
        return read_to_end(handle.fd, offset)

    def read(at: int) -> bytes:
        chunks: list[bytes] = []
        got = 0
        while True:
            chunks.append(_read_blocks(handle, TRANSFER_BYTES, at + got))
            got += len(chunks[-1])
            if len(chunks[-1]) < TRANSFER_BYTES:
                return b"".join(chunks)

    return _at_position(handle, offset, read)


def write_any(handle: Handle, view: memoryview, offset: int, whole: bool, report: Done) -> int:
    if not handle.align:
        return write_all(handle.fd, view, offset, whole, report)
    writing = _Writing(handle, view)
    try:
        with handle.guard.alone():
            try:
                writing.run(offset)
            finally:
                writing.close()
                if offset == -1:
                    os.lseek(handle.fd, writing.at + writing.put, os.SEEK_SET)
    except OSError as error:
        error.filename = None  # it may be of our own making
        if whole or not writing.put:
            raise
    finally:
        report(writing.put)
    return writing.put


# -- whole blocks ---------------------------------------------------------------------------------


def _at_position(handle: Handle, offset: int, read: Any) -> bytes:
    """Read at an offset, or at the kernel's own position, which it moves."""
    if offset != -1:
        return read(offset)  # type: ignore[no-any-return]
    position = os.lseek(handle.fd, 0, os.SEEK_CUR)
    data: bytes = read(position)
    os.lseek(handle.fd, position + len(data), os.SEEK_SET)
    return data


def _read_blocks(handle: Handle, size: int, offset: int) -> bytes:
    align, chunks, got = handle.align, [], 0
    with _borrowed() as memory:
        while got < size:
            head = (offset + got) % align
            wanted = min(_up(head + size - got, align), TRANSFER_BYTES)
            with memory[:wanted] as part:
                try:
                    count = os.preadv(handle.fd, [part], offset + got - head)
                except OSError:
                    if not got:
                        raise
                    break  # the part counts, as in read(2); the next call meets the error
            chunk = bytes(memory[head : min(count, head + size - got)])
            chunks.append(chunk)
            got += len(chunk)
            if not chunk or count % align:
                break  # the end of the file
    return b"".join(chunks)


def _up(size: int, align: int) -> int:
    return -(-size // align) * align


class _Writing:
    """One write, within the guard.

    :ivar at: where it began
    :ivar put: bytes written of what was asked
    """

    def __init__(self, handle: Handle, view: memoryview) -> None:
        self._fd = handle.fd
        self._handle = handle
        self._align = handle.align
        self._view = view
        self._opened = -1
        self.at = 0
        self.put = 0

    def close(self) -> None:
        if self._opened >= 0:
            os.close(self._opened)

    def _source(self) -> int:
        """A descriptor to read from; the file's own may be for writing only."""
        if self._handle.readable:
            return self._fd
        if self._opened < 0:
            flags = os.O_RDONLY | os.O_CLOEXEC | O_DIRECT
            self._opened = os.open(f"/proc/self/fd/{self._fd}", flags)
        return self._opened

    def run(self, offset: int) -> None:
        status = os.fstat(self._fd)
        sized = stat.S_ISREG(status.st_mode)
        if sized and self._handle.append and len(self._view):
            self.at = status.st_size
        else:
            self.at = os.lseek(self._fd, 0, os.SEEK_CUR) if offset == -1 else offset
        with _borrowed() as memory:
            end = status.st_size
            while self.put < len(self._view):
                begin, count, size = self._gather(memory)
                with memory[:size] as part:
                    written = os.pwritev(self._fd, [part], begin)
                moved = min(written - (self.at + self.put - begin), count)
                if moved <= 0:
                    raise os_error(errno.EIO)  # the kernel wrote nothing and said so
                self.put += moved
                end = max(end, self.at + self.put)
                if sized and begin + written > end:
                    os.ftruncate(self._fd, end)

    def _gather(self, memory: memoryview) -> tuple[int, int, int]:
        """The next blocks as they shall be: where they begin, the bytes of ours, and their size."""
        align = self._align
        at = self.at + self.put
        head = at % align
        count = min(len(self._view) - self.put, TRANSFER_BYTES - head)
        size = _up(head + count, align)
        last = size - align
        if head:
            self._read(memory, 0, at - head)
        if (head + count) % align and (last or not head):
            self._read(memory, last, at - head + last)
        memory[head : head + count] = self._view[self.put : self.put + count]
        return at - head, count, size

    def _read(self, memory: memoryview, start: int, offset: int) -> None:
        """Fill one block with what the file has there, and zeros behind its end."""
        with memory[start : start + self._align] as block:
            count = os.preadv(self._source(), [block], offset)
            block[count:] = bytes(self._align - count)
