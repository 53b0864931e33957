"""The runtime: what one event loop needs for files, made on first use, closed with the loop.

Files are bound to no loop, so every operation looks its runtime up.  It is kept by the loop
itself (an attribute of an asyncio loop, a `RunVar` of a Trio run), never in a table keyed by
`id(loop)`: ids are used again.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from anyio import NoEventLoopError

from . import _handle, _private, _probe
from ._driver_thread import ThreadOps
from ._errors import UringUnavailableError, logger
from ._gate import Gate
from ._handle import Handle
from ._host import Host, forget_parent
from ._ops import FileOps, Pace
from ._path_ops import PathOps
from ._scope import settings_of_run
from ._settings import Settings, allowed_tiers

if TYPE_CHECKING:
    import asyncio

    import trio

# A loop runs tasks no faster than so many threads answer them.
HELPERS_MAX = 2
ATTRIBUTE = "_anyio_uring_runtime"


class Statistics(NamedTuple):
    """Counts of one run, since it first used a file; as :func:`statistics` returns them.

    :ivar driver: ``"uring"`` or ``"thread"``
    :ivar now: reads served from memory, without waiting
    :ivar now_missed: attempts that would have had to wait, and went to the next tier
    :ivar now_opened: files opened without waiting
    :ivar now_closed: files closed without waiting
    :ivar helped: questions about paths that helper threads have looked into, for a crowd of tasks
    :ivar ring: operations started on the ring
    :ivar ring_refused: of those, handed on to a thread
    :ivar thread: jobs given to worker threads
    :ivar by_ring: files of batches that worker threads have read by rings of their own
    :ivar operations: operations on the ring by name
    :ivar enters: calls of io_uring_enter(2)
    :ivar inflight: operations in the kernel now
    :ivar queued: operations waiting for a place in the kernel now
    :ivar inflight_max: operations that can be in the kernel at once (0: no ring)
    :ivar abandoned: operations that cancelled tasks left to the kernel
    :ivar orphans: descriptors that arrived for nobody and were closed
    :ivar overflows: completion queue overflows survived (never, by design)
    :ivar rings: rings made for this run
    :ivar workers: the kernel's worker threads of this process now

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     return anyio_uring.statistics().inflight
    >>> anyio.run(main)
    0
    """

    driver: str
    operations: Mapping[str, int]
    now: int = 0
    now_missed: int = 0
    now_opened: int = 0
    now_closed: int = 0
    helped: int = 0
    ring: int = 0
    ring_refused: int = 0
    thread: int = 0
    by_ring: int = 0
    enters: int = 0
    inflight: int = 0
    queued: int = 0
    inflight_max: int = 0
    abandoned: int = 0
    orphans: int = 0
    overflows: int = 0
    rings: int = 0
    workers: int = 0


class Runtime:
    """Host, gate and driver of one running loop.

    :ivar closes: with its loop
    :ivar file_rings: for worker threads that read many files; None: io_uring does not serve
    """

    def __init__(self, host: Host, settings: Settings, ops: FileOps, meter: Any) -> None:
        self.host = host
        self.settings = settings
        self.ops = ops
        self.meter = meter
        self.closes = True
        self.file_rings = host.new_file_rings() if ops.name == "uring" else None
        self.gate = Gate(host, meter, self._recruit)
        with _runtimes_lock:
            _runtimes.add(self)
        itself: Any = ops
        self.threads: ThreadOps = getattr(ops, "threads", itself)
        self.paths = PathOps(
            host, self.threads, getattr(ops, "supported", None), getattr(ops, "workers", None)
        )
        if meter is not None:
            meter.runtime = self
            host.clear = meter.clear
            host.linger = meter.linger
            host.linger_in_thread = meter.linger_in_thread
            itself.pace = self.threads.pace = Pace(self.gate.admit, meter.inline_max, meter.refund)

    def _recruit(self) -> Any:
        """A crew for this loop, or None: it cannot have one, or there is no processor for it."""
        meter = self.meter
        if meter is None or not meter.enabled or not self.closes:
            return None
        processors = len(os.sched_getaffinity(0))
        if processors == 1 or self.settings.checkpoint_every is not None:
            return None
        from . import _uring

        try:
            crew = _uring.Crew(meter, min(processors - 1, HELPERS_MAX))
            return crew if self.host.employ(crew) else None
        except OSError:
            return None  # an old kernel, or nothing is left of what it takes

    def interrupt(self, handle: Handle) -> None:
        """The file is being closed: end what waits on it, in whatever loop, and has no effect."""
        self.ops.interrupt(handle)
        with _runtimes_lock:
            others = [runtime for runtime in _runtimes if runtime is not self]
        for runtime in others:
            runtime.host.call_soon(partial(runtime.ops.interrupt, handle))

    def close(self) -> None:
        with _runtimes_lock:
            _runtimes.discard(self)
        if self.meter is not None:
            self.meter.retire()
        self.threads.shut_down()
        if self.file_rings is not None:
            self.file_rings.close()
        self.host.shut_down()

    def statistics(self) -> Statistics:
        counts: dict[str, Any] = {
            "driver": self.ops.name,
            "thread": self.threads.jobs,
            "by_ring": 0 if self.file_rings is None else self.file_rings.files,
        }
        if self.meter is not None:
            counts.update(
                now=self.meter.hits,
                now_missed=self.meter.misses,
                now_opened=self.meter.opened,
                now_closed=self.meter.closed,
            )
        crew = self.host.crew
        if crew is not None:
            counts.update(helped=crew.served - crew.own)
        operations: dict[str, int] = {}
        ring = self.host.ring
        if ring is not None:
            from . import _uring

            names = {code: name for name, code in _uring.OPERATIONS.items()}
            operations = {names[code]: count for code, count in ring.counts.items()}
            counts.update(
                ring=ring.submitted,
                enters=ring.enters,
                inflight=ring.inflight,
                queued=0 if ring.closed else ring.queued,
                inflight_max=ring.inflight_max,
                orphans=ring.orphans,
                overflows=ring.overflows,
            )
        workers = getattr(self.ops, "workers", None)
        return Statistics(
            **counts,
            operations=operations,
            rings=self.host.rings_made,
            ring_refused=0 if workers is None else workers.refused,
            abandoned=self.host.abandoned,
            workers=kernel_workers(),
        )


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
_runtimes_lock = threading.RLock()  # a collection inside of it may finish one


def current_runtime() -> Runtime:
    """The runtime of the loop that runs the current task.

    :raises anyio.NoEventLoopError: outside of a run
    :raises UringUnavailableError: io_uring is required and cannot be had
    """
    # (None as well while another thread is about to import it)
    trio_lowlevel: Any = getattr(sys.modules.get("trio"), "lowlevel", None)
    # Not `in_trio_run`: that is true as well in the asyncio tasks of a host that Trio is a
    # guest of.
    if trio_lowlevel is not None and trio_lowlevel.in_trio_task():
        try:
            return _trio_runtime().get()
        except LookupError:
            return _new_trio_runtime()
    asyncio_module: Any = sys.modules.get("asyncio")
    loop = None if asyncio_module is None else asyncio_module._get_running_loop()
    if loop is None:
        raise NoEventLoopError("Not currently running on any asynchronous event loop")
    runtime: Runtime | None = getattr(loop, ATTRIBUTE, None) or _without_attribute.get(loop)
    return runtime if runtime is not None else _new_asyncio_runtime(loop)


_trio_variable: Any = None
# Loops of a class that takes no attributes; they get threads, and so nothing to be closed.
_without_attribute: weakref.WeakKeyDictionary[Any, Runtime] = weakref.WeakKeyDictionary()


def _trio_runtime() -> trio.lowlevel.RunVar[Runtime]:
    global _trio_variable
    if _trio_variable is None:
        lowlevel: Any = sys.modules["trio"].lowlevel
        _trio_variable = lowlevel.RunVar("anyio_uring")
    return _trio_variable  # type: ignore[no-any-return]


def _new_trio_runtime() -> Runtime:
    from ._host_trio import TrioHost

    settings = settings_of_run()
    host = TrioHost(settings)
    meter = _new_meter(settings)
    runner, variables = _private.trio_runner(), _private.trio_locals()
    if meter is not None and runner is not None:
        meter.watch_trio(runner, variables)
        trio_events = _private.trio_events(runner)
        if settings.checkpoint_every is None and trio_events is not None:
            meter.foresee(trio_events)
    runtime = Runtime(host, settings, _driver(host, settings, None), meter)
    host.at_end(runtime.close)
    _trio_runtime().set(runtime)
    return runtime


def _new_asyncio_runtime(loop: asyncio.AbstractEventLoop) -> Runtime:
    from ._host_asyncio import AsyncioHost, can_host

    settings = settings_of_run()
    host = AsyncioHost(loop, settings)
    meter = _new_meter(settings)
    view = _private.asyncio_view()
    if meter is not None and view is not None:
        meter.watch_asyncio(loop, *view)
        events: Any
        if settings.checkpoint_every is not None:
            pass
        elif (events := _private.asyncio_events(loop)) is not None:
            meter.foresee(events)
        elif (events := _private.uvloop_events(loop)) is not None:
            meter.foresee(*events)
    obstacle = None if can_host(loop) else f"{type(loop).__name__} cannot watch a descriptor"
    runtime = Runtime(host, settings, _driver(host, settings, obstacle), meter)
    try:
        host.at_end(runtime.close)
        setattr(loop, ATTRIBUTE, runtime)
    except AttributeError:
        obstacle = f"{type(loop).__name__} does not tell when it is closed"
        runtime = Runtime(host, settings, _driver(host, settings, obstacle), meter)
        runtime.closes = False
        _without_attribute[loop] = runtime
    return runtime


def _new_meter(settings: Settings) -> Any:
    if not _handle.COMPILED:
        return None
    from . import _uring

    meter = _uring.Meter()
    meter.inline_max = settings.inline_size_max
    meter.enabled = "now" in allowed_tiers()
    if len(os.sched_getaffinity(0)) == 1:
        meter.linger_ns = 0  # the kernel's worker needs it
    if settings.checkpoint_every is not None:
        meter.checkpoint_every(settings.checkpoint_every)
    return meter


def _driver(host: Host, settings: Settings, obstacle: str | None) -> FileOps:
    """The driver for a new run."""
    if settings.driver == "thread" or "ring" not in allowed_tiers():
        return ThreadOps(host)
    verdict = _probe.probe()
    reason, remedy = verdict.reason, verdict.remedy
    if verdict.available and obstacle is not None:
        reason, remedy = obstacle, "Use asyncio's own loop, uvloop or Trio."
    elif verdict.available:
        from ._driver_uring import UringOps

        logger().info("driver: uring (%s)", verdict.reason)
        return UringOps(host, verdict.opcodes, settings.inline_size_max)
    if settings.driver == "uring":
        raise UringUnavailableError(reason, remedy, verdict.errno)
    logger().info("driver: thread (%s. %s)", reason, remedy)
    return ThreadOps(host)


def statistics() -> Statistics:
    """What served the file operations of the current run so far.

    :raises anyio.NoEventLoopError: outside of a run

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with await anyio_uring.open_file("/etc/passwd", "rb", 0) as f:
    ...         await f.read(100)
    ...     return anyio_uring.statistics().thread
    """
    return current_runtime().statistics()


def kernel_workers() -> int:
    """The kernel's io_uring worker threads of this process, by their names."""
    import os

    count = 0
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        return 0
    for task in tasks:
        try:
            with open(f"/proc/self/task/{task}/comm", "rb") as comm:
                count += comm.read().startswith(b"iou-wrk")
        except OSError:
            continue  # it has just gone
    return count


def _after_fork() -> None:
    global _runtimes_lock
    _runtimes_lock = threading.RLock()  # another thread may have held it
    _runtimes.clear()
    forget_parent()
    if _handle.COMPILED:
        from . import _uring

        _uring.forget_mounts()


def _register_fork() -> None:
    import os

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


_register_fork()
