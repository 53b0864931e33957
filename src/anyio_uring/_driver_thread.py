"""ThreadOps: what needs no waiting at once, everything else one hop to a worker thread.

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
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import ClosedResourceError, create_task_group, to_thread

from ._direct import pread_any, quiet, read_to_end_any, write_any
from ._errors import closed_error, first_of
from ._handle import MISS, fd_facts
from ._hop import Act, Closing, Errand, Fetch, Guard, Once, Prompt
from ._ops import PACED_MAX, Done, FileOps, Job, Opened, Over, Pace, Parts, Span
from ._transfers import allocate, read_line

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from anyio import CapacityLimiter

    from ._handle import Handle
    from ._host import Host

T = TypeVar("T")

# Streams and files of unknown size are read in growing steps.
CHUNK_MIN = 64 << 10
CHUNK_MAX = 1 << 20
# A hop into a caller's buffer reads no more than this: freeing what it was read into takes time.
HOP_MAX = 16 << 20
# Of many reads one hop makes so many, of so many bytes: then others get the thread, and a
# cancellation is heard.  So many such hops are made side by side, which is what a device wants.
SPANS_MIN = 32
SPANS_MAX = 256
SPANS_BYTES_MAX = 4 << 20
SPANS_THREADS = 8
# A thread copies no more than this at once.
COPY_MAX = 1 << 20
# What is written with these waits for the device.
SLOW_FLAGS = getattr(os, "O_DIRECT", 0) | getattr(os, "O_DSYNC", 0)
# More than this is put together in a thread: copying it takes milliseconds.
JOIN_MAX = 4 << 20


class ThreadOps:
    """The driver without a ring."""

    name = "thread"
    pace: Pace | None = None

    def __init__(self, host: Host) -> None:
        self.jobs = 0
        self._host = host
        self._limiter: Any = None  # of the loop, for files that have none of their own
        self._waits: list[tuple[Handle, Any]] = []  # for streams, and the sets that hold them

    def _count(self, limiter: CapacityLimiter | None, size: int = 0) -> Any:
        """Whatever every hop begins with; returns the limiter to be used.

        :param size: bytes that it was admitted for; none is copied on the loop's thread
        """
        self.jobs += 1
        if self.pace is not None:
            self.pace.refund(min(size, self.pace.piece))
        if limiter is not None:
            return Prompt(limiter)
        if self._limiter is None:
            self._limiter = Prompt(to_thread.current_default_thread_limiter())
        return self._limiter

    def run(
        self, job: Job, function: Callable[[Done], T], size: int = 0, short: bool = False
    ) -> Awaitable[T]:
        """One hop that transfers `size` bytes, to be awaited at once; `function` as for `Act`."""
        return self._hop(Act(job, function), job, size, short)

    async def fetch(
        self,
        job: Job,
        function: Callable[[], T],
        offset: int,
        bytes_of: Callable[[T], bytes],
        into: memoryview | None = None,
        size: int = 0,
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

        def fetching(unless_left: Guard) -> T:
            result = function()
            if into is not None:
                data = bytes_of(result)
                # In parts: the copying holds the interpreter's lock, and so the loop
                for begin in range(0, len(data), COPY_MAX):
                    part = slice(begin, min(begin + COPY_MAX, len(data)))
                    unless_left(partial(into.__setitem__, part, data[part]))
            return result

        result = await self._hop(Fetch(job, fetching, lost), job, size)
        # Not by way of `bytes_of`: that may copy all of it, and this is the loop's thread
        count: Any = result
        _call(job.done, count if isinstance(count, int) else len(count or b""))
        return result

    async def _hop(self, hop: Once[T], job: Job, size: int, short: bool = False) -> T:
        try:
            await self._host.in_thread(hop, self._count(job.limiter, size), short)
        except BaseException as error:
            hop.leave()
            _name(error, job)
            raise
        return hop.take()

    def call(
        self,
        function: Callable[[], T],
        limiter: CapacityLimiter | None,
        discard: Callable[[T], object],
    ) -> Awaitable[T]:
        """One hop for a function whose result is discarded if nobody waits for it any more."""
        in_thread = partial(self._host.in_thread, limiter=self._count(limiter))
        return Errand(function, discard).run(in_thread)

    def call_foreign(
        self,
        function: Callable[[], T],
        limiter: CapacityLimiter | None,
        discard: Callable[[T], object],
    ) -> Awaitable[T]:
        """The same for somebody else's function: with his context, and `anyio.from_thread`."""
        in_thread = partial(to_thread.run_sync, limiter=self._count(limiter))
        return Errand(function, discard).run(in_thread)

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
            if self.pace is not None and self.pace.piece < size <= PACED_MAX:
                data = await self._read_paced(job, self.pace, size, offset)
                if data is not None:
                    return data
            if offset >= 0 and job.done is None:
                return await self.run(job, lambda _: pread_any(handle, size, offset), size)
            return await self.fetch(
                job, lambda: pread_any(handle, size, offset), offset, _itself, size=size
            )
        await self._ready(job)
        return await self.fetch(
            job, lambda: _nonblocking(lambda: os.read(handle.fd, size)), -1, _itself
        )

    async def read_spans(
        self, job: Job, spans: Iterable[Span], found: list[bytes | None]
    ) -> list[tuple[list[int], bytes]]:
        groups = _grouped(list(spans))
        left = iter(enumerate(groups))
        merged: list[tuple[list[int], bytes]] = []
        failures: dict[int, Exception] = {}

        async def work() -> None:
            for place, group in left:
                if failures:
                    break
                try:
                    contents = await self.run(job, partial(_read_all, job.handle, group))
                except Exception as error:  # noqa: BLE001  # raised below
                    failures[place] = error
                    continue
                for (numbers, _, _), data in zip(group, contents, strict=True):
                    if len(numbers) == 1:
                        found[numbers[0]] = data
                    else:
                        merged.append((numbers, data))

        if len(groups) <= 1:
            await work()
        else:
            try:
                async with create_task_group() as group:
                    for _ in range(min(len(groups), SPANS_THREADS)):
                        group.start_soon(work)
            except BaseExceptionGroup as errors:
                raise first_of(errors) from None  # an interrupt
        if failures:
            try:
                raise failures[min(failures)]
            finally:
                failures.clear()  # its traceback holds this frame
        return merged

    async def _read_paced(self, job: Job, pace: Pace, size: int, offset: int) -> bytes | None:
        """All of a cached range too big for one go, or None."""
        if offset < 0 or not job.handle.now or not pace.piece < size <= PACED_MAX:
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
            if data is None and self.pace is not None:
                data = await self._read_paced(job._replace(done=None), self.pace, wanted, offset)
            if data is not None and len(data) < wanted:
                _call(job.done, len(data))
                return data
        if handle.seekable:
            return await self.fetch(job, lambda: read_to_end_any(handle, offset), offset, _itself)
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
                    job, lambda: pread_any(handle, size, offset), offset, _itself, view, size
                )
            else:
                await self._ready(job)
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
                    return write_any(handle, view, offset, whole, report)
                count = _nonblocking(lambda: os.write(handle.fd, view))
                report(count)
                return count

        if not handle.seekable:
            await self._ready(job, writing=True)
        short = handle.regular and not handle.open_flags & SLOW_FLAGS
        return await self.run(job, writing, view.nbytes, short)

    def write_behind(self, job: Job, parts: Parts, offset: int, over: Over) -> bool:
        return False  # the limiter's token for the thread is a task's

    async def size(self, job: Job) -> int:
        size = job.handle.size_now()
        if size != MISS:
            return size
        return await self.run(job, lambda _: os.fstat(job.handle.fd).st_size)

    async def seek(self, job: Job, offset: int, whence: int) -> int:
        def seeking(report: Done) -> int:
            position = os.lseek(job.handle.fd, offset, whence)
            report(position)
            return position

        return await self.run(job, seeking)

    async def truncate(self, job: Job, size: int) -> None:
        handle = job.handle

        def truncating(_: Done) -> None:
            with quiet(handle):
                os.ftruncate(handle.fd, size)

        await self.run(job, truncating)

    async def allocate(self, job: Job, offset: int, size: int, keep_size: bool) -> None:
        handle = job.handle

        def allocating(_: Done) -> None:
            with quiet(handle):
                allocate(handle.fd, offset, size, keep_size)

        await self.run(job, allocating)

    async def advise(self, job: Job, advice: int, offset: int, size: int) -> None:
        """posix_fadvise(2), which reads or drops what it is about."""
        fd = job.handle.fd
        await self.run(job, lambda _: os.posix_fadvise(fd, offset, size, advice))

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
            closing = Closing(fd)
            try:
                await self._host.in_thread(closing, self._count(job.limiter))
            except BaseException as error:
                closing.at_once()
                _name(error, job)
                raise

    # -- streams --------------------------------------------------------------------------------

    async def _ready(self, job: Job, *, writing: bool = False) -> None:
        """Wait in the loop until a stream is ready, so that it can be cancelled."""
        handle = job.handle
        if handle.nonblocking or not can_poll(handle):
            return
        handle.join()
        try:
            await self._wait(handle, writing)
        except ClosedResourceError:
            _call(job.done, None)
            raise closed_error() from None
        except BaseException:
            _call(job.done, None)
            raise
        finally:
            handle.leave()
        if handle.closing:
            _call(job.done, None)
            raise closed_error()

    async def _wait(self, handle: Handle, writing: bool) -> None:
        held = _hold(handle.fd, writing)
        wait = (handle, held)
        self._waits.append(wait)
        try:
            if held is None or not held.poll(0):
                # AnyIO loads these with its sockets and with TLS, which takes as long as all the
                # rest of AnyIO and which a program with files only may never need.
                from anyio import wait_readable, wait_writable

                if held is not None:
                    await wait_readable(held.fileno())
                else:
                    await (wait_writable if writing else wait_readable)(handle.fd)
        finally:
            self._waits.remove(wait)
            if held is not None:
                held.close()
            else:
                # uvloop leaves it non-blocking
                with suppress(OSError):  # closed by its owner, which the operation will notice
                    os.set_blocking(handle.fd, True)

    def interrupt(self, handle: Handle) -> None:
        """The file is being closed: end the waits for its descriptor to become ready."""
        for waiting, held in self._waits:
            if waiting is handle and not (held is not None and _end(held)):
                from anyio import notify_closing

                # With sniffio this works in tasks only, not in what another loop has asked for
                notify_closing(handle.fd if held is None else held.fileno())

    def shut_down(self) -> None:
        """The loop ends: let go of what it watches.  AnyIO would keep waiting tasks for ever."""
        for _, held in self._waits:
            if held is not None:
                held.close()


