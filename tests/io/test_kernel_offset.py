"""Shared files: the kernel's own offset follows each transfer, also where io_uring leaves it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Tiers
from tests.support.fuse import FuseMount, cannot_fuse

import anyio_uring

pytestmark = pytest.mark.anyio
BLOCK = 4096


def open_direct(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_DIRECT)


@pytest.fixture
def direct_file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(8)))
    try:
        os.close(open_direct(os.fspath(path), os.O_RDONLY))
    except OSError as error:
        pytest.skip(f"this file system has no O_DIRECT: {error.strerror}")
    return path


@pytest.fixture
def block() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, BLOCK) as memory:  # aligned
        memory[:] = b"x" * BLOCK
        yield memory


async def test_direct_reads_follow_each_other(tiers: Tiers, direct_file: Path) -> None:
    async with await anyio_uring.open_file(direct_file, "rb", 0, opener=open_direct) as file:
        for number in range(3):
            assert await file.read(BLOCK) == bytes([number]) * BLOCK
        assert await file.tell() == 3 * BLOCK
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 3 * BLOCK
        assert await file.seek(BLOCK, os.SEEK_CUR) == 4 * BLOCK
        assert await file.read(BLOCK) == bytes([4]) * BLOCK


async def test_direct_writes_follow_each_other(
    tiers: Tiers, direct_file: Path, block: mmap.mmap
) -> None:
    async with await anyio_uring.open_file(direct_file, "r+b", 0, opener=open_direct) as file:
        for _ in range(2):
            assert await file.write(block) == BLOCK
        assert await file.tell() == 2 * BLOCK
    assert direct_file.read_bytes()[: 3 * BLOCK] == b"x" * 2 * BLOCK + b"\2" * BLOCK


async def test_direct_append_ends_behind_what_it_wrote(
    tiers: Tiers, direct_file: Path, block: mmap.mmap
) -> None:
    async with await anyio_uring.open_file(direct_file, "ab", 0, opener=open_direct) as file:
        await file.seek(0)
        assert await file.write(block) == BLOCK
        assert await file.tell() == 9 * BLOCK
        assert await file.write(block) == BLOCK
        assert await file.tell() == 10 * BLOCK
    assert direct_file.read_bytes()[8 * BLOCK :] == b"x" * 2 * BLOCK


@pytest.mark.skipif(cannot_fuse() is not None, reason=str(cannot_fuse()))
async def test_direct_io_of_a_server_moves_the_offset(tiers: Tiers) -> None:
    content = bytes(range(250))
    with FuseMount({"file": content}, direct_io=True) as mount:
        async with await anyio_uring.open_file(mount.path / "file", "r+b", 0) as file:
            file.fileno()
            assert await file.read(10) == content[:10]
            assert await file.write(b"abc") == 3
            assert await file.tell() == 13
            assert await file.read(500) == content[13:]
            assert await file.read(10) == b""
        async with await anyio_uring.open_file(mount.path / "file", "ab", 0) as file:
            assert await file.write(b"end") == 3
            assert await file.tell() == 253


async def test_buffered_transfers_move_the_offset(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    async with await anyio_uring.open_file(tmp_path / "file", "r+b", 0) as file:
        fd = file.fileno()
        assert await file.read(3) == b"012"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 3
        assert await file.write(b"ab") == 2
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
        assert await file.read(9) == b"56789"
