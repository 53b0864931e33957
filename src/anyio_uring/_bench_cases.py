"""What ``bench`` measures: the cases, who does them, and one measurement.

A measurement is a short run of one case by one participant in an event loop of its own: the tasks
work until the time is up, and what they did between two looks at the clock is the rate, so that
neither starting nor ending counts.  Every participant does the same to the same files with the
same lines of code; what it read is compared with what was written, outside of the measured time.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import Any

import anyio

from ._bench_material import (
    MIB,
    PAGE,
    SEED,
    Case,
    Material,
    MismatchError,
    Plan,
    drop,
    pread,
    read_ahead_nothing,
    write_all,
)
from ._open import open_file
from ._runtime import Statistics, statistics

TICK_SECONDS = 0.001
# Of a measurement's time, before it: threads are started and a ring is made by then.
WARM_SHARE = 0.2
# Synchronous Python looks at the clock once in so many operations.
CHECK_EVERY = 16

CASES = (
    Case("cached_1", "cached 4 KiB pread, random, 1 task", "random"),
    Case("cached_128", "cached 4 KiB pread, random, 128 tasks", "random", tasks=128),
    Case("cold_1", "cold 4 KiB pread, random, 1 task", "random", cold=True),
    Case("cold_128", "cold 4 KiB pread, random, 128 tasks", "random", tasks=128, cold=True),
    Case("sequential_64k", "sequential read, warm, 64 KiB", "sequential", 64 << 10, unit="byte"),
    Case("sequential_1m", "sequential read, warm, 1 MiB", "sequential", MIB, unit="byte"),
    Case("write_64k", "sequential write, 64 KiB, then fsync", "write", 64 << 10, unit="byte"),
    Case("small_1", "small files: open, read, close, 1 task", "small"),
    Case("small_128", "small files: open, read, close, 128 tasks", "small", tasks=128),
)


# -- measuring ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sample:
    """What one measurement found.

    :ivar rate: operations or bytes per second
    :ivar gaps: seconds by which ticks of a millisecond were late
    :ivar tiers: number of operations by tier; empty where nobody counts
    """

    rate: float
    gaps: list[float] = field(default_factory=list)
    tiers: dict[str, int] = field(default_factory=dict)


def _tiers_of(before: Statistics, after: Statistics) -> dict[str, int]:
    inline = ("now", "now_opened", "now_closed")
    return {
        "now": sum(getattr(after, name) - getattr(before, name) for name in inline),
        "ring": after.ring - before.ring,
        "thread": after.thread - before.thread,
    }


class Gauge:
    """Counts between two looks at the clock; the workers add to `count` until `over`."""

    __slots__ = (
        "_counted",
        "_ended",
        "_first",
        "_marked",
        "_ours",
        "_seconds",
        "_start",
        "_stats",
        "_ticking",
        "_warm",
        "count",
        "gaps",
        "over",
        "tiers",
    )

    def __init__(
        self, seconds: float, *, ours: bool = False, ticking: bool = False, warm: bool = True
    ) -> None:
        self._seconds = seconds
        self._warm = warm
        self._ours = ours
        self._ticking = ticking
        self.count = 0
        self.over = False
        self.gaps: list[float] = []
        self.tiers: dict[str, int] = {}
        self._stats: Statistics | None = None
        self._marked = not warm
        self._start = self._ended = 0.0
        self._first = self._counted = 0

    def begin(self) -> None:
        """What is done from here on counts."""
        self.gaps = []
        self._stats = statistics() if self._ours else None
        self._first = self.count
        self._start = time.perf_counter()

    def finish(self) -> None:
        """The time is up, or the work done: the first call ends it."""
        if self.over:
            return
        self.over = True
        self._ended = time.perf_counter()
        # Workers go on to count what they were at
        self._counted = self.count - self._first
        if self._stats is not None:
            self.tiers = _tiers_of(self._stats, statistics())

    def passed(self) -> bool:
        """For work without a loop: look at the clock."""
        now = time.perf_counter()
        if self._marked:
            if now - self._start >= self._seconds:
                self.finish()
        elif now - self._start >= self._seconds * WARM_SHARE:
            self._marked = True
            self.begin()
        return self.over

    def sample(self) -> Sample:
        seconds = max(self._ended - self._start, 1e-9)
        return Sample(self._counted / seconds, list(self.gaps), self.tiers)

    async def run(self, workers: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run the workers, each a task of its own, until the time is up or they are done."""
        self.begin()
        async with anyio.create_task_group() as watch:
            watch.start_soon(self._watch)
            async with anyio.create_task_group() as group:
                for worker in workers:
                    group.start_soon(worker)
            self.finish()
            watch.cancel_scope.cancel()

    async def _watch(self) -> None:
        if self._warm:
            await self.tick(self._seconds * WARM_SHARE)
            self.begin()
        await self.tick(self._seconds)
        while self.count == self._first:  # somebody slow has not done anything yet
            await self.tick(self._seconds)
        self.finish()

    async def tick(self, seconds: float) -> None:
        """Wait, and note how late each tick is if that is wanted."""
        if not self._ticking:
            await anyio.sleep(seconds)
            return
        before = time.perf_counter()
        end = before + seconds
        while before < end:
            try:
                await anyio.sleep(TICK_SECONDS)
            finally:  # also of the tick that the end of the work cuts off
                now = time.perf_counter()
                self.gaps.append(max(now - before - TICK_SECONDS, 0.0))
            before = now


