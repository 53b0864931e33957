"""Files that nobody closes, and what an open file and a waiting operation take of memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.state import fifo_writer, until

import anyio_uring
from anyio_uring._runtime import current_runtime

from .conftest import CONTENT

pytestmark = pytest.mark.anyio
hosts = pytest.mark.hosts("asyncio", "trio")


@pytest.mark.parametrize("mode", ["wb", "r+b", "ab"])
async def test_dropped_file_warns_writes_and_closes(tiers: Tiers, path: Path, mode: str) -> None:
    file: Any = await anyio_uring.open_file(path, mode)
    fd = file._handle.fd
    await file.write(b"unwritten")
    files = [file]
    del file
    with pytest.warns(ResourceWarning, match="unclosed file"):
        files.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    expected = {"wb": b"unwritten", "r+b": b"unwritten" + CONTENT[9:], "ab": CONTENT + b"unwritten"}
    assert path.read_bytes() == expected[mode]


async def test_dropped_file_on_a_borrowed_descriptor_writes_and_leaves_it(
    tiers: Tiers, path: Path
) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        file: Any = await anyio_uring.open_file(fd, "r+b", closefd=False)
        await file.write(b"unwritten")
        del file
        gc.collect()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 9
    finally:
        os.close(fd)
    assert path.read_bytes() == b"unwritten" + CONTENT[9:]


@pytest.mark.parametrize("driver", ["auto", "thread"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_file_that_is_open_when_the_interpreter_ends_is_written(
    tmp_path: Path, backend: str, driver: str
) -> None:
    program = """
        import sys, anyio, anyio_uring
        files = []
        async def main():
            files.append(await anyio_uring.open_file(sys.argv[1], "wb"))
            await files[0].write(b"unwritten")
        anyio.run(main, backend=sys.argv[2])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path / "file", backend],
        env={**os.environ, "ANYIO_URING_DRIVER": driver},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == b"unwritten"


@pytest.mark.parametrize("buffering", [0, 4096])
@pytest.mark.tiers("auto", "thread")
@hosts
async def test_open_file_is_small(tiers: Tiers, path: Path, buffering: int) -> None:
    count = 100

    async def open_it() -> Any:
        return await anyio_uring.open_file(path, "rb", buffering)

    async with await open_it() as first:
        await first.read(1)  # whatever is made once is there
        gc.collect()
        tracemalloc.start()
        try:
            files = [await open_it() for _ in range(count)]
            gc.collect()
            each = tracemalloc.get_traced_memory()[0] / count
        finally:
            tracemalloc.stop()
        for file in files:
            await file.aclose()
    print(f"{each:.0f} bytes for each open file")
    assert 0 < each <= 1024


@pytest.mark.tiers("auto", "ring")
@hosts
async def test_waiting_operation_takes_little_beside_its_coroutines(
    tiers: Tiers, tmp_path: Path
) -> None:
    count, size = 50, 100
    with fifo_writer(tmp_path / "fifo"):
        files = [await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) for _ in range(count + 1)]
        for file in files:
            assert file._line is not None  # it stays with the file, once something has waited
        async with anyio.create_task_group() as group:
            group.start_soon(files[0].read, size)
            await until(lambda: anyio_uring.statistics().inflight == 1)
            parked = await memory_of(files[1:], None)
            reading = await memory_of(files[1:], size)
            each = (reading - parked) / count - size
            group.cancel_scope.cancel()
        for file in files:
            await file.aclose()
    print(f"{each:.0f} bytes for each waiting operation, without its buffer")
    assert 0 < each <= 1024


async def memory_of(files: list[Any], size: int | None) -> int:
    """What tasks take that read, or (without a size) that wait in the cheapest way."""
    before = anyio_uring.statistics().inflight
    arrived = 0
    host: Any = current_runtime().host

    async def wait(file: Any) -> None:
        nonlocal arrived
        arrived += 1
        await (host.park(host.waiter()) if size is None else file.read(size))

    gc.collect()
    tracemalloc.start()
    try:
        async with anyio.create_task_group() as inner:
            for file in files:
                inner.start_soon(wait, file)
            await until(
                lambda: (
                    arrived == len(files)
                    and (size is None or anyio_uring.statistics().inflight == before + len(files))
                )
            )
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0]
            inner.cancel_scope.cancel()
    finally:
        tracemalloc.stop()
    await until(lambda: anyio_uring.statistics().inflight == before)
    return taken
