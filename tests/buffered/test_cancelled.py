"""A cancelled read has lost nothing; a cancelled write is whole or did not begin."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.fuse import FuseMount
from tests.support.state import fifo_writer, nothing_in_flight, until

import anyio_uring

from .conftest import CONTENT

pytestmark = pytest.mark.anyio
native_hosts = pytest.mark.hosts("asyncio", "uvloop")
Leave = Callable[[Any, Callable[[], bool]], Any]


async def leave_by_scope(operation: Any, waiting: Callable[[], bool]) -> None:
    """Begin an operation, and cancel it by a scope when it waits."""
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await operation()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(waiting)
        scope.cancel()
    assert scope.cancelled_caught


async def leave_natively(operation: Any, waiting: Callable[[], bool]) -> None:
    """The same by the cancellation of asyncio's own."""
    task = asyncio.ensure_future(operation())
    await until(waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@contextmanager
def held(mount: FuseMount, opcode: str) -> Iterator[None]:
    """Hold requests, but not if something fails: a thread could not be ended then."""
    mount.stall(opcode)
    try:
        yield
    finally:
        mount.release(opcode)


def leaves(*, native: bool = True) -> Any:
    ways = [pytest.param(leave_by_scope, id="scope")]
    if native:
        ways.append(pytest.param(leave_natively, id="native"))
    return pytest.mark.parametrize("leave", ways)


def skip_without_loop(leave: Leave, anyio_backend: Any) -> None:
    if leave is leave_natively and anyio_backend[0] != "asyncio":
        pytest.skip("Trio has no cancellation but that of scopes")


# -- reads ----------------------------------------------------------------------------------------


@asynccontextmanager
async def fifo(tmp_path: Path, buffering: int) -> AsyncIterator[tuple[Any, int]]:
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", buffering) as file:
            yield file, fd


STREAM_READS: dict[str, Callable[[Any], Any]] = {
    "readline": lambda file: file.readline,
    "read": lambda file: lambda: file.read(20),
    "readinto": lambda file: lambda: file.readinto(bytearray(20)),
    "readall": lambda file: file.read,
    "iteration": lambda file: file.__aiter__().__anext__,
}


@pytest.mark.parametrize("buffering", [2, 4096])
@pytest.mark.parametrize("name", STREAM_READS)
@leaves()
async def test_read_of_a_stream_that_is_cancelled_halfway_loses_nothing(
    tiers: Tiers, tmp_path: Path, leave: Leave, name: str, buffering: int, anyio_backend: Any
) -> None:
    skip_without_loop(leave, anyio_backend)
    async with fifo(tmp_path, buffering) as (file, fd):
        for part in (b"be", b"gin"):
            os.write(fd, part)
            # The part is taken out of the pipe before the read waits for more
            await leave(
                STREAM_READS[name](file), lambda: not unread(fd) and file._handle.inflight == 1
            )
        await nothing_in_flight()
        os.write(fd, b" end\nand more\n")
        assert await file.readline() == b"begin end\n"
        assert await file.readline() == b"and more\n"


def unread(fd: int) -> int:
    import fcntl
    import struct
    import termios

    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])


FILE_READS: dict[str, Callable[[Any], Any]] = {
    "readline": lambda file: file.readline,
    "read": lambda file: lambda: file.read(20),
    "readinto": lambda file: lambda: file.readinto(bytearray(20)),
    "read1": lambda file: lambda: file.read1(100),
    "peek": lambda file: file.peek,
    "readall": lambda file: file.read,
}


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
@pytest.mark.parametrize("name", FILE_READS)
@leaves()
@pytest.mark.tiers("auto", "ring")
@pytest.mark.hosts("asyncio", "trio")
async def test_read_of_a_file_that_is_cancelled_has_not_moved(
    tiers: Tiers,
    mount: FuseMount,
    slow: Path,
    leave: Leave,
    name: str,
    shared: bool,
    anyio_backend: Any,
) -> None:
    skip_without_loop(leave, anyio_backend)
    async with await anyio_uring.open_file(slow, "rb", 5) as file:
        assert await file.read(1) == CONTENT[:1]
        if shared:
            file.fileno()
        if name in {"read1", "peek"}:
            # Until the buffer is empty
            assert await file.read(5 if shared else 4) == CONTENT[1 : 6 if shared else 5]
        here = await file.tell()
        seen = mount.seen("READ")
        with held(mount, "READ"):
            await leave(FILE_READS[name](file), lambda: mount.seen("READ") > seen)
        assert await file.tell() == here
        assert await file.read() == CONTENT[here:]


@native_hosts
@pytest.mark.tiers("now+thread", "thread")
async def test_read_in_a_thread_that_is_left_has_not_moved(
    tiers: Tiers, mount: FuseMount, slow: Path
) -> None:
    for shared in (False, True):
        async with await anyio_uring.open_file(slow, "rb", 5) as file:
            assert await file.read(1) == CONTENT[:1]
            if shared:
                file.fileno()
            seen = mount.seen("READ")
            with held(mount, "READ"):
                await leave_natively(file.readline, lambda seen=seen: mount.seen("READ") > seen)  # type: ignore[misc]
            assert await file.tell() == 1
            assert await file.read() == CONTENT[1:]


