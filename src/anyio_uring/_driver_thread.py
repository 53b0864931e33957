"""ThreadOps: what needs no waiting at once, everything else one hop to ``anyio.to_thread``.

The portable path: macOS, Windows, old kernels, containers that forbid io_uring; and, in the ring
driver, whatever the kernel has no opcode for.

A job runs to its end once its thread has begun with it, as AnyIO's own file operations do: a
scope's cancellation waits for it, a native one leaves it to finish by itself.  `done` is therefore
called by the thread.  Streams that can be polled are waited for in the loop first, so that they
stay cancellable.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from anyio import ClosedResourceError, to_thread

from ._errors import closed_error
from ._handle import MISS, fd_facts
from ._ops import PACED_MAX, Done, FileOps, Job, Opened, Pace
from ._transfers import pread_full, read_line, read_to_end, write_all

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from anyio import CapacityLimiter

    from ._handle import Handle

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Streams and files of unknown size are read in growing steps.
CHUNK_MIN = 64 << 10
CHUNK_MAX = 1 << 20
# A hop into a caller's buffer reads no more than this: freeing what it was read into takes time.
HOP_MAX = 16 << 20
# A thread copies no more than this at once.
COPY_MAX = 1 << 20
# More than this is put together in a thread: copying it takes milliseconds.
JOIN_MAX = 4 << 20


class ThreadOps:
    """The driver without a ring."""

    name = "thread"
    pace: Pace | None = None

    def __init__(self) -> None:
        self.jobs = 0

    async def run(self, job: Job, function: Callable[[Done], T]) -> T:
        """One hop.  The function is given a way to report what it moved; `job.done` hears it
        once, or None, whether the function ran, failed, or was never begun.
        """
        return await self._hop(_Hop(job, function), job)

    async def fetch(
        self,
        job: Job,
        function: Callable[[], T],
        offset: int,
        bytes_of: Callable[[T], bytes],
        into: memoryview | None = None,
    ) -> T:
        """One hop that reads; `bytes_of` its result is what it brought, copied to `into` by the
        thread.

        `job.done` is called here, when the task takes the bytes.  If it has left instead, a read
        at an explicit offset has moved nothing; one at the kernel's own position has, and hands
        its bytes to `job.salvage`.
        """

        def lost(result: T | None) -> None:
            data = b"" if result is None or offset != -1 else bytes_of(result)
            if data and job.salvage is not None:
                job.salvage(data)
            _call(job.done, len(data))

        hop: _Hop[T]

        def fetching(_: Done) -> T:
            result = function()
            if into is not None:
                data = bytes_of(result)
                # In parts: the copying holds the interpreter's lock, and so the loop
                for begin in range(0, len(data), COPY_MAX):
                    part = slice(begin, min(begin + COPY_MAX, len(data)))
                    hop.unless_left(partial(into.__setitem__, part, data[part]))
            return result

        hop = _Hop(job, fetching, lost)
        result = await self._hop(hop, job)
        # Not by way of `bytes_of`: that may copy all of it, and this is the loop's thread
        count: Any = result
        _call(job.done, count if isinstance(count, int) else len(count or b""))
        return result

    async def _hop(self, hop: _Once[T], job: Job) -> T:
        self.jobs += 1
        try:
            await to_thread.run_sync(hop, limiter=job.limiter)
        except BaseException as error:
            hop.leave()
            _name(error, job)
            raise
        return hop.take()

    async def call(
        self,
        function: Callable[[], T],
        limiter: CapacityLimiter | None,
        discard: Callable[[T], object],
    ) -> T:
        """One hop for somebody else's function; a result that nobody waits for is discarded."""
        self.jobs += 1
        errand = _Errand(function, discard)
        try:
            return await to_thread.run_sync(errand, limiter=limiter)
        except BaseException:
            errand.abandon()
            raise

    async def join(self, chunks: list[bytes], limiter: CapacityLimiter | None) -> bytes:
        """Put the parts of one read together without holding the loop up."""
        if len(chunks) > 1 and sum(map(len, chunks)) > JOIN_MAX:
            return await self.call(lambda: b"".join(chunks), limiter, len)
        return b"".join(chunks)

    # -- jobs -----------------------------------------------------------------------------------

    async def open(
        self, path: str | bytes, flags: int, mode: int, limiter: CapacityLimiter | None
    ) -> Opened:
        def opening() -> Opened:
            fd = os.open(path, flags, mode)
            try:
                return Opened(fd, fd_facts(fd))
            except BaseException:
                os.close(fd)
                raise

        return await self.call(opening, limiter, lambda opened: os.close(opened.fd))

    async def read(self, job: Job, size: int, offset: int) -> bytes | None:
        handle = job.handle
        if not job.tried:
            data = handle.pread_cached(size, offset)
            if data is not None:
                _call(job.done, len(data))
                return data
        if handle.seekable:
            data = await self._read_paced(job, size, offset)
            if data is not None:
                return data
            if offset >= 0 and job.done is None:
                return await self._hop(_PositionalRead(handle, size, offset), job)
            return await self.fetch(
                job, lambda: pread_full(handle.fd, size, offset), offset, _itself
            )
        await self._ready(job, _wait_readable)
        return await self.fetch(
            job, lambda: _nonblocking(lambda: os.read(handle.fd, size)), -1, _itself
        )

    async def _read_paced(self, job: Job, size: int, offset: int) -> bytes | None:
        """All of a cached range too big for one go, or None."""
        pace = self.pace
        if pace is None or offset < 0 or not job.handle.now or not pace.piece < size <= PACED_MAX:
            return None
        from ._uring import new_bytes, take_bytes

        box = [new_bytes(size)]
        got, complete = await pace.fill(job.handle, box[0], size, offset)
        if not complete:
            return None
        _call(job.done, got)
        return take_bytes(box, got)

    async def read_line(self, job: Job, limit: int) -> bytes:
        """A line of a regular file at the kernel's own position: byte by byte, since what is
        behind it is somebody else's, but in one hop.
        """
        fd = job.handle.fd
        return await self.fetch(job, lambda: read_line(fd, limit), -1, bytes)

    async def read_to_end(self, job: Job, offset: int) -> bytes | None:
        handle = job.handle
        size = handle.size_now()
        if size != MISS and offset >= 0:
            wanted = max(size - offset, 0) + 1
            data = handle.pread_cached(wanted, offset)
            if data is None:
                data = await self._read_paced(job._replace(done=None), wanted, offset)
            if data is not None and len(data) < wanted:
                _call(job.done, len(data))
                return data
        if handle.seekable:
            return await self.fetch(job, lambda: read_to_end(handle.fd, offset), offset, _itself)
        return await read_growing(self, self.read, job, offset)

    async def readinto(self, job: Job, buffer: WriteableBuffer, offset: int) -> int | None:
        handle = job.handle
        if not job.tried:
            count = handle.readinto_cached(buffer, offset)
            if count != MISS:
                _call(job.done, count)
                return count
        # By way of a buffer of our own: a task that was cancelled natively has its memory back, and
        # the thread that is still reading leaves it alone.
        data: bytes | None
        with memoryview(buffer) as whole, _as_bytes(whole) as view:
            size = len(view)
            if handle.seekable and size > HOP_MAX and offset >= 0:
                return await self._readinto_parts(job, view, offset)
            if handle.seekable:
                data = await self.fetch(
                    job, lambda: pread_full(handle.fd, size, offset), offset, _itself, view
                )
            else:
                await self._ready(job, _wait_readable)
                data = await self.fetch(
                    job, lambda: _nonblocking(lambda: os.read(handle.fd, size)), -1, _itself, view
                )
        return None if data is None else len(data)

    async def _readinto_parts(self, job: Job, view: memoryview, offset: int) -> int:
        moved = 0
        while moved < len(view):
            part = view[moved : moved + HOP_MAX]
            try:
                count = await self.readinto(job._replace(done=None), part, offset + moved)
            except OSError:
                if not moved:
                    raise
                break  # as read(2): the part before the error counts, the next call meets it
            moved += count or 0
            if count != len(part):
                break
        _call(job.done, moved)
        return moved

    async def write(self, job: Job, data: ReadableBuffer, offset: int, whole: bool) -> int | None:
        handle = job.handle
        view = _as_bytes(memoryview(data))

        def writing(report: Done) -> int | None:
            with view:  # or AnyIO's idle thread would hold the caller's buffer with its last job
                if handle.seekable:
                    return write_all(handle.fd, view, offset, whole, report)
                count = _nonblocking(lambda: os.write(handle.fd, view))
                report(count)
                return count

        if not handle.seekable:
            await self._ready(job, _wait_writable)
        return await self.run(job, writing)

    async def size(self, job: Job) -> int:
        size = job.handle.size_now()
        if size != MISS:
            return size
        return await self.run(job, lambda _: os.fstat(job.handle.fd).st_size)

    async def seek(self, job: Job, offset: int, whence: int) -> int:
        return await self.run(job, lambda _: os.lseek(job.handle.fd, offset, whence))

    async def truncate(self, job: Job, size: int) -> None:
        await self.run(job, lambda _: os.ftruncate(job.handle.fd, size))

    async def sync(self, job: Job, datasync: bool) -> None:
        function = getattr(os, "fdatasync", os.fsync) if datasync else os.fsync
        await self.run(job, lambda _: function(job.handle.fd))

    async def close(self, job: Job) -> None:
        handle = job.handle
        if not handle.closefd:
            handle.release()
            return
        if handle.close_now() == MISS:
            fd = handle.release()
            self.jobs += 1
            closing = _Closing(fd)
            try:
                await to_thread.run_sync(closing, limiter=job.limiter)
            except BaseException as error:
                closing.at_once()
                _name(error, job)
                raise

    # -- streams --------------------------------------------------------------------------------

    async def _ready(self, job: Job, wait: Callable[[int], Awaitable[None]]) -> None:
        """Wait in the loop until a stream is ready, so that it can be cancelled."""
        handle = job.handle
        if handle.nonblocking or not can_poll(handle):
            return
        handle.join()
        try:
            await wait(handle.fd)
        except ClosedResourceError:
            _call(job.done, None)
            raise closed_error() from None
        except BaseException:
            _call(job.done, None)
            raise
        finally:
            # uvloop has made the descriptor non-blocking, and leaves it so
            os.set_blocking(handle.fd, True)
            handle.leave()
        if handle.closing:
            _call(job.done, None)
            raise closed_error()

    def interrupt(self, handle: Handle) -> None:
        """The file is being closed: end the waits for its descriptor to become ready."""
        if can_poll(handle):
            from anyio import notify_closing

            notify_closing(handle.fd)


