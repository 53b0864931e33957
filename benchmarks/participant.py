"""One participant in a process of its own: waits for orders, works, answers with the time it took.

Started by `cell.py`, which writes orders to its input, a JSON object in each line, and reads the
answers from its output.  While one participant works, the others wait for a line: the event loop
of those stands still.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import anyio_uring
from rows import FULL, QUICK, ROWS, Material, Row

KEYS = ("sync", "anyio", "ours", "blocked")
HOSTS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
clock = time.perf_counter


def shares(total: int, parts: int) -> list[int]:
    """How many operations each task does, or each file gets."""
    return [total // parts + (index < total % parts) for index in range(parts)]


@dataclass(slots=True)
class Work:
    """What all forms of a row need."""

    row: Row
    material: Material
    pages: list[int] = field(init=False)
    _position: int = field(init=False, default=0)
    chunk: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.pages = self.material.pages(self.row)
        self.chunk = self.material.content.block(0, max(self.row.size, 4096))[: self.row.size]

    def rewind(self) -> None:
        self._position = 0

    def offsets(self, count: int) -> list[int]:
        """The next pages; they come round only when all have been read."""
        first = self._position
        self._position = (first + count) % len(self.pages)
        return list(islice(cycle(self.pages), first, first + count))

    def new_files(self) -> list[Path]:
        """Paths of the files that are appended to; none exists."""
        for path in self.appended:
            path.unlink(missing_ok=True)
        return self.appended

    def check_appended(self, count: int) -> None:
        for path, mine in zip(self.appended, shares(count, self.row.files), strict=True):
            self.material.check_written(path, mine * self.row.size, self.chunk)

    @property
    def appended(self) -> list[Path]:
        return self.material.appended[: self.row.files]

    @property
    def path(self) -> Path:
        return self.material.lines if self.row.kind == "readline" else self.material.large


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


SYNC: dict[str, Callable[[Work, int], float]] = {
    "pread": sync_pread,
    "read": sync_read,
    "seek_read": sync_seek_read,
    "readline": sync_readline,
    "write": sync_write,
    "append": sync_append,
    "small": sync_small,
    "whole": sync_whole,
    "whole_batch": sync_whole,
    "stat": sync_stat,
    "stat_batch": sync_stat,
    "iterdir": sync_iterdir,
}


# -- in an event loop -----------------------------------------------------------------------------


class Ours:
    open: Callable[..., Awaitable[Any]] = staticmethod(anyio_uring.open_file)
    path: type[anyio.Path] = anyio_uring.Path

    @staticmethod
    def pread(file: Any) -> Callable[[int, int], Awaitable[bytes]]:
        return file.pread  # type: ignore[no-any-return]

    @staticmethod
    def fdatasync(file: Any) -> Callable[[], Awaitable[None]]:
        return file.fdatasync  # type: ignore[no-any-return]

    @staticmethod
    def fsync(file: Any) -> Awaitable[None]:
        return file.fsync()  # type: ignore[no-any-return]


class AnyIO:
    """What AnyIO's files lack is done as its users do it, in one trip to a thread."""

    open: Callable[..., Awaitable[Any]] = staticmethod(anyio.open_file)
    path: type[anyio.Path] = anyio.Path

    @staticmethod
    def pread(file: Any) -> Callable[[int, int], Awaitable[bytes]]:
        fd: int = file.fileno()
        return lambda size, offset: anyio.to_thread.run_sync(os.pread, fd, size, offset)

    @staticmethod
    def fdatasync(file: Any) -> Callable[[], Awaitable[None]]:
        return partial(anyio.to_thread.run_sync, os.fdatasync, file.fileno())

    @staticmethod
    def fsync(file: Any) -> Awaitable[None]:
        return anyio.to_thread.run_sync(os.fsync, file.fileno())


Api = type[Ours] | type[AnyIO]


async def timed(workers: list[Callable[[], Coroutine[Any, Any, None]]]) -> float:
    """Run the workers; one needs no task of its own.  Making tasks is not measured."""
    if len(workers) == 1:
        start = clock()
        await workers[0]()
        return clock() - start
    async with anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(worker)
        start = clock()
    return clock() - start


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


async def async_write(api: Api, work: Work, count: int) -> float:
    chunk = work.chunk
    async with await api.open(work.material.written, "wb") as file:
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


async def async_small(api: Api, work: Work, count: int) -> float:
    paths = list(islice(cycle(enumerate(work.material.small)), count))

    async def worker(mine: list[tuple[int, Path]]) -> None:
        data = b""
        for _, path in mine:
            async with await api.open(path, "rb") as file:
                data = await file.read()
        work.material.check_small(mine[-1][0], data)

    tasks = min(work.row.tasks, count)
    return await timed([partial(worker, paths[index::tasks]) for index in range(tasks)])


