"""What limits the rows of paths: the calls that are certain not to wait, without any task; and
tasks that wait for others to have made them.

``python benchmarks/floor.py [DIR]``; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import anyio

import anyio_uring
import places
from anyio_uring._buffer import buffered_read_now
from anyio_uring._handle import close_quick, open_quick, read_path_now, stat_now
from anyio_uring._open import READING, new_file
from anyio_uring._runtime import current_runtime
from participant import HOSTS
from rows import FULL, QUICK, Material
from work import runs, timed

if TYPE_CHECKING:
    from typing import Self

KEYS = ("sync", "calls", "task")
TASKS = 128
OTHERS = 64  # descriptors that are not of the files
clock = time.perf_counter
Loop = Callable[[list[Any]], None]


def sync_read(names: list[str]) -> None:
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        os.read(fd, 1 << 16)
        os.close(fd)


def sync_open(names: list[str]) -> None:
    for name in names:
        with open(name, "rb") as file:
            file.read()


def sync_stat(names: list[str]) -> None:
    for name in names:
        os.stat(name)


def at_once(meter: Any) -> dict[str, tuple[Loop, Loop]]:
    """For each row what Python does, and the calls of the compiled core that ours is made of."""

    def read(names: list[bytes]) -> None:
        for name in names:
            assert isinstance(read_path_now(name, meter), bytes)

    def open_(names: list[bytes]) -> None:
        for name in names:
            meter.refill()
            path = os.fsdecode(name)
            handle = open_quick(path, os.O_RDONLY, 0, meter)
            assert handle is not None
            file = new_file(handle, path, READING, None, -1)
            assert buffered_read_now(file, -1) is not None
            assert close_quick(file)

    def stat(names: list[bytes]) -> None:
        for name in names:
            assert isinstance(stat_now(name, True, meter), os.stat_result)

    return {
        "read_bytes": (sync_read, read),
        "open + read + close": (sync_open, open_),
        "stat": (sync_stat, stat),
    }


async def one_task(title: str, paths: list[anyio_uring.Path]) -> None:
    """The same by the public way, in one task that waits for nothing."""
    if title == "open + read + close":
        for path in paths:
            async with await anyio_uring.open_file(path, "rb") as file:
                await file.read()
    elif title == "stat":
        for path in paths:
            await path.stat()
    else:
        for path in paths:
            await path.read_bytes()


async def measure(small: list[Path], rounds: int) -> None:
    names, paths = [str(path) for path in small], [anyio_uring.Path(path) for path in small]
    encoded = [os.fsencode(name) for name in names]
    print(f"{'':20} {'sync':>8} {'the calls':>10} {'one task':>9}   us; share of sync's rate")
    for title, (sync, ours) in at_once(current_runtime().meter).items():
        took: dict[str, list[float]] = {key: [] for key in KEYS}
        for number in range(rounds):
            for key in KEYS[number % 3 :] + KEYS[: number % 3]:
                start = clock()
                if key == "sync":
                    sync(names)
                elif key == "calls":
                    ours(encoded)
                else:
                    await one_task(title, paths)
                took[key].append(clock() - start)
        each = {key: median(seconds) / len(names) * 1e6 for key, seconds in took.items()}
        shares = {
            key: median(mine / other for mine, other in zip(took["sync"], took[key], strict=True))
            for key in KEYS[1:]
        }
        print(
            f"{title:20} {each['sync']:8.2f} {each['calls']:10.2f} {each['task']:9.2f}"
            f"   {shares['calls']:.2f}, {shares['task']:.2f}"
        )


# -- tasks that wait once for each file ------------------------------------------------------------

Turn = Callable[[], Awaitable[None]]


@types.coroutine
def asyncio_turn() -> Iterator[None]:
    """A turn of the loop: no task of asyncio's can wait for less."""
    yield


class Bare:
    """A file that has been opened already, and does nothing but what it is for."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        os.close(self.fd)

    async def read(self) -> bytes:
        return os.read(self.fd, 4096)


async def bare_open(turn: Turn, names: list[str]) -> float:
    async def opened(fd: int) -> Bare:
        await turn()
        return Bare(fd)

    async def worker(mine: list[int]) -> None:
        for fd in mine:
            async with await opened(fd) as file:
                await file.read()

    # (all at once: parts would need tasks each, whose ends would be a third of what is measured)
    fds = [os.open(name, os.O_RDONLY) for name in names]
    return await timed([partial(worker, mine) for mine in runs(fds, TASKS)])


async def bare_answer(turn: Turn, names: list[str]) -> float:
    """What has been asked for is there."""

    async def answer(name: str) -> str:
        await turn()
        return name

    async def worker(mine: list[str]) -> None:
        for name in mine:
            await answer(name)

    return await timed([partial(worker, mine) for mine in runs(names, TASKS)])


BARE = {
    "read_bytes": (sync_read, bare_answer),
    "open + read + close": (sync_open, bare_open),
    "stat": (sync_stat, bare_answer),
}


def may_open(count: int) -> int:
    """How many of so many files can be open at a time; the limit is raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHERS if hard == resource.RLIM_INFINITY else min(count + OTHERS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return wanted - OTHERS


async def measure_bare(host: str, small: list[Path], rounds: int) -> None:
    turn: Turn = asyncio_turn
    if host == "trio":
        import trio

        turn = trio.lowlevel.cancel_shielded_checkpoint
    names = [str(path) for path in small]
    for title, (sync, bare) in BARE.items():
        each, shares = [], []
        for _ in range(rounds):
            start = clock()
            sync(names)
            other = clock() - start
            each.append(await bare(turn, names))
            shares.append(other / each[-1])
        took = median(each) / len(names) * 1e6
        print(f"{host:10} {title:20} {took:8.2f}   {median(shares):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="whether it runs, not how fast")
    arguments = parser.parse_args()
    with places.folder_in(arguments.directory) as folder:
        material = Material(folder, QUICK if arguments.quick else FULL)
        material.write_small()
        info = anyio_uring.driver_info(folder)
        small = material.small[: may_open(len(material.small))]
        print(f"{info.file_system}, {len(small)} small files, {arguments.rounds} rounds")
        anyio.run(measure, small, arguments.rounds)
        print(f"\n{TASKS} tasks, each file waited for once, all else for nothing: us, share")
        for host, options in HOSTS.items():
            if host != "asyncio" and not importlib.util.find_spec(host):
                continue
            anyio.run(measure_bare, host, small, arguments.rounds, **options)


if __name__ == "__main__":
    main()
