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
from typing import TYPE_CHECKING, Any, cast

from anyio import CancelScope, get_cancelled_exc_class

from ._buffer import (
    Buffer,
    Lines,
    buffered_read_now,
    buffered_readline_now,
    buffered_seek_now,
    buffered_tell_now,
    buffered_write_now,
)
from ._errors import CLOSED, os_error, unsupported
from ._file import (
    SAFE_POSITION_MAX,
    SEEK_WHENCES,
    AsyncFile,
    as_offset,
    as_readable,
    as_size,
    as_writable,
)
from ._handle import plain_attributes, pread_now
from ._runtime import Runtime, current_runtime
from ._transfers import pwrite

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from anyio import CapacityLimiter

    from ._handle import Handle
    from ._line import Turn
    from ._ops import Job


class BufferedFile(AsyncFile[bytes]):
    """A binary file with a buffer."""

    __slots__ = ("_changes",)

    def __init__(
        self, handle: Handle, name: Any, mode: str, limiter: CapacityLimiter | None, size: int
    ) -> None:
        super().__init__(handle, name, mode, limiter)
        self._buffer = Buffer(size)
        # Counts what `pwrite` changed, so that a read under way does not keep what is older
        self._changes = 0

    # `io` asks the descriptor, and so finds it closed, only if the mode leaves the question open

    def readable(self) -> bool:
        return self._handle.readable and super().readable()

    def writable(self) -> bool:
        return self._handle.writable and super().writable()

    # -- reading ----------------------------------------------------------------------------------

    async def read(self, size: int | None = -1) -> bytes:
        data = buffered_read_now(self, size)
        if data is not None:
            return data
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
        view = as_writable(b, "readinto")
        runtime, turn = await self._begin_reading("read", view.nbytes, closed="readinto")
        try:
            return await self._read_into(runtime, turn, view)
        finally:
            turn.leave()

    async def readinto1(self, b: WriteableBuffer) -> int:
        view = as_writable(b, "readinto1")
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

    async def pread(self, size: int, offset: int) -> bytes:
        data = pread_now(self, size, offset)
        if data is not None:
            return data
        tried = self._handle.tried
        size = index(size)
        runtime = await self._begin(size)
        offset = self._check_positional(offset)
        self._check_readable()
        if size < 0:
            raise ValueError("size must not be negative")
        await self._settle_range(runtime, offset, size)
        return cast(bytes, await runtime.ops.read(self._job(tried), size, offset))

    async def preadinto(self, buffer: WriteableBuffer, offset: int) -> int:
        view = as_writable(buffer, "preadinto")
        runtime = await self._begin(view.nbytes)
        offset = self._check_positional(offset)
        self._check_readable()
        await self._settle_range(runtime, offset, view.nbytes)
        return cast(int, await runtime.ops.readinto(self._job(), view, offset))

    async def _read_nothing(self, method: str) -> bytes:
        """As `io`, which has nothing written then either."""
        if not self._handle.readable:
            raise unsupported(method)
        await self._begin(0, "read of closed file")
        return b""

    # -- reading, within a turn -------------------------------------------------------------------

    async def _begin_reading(
        self, method: str, size: int, closed: str | None = None
    ) -> tuple[Runtime, Turn]:
        """Whatever every reading method begins with.

        :param method: what `io` calls unsupported in a file that cannot be read
        :param closed: what it says that a closed file cannot do, if that is something else
        """
        if not self._handle.readable:
            raise unsupported(method)
        runtime = await self._begin(max(size, 0), f"{closed or method} of closed file")
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
        except BaseException:
            turn.leave()
            raise
        return runtime, turn

    async def _read_once(self, runtime: Runtime, turn: Turn, size: int) -> bytes | None:
        """One read past the (empty) buffer; None if a non-blocking descriptor has nothing."""
        handle = self._handle
        self._buffer.drop()
        if handle.shared:
            return await runtime.ops.read(self._step(turn), size, -1)
        data = await runtime.ops.read(self._job(), size, handle.position) or b""
        self._advance(len(data))
        return data

    async def _fill(
        self, runtime: Runtime, turn: Turn, wanted: int = 0, since: int | None = None
    ) -> bytes | None:
        """One read into the buffer, behind what is unread; b"" at the end of the file.

        :param wanted: read this much if it is more than the buffer's size
        :param since: `_changes` when the caller began
        """
        handle, buffer = self._handle, self._buffer
        size = max(buffer.size, wanted)
        while True:
            changes = self._changes
            known = changes if since is None else since
            try:
                if handle.shared:
                    data = await runtime.ops.read(self._reading_step(turn, known), size, -1)
                else:
                    data = await runtime.ops.read(self._job(), size, handle.position) or b""
                    self._advance(len(data))
            except BaseException:
                if not turn.under_way:
                    self._forget_older(known)
                raise
            if changes == self._changes:
                break
            # `pwrite` has changed the file meanwhile: what is here may be older
            self._forget_older(changes, len(data or b""))
        if data:
            buffer.fill(data)
        return data

    async def _read_exactly(
        self, runtime: Runtime, turn: Turn, size: int, unit: int = 1
    ) -> bytes | None:
        """`size` bytes, fewer only at the end; None if a non-blocking descriptor has nothing.

        :param unit: read this many bytes at a time, or a multiple, but at least a buffer
        """
        handle, buffer = self._handle, self._buffer
        while (rest := size - buffer.unread) > 0:
            wanted = max(-(-rest // unit) * unit, buffer.size)
            data = await self._fill(runtime, turn, wanted)
            if not data:
                if data is None and not buffer.unread:
                    return None
                break
            if handle.seekable and len(data) < wanted:
                break
        return buffer.take(size)

    async def _read_all(self, runtime: Runtime, turn: Turn) -> bytes:
        handle, buffer = self._handle, self._buffer
        if handle.shared:
            rest = await runtime.ops.read_to_end(self._step(turn), -1)
            if rest is None and not buffer.unread:
                return cast(bytes, None)
        else:
            rest = await runtime.ops.read_to_end(self._job(), handle.position)
            self._advance(len(rest or b""))
        head = buffer.peek()
        buffer.drop()
        return head + (rest or b"") if head else (rest or b"")

    async def _read_into(self, runtime: Runtime, turn: Turn, view: memoryview) -> int:
        handle, buffer = self._handle, self._buffer
        rest = view.nbytes - buffer.unread
        if rest >= buffer.size and not handle.shared:
            head = buffer.peek()
            count = await runtime.ops.readinto(self._job(), view[len(head) :], handle.position) or 0
            self._advance(count)
            view[: len(head)] = head
            buffer.drop()
            return len(head) + count
        data = await self._read_exactly(runtime, turn, view.nbytes)
        if data is None:
            return cast(int, None)
        view[: len(data)] = data
        return len(data)

    async def _read_line(self, runtime: Runtime, turn: Turn, limit: int) -> bytes:
        buffer = self._buffer
        parts: list[bytes] = []
        changes = self._changes
        try:
            while True:
                part = buffer.take_line(limit)
                if part is not None:
                    break
                part = buffer.take(buffer.unread)
                parts.append(part)
                limit -= len(part) if limit > 0 else 0
                if not await self._fill(runtime, turn, 0, changes):
                    return b"".join(parts)
        except BaseException:
            # The parts are still the next ones to be read
            rest = buffer.peek()
            buffer.drop()
            buffer.fill(b"".join(parts) + rest)
            if not turn.under_way:
                self._forget_older(changes)
            raise
        parts.append(part)
        return b"".join(parts)

    # -- writing ----------------------------------------------------------------------------------

    async def write(self, b: ReadableBuffer | str) -> int:
        count = buffered_write_now(self, b)
        if count is not None:
            return count
        if not self._handle.writable:
            raise unsupported("write")
        view = as_readable(b)
        runtime = await self._begin(view.nbytes, "write to closed file")
        turn = await self._take_turn(runtime)
        try:
            await self._rewind(runtime)
            if not self._buffer.add(view):
                await self._write_through(runtime, turn, view)
            return view.nbytes
        finally:
            turn.leave()

    async def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        view = as_readable(data)
        runtime = await self._begin(view.nbytes)
        offset = self._check_positional(offset)
        handle = self._handle
        if not handle.writable:
            raise unsupported("write")
        if handle.append:
            raise unsupported("pwrite in an append mode would append")
        await self._settle_range(runtime, offset, view.nbytes)
        self._forget_ahead()
        try:
            return cast(int, await runtime.ops.write(self._job(), view, offset, True))
        finally:
            self._forget_ahead()

    async def truncate(self, size: int | None = None) -> int:
        runtime = await self._begin(0, "truncate of closed file")
        handle = self._handle
        if not handle.writable:
            raise unsupported("truncate")
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
            await self._rewind(runtime)
            if size is not None:
                size = index(size)
            elif handle.shared:
                size = await self._seek_kernel(runtime, 0, os.SEEK_CUR)
            else:
                size = handle.position
            if size < 0:
                raise os_error(errno.EINVAL, self._name)
            self._changes += 1
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
            await self._rewind(runtime)
        finally:
            turn.leave()

    async def _sync(self, datasync: bool) -> None:
        await self.flush()
        await super()._sync(datasync)

    # -- writing, within a turn -------------------------------------------------------------------

    async def _write_out(self, runtime: Runtime, turn: Turn) -> None:
        """Hand the kernel what is unwritten; whatever it does not take stays here."""
        while self._buffer.pending:
            await self._transfer(runtime, turn, self._buffer.unwritten(), self._wrote)

    async def _write_through(self, runtime: Runtime, turn: Turn, view: memoryview) -> None:
        """A write that does not fit: push out what is there, and then this or into the buffer."""
        handle, buffer = self._handle, self._buffer
        if not handle.seekable:
            await self._write_out(runtime, turn)
            while view.nbytes > buffer.size:
                moved = await self._transfer(runtime, turn, view, self._wrote)
                view = view[moved:]
            buffer.add(view)
            return
        pending = buffer.unwritten()
        if view.nbytes > buffer.size:
            # In one job, so that a cancellation finds all of it done or nothing
            data = pending + view if pending else view
            await self._transfer(runtime, turn, data, self._wrote)
            return
        kept = bytes(view)  # the caller's may change once his task has left

        def commit(moved: int | None) -> None:
            self._wrote(moved)
            if moved == len(pending):
                buffer.add(kept)

        await self._transfer(runtime, turn, pending, commit)

    def _wrote(self, moved: int | None) -> None:
        self._buffer.written(moved or 0)

    async def _transfer(
        self, runtime: Runtime, turn: Turn, data: ReadableBuffer, commit: Any
    ) -> int:
        """One write at the position.

        :param commit: called with what it moved, whatever becomes of the task
        """
        handle = self._handle
        if handle.shared:
            job, offset = self._step(turn, commit), -1
        else:

            def commit_and_advance(moved: int | None) -> None:
                self._advance(moved)
                commit(moved)

            job, offset = self._step(turn, commit_and_advance), handle.position
        moved = await runtime.ops.write(job, data, offset, handle.seekable)
        if moved is None:
            raise BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0)
        return moved

    async def _rewind(self, runtime: Runtime) -> None:
        """Forget what was read ahead, and go back to where the user is."""
        count = self._buffer.drop()
        if not count:
            return
        if self._handle.shared:
            await self._seek_kernel(runtime, -count, os.SEEK_CUR)
        else:
            self._handle.position -= count

    async def _settle_range(self, runtime: Runtime, offset: int, size: int) -> None:
        """Before a positional operation: have what is unwritten there written."""
        handle, pending = self._handle, self._buffer.pending
        begin = handle.position
        if not pending or (
            not handle.shared and (offset >= begin + pending or offset + size <= begin)
        ):
            return
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
        finally:
            turn.leave()

    def _reading_step(self, turn: Turn, changes: int) -> Job:
        """A read at the kernel's position; it forgets what is older also if its task has left."""
        return self._step(turn, lambda _: self._forget_older(changes))

    def _forget_older(self, changes: int, more: int = 0) -> None:
        """Within a turn: forget what was read before `pwrite` changed the file.

        :param changes: `_changes` when it was read
        :param more: bytes that were read behind it, but not put into the buffer
        """
        if changes != self._changes:
            self._step_back(self._buffer.drop() + more)

    def _step_back(self, count: int) -> None:
        handle = self._handle
        if not count:
            return
        if handle.shared:
            os.lseek(handle.fd, -count, os.SEEK_CUR)
        else:
            handle.position -= count

    def _forget_ahead(self) -> None:
        """After a positional write: what was read ahead may be older than the file."""
        handle = self._handle
        self._changes += 1
        if handle.busy or handle.closed:
            return  # whoever reads now looks at `_changes`
        self._step_back(self._buffer.drop())

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

    async def _seek(self, runtime: Runtime, turn: Turn, offset: int, whence: int) -> int:
        handle, buffer = self._handle, self._buffer
        if whence in (os.SEEK_SET, os.SEEK_CUR) and buffer.unread and handle.seekable:
            here = await self._tell(runtime)
            if buffer.step(offset if whence == os.SEEK_CUR else offset - here):
                return await self._tell(runtime)
        await self._write_out(runtime, turn)
        unread = buffer.unread
        if whence == os.SEEK_CUR:
            offset -= unread
        shared = handle.shared
        if shared or not handle.seekable:
            position = await self._seek_kernel(runtime, offset, whence)
        elif whence == os.SEEK_SET:
            position = offset
        elif whence == os.SEEK_CUR:
            position = handle.position + offset
        elif whence == os.SEEK_END and handle.regular:
            position = await runtime.ops.size(self._job()) + offset
        else:
            position = await self._seek_kernel(runtime, offset, whence)
        if position < 0:
            raise os_error(errno.EINVAL, self._name)
        if position > SAFE_POSITION_MAX and not handle.shared:
            position = await self._seek_kernel(runtime, position, os.SEEK_SET)
        buffer.drop()
        handle.position = position
        if handle.shared and not shared:
            os.lseek(handle.fd, position, os.SEEK_SET)  # somebody has asked for the descriptor
        return position

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

    async def _tell(self, runtime: Runtime) -> int:
        handle, buffer = self._handle, self._buffer
        position = handle.position
        if handle.shared or not handle.seekable:
            changes = self._changes
            position = await self._seek_kernel(runtime, 0, os.SEEK_CUR)
            if changes != self._changes:
                position -= buffer.unread
                self._forget_older(changes)
        return position - buffer.unread + buffer.pending

    async def _check_seekable(self, runtime: Runtime) -> None:
        try:
            await self._seek_kernel(runtime, 0, os.SEEK_CUR)
        except OSError:
            raise unsupported("File or stream is not seekable.") from None

    def _publish(self) -> None:
        handle = self._handle
        count = self._buffer.drop()
        if handle.shared:
            if count:
                os.lseek(handle.fd, -count, os.SEEK_CUR)
        else:
            handle.position -= count
            super()._publish()

    def _salvage(self, data: bytes) -> None:
        if self._handle.seekable:
            super()._salvage(data)
        else:
            self._buffer.fill(data)

    # -- closing ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        handle = self._handle
        if handle.closed:
            return
        interrupted: BaseException | None = None
        try:
            if self._buffer.pending:
                interrupted = await self._flush_finally(current_runtime())
        finally:
            await super().aclose()
        if interrupted is not None:
            raise interrupted

    async def _flush_finally(self, runtime: Runtime) -> BaseException | None:
        """Flush, also in a cancelled scope; returns the native cancellation that came meanwhile.

        One does not end it: an operation under way may leave bytes in the buffer that are nobody's
        but ours.  A second one leaves them to that operation.
        """
        interrupted: BaseException | None = None
        self._handle.meter = runtime.meter
        while True:
            try:
                with CancelScope(shield=True):
                    turn = await self._take_turn(runtime)
                    try:
                        await self._write_out(runtime, turn)
                    finally:
                        turn.leave()
                return interrupted
            except get_cancelled_exc_class() as error:
                if interrupted is not None:
                    raise
                interrupted = error

    def _flush_synchronously(self) -> None:
        if not self._handle.busy:
            self._flush_rest()

    def _flush_rest(self) -> None:
        handle, buffer = self._handle, self._buffer
        while buffer.pending:
            data = buffer.unwritten()
            if handle.shared:
                count = os.write(handle.fd, data)
            else:
                count = pwrite(handle.fd, data, handle.position)
                handle.position += count
            self._wrote(count)


plain_attributes(BufferedFile)