async def async_paths(name: str, api: Api, work: Work, count: int) -> float:
    """A method of paths, from so many tasks."""
    paths = [api.path(path) for path in islice(cycle(work.material.small), count)]

    async def worker(mine: list[anyio.Path]) -> None:
        for path in mine:
            await getattr(path, name)()

    tasks = min(work.row.tasks, count)
    return await timed([partial(worker, paths[index::tasks]) for index in range(tasks)])


async_whole = partial(async_paths, "read_bytes")
async_stat = partial(async_paths, "stat")


async def async_whole_batch(api: Api, work: Work, count: int) -> float:
    if api is AnyIO:
        return await async_whole(api, work, count)
    paths = [str(path) for path in islice(cycle(work.material.small), count)]
    start = clock()
    contents = await anyio_uring.read_files(paths)
    seconds = clock() - start
    work.material.check_small((count - 1) % len(work.material.small), contents[-1])
    return seconds


async def async_stat_batch(api: Api, work: Work, count: int) -> float:
    if api is AnyIO:
        return await async_stat(api, work, count)
    paths = [str(path) for path in islice(cycle(work.material.small), count)]
    start = clock()
    await anyio_uring.stat_files(paths)
    return clock() - start


async def async_iterdir(api: Api, work: Work, count: int) -> float:
    folder, seen = api.path(work.material.big), 0
    start = clock()
    while seen < count:
        async for _ in folder.iterdir():
            seen += 1
            if seen == count:
                break
    return clock() - start


ASYNC: dict[str, Callable[[Api, Work, int], Awaitable[float]]] = {
    "pread": async_pread,
    "read": async_read,
    "seek_read": async_seek_read,
    "readline": async_readline,
    "write": async_write,
    "append": async_append,
    "small": async_small,
    "whole": async_whole,
    "whole_batch": async_whole_batch,
    "stat": async_stat,
    "stat_batch": async_stat_batch,
    "iterdir": async_iterdir,
}


# -- orders ---------------------------------------------------------------------------------------


def answer(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def tiers() -> dict[str, int]:
    """Operations so far by the tier that served them; those that ended in a buffer are in none."""
    counts = anyio_uring.statistics()
    return {
        "now": counts.now + counts.now_opened + counts.now_closed,
        "ring": counts.ring - counts.ring_refused,
        "thread": counts.thread,
    }


async def obey(measure: Callable[[int], Awaitable[float]], work: Work, *, ours: bool) -> None:
    """Do as told until there are no more orders."""
    answer(ready=True)
    for line in sys.stdin:
        order = json.loads(line)
        work.rewind()
        if "calibrate" in order:
            answer(count=await calibrate(measure, work, order["calibrate"]))
            continue
        before = tiers() if ours else {}
        seconds = await measure(order["count"])
        after = tiers() if ours else {}
        driver = anyio_uring.statistics().driver if ours else ""
        served = {tier: after[tier] - before[tier] for tier in after}
        answer(seconds=seconds, tiers=served, driver=driver)


async def calibrate(measure: Callable[[int], Awaitable[float]], work: Work, seconds: float) -> int:
    """How many operations take so many seconds; doing them warms up as well."""
    most, least = work.material.most(work.row), work.row.tasks
    count = min(least * 4, most)
    await measure(count)
    while True:
        took = await measure(count)
        if took >= seconds / 4:
            # Once may have been a hiccup
            took = min(took, await measure(count))
        if took >= seconds / 4 or count == most:
            return max(min(int(count * seconds / max(took, 1e-9)), most), min(least, most))
        count = min(count * 4, most)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("key", choices=KEYS)
    parser.add_argument("host", choices=HOSTS)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    row = ROWS[arguments.row]
    work = Work(row, Material(arguments.folder, QUICK if arguments.quick else FULL))
    ours = arguments.key in ("ours", "blocked")

    async def measure_sync(count: int) -> float:
        return SYNC[row.kind](work, count)

    measure: Callable[[int], Awaitable[float]]
    if arguments.key == "sync":
        measure = measure_sync
    else:
        measure = partial(ASYNC[row.kind], Ours if ours else AnyIO, work)
    try:
        anyio.run(partial(obey, measure, work, ours=ours), **HOSTS[arguments.host])
    except BrokenPipeError:
        os._exit(1)  # nobody is there any more
    except Exception as error:  # noqa: BLE001 - whoever gave the order tells the user
        answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
