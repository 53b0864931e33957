"""The rows of files, in plain Python and in an event loop."""

from __future__ import annotations

import mmap
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import cycle, islice
from typing import Any

import anyio
import anyio.to_thread

import anyio_uring
from work import AnyIO, Api, Work, clock, shares, timed

BATCH = 2048  # ranges of one call

# -- plain Python ---------------------------------------------------------------------------------


def sync_pread(work: Work, count: int) -> float:
    size, offset, data = work.row.size, 0, b""
    with open(work.path, "rb", buffering=0) as file:
        fd, offsets, pread = file.fileno(), work.offsets(count), os.pread
        start = clock()
        for offset in offsets:
            data = pread(fd, size, offset)
        seconds = clock() - start
    work.material.check_page(offset, data)
    return seconds


def sync_read(work: Work, count: int) -> float:
    size, data = work.row.size, b""
    with open(work.path, "rb", work.row.buffering) as file:
        start = clock()
        for _ in range(count):
            data = file.read(size)
            if not data:
                file.seek(0)
        seconds = clock() - start
        work.material.check_end(work.path, file.tell(), data)
    return seconds


def sync_seek_read(work: Work, count: int) -> float:
    size, offset, data = work.row.size, 0, b""
    with open(work.path, "rb") as file:
        offsets = work.offsets(count)
        start = clock()
        for offset in offsets:
            file.seek(offset)
            data = file.read(size)
        seconds = clock() - start
    work.material.check_page(offset, data)
    return seconds


def sync_readline(work: Work, count: int) -> float:
    data = b""
    with open(work.path, "rb") as file:
        start = clock()
        for _ in range(count):
            data = file.readline()
            if not data:
                file.seek(0)
        seconds = clock() - start
        work.material.check_end(work.path, file.tell(), data)
    return seconds


def sync_write(work: Work, count: int) -> float:
    chunk = work.chunk
    with open(work.material.written, "wb") as file:
        start = clock()
        file.writelines(chunk for _ in range(count))
        file.flush()
        if work.row.synced:
            os.fsync(file.fileno())
        seconds = clock() - start
    work.material.check_written(work.material.written, count * len(chunk), chunk)
    return seconds


def sync_append(work: Work, count: int) -> float:
    chunk = work.chunk
    with ExitStack() as stack:
        fds = [
            stack.enter_context(open(path, "ab", buffering=0)).fileno() for path in work.new_files()
        ]
        turns = list(islice(cycle(fds), count))
        start = clock()
        for fd in turns:
            os.write(fd, chunk)
            os.fdatasync(fd)
        seconds = clock() - start
    work.check_appended(count)
    return seconds


def sync_direct(work: Work, count: int) -> float:
    size, offset, data = work.row.size, 0, b""
    fd, buffer = os.open(work.path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, size)
    try:
        offsets = work.offsets(count)
        start = clock()
        for offset in offsets:
            os.preadv(fd, [buffer], offset)
            data = buffer[:]
        seconds = clock() - start
    finally:
        os.close(fd)
    work.material.check_page(offset, data)
    return seconds


SYNC: dict[str, Callable[[Work, int], float]] = {
    "pread": sync_pread,
    "read": sync_read,
    "seek_read": sync_seek_read,
    "readline": sync_readline,
    "write": sync_write,
    "append": sync_append,
    "direct": sync_direct,
    "direct_batch": sync_direct,
    "write_behind": sync_write,
}


# -- in an event loop -----------------------------------------------------------------------------


async def async_pread(api: Api, work: Work, count: int) -> float:
    size = work.row.size
    async with await api.open(work.path, "rb", buffering=0) as file:
        read = api.pread(file)

        async def worker(offsets: list[int]) -> None:
            offset, data = 0, b""
            for offset in offsets:
                data = await read(size, offset)
            work.material.check_page(offset, data)

        offsets = work.offsets(count)
        tasks = min(work.row.tasks, count)
        return await timed([partial(worker, offsets[index::tasks]) for index in range(tasks)])


async def async_read(api: Api, work: Work, count: int) -> float:
    size, data = work.row.size, b""
    async with await api.open(work.path, "rb", work.row.buffering) as file:
        start = clock()
        for _ in range(count):
            data = await file.read(size)
            if not data:
                await file.seek(0)
        seconds = clock() - start
        work.material.check_end(work.path, await file.tell(), data)
    return seconds


