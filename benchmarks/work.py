"""What all rows need to be done: the material in a row's shape, the two libraries, tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

import anyio_uring
from rows import Material, Row

clock = time.perf_counter
T = TypeVar("T")


def shares(total: int, parts: int) -> list[int]:
    """How many operations each task does, or each file gets."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def runs(items: list[T], parts: int) -> list[list[T]]:
    """What each task does: some in a row, since `sync` does all in a row, and files that were made
    one after the other are found faster one after the other.
    """
    ends = list(accumulate(shares(len(items), min(parts, len(items)))))
    return [items[start:end] for start, end in pairwise([0, *ends])]


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
