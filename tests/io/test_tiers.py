"""Which tier serves what: each cell of the matrix is what its name says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conftest import Tiers

import anyio_uring
from anyio_uring import statistics

pytestmark = pytest.mark.anyio


async def test_cached_read_is_served_by_the_first_tier_allowed(
    tiers: Tiers, tmp_path: Path
) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"x" * 100)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert await file.read(10) == b"x" * 10
        assert await file.pread(200, 90) == b"x" * 10
        counts = statistics()
    if tiers.now:
        # A small cached file never reaches the ring: not its open, its reads, its close
        assert (counts.now, counts.ring, counts.thread) == (2, 0, 0)
        assert counts.now_opened == 1
        assert statistics().now_closed == 1
    elif tiers.ring:
        assert counts.operations == {"openat": 1, "read": 2}
        assert (counts.now, counts.thread) == (0, 0)
        assert statistics().operations["close"] == 1
    else:
        assert (counts.now, counts.ring, counts.thread) == (0, 0, 3)


async def test_write_is_served_by_the_ring_or_a_thread(tiers: Tiers, tmp_path: Path) -> None:
    async with await anyio_uring.open_file(tmp_path / "new", "wb", 0) as file:
        assert await file.write(b"abc") == 3
        await file.fsync()
        counts = statistics()
    assert (tmp_path / "new").read_bytes() == b"abc"
    if tiers.ring:
        assert counts.operations == {"openat": 1, "write": 1, "fsync": 1}
        assert counts.thread == 0
    else:
        assert counts.thread == 3


async def test_evicted_data_is_read_by_the_ring_or_a_thread(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "cold"
    path.write_bytes(os.urandom(1 << 16))
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        async with await anyio_uring.open_file(path, "rb", 0) as file:
            before = statistics()
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            data = await file.pread(4096, 32768)
            counts = statistics()
        assert data == os.pread(fd, 4096, 32768)
    finally:
        os.close(fd)
    if tiers.ring:
        assert counts.ring > before.ring
    else:
        assert counts.thread > before.thread
