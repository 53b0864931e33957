"""`Buffer` and `Text`: what a file holds between its user and the kernel; compiled, or portable.

The functions named ``..._now`` are the hot path of buffered and text files: each does all of an
operation that needs no waiting, or nothing, and answers None then.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from ._handle import COMPILED, HandleOwner

__all__ = [
    "Buffer",
    "LineIterator",
    "Lines",
    "Text",
    "buffered_read_now",
    "buffered_readline_now",
    "buffered_seek_now",
    "buffered_tell_now",
    "buffered_write_now",
    "new_buffer",
    "text_read_now",
    "text_readline_now",
    "text_write_now",
]


class PortableBuffer:
    """Either bytes that were read ahead or bytes that are still to be written, never both.

    :param size: of reads that fill it, and the most that it holds unwritten, in bytes
    :param past: the size of writes that go past it, even if they would fit
    :ivar changes: counts what `pwrite` has changed in the file, so that a read under way does not
        keep what is older
    """

    __slots__ = ("_data", "_dirty", "_start", "changes", "past", "size")

    def __init__(self, size: int, past: int) -> None:
        if size < 1:
            raise ValueError("buffer size must be positive")
        if past > sys.maxsize:
            raise OverflowError("Python int too large to convert to C ssize_t")
        self.size = size
        self.past = past
        self.changes = 0
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

    def add(self, data: Any, whole: bool = False) -> bool:
        view = memoryview(data)
        if view.nbytes > self.size - len(self._dirty) or self.unread:
            return False
        if whole and view.nbytes >= self.past:
            return False
        self.drop()
        self._dirty += view.cast("B")
        return True

    def unwritten(self) -> bytes:
        return bytes(self._dirty)

    def written(self, count: int) -> None:
        del self._dirty[: max(count, 0)]


class PortableText:
    """What a text file holds between its user and the bytes: decoded text and encoded bytes.

    :param newline: as of ``open``; says what ends a line
    :param chunk_size: encoded bytes are kept up to this many
    """

    __slots__ = (
        "chars",
        "chunk_size",
        "decoder",
        "encode",
        "encoded",
        "idle",
        "newline",
        "ratio",
        "size",
        "snapshot",
        "translated",
        "used",
    )

    def __init__(self, newline: str | None, chunk_size: int) -> None:
        self.newline = newline
        self.chunk_size = chunk_size
        self.chars: str | None = None
        self.used = 0
        self.encoded: list[bytes] = []
        self.size = 0
        self.encode: Any = None
        self.translated: str | None = None
        self.decoder: Any = None
        self.idle = True
        self.snapshot: tuple[int, bytes] | None = None
        self.ratio = 0.0

    @property
    def unread(self) -> int:
        return 0 if self.chars is None else len(self.chars) - self.used

    def decoded(self, chars: str | None, used: int = 0) -> None:
        self.chars = chars
        self.used = used

    def take(self, size: int) -> str:
        if self.chars is None:
            return ""
        taken = self.chars[self.used : self.used + size]
        self.used += len(taken)
        return taken

    def line_size(self, after_cr: bool = False) -> int:
        chars, begin = self.chars, self.used
        if not chars:
            return -1
        if self.newline == "":
            feed = chars.find("\n", begin)
            back = chars.find("\r", begin, len(chars) if feed < 0 else feed)
            if back < 0:
                return -1 if feed < 0 else feed + 1 - begin
            return back + (2 if feed == back + 1 else 1) - begin
        if after_cr and self.newline == "\r\n" and chars.startswith("\n", begin):
            return 1
        ending = self.newline or "\n"
        found = chars.find(ending, begin)
        return -1 if found < 0 else found + len(ending) - begin

    def decode_chunk(self, decoder: Any, chunk: bytes, telling: bool) -> str:
        held, flags = decoder.getstate() if telling else (b"", 0)
        self.idle = False
        chars: str = decoder.decode(chunk, not chunk)
        self.decoded(chars)
        self.ratio = len(chunk) / len(chars) if chars else 0.0
        if telling:
            self.snapshot = (flags, held + chunk)
        return chars

    def add(self, piece: bytes) -> None:
        self.encoded.append(piece)
        self.size += len(piece)

    def forget_encoded(self) -> None:
        self.encoded = []
        self.size = 0


class PortableLineIterator:
    """The lines of a text file.

    :param slow: gives a coroutine for the next line, which raises StopAsyncIteration at the end
    """

    __slots__ = ("_slow",)

    def __init__(self, file: HandleOwner, slow: Callable[[], Awaitable[str]]) -> None:
        self._slow = slow

    def __aiter__(self) -> PortableLineIterator:
        return self

    def __anext__(self) -> Awaitable[str]:
        return self._slow()


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


def _read_text_portably(file: HandleOwner, size: Any) -> str | None:
    return None


def _readline_text_portably(file: HandleOwner) -> str | None:
    return None


if TYPE_CHECKING or COMPILED:
    from ._uring import (
        Buffer,
        LineIterator,
        Text,
        buffered_read_now,
        buffered_readline_now,
        buffered_seek_now,
        buffered_tell_now,
        buffered_write_now,
        text_read_now,
        text_readline_now,
        text_write_now,
    )
else:
    Buffer = PortableBuffer
    buffered_read_now = _read_portably
    buffered_readline_now = _readline_portably
    buffered_seek_now = _seek_portably
    buffered_tell_now = _tell_portably
    buffered_write_now = _write_portably
    LineIterator = PortableLineIterator
    Text = PortableText
    text_read_now = _read_text_portably
    text_readline_now = _readline_text_portably
    text_write_now = _write_portably


def _keeps_a_whole_buffer() -> bool:
    """Whether the io of this Python keeps a write that fills the buffer (up to 3.12)."""
    below = io.BytesIO()
    writer = io.BufferedWriter(below, 2)
    writer.write(b"ab")
    return not below.tell()


KEEPS_A_WHOLE_BUFFER = _keeps_a_whole_buffer()


def new_buffer(size: int) -> Buffer:
    """A buffer of so many bytes, which keeps as much of what is written as that of `io`."""
    return Buffer(size, size + KEEPS_A_WHOLE_BUFFER)


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