# AnyIO loads these with its sockets and with TLS, which takes as long as all the rest of AnyIO and
# which a program with files only may never need.
async def _wait_readable(fd: int) -> None:
    from anyio import wait_readable

    await wait_readable(fd)


async def _wait_writable(fd: int) -> None:
    from anyio import wait_writable

    await wait_writable(fd)


async def read_growing(
    ops: FileOps,
    read: Callable[[Job, int, int], Awaitable[bytes | None]],
    job: Job,
    offset: int,
    limit: int | None = None,
) -> bytes | None:
    """Read until EOF, whatever the size says: /proc and /sys say 0, streams say nothing.

    :param read: one step, of a size that it need not look at
    :param limit: no more than so many bytes
    """
    chunks: list[bytes] = []
    total = 0
    step = CHUNK_MIN
    under_way = left = False

    def part_done(moved: int | None) -> None:
        nonlocal under_way
        under_way = False
        if left:
            _call(job.done, total + (moved or 0))

    part = job._replace(done=part_done)
    try:
        while True:
            if limit is not None:
                step = min(step, limit - total)
                if not step:
                    return await ops.join(chunks, job.limiter)
            if total and ops.pace is not None:
                # Cached data may come without any waiting
                await ops.pace.admit(step)
            under_way = True
            chunk = await read(part, step, -1 if offset == -1 else offset + total)
            if not chunk:
                if chunk is None and not chunks:
                    return None
                return await ops.join(chunks, job.limiter)
            chunks.append(chunk)
            total += len(chunk)
            if len(chunk) == step:
                step = min(step * 2, CHUNK_MAX)
    except BaseException:
        if chunks and offset == -1 and job.salvage is not None:
            job.salvage(b"".join(chunks))
        raise
    finally:
        left = True
        if not under_way:
            _call(job.done, total)


