"""What a process holds: descriptors, threads; and waiting for a condition without sleeping."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from anyio_uring import statistics


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed the directory
    return found


def python_threads() -> set[threading.Thread]:
    """Those that could be ours: AnyIO's test runner waits for a Trio guest's I/O in another."""
    return {each for each in threading.enumerate() if not each.name.startswith("Trio thread")}


def join_all(threads: Iterable[threading.Thread], seconds: float = 10) -> None:
    """See that threads end."""
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Let the loop turn until the condition holds."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def nothing_in_flight() -> None:
    """Wait until every operation of this run has come back from the kernel."""
    await until(lambda: statistics().inflight == statistics().queued == 0)


@contextmanager
def fifo_writer(path: Path) -> Iterator[int]:
    """A FIFO at `path`, held open at both ends, so that no reader meets an end of file."""
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def has_reader(path: Path) -> bool:
    """Whether somebody has a FIFO open for reading."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
