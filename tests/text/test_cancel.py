"""A cancelled operation of a text file has no effect; a write that has begun is whole."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.fuse import FuseMount, cannot_fuse
from tests.support.mounts import cannot_mount, tmpfs
from tests.support.state import fifo_writer, nothing_in_flight, until

from anyio_uring import open_file, statistics

pytestmark = pytest.mark.anyio

READS: dict[str, Callable[[Any], Any]] = {
    "read": lambda file: file.read(100),
    "read all": lambda file: file.read(),
    "readline": lambda file: file.readline(),
    "iterate": lambda file: file.__aiter__().__anext__(),
}


@pytest.mark.parametrize("method", READS)
async def test_read_of_a_pipe_timed_out_loses_no_character(
    tiers: Tiers, tmp_path: Path, method: str
) -> None:
    """Not those decoded before, nor those that came while it waited, nor half a character."""
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await open_file(tmp_path / "fifo", encoding="utf-8") as file:
            os.write(fd, "first\nsecond ж".encode()[:-1])
            assert await file.readline() == "first\n"
            for _ in range(2):
                with anyio.move_on_after(0.01) as scope:
                    await READS[method](file)
                assert scope.cancelled_caught
            assert statistics().inflight == 0
            os.write(fd, "ж, end\n".encode()[1:])
            assert await file.readline() == "second ж, end\n"


@pytest.mark.hosts("asyncio", "uvloop")
async def test_native_cancel_of_a_read_loses_no_character(tiers: Tiers, tmp_path: Path) -> None:
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await open_file(tmp_path / "fifo") as file:
            os.write(fd, b"begin ")
            task = asyncio.ensure_future(file.readline())
            await until(lambda: file._text.chars == "begin " or file._handle.inflight == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await nothing_in_flight()
            os.write(fd, b"end\n")
            assert await file.readline() == "begin end\n"


CALLS: dict[str, Callable[[Any], Any]] = {
    **READS,
    "readlines": lambda file: file.readlines(),
    "write": lambda file: file.write("x"),
    "write much": lambda file: file.write("x" * 20_000),
    "writelines": lambda file: file.writelines(["x", "y"]),
    "seek": lambda file: file.seek(0),
    "tell": lambda file: file.tell(),
    "truncate": lambda file: file.truncate(0),
    "flush": lambda file: file.flush(),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("method", CALLS)
async def test_operation_in_a_cancelled_scope_has_no_effect(
    tiers: Tiers, tmp_path: Path, method: str, encoding: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes("one\ntwo\nthree\n".encode(encoding))
    async with await open_file(path, "r+", encoding=encoding) as file:
        assert await file.readline() == "one\n"
        position = await file.tell()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await CALLS[method](file)
        assert scope.cancelled_caught
        assert await file.tell() == position
        assert await file.readline() == "two\n"
    assert path.read_bytes() == "one\ntwo\nthree\n".encode(encoding)


@pytest.fixture
def mount() -> Iterator[FuseMount]:
    if reason := cannot_fuse():
        pytest.skip(reason)
    with FuseMount({"file": b"0123456789\n" * 10_000}, direct_io=True) as mount:
        yield mount


@pytest.mark.tiers("auto", "ring")  # a thread's read cannot be called back
@pytest.mark.hosts("asyncio", "trio")
async def test_cancelled_read_of_a_slow_disk_has_not_moved(tiers: Tiers, mount: FuseMount) -> None:
    async with await open_file(mount.path / "file", encoding="utf-8") as file:
        assert await file.read(7) == "0123456"
        mount.stall("READ")
        with anyio.move_on_after(0.02) as scope:
            await file.read(20_000)
        mount.release()
        assert scope.cancelled_caught
        assert await file.tell() == 7
        assert await file.readline() == "789\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.tiers("auto", "thread")
async def test_write_that_was_cancelled_is_whole_or_was_not(
    tiers: Tiers, tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "f"
    expected = ""
    async with await open_file(path, "w", encoding=encoding) as file:
        for number in range(200):
            text = f"{number}\n" * (5 * number)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel_soon, scope, number % 4)
                    await file.write(text)
                    expected += text
    assert path.read_text(encoding) == expected


async def cancel_soon(scope: anyio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.hosts("asyncio", "uvloop")
async def test_write_cancelled_natively_is_whole_or_was_not(tiers: Tiers, tmp_path: Path) -> None:
    """What a task has left under way is finished, or its encoder's state is as before."""
    path = tmp_path / "f"
    texts = [f"{number}:" + chr(97 + number % 26) * 9000 + "\n" for number in range(60)]
    async with await open_file(path, "w", encoding="utf-16") as file:
        for number, text in enumerate(texts):
            task = asyncio.ensure_future(file.write(text))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
    lines = path.read_text("utf-16").splitlines(keepends=True)
    assert lines == sorted(set(lines), key=lines.index)
    assert set(lines) <= set(texts)
    assert path.read_bytes().count("".encode("utf-16")) == bool(lines)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    if (reason := cannot_mount()) is not None:
        pytest.skip(reason)
    with tmpfs(64 << 10) as path:
        yield path


@pytest.mark.parametrize("piece", [100, 5000, 200_000])
async def test_full_disk_is_told_with_the_files_name(
    tiers: Tiers, small_disk: Path, piece: int
) -> None:
    path = small_disk / "f"
    file = await open_file(path, "w")
    with pytest.raises(OSError, match="No space left") as caught:  # noqa: PT012
        for _ in range(80_000 // piece + 1):
            await file.write("x" * piece)
        await file.aclose()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    # Nobody gives up what he has promised: closing says so again, and closes
    try:
        await file.aclose()
    except OSError as error:
        assert error.errno == errno.ENOSPC  # noqa: PT017
    assert file.closed


@pytest.mark.hosts("asyncio", "trio")
async def test_small_text_on_a_full_disk_is_told_in_aclose(tiers: Tiers, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (64 << 10))
    file = await open_file(small_disk / "f", "w")
    await file.write("text")
    with pytest.raises(OSError, match="No space left") as caught:
        await file.aclose()
    assert caught.value.filename == str(small_disk / "f")
    assert file.closed


@pytest.mark.hosts("asyncio", "trio")
async def test_what_was_accepted_outlives_a_full_disk(tiers: Tiers, small_disk: Path) -> None:
    """A page goes out, the rest of what earlier writes have promised waits for the next attempt."""
    filler, path = small_disk / "filler", small_disk / "f"
    path.touch()
    status = os.statvfs(small_disk)
    filler.write_bytes(b"x" * (status.f_bavail * status.f_bsize - 4096))
    expected = ""
    failures = 0
    async with await open_file(path, "w") as file:
        for number in range(200):
            text = f"{number:99}\n"
            try:
                await file.write(text)
                expected += text
            except OSError as error:
                failures += 1
                assert error.errno == errno.ENOSPC  # noqa: PT017
                filler.unlink()
    assert failures == 1
    assert path.read_text() == expected


async def test_text_and_its_buffer_take_turns(tiers: Tiers, tmp_path: Path) -> None:
    async with await open_file(tmp_path / "f", "w") as file, anyio.create_task_group() as group:
        await file.write("begin\n")
        for number in range(20):
            group.start_soon(file.write, f"{number:2}" * 9000 + "\n")
            group.start_soon(file.buffer.flush)
            group.start_soon(file.flush)
    first, *rest = (tmp_path / "f").read_text().splitlines()
    assert first == "begin"
    assert sorted(rest) == [f"{number:2}" * 9000 for number in range(20)]