async def idle(seconds: float) -> list[float]:
    """The ticks of a loop with nothing else to do."""
    gauge = Gauge(seconds, ticking=True)
    await gauge.tick(seconds)
    return gauge.gaps


def offsets_of(case: Case, plan: Plan) -> list[Iterable[int]]:
    """For each task its pages: distinct ones where they are to be cold, else round and round."""
    size = plan.large_bytes if case.cold else plan.hot_bytes
    offsets = list(range(0, size, PAGE))
    random.Random(SEED).shuffle(offsets)
    shares = [offsets[index :: case.tasks] or offsets[:1] for index in range(case.tasks)]
    return [share if case.cold else cycle(share) for share in shares]


# -- synchronous Python ---------------------------------------------------------------------------


def measure_synchronous(case: Case, material: Material) -> Sample:
    """The same work in a plain loop, without tasks and without an event loop."""
    gauge = Gauge(material.plan.seconds, warm=not case.cold)
    gauge.begin()
    _SYNCHRONOUS[case.kind](case, material, gauge)
    gauge.finish()
    if case.kind == "write":
        material.check_written()
    return gauge.sample()


def _random_synchronous(case: Case, material: Material, gauge: Gauge) -> None:
    offset, data = 0, b""
    with open(material.large, "rb", buffering=0) as file:
        fd = file.fileno()
        read_ahead_nothing(fd)
        # The order of one task for all of them: here there are no tasks
        offsets = iter(offsets_of(Case("", "", "random", cold=case.cold), material.plan)[0])
        while chunk := list(islice(offsets, CHECK_EVERY)):
            for offset in chunk:
                data = pread(fd, PAGE, offset)
                gauge.count += 1
            if gauge.passed():
                break
    material.check_page(offset, data)


def _sequential_synchronous(case: Case, material: Material, gauge: Gauge) -> None:
    with open(material.large, "rb", buffering=0) as file:
        while not gauge.passed():
            for _ in range(CHECK_EVERY):
                data = file.read(case.size)
                if not data:
                    file.seek(0)
                gauge.count += len(data)


def _small_synchronous(case: Case, material: Material, gauge: Gauge) -> None:
    path, data = "", b""
    paths = cycle(material.small)
    while not gauge.passed():
        for path in islice(paths, CHECK_EVERY):
            with open(path, "rb", buffering=0) as file:
                data = file.read()
            gauge.count += 1
    material.check(data, material.small[path], path)


def _write_synchronous(case: Case, material: Material, gauge: Gauge) -> None:
    with open(material.written, "xb", buffering=0) as file:
        gauge.begin()
        for chunk in material.chunks:
            write_all(file.write, chunk)
        os.fsync(file.fileno())
        gauge.count += material.plan.written_bytes
        gauge.finish()


_SYNCHRONOUS: dict[str, Callable[[Case, Material, Gauge], None]] = {
    "random": _random_synchronous,
    "sequential": _sequential_synchronous,
    "small": _small_synchronous,
    "write": _write_synchronous,
}


# -- in an event loop -----------------------------------------------------------------------------


