"""One position and many users of it: tasks, loops one after another, loops side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.fuse import FuseMount
from tests.support.state import until

import anyio_uring

from .conftest import CONTENT

anyio_test = pytest.mark.anyio
LINES = CONTENT.splitlines(keepends=True)


@anyio_test
async def test_tasks_share_a_reader_and_lose_no_line(tiers: Tiers, path: Path) -> None:
    got: list[bytes] = []
    async with await anyio_uring.open_file(path, "rb", 100) as file:

        async def read() -> None:
            while line := await file.readline():
                got.append(line)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(read)
    assert sorted(got) == LINES


@anyio_test
async def test_tasks_share_a_writer_and_tear_no_record(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "wb", 100) as file:

        async def write(letter: bytes) -> None:
            for size in (1, 30, 99, 100, 101, 250):
                await file.write(letter * size + b"\n")
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(write, b"%c" % (97 + number))
    assert sorted(path.read_bytes().splitlines()) == sorted(
        b"%c" % (97 + number) * size for number in range(10) for size in (1, 30, 99, 100, 101, 250)
    )


@anyio_test
@pytest.mark.hosts("asyncio", "trio")
async def test_operations_are_served_in_order_of_arrival(
    tiers: Tiers, mount: FuseMount, slow: Path
) -> None:
    got: list[tuple[int, bytes]] = []
    async with await anyio_uring.open_file(slow, "r+b", 16) as file:

        async def read(number: int) -> None:
            got.append((number, await file.readline()))

        seen = mount.seen("READ")
        mount.stall("READ")
        leavers: list[anyio.CancelScope] = []
        async with anyio.create_task_group() as group:
            group.start_soon(read, 0)
            await until(lambda: mount.seen("READ") > seen)

            async def leaver() -> None:
                with anyio.CancelScope() as scope:
                    leavers.append(scope)
                    await file.readline()

            for number in range(1, 8):
                group.start_soon(read, number)
                await until(lambda number=number: waiting(file) == 2 * number - 1)  # type: ignore[misc]
                group.start_soon(leaver)
                await until(lambda number=number: waiting(file) == 2 * number)  # type: ignore[misc]
            for scope in leavers:
                scope.cancel()
            await until(lambda: waiting(file) == 7)
            mount.release()
    assert got == list(enumerate(LINES[:8]))


def waiting(file: Any) -> int:
    return len(file._line._places or ())


@anyio_test
async def test_read_after_write_after_read_in_one_turn_of_the_line(
    tiers: Tiers, path: Path
) -> None:
    async with await anyio_uring.open_file(path, "r+b", 16) as file:
        for number in range(0, 50, 2):
            assert await file.readline() == LINES[number]
            assert await file.write(b"written\n") == 8
        assert await file.tell() == 400
    found = path.read_bytes().splitlines(keepends=True)
    assert found[1:50:2] == [b"written\n"] * 25
    assert found[0:50:2] == LINES[0:50:2]
    assert found[50:] == LINES[50:]


# -- loops ----------------------------------------------------------------------------------------


def run(anyio_backend: Any, main: Callable[[], Any]) -> Any:
    return anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])


def test_file_goes_from_loop_to_loop(tiers: Tiers, anyio_backend: Any, path: Path) -> None:
    files: list[Any] = []

    async def begin() -> None:
        files.append(await anyio_uring.open_file(path, "r+b", 64))
        assert await files[0].readline() == LINES[0]
        await files[0].write(b"unwritten")

    async def go_on() -> None:
        assert await files[0].tell() == 17
        assert await files[0].read(7) == CONTENT[17:24]

    async def end() -> None:
        assert await files[0].readline() == LINES[3]
        await files[0].aclose()

    for main in (begin, go_on, end):
        run(anyio_backend, main)
    assert path.read_bytes() == CONTENT[:8] + b"unwritten" + CONTENT[17:]


@pytest.mark.parametrize("mode", ["r+b", "a+b"])
def test_loops_in_threads_share_a_file(
    tiers: Tiers, anyio_backend: Any, path: Path, mode: str
) -> None:
    got: list[bytes] = []
    both = threading.Barrier(2, timeout=30)
    files: list[Any] = []
    errors: list[BaseException] = []

    async def open_it() -> None:
        files.append(await anyio_uring.open_file(path, mode, 100))
        await files[0].seek(0)

    async def read() -> None:
        both.wait()
        while line := await files[0].readline():
            got.append(line)

    async def write() -> None:
        both.wait()
        for _ in range(300):
            await files[0].write(b"line by another\n")

    async def close() -> None:
        await files[0].aclose()

    def in_thread(main: Callable[[], Any]) -> None:
        try:
            run(anyio_backend, main)
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)
            both.abort()

    def together(*mains: Callable[[], Any]) -> None:
        threads = [threading.Thread(target=in_thread, args=[main]) for main in mains]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors

    run(anyio_backend, open_it)
    together(read, read)
    assert sorted(got) == LINES
    together(write, write)
    run(anyio_backend, close)
    assert path.read_bytes() == CONTENT + b"line by another\n" * 600
