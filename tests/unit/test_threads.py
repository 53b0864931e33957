"""While the ring serves, no Python thread is started."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.conftest import Tiers

from anyio_uring import open_file, statistics

pytestmark = pytest.mark.anyio


async def test_ring_needs_no_thread(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tiers.ring:
        pytest.skip("about the ring")
    started: list[str] = []
    start = threading.Thread.start

    def start_and_tell(thread: threading.Thread) -> None:
        # AnyIO's test runner is Trio's host, which waits for the guest's I/O in a thread
        if not thread.name.startswith("Trio thread"):
            started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_and_tell)
    path = tmp_path / "file"
    async with await open_file(path, "xb", 0) as file:
        await file.write(b"x" * 100_000)
        await file.pwrite(b"y", 5)
        await file.fsync()
        await file.fdatasync()
        await file.truncate(50_000)
        assert await file.seek(0, os.SEEK_END) == 50_000
        assert await file.tell() == 50_000
    async with await open_file(path, "ab", 0) as file:
        await file.write(b"z" * 600_000)
    async with await open_file(path, "r+b", 0) as file:
        assert len(await file.read(10)) == 10
        assert len(await file.readline()) == 649_990
        await file.seek(0)
        assert len(await file.readall()) == 650_000
        assert await file.seek(-5, os.SEEK_CUR) == 649_995
        assert await file.readinto(bytearray(1 << 20)) == 5
        assert await file.pread(5, 0) == b"xxxxx"
        assert await file.preadinto(bytearray(5), 0) == 5
        await file.flush()
        fd = file.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        await file.seek(0)
        assert len(await file.readall()) == 650_000
    async with await open_file(path, "wb", 0):
        pass
    assert started == []
    assert statistics().thread == 0
