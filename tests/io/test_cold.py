"""Many reads that no cache can serve, and nothing else on the loop: every one of them comes back.

What makes this worth a test is the wake-up: with nothing else to do the loop sleeps until the
ring's eventfd says that something has completed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.places import KINDS, NoPlaceError, evict, place

from anyio_uring import open_file, statistics

pytestmark = [pytest.mark.anyio, pytest.mark.one_python, pytest.mark.timeout(60)]

TASKS = 64
ROUNDS = 5
PIECE = 16 << 10
SIZE = TASKS * PIECE


@pytest.fixture(scope="module", params=KINDS)
def data(request: pytest.FixtureRequest) -> Iterator[Path]:
    try:
        found = place(request.param)
        directory = found.__enter__()
    except NoPlaceError as error:
        pytest.skip(str(error))
    path = directory / "data"
    path.write_bytes(os.urandom(SIZE))
    yield path
    path.unlink()
    found.__exit__(None, None, None)


def assert_served_by_the_ring(tiers: Tiers, reads: int) -> None:
    counts = statistics()
    assert (counts.inflight, counts.queued, counts.overflows) == (0, 0, 0)
    if tiers.ring:
        assert counts.operations.get("read", 0) >= 0.99 * reads
        assert counts.ring_refused == 0


async def test_cold_reads_come_back(tiers: Tiers, data: Path) -> None:
    expected = data.read_bytes()
    fd = os.open(data, os.O_RDONLY)
    got: dict[int, bytes] = {}
    try:
        async with await open_file(data, "rb", 0) as file:

            async def read(number: int) -> None:
                got[number] = await file.pread(PIECE, number * PIECE)

            for _ in range(ROUNDS):
                got.clear()
                evict(fd, SIZE)
                async with anyio.create_task_group() as group:
                    # From the end, so that nobody reads ahead for the next one
                    for number in reversed(range(TASKS)):
                        group.start_soon(read, number)
                assert b"".join(got[number] for number in range(TASKS)) == expected
            if tiers.ring:
                # What somebody else's read-ahead has brought in meanwhile needs no ring
                assert_served_by_the_ring(tiers, TASKS * ROUNDS - statistics().now)
                assert statistics().thread == 0
    finally:
        os.close(fd)


async def test_direct_reads_come_back(tiers: Tiers, data: Path) -> None:
    expected = data.read_bytes()
    got: dict[int, bytes] = {}

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_DIRECT)

    try:
        file = await open_file(data, "rb", 0, opener=opener)
    except OSError as error:
        pytest.skip(f"no direct reads here: {error}")
    async with file:

        async def read(number: int) -> None:
            got[number] = await file.pread(PIECE, number * PIECE)

        for _ in range(ROUNDS):
            got.clear()
            async with anyio.create_task_group() as group:
                for number in range(TASKS):
                    group.start_soon(read, number)
            assert b"".join(got[number] for number in range(TASKS)) == expected
        assert_served_by_the_ring(tiers, TASKS * ROUNDS if tiers.ring else 0)
        counts = statistics()
        assert counts.now == 0
        if tiers.ring:
            assert counts.thread == 1  # the opener


async def test_direct_reads_stop_at_the_end(tiers: Tiers, data: Path) -> None:
    odd = data.with_name("odd")
    odd.write_bytes(b"x" * 5000)
    try:
        file = await open_file(
            odd, "rb", 0, opener=lambda path, flags: os.open(path, flags | os.O_DIRECT)
        )
    except OSError as error:
        pytest.skip(f"no direct reads here: {error}")
    async with file:
        assert await file.pread(8192, 0) == b"x" * 5000
        assert await file.pread(1 << 20, 0) == b"x" * 5000
        assert await file.pread(4096, 8192) == b""
        assert await file.readall() == b"x" * 5000
    odd.unlink()


async def test_files_come_back_cold_one_by_one(tiers: Tiers, data: Path) -> None:
    """Open, read and close of many files at once, none of them in memory."""
    directory = data.parent / "many"
    directory.mkdir()
    for number in range(TASKS):
        (directory / str(number)).write_bytes(b"%d" % number * 1000)
        fd = os.open(directory / str(number), os.O_RDONLY)
        evict(fd, 4000)
        os.close(fd)
    got: dict[int, bytes] = {}

    async def read(number: int) -> None:
        async with await open_file(directory / str(number), "rb", 0) as file:
            got[number] = await file.read()

    async with anyio.create_task_group() as group:
        for number in range(TASKS):
            group.start_soon(read, number)
    assert got == {number: b"%d" % number * 1000 for number in range(TASKS)}
    assert statistics().inflight == 0
    for number in range(TASKS):
        (directory / str(number)).unlink()
    directory.rmdir()
