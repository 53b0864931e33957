"""What is handed to a worker thread: each of these runs at most once, and is missed by nobody.

A native cancel ends the wait for a thread at any moment: before it has begun, while it runs, or
when it is done and the result on its way.  Who settles the matter then, the thread or the leaver,
is what these classes decide.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, cast

from anyio import WouldBlock

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from ._ops import Done, Job

Guard: TypeAlias = Callable[[Callable[[], object]], None]
"""Calls a function unless the task has left, which it cannot meanwhile."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Prompt:
    """A limiter that does not give up the loop's turn when it has a token.

    AnyIO's and Trio's do, for fairness; with a wait for a thread behind it that is a turn too
    many, and a good part of what a hop costs.  Trio asks for an object with these two methods,
    AnyIO on asyncio for a context manager; whatever else one of them may ask for is the limiter's.
    """

    __slots__ = ("_limiter",)

    def __init__(self, limiter: CapacityLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        if self._limiter.available_tokens >= 1:
            try:
                self._limiter.acquire_nowait()
                return
            except WouldBlock:
                pass
        await self._limiter.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        if self._limiter.available_tokens >= 1:
            try:
                self._limiter.acquire_on_behalf_of_nowait(borrower)
                return
            except WouldBlock:
                pass
        await self._limiter.acquire_on_behalf_of(borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)


class Once(Protocol[T_co]):
    """What a thread does at most once for a job, with its share in the file until then.

    The result goes past AnyIO, whose idle threads hold on to the last one: a gigabyte that was to
    be freed long ago, or is just when the next job comes.
    """

    def __call__(self) -> None: ...
    def take(self) -> T_co:
        """The result, for the task that has waited for it."""

    def leave(self) -> None:
        """The task leaves with an exception: the call's own, or a cancellation."""


class Act(Generic[T]):
    """A function whose effect the thread itself reports, whatever becomes of the task.

    There is little to settle: a native cancel may come before the thread begins.

    :param function: given a way to report what it moved; `job.done` hears it once, or None,
        whether the function ran, failed, or was never begun
    """

    __slots__ = ("_done", "_function", "_handle", "_result", "_ticket")

    def __init__(self, job: Job, function: Callable[[Done], T]) -> None:
        self._function = function
        self._done = job.done
        self._handle = job.handle
        self._ticket = threading.Lock()
        self._handle.join()

    def __call__(self) -> None:
        if not self._ticket.acquire(blocking=False):
            raise RuntimeError("the operation was cancelled before it began")
        try:
            self._result = self._function(self._report)
        finally:
            self._over()

    def take(self) -> T:
        result = self._result
        del self._result
        return result

    def leave(self) -> None:
        if self._ticket.acquire(blocking=False):
            self._over()

    def _report(self, moved: int | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(moved)

    def _over(self) -> None:
        self._report(None)
        self._handle.leave()


class Fetch(Generic[T]):
    """A function that reads, for a task that tells itself what it took.

    A native cancel can end the wait before the thread has begun, while it runs, or when it is
    through; who comes first, the thread or the leaver, is settled by a lock.

    :param function: given the way to touch what is the task's own
    :param lost: called with the result, or None, if the task has left
    """

    __slots__ = ("_begun", "_function", "_handle", "_left", "_lost", "_mutex", "_outcome")

    def __init__(
        self, job: Job, function: Callable[[Guard], T], lost: Callable[[T | None], object]
    ) -> None:
        self._function = function
        self._lost = lost
        self._handle = job.handle
        self._mutex = threading.Lock()
        self._begun = self._left = False
        self._outcome: list[T | None] = []
        self._handle.join()

    def __call__(self) -> None:
        with self._mutex:
            if self._left:
                raise RuntimeError("the operation was cancelled before it began")
            self._begun = True
        result: T | None = None
        try:
            result = self._function(self._unless_left)
        finally:
            self._finish(result)

    def take(self) -> T:
        return cast(T, self._outcome.pop())

    def _unless_left(self, function: Callable[[], object]) -> None:
        with self._mutex:
            if not self._left:
                function()

    def _finish(self, result: T | None) -> None:
        with self._mutex:
            self._outcome.append(result)
            left = self._left
        if left:
            self._lost(result)
        self._handle.leave()

    def leave(self) -> None:
        with self._mutex:
            self._left = True
            begun, outcome = self._begun, list(self._outcome)
        if not begun:
            self._lost(None)
            self._handle.leave()
        elif outcome:
            self._lost(outcome[0])
        # else the thread does, at its end


class Errand(Generic[T]):
    """A function in a thread whose result (a descriptor) must not get lost on the way."""

    def __init__(self, function: Callable[[], T], discard: Callable[[T], object]) -> None:
        self._function = function
        self._discard = discard
        self._results: list[T] = []
        self._abandoned = False
        self._mutex = threading.Lock()

    def __call__(self) -> None:
        if self._abandoned:
            return
        function = self._function
        del self._function  # the thread may still hold us when the task goes on
        result = function()
        if not self._keep(result):
            self._discard(result)

    def _keep(self, result: T) -> bool:
        with self._mutex:
            if self._abandoned:
                return False
            self._results.append(result)
            return True

    async def run(self, in_thread: Callable[[Callable[[], None]], Awaitable[object]]) -> T:
        """Have a thread do it, and wait for the result; if the task leaves, nobody gets that."""
        try:
            await in_thread(self)
        except BaseException:
            self._abandon()
            raise
        return self._results.pop()

    def _abandon(self) -> None:
        with self._mutex:
            self._abandoned = True
        for result in self._results:
            self._discard(result)


class Closing:
    """close(2), once: in the thread, or by whoever leaves before the thread has begun."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._begun = threading.Lock()

    def __call__(self) -> None:
        if self._begun.acquire(blocking=False):
            os.close(self.fd)

    at_once = __call__
