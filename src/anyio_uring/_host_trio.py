"""Trio.

The eventfd sits level-triggered in Trio's own epoll set, so a run that sleeps wakes up when the
kernel has something; an instrument submits before Trio waits and reaps after it.  It only
*submits* before: Trio has computed its timeout by then, and a task woken there would sleep until
the next deadline.  Both hooks cost a few microseconds per turn of the user's program, so they are
installed with the first operation and taken out after a while without any.  There is no system
task that could end before asynchronous generators are finalised, and guest mode works.

**Cancellation** is Trio's own model for Windows' overlapped I/O: `abort` asks the kernel and
answers FAILED; the task stays parked until the completion.  If the completion does not come with
the same turn, the task is woken to park again under a shielded scope with the grace period as its
deadline.  The saved `raise_cancel` ends it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Abort, Task

from . import _private
from ._errors import logger
from ._host import SHUTDOWN_SECONDS, Host, Unit
from ._settings import Settings

if TYPE_CHECKING:
    from ._uring import Crew, Operation

# Turns of the loop without any operation after which the hooks are taken out.
IDLE_TURNS_MAX = 500


class _Turns(trio.abc.Instrument):
    """The hooks round each wait for I/O."""

    def __init__(self, host: TrioHost) -> None:
        self.host = host

    def before_io_wait(self, timeout: float) -> None:
        self.host.before_wait(timeout > 0)

    def after_io_wait(self, timeout: float) -> None:
        self.host.after_wait()


class _End(trio.abc.Instrument):
    """The hook at the end of the run, after the last task: it costs nothing before."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback

    def after_run(self) -> None:
        self.callback()


