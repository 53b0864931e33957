"""Positional calls, syncs, descriptors and other handles, against what a file has buffered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.fuse import FuseMount
from tests.support.state import until

import anyio_uring

from .conftest import CONTENT

pytestmark = pytest.mark.anyio
hosts = pytest.mark.hosts("asyncio", "trio")
Call = Callable[[], Coroutine[Any, Any, Any]]


async def while_it_waits(
    mount: FuseMount, opcode: str, operation: Call, meanwhile: Call | None = None, error: int = 0
) -> Any:
    """Run an operation whose request is held, something else meanwhile, and let it go on."""
    results: list[Any] = []

    async def run() -> None:
        results.append(await operation())

    before = mount.seen(opcode)
    mount.stall(opcode)
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await until(lambda: mount.seen(opcode) > before)
            if meanwhile is not None:
                await meanwhile()
        finally:
            # Also if something fails: a thread could not be ended otherwise
            mount.release(opcode, error=error)
    return results[0]


@pytest.fixture(params=["exclusive", "shared"])
def share(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    return lambda file: file.fileno() if request.param == "shared" else None


# -- unwritten bytes ------------------------------------------------------------------------------


async def test_pread_sees_what_is_unwritten(tiers: Tiers, path: Path, share: Any) -> None:
    async with await anyio_uring.open_file(path, "r+b") as file:
        share(file)
        await file.write(b"unwritten")
        assert path.read_bytes() == CONTENT
        assert await file.pread(12, 0) == b"unwritten" + CONTENT[9:12]
        assert await file.tell() == 9
        await file.write(b"more")
        target = bytearray(6)
        assert await file.preadinto(target, 8) == 6
        assert target == b"nmore" + CONTENT[13:14]


async def test_pread_elsewhere_leaves_what_is_unwritten(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b") as file:
        await file.seek(100)
        await file.write(b"unwritten")
        assert await file.pread(100, 0) == CONTENT[:100]
        assert await file.pread(9, 109) == CONTENT[109:118]
        assert path.read_bytes() == CONTENT
        assert await file.pread(1, 108) == b"n"
        assert path.read_bytes() != CONTENT


async def test_pwrite_comes_after_what_was_written_before(
    tiers: Tiers, path: Path, share: Any
) -> None:
    async with await anyio_uring.open_file(path, "r+b") as file:
        share(file)
        await file.write(b"aaaaaaaa")
        assert await file.pwrite(b"PP", 2) == 2
        await file.write(b"bbbb")
        assert await file.tell() == 12
    assert path.read_bytes() == b"aaPPaaaabbbb" + CONTENT[12:]


@pytest.mark.parametrize("method", ["fsync", "fdatasync"])
@hosts
async def test_sync_writes_first(tiers: Tiers, mount: FuseMount, slow: Path, method: str) -> None:
    async with await anyio_uring.open_file(slow, "r+b") as file:
        await file.write(b"unwritten")
        synced = mount.seen("FSYNC")

        async def look() -> None:
            assert mount.content("file")[:9] == b"unwritten"

        await while_it_waits(mount, "FSYNC", getattr(file, method), look)
        assert mount.seen("FSYNC") == synced + 1
        assert await file.tell() == 9


# -- read-ahead -----------------------------------------------------------------------------------


async def test_pwrite_into_read_ahead_is_read(tiers: Tiers, path: Path, share: Any) -> None:
    async with await anyio_uring.open_file(path, "r+b", 64) as file:
        share(file)
        assert await file.read(3) == CONTENT[:3]
        assert await file.pwrite(b"PP", 4) == 2
        assert await file.read(5) == CONTENT[3:4] + b"PP" + CONTENT[6:8]
        assert await file.tell() == 8
        assert await file.readline() == CONTENT[8:16]


async def test_pread_and_preadinto_do_not_move_the_position(
    tiers: Tiers, path: Path, share: Any
) -> None:
    async with await anyio_uring.open_file(path, "rb", 64) as file:
        share(file)
        assert await file.read(3) == CONTENT[:3]
        assert await file.pread(50, 100) == CONTENT[100:150]
        target = bytearray(20)
        assert await file.preadinto(target, 7) == 20
        assert target == CONTENT[7:27]
        assert await file.read(3) == CONTENT[3:6]


READS: dict[str, Callable[[Any], Call]] = {
    "read": lambda file: lambda: file.read(8),
    "readline": lambda file: file.readline,
    "read1": lambda file: lambda: file.read1(8),
    "readinto": lambda file: lambda: file.readinto(bytearray(8)),
    "peek": lambda file: file.peek,
}


@pytest.mark.parametrize("name", READS)
@hosts
async def test_pwrite_during_a_read_is_seen_by_the_next_one(
    tiers: Tiers, mount: FuseMount, slow: Path, share: Any, name: str
) -> None:
    async with await anyio_uring.open_file(slow, "r+b", 64) as file:
        share(file)
        await file.seek(8)

        async def pwrite() -> None:
            assert await file.pwrite(b"PPPPPPP", 24) == 7

        await while_it_waits(mount, "READ", READS[name](file), pwrite)
        assert await file.tell() == (8 if name == "peek" else 16)
        rest = 32 - await file.tell()
        assert (await file.read(rest))[-8:] == b"PPPPPPP\n"


class Changing:
    """A `FileOps.read` behind which the file is changed, as if between kernel and task."""

    def __init__(self, file: Any, change: Call) -> None:
        from anyio_uring._runtime import current_runtime

        self.ops = current_runtime().ops
        self.read = self.ops.read
        self.change: Call | None = change

    async def __call__(self, job: Any, size: int, offset: int) -> Any:
        data = await self.read(job, size, offset)
        if self.change is not None:
            change, self.change = self.change, None
            await change()
        return data


@pytest.mark.parametrize("name", READS)
@pytest.mark.tiers("ring", "thread")
async def test_what_a_read_brought_is_not_kept_if_it_is_older_than_a_pwrite(
    tiers: Tiers, path: Path, share: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await anyio_uring.open_file(path, "r+b", 64) as file:
        share(file)
        await file.seek(8)
        changing = Changing(file, lambda: file.pwrite(b"PPPPPPP", 24))
        monkeypatch.setattr(changing.ops, "read", changing)
        await READS[name](file)()
        assert changing.change is None
        rest = 32 - await file.tell()
        assert rest > 0
        assert (await file.read(rest))[-8:] == b"PPPPPPP\n"
        assert await file.readline() == CONTENT[32:40]


@hosts
@pytest.mark.tiers("auto", "ring")
async def test_cancelled_line_is_not_kept_if_it_is_older_than_a_pwrite(
    tiers: Tiers, mount: FuseMount, slow: Path, share: Any
) -> None:
    async with await anyio_uring.open_file(slow, "r+b", 4) as file:
        share(file)
        assert await file.peek() == CONTENT[:4]  # type: ignore[attr-defined]

        scope = anyio.CancelScope()

        async def read_a_line() -> None:
            with scope:
                await file.readline()

        before = mount.seen("READ")
        mount.stall("READ")
        async with anyio.create_task_group() as group:
            group.start_soon(read_a_line)
            await until(lambda: mount.seen("READ") > before)
            await file.pwrite(b"PP", 1)
            scope.cancel()
            await until(lambda: scope.cancelled_caught)
            mount.release()
        assert await file.tell() == 0
        assert await file.readline() == b"0PP" + CONTENT[3:8]


# -- descriptors ----------------------------------------------------------------------------------


async def test_fileno_publishes_the_position(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "rb", 64) as file:
        await file.read(5)
        fd = file.fileno()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5
        assert os.read(fd, 3) == CONTENT[5:8]
        assert await file.tell() == 8
        assert await file.read(8) == CONTENT[8:16]
        assert file.fileno() == fd
        assert os.lseek(fd, 0, os.SEEK_CUR) == await file.tell() == 16


async def test_wrapped_shares_the_position_and_flushes(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 64) as file:
        await file.read(8)
        await file.write(b"unwritten")
        assert file.wrapped.write(b"by io") == 5
        assert path.read_bytes()[8:22] == b"unwrittenby io"
        await file.seek(22)
        await file.write(b"!")
        await file.flush()
        assert file.wrapped.tell() == 23
        assert file.wrapped.read(3) == CONTENT[23:26]
        wrapped = file.wrapped
    assert wrapped.closed


@hosts
async def test_fileno_during_a_seek_to_the_end_publishes_where_it_went(
    tiers: Tiers, mount: FuseMount, slow: Path
) -> None:
    async with await anyio_uring.open_file(slow, "rb", 64) as file:
        before = mount.seen("GETATTR")
        descriptors: list[int] = []

        async def ask() -> None:
            descriptors.append(file.fileno())

        end = await while_it_waits(mount, "GETATTR", lambda: file.seek(-8, os.SEEK_END), ask)
        assert mount.seen("GETATTR") > before
        assert end == len(CONTENT) - 8
        assert os.lseek(descriptors[0], 0, os.SEEK_CUR) == end
        assert await file.read() == CONTENT[-8:]


async def test_descriptor_that_stays_open_is_where_the_user_was(tiers: Tiers, path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        async with await anyio_uring.open_file(fd, "r+b", 64, closefd=False) as file:
            assert await file.read(5) == CONTENT[:5]
        assert os.read(fd, 3) == CONTENT[5:8]
        async with await anyio_uring.open_file(fd, "r+b", 64, closefd=False) as file:
            assert await file.tell() == 8
            await file.write(b"unwritten")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 17
        file = await anyio_uring.open_file(fd, "r+b", 64, closefd=False)
        assert await file.read(2) == CONTENT[17:19]
        file.close()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 19
    finally:
        os.close(fd)
    assert path.read_bytes()[8:17] == b"unwritten"


@hosts
async def test_child_that_inherits_the_descriptor_goes_on_where_we_are(
    tiers: Tiers, path: Path
) -> None:
    program = "import os; os.write(1, b'child')"
    async with await anyio_uring.open_file(path, "r+b") as file:
        await file.write(b"header ")
        await file.flush()
        subprocess.run([sys.executable, "-c", program], stdout=file.fileno(), check=True)
        assert await file.tell() == 12
        await file.write(b" footer")
    assert path.read_bytes()[:19] == b"header child footer"


# -- other handles --------------------------------------------------------------------------------


async def test_two_appenders_lose_nothing(tiers: Tiers, path: Path) -> None:
    async with (
        await anyio_uring.open_file(path, "ab", 64) as one,
        await anyio_uring.open_file(path, "a+b", 64) as other,
    ):
        expected = CONTENT
        for number in range(20):
            for file, letter in ((one, b"o"), (other, b"t")):
                data = letter * (number * 7)
                await file.write(data)
                await file.flush()
                expected += data
                assert await file.tell() == len(expected)
        assert await other.seek(0) == 0
        assert await other.read() == expected
    assert path.read_bytes() == expected


async def test_position_after_an_append_is_the_end(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "a+b", 64) as file:
        assert await file.tell() == len(CONTENT)
        await file.seek(0)
        assert await file.read(3) == CONTENT[:3]
        await file.write(b"end")
        await file.flush()
        assert await file.tell() == len(CONTENT) + 3
        assert await file.read() == b""


async def test_reader_goes_on_when_the_file_has_grown(tiers: Tiers, path: Path) -> None:
    async with (
        await anyio_uring.open_file(path, "rb", 64) as reader,
        await anyio_uring.open_file(path, "ab", 64) as writer,
    ):
        assert await reader.read() == CONTENT
        assert await reader.readline() == b""
        await writer.write(b"a line\nand")
        await writer.flush()
        assert await reader.readline() == b"a line\n"
        assert await reader.readline() == b"and"
        await writer.write(b" more\n")
        await writer.flush()
        assert [line async for line in reader] == [b" more\n"]


# -- what io promises of bytes that are not flushed -----------------------------------------------


@pytest.mark.parametrize("buffering", [2, 16, 4096])
async def test_at_most_a_buffer_is_unwritten(tiers: Tiers, path: Path, buffering: int) -> None:
    async with await anyio_uring.open_file(path, "wb", buffering) as file:
        written = 0
        for size in [1, 2, 3, 15, 16, 17, 4095, 4096, 4097, 10_000, 1] * 2:
            written += await file.write(b"x" * size)
            assert written - buffering <= path.stat().st_size <= written
            assert await file.tell() == written


async def test_pread_before_what_is_unwritten_behind_the_end(tiers: Tiers, tmp_path: Path) -> None:
    """The file is as long as it will be: there are zeros."""
    async with await anyio_uring.open_file(tmp_path / "file", "w+b") as file:
        await file.seek(100)
        await file.write(b"data")
        assert await file.pread(10, 0) == bytes(10)
        assert await file.pread(10, 96) == bytes(4) + b"data"
