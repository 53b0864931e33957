"""`direct=True`: O_DIRECT at any offset and of any size, compared with a file in memory."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import Tiers
from tests.support.fuse import cannot_mount
from tests.support.mounts import MissingToolError, fs_type, loop
from tests.support.oracle import outcome

import anyio_uring
from anyio_uring import _direct, statistics
from anyio_uring.testing import force_tiers

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="O_DIRECT needed"),
]

SIZE = 3 * 4096 + 777
CONTENT = random.Random(1).randbytes(SIZE)


@pytest.fixture(scope="module", params=["here", "xfs", "btrfs"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A directory on a file system with direct I/O."""
    with ExitStack() as stack:
        if request.param == "here":
            path = tmp_path_factory.mktemp("direct")
        else:
            if reason := cannot_mount():
                pytest.skip(reason)
            try:
                path = stack.enter_context(loop(request.param))
            except MissingToolError as error:
                pytest.skip(str(error))
        if fs_type(path) not in {"ext4", "xfs", "btrfs"}:
            pytest.skip(f"{fs_type(path)} may have no direct I/O")
        yield path


@pytest.fixture
def path(place: Path) -> Path:
    path = place / "file"
    path.write_bytes(CONTENT)
    return path


AROUND = (0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, SIZE - 1, SIZE, SIZE + 1, 20_000)


async def test_read_at_any_offset_and_of_any_size(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "rb", 0, direct=True) as file:
        assert file._handle.direct
        for offset in AROUND:
            for size in (*AROUND, 1 << 20):
                expected = CONTENT[offset : offset + size]
                assert await file.pread(size, offset) == expected, (size, offset)
                target = bytearray(b"." * size)
                assert await file.preadinto(target, offset) == len(expected)
                assert target == expected + b"." * (size - len(expected))
            await file.seek(offset)
            assert await file.read(100) == CONTENT[offset : offset + 100]
            assert await file.read() == CONTENT[offset + 100 :]
            assert await file.tell() == max(SIZE, offset)
        requests = [(size, offset) for size in AROUND for offset in AROUND]
        expected_all = [CONTENT[offset : offset + size] for size, offset in requests]
        assert await file.pread_many(requests) == expected_all


async def test_big_read_is_whole(tiers: Tiers, place: Path) -> None:
    content = random.Random(2).randbytes((5 << 20) + 5)
    (place / "big").write_bytes(content)
    async with await anyio_uring.open_file(place / "big", "rb", 0, direct=True) as file:
        assert await file.read() == content
        assert await file.pread(1 << 40, 3) == content[3:]
        assert await file.pread(3 << 20, 4095) == content[4095 : 4095 + (3 << 20)]
        target = bytearray(len(content))
        assert await file.preadinto(target, 1) == len(content) - 1
        assert target == content[1:] + b"\0"
        file.fileno()
        await file.seek(7)
        assert await file.read() == content[7:]
        await file.seek(9)
        assert await file.readinto(target) == len(content) - 9
        assert target[:-9] == content[9:]
    (place / "big").unlink()


async def test_write_at_any_offset_and_of_any_size(tiers: Tiers, path: Path) -> None:
    model = bytearray(CONTENT)
    draw = random.Random(3)
    async with await anyio_uring.open_file(path, "r+b", 0, direct=True) as file:
        for offset in AROUND:
            for size in (0, 1, 700, 4096, 8192, 9000):
                data = draw.randbytes(size)
                assert await file.pwrite(data, offset) == size
                if size:
                    model.extend(bytes(max(offset + size - len(model), 0)))
                    model[offset : offset + size] = data
                assert path.stat().st_size == len(model), (size, offset)
        assert await file.pread(1 << 20, 0) == model
    assert path.read_bytes() == model


async def test_whole_blocks_go_to_the_ring(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0, direct=True) as file:
        before = statistics().thread
        await file.pwrite(bytes(8192), 4096)
        await file.pread(100, 5000)
        await file.pread_many([(5, 0), (5, 9000)])
        if tiers.ring:
            assert statistics().thread == before


class Model:
    """An unbuffered file in memory, by the rules of `io.FileIO`."""

    def __init__(self, content: bytes, append: bool) -> None:
        self.data = bytearray(content)
        self.position = len(content) if append else 0
        self.append = append

    def read(self, size: int) -> bytes:
        data = bytes(self.data[self.position :][: None if size < 0 else size])
        self.position += len(data)
        return data

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def seek(self, offset: int) -> int:
        self.position = offset
        return offset

    def write(self, size: int) -> int:
        if self.append and size:
            self.position = len(self.data)
        self.pwrite(size, self.position)
        self.position += size
        return size

    def pwrite(self, size: int, offset: int) -> int:
        if size:
            self.data.extend(bytes(max(offset + size - len(self.data), 0)))
            self.data[offset : offset + size] = filled(size)
        return size

    def truncate(self, size: int) -> int:
        self.data.extend(bytes(max(size - len(self.data), 0)))
        del self.data[size:]
        return size


