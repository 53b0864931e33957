"""asyncio's own cancellation, alone and together with AnyIO's scopes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.state import descriptors, fifo_writer, nothing_in_flight, until

import anyio_uring
from anyio_uring import AsyncFile

pytestmark = [pytest.mark.anyio, pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop")]


@asynccontextmanager
async def fifo(tmp_path: Path) -> AsyncIterator[tuple[AsyncFile[bytes], int]]:
    """A FIFO that says nothing; afterwards a read of it still gets what is written."""
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:
            yield file, fd
            await nothing_in_flight()
            os.write(fd, b"afterwards")
            assert await file.read(100) == b"afterwards"


async def test_task_cancel_ends_a_read(tiers: Tiers, tmp_path: Path) -> None:
    async with fifo(tmp_path) as (file, _):
        task = asyncio.ensure_future(file.read(10))
        await until(lambda: file._handle.inflight == 1)
        task.cancel("native")
        with pytest.raises(asyncio.CancelledError, match="native"):
            await task
        assert task.cancelled()
        assert task.cancelling() == 1


async def test_task_cancel_leaves_no_descriptor(tiers: Tiers, tmp_path: Path) -> None:
    async with fifo(tmp_path) as (file, _):
        for number in range(20):
            task = asyncio.ensure_future(file.read(10))
            await until(lambda: file._handle.inflight == 1)
            task.cancel()
            await asyncio.wait([task])
            await nothing_in_flight()
            if number == 0:
                before = descriptors()  # with a ring, which stays
        assert descriptors() == before


@pytest.mark.parametrize("seconds", [0, -1, 0.005])
async def test_asyncio_timeout_ends_a_read(tiers: Tiers, tmp_path: Path, seconds: float) -> None:
    async with fifo(tmp_path) as (file, _):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await file.read(10)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(file.read(10), seconds)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_asyncio_task_group_error_ends_a_read(tiers: Tiers, tmp_path: Path) -> None:
    async with fifo(tmp_path) as (file, _):

        async def fail() -> None:
            await until(lambda: file._handle.inflight == 1)
            raise RuntimeError("sibling")

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(file.read(10))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await both()
        assert [str(error) for error in caught.value.exceptions] == ["sibling"]


@pytest.mark.parametrize("native_first", [False, True])
@pytest.mark.parametrize("between", [0, 1, 2, 3])
async def test_native_and_scope_cancel_together_lose_neither(
    tiers: Tiers, tmp_path: Path, native_first: bool, between: int
) -> None:
    async with fifo(tmp_path) as (file, _):
        scope = anyio.CancelScope()
        after: list[str] = []

        async def read() -> None:
            with scope:
                await file.read(10)
            after.append("behind the scope")
            await asyncio.sleep(0)
            after.append("a turn later")

        task = asyncio.ensure_future(read())
        await until(lambda: file._handle.inflight == 1)
        for call in [task.cancel, scope.cancel] if native_first else [scope.cancel, task.cancel]:
            call()
            for _ in range(between):
                await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        # Either the task was cancelled, or it had left the scope before the native one came
        if between == 0 or native_first:
            assert after == []
            assert task.cancelled()
        else:
            assert "a turn later" not in after or not task.cancelled()
        if task.cancelled():
            assert task.cancelling() == 1


async def test_scope_cancel_leaves_no_cancellation_request_behind(
    tiers: Tiers, tmp_path: Path
) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with fifo(tmp_path) as (file, fd):
        for _ in range(5):
            with anyio.move_on_after(0.001) as scope:
                await file.read(10)
            assert scope.cancelled_caught
            assert task.cancelling() == 0
        # A result that came in spite of the cancellation
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            asyncio.get_running_loop().call_soon(os.write, fd, b"x")
            await file.read(10)
        if scope.cancelled_caught:
            assert await file.read(10) == b"x"
        assert task.cancelling() == 0
        await asyncio.sleep(0)


async def test_cancel_that_is_taken_back_lets_the_task_go_on(tiers: Tiers, tmp_path: Path) -> None:
    async with fifo(tmp_path) as (file, fd):

        async def stubborn() -> bytes:
            task = asyncio.current_task()
            assert task is not None
            try:
                return await file.read(10)
            except asyncio.CancelledError:
                assert task.uncancel() == 0
            return b"again: " + await file.read(10)

        task = asyncio.ensure_future(stubborn())
        await until(lambda: file._handle.inflight == 1)
        task.cancel()
        await asyncio.sleep(0)
        await until(lambda: file._handle.inflight == 1)
        await nothing_or_one(file)
        os.write(fd, b"data")
        assert await task == b"again: data"


@pytest.mark.parametrize("buffering", [0, -1])
async def test_seek_left_in_its_thread_keeps_the_turn(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffering: int
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    begun, go_on = threading.Event(), threading.Event()
    lseek = os.lseek

    def late(fd: int, offset: int, whence: int) -> int:
        if whence == os.SEEK_END:
            begun.set()
            assert go_on.wait(10)
        return lseek(fd, offset, whence)

    async with await anyio_uring.open_file(tmp_path / "file", "rb", buffering) as file:
        file.fileno()
        assert await file.read(1) == b"0"
        monkeypatch.setattr(os, "lseek", late)
        task = asyncio.ensure_future(file.seek(-2, os.SEEK_END))
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reading = asyncio.ensure_future(file.read(5))
        await until(lambda: reading.done() or len(file._line._places or ()) == 1)
        go_on.set()
        assert await reading == b"89"


@pytest.mark.tiers("thread")
@pytest.mark.hosts("asyncio", "asyncio-debug")  # libuv aborts
async def test_wait_for_a_descriptor_that_its_owner_has_closed_can_be_cancelled(
    tiers: Tiers,
) -> None:
    reader, writer = os.pipe()
    file = await anyio_uring.open_file(reader, "rb", 0, closefd=False)
    task = asyncio.ensure_future(file.read(1))
    await until(lambda: file._handle.inflight == 1)
    os.close(reader)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert file._handle.inflight == 0
    await file.aclose()
    os.close(writer)


async def timed_out(file: AsyncFile[Any]) -> None:
    with anyio.move_on_after(0):
        await file.read(10)


async def nothing_or_one(file: AsyncFile[Any]) -> None:
    """Until the read that was left has come back, and the next one waits instead."""
    for _ in range(20):
        await asyncio.sleep(0)
    await until(lambda: file._handle.inflight == 1)


async def test_timeout_inside_a_scope_and_a_scope_inside_a_timeout(
    tiers: Tiers, tmp_path: Path
) -> None:
    async with fifo(tmp_path) as (file, _):
        with anyio.move_on_after(5) as scope:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await file.read(10)
        assert not scope.cancelled_caught
        async with asyncio.timeout(5):
            with anyio.move_on_after(0.005) as scope:
                await file.read(10)
            assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):  # both at once: the native one is not lost
                await timed_out(file)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.hosts("asyncio", "asyncio-debug")  # uvloop 0.23 gives the factory an unknown argument
async def test_eager_tasks_read_and_are_cancelled(tiers: Tiers, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    factory: Any = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]
    async with fifo(tmp_path) as (file, fd):
        loop.set_task_factory(factory)
        try:
            task = asyncio.ensure_future(file.read(10))
            await until(lambda: file._handle.inflight == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await nothing_in_flight()
            async with anyio.create_task_group() as group:
                group.start_soon(file.read, 10)
                await until(lambda: file._handle.inflight == 1)
                group.cancel_scope.cancel()
            await nothing_in_flight()
            task = asyncio.ensure_future(file.read(10))
            await until(lambda: file._handle.inflight == 1)
            os.write(fd, b"eager")
            assert await task == b"eager"
            (tmp_path / "cached").write_bytes(b"cached")

            async def whole() -> bytes:
                async with await anyio_uring.open_file(tmp_path / "cached", "rb", 0) as cached:
                    return await cached.read()

            assert await asyncio.gather(*(whole() for _ in range(10))) == [b"cached"] * 10
        finally:
            loop.set_task_factory(None)
