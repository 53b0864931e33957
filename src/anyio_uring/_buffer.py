"""`Buffer`: what a buffered file holds between its user and the kernel; compiled, or its twin.

The functions named ``..._now`` are the hot path of buffered files: each does all of an operation
that needs no waiting, or nothing, and answers None then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ._handle import COMPILED, HandleOwner

__all__ = [
    "Buffer",
    "Lines",
    "buffered_read_now",
    "buffered_readline_now",
    "buffered_seek_now",
    "buffered_tell_now",
    "buffered_write_now",
]


class PortableBuffer:
    """Either bytes that were read ahead or bytes that are still to be written, never both.

    :param size: of reads that fill it, and the most that it holds unwritten, in bytes
    """

    __slots__ = ("_data", "_dirty", "_start", "size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("buffer size must be positive")
        self.size = size
        self._data = b""
        self._start = 0
        self._dirty = bytearray()

    @property
    def unread(self) -> int:
        return len(self._data) - self._start

    @property
    def pending(self) -> int:
        return len(self._dirty)

    def take(self, size: int) -> bytes:
        data = self._data[self._start : self._start + size]
        self._start += len(data)
        if len(self._data) > self.size and self.unread <= self.size:
            # A big read has gone through here: do not keep its memory
            self._data = self.peek()
            self._start = 0
        return data

    def take_line(self, limit: int) -> bytes | None:
        stop = len(self._data) if limit < 0 else min(len(self._data), self._start + limit)
        end = self._data.find(b"\n", self._start, stop) + 1
        if end:
            return self.take(end - self._start)
        return self.take(limit) if stop - self._start == limit else None

    def peek(self) -> bytes:
        return self._data[self._start :]

    def fill(self, data: bytes) -> None:
        self._data = self.peek() + data
        self._start = 0

    def drop(self) -> int:
        count = self.unread
        self._data = b""
        self._start = 0
        return count

    def step(self, delta: int) -> bool:
        if self._dirty or not -self._start <= delta <= self.unread:
            return False
        self._start += delta
        return True

    def add(self, data: Any) -> bool:
        view = memoryview(data)
        if view.nbytes > self.size - len(self._dirty) or self.unread:
            return False
        self.drop()
        self._dirty += view.cast("B")
        return True

    def unwritten(self) -> bytes:
        return bytes(self._dirty)

    def written(self, count: int) -> None:
        del self._dirty[: max(count, 0)]


def _read_portably(file: HandleOwner, size: Any) -> bytes | None:
    return None


def _readline_portably(file: HandleOwner) -> bytes | None:
    return None


def _write_portably(file: HandleOwner, data: Any) -> int | None:
    return None


def _seek_portably(file: HandleOwner, offset: Any, whence: Any) -> int | None:
    return None


def _tell_portably(file: HandleOwner) -> int | None:
    return None


if TYPE_CHECKING or COMPILED:
    from ._uring import (
        Buffer,
        buffered_read_now,
        buffered_readline_now,
        buffered_seek_now,
        buffered_tell_now,
        buffered_write_now,
    )
else:
    Buffer = PortableBuffer
    buffered_read_now = _read_portably
    buffered_readline_now = _readline_portably
    buffered_seek_now = _seek_portably
    buffered_tell_now = _tell_portably
    buffered_write_now = _write_portably


class Lines:
    """The lines of a buffered file, for ``async for``."""

    __slots__ = ("_file",)

    def __init__(self, file: Any) -> None:
        self._file = file

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        line = buffered_readline_now(self._file)
        if line is None:
            line = cast(bytes, await self._file.readline())
        if not line:
            raise StopAsyncIteration
        return line
