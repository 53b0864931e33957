"""The seam between drivers and event loops, and what every host does with its ring."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ._errors import logger
from ._pool import Pool, forget_pools
from ._settings import Settings, workers_cap

if TYPE_CHECKING:
    from ._uring import Crew, FileRings, Landing, Operation, Ring


# How long the end of a loop waits for operations that cannot be cancelled (a write to a slow
# disk) before it leaves them to the kernel.
SHUTDOWN_SECONDS = 5.0


class Unit(Protocol):
    """Something a task can wait for: an `Operation`, or several under one roof.

    `effect`: it may change something, so it is never cancelled once started.  `cancelled`: the
    kernel gave it up because it was asked to, and nothing has happened.
    """

    waiter: Any

    @property
    def done(self) -> bool: ...
    @property
    def effect(self) -> bool: ...
    @property
    def cancelled(self) -> bool: ...
    def cancel(self, ring: Ring) -> None: ...
    def abandon(self, ring: Ring) -> None: ...


class _InThread:
    """What a worker thread does, as a unit to wait for: it cannot be given up."""

    __slots__ = ("_function", "_host", "_landing", "_pool", "done", "error", "waiter")

    effect = True
    cancelled = False

    def __init__(self, host: Host, function: Callable[[], object]) -> None:
        self._host = host
        self._function = function
        self.waiter: Any = None
        self.done = False
        self.error: BaseException | None = None
        self._landing: Landing | None = None

    def start(self, short: bool) -> None:
        """:param short: it waits for no device; if it is alone, it may be done afterwards"""
        host = self._host
        self._pool = pool = host.threads()
        if short and pool.idle and (host.ring is None or host.ring.idle):
            self._landing = host.linger_in_thread()
        pool.submit(self)
        if self._landing is not None and self._landing.look():
            self._finish()

    def __call__(self) -> None:
        function = self._function
        del self._function  # the thread may still hold us when the task goes on
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # the task raises it
            # (without this frame, which holds us, who hold the error)
            trace = error.__traceback__
            self.error = error.with_traceback(trace and trace.tb_next)
        del function
        if self._landing is None or not self._landing.land():
            self._host.call_soon(self._finish)

    def _finish(self) -> None:
        self.done = True
        self._pool.free()
        if self.waiter is not None:
            self._host.awake(self)

    def cancel(self, ring: Ring) -> None:
        """Not possible, and nothing of it is the ring's."""

    abandon = cancel


