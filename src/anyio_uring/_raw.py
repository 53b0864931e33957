"""`RawFile`: an unbuffered file, a descriptor and a position.

The first lines of `read` and `pread` are the hot path: one compiled call that checks everything
and reads, if nothing has to be waited for.
"""

from __future__ import annotations

import os
import stat
import sys
from operator import index
from typing import TYPE_CHECKING, cast

from ._arguments import as_readable, as_size, as_writable
from ._errors import CLOSED, NOT_WRITABLE, os_error, unsupported
from ._file import AsyncFile
from ._file_steps import EINVAL, POSITION_MAX
from ._handle import plain_attributes, read_now
from ._mounts import NOW_NEVER

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ._line import Turn
    from ._runtime import Runtime

LINE_CHUNK = 8192

# From 3.12 on FileIO counts its arguments.
READINTO_ARGUMENT = "readinto() argument" + " 1" * (sys.version_info >= (3, 12))


class RawFile(AsyncFile[bytes]):
    """A binary file opened with ``buffering=0``."""

    __slots__ = ()

    # -- reading ----------------------------------------------------------------------------------

    async def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes at the position; all that is left if `size` is negative or None.

        A file gives fewer only at its end, a stream what it has; b"" means end of file.  None
        means that a non-blocking descriptor has nothing now.

        :raises io.UnsupportedOperation: not opened for reading
        :raises ValueError: the file is closed
        :raises OSError: EIO and whatever else read(2) reports
        """
        if type(size) is not int:
            size = as_size(size)
        if size < 0:
            return await self.readall()
        data = read_now(self, size)
        if data is not None:
            return data
        job = self._job(self._handle.tried)
        runtime = await self._begin(size)
        self._check_readable()
        turn = await self._take_turn(runtime)
        try:
            if job.handle.shared:
                data = self._at_hand(size)
                if data is None:
                    data = await runtime.ops.read(self._step(turn, tried=job.tried), size, -1)
                return cast(bytes, data)
            data = await runtime.ops.read(job, size, job.handle.position) or b""
            self._advance(len(data))
            return data
        finally:
            turn.leave()

    def _at_hand(self, size: int) -> bytes | None:
        """What a read at the kernel's own position has without asking the kernel; None: nothing."""
        handle = self._handle
        if not size and not handle.seekable:
            return b""  # read(2) does not wait for nothing, a poll would
        if not handle.kept:
            return None
        data, handle.kept = handle.kept[:size], handle.kept[size:]
        return data

    async def readall(self) -> bytes:
        """Read from the position to the end.  As `read` without a size."""
        runtime = await self._begin(0)
        self._check_readable()
        handle = self._handle
        turn = await self._take_turn(runtime)
        try:
            if not handle.shared:
                data = await runtime.ops.read_to_end(self._job(), handle.position) or b""
                runtime.gate.spend(len(data))
                self._advance(len(data))
                return data
            rest = await runtime.ops.read_to_end(self._step(turn), -1)
            if handle.kept:
                rest, handle.kept = handle.kept + (rest or b""), b""
            return cast(bytes, rest)
        finally:
            turn.leave()

    async def readinto(self, b: WriteableBuffer) -> int:
        """Read into a buffer; the count, 0 at the end of file, None as in `read`.

        :raises TypeError: the buffer is read-only or not contiguous
        """
        with as_writable(b, READINTO_ARGUMENT) as view:
            runtime = await self._begin(view.nbytes)
            self._check_readable()
            handle = self._handle
            turn = await self._take_turn(runtime)
            try:
                if not view.nbytes and not handle.seekable:
                    return 0
                if handle.kept:
                    data, handle.kept = handle.kept[: view.nbytes], handle.kept[view.nbytes :]
                    view.cast("B")[: len(data)] = data
                    return len(data)
                if handle.shared:
                    return cast(int, await runtime.ops.readinto(self._step(turn), view, -1))
                count = await runtime.ops.readinto(self._job(), view, handle.position) or 0
                self._advance(count)
                return count
            finally:
                turn.leave()

    async def readline(self, size: int | None = -1) -> bytes:
        """Read until a newline, the end, or `size` bytes.  A stream is read byte by byte, since
        what is behind the newline is somebody else's.
        """
        limit = as_size(size)
        if limit < 0:
            limit = sys.maxsize
        if limit == 0 and not self._handle.readable:
            return b""  # as `io`, which reads nothing then, and so finds nothing wrong
        runtime = await self._begin(0)
        self._check_readable()
        handle = self._handle
        turn = await self._take_turn(runtime)
        try:
            if handle.shared:
                return await self._read_shared_line(runtime, turn, limit)
            chunks: list[bytes] = []
            moved = 0
            while moved < limit:
                if moved:  # a long line takes its turns, too
                    await runtime.gate.admit(len(chunks[-1]))
                wanted = min(LINE_CHUNK, limit - moved)
                chunk = await runtime.ops.read(self._job(), wanted, handle.position + moved) or b""
                end = chunk.find(b"\n") + 1
                chunks.append(chunk[:end] if end else chunk)
                moved += len(chunks[-1])
                if end or not chunk:
                    break
            line = await runtime.ops.join(chunks, self._limiter)
            self._advance(moved)
            return line
        finally:
            turn.leave()

    async def _read_shared_line(self, runtime: Runtime, turn: Turn, limit: int) -> bytes:
        """Byte by byte.  If the end of a line cannot be had, its begin is not lost."""
        handle = self._handle
        cached = handle.now != NOW_NEVER and runtime.meter is not None and runtime.meter.enabled
        if handle.regular and not handle.align and not cached and runtime.ops is runtime.threads:
            return await runtime.threads.read_line(self._step(turn), limit)
        line = bytearray()
        try:
            while len(line) < limit:
                if line:
                    await runtime.gate.admit(1)
                byte = self._at_hand(1)
                if byte is None:
                    byte = await runtime.ops.read(self._step(turn), 1, -1)
                if byte is None:
                    raise OSError("read() should have returned a bytes object, not 'NoneType'")
                line += byte
                if not byte or byte == b"\n":
                    break
        except BaseException:
            if line:
                self._salvage(bytes(line), True)
            raise
        return bytes(line)

    # -- writing ----------------------------------------------------------------------------------

    async def write(self, b: ReadableBuffer | str) -> int:
        """Write at the position (in append modes at the end); returns the number of bytes.

        It is all of them, unless an error cut the write off behind a part (a full disk): then the
        size of the part, and the next write raises.  On a stream a cancellation can do the same.
        None means that a non-blocking descriptor takes nothing now.

        :raises io.UnsupportedOperation: not opened for writing
        :raises ValueError: the file is closed
        :raises OSError: ENOSPC, EFBIG, EPIPE, EIO, and whatever else write(2) reports
        """
        with as_readable(b) as view:
            runtime = await self._begin(view.nbytes)
            if not self._handle.writable:
                raise unsupported(NOT_WRITABLE)
            handle = self._handle
            turn = await self._take_turn(runtime)
            try:
                if not view.nbytes and not handle.seekable and not stat.S_ISSOCK(handle.st_mode):
                    return 0  # (a socket may send an empty message)
                if handle.shared:
                    job, offset = self._step(turn, last=True), -1
                else:
                    job, offset = self._step(turn, self._advance, last=True), handle.position
                return cast(int, await runtime.ops.write(job, view, offset, False))
            finally:
                turn.leave()

    async def truncate(self, size: int | None = None) -> int:
        """Set the size of the file, by default to the position, which does not move.

        :return: the new size in bytes
        :raises io.UnsupportedOperation: not opened for writing
        :raises OSError: EINVAL for a negative size or a stream, EFBIG, ENOSPC, EIO
        """
        runtime = await self._begin(0)
        if not self._handle.writable:
            raise unsupported(NOT_WRITABLE)
        if size is None:
            size = await self.tell()
        else:
            size = index(size)
        if size < 0:
            raise os_error(EINVAL, self._name)
        turn = await self._take_turn(runtime)
        try:
            await runtime.ops.truncate(self._step(turn), size)
        finally:
            turn.leave()
        return size

    async def flush(self) -> None:
        """Nothing is buffered here; a cancellation point, as with any file.

        :raises ValueError: the file is closed
        """
        await self._begin(0, CLOSED + ".")

    # -- what AnyIO's class has, and `io.FileIO` has not ------------------------------------------

    async def read1(self, size: int = -1) -> bytes:
        """Buffered files have it.

        :raises AttributeError: always
        """
        raise AttributeError("'RawFile' object has no attribute 'read1'")

    async def readinto1(self, b: WriteableBuffer) -> int:
        """Buffered files have it.

        :raises AttributeError: always
        """
        raise AttributeError("'RawFile' object has no attribute 'readinto1'")

    # -- the position -----------------------------------------------------------------------------

    async def seek(self, offset: int, whence: int | None = os.SEEK_SET) -> int:
        """Move the position and return it; `whence` as in lseek(2).

        :raises OSError: EINVAL for a position that cannot be, ESPIPE on a stream
        """
        runtime = await self._begin(0)
        offset, whence = index(offset), index(whence)  # type: ignore[arg-type]
        if not -POSITION_MAX - 1 <= offset <= POSITION_MAX:
            raise OverflowError("Python int too large to convert to C long")
        handle = self._handle
        turn = await self._take_turn(runtime)
        try:
            if handle.shared or not handle.seekable:
                return await self._seek_kernel(runtime, offset, whence, turn)
            position = await self._destination(runtime, offset, whence)
            self._advance(position - handle.position)
            return position
        finally:
            turn.leave()

    async def tell(self) -> int:
        """The position in bytes.

        :raises OSError: ESPIPE on a stream
        """
        runtime = await self._begin(0)
        handle = self._handle
        await self._line.acquire(runtime.host)
        try:
            self._check_closed()
            if handle.shared or not handle.seekable:
                return await self._seek_kernel(runtime, 0, os.SEEK_CUR)
            return handle.position
        finally:
            self._line.release()


plain_attributes(RawFile)