def filled(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


sizes = st.one_of(
    st.integers(0, 13_000), st.sampled_from([0, 1, 512, 4095, 4096, 4097, 8192, 65536, 70_000])
)
step = st.one_of(
    st.tuples(st.just("read"), st.one_of(sizes, st.just(-1))),
    st.tuples(st.just("pread"), sizes, sizes),
    st.tuples(st.just("seek"), sizes),
    st.tuples(st.just("write"), sizes),
    st.tuples(st.just("pwrite"), sizes, sizes),
    st.tuples(st.just("truncate"), sizes),
    st.tuples(st.just("share")),
)


@given(
    steps=st.lists(step, max_size=14),
    tier=st.sampled_from(["ring", "thread"]),
    buffering=st.sampled_from([0, -1, 1000]),
    mode=st.sampled_from(["r+b", "w+b", "a+b", "wb"]),
)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_sequence_gives_what_a_file_in_memory_gives(
    place: Path, steps: list[tuple[Any, ...]], tier: Any, buffering: int, mode: str
) -> None:
    path = place / "sequence"
    path.write_bytes(CONTENT)
    model = Model(CONTENT if "w" not in mode else b"", mode[0] == "a")

    async def main() -> None:
        file: Any
        async with await anyio_uring.open_file(path, mode, buffering, direct=True) as file:
            for name, *arguments in steps:
                if name == "share":
                    file.fileno()
                    continue
                if (name == "pwrite" and model.append) or ("read" in name and mode == "wb"):
                    continue
                expected = getattr(model, name)(*arguments)
                if "write" in name:
                    arguments[0] = filled(arguments[0])
                result = await getattr(file, name)(*arguments)
                assert result == expected, (name, arguments[1:])
                if not (buffering and model.append):
                    assert await file.tell() == model.position
        assert path.read_bytes() == model.data

    with force_tiers(tier, "thread"):
        anyio.run(main)


async def test_append_finds_the_end_each_time(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "ab", 0, direct=True) as file:
        assert await file.write(b"more") == 4
        with open(path, "ab") as other:
            other.write(b" of another")
        assert await file.write(bytes(5000)) == 5000
        assert await file.tell() == SIZE + 15 + 5000
        with pytest.raises(io.UnsupportedOperation):
            await file.pwrite(b"x", 0)
    assert path.read_bytes() == CONTENT + b"more of another" + bytes(5000)


async def test_buffered_lines(tiers: Tiers, place: Path) -> None:
    lines = [b"%d\n" % number for number in range(20_000)]
    (place / "lines").write_bytes(b"".join(lines))
    async with await anyio_uring.open_file(place / "lines", "rb", direct=True) as file:
        assert [line async for line in file] == lines
        await file.seek(1001)
        assert await file.readline() == b"".join(lines)[1001:].split(b"\n")[0] + b"\n"


async def test_hundred_tasks_write_parts_of_the_same_blocks(tiers: Tiers, place: Path) -> None:
    """Reading a block, changing it, writing it: none undoes another's, nor the size."""
    path = place / "shared"
    part = 700

    async def work(file: anyio_uring.AsyncFile[bytes], number: int) -> None:
        assert await file.pwrite(bytes([number]) * part, number * part) == part
        block = 100_000 // 4096 * 4096 + number * 4096
        assert await file.pwrite(bytes([number]) * 4096, 4096 * 30 + block) == 4096

    order = list(range(100))
    random.Random(4).shuffle(order)
    async with (
        await anyio_uring.open_file(path, "w+b", 0, direct=True) as file,
        anyio.create_task_group() as tasks,
    ):
        for number in order:
            tasks.start_soon(work, file, number)
    content = path.read_bytes()
    assert content[: 100 * part] == b"".join(bytes([number]) * part for number in range(100))
    end = b"".join(bytes([number]) * 4096 for number in range(100))
    assert content.endswith(end)
    assert len(content) == 100_000 // 4096 * 4096 + 130 * 4096


async def test_closing_finishes_what_is_buffered(tiers: Tiers, path: Path) -> None:
    file = await anyio_uring.open_file(path, "r+b", direct=True)
    await file.write(b"abc")
    done: list[int] = []

    async def write() -> None:
        done.append(await file.pwrite(bytes(8192), 4096))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        while not file._handle.inflight and not done:
            await anyio.lowlevel.checkpoint()
        file.close()
    while file._handle.inflight or file._handle.fd >= 0:
        await anyio.lowlevel.checkpoint()
    assert path.read_bytes() == b"abc" + CONTENT[3:4096] + bytes(8192) + CONTENT[12288:]


# -- who goes alone -------------------------------------------------------------------------------


def test_guard_lets_one_go_alone() -> None:
    guard = _direct.BlockGuard()
    assert guard.share()
    assert guard.share()
    begun, go_on = threading.Event(), threading.Event()

    def alone() -> None:
        with guard.alone():
            begun.set()
            go_on.wait(10)

    threads = [threading.Thread(target=alone) for _ in range(2)]
    for thread in threads:
        thread.start()
    while guard.share():  # until one of them waits
        guard.unshare()
    guard.unshare()
    assert not begun.is_set()
    assert not guard.share()
    guard.unshare()
    assert begun.wait(10)
    assert not guard.share()
    go_on.set()
    for thread in threads:
        thread.join()
    assert guard.share()


def test_guard_of_a_forked_child_is_free() -> None:
    guard = _direct.BlockGuard()
    with guard.alone():
        child = os.fork()
        if not child:
            os._exit(0 if guard.share() else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert guard.share()


def test_buffers_of_a_forked_child_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_direct, "_buffers", [])
    with _direct._borrowed() as memory:
        memory[:6] = b"parent"
    child = os.fork()
    if not child:
        with _direct._borrowed() as memory:
            memory[:6] = b"child!"
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with _direct._borrowed() as memory:
        assert bytes(memory[:6]) == b"parent"


async def test_cancelled_write_within_a_block_is_whole_or_has_not_begun(
    tiers: Tiers, path: Path
) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0, direct=True) as file:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.pwrite(b"x" * 100, 4090)
        assert scope.cancelled_caught
        assert path.read_bytes() == CONTENT
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(file.pwrite, b"x" * 100, SIZE)
                await anyio.lowlevel.checkpoint()
                scope.cancel()
    assert path.read_bytes() in {CONTENT, CONTENT + b"x" * 100}


