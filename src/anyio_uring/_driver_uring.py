"""UringOps: what needs no waiting at once, everything else through the loop's ring.

Each job tries the tiers in order.  An operation that the ring refuses before anything happened
(no worker could be made, no such opcode) goes to `ThreadOps`, the others' errors are final.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from . import _uring
from ._direct import whole_blocks
from ._driver_thread import CHUNK_MAX, CHUNK_MIN, ThreadOps, read_growing
from ._errors import CLOSED, closed_error, os_error
from ._handle import MISS
from ._host import Host
from ._mounts import NOW_NEVER
from ._ops import PACED_MAX, Done, Job, Opened, Over, Pace, Parts, Span
from ._pieces import Pieces
from ._settle import Settle
from ._transfers import FALLOC_FL_KEEP_SIZE
from ._workers import Workers

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from anyio import CapacityLimiter

    from ._uring import Handle, Operation

# Up to this size a buffer may be too big for the file rather than ask for the file's size.
CLIP_MIN = 16 << 20


# Bytes that are written from several buffers as one, at the most.
GATHERED_MAX = 64 << 20


class UringOps:
    """The driver with a ring; `host` is the loop it serves."""

    name = "uring"
    pace: Pace | None = None

    def __init__(self, host: Host, supported: frozenset[int], inline_max: int) -> None:
        self.host = host
        self.supported = supported
        self.inline_max = inline_max
        self.threads = ThreadOps(host)
        self.workers = Workers(host)

    # -- opening and closing --------------------------------------------------------------------

    async def open(
        self, path: str | bytes, flags: int, mode: int, limiter: CapacityLimiter | None
    ) -> Opened:
        encoded = bytes(os.fsencode(path))  # not of a subclass
        host = self.host
        if not host.ready() or self.workers.lacking():
            return await self.threads.open(path, flags, mode, limiter)
        # The walk is short and its answer often cached; a miss counts it as an ordinary file
        blocking = _uring.is_fifo_cached(encoded)
        if blocking:
            host.more_workers(1)
        wanted = flags
        if blocking and not flags & os.O_EXCL:
            # It is there, and cannot be truncated: without these flags the open has no effect, and
            # can be cancelled while it waits for the other end.
            wanted &= ~(os.O_CREAT | os.O_TRUNC)
        try:
            while True:
                operation = _uring.open_operation(encoded, wanted, mode)
                await host.perform(operation)
                if operation.result == -errno.ENOENT and wanted != flags:
                    wanted = flags  # it has gone meanwhile
                elif not operation.cancelled:
                    break
        finally:
            if blocking:
                host.more_workers(-1)
        if operation.refused or operation.result in (-errno.ENOSYS, -errno.EOPNOTSUPP):
            self.workers.refuse(operation.result)
            return await self.threads.open(path, flags, mode, limiter)
        if operation.result < 0:
            raise operation.error(path)
        fd = operation.claim()
        try:
            return Opened(fd, _uring.fd_facts(fd))
        except BaseException:
            os.close(fd)
            raise

    async def close(self, job: Job) -> None:
        handle = job.handle
        if not handle.closefd:
            handle.release()
            return
        if handle.close_now() != MISS:
            return
        if not self.host.ready() or self.workers.lacking():
            await self.threads.close(job)
            return
        fd = handle.release()
        operation = _uring.close_operation(fd)
        await self.host.perform(operation)
        if operation.refused:
            # No worker to be had: nothing has happened, and a descriptor must not leak
            self.workers.refuse(operation.result)
            os.close(fd)
        elif operation.result < 0:
            raise operation.error(job.name)

    # -- reading ----------------------------------------------------------------------------------

    def read(self, job: Job, size: int, offset: int) -> Coroutine[Any, Any, bytes | None]:
        # Without a frame of its own, since thousands of tasks may be waiting there
        handle = job.handle
        if handle.align and offset == -1:
            return self.threads.read(job, size, offset)
        if size > self.inline_max and _splits(handle):
            return self._read_big(job, size, offset)
        return self._read_once(job, size, offset)

    async def _read_big(self, job: Job, size: int, offset: int) -> bytes | None:
        if not job.tried:
            data = job.handle.pread_cached(size, offset)
            if data is not None:
                _call(job.done, len(data))
                return data
        clipped = await self._clip(job, size, max(offset, 0))
        if not clipped:
            return await read_growing(self, self._read_once, job, offset, size)
        if clipped > self.inline_max and offset >= 0:
            return await self._read_pieces(job, clipped, offset)
        return await self._read_once(job._replace(tried=True), clipped, offset)

    async def _read_once(self, job: Job, size: int, offset: int) -> bytes | None:
        """By one operation, whatever the size; in as few frames as `read`."""
        handle = job.handle
        if not job.tried:
            data = handle.pread_cached(size, offset)
            if data is not None:
                _call(job.done, len(data))
                return data
        if self._ready(job):
            settle = None if job.done is None else Settle(job, _uring.Operation.take)
            while True:
                operation: Operation | None = None
                try:
                    operation = self._reading(handle, size, offset)
                    operation.when_done = settle
                    self.host.start(operation)
                    if not operation.done:
                        await self.host.parked(operation)
                        if not _well_ended(operation):
                            await self.host.wait_on(operation)
                except BaseException:
                    if operation is not None and not operation.abandoned:
                        self.host.abandon(operation)
                    if settle is not None:
                        settle.left(operation)
                    raise
                if operation.refused and not operation.moved:
                    self.workers.refuse(operation.result)
                    break
                if not operation.cancelled:
                    if settle is not None:
                        settle.once(operation.moved)
                    return _take(job, operation)
                self._check_open(job)  # as in `_run`
        return await self.threads.read(job._replace(tried=True), size, offset)

    def _reading(self, handle: Handle, size: int, offset: int) -> Operation:
        big = handle.seekable and size > self.inline_max
        return _uring.read_operation(handle, size, offset, handle.seekable, big)

    async def read_to_end(self, job: Job, offset: int) -> bytes | None:
        handle = job.handle
        if handle.align and offset == -1:
            return await self.threads.read_to_end(job, offset)
        size = handle.size_now()
        if size != MISS and offset >= 0:
            wanted = max(size - offset, 0) + 1
            data = handle.pread_cached(wanted, offset)
            if data is not None and len(data) < wanted:
                _call(job.done, len(data))
                return data
            if wanted > self.inline_max and _splits(handle):
                return await self._read_rest(job, wanted - 1, offset)
        elif offset >= 0 and _splits(handle):
            # The size is hearsay, if anything: ask for it only when the file is not small
            part = job._replace(done=None)
            first = await self.read(part, CHUNK_MIN, offset) or b""
            if len(first) < CHUNK_MIN:
                _call(job.done, len(first))
                return first
            size = await self.size(part) - offset
            if size > self.inline_max:
                return await self._read_rest(job, size, offset)
        return await read_growing(self, self._read_once, job, offset)

    async def _read_rest(self, job: Job, size: int, offset: int) -> bytes:
        """A big regular file: all of it in pieces, then whatever was added meanwhile."""
        moved = 0
        try:
            data = await self._read_pieces(job._replace(done=None), size, offset)
            rest = job._replace(done=None, tried=False)
            if len(data) == size:
                chunks = [data]
                while chunk := await self.read(rest, CHUNK_MIN, offset + sum(map(len, chunks))):
                    chunks.append(chunk)
                data = await self.join(chunks, job.limiter)
            moved = len(data)
            return data
        finally:
            _call(job.done, moved or None)

    async def _clip(self, job: Job, size: int, offset: int) -> int:
        """Do not allocate gigabytes for a small file.  0: it has no size, or is empty.

        Where there is no telling (/proc, /sys), pieces side by side would also make the kernel
        produce the text from its beginning again and again.
        """
        handle = job.handle
        if size <= CLIP_MIN and not handle.local and handle.now != NOW_NEVER:
            return size  # asking takes a trip of its own there
        try:
            end = await self.size(job._replace(done=None))
        except BaseException:
            _call(job.done, None)
            raise
        if not end:
            return 0
        # One more than there is, so that a file growing meanwhile is no false EOF
        return min(size, max(end - offset, CHUNK_MIN) + 1)

    async def _read_pieces(self, job: Job, size: int, offset: int) -> bytes:
        host, handle, pace = self.host, job.handle, self.pace
        box = [_uring.new_bytes(size)]
        got = 0
        if pace is not None and handle.now and size <= PACED_MAX:
            got, complete = await pace.fill(handle, box[0], size, offset)
            if complete:
                _call(job.done, got)
                return _uring.take_bytes(box, got)
        while self._ready(job):
            pieces = Pieces(host, handle, size, offset, Settle(job), box, got)
            try:
                pieces.start()
                if not pieces.done:
                    await host.wait(pieces)
            except BaseException:
                if not pieces.abandoned:  # torn away outside of `wait`
                    host.abandon(pieces)
                pieces.settle.once(None)  # nobody gets the bytes: the position has not moved
                raise
            if pieces.refused:
                self.workers.refuse(pieces.refused)
                break
            if pieces.cancelled:
                self._check_open(job)
                box, got = [_uring.new_bytes(size)], 0
            elif pieces.result < 0:
                raise os_error(-pieces.result, job.name)
            else:
                return pieces.take()
        data = await self.threads.read(job._replace(tried=True), size, offset)
        assert data is not None
        return data

    async def read_spans(
        self, job: Job, spans: Iterable[Span], found: list[bytes | None]
    ) -> list[tuple[list[int], bytes]]:
        host = self.host
        todo: Iterator[Span] = iter(spans)
        merged: list[tuple[list[int], bytes]] = []
        while self._ready(job):
            unit = _uring.Spans(host, job.handle, todo, found, merged, self.inline_max)
            try:
                unit.start()
                if not unit.done:
                    await host.wait(unit)
            except BaseException:
                if not unit.abandoned:  # torn away outside of `wait`
                    host.abandon(unit)
                raise
            unit.check(job.name)
            todo = chain(unit.again, todo)
            if unit.refused:
                self.workers.refuse(unit.refused)
                break
            if not unit.cancelled:
                return merged
        return merged + await self.threads.read_spans(job, todo, found)

    async def readinto(self, job: Job, buffer: WriteableBuffer, offset: int) -> int | None:
        handle = job.handle
        if not job.tried:
            count = handle.readinto_cached(buffer, offset)
            if count != MISS:
                _call(job.done, count)
                return count
        if handle.align and offset == -1:
            return await self.threads.readinto(job, buffer, offset)
        view = memoryview(buffer).cast("B")
        if len(view) > CHUNK_MAX and _splits(handle):
            return await self._readinto_parts(job, view, offset)
        return await self._readinto_once(job, view, offset)

    async def _readinto_once(self, job: Job, view: memoryview, offset: int) -> int | None:
        operation: Operation | None = None
        handle = job.handle
        if self._ready(job):
            # A stream is better polled than left to a worker, which can miss a cancel
            big = handle.seekable and len(view) > self.inline_max
            operation = await self._run(
                job,
                lambda: _uring.readinto_operation(handle, view, offset, handle.seekable, big),
                _uring.Operation.bounced,
            )
        if operation is None:
            return await self.threads.readinto(job._replace(tried=True), view, offset)
        if operation.result == -errno.EAGAIN:
            return None
        if operation.result < 0 and not (operation.moved and offset == -1):
            raise operation.error(job.name)
        return operation.copy_out()

    async def _readinto_parts(self, job: Job, view: memoryview, offset: int) -> int:
        """A big buffer, part by part, since the loop's thread copies what a part has read."""
        handle = job.handle
        moved = 0
        under_way = left = False

        def part_done(count: int | None) -> None:
            nonlocal under_way
            under_way = False
            if left:
                _call(job.done, moved + (count or 0))

        part = job._replace(done=part_done)
        try:
            while moved < len(view):
                piece = view[moved : moved + CHUNK_MAX]
                at = -1 if offset == -1 else offset + moved
                if self.pace is not None and moved:
                    await self.pace.admit(len(piece))
                count = MISS if at == -1 else handle.readinto_cached(piece, at)
                if count == MISS:
                    under_way = True
                    count = await self._readinto_once(part, piece, at) or 0
                moved += count
                if count < len(piece):
                    break
        except OSError:
            if not moved:
                raise
            # As read(2): the part before the error counts, the next call meets it
        except BaseException:
            if moved and offset == -1 and job.salvage is not None:
                job.salvage(bytes(view[:moved]), True)
            raise
        finally:
            left = True
            if not under_way:
                _call(job.done, moved)
        return moved

    async def join(self, chunks: list[bytes], limiter: CapacityLimiter | None) -> bytes:
        return await self.threads.join(chunks, limiter)

    # -- everything else --------------------------------------------------------------------------

    async def write(self, job: Job, data: ReadableBuffer, offset: int, whole: bool) -> int | None:
        handle = job.handle
        operation: Operation | None = None
        if handle.align:
            operation = await self._write_blocks(job, data, offset)
        elif self._ready(job):
            operation = await self._run(
                job, lambda: _uring.write_operation(handle, data, offset, True)
            )
        if operation is None:
            return await self.threads.write(job, data, offset, whole)
        if operation.result == -errno.EAGAIN and not operation.moved:
            return None
        if operation.result < 0 and (whole or not operation.moved):
            raise operation.error(job.name)
        if whole and operation.moved < operation.requested:
            raise os_error(errno.EIO, job.name)  # the kernel wrote nothing and said so
        return operation.moved

    def write_behind(self, job: Job, parts: Parts, offset: int, over: Over) -> bool:
        if not self._ready(job, worker=True):
            return False
        if len(parts) == 1 and len(parts[0]) > GATHERED_MAX:
            operation = _uring.write_operation(job.handle, parts[0], offset, True)
        else:
            # Where a file system can write without waiting, it would do so on the loop's thread
            operation = _uring.gather_operation(job.handle, parts, offset)

        def done(operation: Operation) -> None:
            error: OSError | None = None
            # (cancelled: the loop has ended before it began)
            refused = (operation.refused or operation.cancelled) and not operation.moved
            if refused:
                if operation.refused:
                    self.workers.refuse(operation.result)
            elif operation.result < 0:
                error = operation.error(job.name)
            elif operation.moved < operation.requested:
                error = os_error(errno.EIO, job.name)
            over(parts, offset, error, refused)

        operation.when_done = done
        ring = self.host.ring
        assert ring is not None
        ring.start(operation)
        # The task may go on for long before it lets the loop have a turn; which tries it again
        with suppress(OSError):
            self.host.submit_now()
        return True

    async def _write_blocks(self, job: Job, data: ReadableBuffer, offset: int) -> Operation | None:
        """A direct write; None if it is one for a thread."""
        handle = job.handle
        guard, size = handle.guard, memoryview(data).nbytes
        if size > self.inline_max or not whole_blocks(handle, size, offset) or not guard.share():
            return None

        def done(moved: int | None) -> None:
            guard.unshare()
            _call(job.done, moved)

        shared = job._replace(done=done)
        operation: Operation | None = None
        if self._ready(shared):
            operation = await self._run(
                shared, lambda: _uring.write_operation(handle, data, offset, True)
            )
        if operation is None:
            guard.unshare()
        return operation

    async def size(self, job: Job) -> int:
        size = job.handle.size_now()
        if size != MISS:
            return size
        if self._has("statx") and self._ready(job, worker=True):
            operation = await self._run(job, lambda: _uring.statx_operation(job.handle))
            if operation is not None:
                if operation.result < 0:
                    raise operation.error(job.name)
                return operation.statx()[2]
        return await self.threads.size(job)

    async def seek(self, job: Job, offset: int, whence: int) -> int:
        return await self.threads.seek(job, offset, whence)  # io_uring has no lseek

    async def truncate(self, job: Job, size: int) -> None:
        operation: Operation | None = None
        if self._has("ftruncate") and not job.handle.align and self._ready(job, worker=True):
            operation = await self._run(job, lambda: _uring.ftruncate_operation(job.handle, size))
        if operation is None:
            await self.threads.truncate(job, size)
        elif operation.result < 0:
            raise operation.error(job.name)

    async def allocate(self, job: Job, offset: int, size: int, keep_size: bool) -> None:
        operation: Operation | None = None
        if self._has("fallocate") and not job.handle.align and self._ready(job, worker=True):
            mode = FALLOC_FL_KEEP_SIZE if keep_size else 0
            operation = await self._run(
                job, lambda: _uring.fallocate_operation(job.handle, mode, offset, size)
            )
        if operation is None:
            await self.threads.allocate(job, offset, size, keep_size)
        elif operation.result < 0:
            raise operation.error(job.name)

    async def sync(self, job: Job, datasync: bool) -> None:
        operation: Operation | None = None
        if self._ready(job, worker=True):
            operation = await self._run(job, lambda: _uring.fsync_operation(job.handle, datasync))
        if operation is None:
            await self.threads.sync(job, datasync)
        elif operation.result < 0:
            raise operation.error(job.name)

    def interrupt(self, handle: Handle) -> None:
        """The file is being closed: end the operations that wait on a stream."""
        ring = self.host.ring
        if ring is not None and not ring.closed:
            for operation in ring.operations():
                if operation.uses(handle):
                    self.host.cancel(operation)
        self.threads.interrupt(handle)

    # -- running an operation ---------------------------------------------------------------------

    def _has(self, opcode: str) -> bool:
        return _uring.OPERATIONS[opcode] in self.supported

    def _ready(self, job: Job, *, worker: bool = False) -> bool:
        """Whether to use the ring; `worker`: the operation cannot do without one."""
        try:
            return self.host.ready() and not self.workers.lacking(None if worker else job.handle)
        except BaseException:
            _call(job.done, None)
            raise

    def _check_open(self, job: Job) -> None:
        if job.handle.closing:
            _call(job.done, None)
            raise closed_error(CLOSED)

    async def _run(
        self,
        job: Job,
        make: Callable[[], Operation],
        bytes_of: Callable[[Operation], bytes] | None = None,
    ) -> Operation | None:
        """Run one operation of a file to its end; None if the ring refused it (use a thread).

        `job.done` hears about it once, except after a refusal: the thread tells it.

        :param bytes_of: for a read: what it brought
        """
        settle = Settle(job, bytes_of)
        while True:
            operation: Operation | None = None
            try:
                operation = make()
                operation.when_done = settle
                await self.host.perform(operation)
            except BaseException:
                settle.left(operation)
                raise
            if operation.refused and not operation.moved:
                self.workers.refuse(operation.result)
                return None
            if not operation.cancelled:
                settle.once(operation.moved)
                return operation
            # Cancelled, but no scope of this task is: its file is being closed, or the scope
            # was shielded in the meantime.  Nothing has happened: once more.
            self._check_open(job)


def _take(job: Job, operation: Operation) -> bytes | None:
    """What a read brought; None if a non-blocking descriptor has nothing."""
    if operation.result == -errno.EAGAIN:
        return None
    if operation.result < 0 and (operation.positional or not operation.moved):
        raise operation.error(job.name)
    return operation.take()


def _splits(handle: Handle) -> bool:
    """Whether a big read may be several.  Not if it wants its memory and its sizes aligned, and
    nobody here sees to that.
    """
    return handle.regular and (not handle.direct or handle.align > 0)


def _well_ended(operation: Operation) -> bool:
    return operation.done and not operation.cancelled


def _call(done: Done | None, moved: int | None) -> None:
    if done is not None:
        done(moved)
