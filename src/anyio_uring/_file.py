"""`AsyncFile`, unbuffered: a descriptor and a position.

**Who keeps the position.**  A file that we opened from a path is *exclusive*: `handle.position`
is the truth, every transfer names its offset, and several can be under way.  Descriptors that
came from elsewhere, append modes, streams, and every file whose `fileno()` or `wrapped` somebody
has seen are *shared*: the kernel's offset is the truth (a child process or another appender moves
it), transfers go to offset -1, one at a time.

**Order.**  Operations that use the position stand in line (`Line`); the right to it belongs to the
operation, and is passed on at its completion, also when the task that asked has left.  Positional
ones (`pread`, `pwrite`) stand in no line.

The first lines of `read` and `pread` are the hot path: one compiled call that checks everything
and reads, if nothing has to be waited for.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import nullcontext
from functools import partial
from operator import index
from typing import IO, TYPE_CHECKING, Any, AnyStr, Literal, NoReturn, Self, cast, get_args

import anyio
from anyio import CancelScope, get_cancelled_exc_class

from ._arguments import as_offset, as_readable, as_size, as_writable
from ._errors import CLOSED, NOT_WRITABLE, logger, unsupported
from ._file_steps import POSITION_MAX, FileSteps
from ._handle import MISS, Handle, close_quick, closes_quickly, plain_attributes, pread_now
from ._line import Turn
from ._ranges import ranges_of, read_many
from ._runtime import Runtime, current_runtime

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from anyio import CapacityLimiter

Advice = Literal["normal", "sequential", "random", "willneed", "dontneed", "noreuse"]
# 0 where the system has none
ADVICE: dict[str, int] = {
    name: getattr(os, f"POSIX_FADV_{name.upper()}", 0) for name in get_args(Advice)
}
# These set a flag of the open file; the others read, or drop what may have to be written first.
ADVICE_AT_ONCE = frozenset({"normal", "sequential", "random"})


class AsyncFile(FileSteps[AnyStr]):
    """An asynchronous file, as :func:`open_file` returns it; an ``anyio.AsyncFile``.

    It can be shared between tasks, event loops and threads: operations that use the position run
    one at a time in order of arrival.  Every operation is a cancellation point: in a cancelled
    scope it raises before it has any effect.  A read that is cancelled has not moved the
    position; a write to a file that has begun is finished.

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with await anyio_uring.open_file("/etc/passwd", "rb", 0) as f:
    ...         return await f.pread(4, 0)
    >>> anyio.run(main)
    b'root'
    """

    __slots__ = ()

    # -- what a synchronous file tells ------------------------------------------------------------

    @property
    def name(self) -> Any:
        """What was opened: the path as given, or the descriptor."""
        return self._name

    @property
    def mode(self) -> str:
        """The mode, as `io.FileIO` spells it."""
        return self._mode

    @property
    def closed(self) -> bool:
        """Whether the file is closed, or being closed."""
        return self._handle.closed

    @property
    def closefd(self) -> bool:
        """Whether closing the file closes the descriptor."""
        return self._handle.closefd

    @property
    def limiter(self) -> CapacityLimiter | None:
        """The limiter of this file's worker threads; it does not bound operations on the ring."""
        return cast("CapacityLimiter | None", self._limiter)

    @property
    def wrapped(self) -> IO[AnyStr]:
        """A synchronous `io.FileIO` on the same descriptor, made on demand.

        From then on the position is the kernel's, and both see each other's reads and writes.

        :raises ValueError: the file is closed
        """
        handle = self._handle
        if handle.twin is None:
            self._check_closed()
            self._flush_synchronously()
            fd = self.fileno()
            mode = self._mode.replace("x", "w") if "x" in self._mode else self._mode
            # "w" on a descriptor does not truncate: FileIO opens nothing
            handle.twin = io.FileIO(fd, mode, closefd=False)
        return cast("IO[AnyStr]", handle.twin)

    def fileno(self) -> int:
        """The file descriptor.  From then on the position is the kernel's.

        :raises ValueError: the file is closed
        """
        self._check_closed()
        self._share()
        return self._handle.fd

    def isatty(self) -> bool:
        """Whether this is a terminal.

        :raises ValueError: the file is closed
        """
        self._check_closed()
        return stat.S_ISCHR(self._handle.st_mode) and os.isatty(self._handle.fd)

    def readable(self) -> bool:
        """Whether the file was opened for reading.

        :raises ValueError: the file is closed
        """
        self._check_closed()
        return self._handle.readable

    def writable(self) -> bool:
        """Whether the file was opened for writing.

        :raises ValueError: the file is closed
        """
        self._check_closed()
        return self._handle.writable

    def seekable(self) -> bool:
        """Whether the file has a position.

        :raises ValueError: the file is closed
        """
        self._check_closed()
        if self._handle.seekable:
            return True
        try:
            os.lseek(self._handle.fd, 0, os.SEEK_CUR)
        except OSError:
            return False
        return True

    def __repr__(self) -> str:
        return (
            f"<{type(self).__module__}.{type(self).__name__} name={self._name!r} "
            f"mode={self._mode!r} closefd={self.closefd}>{self._state()}"
        )

    def _state(self) -> str:
        handle = self._handle
        return " [closed]" if handle.closing else " [detached]" if handle.closed else ""

    async def _enter(self) -> Self:
        self._check_closed(CLOSED + ".")
        return self

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _dropped(self) -> None:
        """The file goes, and nobody has closed it."""
        if self._handle.closefd:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=2)
        self.close()

    # -- whole lines ------------------------------------------------------------------------------

    async def readlines(self, hint: int | None = None) -> list[AnyStr]:
        """All lines; with a hint, no more once that many bytes have been read."""
        hint = as_size(hint)
        self._check_closed(CLOSED + ".")
        lines: list[AnyStr] = []
        total = 0
        while line := await self.readline():
            lines.append(line)
            total += len(line)
            if 0 < hint < total:
                break
        return lines

    async def __aiter__(self) -> AsyncIterator[AnyStr]:
        while line := await self.readline():
            yield line

    async def writelines(self, lines: Iterable[ReadableBuffer] | Iterable[str]) -> None:
        """Write each item of an iterable; no newlines are added."""
        self._check_closed(CLOSED + ".")
        for line in lines:
            await self.write(cast("Any", line))

    # -- at an offset of one's choice --------------------------------------------------------------

    async def pread(self, size: int, offset: int) -> bytes:
        """Read `size` bytes at `offset`, fewer only at the end of the file.

        Takes no part in the order of operations; the position does not move.  What is unwritten
        there is written first.  A text file has it on its `buffer`.

        :raises ValueError: negative size, or the file is closed
        :raises OSError: ESPIPE on a stream, EINVAL for a negative offset, and pread(2)'s
        :raises io.UnsupportedOperation: not opened for reading
        """
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
        """Fill a buffer from `offset`; the count is short only at the end of the file.

        :raises TypeError: the buffer is read-only or not contiguous; otherwise as `pread`
        """
        with as_writable(buffer, "preadinto() argument") as view:
            runtime = await self._begin(view.nbytes)
            offset = self._check_positional(offset)
            self._check_readable()
            await self._settle_range(runtime, offset, view.nbytes)
            return cast(int, await runtime.ops.readinto(self._job(), view, offset))

    async def pread_many(self, requests: Iterable[tuple[int, int]]) -> list[bytes]:
        """Read many ranges of the file: (size, offset) pairs, their bytes in the same order.

        As so many calls of `pread`, but with one turn of the loop for all that has to be waited
        for: it is in flight together, and ranges that touch are read as one.  The first error is
        raised once the reads under way have ended.

        :raises OSError: as `pread`; which range it was is not told
        :raises ValueError: something else than pairs, or a negative size
        :raises TypeError: a size or an offset that is no integer
        :raises io.UnsupportedOperation: not opened for reading

        >>> import anyio, anyio_uring
        >>> async def main():
        ...     async with await anyio_uring.open_file("/etc/passwd", "rb") as f:
        ...         return await f.pread_many([(2, 0), (2, 2), (1, 4)])
        >>> anyio.run(main)
        [b'ro', b'ot', b':']
        """
        pairs, (size, offset, most) = ranges_of(requests)
        runtime = await self._begin(0)
        self._check_positional(offset)
        self._check_readable()
        if size < 0:
            raise ValueError("size must not be negative")
        if most > POSITION_MAX:
            raise OverflowError("Python int too large to convert to C long")
        await self._settle_ranges(runtime, pairs)
        self._check_closed()
        return await read_many(runtime.ops, self._job(), pairs)

    async def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        """Write all of `data` at `offset`; returns its size in bytes.  The position does not move.

        What was read ahead is read again.  A text file has it on its `buffer`.

        :raises io.UnsupportedOperation: not opened for writing, or in an append mode, where
            pwrite(2) would append
        :raises OSError: ESPIPE on a stream, EINVAL for a negative offset, and pwrite(2)'s; a part
            may have been written
        """
        with as_readable(data) as view:
            runtime = await self._begin(view.nbytes)
            offset = self._check_positional(offset)
            handle = self._handle
            if not handle.writable:
                raise unsupported(NOT_WRITABLE)
            if handle.append:
                raise unsupported("pwrite in an append mode would append")
            await self._settle_range(runtime, offset, view.nbytes)
            self._forget_ahead()
            try:
                return cast(int, await runtime.ops.write(self._job(), view, offset, True))
            finally:
                self._forget_ahead()

    async def _settle_range(self, runtime: Runtime, offset: int, size: int) -> None:
        """Before a positional operation: have what is unwritten there written."""

    async def _settle_ranges(self, runtime: Runtime, pairs: list[tuple[int, int]]) -> None:
        """The same before several of them."""

    def _forget_ahead(self) -> None:
        """Around a positional write: what was read ahead may be older than the file."""

    # -- the disk ---------------------------------------------------------------------------------

    async def fsync(self) -> None:
        """Have the file's data and metadata on the disk, fsync(2).

        :raises OSError: EIO, ENOSPC, EDQUOT of writes since the last sync; EINVAL on a stream
        """
        await self._sync(datasync=False)

    async def fdatasync(self) -> None:
        """As `fsync`, without metadata that reading the data back does not need, fdatasync(2)."""
        await self._sync(datasync=True)

    async def _sync(self, datasync: bool) -> None:
        runtime = await self._begin(0)
        await runtime.ops.sync(self._job(), datasync)

    async def allocate(self, offset: int, size: int, *, keep_size: bool = False) -> None:
        """Have the file system set space aside, so that writing there needs none, fallocate(2).

        What is there stays; what is behind the end of the file reads as zeros.

        :param size: in bytes, from `offset` on
        :param keep_size: the file does not grow, however far the space reaches
        :raises io.UnsupportedOperation: not opened for writing, or the system has no such call
        :raises OSError: ENOSPC, EFBIG; EINVAL for a negative offset or no size, EOPNOTSUPP of a
            file system that cannot do it, ESPIPE or ENODEV of a stream
        """
        offset, size = as_offset(offset), as_offset(size)
        runtime = await self._begin(0)
        if not self._handle.writable:
            raise unsupported(NOT_WRITABLE)
        await runtime.ops.allocate(self._job(), offset, size, bool(keep_size))

    async def advise(self, advice: Advice, offset: int = 0, size: int = 0) -> None:
        """Tell the kernel how a range of the file will be used, posix_fadvise(2).

        A hint: where the system or the file knows none, nothing happens.

        :param size: in bytes; 0 is all to the end of the file
        :raises ValueError: no such advice, or the file is closed
        :raises OSError: EINVAL for a negative size
        """
        number = ADVICE.get(advice)
        if number is None:
            names = ", ".join(map(repr, ADVICE))
            raise ValueError(f"advice must be one of {names}, not {advice!r}")
        offset, size = as_offset(offset), as_offset(size)
        runtime = await self._begin(0)
        handle = self._handle
        if not handle.seekable or not hasattr(os, "posix_fadvise"):
            return
        if handle.local and advice in ADVICE_AT_ONCE:
            try:
                os.posix_fadvise(handle.fd, offset, size, number)
            except OSError as error:
                error.filename = self._name
                raise
            return
        await runtime.threads.advise(self._job(), number, offset, size)

    # -- closing ----------------------------------------------------------------------------------

    @closes_quickly
    async def aclose(self) -> None:
        """Close the file.

        The descriptor is released in any case, also in a cancelled scope and when an error is
        raised.  Reads that wait on a stream are ended (``ValueError``), other operations under way
        are waited for; in a cancelled scope only briefly, and the last of them closes.  Closing
        twice is no error.

        :raises OSError: what close(2) reports: EIO, ENOSPC, EDQUOT of earlier writes
        """
        if close_quick(self):
            return
        handle = self._handle
        if handle.closed:
            return
        runtime = current_runtime()
        self._retire()
        handle.meter = runtime.meter
        interrupted = await self._wait_idle(runtime) if handle.inflight else None
        if not _close_when_idle(handle, self._flush_rest):
            # A scope costs half as much as the rest of a close that need not wait
            closed = handle.closefd and handle.close_now() != MISS
            if not closed or not runtime.meter.charge(0):
                with CancelScope(shield=True):
                    if not closed:
                        await runtime.ops.close(self._job())
                    await runtime.gate.admit()
        if interrupted is not None and not runtime.host.by_scope(interrupted):
            raise interrupted

    async def _flush_finally(self, runtime: Runtime) -> BaseException | None:
        """Flush, also in a cancelled scope; returns the native cancellation that came meanwhile.

        One does not end it: an operation under way may leave bytes in the buffer that are nobody's
        but ours.  A second one leaves them, and the closing, to the last such operation.
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
                    self.close()
                    raise
                interrupted = error

    async def _write_out(self, runtime: Runtime, turn: Turn) -> None:
        """Within a turn: hand the kernel what is unwritten; whatever it does not take stays."""

    async def _wait_idle(self, runtime: Runtime) -> BaseException | None:
        """Until no operation uses this file; once cancelled, for the grace period only.

        Returns the exception that ended the wait, so that the file is closed first.
        """
        handle, host = self._handle, runtime.host
        if not handle.regular:
            runtime.interrupt(handle)
        interrupted: BaseException | None = None
        scope: Any = nullcontext()
        while handle.inflight:
            waiter = host.waiter()
            if not handle.call_when_idle(partial(host.wake, waiter)):
                break
            try:
                with scope:
                    await host.park(waiter)
            except BaseException as error:  # noqa: BLE001 (raised once the file is closed)
                interrupted = error
            if isinstance(scope, CancelScope):
                break
            if interrupted is not None:
                grace = runtime.settings.cancel_grace
                scope = CancelScope(shield=True, deadline=anyio.current_time() + grace)
        return interrupted

    def close(self) -> None:
        """Close at once, synchronously; it may block, so prefer `aclose`.

        If operations of this file are in the kernel, the last of them closes it.

        :raises OSError: what close(2) reports
        """
        handle = self._handle
        if handle.closed:
            return
        try:
            self._flush_synchronously()
        finally:
            self._retire()
            if not _close_when_idle(handle, self._flush_rest):
                fd = handle.release()
                if handle.closefd:
                    os.close(fd)

    def _retire(self) -> None:
        """No operation begins from now on; a descriptor that stays open is where we are."""
        handle = self._handle
        if not handle.closefd and handle.seekable and not handle.busy:
            self._publish()
        handle.closing = True
        if handle.twin is not None:
            handle.twin.close()


plain_attributes(AsyncFile)


def _close_when_idle(handle: Handle, flush: Callable[[], object]) -> bool:
    """The last operation under way closes, and keeps the handle alive; False if there is none.

    :param flush: called before
    """

    def close() -> None:
        try:
            flush()
        except OSError:
            logger().exception("writing what a file that nobody waits for had buffered failed")
        fd = handle.release()
        if handle.closefd:
            try:
                os.close(fd)
            except OSError:  # nobody is there to hear it, and others wait for their completions
                logger().exception("closing a file that nobody waits for failed")

    return handle.call_when_idle(close)
