"""Many files in one await.

Small files cost so little each that what is done for each one decides: no task, no operation of
the ring and no turn of the loop is worth its price.  So worker threads do them by the chunk, in
compiled code that lets the interpreter go on meanwhile; several at once, which is what a cold disk
and more than one processor want.  What is not small goes its own way, as `Path.read_bytes` does.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import islice
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import anyio

from ._errors import first_of
from ._many import Found, Left, name_of, names_of, read_chunk, refuse_one, stat_chunk
from ._open import open_file
from ._runtime import Runtime, current_runtime
from ._whole import read_waiting

if TYPE_CHECKING:
    from typing import Self

    from _typeshed import StrOrBytesPath

    from ._ops import AnyPath

P = TypeVar("P", bound="StrOrBytesPath")
T = TypeVar("T")

# In one hop a thread takes files for so long: each hop costs a turn of the loop and the waking of a
# thread.  Whoever cancels waits for one part only.
HOP_SECONDS = 50e-3
# The same where a disk is waited for, by more threads: others want some, too.
COLD_HOP_SECONDS = 5e-3
# So many files at a time, by so many threads, while files are in memory: the last one to be ready
# is not far behind, and where there is a processor for it, a third thread makes objects while two
# are at the files.
WARM_FILES = 512
WARM_CHUNKS = min(max(os.cpu_count() or 1, 2), 3)
# The same where a disk is waited for.
COLD_FILES = 16
COLD_CHUNKS = 24
# For what is read ahead, where it is not known what there will be.
CHUNK_FILES = 128
# Bytes that one hop brings at most; a bigger file goes by itself.
CHUNK_BYTES = 4 << 20
CHUNKS_MAX = 8
# What a path and its result take besides the bytes of the file.
ITEM_BYTES = 512
# Less ahead than this is not worth a name.
AHEAD_MIN = 64 << 10


@overload
async def stat_files(
    paths: Iterable[StrOrBytesPath],
    *,
    follow_symlinks: bool = ...,
    return_exceptions: Literal[False] = ...,
) -> list[os.stat_result]: ...


@overload
async def stat_files(
    paths: Iterable[StrOrBytesPath], *, follow_symlinks: bool = ..., return_exceptions: bool
) -> list[os.stat_result | OSError]: ...


async def stat_files(
    paths: Iterable[StrOrBytesPath],
    *,
    follow_symlinks: bool = True,
    return_exceptions: bool = False,
) -> list[Any]:
    """What `os.stat` says of each path, in the order of the paths.

    Served by worker threads, many paths in one hop, whatever the driver.

    :param follow_symlinks: False: of symlinks themselves, as `os.lstat`
    :param return_exceptions: an OSError sits in the place of its result; else the first failure
        gives up the rest and is raised
    :raises OSError: as stat(2); its file name says which
    :raises TypeError: something that is no path; nothing has been asked then

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     found = await anyio_uring.stat_files(["/etc", "/nowhere"], return_exceptions=True)
    ...     return [type(result).__name__ for result in found]
    >>> anyio.run(main)
    ['stat_result', 'FileNotFoundError']
    """
    names = names_of(paths)
    runtime = await _begin()
    parts = _Parts(
        names, lambda paths: stat_chunk(paths, follow_symlinks), until_odd=not return_exceptions
    )

    async def hop() -> None:
        news = await runtime.paths.ask(parts.take_some, None)
        if not return_exceptions:
            _raise_first(news)

    await _spread(hop, parts)
    return parts.results


@overload
async def read_files(
    paths: Iterable[StrOrBytesPath], *, return_exceptions: Literal[False] = ...
) -> list[bytes]: ...


@overload
async def read_files(
    paths: Iterable[StrOrBytesPath], *, return_exceptions: bool
) -> list[bytes | OSError]: ...


async def read_files(
    paths: Iterable[StrOrBytesPath], *, return_exceptions: bool = False
) -> list[Any]:
    """All bytes of each file, in the order of the paths.

    All of them are in memory at the end; `iter_files` bounds that.  Small files are read by worker
    threads, many in one hop, by rings of their own if the driver is io_uring; bigger ones as
    `Path.read_bytes` does.

    :param return_exceptions: an OSError sits in the place of its result; else the first failure
        gives up the rest and is raised
    :raises OSError: as open(2) and read(2); its file name says which
    :raises TypeError: something that is no path; nothing has been read then

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     return [data[:4] for data in await anyio_uring.read_files(["/etc/passwd"] * 2)]
    >>> anyio.run(main)
    [b'root', b'root']
    """
    names = names_of(paths)
    runtime = await _begin()
    parts = _Parts(
        names,
        lambda paths: read_chunk(paths, CHUNK_BYTES, runtime.file_rings),
        until_odd=not return_exceptions,
    )

    async def hop() -> None:
        news = await runtime.threads.call(parts.take_some, None, close_left)
        try:
            if not return_exceptions:
                _raise_first(news)
            await _read_odd(runtime, parts, news, return_exceptions)
        except BaseException:
            close_left(news)
            raise

    await _spread(hop, parts)
    return parts.results


async def _begin() -> Runtime:
    runtime = current_runtime()
    await runtime.gate.admit()
    return runtime


class _Parts:
    """Files that threads take one part after the other, and what they have found.

    :param function: for paths in a row, what has been found
    :param until_odd: after a result to be looked at, a thread takes no more, but comes back
    :ivar results: of all files, in order; None where there is none yet
    """

    def __init__(
        self,
        names: list[AnyPath],
        function: Callable[[list[AnyPath]], Found],
        until_odd: bool,
    ) -> None:
        self.results: list[Any] = [None] * len(names)
        self.cold = False
        self.names = names
        self._function = function
        self._until_odd = until_odd
        self._position = 0
        self._size = min(max(-(-len(names) // (2 * WARM_CHUNKS)), COLD_FILES), WARM_FILES)
        self._rests: list[tuple[int, int]] = []  # of parts that ended early
        self._given_up = False
        self._mutex = threading.Lock()

    def left(self) -> int:
        """How many parts are still to be taken."""
        places = [*self._rests, (self._position, len(self.names))]
        return sum(-(-(stop - start) // self._size) for start, stop in places)

    def give_up(self) -> None:
        with self._mutex:
            self._given_up = True
            self._position = len(self.names)
            self._rests.clear()

    def take_some(self) -> list[tuple[int, Any]]:
        """In a thread: parts for a while; returns the results to be looked at, with their places.

        Ends where it meets a disk, too, as more threads should know.
        """
        news: list[tuple[int, Any]] = []
        end = perf_counter() + (COLD_HOP_SECONDS if self.cold else HOP_SECONDS)
        try:
            while (part := self._next()) is not None:
                start, stop = part
                found, odd, cold = self._function(self.names[start:stop])
                news.extend((start + index, found[index]) for index in odd)
                self.results[start : start + len(found)] = found
                if start + len(found) < stop:
                    self._put_back(start + len(found), stop)
                if cold and not self.cold:
                    self.cold, self._size = True, COLD_FILES
                    break
                if odd and (self._until_odd or any(isinstance(found[i], Left) for i in odd)):
                    break  # descriptors may be among them, and there are not many of those
                if perf_counter() > end:
                    break
        except BaseException:
            close_left(news)
            raise
        return news

    def _put_back(self, start: int, stop: int) -> None:
        with self._mutex:
            if not self._given_up:
                self._rests.append((start, stop))

    def _next(self) -> tuple[int, int] | None:
        with self._mutex:
            if self._rests:
                start, stop = self._rests.pop()
                if stop - start > self._size:
                    self._rests.append((start + self._size, stop))
                    stop = start + self._size
                return start, stop
            start, stop = self._position, min(self._position + self._size, len(self.names))
            self._position = stop
            return (start, stop) if start < stop else None


def _raise_first(news: list[tuple[int, Any]]) -> None:
    """If there is an error among them, raise it, and nothing is left of the others."""
    for _, result in news:
        if isinstance(result, OSError):
            close_left(news)
            news.clear()
            try:
                raise result
            finally:
                del result  # which holds this frame by its traceback


class _Hops:
    """Hops that are made at once, by tasks of a group.  (No closures, which would hold each other,
    and the results, until they are collected.)

    Big parts on few threads, which is best while everything is in memory; when one shows that
    it is not, small ones on many, since a disk wants many questions at once.

    :ivar over: all tasks have come to their end
    :ivar torn: one was cancelled
    """

    def __init__(
        self, hop: Callable[[], Awaitable[None]], parts: _Parts, group: anyio.abc.TaskGroup
    ) -> None:
        self.failures: list[Exception] = []
        self.torn = False
        self.over = anyio.Event()
        self._hop = hop
        self._parts = parts
        self._group = group
        self._cold = False
        self._at_work = 0

    def start(self, most: int) -> None:
        for _ in range(min(most, self._parts.left())):
            self._at_work += 1
            self._group.start_soon(self._work)
        if not self._at_work:
            self.over.set()

    async def _work(self) -> None:
        try:
            while self._parts.left():
                await self._hop()
                if self._parts.cold and not self._cold:
                    self._cold = True
                    self.start(COLD_CHUNKS - WARM_CHUNKS)
        except Exception as error:  # noqa: BLE001  # raised by `_spread`, without a group around it
            self.failures.append(error)
        except BaseException:
            self.torn = True
            raise
        finally:
            self._at_work -= 1
            if not self._at_work:
                self.over.set()
            elif self.failures:
                self._group.cancel_scope.cancel()


async def _spread(hop: Callable[[], Awaitable[None]], parts: _Parts) -> None:
    """Make hops, some at once, until all parts are done; the first failure is raised bare."""
    try:
        async with anyio.create_task_group() as group:
            hops = _Hops(hop, parts, group)
            hops.start(WARM_CHUNKS)
            try:
                await hops.over.wait()
            finally:
                parts.give_up()  # those who work hear of a cancellation when their thread is back
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None  # an interrupt
    if hops.failures:
        parts.results.clear()  # it may be among them, and holds them by its traceback
        del hops.failures[1:]
        raise hops.failures.pop()
    if hops.torn:  # and not by the caller's scope, which has raised something by now
        raise RuntimeError("a task of this call has been cancelled by itself")


async def _read_odd(
    runtime: Runtime, parts: _Parts, news: list[tuple[int, Any]], return_exceptions: bool
) -> None:
    """What was not for a chunk."""
    for number, (place, result) in enumerate(news):
        if isinstance(result, Left):
            news[number] = place, None  # it is closed by `_read_left`
            try:
                parts.results[place] = await _read_left(runtime, parts.names[place], result.fd)
            except OSError as error:
                if not return_exceptions:
                    raise
                parts.results[place] = error


async def _read_left(runtime: Runtime, name: AnyPath, fd: int) -> bytes:
    """What was not for a chunk: too big, or no regular file."""
    if fd == -1:
        return await read_waiting(runtime, name, None)
    file = None
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            await anyio.wait_readable(fd)  # until a writer has come: before that it has ended
        os.set_blocking(fd, True)
        file = await open_file(fd, "rb", 0)
        async with file:
            data: bytes = await file.readall()
        return data
    except OSError as error:
        error.filename = name
        raise
    finally:
        if file is None:
            os.close(fd)


def close_left(found: Iterable[tuple[Any, Any]]) -> None:
    """Of results, each with its place or its path."""
    for _, result in found:
        if isinstance(result, Left) and result.fd != -1:
            os.close(result.fd)


def _close_chunk(found: Found) -> None:
    close_left((index, found.results[index]) for index in found.odd)


def iter_files(
    paths: Iterable[P], *, ordered: bool = True, bytes_ahead_max: int = 64 << 20
) -> AbstractAsyncContextManager[AsyncIterator[tuple[P, bytes]]]:
    """Read files one after the other, and small ones ahead: each path with all bytes of its file.

    A context manager that gives the iterator.  Leaving the block, in whatever way, cancels what is
    on its way and waits for its end.

    :param paths: taken as they are needed, so there may be any number of them
    :param ordered: False: as they come
    :param bytes_ahead_max: bytes that are held or on their way at most, from 64 KiB on, each
        file counted with 512 more; files of more than a quarter of it (or 4 MiB) are not read ahead
    :raises OSError: by the iterator, when it is the file's turn; the next step goes on behind it
    :raises TypeError: the same for something that is no path
    :raises ValueError: a `bytes_ahead_max` below 64 KiB

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with anyio_uring.iter_files(["/etc/passwd", "/etc/group"]) as files:
    ...         return [(path, data[:4]) async for path, data in files]
    >>> anyio.run(main)
    [('/etc/passwd', b'root'), ('/etc/group', b'root')]
    """
    if bytes_ahead_max < AHEAD_MIN:
        raise ValueError(f"bytes_ahead_max must be at least {AHEAD_MIN}")
    refuse_one(paths)
    return _Files(paths, ordered, bytes_ahead_max)


def _held_by(result: object) -> int:
    return ITEM_BYTES + (len(result) if isinstance(result, bytes) else 0)


class _Chunk(Generic[P]):
    """Some paths in a row and what was read of them: bytes, an exception, or a `Left`."""

    def __init__(self) -> None:
        self.items: deque[tuple[P, Any]] = deque()
        self.done = False  # no more items will come


class _Files(Generic[P]):
    """The context manager and its iterator.

    Workers take the paths chunk by chunk and put what they have read into `_chunks`, by number; the
    consumer takes it from there, and reads himself what was not for a chunk.
    """

    def __init__(self, paths: Iterable[P], ordered: bool, ahead_max: int) -> None:
        self._runtime: Any = None
        self._paths = iter(paths)
        self._ordered = ordered
        self._ahead_max = ahead_max
        self._limit = min(CHUNK_BYTES, ahead_max // 4)
        self._chunk_files = min(CHUNK_FILES, self._limit // ITEM_BYTES)
        self._hop_bytes = self._limit + self._chunk_files * ITEM_BYTES  # what a hop brings at most
        self._begun = 0  # number of the next chunk
        self._chunks: dict[int, _Chunk[P]] = {}  # oldest first
        self._again: deque[tuple[P, Any]] = deque()  # from steps that were cancelled
        self._reading = 0  # hops on their way
        self._held = 0  # bytes in the chunks, and what their items take besides
        self._ended = False  # no path is left
        self._news = anyio.Event()  # for the consumer
        self._room = anyio.Event()  # for the workers

    async def __aenter__(self) -> AsyncIterator[tuple[P, bytes]]:
        self._runtime = await _begin()
        self._group = await anyio.create_task_group().__aenter__()
        for _ in range(CHUNKS_MAX):
            self._group.start_soon(self._work)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Without the error of the block, which would come out in a group: no worker raises
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None  # an interrupt
        finally:
            for chunk in self._chunks.values():
                close_left(chunk.items)
            self._chunks.clear()
            self._again.clear()
            self._ended = True
            self._news.set()  # tasks that still wait for an item

    def __aiter__(self) -> Self:
        if self._runtime is None:
            raise TypeError("iter_files() is to be entered: async with iter_files(...) as files")
        return self

    async def __anext__(self) -> tuple[P, bytes]:
        await self._runtime.gate.admit()
        while (item := self._next_item()) is None:
            if self._ended and not self._chunks:
                raise StopAsyncIteration
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()
        path, result = item
        self._held -= _held_by(result)
        self._room.set()
        if isinstance(result, Left):
            try:
                result = await _read_left(self._runtime, name_of(path), result.fd)
            except anyio.get_cancelled_exc_class():
                if result.fd == -1:  # else bytes may have been taken, once for all
                    self._held += _held_by(result)
                    self._again.append(item)
                    self._news.set()
                raise
        elif not isinstance(result, bytes):
            raise result
        return path, result

    def _next_item(self) -> tuple[P, Any] | None:
        if self._again:
            return self._again.popleft()
        for number, chunk in list(self._chunks.items()):
            if chunk.items:
                return chunk.items.popleft()
            if chunk.done:
                del self._chunks[number]
                self._room.set()
            elif self._ordered:
                break
        return None

    async def _work(self) -> None:
        while True:
            await self._wait_for_room(self._begun)
            chunk = _Chunk[P]()
            paths = self._take_paths(chunk)
            if not paths and not chunk.items:
                break
            number, self._begun = self._begun, self._begun + 1
            self._chunks[number] = chunk
            behind = chunk.items.pop() if chunk.items else None
            while paths:
                await self._wait_for_room(number)
                self._reading += 1
                try:
                    read = partial(read_chunk, [name_of(path) for path in paths], self._limit)
                    found: list[Any]
                    found, _, _ = await self._runtime.threads.call(read, None, _close_chunk)
                except Exception as error:  # noqa: BLE001  # no thread, no memory: for the first
                    found = [error]
                finally:
                    self._reading -= 1
                chunk.items.extend(zip(paths, found, strict=False))
                paths = paths[len(found) :]
                self._held += sum(map(_held_by, found))
                self._news.set()
                del found  # those who read ahead may wait long for room
            if behind is not None:
                self._held += ITEM_BYTES
                chunk.items.append(behind)
                await self._runtime.host.checkpoint()  # there may be nothing but such
            chunk.done = True
            self._news.set()
        self._ended = True
        self._news.set()

    async def _wait_for_room(self, number: int) -> None:
        """Room for one hop is kept for the first chunk: those behind wait for its bytes to go."""
        while True:
            wanted = self._held + (self._reading + 1) * self._hop_bytes
            first = next(iter(self._chunks), number)
            if wanted + self._hop_bytes <= self._ahead_max or (
                number == first and not (number in self._chunks and self._chunks[number].items)
            ):
                break
            if self._room.is_set():
                self._room = anyio.Event()
            await self._room.wait()

    def _take_paths(self, chunk: _Chunk[P]) -> list[P]:
        """The next paths; an error behind them goes into the chunk."""
        paths: list[P] = []
        try:
            for path in islice(self._paths, self._chunk_files):
                try:
                    os.fsencode(name_of(path))
                except (TypeError, ValueError) as error:
                    chunk.items.append((path, error))
                    break
                paths.append(path)
        except Exception as error:  # noqa: BLE001  # of the caller's iterator: his to meet
            self._paths = iter(())
            chunk.items.append((None, error))  # type: ignore[arg-type]
        return paths