async def turns() -> None:
    """Let the others go as far as they come."""
    for _ in range(10):
        await asyncio.sleep(0)


# -- writes ---------------------------------------------------------------------------------------


@leaves()
async def test_write_in_a_cancelled_scope_has_no_effect(
    tiers: Tiers, path: Path, leave: Leave, anyio_backend: Any
) -> None:
    if leave is not leave_by_scope:
        return
    async with await anyio_uring.open_file(path, "r+b", 8) as file:
        await file.write(b"kept")
        with anyio.CancelScope() as scope:
            scope.cancel()
            for call in (file.write(b"x"), file.write(b"y" * 100), file.flush(), file.truncate(0)):
                with pytest.raises(anyio.get_cancelled_exc_class()):
                    await call
        assert await file.tell() == 4
        assert path.read_bytes() == CONTENT
    assert path.read_bytes() == b"kept" + CONTENT[4:]


WRITES: dict[str, tuple[Callable[[Any], Any], bytes]] = {
    # what is called with "first" in a buffer of 8 bytes; what the file holds behind it
    "flush": (lambda file: file.flush, b"first"),
    "write": (lambda file: lambda: file.write(b"second"), b"firstsecond"),
    "big write": (lambda file: lambda: file.write(b"more than 8"), b"firstmore than 8"),
    "seek": (lambda file: lambda: file.seek(0, os.SEEK_END), b"first"),
    "fsync": (lambda file: file.fsync, b"first"),
    "truncate": (lambda file: file.truncate, b"first"),
}


@pytest.mark.parametrize("mode", ["wb", "ab"])
@pytest.mark.parametrize("name", WRITES)
@native_hosts
async def test_write_that_its_task_has_left_is_finished_once_and_in_order(
    tiers: Tiers, mount: FuseMount, name: str, mode: str
) -> None:
    path = mount.path / f"new{name}{mode}"
    path.write_bytes(b"")
    async with await anyio_uring.open_file(path, mode, 8) as file:
        await file.write(b"first")
        call, expected = WRITES[name]
        seen = mount.seen("WRITE")
        with held(mount, "WRITE"):
            await leave_natively(call(file), lambda: mount.seen("WRITE") > seen)
            later = [asyncio.ensure_future(file.write(b"[%d]" % number)) for number in range(9)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in later)
        assert await asyncio.gather(*later) == [3] * 9
    expected += b"".join(b"[%d]" % number for number in range(9))
    assert mount.content(path.name) == expected
    assert path.read_bytes() == expected


@native_hosts
@pytest.mark.parametrize("mode", ["wb", "ab"])
@pytest.mark.parametrize("cancels", [1, 2])
async def test_closing_that_is_cancelled_loses_nothing(
    tiers: Tiers, mount: FuseMount, mode: str, cancels: int
) -> None:
    path = mount.path / f"closing{mode}{cancels}"
    path.write_bytes(b"")
    file = await anyio_uring.open_file(path, mode, 8)
    await file.write(b"first")
    seen = mount.seen("WRITE")
    with held(mount, "WRITE"):
        # "second" waits for its place in the buffer, and is nobody's when the task has left
        await leave_natively(lambda: file.write(b"second"), lambda: mount.seen("WRITE") > seen)
        closing = asyncio.ensure_future(file.aclose())
        for _ in range(cancels):
            await turns()
            closing.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert file.closed
    await until(lambda: file._handle.fd == -1)
    assert mount.content(path.name) == b"firstsecond"


@pytest.mark.parametrize("synchronously", [False, True])
@pytest.mark.parametrize("mode", ["wb", "ab"])
@native_hosts
async def test_closing_while_a_write_is_under_way_loses_nothing(
    tiers: Tiers, mount: FuseMount, mode: str, synchronously: bool
) -> None:
    path = mount.path / f"under_way{mode}{synchronously}"
    path.write_bytes(b"")
    file = await anyio_uring.open_file(path, mode, 8)
    await file.write(b"first")
    seen = mount.seen("WRITE")
    with held(mount, "WRITE"):
        writing = asyncio.ensure_future(file.write(b"second"))
        await until(lambda: mount.seen("WRITE") > seen)
        if synchronously:
            file.close()
            closing = None
        else:
            closing = asyncio.ensure_future(file.aclose())
        await turns()
    if closing is not None:
        await closing
    assert await writing == 6
    await until(lambda: file._handle.fd == -1)
    assert mount.content(path.name) == b"firstsecond"


async def test_closing_in_a_cancelled_scope_writes_what_was_buffered(
    tiers: Tiers, path: Path
) -> None:
    file = await anyio_uring.open_file(path, "wb")
    await file.write(b"buffered")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await file.aclose()
    assert file.closed
    assert path.read_bytes() == b"buffered"
