"""`BehindFile`: a buffered file whose `write` returns before the kernel has the bytes.

What does not fit into the buffer is handed to the ring and counted, not waited for, as long as no
more than so many bytes are on their way.  Their writes are started in order, each at an offset of
its own; `handle.position` is where the next one goes.  While one is on its way those behind it are
**staged**: to be handed over as one, when they are half of what is allowed, when somebody
waits, or in the loop's next turn, whichever comes first.

**Nothing overtakes them.**  Whatever is more than another write behind the last one (`seek`,
`flush`, `truncate`, `fsync`, `pwrite`, closing) first waits until all are done.  A file that can
be read, is shared, or has no ring to wait for it, has nothing on its way.

**An error** is kept, and raised by the next such operation or write, once.  What was handed over
behind the failed write may have been written all the same.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import anyio

from ._buffered import BufferedFile
from ._errors import logger
from ._handle import plain_attributes
from ._runtime import Runtime, current_runtime
from ._transfers import write_all

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from anyio import CapacityLimiter

    from ._buffer import Buffer
    from ._handle import Handle
    from ._host import Host
    from ._line import Turn
    from ._ops import Parts

STAGED_MAX = 1 << 20
"""Bytes that are handed over as one, at the most, if they are not a single write's."""

STAGED_PARTS = 256
"""The same of writes."""


