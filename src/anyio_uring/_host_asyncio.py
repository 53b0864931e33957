"""asyncio and uvloop.

The eventfd is watched with ``loop.add_reader``; a turn's submissions are batched by
``loop.call_soon``.

**Cancellation.**  An operation in the kernel cannot be left behind like a future: its buffer is
the kernel's until the completion.  So the task parks on a future whose `cancel` answers for us.
Three kinds of caller reach it, all through ``Task.cancel(msg)``:

* An AnyIO cancel scope (told by its message), which repeats itself in every turn of the loop until
  the task reacts.  First call: ask the kernel, and say "accepted".  Usually the completion comes
  next.  Second call: wake the task, which parks again inside a shielded scope, so that AnyIO stops
  calling; otherwise the loop would spin.
* The grace period of that shielded scope: the kernel did not give the operation up, and it has no
  effect.  The task leaves, the operation stays with the ring.
* A native cancel (``task.cancel()``, ``asyncio.timeout``, the end of the loop).  It must not be
  delayed or lost, so the task leaves at once; an operation with an effect goes on to its end.

Catching CancelledError and waiting under a shield instead would lose a native cancel that comes
in the same turn as a scope's.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled

from ._host import Host, Unit
from ._private import SCOPE_MESSAGE
from ._settings import Settings

if TYPE_CHECKING:
    from ._uring import Crew, Operation


class _Completion(asyncio.Future[None]):
    """What a task parks on while an operation is in the kernel.

    :ivar asked: a scope has cancelled once
    :ivar leave_at_once: parked for the second time: any cancel ends the wait
    """

    __slots__ = ("asked", "host", "leave_at_once", "unit")

    def __init__(self, host: AsyncioHost, unit: Unit, leave_at_once: bool = False) -> None:
        super().__init__(loop=host.loop)
        self.host = host
        self.unit = unit
        self.asked = False
        self.leave_at_once = leave_at_once

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        if self.leave_at_once or not isinstance(msg, str) or not msg.startswith(SCOPE_MESSAGE):
            return super().cancel(msg)
        if not self.asked:
            self.asked = True
            self.host.cancel(self.unit)
        else:
            _wake(self)  # the unit is not done: park again, shielded
        return True


class AsyncioHost(Host):
    """One asyncio event loop (any implementation with ``add_reader``)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Settings) -> None:
        super().__init__(settings)
        self.loop = loop
        self._flushing = False
        self._turning = False
        # Callbacks of ours run in no user's context, and copying one each time is not free
        self._context = Context()

    # -- the ring -------------------------------------------------------------------------------

    def _watch(self, fd: int) -> None:
        self.loop.add_reader(fd, self._on_ready)

    def _unwatch(self, fd: int) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(fd)

    def _on_ready(self) -> None:
        ring = self.ring
        if ring is not None and not ring.closed:
            self.deliver(ring.wake())

    def start(self, operation: Operation) -> None:
        ring = self.ring
        assert ring is not None
        alone = not self._flushing and ring.idle
        ring.start(operation)
        if alone:
            self.deliver(ring.submit())
        else:
            self._submit_soon()

    def _submit_soon(self) -> None:
        if not self._flushing and not self.loop.is_closed():
            self._flushing = True
            self.loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        self._flushing = False
        ring = self.ring
        if ring is not None and not ring.closed:
            self.deliver(ring.submit())

    # -- waiting ----------------------------------------------------------------------------------

    def parked(self, unit: Unit) -> Awaitable[None]:
        unit.waiter = future = _Completion(self, unit)
        return future

    async def wait(self, unit: Unit) -> None:
        try:
            await self.parked(unit)
        except BaseException:
            self.abandon(unit)
            raise
        if not unit.done or unit.cancelled:
            await self.wait_on(unit)

    async def wait_on(self, unit: Unit) -> None:
        while not unit.done:
            await self._wait_shielded(unit)
        if unit.cancelled:
            await checkpoint_if_cancelled()

    async def _wait_shielded(self, unit: Unit) -> None:
        """A scope has cancelled, the kernel has been asked, and the completion is not there yet."""
        grace = math.inf if unit.effect else self.loop.time() + self.settings.cancel_grace
        try:
            with CancelScope(shield=True, deadline=grace):
                unit.waiter = future = _Completion(self, unit, leave_at_once=True)
                await future
            if not unit.done:
                # The grace is over.  A scope that was shielded meanwhile raises nothing here, and
                # the kernel still owns the buffer: then the wait begins again.
                await checkpoint_if_cancelled()
        except BaseException:
            self.abandon(unit)
            raise

    def awake(self, unit: Unit) -> None:
        future, unit.waiter = unit.waiter, None
        if not self.loop.is_closed():
            _wake(future)

    def _serve(self, crew: Crew) -> bool:
        if not can_host(self.loop):
            return False
        # Its tasks run within a turn, which is therefore a callback that can run within itself
        self.loop.add_reader(crew.eventfd, self._turn_soon)
        over: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        over.set_result(None)
        crew.serve_asyncio(self.loop, self._turn_soon, self.hire, over)
        return True

    def _turn_soon(self) -> None:
        if not self._turning and not self.loop.is_closed():
            # (its own, which no turn further up the stack has entered)
            self.loop.call_soon(self._next_turn, context=Context())
            self._turning = True

    def _next_turn(self) -> None:
        self._turning = False
        self._turn()

    def _turn(self) -> None:
        crew = self.crew
        if crew is None:
            return
        again = True  # also after an interrupt
        try:
            again = crew.turn()
        finally:
            if again:
                self._turn_soon()

    def waiter(self) -> asyncio.Future[None]:
        return self.loop.create_future()

    async def park(self, waiter: asyncio.Future[None]) -> None:
        await waiter

    def wake(self, waiter: asyncio.Future[None]) -> bool:
        if self.loop.is_closed() or waiter.done():
            return False
        if asyncio._get_running_loop() is self.loop:
            return _wake(waiter)
        try:
            self.loop.call_soon_threadsafe(_wake, waiter)
        except RuntimeError:  # closed meanwhile
            return False
        return True

    def call_soon(self, function: Callable[[], object]) -> None:
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # closed
            pass

    def borrower(self, unit: Unit) -> object:
        """The task, as for AnyIO there: it may not hold a token of the same limiter."""
        return asyncio.current_task(self.loop)

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def checkpoint_if_cancelled(self) -> None:
        await checkpoint_if_cancelled()

    def by_scope(self, error: BaseException) -> bool:
        return isinstance(error, asyncio.CancelledError) and str(
            error.args[0] if error.args else ""
        ).startswith(SCOPE_MESSAGE)

    # -- the end ----------------------------------------------------------------------------------

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the loop is closed, just before it really is.

        There is no public hook: ``close`` is replaced on the instance.  It is the only moment
        that every way of ending a loop passes (asyncio.run, uvloop.run, a bare ``loop.close()``),
        and it comes after the asynchronous generators were finalised.

        :raises AttributeError: the loop's class takes no instance attributes
        """
        loop_reference = weakref.ref(self.loop)
        close = self.loop.close

        def close_with_files() -> None:
            loop = loop_reference()
            try:
                if loop is not None and not loop.is_running() and not loop.is_closed():
                    callback()
            finally:
                close()

        self.loop.close = close_with_files  # type: ignore[method-assign]


def _wake(waiter: asyncio.Future[None]) -> bool:
    """False: it has gone.  Ctrl-C may cancel it between a look at it and the next call."""
    try:
        waiter.set_result(None)
    except asyncio.InvalidStateError:
        return False
    return True


def can_host(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop can watch a descriptor (a Proactor loop cannot)."""
    method = getattr(type(loop), "add_reader", None)
    return method is not None and method is not asyncio.AbstractEventLoop.add_reader
