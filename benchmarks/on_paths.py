"""The rows of paths and batches, in plain Python and in an event loop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import anyio_uring
from work import AnyIO, Api, Work, clock, runs, timed

# -- plain Python ---------------------------------------------------------------------------------


def sync_small(work: Work, count: int) -> float:
    data = b""
    paths = list(islice(cycle(work.material.small), count))
    start = clock()
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
    seconds = clock() - start
    work.material.check_small((count - 1) % len(work.material.small), data)
    return seconds


def sync_kept(work: Work, count: int) -> float:
    """Keeps what it reads, as the caller of `read_files` does."""
    paths = [str(path) for path in islice(cycle(work.material.small), count)]
    contents = []
    start = clock()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        contents.append(os.read(fd, 1 << 16))
        os.close(fd)
    seconds = clock() - start
    work.material.check_small((count - 1) % len(work.material.small), contents[-1])
    return seconds


def sync_whole(work: Work, count: int) -> float:
    data = b""
    paths = [str(path) for path in islice(cycle(work.material.small), count)]
    start = clock()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        data = os.read(fd, 1 << 16)
        os.close(fd)
    seconds = clock() - start
    work.material.check_small((count - 1) % len(work.material.small), data)
    return seconds


def sync_stat(work: Work, count: int) -> float:
    paths = [str(path) for path in islice(cycle(work.material.small), count)]
    start = clock()
    for path in paths:
        os.stat(path)
    return clock() - start


def sync_iterdir(work: Work, count: int) -> float:
    seen = 0
    start = clock()
    while seen < count:
        with os.scandir(work.material.big) as entries:
            for _ in entries:
                seen += 1
                if seen == count:
                    break
    return clock() - start


def sync_walk(work: Work, count: int) -> float:
    seen = 0
    start = clock()
    while seen < count:
        for _, folders, files in os.walk(work.material.tree):
            seen += len(folders) + len(files)
            if seen >= count:
                break
    return (clock() - start) * count / seen


def sync_copy_tree(work: Work, count: int) -> float:
    source, target = work.material.small[0].parent, work.material.copy
    start = clock()
    shutil.copytree(source, target)
    seconds = clock() - start
    work.material.check_copy()
    shutil.rmtree(target)
    return seconds


def sync_remove_tree(work: Work, count: int) -> float:
    target = copied(work)
    start = clock()
    shutil.rmtree(target)
    return clock() - start


def copied(work: Work) -> Path:
    """A tree to be removed."""
    shutil.copytree(work.material.small[0].parent, work.material.copy)
    return work.material.copy


SYNC: dict[str, Callable[[Work, int], float]] = {
    "small": sync_small,
    "whole": sync_whole,
    "whole_batch": sync_whole,
    "kept_batch": sync_kept,
    "stat": sync_stat,
    "stat_batch": sync_stat,
    "iterdir": sync_iterdir,
    "walk": sync_walk,
    "copy_tree": sync_copy_tree,
    "remove_tree": sync_remove_tree,
}


# -- in an event loop -----------------------------------------------------------------------------


async def async_small(api: Api, work: Work, count: int) -> float:
    paths = list(islice(cycle(enumerate(work.material.small)), count))

    async def worker(mine: list[tuple[int, Path]]) -> None:
        data = b""
        for _, path in mine:
            async with await api.open(path, "rb") as file:
                data = await file.read()
        work.material.check_small(mine[-1][0], data)

    return await timed([partial(worker, mine) for mine in runs(paths, work.row.tasks)])


async def async_paths(name: str, api: Api, work: Work, count: int) -> float:
    """A method of paths, from so many tasks."""
    paths = [api.path(path) for path in islice(cycle(work.material.small), count)]

    async def worker(mine: list[anyio.Path]) -> None:
        for path in mine:
            await getattr(path, name)()

    return await timed([partial(worker, mine) for mine in runs(paths, work.row.tasks)])


async_whole = partial(async_paths, "read_bytes")
async_stat = partial(async_paths, "stat")


async def async_whole_batch(api: Api, work: Work, count: int) -> float:
    if api is AnyIO:
        return await async_whole(api, work, count)
    return await in_batches(anyio_uring.read_files, work, count, work.material.check_small)


async def async_stat_batch(api: Api, work: Work, count: int) -> float:
    if api is AnyIO:
        return await async_stat(api, work, count)
    return await in_batches(anyio_uring.stat_files, work, count)


async def in_batches(
    function: Callable[[list[str]], Awaitable[list[Any]]],
    work: Work,
    count: int,
    check: Callable[[int, Any], None] | None = None,
) -> float:
    """All files in one await, as often as it takes; what that has brought goes before the next."""
    paths = [str(path) for path in work.material.small]
    batches = [paths[:left] for left in range(count, 0, -len(paths))]
    results: list[Any] = []
    start = clock()
    for batch in batches:
        results.clear()
        results = await function(batch)
    seconds = clock() - start
    if check is not None:
        check((count - 1) % len(paths), results[-1])
    return seconds


async def async_iterdir(api: Api, work: Work, count: int) -> float:
    folder, seen = api.path(work.material.big), 0
    start = clock()
    while seen < count:
        async for _ in folder.iterdir():
            seen += 1
            if seen == count:
                break
    return clock() - start


async def async_walk(api: Api, work: Work, count: int) -> float:
    walk: Any = getattr(api.path(work.material.tree), "walk")  # noqa: B009 - new in Python 3.12
    seen = 0
    start = clock()
    while seen < count:
        async for _, folders, files in walk():
            seen += len(folders) + len(files)
            if seen >= count:
                break
    return (clock() - start) * count / seen


async def async_copy_tree(api: Api, work: Work, count: int) -> float:
    source, target = work.material.small[0].parent, work.material.copy
    start = clock()
    if api is AnyIO:
        await anyio.to_thread.run_sync(shutil.copytree, source, target)
    else:
        await anyio_uring.copy_tree(source, target)
    seconds = clock() - start
    work.material.check_copy()
    shutil.rmtree(target)
    return seconds


async def async_remove_tree(api: Api, work: Work, count: int) -> float:
    target = copied(work)
    start = clock()
    if api is AnyIO:
        await anyio.to_thread.run_sync(shutil.rmtree, target)
    else:
        await anyio_uring.remove_tree(target)
    return clock() - start


ASYNC: dict[str, Callable[[Api, Work, int], Awaitable[float]]] = {
    "small": async_small,
    "whole": async_whole,
    "whole_batch": async_whole_batch,
    "kept_batch": async_whole_batch,
    "stat": async_stat,
    "stat_batch": async_stat_batch,
    "iterdir": async_iterdir,
    "walk": async_walk,
    "copy_tree": async_copy_tree,
    "remove_tree": async_remove_tree,
}
