"""Long work in worker threads, a bounded chunk in each hop.

The work is a generator, which runs in threads only: it yields where it may be interrupted, and
cleans up in its `finally` clauses like any other.  A cancelled scope ends it at the next chunk.  A
native cancel leaves the chunk under way to its thread, which then cleans up as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from anyio import CancelScope

from ._runtime import Runtime, current_runtime

P = TypeVar("P")
R = TypeVar("R")

# A chunk takes about so long, and moves no more than this: a cancelled task waits for its end.
CHUNK_SECONDS = 0.02
CHUNK_BYTES = 64 << 20


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

    async def run(self, tell: Callable[[P], object] | None = None) -> R:
        """All of it.

        :param tell: called in the task's thread with what each chunk yields
        """
        while not await self.next():
            for news in self.news:
                if tell is not None:
                    tell(news)
        return self.result.pop()

    async def next(self) -> bool:
        """One chunk; True after the last.  Whoever is stopped by an exception calls `leave`."""
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

    async def leave(self, runtime: Runtime) -> None:
        """Undo what is half done, in a thread, whatever is cancelled meanwhile."""
        if self._ended and not self._in_thread:
            return
        try:
            with CancelScope(shield=True):
                await runtime.paths.do(self.give_up, None)
        except BaseException:
            self.give_up()
            raise


async def in_chunks(
    generator: Generator[P, None, R], tell: Callable[[P], object] | None = None
) -> R:
    """Have threads do it all; stopped by an exception, also one that `tell` raises, it cleans up.

    :param tell: called in the task's thread with what each chunk yields
    """
    runtime = current_runtime()
    work = Work(generator)
    try:
        return await work.run(tell)
    except GeneratorExit:
        work.give_up()
        raise
    except BaseException:
        await work.leave(runtime)
        raise
