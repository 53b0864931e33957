"""`BehindFile`: a buffered file whose `write` returns before the kernel has the bytes.

What does not fit into the buffer is handed to the ring and counted, not waited for, as long as no
more than so many bytes are on their way.  Their writes are started in order, each at an offset of
its own; `handle.position` is where the next one goes.

**Nothing overtakes them.**  Whatever is more than another write behind the last one (`seek`,
`flush`, `truncate`, `fsync`, `pwrite`, closing) first waits until all are done.  A file that can
be read, is shared, or has no ring to wait for it, has nothing on its way.

**An error** is kept, and raised by the next such operation or write, once.  What was handed over
behind the failed write may have been written all the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio

from ._buffered import BufferedFile
from ._errors import logger
from ._handle import plain_attributes
from ._runtime import Runtime, current_runtime
from ._transfers import write_all

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from ._handle import Handle
    from ._host import Host
    from ._line import Turn


class BehindFile(BufferedFile):
    """A file opened for writing with ``write_behind``.

    :param behind_max: bytes that may be on their way
    """

    __slots__ = ("_behind", "_behind_max", "_failed", "_refused", "_waiter")

    def __init__(
        self,
        handle: Handle,
        name: Any,
        mode: str,
        limiter: CapacityLimiter | None,
        size: int,
        behind_max: int,
    ) -> None:
        super().__init__(handle, name, mode, limiter, size)
        self._behind_max = behind_max
        self._behind = 0  # bytes on their way
        self._failed: OSError | None = None
        self._refused: list[tuple[bytes, int]] = []  # by the ring: for a thread
        # Of the operation whose turn it is, and how many bytes it has to wait for
        self._waiter: tuple[Host, Any, int] | None = None

    # -- handing over, within a turn --------------------------------------------------------------

    async def _write_through(self, runtime: Runtime, turn: Turn, view: memoryview) -> None:
        handle, buffer = self._handle, self._buffer
        if handle.shared or not handle.seekable or handle.align:
            await self._settle(runtime)
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
        await self._settle(runtime, max(self._behind_max - len(data), 0))
        self._behind += len(data)
        started = False
        try:
            started = runtime.ops.write_behind(self._job(), data, handle.position, self._over)
        finally:
            if not started:
                self._behind -= len(data)
        if not started:
            await self._settle(runtime)
            await super()._write_through(runtime, turn, view)
            return
        buffer.written(len(pending))
        self._advance(len(data))
        if not whole:
            buffer.add(view)

    def _over(self, data: bytes, offset: int, error: OSError | None, refused: bool) -> None:
        """One of the writes has come to its end, in whatever loop's thread."""
        self._behind -= len(data)
        if refused:
            self._refused.append((data, offset))
        elif error is not None and self._failed is None:
            self._failed = error
        waiter = self._waiter
        if waiter is not None and self._behind <= waiter[2]:
            self._waiter = None
            waiter[0].wake(waiter[1])

    async def _settle(self, runtime: Runtime, allowed: int = 0) -> None:
        """Wait until no more bytes than that are on their way; raise what has failed."""
        if self._behind > allowed:
            allowed //= 2  # then there is room for several writes, until the next wait
        # (in a forked child they are the parent's, and none of this file's)
        while self._behind > allowed and self._handle.inflight:
            waiter = runtime.host.waiter()
            self._waiter = runtime.host, waiter, allowed
            try:
                if self._behind > allowed:
                    await runtime.host.park(waiter)
            finally:
                self._waiter = None
        if not self._handle.inflight:
            self._behind = 0
        while self._refused:
            data, offset = self._refused[0]
            try:
                await runtime.threads.write(self._job(), data, offset, True)
            except OSError as error:
                self._failed = self._failed or error
            del self._refused[0]
        self._raise_failed()

    def _raise_failed(self) -> None:
        error, self._failed = self._failed, None
        if error is not None:
            raise error

    async def _write_out(self, runtime: Runtime, turn: Turn) -> None:
        await self._settle(runtime)
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
        for data, offset in self._refused:
            write_all(self._handle.fd, memoryview(data), offset, True, lambda _: None)
        self._refused.clear()
        super()._flush_rest()
        if self._failed is not None and self._handle.closing:
            logger().error("a write behind failed, and nobody waits: %s", self._failed)


plain_attributes(BehindFile)
