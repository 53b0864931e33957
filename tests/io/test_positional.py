"""`pread`, `preadinto` and `pwrite`, compared with ``os.pread`` and ``os.pwrite``."""

from __future__ import annotations

import array
import errno
import mmap
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.mounts import fs_type
from tests.support.oracle import outcome

import anyio_uring
from anyio_uring import _transfers

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 40
GIB = 1 << 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory on a tmpfs, if there is one."""
    if not os.path.isdir("/dev/shm") or fs_type("/dev/shm") != "tmpfs":
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            yield Path(directory)


async def test_pread_gives_what_os_pread_gives(tiers: Tiers, path: Path) -> None:
    end = len(CONTENT)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        for offset in (0, 1, 100, end - 1, end, end + 1, 1 << 31, 1 << 33, 1 << 40):
            for size in (0, 1, 7, 4096, end, end + 5, 1 << 20):
                with open(path, "rb") as oracle:
                    expected = os.pread(oracle.fileno(), size, offset)
                assert await file.pread(size, offset) == expected, (size, offset)
        assert await file.tell() == 0


async def test_preadinto_fills_up_to_the_end(tiers: Tiers, path: Path) -> None:
    end = len(CONTENT)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        for offset in (0, 3, end - 2, end, end + 9):
            for size in (0, 1, 100, 300_000):
                target = bytearray(b"." * size)
                expected = CONTENT[offset : offset + size]
                assert await file.preadinto(target, offset) == len(expected)
                assert target == expected + b"." * (size - len(expected))
        numbers = array.array("H", [0, 0, 0])
        assert await file.preadinto(numbers, 2) == 6
        assert numbers.tobytes() == CONTENT[2:8]
        with mmap.mmap(-1, 4096) as memory:
            assert await file.preadinto(memoryview(memory)[10:20], 5) == 10
            assert memory[:30] == bytes(10) + CONTENT[5:15] + bytes(10)
        assert await file.tell() == 0


@pytest.mark.parametrize("mode", ["r+b", "wb", "w+b", "x+b"])
async def test_pwrite_gives_what_os_pwrite_gives(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    ours, oracle = tmp_path / "ours", tmp_path / "oracle"
    if "x" not in mode:
        ours.write_bytes(CONTENT)
        oracle.write_bytes(CONTENT)
    async with await anyio_uring.open_file(ours, mode, 0) as file:
        with open(oracle, mode, 0) as other:
            for data, offset in (
                (b"abc", 0),
                (bytearray(b"defg"), 100),
                (memoryview(b"..hij..")[2:5], len(CONTENT) - 1),
                (array.array("H", [1, 2]), len(CONTENT) + 50),
                (b"", 1 << 20),
                (bytes(300_000), 7),
            ):
                expected = os.pwrite(other.fileno(), data, offset)
                assert await file.pwrite(data, offset) == expected
        assert await file.tell() == 0
    assert ours.read_bytes() == oracle.read_bytes()


async def test_position_is_left_alone(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        assert await file.read(10) == CONTENT[:10]
        await file.pread(5, 100)
        await file.preadinto(bytearray(5), 200)
        await file.pwrite(b"xyz", 300)
        assert await file.tell() == 10
        assert await file.read(10) == CONTENT[10:20]
        file.fileno()  # the kernel keeps the position now
        await file.pread(5, 100)
        await file.preadinto(bytearray(5), 200)
        await file.pwrite(b"xyz", 300)
        assert await file.tell() == 20
        assert await file.read(10) == CONTENT[20:30]


@pytest.mark.parametrize("offset", [-1, -100, -(1 << 62)])
async def test_negative_offset_is_invalid(tiers: Tiers, path: Path, offset: int) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        for call in (
            lambda f: f.pread(1, offset),
            lambda f: f.pread(0, offset),
            lambda f: f.preadinto(bytearray(1), offset),
            lambda f: f.pwrite(b"x", offset),
            lambda f: f.pwrite(b"", offset),
        ):
            result = await outcome(call, file, str(path))
            assert result == (OSError, errno.EINVAL, "Invalid argument")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [-1, -2, -(1 << 40)])
async def test_negative_size_is_a_value_error(tiers: Tiers, path: Path, size: int) -> None:
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        with pytest.raises(ValueError, match="size must not be negative"):
            await file.pread(size, 0)


WRONG: dict[str, tuple[Callable[[Any], Any], type[BaseException]]] = {
    "pread: size a str": (lambda f: f.pread("1", 0), TypeError),
    "pread: size None": (lambda f: f.pread(None, 0), TypeError),
    "pread: size a float": (lambda f: f.pread(1.0, 0), TypeError),
    "pread: offset a float": (lambda f: f.pread(1, 1.0), TypeError),
    "pread: offset None": (lambda f: f.pread(1, None), TypeError),
    "pread: offset 2**63": (lambda f: f.pread(1, 1 << 63), OverflowError),
    "pread: no offset": (lambda f: f.pread(1), TypeError),
    "preadinto: bytes": (lambda f: f.preadinto(b"abc", 0), TypeError),
    "preadinto: str": (lambda f: f.preadinto("abc", 0), TypeError),
    "preadinto: strided": (lambda f: f.preadinto(memoryview(bytearray(8))[::2], 0), TypeError),
    "preadinto: offset a str": (lambda f: f.preadinto(bytearray(1), "0"), TypeError),
    "preadinto: offset 2**63": (lambda f: f.preadinto(bytearray(1), 1 << 63), OverflowError),
    "preadinto: offset a float": (lambda f: f.preadinto(bytearray(1), 1.0), TypeError),
    "pwrite: offset a float": (lambda f: f.pwrite(b"abc", 1.0), TypeError),
    "pwrite: str": (lambda f: f.pwrite("abc", 0), TypeError),
    "pwrite: strided": (lambda f: f.pwrite(memoryview(b"abcdef")[::2], 0), BufferError),
    "pwrite: offset None": (lambda f: f.pwrite(b"abc", None), TypeError),
    "pwrite: offset 2**63": (lambda f: f.pwrite(b"abc", 1 << 63), OverflowError),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_argument_of_another_type_is_refused(tiers: Tiers, path: Path, wrong: str) -> None:
    call, expected = WRONG[wrong]
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        with pytest.raises(expected):
            await call(file)
        assert await file.pread(3, 0) == CONTENT[:3]
    assert path.read_bytes() == CONTENT


async def test_offset_is_whatever_counts_as_a_number(tiers: Tiers, path: Path) -> None:
    class Index:
        def __index__(self) -> int:
            return 3

    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        assert await file.pread(2, Index()) == CONTENT[3:5]  # type: ignore[arg-type]
        assert await file.pread(2, True) == CONTENT[1:3]
        assert await file.pread(Index(), 3) == CONTENT[3:6]  # type: ignore[arg-type]
        assert await file.preadinto(bytearray(2), Index()) == 2  # type: ignore[arg-type]
        assert await file.pwrite(b"xy", Index()) == 2  # type: ignore[arg-type]
        assert await file.pread(2, 3) == b"xy"


async def test_stream_has_no_offsets(tiers: Tiers) -> None:
    reader, writer = os.pipe()
    async with (
        await anyio_uring.open_file(reader, "rb", 0) as source,
        await anyio_uring.open_file(writer, "wb", 0) as sink,
    ):
        for file, call in (
            (source, lambda f: f.pread(1, 0)),
            (source, lambda f: f.preadinto(bytearray(1), 0)),
            (sink, lambda f: f.pwrite(b"x", 0)),
        ):
            result = await outcome(call, file, file.name)
            assert result == (OSError, errno.ESPIPE, "Illegal seek")


async def test_hundred_tasks_read_and_write_side_by_side(tiers: Tiers, tmp_path: Path) -> None:
    block = 1000
    results: dict[int, bytes] = {}

    async def work(file: anyio_uring.AsyncFile[bytes], number: int) -> None:
        offset = number * block
        data = number.to_bytes(2, "big") * (block // 2)
        assert await file.pwrite(data, offset) == block
        target = bytearray(block)
        assert await file.preadinto(target, offset) == block
        assert target == data
        results[number] = await file.pread(block, offset)

    order = list(range(100))
    random.Random(7).shuffle(order)
    async with await anyio_uring.open_file(tmp_path / "f", "w+b", 0) as file:
        async with anyio.create_task_group() as tasks:
            for number in order:
                tasks.start_soon(work, file, number)
        assert await file.tell() == 0
    content = (tmp_path / "f").read_bytes()
    assert content == b"".join(number.to_bytes(2, "big") * (block // 2) for number in range(100))
    assert b"".join(results[number] for number in range(100)) == content


async def test_positional_call_does_not_wait_for_its_turn(tiers: Tiers) -> None:
    """A read at the position that waits (on a terminal) must not keep others."""
    reader, writer = os.pipe()
    async with await anyio_uring.open_file(reader, "rb", 0) as file:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(file.read, 1)
            await anyio.lowlevel.checkpoint()
            with anyio.fail_after(5), pytest.raises(OSError, match="Illegal seek"):
                await file.pread(1, 0)
            os.write(writer, b"x")
        os.close(writer)


# -- far away, and much ---------------------------------------------------------------------------


async def test_offsets_beyond_four_gib_are_exact(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    far = (5 << 32) + 123
    async with await anyio_uring.open_file(path, "w+b", 0) as file:
        assert await file.pwrite(b"far", far) == 3
        assert await file.pread(10, far - 3) == b"\0\0\0far"
        assert await file.seek(far) == far
        assert await file.read(2) == b"fa"
        assert await file.tell() == far + 2
        assert await file.write(b"rther") == 5
        assert await file.seek(0, os.SEEK_END) == far + 7
        assert await file.seek(-7, os.SEEK_CUR) == far
        assert await file.readall() == b"farther"
        assert await file.seek(-5, os.SEEK_END) == far + 2
        assert await file.readline() == b"rther"
        target = bytearray(4)
        assert await file.preadinto(target, far) == 4
        assert target == b"fart"
        assert await file.pread(4, 4 << 30) == bytes(4)  # no low 32 bits
        assert await file.truncate(far + 1) == far + 1
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == far + 7
        assert await file.seek(far) == far
        assert await file.read(10) == b"f"
    status = path.stat()
    assert status.st_size == far + 1
    assert status.st_blocks * 512 < 1 << 20


@pytest.mark.hosts("asyncio")
@pytest.mark.tiers("ring")
async def test_transfer_beyond_two_gib_is_whole(tiers: Tiers, in_memory: Path) -> None:
    """One read(2) ends at 2 GiB less a page.  Holes of a tmpfs: no disk, no page cache."""
    size = 2 * GIB + 12345
    path = in_memory / "sparse"
    with open(path, "wb") as made:
        made.truncate(size)
        os.pwrite(made.fileno(), b"first", 0)
        os.pwrite(made.fileno(), b"seam", 2 * GIB - 4096 - 2)
        os.pwrite(made.fileno(), b"last", size - 4)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        with mmap.mmap(-1, size) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)  # a thousandth of the page faults
            assert await file.readinto(memory) == size
            assert await file.tell() == size
            assert memory[:5] == b"first"
            assert memory[2 * GIB - 4096 - 2 : 2 * GIB - 4096 + 2] == b"seam"
            assert memory[size - 4 :] == b"last"


@pytest.mark.tiers("thread")
async def test_transfer_beyond_the_limit_of_one_call_is_whole(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transfers, "TRANSFER_MAX", 1000)
    async with await anyio_uring.open_file(tmp_path / "f", "w+b", 0) as file:
        for shared in (False, True):
            if shared:
                file.fileno()
            await file.seek(0)
            assert await file.write(CONTENT) == len(CONTENT)
            assert await file.pwrite(CONTENT, len(CONTENT)) == len(CONTENT)
            assert await file.pread(1 << 20, 5) == CONTENT[5:] + CONTENT
            await file.seek(0)
            assert await file.read(5001) == CONTENT[:5001]
            target = bytearray(1 << 16)
            assert await file.readinto(target) == 2 * len(CONTENT) - 5001
            assert target.startswith(CONTENT[5001:] + CONTENT)
            await file.seek(1)
            assert await file.read() == CONTENT[1:] + CONTENT
