"""`BufferedFile`: reader, writer and random access over one position.

**What the buffer holds** is either bytes read ahead or bytes still to be written, never both
(`_buffer.Buffer`).  ``handle.position`` (of a shared file: the kernel's own offset) is where the
next transfer goes; the position that the user sees is that, less what is unread, plus what is
unwritten.

**When bytes reach the kernel** is `io`'s rule, since other readers, ``os.fsync`` and a crash of the
process make it visible: at most `buffer.size` bytes wait; a write that does not fit first pushes
out what is there, and goes past the buffer if it is bigger than it.

**Positional operations** take no turn, but stay coherent: `pread` first has overlapping bytes
written, `pwrite` makes the file forget what it had read ahead there.

Each method begins with one compiled call that does everything if nothing has to be waited for.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from operator import index
from typing import TYPE_CHECKING, cast

import anyio

from ._arguments import as_offset, as_readable, as_size, as_writable
from ._buffer import (
    Lines,
    buffered_read_now,
    buffered_readline_now,
    buffered_seek_now,
    buffered_tell_now,
    buffered_write_now,
)
from ._buffer_steps import BufferSteps
from ._direct import write_any
from ._errors import CLOSED, os_error, unsupported
from ._file_steps import SEEK_WHENCES
from ._handle import Handle, close_quick, closes_quickly, plain_attributes
from ._raw import RawFile
from ._runtime import current_runtime
from ._transfers import pwrite

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class BufferedFile(BufferSteps):
    """A binary file with a buffer."""

    __slots__ = ()

    # -- reading ----------------------------------------------------------------------------------

    async def read(self, size: int | None = -1) -> bytes:
        data = buffered_read_now(self, size)
        if data is not None:
            return data
        return await self._read_slowly(size)  # (a smaller frame for what is at hand)

    async def _read_slowly(self, size: int | None) -> bytes:
        size = as_size(size)
        if size < -1 and self._handle.readable:
            raise ValueError("read length must be non-negative or -1")
        if size == 0:
            return await self._read_nothing("read")
        runtime, turn = await self._begin_reading("read", size)
        try:
            if size < 0:
                return await self._read_all(runtime, turn)
            # In whole buffers, as `io`: where the next one begins can be seen
            unit = self._buffer.size
            return cast(bytes, await self._read_exactly(runtime, turn, size, unit))
        finally:
            turn.leave()

    async def readall(self) -> bytes:
        return await self.read()

    async def read1(self, size: int = -1) -> bytes:
        size = index(size)
        buffer = self._buffer
        if size < 0:
            size = buffer.size
        if size == 0:
            return await self._read_nothing("read1")
        runtime, turn = await self._begin_reading("read1", size, closed="read")
        try:
            if not buffer.unread:
                return await self._read_once(runtime, turn, size) or b""
            return buffer.take(size)
        finally:
            turn.leave()

    async def peek(self, size: int = 0) -> bytes:
        if not self._handle.readable:
            raise AttributeError("a file opened for writing only has no peek")
        index(size)
        runtime, turn = await self._begin_reading("peek", 0)
        try:
            if not self._buffer.unread:
                await self._fill(runtime, turn)
            return self._buffer.peek()
        finally:
            turn.leave()

    async def readinto(self, b: WriteableBuffer) -> int:
        with as_writable(b, "readinto() argument") as view:
            runtime, turn = await self._begin_reading("read", view.nbytes, closed="readinto")
            try:
                return await self._read_into(runtime, turn, view)
            finally:
                turn.leave()

    async def readinto1(self, b: WriteableBuffer) -> int:
        with as_writable(b, "readinto1() argument") as view:
            runtime, turn = await self._begin_reading("read1", view.nbytes, closed="readinto")
            buffer = self._buffer
            try:
                rest = view.nbytes - buffer.unread
                if rest > buffer.size or (rest > 0 and not buffer.unread):
                    await self._fill(runtime, turn, rest)
                data = buffer.take(view.nbytes)
                view[: len(data)] = data
                return len(data)
            finally:
                turn.leave()

    async def readline(self, size: int | None = -1) -> bytes:
        if size == -1:
            line = buffered_readline_now(self)
            if line is not None:
                return line
        return await self._readline_slowly(size)

    async def _readline_slowly(self, size: int | None) -> bytes:
        limit = as_size(size)
        if limit == 0 and not self._handle.readable:
            return b""  # as `io`, which reads nothing then, and so finds nothing wrong
        runtime, turn = await self._begin_reading("read", 0, closed="readline")
        try:
            return await self._read_line(runtime, turn, limit)
        finally:
            turn.leave()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return Lines(self)

    async def _read_nothing(self, method: str) -> bytes:
        """As `io`, which has nothing written then either."""
        if not self._handle.readable:
            raise unsupported(method)
        await self._begin(0, "read of closed file")
        return b""

    # -- writing ----------------------------------------------------------------------------------

    async def write(self, b: ReadableBuffer | str) -> int:
        count = buffered_write_now(self, b)
        if count is not None:
            return count
        if not self._handle.writable:
            raise unsupported("write")
        with as_readable(b) as view:
            runtime = await self._begin(view.nbytes, "write to closed file")
            turn = await self._take_turn(runtime)
            try:
                if self._buffer.unread:
                    await self._rewind(runtime, turn)
                if not self._buffer.add(view, True):
                    await self._write_through(runtime, turn, view)
                return view.nbytes
            finally:
                turn.leave()

    async def truncate(self, size: int | None = None) -> int:
        runtime = await self._begin(0, "truncate of closed file")
        handle = self._handle
        if not handle.writable:
            raise unsupported("truncate")
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
            await self._rewind(runtime, turn)
            if size is not None:
                size = index(size)
            elif handle.shared:
                size = await self._seek_kernel(runtime, 0, os.SEEK_CUR)
            else:
                size = handle.position
            if size < 0:
                raise os_error(errno.EINVAL, self._name)
            self._buffer.changes += 1
            await runtime.ops.truncate(self._step(turn), size)
            return size
        finally:
            turn.leave()

    async def flush(self) -> None:
        writable = self._handle.writable
        runtime = await self._begin(0, "flush of closed file" if writable else CLOSED + ".")
        if not writable:
            return
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
            await self._rewind(runtime, turn)
        finally:
            turn.leave()

    async def _sync(self, datasync: bool) -> None:
        await self.flush()
        await super()._sync(datasync)

    # -- the position -----------------------------------------------------------------------------

    async def seek(self, offset: int, whence: int | None = os.SEEK_SET) -> int:
        position = buffered_seek_now(self, offset, whence)
        if position is not None:
            return position
        whence = index(whence)  # type: ignore[arg-type]
        if whence not in SEEK_WHENCES:
            raise ValueError(f"whence value {whence} unsupported")
        runtime = await self._begin(0, "seek of closed file")
        offset = as_offset(offset)
        if not self._handle.seekable:
            await self._check_seekable(runtime)
        turn = await self._take_turn(runtime)
        try:
            return await self._seek(runtime, turn, offset, whence)
        finally:
            turn.leave()

    async def tell(self) -> int:
        position = buffered_tell_now(self)
        if position is not None:
            return position
        runtime = await self._begin(0)
        turn = await self._take_turn(runtime)
        try:
            return await self._tell(runtime)
        finally:
            turn.leave()

    # -- closing ----------------------------------------------------------------------------------

    @closes_quickly
    async def aclose(self) -> None:
        if close_quick(self):
            return
        if self.closed:
            return
        interrupted: BaseException | None = None
        try:
            if self._buffer.pending:
                interrupted = await self._flush_finally(current_runtime())
        finally:
            await super().aclose()
        if interrupted is not None:
            raise interrupted

    def close(self) -> None:
        self._check_attached()
        super().close()

    def detach(self) -> RawFile:
        """Flush, give up the raw file below and return it; this file is of no use then.

        Synchronous, so it may block.  What was read ahead is lost, as with `io`.  A text file over
        this one is of no use then, either, and what it has not handed down is lost, too.

        :raises anyio.BusyResourceError: an operation of this file is under way
        """
        self._check_closed(CLOSED + ".")
        handle = self._handle
        if handle.busy or (handle.align and handle.inflight):
            raise anyio.BusyResourceError("using")
        self._flush_rest()
        raw = RawFile(handle, self._name, self._mode, self._limiter)
        self._handle = Handle(-1, handle.open_flags)
        above = self._above() if hasattr(self, "_above") else None
        if above is not None:
            above._handle = self._handle
        return raw

    def _flush_synchronously(self) -> None:
        handle = self._handle
        # A direct write waits for those under way, which may be waiting for this very loop
        if not handle.busy and not (handle.align and handle.inflight):
            self._flush_rest()

    def _flush_rest(self) -> None:
        handle, buffer = self._handle, self._buffer
        while buffer.pending:
            data = buffer.unwritten()
            if handle.align:
                count = write_any(
                    handle,
                    memoryview(data),
                    -1 if handle.shared else handle.position,
                    False,
                    lambda _: None,
                )
                if not handle.shared:
                    handle.position += count
            elif handle.shared:
                count = os.write(handle.fd, data)
            else:
                count = pwrite(handle.fd, data, handle.position)
                handle.position += count
            self._wrote(count)


plain_attributes(BufferedFile)
