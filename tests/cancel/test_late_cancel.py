"""A native cancel that comes between the completion of a read and the turn of its task.

The bytes have no taker then.  At an explicit offset nothing has moved; what was taken from the
kernel's own position (a stream, a shared file) is given back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import anyio_uring
from anyio_uring import _hop, _host_asyncio
from anyio_uring.testing import force_tiers


@pytest.fixture(params=["ring", "thread"])
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cancel_late(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]:
    """Run something in a task that is cancelled right behind its completion."""
    if tier == "ring" and not anyio_uring.driver_info().features:
        pytest.skip("needs io_uring")
    victims: list[asyncio.Task[Any]] = []

    def awake(host: Any, unit: Any) -> None:
        original_awake(host, unit)
        if victims:
            victims.pop().cancel()

    def finish(hop: Any, result: Any) -> None:
        original_finish(hop, result)
        if victims:
            victim = victims.pop()
            victim.get_loop().call_soon_threadsafe(victim.cancel)

    def read(hop: Any) -> None:
        original_read(hop)
        if victims:
            victim = victims.pop()
            victim.get_loop().call_soon_threadsafe(victim.cancel)

    original_read = _hop.Act.__call__
    monkeypatch.setattr(_hop.Act, "__call__", read)
    original_awake = _host_asyncio.AsyncioHost.awake
    original_finish = _hop.Fetch._finish
    monkeypatch.setattr(_host_asyncio.AsyncioHost, "awake", awake)
    monkeypatch.setattr(_hop.Fetch, "_finish", finish)

    async def run(
        function: Callable[[], Awaitable[Any]], data_comes: Callable[[], object] = bool
    ) -> None:
        async def body() -> None:
            await function()

        task = asyncio.ensure_future(body())
        victims.append(task)
        await asyncio.sleep(0)  # it begins, and waits
        data_comes()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not victims

    return run


def test_read_of_file_cancelled_behind_its_completion_has_not_moved(
    tier: str, cancel_late: Any, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        # An operation that is alone may complete while it is submitted: have another one wait.
        reader, writer = os.pipe()
        async with (
            await anyio_uring.open_file(reader, "rb", 0) as pipe,
            await anyio_uring.open_file(path, "rb", 0) as file,
        ):
            other = asyncio.ensure_future(pipe.read(1))
            await asyncio.sleep(0)
            assert await file.read(2) == b"01"
            await cancel_late(lambda: file.read(4))
            assert await file.tell() == 2
            file.fileno()  # from now on at the kernel's own position
            await cancel_late(lambda: file.read(4))
            await cancel_late(lambda: file.readinto(bytearray(3)))
            assert await file.tell() == 2
            await cancel_late(file.readall)
            assert await file.readall() == b"23456789"
            assert not other.done()
            os.write(writer, b"x")
            assert await other == b"x"
        os.close(writer)

    with force_tiers(tier):
        asyncio.run(main())


def test_read_of_pipe_cancelled_behind_its_completion_loses_no_byte(
    tier: str, cancel_late: Any
) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        async with await anyio_uring.open_file(reader, "rb", 0) as file:
            await cancel_late(lambda: file.read(4), lambda: os.write(writer, b"0123456789"))
            assert await file.read(1) == b"0"
            buffer = bytearray(2)
            assert await file.readinto(buffer) == 2
            assert buffer == b"12"
            os.close(writer)
            assert await file.readall() == b"3456789"
            assert await file.read(1) == b""

    with force_tiers(tier):
        asyncio.run(main())


def test_readall_of_pipe_cancelled_in_the_middle_loses_no_byte(tier: str) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        async with await anyio_uring.open_file(reader, "rb", 0) as file:
            os.write(writer, b"0123456789")
            task = asyncio.ensure_future(file.readall())
            while _unread(reader):  # the kernel sets no event
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            os.write(writer, b"ab")
            os.close(writer)
            assert await file.readall() == b"0123456789ab"

    with force_tiers(tier):
        asyncio.run(main())


def _unread(fd: int) -> int:
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
