"""Calls in an order that has gone wrong somewhere before, on `io` and on ours."""

from __future__ import annotations

import io
import os
from collections import UserList
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiers
from tests.support.state import fifo_writer

import anyio_uring

from .conftest import CONTENT
from .test_differential import Pair, Step

pytestmark = pytest.mark.anyio
hosts = pytest.mark.hosts("asyncio", "trio")

WRITE, LINE, READ, TELL, FLUSH = (
    ("write", b"123456"),
    ("readline",),
    ("read", 5),
    ("tell",),
    ("flush",),
)
START, BACK = ("seek", 0), ("seek", -3, os.SEEK_CUR)
SEQUENCES: dict[str, list[Step]] = {
    "write and rewind": [WRITE, START, READ, WRITE, START, ("write", b"x"), START, ("read",)],
    "write, rewind, write": [
        WRITE,
        ("seek", 2),
        ("write", b"x"),
        ("seek", 1),
        ("write", b"y"),
        FLUSH,
    ],
    "flush and read": [WRITE, FLUSH, READ, WRITE, FLUSH, TELL, ("read",)],
    "flush and readinto": [WRITE, FLUSH, ("readinto", 5), WRITE, FLUSH, ("readinto", 9000)],
    "flush and peek": [WRITE, FLUSH, ("peek", 1), WRITE, ("peek", 1), TELL, READ],
    "flush and write": [WRITE, FLUSH, WRITE, TELL, START, ("read", 13)],
    "interleaved reads and writes": [READ, WRITE] * 10 + [START, ("read",)],
    "interleaved lines and writes": [LINE, WRITE] * 10 + [START, ("read",)],
    "write behind read-ahead": [("read", 1), WRITE, TELL, ("read", 3), FLUSH, START, ("read", 20)],
    "truncate behind a read": [("read", 3), ("truncate",), TELL, ("read",), START, ("read",)],
    "truncate behind a write": [WRITE, ("truncate",), TELL, ("read",), START, ("read",)],
    "truncate elsewhere": [READ, ("truncate", 2), TELL, WRITE, FLUSH, START, ("read",)],
    "truncate in steps": [("truncate", 8000), ("truncate", 10), ("truncate", 20), ("read",)],
    "writes and truncates": [
        WRITE,
        ("truncate", 3),
        WRITE,
        ("truncate", 9),
        TELL,
        START,
        ("read",),
    ],
    "seeks and tells": [READ, TELL, BACK, TELL, READ, ("seek", -1, 2), TELL, START, READ, TELL],
    "seeks and writes": [
        WRITE,
        BACK,
        ("write", b"a"),
        ("seek", 3),
        WRITE,
        ("seek", 0, 2),
        WRITE,
        FLUSH,
    ],
    "seek beyond the end": [("seek", 9000), TELL, READ, WRITE, FLUSH, ("seek", 8000), ("read",)],
    "read beyond the end": [
        ("seek", -2, 2),
        ("read", 100),
        READ,
        ("read",),
        LINE,
        ("readlines", None),
    ],
    "lines": [
        ("readlines", None),
        START,
        ("readlines", 100),
        LINE,
        ("readlines", 5),
        ("iterate", 2),
    ],
    "lines with a limit": [("readline", 3), ("readline", 0), ("readline", 100), ("readline", None)],
    "iteration and other reads": [
        ("iterate", 1),
        READ,
        ("iterate", 2),
        LINE,
        ("readinto", 3),
        TELL,
    ],
    "read1": [("read1", 3), ("read1", 0), ("read1", -1), ("read1", 100_000), ("read1", 5), TELL],
    "peek": [("peek", 0), ("peek", 100_000), READ, ("peek", 3), TELL],
    # (What is as long as the buffer is written at once by Python 3.13, and kept by 3.12)
    "nothing and little": [
        ("write", b""),
        ("writelines", []),
        ("writelines", [b"a", b"", b"bcd\n"]),
    ],
}


@pytest.mark.parametrize("buffering", [2, 7, 4096])
@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.hosts("asyncio")
@pytest.mark.tiers("auto", "thread")
async def test_sequence_has_the_same_results(
    tiers: Tiers, tmp_path: Path, name: str, buffering: int
) -> None:
    for mode in ("rb", "r+b", "w+b", "a+b", "wb"):
        for side in ("io", "ours"):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / "file").write_bytes(CONTENT)
        pair = Pair(tmp_path, mode, buffering)
        assert await pair.open()
        for step in SEQUENCES[name]:
            await pair.step(*step)
        await pair.close()


SIZES = sorted(
    {size + more for size in (0, 4, 128, 512, 4096, io.DEFAULT_BUFFER_SIZE) for more in (-1, 0, 1)}
    - {-1}
)


