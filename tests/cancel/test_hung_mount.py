"""A mount that does not answer: what has no effect is left behind, what has one is finished."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.cancel.conftest import CONTENT
from tests.conftest import Tiers
from tests.support.fuse import FuseMount
from tests.support.state import descriptors, nothing_in_flight, until

import anyio_uring
from anyio_uring import AsyncFile, statistics

pytestmark = pytest.mark.anyio

ring_only = pytest.mark.tiers("auto", "ring")
asyncio_only = pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop")


@asynccontextmanager
async def stalled(
    mount: FuseMount, opcode: str, call: Callable[[], Awaitable[Any]], outcome: list[Any]
) -> AsyncIterator[anyio.CancelScope]:
    """Run `call` in a scope that is given once its request hangs in the server; the block is left
    when the call has ended.  `outcome` gets its result, or nothing if it was cancelled.
    """
    seen = mount.seen(opcode)
    mount.stall(opcode)
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            outcome.append(await call())

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await to_thread.run_sync(mount.wait_for, opcode, seen + 1)
        yield scope


async def leave(
    mount: FuseMount, opcode: str, call: Callable[[], Awaitable[Any]], count: int = 1
) -> None:
    """Cancel `call` while its request hangs: it leaves, and its operations stay behind."""
    before = statistics()
    outcome: list[Any] = []
    start = time.monotonic()
    async with stalled(mount, opcode, call, outcome) as scope:
        start = time.monotonic()
        scope.cancel()
    assert time.monotonic() - start < 1.0
    assert scope.cancelled_caught
    assert outcome == []
    after = statistics()
    assert after.abandoned == before.abandoned + 1
    assert after.inflight == count
    assert mount.held(opcode) >= 1


async def close_soon(file: AsyncFile[Any]) -> None:
    """Close a file that operations left behind still use: it does not wait for them."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await file.aclose()
    assert file.closed


@ring_only
async def test_hung_read_is_left_behind_with_its_buffer(tiers: Tiers, mount: FuseMount) -> None:
    file = await anyio_uring.open_file(mount.path / "file", "rb", 0)
    fd = file._handle.fd
    await leave(mount, "READ", lambda: file.read(100))
    # The position has not moved, and nobody else stands in line behind the one that left
    assert await file.tell() == 0
    await close_soon(file)
    # The kernel still uses it
    assert fd in descriptors()
    mount.release()
    await nothing_in_flight()
    assert fd not in descriptors()


@ring_only
async def test_hung_readinto_leaves_the_callers_buffer_alone(
    tiers: Tiers, mount: FuseMount
) -> None:
    buffer = bytearray(100)
    async with await anyio_uring.open_file(mount.path / "file", "rb", 0) as file:
        for call in (partial(file.readinto, buffer), partial(file.preadinto, buffer, 7)):
            await leave(mount, "READ", call)
            buffer += b"x"  # BufferError if it were still exported
            buffer[:] = bytes(100)
            mount.release()
            await nothing_in_flight()
            assert buffer == bytes(100)
        assert await file.tell() == 0
        assert await file.readinto(buffer) == 100
        assert buffer == CONTENT[:100]


@ring_only
async def test_hung_size_is_left_behind(tiers: Tiers, mount: FuseMount) -> None:
    async with await anyio_uring.open_file(mount.path / "file", "rb", 0) as file:
        await leave(mount, "GETATTR", lambda: file.seek(0, os.SEEK_END))
        mount.release()
        await nothing_in_flight()
        assert await file.tell() == 0
        assert await file.seek(0, os.SEEK_END) == len(CONTENT)


@ring_only
async def test_hung_open_is_left_behind_and_closed_when_it_arrives(
    tiers: Tiers, mount: FuseMount
) -> None:
    async with await anyio_uring.open_file(mount.path / "file", "rb", 0):
        pass  # the ring and its descriptors are there
    before, releases = descriptors(), mount.seen("RELEASE")
    await leave(mount, "OPEN", lambda: anyio_uring.open_file(mount.path / "file", "rb", 0))
    assert descriptors() == before
    mount.release()
    await nothing_in_flight()
    assert statistics().orphans == 1
    await to_thread.run_sync(mount.wait_for, "RELEASE", releases + 1)
    assert descriptors() == before


@ring_only
async def test_hung_big_read_is_left_behind_in_pieces(tiers: Tiers) -> None:
    size = 3 << 20
    with FuseMount({"big": bytes(size)}, direct_io=True) as mount:
        file = await anyio_uring.open_file(mount.path / "big", "rb", 0)
        outcome: list[Any] = []
        async with stalled(mount, "READ", lambda: file.read(size), outcome) as scope:
            scope.cancel()
        assert outcome == []
        assert statistics().abandoned == 1
        assert 1 <= statistics().inflight <= 4
        assert await file.tell() == 0
        mount.release()
        await nothing_in_flight()
        assert await file.read(size) == bytes(size)
        await file.aclose()


@ring_only
async def test_read_of_a_shared_file_keeps_its_place_until_it_has_come_back(
    tiers: Tiers, mount: FuseMount
) -> None:
    # It moves the kernel's own offset whenever it ends: the next one must not overtake it.
    async with await anyio_uring.open_file(mount.path / "file", "rb", 0) as file:
        file.fileno()
        await leave(mount, "READ", lambda: file.read(100))
        got: list[bytes] = []

        async def read() -> None:
            got.append(await file.read(10))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: len(file._line._places or ()) == 1)
            assert statistics().inflight == 1
            mount.release()
        position = await file.tell()
        assert got == [CONTENT[position - 10 : position]]