async def async_seek_read(api: Api, work: Work, count: int) -> float:
    size, offset, data = work.row.size, 0, b""
    async with await api.open(work.path, "rb") as file:
        offsets = work.offsets(count)
        start = clock()
        for offset in offsets:
            await file.seek(offset)
            data = await file.read(size)
        seconds = clock() - start
    work.material.check_page(offset, data)
    return seconds


async def async_readline(api: Api, work: Work, count: int) -> float:
    data = b""
    async with await api.open(work.path, "rb") as file:
        start = clock()
        for _ in range(count):
            data = await file.readline()
            if not data:
                await file.seek(0)
        seconds = clock() - start
        work.material.check_end(work.path, await file.tell(), data)
    return seconds


async def async_write(api: Api, work: Work, count: int, **options: int) -> float:
    chunk = work.chunk
    async with await api.open(work.material.written, "wb", **options) as file:
        start = clock()
        for _ in range(count):
            await file.write(chunk)
        await file.flush()
        if work.row.synced:
            await api.fsync(file)
        seconds = clock() - start
    work.material.check_written(work.material.written, count * len(chunk), chunk)
    return seconds


async def async_append(api: Api, work: Work, count: int) -> float:
    chunk = work.chunk

    async def worker(file: Any, mine: int) -> None:
        fdatasync = api.fdatasync(file)
        for _ in range(mine):
            await file.write(chunk)
            await fdatasync()

    async with AsyncExitStack() as stack:
        files = [
            await stack.enter_async_context(await api.open(path, "ab", buffering=0))
            for path in work.new_files()
        ]
        seconds = await timed(
            [
                partial(worker, file, mine)
                for file, mine in zip(cycle(files), shares(count, work.row.tasks), strict=False)
            ]
        )
    work.check_appended(count)
    return seconds


async def async_direct(api: Api, work: Work, count: int) -> float:
    """AnyIO's users have to see to aligned memory by themselves."""
    size, large = work.row.size, work.path

    async def worker(read: Callable[[int, int], Awaitable[bytes]], offsets: list[int]) -> None:
        offset, data = 0, b""
        for offset in offsets:
            data = await read(size, offset)
        work.material.check_page(offset, data)

    offsets, tasks = work.offsets(count), min(work.row.tasks, count)
    async with AsyncExitStack() as stack:
        if api is AnyIO:
            fd = os.open(large, os.O_RDONLY | os.O_DIRECT)
            stack.callback(os.close, fd)
            reads = [partial(read_aligned, fd, mmap.mmap(-1, size)) for _ in range(tasks)]
        else:
            file = await stack.enter_async_context(await api.open(large, "rb", 0, direct=True))
            reads = [file.pread] * tasks
        return await timed(
            [partial(worker, read, offsets[index::tasks]) for index, read in enumerate(reads)]
        )


async def read_aligned(fd: int, buffer: mmap.mmap, size: int, offset: int) -> bytes:
    await anyio.to_thread.run_sync(os.preadv, fd, [buffer], offset)
    return buffer[:size]


async def async_direct_batch(api: Api, work: Work, count: int) -> float:
    if api is AnyIO:
        return await async_direct(api, work, count)
    requests = [(work.row.size, offset) for offset in work.offsets(count)]
    pages: list[bytes] = []
    async with await anyio_uring.open_file(work.path, "rb", 0, direct=True) as file:
        start = clock()
        for first in range(0, count, BATCH):
            pages = await file.pread_many(requests[first : first + BATCH])
        seconds = clock() - start
    work.material.check_page(requests[-1][1], pages[-1])
    return seconds


async def async_write_behind(api: Api, work: Work, count: int) -> float:
    if api is AnyIO:
        return await async_write(api, work, count)
    return await async_write(api, work, count, write_behind=work.row.behind)


ASYNC: dict[str, Callable[[Api, Work, int], Awaitable[float]]] = {
    "pread": async_pread,
    "read": async_read,
    "seek_read": async_seek_read,
    "readline": async_readline,
    "write": async_write,
    "append": async_append,
    "direct": async_direct,
    "direct_batch": async_direct_batch,
    "write_behind": async_write_behind,
}