@pytest.mark.parametrize("pattern", [b"\0", b"1234567890\1\2\3\4\5\6"], ids=["zeros", "others"])
@hosts
async def test_lines_about_as_long_as_a_buffer_are_whole(
    tiers: Tiers, tmp_path: Path, pattern: bytes
) -> None:
    path = tmp_path / "file"
    for size in SIZES:
        line = (pattern * (size // len(pattern) + 1))[:size]
        async with await anyio_uring.open_file(path, "wb") as file:
            await file.write(line)
            await file.write(b"\n")
            await file.write(line)
        async with await anyio_uring.open_file(path, "rb") as file:
            assert [part async for part in file] == [part for part in (line + b"\n", line) if part]


@hosts
async def test_offsets_beyond_four_gib_are_exact(tiers: Tiers, tmp_path: Path) -> None:
    far = (1 << 32) + 7
    async with await anyio_uring.open_file(tmp_path / "file", "w+b") as file:
        assert await file.seek(far) == far
        assert await file.write(b"far away") == 8
        assert await file.tell() == far + 8
        assert await file.seek(-8, os.SEEK_END) == far
        assert await file.read(3) == b"far"
        assert await file.truncate(far + 4) == far + 4
        assert await file.read() == b" "
        assert await file.seek(0, os.SEEK_END) == far + 4
        assert await file.truncate(1) == 1
    assert (tmp_path / "file").stat().st_size == 1


async def test_lines_to_write_come_from_anything_that_is_iterated(
    tiers: Tiers, tmp_path: Path
) -> None:
    async with await anyio_uring.open_file(tmp_path / "file", "wb", 4) as file:
        await file.writelines(UserList([b"one\n", b"two\n"]))
        await file.writelines(line for line in (b"three\n", bytearray(b"four\n")))
        with pytest.raises(TypeError):
            await file.writelines([b"five\n", 6])  # type: ignore[list-item]
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\nthree\nfour\nfive\n"


@pytest.mark.parametrize("buffering", [7, 4096])
@hosts
async def test_nonblocking_stream_gives_what_it_has_or_none(
    tiers: Tiers, tmp_path: Path, buffering: int
) -> None:
    async def play(open_it: Any, name: str) -> list[Any]:
        told: list[Any] = []
        with fifo_writer(tmp_path / name) as fd:
            reader = os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK)
            file = await open_it(reader, "rb", buffering)
            for call in (("read", 5), ("read1", 5), ("read",), ("readinto", bytearray(5))):
                for data in (b"", b"abc", b"abcdefgh"):
                    os.write(fd, data)
                    try:
                        result = getattr(file, call[0])(*call[1:])
                        told.append(await result if hasattr(result, "__await__") else result)
                    except BlockingIOError as error:
                        told.append(error.errno)
            close = file.aclose() if hasattr(file, "aclose") else file.close()
            if close is not None:
                await close
        return told

    async def open_io(*arguments: Any) -> Any:
        return open(*arguments)

    expected = await play(open_io, "io")
    assert await play(anyio_uring.open_file, "ours") == expected


@hosts
async def test_no_more_is_read_than_a_stream_has(tiers: Tiers, tmp_path: Path) -> None:
    # What there is, is given: nothing waits for a buffer to be full
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb") as file:
            os.write(fd, b"a line\nand")
            assert await file.readline() == b"a line\n"
            assert await file.read1(100) == b"and"
            os.write(fd, b"more")
            assert await file.read(4) == b"more"
            os.write(fd, b"peeked")
            assert await file.peek() == b"peeked"  # type: ignore[attr-defined]
            assert await file.read(6) == b"peeked"


@pytest.mark.parametrize("mode", ["r+b", "w+b", "a+b"])
@hosts
async def test_updating_a_stream_is_refused(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    with fifo_writer(tmp_path / "fifo"):
        with pytest.raises(io.UnsupportedOperation) as expected:
            open(tmp_path / "fifo", mode).close()
        with pytest.raises(io.UnsupportedOperation) as caught:
            await anyio_uring.open_file(tmp_path / "fifo", mode)
        assert str(caught.value) == str(expected.value)


async def test_character_device_that_cannot_seek_is_read_and_written(tiers: Tiers) -> None:
    main, side = os.openpty()
    try:
        async with await anyio_uring.open_file(main, "wb", closefd=False) as file:
            assert not file.seekable()
            with pytest.raises(OSError, match="seek"):
                await file.seek(0)
            assert await file.write(b"typed\n") == 6
        async with await anyio_uring.open_file(side, "rb", closefd=False) as file:
            assert file.isatty()
            assert await file.readline() == b"typed\n"
            with pytest.raises(OSError, match="seek"):
                await file.tell()
    finally:
        os.close(main)
        os.close(side)