def _end(held: Any) -> bool:
    """Make a set readable, whatever is in it; False if no descriptor is left for that."""
    import select

    try:
        held.register(_always_ready(), select.EPOLLIN)
    except FileExistsError:
        return True  # by another task that closes
    except OSError:
        return False
    return True


@cache
def _always_ready() -> int:
    return os.eventfd(1)  # one for the process; nobody reads it


def _hold(fd: int, writing: bool) -> Any:
    """An epoll set that has only `fd` in it, for the loop to watch; None if there can be none.

    uvloop makes whatever it watches non-blocking, and a terminal or a pipe would be so for all the
    processes that share it.  The set is ours alone.  It is readable when `fd` is ready or broken.
    """
    import select  # the loop has loaded it

    if not hasattr(select, "epoll"):
        return None
    try:
        held = select.epoll()
        held.register(fd, select.EPOLLOUT if writing else select.EPOLLIN)
    except OSError:  # no descriptor is left, or what the loop's own set will complain of
        return None
    return held


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
            job.salvage(b"".join(chunks), True)
        raise
    finally:
        left = True
        if not under_way:
            _call(job.done, total)


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


def _grouped(spans: list[Span]) -> list[list[Span]]:
    """What one hop reads of many, hop by hop."""
    most = min(max(-(-len(spans) // SPANS_THREADS), SPANS_MIN), SPANS_MAX)
    groups: list[list[Span]] = []
    total = 0
    for span in spans:
        size = span[1]
        total += size
        if not groups or len(groups[-1]) == most or total > SPANS_BYTES_MAX:
            groups.append([])
            total = size
        groups[-1].append(span)
    return groups


def _read_all(handle: Handle, spans: list[Span], report: Done) -> list[bytes]:
    return [pread_any(handle, size, offset) for _, size, offset in spans]


def _itself(data: bytes | None) -> bytes:
    return data or b""


def _nonblocking(function: Callable[[], T]) -> T | None:
    try:
        return function()
    except BlockingIOError:
        return None


def _as_bytes(view: memoryview) -> memoryview:
    return view.cast("B") if view.nbytes else memoryview(bytearray())