@pytest.mark.hosts("asyncio", "uvloop")
async def test_natively_cancelled_write_within_a_block_is_whole_or_has_not_begun(
    tiers: Tiers, path: Path
) -> None:
    """It has several steps, and the last one sets the size."""
    content = CONTENT
    async with await anyio_uring.open_file(path, "r+b", 0, direct=True) as file:
        for turns in range(20):
            data = bytes([turns]) * 100
            task = asyncio.ensure_future(file.pwrite(data, len(content)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            while file._handle.inflight:
                await anyio.lowlevel.checkpoint()
            assert path.read_bytes() in {content, content + data}
            content = path.read_bytes()


# -- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "w", "r+"])
async def test_text_mode_is_refused_before_anything(tiers: Tiers, path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match="binary"):
        await anyio_uring.open_file(path, mode, direct=True)
    assert path.read_bytes() == CONTENT


async def test_system_without_direct_io_says_so(
    tiers: Tiers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_direct, "O_DIRECT", 0)
    with pytest.raises(io.UnsupportedOperation, match="O_DIRECT"):
        await anyio_uring.open_file(path, "wb", direct=True)
    assert path.read_bytes() == CONTENT


async def test_file_system_without_direct_io_says_so(tiers: Tiers) -> None:
    path = "/proc/self/status"
    if not os.path.exists(path):
        pytest.skip("/proc needed")
    for opener in None, os.open:
        result = await outcome(
            partial(anyio_uring.open_file, mode="rb", direct=True, opener=opener), path, path
        )
        assert result == (OSError, errno.EINVAL, "Invalid argument")
    fd = os.open(path, os.O_RDONLY)
    result = await outcome(partial(anyio_uring.open_file, mode="rb", direct=True), fd, fd)
    assert result == (OSError, errno.EINVAL, "Invalid argument")
    os.close(fd)  # it is still open


async def test_descriptor_and_opener_are_switched(tiers: Tiers, path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    async with await anyio_uring.open_file(fd, "r+b", 0, direct=True) as file:
        assert await file.read(5) == CONTENT[:5]
        assert await file.write(b"x") == 1
        assert await file.readline() == CONTENT[6:].split(b"\n")[0] + b"\n"
        assert os.lseek(fd, 0, os.SEEK_CUR) == await file.tell()
    async with await anyio_uring.open_file(
        path, "rb", 0, opener=lambda name, _: os.open(name, os.O_RDONLY), direct=True
    ) as file:
        assert file._handle.direct
        assert await file.pread(3, 4) == CONTENT[4:5] + b"x" + CONTENT[6:7]


async def test_path_opens_directly(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.Path(path).open("rb", direct=True) as file:
        assert file._handle.direct  # type: ignore[attr-defined]
        assert await file.read(5) == CONTENT[:5]


async def test_stream_has_none(tiers: Tiers, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)
    result = await outcome(
        partial(anyio_uring.open_file, mode="rb", direct=True), str(fifo), str(fifo)
    )
    assert result == (OSError, errno.EINVAL, "Invalid argument")
    os.close(writer)
