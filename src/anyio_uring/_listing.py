"""Directories, entry by entry: read by a thread, many entries in one hop.

The kernel has no asynchronous way to read a directory (getdents(2)).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._entries import Entries
from ._runtime import current_runtime

if TYPE_CHECKING:
    from anyio import CapacityLimiter

T = TypeVar("T")
R = TypeVar("R")

# Few at first, so that whoever looks for one entry does not wait for thousands.
CHUNK_MIN = 64
CHUNK_MAX = 4096
# A search that finds little comes back with what it has.
CHUNK_SECONDS = 0.02
# Entries that need no hop are taken so many in a row, then the loop gets its turn.
TURN_ENTRIES = 256


class Listing(Entries, Generic[T, R]):
    """An asynchronous iterator over what a synchronous one gives, which lives in threads.

    At most `CHUNK_MAX` entries are held, and the thread works only while somebody waits, who is
    not kept by it when he is cancelled; that ends it, as it ends an asynchronous generator.  One
    task at a time can wait.  Dropped or closed, it gives up the rest.

    :param start: makes the synchronous iterator; called by the first hop
    :param convert: makes of an entry what is handed out
    :param search: entries may be far between: what was found in `CHUNK_SECONDS` is handed out
    """

    def __init__(
        self,
        start: Callable[[], Iterator[T]],
        limiter: CapacityLimiter | None,
        convert: Callable[[T], R],
        search: bool = True,
    ) -> None:
        super().__init__(convert)
        self._start = start
        self._limiter = limiter
        self._make = convert
        self._source: Iterator[T] | None = None
        # `_chunk` is what needs no turn of the loop
        self._rest: list[T] = []  # behind it, the next one last
        self._size = CHUNK_MIN
        self._step = 1 if search else TURN_ENTRIES
        self._error: BaseException | None = None
        self._ended = False
        self._mutex = threading.Lock()
        self._in_thread = False
        self._running = False  # a step that is more than taking an entry
        self._closed = False

    async def _refill(self) -> R:
        if self._running:
            raise RuntimeError("anext(): asynchronous iterator is already running")
        self._running = True
        try:
            if self._rest:
                await current_runtime().host.checkpoint()
            else:
                await self._fetch()
        finally:
            self._running = False
        chunk = self._chunk
        chunk += self._rest[-TURN_ENTRIES:]
        del self._rest[-TURN_ENTRIES:]
        if not chunk:
            raise StopAsyncIteration
        return self._make(chunk.pop())

    async def _fetch(self) -> None:
        self._raise_error()
        if self._given_up():
            return
        size, self._size = self._size, min(2 * self._size, CHUNK_MAX)
        next_chunk = partial(self._next, size)
        paths = current_runtime().paths
        try:
            chunk = await paths.ask(next_chunk, self._limiter, type)
        except BaseException:
            # What the thread finds, or has found, is lost, and what is behind it of no use
            self.close()
            raise
        if not chunk:
            self._raise_error()
        self._rest = chunk

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _next(self, size: int) -> list[T]:
        """In a thread: the next entries, the first one last."""
        with self._mutex:
            if self._closed or self._in_thread:
                return []
            self._in_thread = True
        chunk: list[T] = []
        end = time.monotonic() + CHUNK_SECONDS
        try:
            if self._source is None:
                self._source = self._start()
            while len(chunk) < size and (not chunk or time.monotonic() < end):
                before, wanted = len(chunk), min(size - len(chunk), self._step)
                chunk.extend(islice(self._source, wanted))
                if len(chunk) - before < wanted:
                    self._ended = True
                    break
        except Exception as error:  # noqa: BLE001  # raised behind the entries before it
            self._error = error
            self._ended = True
        with self._mutex:
            self._in_thread = False
            if self._given_up():
                self._close_source()
        chunk.reverse()
        return chunk

    def _given_up(self) -> bool:
        return self._closed or self._ended

    def close(self) -> None:
        """Give up the rest."""
        with self._mutex:
            self._closed = True
            if not self._in_thread:
                self._close_source()

    async def aclose(self) -> None:
        """As `close`, which waits for nothing."""
        self._chunk.clear()
        self._rest.clear()
        self.close()

    def _close_source(self) -> None:
        close: Any = getattr(self._source, "close", None)
        self._source = None
        if close is not None:
            close()

    def __del__(self) -> None:
        self.close()