class _Once(Protocol[T_co]):
    """What a thread does at most once for a job, with its share in the file until then."""

    def __call__(self) -> None: ...
    def take(self) -> T_co:
        """The result, for the task that has waited for it."""

    def leave(self) -> None:
        """The task leaves with an exception: the function's own, or a cancellation."""


class _Hop(Generic[T]):
    """A function that runs in a thread at most once, its share in the file, and the promise to
    call `done` once.

    A native cancel can end the wait before the thread has begun, or while it runs; who comes
    first, the thread or the leaver, is settled by a lock.

    :param lost: for a read, whose `done` is called by the task that takes its result: called
        with the result, or None, if that task has left
    """

    __slots__ = ("_begun", "_done", "_function", "_handle", "_left", "_lost", "_mutex", "_outcome")

    def __init__(
        self,
        job: Job,
        function: Callable[[Done], T],
        lost: Callable[[T | None], object] | None = None,
    ) -> None:
        self._function = function
        self._lost = lost
        self._done = job.done
        self._handle = job.handle
        self._handle.join()
        self._mutex = threading.Lock()
        self._begun = self._left = False
        self._outcome: list[T | None] = []

    def __call__(self) -> None:
        """Run the function.  Its result goes past AnyIO, whose idle threads hold on to the last
        one: a gigabyte that was to be freed long ago, or is just when the next job comes.
        """
        with self._mutex:
            if self._left:
                raise RuntimeError("the operation was cancelled before it began")
            self._begun = True
        result: T | None = None
        try:
            result = self._function(self._report)
        finally:
            self._finish(result)

    def take(self) -> T:
        """The result, for the task that has waited for it."""
        return cast(T, self._outcome.pop())

    def unless_left(self, function: Callable[[], object]) -> None:
        """For the thread: what may happen only while the task is there, which waits meanwhile."""
        with self._mutex:
            if not self._left:
                function()

    def _finish(self, result: T | None) -> None:
        with self._mutex:
            self._outcome.append(result)
            left = self._left
        if left:
            self._tell_lost(result)
        elif self._lost is None:
            self._report(None)
        self._handle.leave()

    def _report(self, moved: int | None) -> None:
        done, self._done = self._done, None
        _call(done, moved)

    def _tell_lost(self, result: T | None) -> None:
        if self._lost is None:
            self._report(None)
        else:
            self._lost(result)

    def leave(self) -> None:
        """The task leaves with an exception: the function's own, or a cancellation."""
        with self._mutex:
            self._left = True
            begun, outcome = self._begun, list(self._outcome)
        if not begun:
            self._tell_lost(None)
            self._handle.leave()
        elif outcome:
            self._tell_lost(outcome[0])
        # else the thread does, at its end