class Host:
    """One event loop, seen from below.  All methods but `wake` belong to the loop's thread.

    The ring is made at the first operation that needs it and closed with the loop.  Subclasses
    know how their loop watches the eventfd, batches the submissions of one turn, parks a task and
    notices the end.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ring: Ring | None = None
        self.rings_made = 0
        self.abandoned = 0  # operations left to the kernel by tasks that were cancelled
        self.leaked = 0
        self.ended = False
        self._ringless = False  # the last attempt to make a ring failed
        self._blocking = 0  # operations in kernel workers that may block them for long
        self._pool: Pool | None = None
        self.crew: Crew | None = None  # helpers, where there has been a crowd
        self.clear: Callable[[], bool] | None = None  # whether no scope is known to be cancelled
        # Looks for the completion of an operation that is alone, for a short while
        self.linger: Callable[[Ring, Operation], Iterable[Operation]] = _no_linger
        self.linger_in_thread: Callable[[], Landing | None] = _no_landing

    # -- the ring -------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the ring can take an operation now; makes it if need be."""
        ring = self.ring
        if ring is not None and not ring.closed and ring.here:
            return True
        if self.ended:
            return False
        if ring is not None and not ring.closed:
            self._moved_to_another_thread(ring)
        try:
            self.ring = self._make_ring()
            self._watch(self.ring.eventfd)
        except OSError as error:
            # Each operation tries again: tell it once
            tell = logger().debug if self._ringless else logger().warning
            tell("no ring for this event loop: %s; using threads", error)
            self._ringless = True
            self.ring = None
            return False
        self._ringless = False
        return True

    def _make_ring(self) -> Ring:
        from ._uring import Ring

        settings = self.settings
        ring = Ring(settings.inflight_max, settings.workers_max)
        if settings.workers_max is None:
            ring.limit_workers(workers_cap(settings), 0)
        self.rings_made += 1
        _rings.add(ring)
        return ring

    def new_file_rings(self) -> FileRings:
        """For worker threads that read many files."""
        from . import _uring

        rings = _uring.FileRings()
        _file_rings.add(rings)
        return rings

    def _moved_to_another_thread(self, ring: Ring) -> None:
        """A loop that was stopped and runs in another thread now needs a ring of that thread.

        The old one can be neither entered nor waited for from here (EEXIST).  Whoever waits for
        one of its operations tries again, or, if it may have had an effect, gets ECANCELED.
        """
        self._unwatch(ring.eventfd)
        self._leak(ring)

    def more_workers(self, count: int) -> None:
        """`count` operations that can block a kernel worker for long have come (or, negative,
        gone): the cap moves with them, so that they do not hold up everybody else's files.
        """
        self._blocking += count
        ring = self.ring
        if ring is not None and not ring.closed:
            base = workers_cap(self.settings)
            ring.limit_workers(min(base + self._blocking, 1024), 0)

    # -- operations -----------------------------------------------------------------------------

    async def perform(self, operation: Operation) -> None:
        """Start an operation and wait for its completion.

        Returns with the operation done, or `cancelled` (then nothing has happened and it may be
        tried again), or raises the loop's cancellation; then the operation had no effect, or goes
        on without anybody waiting for it, its buffer and its file still its own.
        """
        self.begin(operation)
        if not operation.done:
            await self.wait(operation)

    def begin(self, operation: Operation) -> None:
        """As `start`; an operation that is alone and short may be done by then."""
        self.start(operation)
        if not operation.done:
            ring = self.ring
            assert ring is not None
            self.deliver(self.linger(ring, operation))

    def start(self, operation: Operation) -> None:
        """Hand an operation to the ring: at once when it is alone, else with this turn's batch."""
        raise NotImplementedError

    def submit_now(self) -> None:
        """What has been started with the ring goes to the kernel, without waiting for a batch."""
        ring = self.ring
        assert ring is not None
        self._submit_soon()
        self.deliver(ring.submit())

    async def wait(self, unit: Unit) -> None:
        """Wait for a unit that has been started; as `perform`."""
        raise NotImplementedError

    def parked(self, unit: Unit) -> Awaitable[None]:
        """As `wait`, in fewer frames where thousands may wait.

        The caller goes on with `wait_on`, unless the unit is then done and not cancelled, and
        abandons it when something is raised.
        """
        return self.wait(unit)

    async def wait_on(self, unit: Unit) -> None:
        """What `parked` has left to do."""

    def awake(self, unit: Unit) -> None:
        """Wake the task that waits for a unit."""
        raise NotImplementedError

    def deliver(self, batch: Iterable[Operation]) -> None:
        """Wake whoever waits for the operations that have finished."""
        for operation in batch:
            if operation.waiter is not None:
                self.awake(operation)
        ring = self.ring
        if ring is not None and not ring.closed and (ring.pending or ring.queued):
            self._submit_soon()

    def abandon(self, unit: Unit) -> None:
        """The task that waited has left; the ring keeps what the kernel may still touch."""
        unit.waiter = None
        ring = self.ring
        if ring is None or ring.closed or not ring.here or isinstance(unit, _InThread):
            return
        if not unit.done:
            self.abandoned += 1
        unit.abandon(ring)
        self._submit_soon()

    def cancel(self, unit: Unit) -> None:
        """Ask the kernel, once, to give a unit up.

        The ring leaves alone what may have had an effect; what still waits for a place has none.
        """
        ring = self.ring
        if ring is not None and not ring.closed:
            unit.cancel(ring)
            self._submit_soon()

    def _submit_soon(self) -> None:
        raise NotImplementedError

    def _watch(self, fd: int) -> None:
        raise NotImplementedError

    def _unwatch(self, fd: int) -> None:
        raise NotImplementedError

    # -- waiting for something else than the kernel -------------------------------------------

    def waiter(self) -> Any:
        """A new waiter for the current task."""
        raise NotImplementedError

    async def park(self, waiter: Any) -> None:
        """Sleep until `wake(waiter)`; a cancellation leaves without further effect."""
        raise NotImplementedError

    def wake(self, waiter: Any) -> bool:
        """Wake a parked task, from any thread; False if it is known to have gone."""
        raise NotImplementedError

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function of ours in the loop's thread, from any thread; not if it has ended."""
        raise NotImplementedError

    async def checkpoint(self) -> None:
        """One turn of the loop, and a cancellation point."""
        raise NotImplementedError

    async def checkpoint_if_cancelled(self) -> None:
        raise NotImplementedError

    def by_scope(self, error: BaseException) -> bool:
        """Whether a cancel scope raised this: it will be raised again at the next checkpoint."""
        raise NotImplementedError

    def threads(self) -> Pool:
        """This loop's; new ones where the others are gone: in a forked child, or in a function
        that the interpreter calls at its exit.
        """
        pool = self._pool
        if pool is None or pool.ended:
            self._pool = pool = Pool()
            weakref.finalize(self, pool.close).atexit = False  # not every loop tells of its end
        return pool

    def borrower(self, unit: Unit) -> object:
        """Who takes a limiter's token for a thread: nobody who could hold one already."""
        return unit

    async def in_thread(
        self, function: Callable[[], object], limiter: Any, short: bool = False
    ) -> None:
        """Call a function of ours in a worker thread, and wait for its end, as AnyIO does.

        Not by way of `anyio.to_thread`: AnyIO's own files are nothing but such calls, and would
        always be faster.  The limiters are AnyIO's; they decide how many threads there are.
        """
        if self.clear is None or not self.clear():
            await self.checkpoint_if_cancelled()
        unit = _InThread(self, function)
        borrower = self.borrower(unit)
        await limiter.acquire_on_behalf_of(borrower)
        try:
            unit.start(short)
            if not unit.done:
                await self.wait(unit)
        finally:
            limiter.release_on_behalf_of(borrower)
            del borrower  # a task, perhaps, which may hold an error whose traceback holds this
        error, unit.error = unit.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # (the same)

    def employ(self, crew: Crew) -> bool:
        """From now on tasks may wait for a crew; False: this loop cannot."""
        if not self._serve(crew):
            return False
        self.crew = crew
        _crews.add(crew)
        return True

    def _serve(self, crew: Crew) -> bool:
        raise NotImplementedError

    @staticmethod
    def hire(crew: Crew) -> bool:
        """One helper more, if there can be one: a daemon, since it never has anything to lose."""
        helper = threading.Thread(target=crew.help, name="anyio_uring helper", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            return False
        return True

    # -- the end ----------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """The loop ends: cancel what can be, wait for the rest, leak what does not come back."""
        self.ended = True
        if self._pool is not None:
            self._pool.close()
        if self.crew is not None and not self.crew.ended:
            self._unwatch(self.crew.eventfd)
            self.crew.end()
        ring = self.ring
        if ring is None or ring.closed:
            return
        self._unwatch(ring.eventfd)
        if not ring.here:
            self._leak(ring)
            return
        for operation in ring.operations():
            operation.waiter = None
            ring.abandon(operation)
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        patience = time.monotonic() + max(self.settings.cancel_grace, 0.001) * 10
        while not ring.idle:
            now = time.monotonic()
            # Nothing is lost with an operation without effect; one that writes gets its time.
            waiting_for_effects = any(operation.effect for operation in ring.operations())
            end = deadline if waiting_for_effects else patience
            if now >= end:
                break
            ring.wait(end - now)
        self._leak(ring)

    def _leak(self, ring: Ring) -> None:
        count = ring.leak()
        self.deliver(ring.collect())
        if count:
            self.leaked += count
            message = (
                f"{count} file operation(s) were still in the kernel when the event loop "
                "ended; their buffers are leaked"
            )
            logger().warning(message)
            warnings.warn(message, ResourceWarning, stacklevel=2, source=None)


def _no_linger(ring: Ring, operation: Operation) -> Iterable[Operation]:
    return ()


def _no_landing() -> Landing | None:
    return None


_rings: weakref.WeakSet[Ring] = weakref.WeakSet()
_crews: weakref.WeakSet[Crew] = weakref.WeakSet()
_file_rings: weakref.WeakSet[FileRings] = weakref.WeakSet()


def forget_parent() -> None:
    """In a forked child: the rings belong to the parent, and the threads are there."""
    forget_pools()
    for ring in list(_rings):
        ring.forget()
    _rings.clear()
    for crew in list(_crews):
        crew.forget()
    _crews.clear()
    for rings in list(_file_rings):
        rings.forget()
