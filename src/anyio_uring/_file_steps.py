"""The steps that operations of every file are made of: `_file.py` says what holds between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from operator import index
from typing import AnyStr, cast

import anyio

from ._errors import CLOSED, NOT_READABLE, closed_error, os_error, unsupported
from ._handle import HandleOwner, plain_attributes
from ._line import Line, Turn
from ._ops import Job
from ._runtime import Runtime, current_runtime

EINVAL, ESPIPE = 22, 29
# Beyond this a position may exceed what the file system can hold; the kernel is asked then.
SAFE_POSITION_MAX = 1 << 42
POSITION_MAX = (1 << 63) - 1
SEEK_WHENCES = {os.SEEK_SET, os.SEEK_CUR, os.SEEK_END} | {
    getattr(os, name) for name in ("SEEK_DATA", "SEEK_HOLE") if hasattr(os, name)
}


class FileSteps(HandleOwner, anyio.AsyncFile[AnyStr]):
    """What a file does within an operation: the steps that its methods are made of."""

    # Slots, although AnyIO's class has a dictionary: as long as nobody fills it, the interpreter
    # finds methods without looking into it, and an open file is small.
    # The initialiser is that of `HandleOwner`: AnyIO's wants a synchronous file to wrap.
    __slots__ = ()

    def _new_line(self) -> Line:
        return Line(self._handle)

    # -- the position -----------------------------------------------------------------------------

    async def _seek_to_end(self, runtime: Runtime) -> None:
        """An append mode begins at the end, if there is one."""
        handle = self._handle
        if not handle.seekable:
            return
        if handle.local:
            os.lseek(handle.fd, 0, os.SEEK_END)
        else:
            await runtime.ops.seek(self._job(), 0, os.SEEK_END)

    async def _seek_kernel(
        self, runtime: Runtime, offset: int, whence: int, turn: Turn | None = None
    ) -> int:
        """:param turn: kept until the offset has moved, also if the task leaves"""
        handle = self._handle
        if whence in (os.SEEK_SET, os.SEEK_CUR) and (handle.local or not handle.seekable):
            # Moves a number in memory, or says ESPIPE
            try:
                return os.lseek(handle.fd, offset, whence)
            except OSError as error:
                error.filename = self._name
                raise
        job = self._step(turn, self._moved_on) if turn else self._job()
        return await runtime.ops.seek(job, offset, whence)

    def _moved_on(self, position: int | None) -> None:
        """A thread has moved the kernel's own offset, or has not (None)."""

    async def _destination(self, runtime: Runtime, offset: int, whence: int) -> int:
        """Where a seek leads in a file that keeps its position itself."""
        handle = self._handle
        if whence == os.SEEK_SET:
            position = offset
        elif whence == os.SEEK_CUR:
            position = handle.position + offset
        elif whence == os.SEEK_END and handle.regular:
            position = await runtime.ops.size(self._job()) + offset
        else:
            return await self._seek_kernel(runtime, offset, whence)
        if position > SAFE_POSITION_MAX:
            position = min(position, POSITION_MAX)  # one that the kernel can refuse
            return await self._seek_kernel(runtime, position, os.SEEK_SET)
        if position < 0:
            raise os_error(EINVAL, self._name)
        return position

    def _share(self) -> None:
        """From now on others may move the kernel's offset: publish the position, then use that."""
        handle = self._handle
        if handle.seekable and not handle.busy:
            self._publish()
        elif handle.seekable and not handle.shared:
            # An operation under way publishes at its end, perhaps in another thread just now;
            # or it has moved the position and only not left yet
            handle.shared = True
            position = -1
            while position != handle.position:
                position = os.lseek(handle.fd, handle.position, os.SEEK_SET)
        handle.shared = True

    def _publish(self) -> None:
        """Set the kernel's offset to the position."""
        handle = self._handle
        if not handle.shared:
            os.lseek(handle.fd, handle.position, os.SEEK_SET)

    def _flush_synchronously(self) -> None:
        """Hand the kernel what is unwritten, unless somebody is at it; it may block."""

    def _flush_rest(self) -> None:
        """The same once nobody can be at it any more."""

    def _advance(self, moved: int | None) -> None:
        """An operation that began at `handle.position` (not at the kernel's) has moved it."""
        handle = self._handle
        handle.position += moved or 0
        if handle.shared and handle.seekable and not handle.closed:
            # Somebody has asked for the descriptor meanwhile
            os.lseek(handle.fd, handle.position, os.SEEK_SET)

    def _salvage(self, data: bytes, before: bool = False) -> None:
        """Take back what a read brought from the kernel's own position for a task that has left."""
        handle = self._handle
        if handle.closed:
            return
        if handle.seekable:
            with suppress(OSError):  # somebody else has moved it
                os.lseek(handle.fd, -len(data), os.SEEK_CUR)
        else:
            with self._line.mutex:  # a thread may be at it, and the task that has left
                handle.kept = data + handle.kept if before else handle.kept + data

    # -- what every operation begins with ---------------------------------------------------------

    async def _begin(self, size: int, closed: str = CLOSED) -> Runtime:
        """Before any effect: closed?  cancelled?  our turn?"""
        handle = self._handle
        if handle.closed:
            raise self._closed_error(closed)
        meter = handle.meter
        if meter is not None and meter.admits(size):
            return cast(Runtime, meter.runtime)
        runtime = current_runtime()
        handle.meter = runtime.meter
        await runtime.gate.admit(min(size, runtime.settings.inline_size_max))
        if self._handle.closed:
            raise self._closed_error(closed)
        return runtime

    async def _take_turn(self, runtime: Runtime) -> Turn:
        """Stand in line for the position; the caller calls `leave` on what this returns."""
        line = self._line
        if not line.try_acquire():
            await line.acquire(runtime.host)
        if self._handle.closed:
            line.release()
            raise self._closed_error()
        return Turn(line)

    def _step(
        self,
        turn: Turn,
        commit: Callable[[int | None], object] | None = None,
        tried: bool = False,
        last: bool = False,
    ) -> Job:
        """A job that goes on, and keeps the turn, if its task leaves it: a write, or whatever
        moves the kernel's own position.

        :param commit: called with what it moved, at its end
        :param last: the turn ends with it
        """
        turn.begin(commit, last)
        return Job(self._handle, self._name, self._limiter, turn, tried, self._salvage)

    def _job(self, tried: bool = False) -> Job:
        """A job that takes no part in the order, or that nobody misses when its task leaves.

        The same one as long as it can be: thousands of tasks may hold it.
        """
        job: Job | None = self._last_job
        if job is None or job.tried is not tried or job.handle is not self._handle:
            self._last_job = job = Job(self._handle, self._name, self._limiter, None, tried)
        return job

    def _check_closed(self, text: str = CLOSED) -> None:
        if self._handle.closed:
            raise self._closed_error(text)

    def _closed_error(self, text: str = CLOSED) -> ValueError:
        """Why nothing can be done with a file whose handle is closed."""
        return closed_error(text)

    def _check_readable(self) -> None:
        if not self._handle.readable:
            raise unsupported(NOT_READABLE)

    def _check_positional(self, offset: int) -> int:
        offset = index(offset)
        if not self._handle.seekable:
            raise os_error(ESPIPE, self._name)
        if offset < 0:
            raise os_error(EINVAL, self._name)
        return offset


plain_attributes(FileSteps)
