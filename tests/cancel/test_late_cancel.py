"""A native cancel that comes between the completion of a read and the turn of its task.

The bytes have no taker then.  At an explicit offset nothing has moved; what was taken from the
kernel's own position (a stream, a shared file) is given back.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.state import until

import anyio_uring
from anyio_uring import _hop, _host, _host_asyncio, statistics
from anyio_uring.testing import force_tiers


@pytest.fixture(params=["ring", "thread"])
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cancel_late(tier: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[None]]:
    """Run something in a task that is cancelled right behind its completion."""
    if tier == "ring" and not anyio_uring.driver_info().features:
        pytest.skip("needs io_uring")
    victims: list[asyncio.Task[Any]] = []
    spared: list[int] = []
    meanwhile: list[Callable[[], object]] = []

    def victim() -> list[asyncio.Task[Any]]:
        """Whose operation is through just now, if it is to be cancelled."""
        if not victims or (spared and spared.pop()):
            return []
        meanwhile.pop()()
        return [victims.pop()]

    def awake(host: Any, unit: Any) -> None:
        original_awake(host, unit)
        if not isinstance(unit, _host._InThread):
            for task in victim():
                task.cancel()

    def then_cancel(method: Callable[..., None]) -> Callable[..., None]:
        def in_thread(hop: Any, *args: Any) -> None:
            method(hop, *args)
            for task in victim():
                task.get_loop().call_soon_threadsafe(task.cancel)

        return in_thread

    original_awake = _host_asyncio.AsyncioHost.awake
    monkeypatch.setattr(_host_asyncio.AsyncioHost, "awake", awake)
    monkeypatch.setattr(_hop.Act, "__call__", then_cancel(_hop.Act.__call__))
    monkeypatch.setattr(_hop.Fetch, "_finish", then_cancel(_hop.Fetch._finish))

    async def run(
        function: Callable[[], Awaitable[Any]],
        data_comes: Callable[[], Any] = bool,
        *,
        parts: int = 1,
        and_then: Callable[[], object] = bool,
    ) -> None:
        """`parts`: cancel behind this one; `and_then`: called between its completion and that."""

        async def body() -> None:
            await function()

        task = asyncio.ensure_future(body())
        spared[:] = [1] * (parts - 1)
        meanwhile[:] = [and_then]
        victims.append(task)
        await asyncio.sleep(0)  # it begins, and waits
        coming = data_comes()
        if inspect.isawaitable(coming):
            await coming
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not victims

    return run


@asynccontextmanager
async def company() -> AsyncIterator[None]:
    """An operation that is alone may complete while it is submitted: have another one wait."""
    reader, writer = os.pipe()
    async with await anyio_uring.open_file(reader, "rb", 0) as pipe:
        other = asyncio.ensure_future(pipe.read(1))
        await asyncio.sleep(0)
        yield
        assert not other.done()
        os.write(writer, b"x")
        assert await other == b"x"
    os.close(writer)


def test_read_of_file_cancelled_behind_its_completion_has_not_moved(
    tier: str, cancel_late: Any, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with company(), await anyio_uring.open_file(path, "rb", 0) as file:
            assert await file.read(2) == b"01"
            await cancel_late(lambda: file.read(4))
            assert await file.tell() == 2
            file.fileno()  # from now on at the kernel's own position
            await cancel_late(lambda: file.read(4))
            await cancel_late(lambda: file.readinto(bytearray(3)))
            assert await file.tell() == 2
            await cancel_late(file.readall)
            assert await file.readall() == b"23456789"

    with force_tiers(tier):
        asyncio.run(main())


def test_file_whose_offset_somebody_else_has_moved_goes_on(
    tier: str, cancel_late: Any, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    async def main() -> None:
        async with company(), await anyio_uring.open_file(path, "rb", 0) as file:
            fd = file.fileno()
            await cancel_late(lambda: file.read(4), and_then=lambda: os.lseek(fd, 0, os.SEEK_SET))
            async with asyncio.timeout(10):
                assert await file.read(2) == b"01"

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


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("method", ["readall", "readline"])
def test_read_of_pipe_cancelled_behind_its_second_part_keeps_the_order(
    tier: str, cancel_late: Any, method: str, buffering: int
) -> None:
    async def main() -> None:
        reader, writer = os.pipe()

        async def two_parts() -> None:
            await until(lambda: file._handle.inflight == 1)
            before = statistics().ring
            os.write(writer, b"0")
            await until(lambda: not _unread(reader))
            # (on the ring nobody waits for what is there when he comes)
            await until(lambda: tier != "ring" or statistics().ring > before)
            os.write(writer, b"1")

        async with await anyio_uring.open_file(reader, "rb", buffering) as file:
            await cancel_late(getattr(file, method), two_parts, parts=2)
            os.write(writer, b"2\n")
            os.close(writer)
            assert await file.read() == b"012\n"

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