class Ours:
    """anyio_uring, with whichever driver is set."""

    ours = True
    open: Callable[..., Awaitable[Any]] = staticmethod(open_file)

    @staticmethod
    def pread(file: Any) -> Callable[[int, int], Awaitable[bytes]]:
        return file.pread  # type: ignore[no-any-return]

    @staticmethod
    async def fsync(file: Any) -> None:
        await file.fsync()


class AnyIO:
    """AnyIO's files; what they lack is done as AnyIO's users do it, in one trip to a thread."""

    ours = False
    open: Callable[..., Awaitable[Any]] = staticmethod(anyio.open_file)

    @staticmethod
    def pread(file: Any) -> Callable[[int, int], Awaitable[bytes]]:
        fd: int = file.fileno()
        return lambda size, offset: anyio.to_thread.run_sync(pread, fd, size, offset)

    @staticmethod
    async def fsync(file: Any) -> None:
        await anyio.to_thread.run_sync(os.fsync, file.fileno())


Api = type[Ours] | type[AnyIO]


async def measure(case: Case, api: Api, material: Material) -> Sample:
    """One measurement, in the running loop."""
    # Cold work ends by itself, on a fast machine before anything is warm
    gauge = Gauge(material.plan.seconds, ours=api.ours, ticking=case.tasks > 1, warm=not case.cold)
    await _IN_A_LOOP[case.kind](case, api, material, gauge)
    if case.kind == "write":
        material.check_written()
    return gauge.sample()


async def _random(case: Case, api: Api, material: Material, gauge: Gauge) -> None:
    async with await api.open(material.large, "rb", buffering=0) as file:
        read = api.pread(file)
        read_ahead_nothing(file.fileno())

        async def work(offsets: Iterable[int]) -> None:
            offset, data = 0, b""
            for offset in offsets:
                data = await read(PAGE, offset)
                gauge.count += 1
                if gauge.over:
                    break
            material.check_page(offset, data)

        await gauge.run(partial(work, offsets) for offsets in offsets_of(case, material.plan))


async def _sequential(case: Case, api: Api, material: Material, gauge: Gauge) -> None:
    size = case.size
    async with await api.open(material.large, "rb", buffering=0) as file:

        async def work() -> None:
            while not gauge.over:
                data = await file.read(size)
                if not data:
                    await file.seek(0)
                gauge.count += len(data)

        await gauge.run([work])


async def _small(case: Case, api: Api, material: Material, gauge: Gauge) -> None:
    paths = list(material.small)

    async def work(mine: Iterator[str]) -> None:
        path, data = "", b""
        for path in mine:
            async with await api.open(path, "rb", buffering=0) as file:
                data = await file.read()
            gauge.count += 1
            if gauge.over:
                break
        material.check(data, material.small[path], path)

    shares = [paths[index :: case.tasks] or paths[:1] for index in range(case.tasks)]
    await gauge.run(partial(work, cycle(share)) for share in shares)


async def _write(case: Case, api: Api, material: Material, gauge: Gauge) -> None:
    async with await api.open(material.written, "xb", buffering=0) as file:
        gauge.begin()
        for chunk in material.chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[await file.write(rest) or 0 :]
        await api.fsync(file)
        gauge.count += material.plan.written_bytes
        gauge.finish()


_IN_A_LOOP: dict[str, Callable[[Case, Api, Material, Gauge], Awaitable[None]]] = {
    "random": _random,
    "sequential": _sequential,
    "small": _small,
    "write": _write,
}


async def verify(api: Api, material: Material) -> dict[str, Any]:
    """Read everything back, the large file from the disk if that can be had; its checksum.

    :raises MismatchError: it is not what was written
    """
    drop(material.large)
    digest, size = hashlib.sha256(), 0
    async with await api.open(material.large, "rb", buffering=0) as file:
        while data := await file.read(MIB):
            digest.update(data)
            size += len(data)
    if digest.hexdigest() != material.checksum:
        raise MismatchError("the large file: its checksum is not that of what was written")
    for path, expected in material.small.items():
        async with await api.open(path, "rb", buffering=0) as file:
            data = await file.read()
        material.check(data, expected, path)
        size += len(data)
    return {"sha256": digest.hexdigest(), "files": 1 + len(material.small), "bytes": size}