class BehindFile(BufferedFile):
    """A file opened for writing with ``write_behind``.

    :param behind_max: bytes that may be on their way
    """

    __slots__ = (
        "_away",
        "_behind",
        "_behind_max",
        "_called",
        "_failed",
        "_pid",
        "_refused",
        "_staged",
        "_staged_at",
        "_staged_size",
        "_waiter",
    )

    def __init__(
        self,
        handle: Handle,
        name: Any,
        mode: str,
        limiter: CapacityLimiter | None,
        buffer: Buffer,
        behind_max: int,
    ) -> None:
        super().__init__(handle, name, mode, limiter, buffer)
        self._behind_max = behind_max
        self._pid = os.getpid()
        self._behind = 0  # bytes on their way, or staged
        self._away: dict[int, int] = {}  # what is on its way: offset and size
        self._failed: OSError | None = None
        self._refused: list[tuple[bytes, int]] = []  # by the ring: for a thread
        # Of the operation whose turn it is, and how many bytes it has to wait for
        self._waiter: tuple[Host, Any, int] | None = None
        self._staged: list[bytes] = []
        self._staged_size = self._staged_at = 0
        self._called: Runtime | None = None  # whose next turn will hand them over

    # -- handing over -----------------------------------------------------------------------------

    async def write(self, b: ReadableBuffer | str) -> int:
        if type(b) is bytes and self._stage_now(b):
            return len(b)
        return await super().write(b)

    def _stage_now(self, data: bytes) -> bool:
        """Put a big write behind those on their way; False if it is not that simple."""
        if not self._behind or self._handle.busy or not self._line.try_acquire():
            return False
        try:
            handle, size = self._handle, len(data)
            meter = handle.meter
            if (
                size < self._buffer.past
                or not 0 < self._behind <= self._behind_max - size
                or self._buffer.pending
                or self._failed is not None
                or self._refused
                or self._pid != os.getpid()
                or handle.closing
                or handle.fd < 0
                or handle.shared
                or meter is None
                or not meter.admits(0)
            ):
                return False
            self._stage(cast("Runtime", meter.runtime), data)
            return True
        finally:
            self._line.release()

    async def _write_through(self, runtime: Runtime, turn: Turn, view: memoryview) -> None:
        handle, buffer = self._handle, self._buffer
        if handle.shared or not handle.seekable or handle.align:
            await self._settle(runtime, turn)
            await super()._write_through(runtime, turn, view)
            return
        pending = buffer.unwritten()
        whole = view.nbytes >= buffer.past
        data = pending
        if whole:
            owner: object = view.obj
            if type(owner) is bytes and len(owner) == view.nbytes and not pending:
                data = owner
            else:
                data = pending + bytes(view)
        # Before that this write has had no effect
        await self._settle(runtime, turn, max(self._behind_max - len(data), 0))
        if self._behind:
            self._stage(runtime, data)
        elif self._start(runtime, data):
            self._advance(len(data))
        else:
            await super()._write_through(runtime, turn, view)
            return
        buffer.written(len(pending))
        if not whole:
            buffer.add(view)

    def _stage(self, runtime: Runtime, data: bytes) -> None:
        """Take what is handed over with the next of its kind, or in the loop's next turn."""
        size = len(data)
        if self._staged_size + size > STAGED_MAX:
            self._hand_over(runtime)
        with self._line.mutex:
            if not self._staged:
                self._staged_at = self._handle.position
            self._staged.append(data)
            self._staged_size += size
            self._behind += size
            calls, self._called = self._called is not runtime, runtime
        self._advance(size)
        if (
            self._staged_size >= min(self._behind_max // 2, STAGED_MAX)
            or len(self._staged) == STAGED_PARTS
        ):
            self._hand_over(runtime)
        if calls:

            def in_the_next_turn() -> None:
                self._called = None
                self._hand_over(runtime)

            runtime.host.call_soon(in_the_next_turn)

    def _hand_over(self, runtime: Runtime) -> None:
        with self._line.mutex:  # the turn of another loop may come meanwhile
            if not self._staged:
                return
            parts, offset = tuple(self._staged), self._staged_at
            self._away[offset] = self._staged_size
            self._staged.clear()
            self._staged_size = 0
            self._handle.join()  # whoever waits does so from now on, not from the start on
        started = False
        try:
            started = runtime.ops.write_behind(self._job(), parts, offset, self._over)
        except MemoryError:
            pass  # their writes have long returned
        finally:
            if not started:
                self._over(parts, offset, None, True)
            self._handle.leave()

    def _start(self, runtime: Runtime, data: bytes) -> bool:
        """Hand over one write behind none; False if a task has to wait for it."""
        offset = self._handle.position
        with self._line.mutex:
            self._behind += len(data)
            self._away[offset] = len(data)
        started = False
        try:
            started = runtime.ops.write_behind(self._job(), (data,), offset, self._over)
        finally:
            if not started:
                self._count_off(offset)
        return started

    def _over(self, parts: Parts, offset: int, error: OSError | None, refused: bool) -> None:
        """One of the writes has come to its end, in whatever loop's thread."""
        if refused:
            self._refuse(parts, offset)
        elif error is not None and self._failed is None:
            self._failed = error
        self._count_off(offset)

    def _count_off(self, offset: int) -> None:
        with self._line.mutex:
            self._behind -= self._away.pop(offset, 0)
            waiter = self._waiter
            if waiter is None or self._behind > waiter[2]:
                return
            self._waiter = None
        waiter[0].wake(waiter[1])

    def _refuse(self, parts: Parts, offset: int) -> None:
        for data in parts:
            self._refused.append((data, offset))
            offset += len(data)

    async def _settle(self, runtime: Runtime, turn: Turn, allowed: int = 0) -> None:
        """Wait until no more bytes than that are on their way; raise what has failed."""
        self._forget_parents()
        if self._behind > allowed:
            # Then there is room for several writes, until the next wait
            allowed = min(allowed, self._behind_max // 2)
            self._hand_over(runtime)
        while self._behind > allowed and self._handle.inflight:
            waiter = runtime.host.waiter()
            self._waiter = runtime.host, waiter, allowed
            try:
                if self._behind > allowed:
                    await runtime.host.park(waiter)
            finally:
                self._waiter = None
        with self._line.mutex:
            if not self._handle.inflight:
                self._away.clear()
                self._behind = self._staged_size
        while self._refused:
            await self._write_refused(runtime, turn, self._refused[0])
        self._raise_failed()
        self._check_closed()  # by somebody else, meanwhile

    async def _write_refused(self, runtime: Runtime, turn: Turn, entry: tuple[bytes, int]) -> None:
        """By a thread, which keeps the turn if this task leaves it."""
        data, offset = entry

        def drop() -> None:
            # Closing may have taken it meanwhile
            if self._refused and self._refused[0] is entry:
                del self._refused[0]

        def commit(moved: int | None) -> None:
            if moved == len(data):
                drop()

        try:
            await runtime.threads.write(self._step(turn, commit), data, offset, True)
        except OSError as error:
            self._failed = self._failed or error
        drop()

    def _forget_parents(self) -> None:
        """In a forked child: what is on its way or staged is the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._staged.clear()
            self._refused.clear()
            self._away.clear()
            self._behind = self._staged_size = 0

    def _raise_failed(self) -> None:
        error, self._failed = self._failed, None
        if error is not None:
            raise error

    async def _write_out(self, runtime: Runtime, turn: Turn) -> None:
        await self._settle(runtime, turn)
        await super()._write_out(runtime, turn)

    # -- what does not overtake them --------------------------------------------------------------

    async def seek(self, offset: int, whence: int | None = os.SEEK_SET) -> int:
        if self._unsettled:
            await self.flush()
        return await super().seek(offset, whence)

    async def tell(self) -> int:
        if self._unsettled:
            await self.flush()
        return await super().tell()

    async def _settle_range(self, runtime: Runtime, offset: int, size: int) -> None:
        if self._unsettled:
            await self.flush()
        await super()._settle_range(runtime, offset, size)

    @property
    def _unsettled(self) -> bool:
        return bool(self._behind or self._refused or self._failed)

    # -- closing ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        if self.closed:
            return
        interrupted: BaseException | None = None
        try:
            if self._unsettled:
                interrupted = await self._flush_finally(current_runtime())
        finally:
            await super().aclose()
        if interrupted is not None:
            raise interrupted

    def close(self) -> None:
        was_closed = self._handle.closed
        super().close()
        if not was_closed:
            self._raise_failed()

    def detach(self) -> Any:
        if self._unsettled:
            raise anyio.BusyResourceError("using")
        return super().detach()

    def _flush_rest(self) -> None:
        self._forget_parents()
        with self._line.mutex:
            self._refuse(tuple(self._staged), self._staged_at)
            self._staged.clear()
            self._behind -= self._staged_size
            self._staged_size = 0
        refused, self._refused = self._refused, []
        with ExitStack() as stack:  # the first error does not keep the rest from being tried
            stack.callback(super()._flush_rest)
            for data, offset in reversed(refused):
                part = memoryview(data)
                stack.callback(write_all, self._handle.fd, part, offset, True, lambda _: None)
        if self._failed is not None and self._handle.closing:
            logger().error("a write behind failed, and nobody waits: %s", self._failed)


plain_attributes(BehindFile)
