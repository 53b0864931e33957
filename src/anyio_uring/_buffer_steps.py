"""The steps that operations of a buffered file are made of, each within the file's turn.

`_buffered.py` says what holds between them.
"""

from __future__ import annotations

import errno
import os
import weakref
from typing import TYPE_CHECKING, Any, cast

from ._errors import CLOSED, unsupported
from ._file import AsyncFile
from ._runtime import Runtime

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from ._line import Turn
    from ._ops import Job

# A stream has rarely more to give at once, and memory for all that was asked would be set aside.
STREAM_MAX = 1 << 20
RAW_DETACHED = "raw stream has been detached"


class BufferSteps(AsyncFile[bytes]):
    """What a buffered file does within a turn: the steps that its methods are made of."""

    __slots__ = ("_above",)

    # The text file that has shown this one, if any: it goes with it when `detach` is called
    _above: weakref.ref[AsyncFile[str]]

    @property
    def name(self) -> Any:
        self._check_attached()
        return self._name

    @property
    def mode(self) -> str:
        self._check_attached()
        return self._mode

    @property
    def closed(self) -> bool:
        self._check_attached()
        return self._handle.closed

    # `io` asks the descriptor, and so finds it closed, only if the mode leaves the question open

    def readable(self) -> bool:
        return self._handle.readable and super().readable()

    def writable(self) -> bool:
        return self._handle.writable and super().writable()

    def _check_attached(self) -> None:
        handle = self._handle
        if handle.fd < 0 and not handle.closing:  # it never was open: `detach` has put it here
            raise ValueError(RAW_DETACHED)

    def _closed_error(self, text: str = CLOSED) -> ValueError:
        self._check_attached()
        return super()._closed_error(text)

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
        :param since: the buffer's `changes` when the caller began
        """
        handle, buffer = self._handle, self._buffer
        size = max(buffer.size, wanted)
        while True:
            changes = self._buffer.changes
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
            if changes == buffer.changes:
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
        if not handle.seekable:
            return await self._read_stream(runtime, turn, size)
        while (rest := size - buffer.unread) > 0:
            wanted = max(-(-rest // unit) * unit, buffer.size)
            data = await self._fill(runtime, turn, wanted)
            if not data:
                if data is None and not buffer.unread:
                    return None
                break
            if len(data) < wanted:
                break
        return buffer.take(size)

    async def _read_stream(self, runtime: Runtime, turn: Turn, size: int) -> bytes | None:
        """The same from a stream, which gives a little at a time: the parts wait beside the
        buffer, where none is copied again when the next one comes.
        """
        buffer = self._buffer
        parts = [buffer.take(size)]
        rest = size - len(parts[0])
        data: bytes | None = parts[0]
        try:
            while rest > 0:
                data = await self._fill(runtime, turn, min(rest, STREAM_MAX))
                if not data:
                    break
                parts.append(buffer.take(rest))
                rest -= len(parts[-1])
            if data is None and rest == size:
                return None
            return await runtime.ops.join(parts, self._limiter)
        except BaseException:
            self._put_back(parts)
            raise

    def _put_back(self, parts: list[bytes]) -> None:
        """What was taken for an operation that was cut off is still the next to be read."""
        with self._line.mutex:  # a thread may be giving back what it has read for the same one
            rest = self._buffer.peek()
            self._buffer.drop()
            self._buffer.fill(b"".join(parts) + rest)

    async def _read_all(self, runtime: Runtime, turn: Turn) -> bytes:
        handle, buffer = self._handle, self._buffer
        head = buffer.peek()
        if not handle.seekable:
            buffer.drop()  # what may be given back comes behind it
            try:
                rest = await runtime.ops.read_to_end(self._step(turn), -1)
            except BaseException:
                self._put_back([head])
                raise
            if rest is None and not head:
                return cast(bytes, None)
        elif handle.shared:
            rest = await runtime.ops.read_to_end(self._step(turn), -1)
        else:
            rest = await runtime.ops.read_to_end(self._job(), handle.position)
            self._advance(len(rest or b""))
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
        changes = self._buffer.changes
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
            self._put_back(parts)
            if not turn.under_way:
                self._forget_older(changes)
            raise
        parts.append(part)
        return b"".join(parts)

    # -- writing, within a turn -------------------------------------------------------------------

    async def _write_out(self, runtime: Runtime, turn: Turn) -> None:
        """Hand the kernel what is unwritten; whatever it does not take stays here."""
        while self._buffer.pending:
            await self._transfer(runtime, turn, self._buffer.unwritten(), self._wrote)

    async def _write_through(self, runtime: Runtime, turn: Turn, view: memoryview) -> None:
        """A write that does not fit: push out what is there, and then this or into the buffer."""
        handle, buffer = self._handle, self._buffer
        if not handle.seekable:
            await self._write_to_stream(runtime, turn, view)
            return
        pending = buffer.unwritten()
        if view.nbytes >= buffer.past:
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

    async def _write_to_stream(self, runtime: Runtime, turn: Turn, view: memoryview) -> None:
        """The same piece by piece: a stream takes what it has room for, or nothing now."""
        buffer = self._buffer
        written = 0
        try:
            await self._write_out(runtime, turn)
            while view.nbytes - written >= buffer.past:
                written += await self._transfer(runtime, turn, view[written:], self._wrote)
        except BlockingIOError:
            # As `io`: what the buffer has room for counts as written
            room = buffer.size - buffer.pending
            if view.nbytes - written > room:
                buffer.add(view[written : written + room])
                raise self._would_block(written + room) from None
        buffer.add(view[written:])

    def _would_block(self, written: int) -> BlockingIOError:
        error = BlockingIOError(errno.EAGAIN, "write could not complete without blocking", written)
        error.filename = self._name
        return error

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
            raise self._would_block(0)
        return moved

    async def _rewind(self, runtime: Runtime, turn: Turn) -> None:
        """Forget what was read ahead, and go back to where the user is."""
        buffer = self._buffer
        count = buffer.unread
        if count and self._handle.shared:
            try:
                await self._seek_kernel(runtime, -count, os.SEEK_CUR, turn)
            except OSError:
                buffer.drop()  # somebody else has moved the offset
                raise
        else:
            self._handle.position -= count
        buffer.drop()

    def _moved_on(self, position: int | None) -> None:
        if position is not None:
            self._buffer.drop()

    async def _settle_range(self, runtime: Runtime, offset: int, size: int) -> None:
        """Before a positional operation: have what is unwritten there written."""
        handle, pending = self._handle, self._buffer.pending
        if not pending:
            return
        if not handle.shared:
            begin, end = handle.position, offset + size
            if offset >= begin + pending:
                return
            # Behind the end of the file it makes zeros of what is before it
            if end <= begin and end <= await runtime.ops.size(self._job()):
                return
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
        finally:
            turn.leave()

    async def _settle_ranges(self, runtime: Runtime, pairs: list[tuple[int, int]]) -> None:
        for size, offset in pairs:
            if not self._buffer.pending:
                break
            await self._settle_range(runtime, offset, size)

    def _reading_step(self, turn: Turn, changes: int) -> Job:
        """A read at the kernel's position; it forgets what is older also if its task has left."""
        return self._step(turn, lambda _: self._forget_older(changes))

    def _forget_older(self, changes: int, more: int = 0) -> None:
        """Within a turn: forget what was read before `pwrite` changed the file.

        :param changes: the buffer's `changes` when it was read
        :param more: bytes that were read behind it, but not put into the buffer
        """
        if changes != self._buffer.changes:
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
        self._buffer.changes += 1
        if handle.busy or handle.closed:
            return  # whoever reads now looks at `changes`
        self._step_back(self._buffer.drop())

    # -- the position, within a turn ---------------------------------------------------------------

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
            position = await self._seek_kernel(runtime, offset, whence, turn)
        else:
            position = await self._destination(runtime, offset, whence)
        buffer.drop()
        handle.position = position
        if handle.shared and not shared:
            os.lseek(handle.fd, position, os.SEEK_SET)  # somebody has asked for the descriptor
        return position

    async def _tell(self, runtime: Runtime) -> int:
        handle, buffer = self._handle, self._buffer
        position = handle.position
        if handle.shared or not handle.seekable:
            changes = self._buffer.changes
            position = await self._seek_kernel(runtime, 0, os.SEEK_CUR)
            if changes != self._buffer.changes:
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

    def _salvage(self, data: bytes, before: bool = False) -> None:
        if self._handle.seekable:
            super()._salvage(data, before)
        elif before:
            self._put_back([data])
        else:
            with self._line.mutex:
                self._buffer.fill(data)