class _PositionalRead:
    """pread(2) in a thread.  Nobody else is told what becomes of it, so there is little to settle:
    a native cancel may come before the thread begins.
    """

    __slots__ = ("_data", "_handle", "_offset", "_size", "_ticket")

    def __init__(self, handle: Handle, size: int, offset: int) -> None:
        self._handle = handle
        self._size = size
        self._offset = offset
        self._ticket = threading.Lock()
        handle.join()

    def __call__(self) -> None:
        if not self._ticket.acquire(blocking=False):
            raise RuntimeError("the operation was cancelled before it began")
        handle = self._handle
        try:
            self._data = pread_full(handle.fd, self._size, self._offset)
        finally:
            handle.leave()

    def take(self) -> bytes:
        return self._data

    def leave(self) -> None:
        """The task leaves with an exception: the call's own, or a cancellation."""
        if self._ticket.acquire(blocking=False):
            self._handle.leave()


class _Errand(Generic[T]):
    """A function in a thread whose result (a descriptor) must not get lost on the way."""

    def __init__(self, function: Callable[[], T], discard: Callable[[T], object]) -> None:
        self._function = function
        self._discard = discard
        self._results: list[T] = []
        self._abandoned = False
        self._mutex = threading.Lock()

    def __call__(self) -> T:
        result = self._function()
        with self._mutex:
            if not self._abandoned:
                self._results.append(result)
                return result
        self._discard(result)
        raise RuntimeError("nobody waits for this result any more")

    def abandon(self) -> None:
        """The waiting task has left; with the result, if there is one, it would be lost."""
        with self._mutex:
            self._abandoned = True
        for result in self._results:
            self._discard(result)


class _Closing:
    """close(2), once: in the thread, or by whoever leaves before the thread has begun."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._begun = threading.Lock()

    def __call__(self) -> None:
        if self._begun.acquire(blocking=False):
            os.close(self.fd)

    at_once = __call__


def can_poll(handle: Handle) -> bool:
    """Whether waiting in the loop says anything about this descriptor."""
    mode = handle.st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return os.name == "posix"
    if stat.S_ISCHR(mode) and os.name == "posix":
        return os.isatty(handle.fd)
    return False


def _name(error: BaseException, job: Job) -> None:
    """Tell which file it was, as the ring's errors do."""
    if isinstance(error, OSError) and error.filename is None:
        error.filename = job.name


def _call(done: Done | None, moved: int | None) -> None:
    if done is not None:
        done(moved)


def _itself(data: bytes | None) -> bytes:
    return data or b""


def _nonblocking(function: Callable[[], T]) -> T | None:
    try:
        return function()
    except BlockingIOError:
        return None


def _as_bytes(view: memoryview) -> memoryview:
    return view.cast("B") if view.nbytes else memoryview(bytearray())
