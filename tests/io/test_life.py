"""A file that outlives what its operations ran on: a loop, a thread, a process, a task."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.fuse import FuseMount, cannot_fuse

import anyio_uring
from anyio_uring import _runtime
from anyio_uring.testing import force_tiers

pytestmark = pytest.mark.skipif(not anyio_uring.driver_info().features, reason="needs io_uring")


def ring() -> Any:
    return _runtime.current_runtime().host.ring  # type: ignore[attr-defined]


async def in_flight() -> None:
    while ring() is None or not ring().inflight:
        await anyio.lowlevel.checkpoint()


def in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_loop_that_moves_from_thread_to_thread_gets_new_rings(tmp_path: Path) -> None:
    # Some of the threads get the identity of an earlier one, and must not be taken for it
    (tmp_path / "f").write_bytes(bytes(range(20)))
    loop = asyncio.new_event_loop()
    files: list[Any] = []
    data: list[bytes] = []

    async def read() -> None:
        if not files:
            files.append(await anyio_uring.open_file(tmp_path / "f", "rb", 0))
        data.append(await files[0].read(1))

    with force_tiers("ring"):
        for _ in range(20):
            in_a_thread(lambda: loop.run_until_complete(read()))
        loop.run_until_complete(files[0].aclose())
    loop.close()
    assert b"".join(data) == bytes(range(20))


def test_loop_that_moves_with_an_operation_in_flight_starts_it_again(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    reader, writer = os.pipe()
    held: list[Any] = []

    async def begin() -> None:
        held.append(await anyio_uring.open_file(reader, "rb", 0))
        held.append(asyncio.ensure_future(held[0].read(5)))
        await in_flight()

    async def go_on() -> None:
        async with await anyio_uring.open_file(tmp_path / "f", "w+b", 0) as file:
            await file.write(b"x")  # makes the new ring
        os.write(writer, b"hello")
        assert await asyncio.wait_for(held[1], 5) == b"hello"
        await held[0].aclose()

    loop.run_until_complete(begin())
    errors: list[BaseException] = []

    def move() -> None:
        try:
            with pytest.warns(ResourceWarning, match="still in the kernel"):
                loop.run_until_complete(go_on())
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    in_a_thread(move)
    loop.close()
    os.close(writer)
    assert not errors


@pytest.mark.skipif(bool(cannot_fuse()), reason=cannot_fuse() or "")
def test_file_with_a_leaked_operation_can_be_closed_in_the_next_loop() -> None:
    with FuseMount({"f": b"hello"}, direct_io=True) as mount, force_tiers("ring"):
        files: list[Any] = []

        async def begin() -> None:
            files.append(await anyio_uring.open_file(mount.path / "f", "rb", 0))
            mount.stall("READ")
            reading = asyncio.ensure_future(files[0].pread(5, 0))
            await in_flight()
            mount.wait_for("READ", 1)  # before the worker has it, it can be cancelled
            reading.cancel()
            await asyncio.wait([reading])

        async def end() -> None:
            await asyncio.wait_for(files[0].aclose(), 5)

        with pytest.warns(ResourceWarning, match="still in the kernel"):
            asyncio.run(begin())
        mount.release()
        asyncio.run(end())
        assert files[0]._handle.fd == -1


@pytest.mark.skipif(bool(cannot_fuse()), reason=cannot_fuse() or "")
def test_loop_is_closed_although_the_warning_about_leaks_is_an_error() -> None:
    with FuseMount({"f": b"hello"}, direct_io=True) as mount, force_tiers("ring"):

        async def main() -> Any:
            file = await anyio_uring.open_file(mount.path / "f", "rb", 0)
            mount.stall("READ")
            reading = asyncio.ensure_future(file.pread(5, 0))
            await in_flight()
            mount.wait_for("READ", 1)  # before the worker has it, it can be cancelled
            reading.cancel()
            await asyncio.wait([reading])
            return file

        loop = asyncio.new_event_loop()
        file = loop.run_until_complete(main())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ResourceWarning):
                loop.close()
        assert loop.is_closed()
        mount.release()
        file.close()


@pytest.mark.skipif(bool(cannot_fuse()), reason=cannot_fuse() or "")
@pytest.mark.parametrize("tier", ["ring", "thread"])
def test_buffer_is_its_owners_again_after_a_native_cancel(tier: Any) -> None:
    with FuseMount({"f": b"hello"}, direct_io=True) as mount, force_tiers(tier):

        async def main() -> None:
            buffer = bytearray(5)
            async with await anyio_uring.open_file(mount.path / "f", "rb", 0) as file:
                mount.stall("READ")
                reading = asyncio.ensure_future(file.readinto(buffer))
                await asyncio.to_thread(mount.wait_for, "READ")
                reading.cancel()
                await asyncio.wait([reading])
                assert reading.cancelled()
                mount.release()
                while file._handle.inflight:
                    await asyncio.sleep(0)
                assert buffer == bytes(5)
                await file.readinto(buffer)
                assert buffer == b"hello"

        asyncio.run(main())


@pytest.mark.parametrize("tier", ["ring", "thread"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_close_in_another_loop_ends_a_read_that_waits_on_a_stream(tier: Any, backend: str) -> None:
    reader, writer = os.pipe()
    files: list[Any] = []
    waiting, closed = threading.Event(), threading.Event()

    async def read() -> None:
        files.append(await anyio_uring.open_file(reader, "rb", 0))
        async with anyio.create_task_group() as group:
            group.start_soon(read_one)
            while not files[0]._handle.inflight:
                await anyio.lowlevel.checkpoint()
            waiting.set()

    async def read_one() -> None:
        with pytest.raises(ValueError, match="closed file"):
            await files[0].read(1)
        closed.set()

    async def close() -> None:
        with anyio.fail_after(5):
            await files[0].aclose()

    with force_tiers(tier):
        thread = threading.Thread(target=lambda: anyio.run(read, backend=backend))
        thread.start()
        assert waiting.wait(5)
        try:
            asyncio.run(close())
            assert closed.wait(5)
        finally:
            os.close(writer)  # ends the read in any case
            thread.join()


def test_shared_file_half_in_memory_is_read_whole(tmp_path: Path) -> None:
    content = os.urandom(1 << 16)
    (tmp_path / "f").write_bytes(content)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.pread(fd, 4096, 0)

    async def main() -> None:
        async with await anyio_uring.open_file(fd, "rb", 0) as file:
            assert await file.read(16384) == content[:16384]
            assert await file.tell() == 16384
            assert await file.read() == content[16384:]

    asyncio.run(main())