async def test_write_in_flight_is_finished_whatever_a_scope_says(
    tiers: Tiers, mount: FuseMount
) -> None:
    async with await anyio_uring.open_file(mount.path / "file", "r+b", 0) as file:
        outcome: list[Any] = []
        async with stalled(mount, "WRITE", lambda: file.write(b"new content"), outcome) as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
            assert outcome == []
            mount.release()
        # AnyIO's rule: a result that is there is delivered
        assert outcome == [11]
        assert not scope.cancelled_caught
        assert mount.content("file")[:12] == b"new content" + CONTENT[11:12]
        assert await file.tell() == 11
        assert statistics().abandoned == 0
        await file.pwrite(CONTENT[:11], 0)


@asyncio_only
async def test_write_left_by_a_native_cancel_is_finished(tiers: Tiers, mount: FuseMount) -> None:
    file = await anyio_uring.open_file(mount.path / "file", "r+b", 0)
    fd = file._handle.fd
    seen = mount.seen("WRITE")
    mount.stall("WRITE")
    task = asyncio.ensure_future(file.write(b"new content"))
    await to_thread.run_sync(mount.wait_for, "WRITE", seen + 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1
    # It still owns the position: whoever writes next comes behind it
    behind = asyncio.ensure_future(file.write(b"!"))
    await until(lambda: len(file._line._places or ()) == 1)
    mount.release()
    assert await behind == 1
    assert mount.content("file")[:13] == b"new content!" + CONTENT[12:13]
    assert await file.tell() == 12
    await file.pwrite(CONTENT[:12], 0)
    await file.aclose()
    assert fd not in descriptors()


@asyncio_only
async def test_native_cancel_while_a_scope_waits_for_the_write_leaves_at_once(
    tiers: Tiers, mount: FuseMount
) -> None:
    async with await anyio_uring.open_file(mount.path / "file", "r+b", 0) as file:
        seen = mount.seen("WRITE")
        mount.stall("WRITE")
        scope = anyio.CancelScope()

        async def write() -> None:
            with scope:
                await file.pwrite(b"new", 0)

        task = asyncio.ensure_future(write())
        await to_thread.run_sync(mount.wait_for, "WRITE", seen + 1)
        scope.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        mount.release()
        await until(lambda: mount.content("file")[:3] == b"new")
        await nothing_in_flight()
        await file.pwrite(CONTENT[:3], 0)


async def test_cancelled_write_that_waits_leaves_the_processor_alone(
    tiers: Tiers, mount: FuseMount
) -> None:
    # AnyIO repeats a cancellation in every turn until the task reacts
    async with await anyio_uring.open_file(mount.path / "file", "r+b", 0) as file:
        outcome: list[Any] = []
        mount.delay(WRITE=0.4)
        seen = mount.seen("WRITE")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def write() -> None:
                    outcome.append(await file.pwrite(CONTENT[:10], 0))

                group.start_soon(write)
                await to_thread.run_sync(mount.wait_for, "WRITE", seen + 1)
                used = time.process_time()
                scope.cancel()
        used = time.process_time() - used
        assert outcome == [10]
        assert used < 0.15


async def test_creating_open_in_flight_is_finished(tiers: Tiers, mount: FuseMount) -> None:
    outcome: list[Any] = []
    name = "new"
    async with stalled(
        mount, "CREATE", lambda: anyio_uring.open_file(mount.path / name, "xb", 0), outcome
    ) as scope:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        assert outcome == []
        mount.release()
    assert len(outcome) == 1
    await outcome[0].write(b"x")
    await outcome[0].aclose()
    assert mount.content(name) == b"x"
    (mount.path / name).unlink()


@pytest.mark.parametrize("method", ["fsync", "fdatasync", "truncate"])
async def test_sync_and_truncate_in_flight_are_finished(
    tiers: Tiers, mount: FuseMount, method: str
) -> None:
    calls: dict[str, tuple[str, Callable[[AsyncFile[bytes]], Awaitable[Any]]]] = {
        "fsync": ("FSYNC", lambda file: file.fsync()),
        "fdatasync": ("FSYNC", lambda file: file.fdatasync()),
        "truncate": ("SETATTR", lambda file: file.truncate(len(CONTENT))),
    }
    opcode, call = calls[method]
    async with await anyio_uring.open_file(mount.path / "file", "r+b", 0) as file:
        await file.pwrite(CONTENT[:1], 0)
        outcome: list[Any] = []
        async with stalled(mount, opcode, lambda: call(file), outcome) as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
            assert outcome == []
            mount.release()
        assert len(outcome) == 1
        assert statistics().abandoned == 0


@ring_only
@asyncio_only  # Trio raises what it has begun to deliver
@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_shield_raised_while_the_grace_runs_keeps_the_task(
    tiers: Tiers, mount: FuseMount, turns: int
) -> None:
    # A scope may be shielded at any time: then there is nothing to raise, and the read goes on.
    outcome: list[Any] = []
    inner = anyio.CancelScope()
    async with await anyio_uring.open_file(mount.path / "file", "rb", 0) as file:

        async def read() -> bytes:
            with inner:
                return await file.read(10)
            raise AssertionError("cancelled by a scope that is shielded")

        with anyio.CancelScope() as outer:
            async with stalled(mount, "READ", read, outcome):
                outer.cancel()
                with anyio.CancelScope(shield=True):
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    inner.shield = True
                    end = anyio.current_time() + 5 * anyio_uring.current_settings().cancel_grace
                    await until(lambda: anyio.current_time() > end)
                    assert outcome == []
                    mount.release()
                    await until(lambda: bool(outcome))
    assert outcome == [CONTENT[:10]]
