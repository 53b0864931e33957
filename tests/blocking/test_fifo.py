"""The open of a FIFO waits for its other end: it holds nobody up, and fakes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.ticker import Ticker

from anyio_uring import open_file, statistics

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs need POSIX"),
]

TICKS_ENOUGH = 10


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def try_to_write(fifo: Path) -> int | None:
    """A writer's descriptor, if somebody has the FIFO open for reading or waits to have it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


async def writer_for(fifo: Path) -> int:
    while (fd := try_to_write(fifo)) is None:
        await anyio.sleep(0.001)
    return fd


async def reader_gone_from(fifo: Path) -> None:
    """Wait until no reader waits any more, without being one that it could meet."""
    while (fd := try_to_write(fifo)) is not None:
        os.close(fd)
        await anyio.sleep(0.001)


async def tick(ticker: Ticker) -> None:
    enough = ticker.ticks + TICKS_ENOUGH
    while ticker.ticks < enough:
        await anyio.sleep(0.001)


async def test_reader_waits_alone_for_a_writer(tiers: Tiers, fifo: Path) -> None:
    opened = anyio.Event()
    seen: list[bytes] = []

    async def read() -> None:
        async with await open_file(fifo, "rb", 0) as file:
            opened.set()
            while data := await file.read(100):
                seen.append(data)
            seen.append(data)

    async with Ticker() as ticker, anyio.create_task_group() as group:
        group.start_soon(read)
        await tick(ticker)
        # Neither opened nor at a false end of file
        assert not opened.is_set()
        fd = await writer_for(fifo)
        try:
            await opened.wait()
            await tick(ticker)
            assert seen == []
            os.write(fd, b"late")
            while not seen:
                await anyio.sleep(0.001)
        finally:
            os.close(fd)
    assert b"".join(seen) == b"late"
    assert seen[-1] == b""
    assert statistics().now_opened == 0


async def test_writer_waits_alone_for_a_reader(tiers: Tiers, fifo: Path) -> None:
    opened = anyio.Event()

    async def write() -> None:
        async with await open_file(fifo, "wb", 0) as file:
            opened.set()
            assert await file.write(b"hello") == 5

    async with Ticker() as ticker, anyio.create_task_group() as group:
        group.start_soon(write)
        await tick(ticker)
        assert not opened.is_set()
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with anyio.fail_after(10):
                await opened.wait()
                data = b""
                while data != b"hello":
                    try:
                        data += os.read(fd, 100)
                    except BlockingIOError:
                        await anyio.sleep(0.001)
        finally:
            os.close(fd)


async def test_cancelled_open_steals_no_writer(tiers: Tiers, fifo: Path) -> None:
    if not tiers.ring:
        pytest.skip("a thread that waits in open(2) cannot be called back: io_uring is needed")
    for _ in range(5):
        with anyio.move_on_after(0.01) as scope:
            await open_file(fifo, "rb", 0)
        assert scope.cancelled_caught
        with anyio.fail_after(10):
            await reader_gone_from(fifo)
    # A writer that comes now meets the reader that comes after it
    received: list[bytes] = []

    async def write() -> None:
        async with await open_file(fifo, "wb", 0) as file:
            await file.write(b"for the living")

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await anyio.sleep(0.005)
        async with await open_file(fifo, "rb", 0) as file:
            received.append(await file.read(100))
    assert received == [b"for the living"]
    assert statistics().inflight == 0


async def test_both_ends_in_one_loop_meet(tiers: Tiers, fifo: Path) -> None:
    received: list[bytes] = []

    async def write() -> None:
        async with await open_file(fifo, "wb", 0) as file:
            assert await file.write(b"x" * 100_000) == 100_000
            assert os.get_blocking(file.fileno())

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        async with await open_file(fifo, "rb", 0) as file:
            while data := await file.read(1 << 16):
                received.append(data)
    assert b"".join(received) == b"x" * 100_000
