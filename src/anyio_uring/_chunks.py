"""Long work in worker threads, a bounded chunk in each hop.

The work is a generator, which runs in threads only: it yields where it may be interrupted, and
cleans up in its `finally` clauses like any other.  A cancelled scope ends it at the next chunk.  A
native cancel leaves the chunk under way to its thread, which then cleans up as well.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from anyio import CancelScope, Semaphore, create_task_group

from ._errors import first_of
from ._runtime import current_runtime

if TYPE_CHECKING:
    from typing import Self

P = TypeVar("P")
R = TypeVar("R")

# A chunk takes about so long, and moves no more than this: a cancelled task waits for its end.
CHUNK_SECONDS = 0.02
CHUNK_BYTES = 64 << 20
# System calls run in parallel, Python does not: more threads than these are in each other's way.
PARALLEL_MAX = min(4, os.cpu_count() or 1)


class Chunk:
    """What the current chunk may still do; for the thread that does it."""

    __slots__ = ("_bytes_left", "_end")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Behind each `yield`: a new hop."""
        self._bytes_left = CHUNK_BYTES
        self._end = time.monotonic() + CHUNK_SECONDS

    def over(self, size: int = 0) -> bool:
        """Whether it has done enough, `size` bytes more included."""
        self._bytes_left -= size
        return self._bytes_left <= 0 or time.monotonic() > self._end


class Work(Generic[P, R]):
    """A generator that threads run, one chunk after another, until it is through or given up."""

    def __init__(self, generator: Generator[P, None, R]) -> None:
        self._generator = generator
        self._mutex = threading.Lock()
        self._in_thread = False
        self._given_up = False
        self._ended = False
        self.news: list[P] = []
        self.result: list[R] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stopped by an exception, undo what is half done, whatever is cancelled meanwhile."""
        if kind is None or (self._ended and not self._in_thread):
            return
        if kind is GeneratorExit:
            self.give_up()
            return
        try:
            with CancelScope(shield=True):
                await current_runtime().paths.do(self.give_up, None)
        except BaseException:
            self.give_up()
            raise

    async def next(self) -> bool:
        """One chunk; True after the last."""
        runtime = current_runtime()
        await runtime.gate.admit()
        await runtime.paths.do(self._step, None)
        return bool(self.result)

    def _step(self) -> None:
        with self._mutex:
            if self._given_up or self._in_thread:
                return
            self._in_thread = True
        self.news = []
        self._ended = True  # unless it yields
        try:
            self.news.append(next(self._generator))
            self._ended = False
        except StopIteration as end:
            self.result.append(end.value)
        finally:
            with self._mutex:
                self._in_thread = False
                given_up = self._is_given_up()
            if given_up:
                self._generator.close()

    def _is_given_up(self) -> bool:
        return self._given_up

    def give_up(self) -> None:
        """At once, or, if a thread is at work, at the end of its chunk."""
        with self._mutex:
            begun, self._given_up = self._given_up, True
            if begun or self._in_thread:
                return
        self._generator.close()


async def in_chunks(
    generator: Generator[P, None, R], tell: Callable[[P], object] | None = None
) -> R:
    """Have threads do it all; stopped by an exception, also one that `tell` raises, it cleans up.

    :param tell: called in the task's thread with what each chunk yields
    """
    async with Work(generator) as work:
        while not await work.next():
            for news in work.news:
                if tell is not None:
                    tell(news)
    return work.result.pop()


Add: TypeAlias = Callable[[Generator[P, None, P]], Awaitable[None]]


async def in_parallel(
    feed: Callable[[Add[P]], Awaitable[None]], tell: Callable[[P], object]
) -> None:
    """Have threads do what `feed` adds, a few of it at a time; it waits while they are busy.

    The first exception, also one of `feed` or `tell`, ends all of it, and is raised bare.

    :param tell: called in the caller's thread with what each chunk yields, and the results
    """
    slots = Semaphore(PARALLEL_MAX)
    unfinished: set[Generator[P, None, P]] = set()
    failures: list[BaseException] = []

    async def run(work: Generator[P, None, P]) -> None:
        try:
            tell(await in_chunks(work, tell))
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # raised below
            failures.append(error)
            group.cancel_scope.cancel()
        finally:
            unfinished.discard(work)
            slots.release()

    async def add(work: Generator[P, None, P]) -> None:
        unfinished.add(work)
        await slots.acquire()
        group.start_soon(run, work)

    try:
        async with create_task_group() as group:
            try:
                await feed(add)
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the same
                failures.append(error)
                group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None  # an interrupt
    finally:
        for work in unfinished:
            with suppress(ValueError):  # a thread that was left behind is still at it
                work.close()
    if failures:
        try:
            raise failures[0]
        finally:
            failures.clear()  # its traceback holds this frame
