"""More operations than the ring has places: they wait in order, and can leave."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.state import fifo_writer, nothing_in_flight, until

import anyio_uring
from anyio_uring import configure, statistics

pytestmark = [pytest.mark.anyio, pytest.mark.tiers("ring")]


@pytest.fixture(autouse=True)
def two_places() -> Iterator[None]:
    before = anyio_uring.current_settings().inflight_max
    configure(inflight_max=2)
    yield
    configure(inflight_max=before)


async def test_fifty_operations_in_two_places_all_end(tiers: Tiers, tmp_path: Path) -> None:
    data = os.urandom(50 * 100)
    got: dict[int, bytes] = {}
    async with await anyio_uring.open_file(tmp_path / "file", "w+b", 0) as file:

        async def one(number: int) -> None:
            await file.pwrite(data[number * 100 :][:100], number * 100)
            got[number] = await file.pread(100, number * 100)
            assert statistics().inflight <= 2

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, number)
    assert b"".join(got[number] for number in range(50)) == data
    assert (tmp_path / "file").read_bytes() == data
    assert statistics().inflight == statistics().queued == 0
    assert statistics().overflows == 0


async def test_queued_operations_leave_when_cancelled(tiers: Tiers, tmp_path: Path) -> None:
    # Two reads that nobody answers take both places; what waits behind them has had no effect.
    with fifo_writer(tmp_path / "a") as first, fifo_writer(tmp_path / "b") as second:
        async with (
            await anyio_uring.open_file(tmp_path / "a", "rb", 0) as a,
            await anyio_uring.open_file(tmp_path / "b", "rb", 0) as b,
            await anyio_uring.open_file(tmp_path / "file", "w+b", 0) as file,
            anyio.create_task_group() as group,
        ):
            group.start_soon(a.read, 1)
            group.start_soon(b.read, 1)
            await until(lambda: statistics().inflight == 2)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as queued:
                    for number in range(20):
                        queued.start_soon(file.pread, 1, number)
                    await until(lambda: statistics().queued == 20)
                    scope.cancel()
            assert scope.cancelled_caught
            assert statistics().queued == 0
            os.write(first, b"x")
            os.write(second, b"x")
        assert statistics().abandoned == 0


async def test_queued_write_leaves_when_cancelled(tiers: Tiers, tmp_path: Path) -> None:
    # It has not been submitted: nothing has happened, and nothing will.
    with fifo_writer(tmp_path / "a") as first, fifo_writer(tmp_path / "b") as second:
        async with (
            await anyio_uring.open_file(tmp_path / "a", "rb", 0) as a,
            await anyio_uring.open_file(tmp_path / "b", "rb", 0) as b,
            await anyio_uring.open_file(tmp_path / "file", "w+b", 0) as file,
            anyio.create_task_group() as group,
        ):
            group.start_soon(a.read, 1)
            group.start_soon(b.read, 1)
            await until(lambda: statistics().inflight == 2)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as queued:
                    queued.start_soon(file.write, b"never")
                    await until(lambda: statistics().queued == 1)
                    scope.cancel()
            assert scope.cancelled_caught
            assert statistics().queued == 0
            os.write(first, b"x")
            os.write(second, b"x")
            await nothing_in_flight()
            assert await file.tell() == 0
            assert await file.write(b"this") == 4
    assert (tmp_path / "file").read_bytes() == b"this"


async def test_random_cancellation_in_two_places_loses_no_one(tiers: Tiers, tmp_path: Path) -> None:
    chance = random.Random(5)
    ended = 0
    async with await anyio_uring.open_file(tmp_path / "file", "w+b", 0) as file:

        async def one(scope: anyio.CancelScope) -> None:
            nonlocal ended
            try:
                with scope:
                    await file.pwrite(b"x" * 10, chance.randrange(1000))
                    await file.pread(10, 0)
                    await file.fsync()
            finally:
                ended += 1

        for _ in range(20):
            scopes = [anyio.CancelScope() for _ in range(50)]
            async with anyio.create_task_group() as group:
                for scope in scopes:
                    group.start_soon(one, scope)
                for scope in chance.sample(scopes, 25):
                    await anyio.lowlevel.checkpoint()
                    scope.cancel()
        assert ended == 1000
        await nothing_in_flight()
        assert file._handle.inflight == 0