class TrioHost(Host):
    """One Trio run."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.token = trio.lowlevel.current_trio_token()
        self._turns = _Turns(self)
        self._hooked = False
        self._idle_turns = 0
        self._unwatched = False

    # -- the ring -------------------------------------------------------------------------------

    def _watch(self, fd: int) -> None:
        if not _private.trio_watch(fd):
            trio.lowlevel.spawn_system_task(self._reactor, fd, name="anyio_uring reactor")

    def _unwatch(self, fd: int) -> None:
        if not self.ended:
            _private.trio_unwatch(fd)

    async def _reactor(self, fd: int) -> None:
        """Only where Trio's epoll set is out of reach: the public way, one task later.

        Trio ends its system tasks with the main task.  Asynchronous generators that are finished
        after that would wait in vain for the ring: they get threads.
        """
        try:
            while self.ring is not None and self.ring.eventfd == fd:
                await trio.lowlevel.wait_readable(fd)
                self.after_wait()
        except trio.Cancelled:
            self._unwatched = True
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SHUTDOWN_SECONDS):
                while self.ring is not None and not (self.ring.closed or self.ring.idle):
                    await trio.lowlevel.wait_readable(fd)
                    self.after_wait()
            raise

    def ready(self) -> bool:
        return not self._unwatched and super().ready()

    @trio.lowlevel.enable_ki_protection  # a task may come here from unprotected code
    def _hook(self) -> None:
        self._idle_turns = 0
        if not self._hooked:
            self._hooked = True
            trio.lowlevel.add_instrument(self._turns)

    def before_wait(self, sleeps: bool) -> None:
        if self.crew is not None:
            try:
                self.crew.wait_begins(sleeps)
            except Exception:  # noqa: BLE001 - as below
                logger().exception("running errands failed")
        ring = self.ring
        if ring is not None and not ring.closed:
            try:
                ring.push_only()
            except OSError:  # an instrument that raises would be taken out
                logger().exception("submission failed")

    def after_wait(self) -> None:
        crew, ring = self.crew, self.ring
        asked = crew if crew is not None and crew.outstanding else None
        if asked is not None or (ring is not None and not (ring.closed or ring.idle)):
            self._idle_turns = 0
        else:
            self._idle_turns += 1
            # Nobody but us empties the eventfd: what will still signal it is waited for
            if self._idle_turns > IDLE_TURNS_MAX and not (ring and (ring.watching or ring.kicks)):
                self._unhook()
        if asked is not None:
            try:
                asked.turn()
            except Exception:  # noqa: BLE001 - an instrument that raises would be taken out
                logger().exception("handing out answers failed")
        if ring is not None and not ring.closed:
            try:
                self.deliver(ring.poll())
            except OSError:
                logger().exception("reaping completions failed")

    def _unhook(self) -> None:
        if self._hooked:
            self._hooked = False
            trio.lowlevel.remove_instrument(self._turns)

    def start(self, operation: Operation) -> None:
        ring = self.ring
        assert ring is not None
        alone = ring.idle
        ring.start(operation)
        self._hook()
        if alone:
            self.deliver(ring.submit())

    def _submit_soon(self) -> None:
        if not self.ended:
            self._hook()  # `before_wait` submits

    # -- waiting ----------------------------------------------------------------------------------

    # KeyboardInterrupt may not strike between the submission and the parking of the task.
    @trio.lowlevel.enable_ki_protection
    async def perform(self, operation: Operation) -> None:
        self.begin(operation)
        if not operation.done:
            await self.wait(operation)

    @trio.lowlevel.enable_ki_protection
    async def wait(self, unit: Unit) -> None:
        unit.waiter = trio.lowlevel.current_task()
        # (an object and no function of this one's variables: thousands of tasks may be here)
        asking = _Asking(self, unit)
        try:
            await trio.lowlevel.wait_task_rescheduled(asking)
            if not unit.done:
                await self._wait_shielded(unit)
        except BaseException:
            self.abandon(unit)
            raise
        if not unit.done:
            self.abandon(unit)
            asking.raise_cancel()
        if unit.cancelled and asking.raise_cancel is not None:
            asking.raise_cancel()

    async def _wait_shielded(self, unit: Unit) -> None:
        """Cancelled, the kernel has been asked, and the completion is not there yet."""
        grace = math.inf if unit.effect else trio.current_time() + self.settings.cancel_grace

        def abort(how: Any) -> Abort:
            if unit.effect:
                return Abort.FAILED  # stay until it is whole; a pending interrupt keeps
            unit.waiter = None
            return Abort.SUCCEEDED

        with trio.CancelScope(shield=True, deadline=grace):
            unit.waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)

    def awake(self, unit: Unit) -> None:
        task, unit.waiter = unit.waiter, None
        if not self.ended:
            trio.lowlevel.reschedule(task)

    def _serve(self, crew: Crew) -> bool:
        request = _private.trio_request()
        if request is None or not _private.trio_watch(crew.eventfd):
            return False
        crew.serve_trio(self._hook, self.hire, request, trio.lowlevel.reschedule, Abort.SUCCEEDED)
        return True

    def waiter(self) -> _Waiter:
        return _Waiter(trio.lowlevel.current_task())

    @trio.lowlevel.enable_ki_protection
    async def park(self, waiter: _Waiter) -> None:
        if waiter.woken:
            await trio.lowlevel.checkpoint()
            return
        waiter.parked = True

        def abort(how: Any) -> Abort:
            waiter.parked = False
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self, waiter: _Waiter) -> bool:
        if self.ended:
            return False
        if trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self.token:
            _wake(waiter)
            return True
        try:
            self.token.run_sync_soon(_wake, waiter)
        except trio.RunFinishedError:
            return False
        return True

    def call_soon(self, function: Callable[[], object]) -> None:
        try:
            self.token.run_sync_soon(function)
        except trio.RunFinishedError:
            pass

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    async def checkpoint_if_cancelled(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    def by_scope(self, error: BaseException) -> bool:
        return isinstance(error, trio.Cancelled)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the run has ended: after its last task, in the same thread."""
        trio.lowlevel.add_instrument(_End(callback))


class _Asking:
    """What Trio calls to cancel the task that waits for a unit: the kernel is asked."""

    __slots__ = ("host", "raise_cancel", "unit")

    def __init__(self, host: TrioHost, unit: Unit) -> None:
        self.host = host
        self.unit = unit
        self.raise_cancel: Any = None

    def __call__(self, how: Any) -> Abort:
        self.raise_cancel = how
        unit = self.unit
        task = unit.waiter
        self.host.cancel(unit)
        if not unit.done:
            # Park again, under a shield
            unit.waiter = None
            trio.lowlevel.reschedule(task)
        return Abort.FAILED


class _Waiter:
    __slots__ = ("parked", "task", "woken")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.parked = False
        self.woken = False


def _wake(waiter: _Waiter) -> None:
    waiter.woken = True
    if waiter.parked:
        waiter.parked = False
        trio.lowlevel.reschedule(waiter.task)
