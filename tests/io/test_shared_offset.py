"""Who keeps the position: we, until somebody else can see the descriptor; then the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers

import anyio_uring

pytestmark = pytest.mark.anyio

CONTENT = b"0123456789" * 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def offset(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_CUR)


def open_elsewhere(path: Path) -> list[int]:
    """The offsets of this process's descriptors of a file, without asking the file."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                found.append(offset(int(name)))
        except FileNotFoundError:
            continue
    return found


# -- who keeps it ---------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_file_of_a_path_has_a_position_of_its_own(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        await file.read(10)
        await file.write(b"abc")
        assert await file.tell() == 13
        assert open_elsewhere(path) == [0]


async def test_fileno_publishes_the_position(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        await file.read(10)
        assert offset(file.fileno()) == 10
        await file.seek(25)
        assert offset(file.fileno()) == 25
        await file.write(b"abc")
        assert offset(file.fileno()) == 28
        await file.readline()
        assert offset(file.fileno()) == len(CONTENT)


async def test_fileno_publishes_the_position_also_while_an_operation_has_not_left(
    tiers: Tiers, path: Path
) -> None:
    """It may be through, and have moved the position, with its task still to be resumed."""
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        await file.read(10)
        assert file._line.try_acquire()
        assert offset(file.fileno()) == 10
        file._line.release()
        assert await file.read(1) == b"0"


async def test_what_others_do_to_the_offset_is_seen(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        fd = file.fileno()
        os.lseek(fd, 42, os.SEEK_SET)
        assert await file.tell() == 42
        assert await file.read(3) == b"234"
        assert os.read(fd, 2) == b"56"
        assert await file.seek(3, os.SEEK_CUR) == 50
        os.write(fd, b"xyz")
        assert await file.write(b"abc") == 3
        target = bytearray(2)
        assert await file.readinto(target) == 2
        assert target == b"67"
        os.lseek(fd, 90, os.SEEK_SET)
        assert await file.readall() == CONTENT[90:]
        os.lseek(fd, 70, os.SEEK_SET)
        assert await file.truncate() == 70
    assert path.read_bytes() == CONTENT[:50] + b"xyzabc" + CONTENT[56:70]


@pytest.mark.parametrize("how", ["descriptor", "opener", "append"])
async def test_file_that_others_know_from_the_beginning_is_shared(
    tiers: Tiers, path: Path, how: str
) -> None:
    fds: list[int] = []

    def opener(name: str, flags: int) -> int:
        fds.append(os.open(name, flags))
        return fds[0]

    if how == "descriptor":
        fds.append(os.open(path, os.O_RDWR))
        file = await anyio_uring.open_file(fds[0], "r+b", 0)
    elif how == "opener":
        file = await anyio_uring.open_file(path, "r+b", 0, opener=opener)
    else:
        file = await anyio_uring.open_file(path, "a+b", 0, opener=opener)
        await file.seek(0)
    async with file:
        assert await file.read(5) == b"01234"
        assert offset(fds[0]) == 5
        os.lseek(fds[0], 7, os.SEEK_SET)
        assert await file.read(2) == b"78"


async def test_dup_moves_with_the_file(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        await file.read(7)
        other = os.dup(file.fileno())
        try:
            assert os.read(other, 3) == b"789"
            assert await file.read(3) == b"012"
        finally:
            os.close(other)


# -- children -------------------------------------------------------------------------------------

CHILD = "import os, sys; os.write(int(sys.argv[1]), sys.argv[2].encode())"


def run_child(fd: int, text: str) -> None:
    subprocess.run([sys.executable, "-c", CHILD, str(fd), text], pass_fds=[fd], check=True)


@pytest.mark.parametrize("mode", ["wb", "w+b", "xb", "ab"])
async def test_output_of_a_child_follows_ours(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    """A header written at a position of our own would be overwritten by the child."""
    path = tmp_path / "log"
    async with await anyio_uring.open_file(path, mode, 0) as file:
        await file.write(b"header\n")
        run_child(file.fileno(), "child\n")
        await file.write(b"footer\n")
        assert await file.tell() == 20
        run_child(file.fileno(), "again\n")
    assert path.read_bytes() == b"header\nchild\nfooter\nagain\n"


async def test_child_reads_on_where_we_stopped(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        await file.read(5)
        program = "import os, sys; print(os.read(int(sys.argv[1]), 3).decode())"
        result = subprocess.run(
            [sys.executable, "-c", program, str(file.fileno())],
            pass_fds=[file.fileno()],
            stdout=subprocess.PIPE,
            check=True,
        )
        assert result.stdout.strip() == b"567"
        assert await file.read(3) == b"890"


async def test_file_is_the_output_of_a_process(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with await anyio_uring.open_file(path, "wb", 0) as file:
        await file.write(b"before\n")
        program = "print('from the process', flush=True)"
        await anyio.run_process([sys.executable, "-c", program], stdout=file.fileno())
        await file.write(b"after\n")
    assert path.read_bytes() == b"before\nfrom the process\nafter\n"


# -- appending ------------------------------------------------------------------------------------


async def test_two_appenders_do_not_overwrite_each_other(tiers: Tiers, path: Path) -> None:
    async with (
        await anyio_uring.open_file(path, "ab", 0) as ours,
        await anyio_uring.open_file(path, "a+b", 0) as other,
    ):
        with open(path, "ab", 0) as third:
            for number in range(5):
                assert await ours.write(b"ours%d " % number) == 6
                assert await ours.tell() == path.stat().st_size
                assert await other.write(b"other%d " % number) == 7
                assert await other.tell() == path.stat().st_size
                third.write(b"third%d " % number)
        expected = b"".join(b"ours%d other%d third%d " % (n, n, n) for n in range(5))
        await other.seek(len(CONTENT))
        assert await other.read() == expected
    assert path.read_bytes() == CONTENT + expected


async def test_append_ends_at_the_end_wherever_the_position_was(tiers: Tiers, path: Path) -> None:
    results = []
    for name in ("oracle", "ours"):
        target = path.with_name(name)
        target.write_bytes(CONTENT)
        positions: list[int] = []
        if name == "oracle":
            with open(target, "a+b", 0) as file:
                positions.append(file.tell())
                file.seek(3)
                positions.append(file.write(b"new"))
                positions.append(file.tell())
                file.seek(10)
                read: Any = file.read(2)
                file.write(b"er")
                positions.append(file.tell())
        else:
            async with await anyio_uring.open_file(target, "a+b", 0) as ours:
                positions.append(await ours.tell())
                await ours.seek(3)
                positions.append(await ours.write(b"new"))
                positions.append(await ours.tell())
                await ours.seek(10)
                read = await ours.read(2)
                await ours.write(b"er")
                positions.append(await ours.tell())
        results.append((positions, read, target.read_bytes()))
    assert results[0] == results[1]


async def test_concurrent_appends_of_two_files_are_whole(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "log"
    records = [b"%03d" % number * 50 + b"\n" for number in range(40)]
    async with (
        await anyio_uring.open_file(path, "ab", 0) as one,
        await anyio_uring.open_file(path, "ab", 0) as other,
        anyio.create_task_group() as tasks,
    ):
        for number, record in enumerate(records):
            tasks.start_soon((one, other)[number % 2].write, record)
    assert sorted(path.read_bytes().splitlines(keepends=True)) == records


# -- closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", ["aclose", "close", "drop"])
async def test_closefd_false_leaves_the_offset_where_we_were(
    tiers: Tiers, path: Path, close: str
) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        file: Any = await anyio_uring.open_file(fd, "r+b", 0, closefd=False)
        assert await file.read(4) == b"0123"
        assert await file.write(b"xy") == 2
        if close == "aclose":
            await file.aclose()
        elif close == "close":
            file.close()
        else:
            del file
        assert offset(fd) == 6
        assert os.read(fd, 2) == b"67"
    finally:
        os.close(fd)


async def test_wrapped_file_and_ours_are_one(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        await file.read(5)
        wrapped: Any = file.wrapped
        assert wrapped.tell() == 5
        wrapped.write(b"ab")
        assert await file.read(1) == b"7"
        assert wrapped.seek(20) == 20
        assert await file.tell() == 20
        await file.seek(30)
        assert wrapped.read(2) == b"01"
