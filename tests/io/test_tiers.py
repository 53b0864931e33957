"""Which tier serves what: each cell of the matrix is what its name says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
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
            # The kernel may keep a page that is busy, and a virtual disk may be done before the
            # attempt that refuses to wait has returned: either for some 200 tries in a row.
            until = time.monotonic() + 10
            while time.monotonic() < until:
                before = statistics()
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                data = await file.pread(4096, 32768)
                counts = statistics()
                if counts.now == before.now:
                    break
        assert data == os.pread(fd, 4096, 32768)
    finally:
        os.close(fd)
    if tiers.ring:
        assert counts.ring > before.ring
    else:
        assert counts.thread > before.thread


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_RDWR])
async def test_descriptor_of_others_is_closed_at_once_if_it_cannot_be_written(
    tiers: Tiers, tmp_path: Path, access: int
) -> None:
    """Whatever the mode says: what was written may have to go to the disk."""
    path = tmp_path / "small"
    path.write_bytes(b"x" * 100)
    fds = [os.open(path, access) for _ in range(2)]
    async with await anyio_uring.open_file(fds[0], "rb") as file:
        assert len(await file.read()) == 100
    async with await anyio_uring.open_file(path, opener=lambda *_: fds[1]) as text:
        assert len(await text.read()) == 100
    assert statistics().now_closed == (2 if tiers.now and access == os.O_RDONLY else 0)


async def test_files_closed_in_a_row_are_closed_once_each_with_and_without_a_turn(
    tiers: Tiers, tmp_path: Path
) -> None:
    """More of them than the allowance of a turn has room for, so that some wait for the next."""
    path = tmp_path / "small"
    path.write_bytes(b"x" * 100)
    files = [await anyio_uring.open_file(path, "rb", 0) for _ in range(150)]
    descriptors = [file.fileno() for file in files]
    with anyio.CancelScope() as scope:
        scope.cancel()
        for file in files:
            await file.aclose()
    assert not scope.cancelled_caught
    for fd in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    if tiers.now:
        assert statistics().now_closed == len(files)
