"""Reads and opens that nobody answers can be timed out, and lose nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.conftest import Tiers
from tests.support.state import (
    descriptors,
    fifo_writer,
    has_reader,
    nothing_in_flight,
    until,
)

import anyio_uring
from anyio_uring import statistics

pytestmark = pytest.mark.anyio

# What "at once" may take on a machine that is busy with something else.
SOON = 1.0


@pytest.mark.parametrize("method", ["read", "readall", "readinto", "readline", "iterate"])
async def test_fifo_read_timed_out_takes_nothing(tiers: Tiers, tmp_path: Path, method: str) -> None:
    calls = {
        "read": lambda file: file.read(10),
        "readall": lambda file: file.readall(),
        "readinto": lambda file: file.readinto(bytearray(10)),
        "readline": lambda file: file.readline(),
        "iterate": lambda file: file.__aiter__().__anext__(),
    }
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:
            start = time.monotonic()
            with anyio.move_on_after(0.01) as scope:
                await calls[method](file)
            assert scope.cancelled_caught
            assert time.monotonic() - start < SOON
            # The kernel has given it up before the task left: what comes now is the next one's
            assert statistics().inflight == 0
            os.write(fd, b"later\n")
            assert await file.read(10) == b"later\n"
        assert statistics().abandoned == 0


async def test_fifo_read_cancelled_while_data_arrives_loses_none(
    tiers: Tiers, tmp_path: Path
) -> None:
    # A result that is there although the scope was cancelled is delivered, as AnyIO does.
    outcomes = {"delivered": 0, "cancelled": 0}
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:

            async def read(scope: anyio.CancelScope, into: list[bytes]) -> None:
                with scope:
                    into.append(await file.read(10))

            for number in range(200):
                got: list[bytes] = []
                scope = anyio.CancelScope()
                async with anyio.create_task_group() as group:
                    group.start_soon(read, scope, got)
                    for _ in range(number % 7):
                        await checkpoint()
                    if number % 2:
                        os.write(fd, b"%d" % number)
                        scope.cancel()
                    else:
                        scope.cancel()
                        os.write(fd, b"%d" % number)
                outcomes["delivered" if got else "cancelled"] += 1
                if not got:
                    got.append(await file.read(10))
                assert got == [b"%d" % number]
    assert outcomes["cancelled"] > 0


async def test_pipe_write_timed_out_says_how_much_went(tiers: Tiers, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        async with await anyio_uring.open_file(writing, "wb", 0) as file:
            with anyio.move_on_after(0.01) as scope:
                while True:
                    await file.write(b"x" * 4096)
            assert scope.cancelled_caught
            await nothing_in_flight()
            os.set_blocking(reading, False)
            os.read(reading, 1 << 20)
            assert await file.write(b"again") == 5
            assert os.read(reading, 100) == b"again"
    finally:
        os.close(reading)


@pytest.mark.tiers("auto", "ring")
async def test_fifo_open_without_peer_timed_out_leaves_no_reader(
    tiers: Tiers, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = descriptors()
    start = time.monotonic()
    with anyio.move_on_after(0.01) as scope:
        await anyio_uring.open_file(tmp_path / "fifo", "rb", 0)
    assert scope.cancelled_caught
    assert time.monotonic() - start < SOON
    await nothing_in_flight()
    assert not has_reader(tmp_path / "fifo")
    ring = {fd for fd, what in descriptors().items() if what.startswith("anon_inode:")}
    assert descriptors().keys() - ring == before.keys() - ring


@pytest.mark.tiers("auto", "ring")
async def test_fifo_open_cancelled_while_its_peer_comes_leaks_no_descriptor(
    tiers: Tiers, tmp_path: Path
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opened: list[bool] = []

    async def open_and_close(scope: anyio.CancelScope) -> None:
        with scope:
            file = await anyio_uring.open_file(path, "rb", 0)
            opened.append(True)
            await file.aclose()

    async def try_once(turns: int) -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(open_and_close, scope)
            for _ in range(turns):
                await checkpoint()
            peer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            scope.cancel()
        os.close(peer)
        await nothing_in_flight()

    await try_once(3)
    before = descriptors()
    for number in range(100):
        await try_once(number % 9)
    assert descriptors() == before
    with anyio.fail_after(60):  # a kernel worker lets go of the last one a moment later
        while has_reader(path):
            await checkpoint()


async def test_close_ends_a_waiting_read(tiers: Tiers, tmp_path: Path) -> None:
    errors: list[BaseException] = []
    with fifo_writer(tmp_path / "fifo"):
        file = await anyio_uring.open_file(tmp_path / "fifo", "rb", 0)
        fd = file._handle.fd

        async def read() -> None:
            try:
                await file.read(10)
            except ValueError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: file._handle.inflight == 1)
            await file.aclose()
        assert [str(error) for error in errors] == ["I/O operation on closed file"]
        assert fd not in descriptors()


@pytest.mark.parametrize("end", ["ready", "hung up", "cancelled", "closed"])
async def test_read_that_has_waited_leaves_no_descriptor(
    tiers: Tiers, tmp_path: Path, end: str
) -> None:
    async def wait_once() -> None:
        os.mkfifo(path)
        peer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        file = await anyio_uring.open_file(path, "rb", 0)
        path.unlink()
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with contextlib.suppress(ValueError):
                    await file.read(10)

            group.start_soon(read)
            await until(lambda: file._handle.inflight == 1)
            if end == "ready":
                os.write(peer, b"x")
            elif end == "hung up":
                os.close(peer)
            elif end == "cancelled":
                group.cancel_scope.cancel()
            else:
                await file.aclose()
        await file.aclose()
        if end != "hung up":
            os.close(peer)

    path = tmp_path / "fifo"
    await wait_once()  # makes what stays: the ring
    before = descriptors()
    for _ in range(20):
        await wait_once()
    assert descriptors() == before


def no_descriptor_left() -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.tiers("thread")
@pytest.mark.parametrize(
    "select",
    [SimpleNamespace(), SimpleNamespace(epoll=no_descriptor_left)],
    ids=["elsewhere than on Linux", "no descriptor left"],
)
async def test_stream_is_waited_for_without_an_epoll_set(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: SimpleNamespace
) -> None:
    monkeypatch.setitem(sys.modules, "select", select)
    with fifo_writer(tmp_path / "fifo") as fd:
        file = await anyio_uring.open_file(tmp_path / "fifo", "rb", 0)
        with anyio.move_on_after(0.01) as scope:
            await file.read(10)
        assert scope.cancelled_caught
        assert os.get_blocking(file.fileno())
        os.write(fd, b"later")
        assert await file.read(10) == b"later"
        assert os.get_blocking(file.fileno())

        async def read() -> None:
            with pytest.raises(ValueError, match="closed file"):
                await file.read(10)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await until(lambda: file._handle.inflight == 1)
            await file.aclose()


async def test_shielded_read_goes_on_and_the_scope_raises_afterwards(
    tiers: Tiers, tmp_path: Path
) -> None:
    got: list[bytes] = []
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:

            async def read() -> None:
                with anyio.CancelScope(shield=True):
                    got.append(await file.read(10))
                await checkpoint()
                got.append(b"not cancelled")

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await until(lambda: file._handle.inflight == 1)
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for _ in range(5):
                        await checkpoint()
                    os.write(fd, b"data")
    assert got == [b"data"]


async def test_nested_scopes_the_inner_deadline_ends_only_the_inner(
    tiers: Tiers, tmp_path: Path
) -> None:
    with fifo_writer(tmp_path / "fifo"):
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:
            with anyio.CancelScope() as outer:
                for _ in range(3):
                    with anyio.move_on_after(0.001) as inner:
                        await file.read(1)
                    assert inner.cancelled_caught
                with anyio.CancelScope() as middle, anyio.CancelScope() as inner:
                    middle.cancel()
                    inner.cancel()
                    await file.read(1)
                assert middle.cancelled_caught
                await checkpoint()
            assert not outer.cancelled_caught


async def test_task_group_error_cancels_the_reading_sibling(tiers: Tiers, tmp_path: Path) -> None:
    with fifo_writer(tmp_path / "fifo") as fd:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:

            async def fail() -> None:
                await until(lambda: file._handle.inflight == 1)
                raise RuntimeError("sibling")

            async def both() -> None:
                async with anyio.create_task_group() as group:
                    group.start_soon(file.read, 10)
                    group.start_soon(fail)

            with pytest.raises(ExceptionGroup) as caught:
                await both()
            assert [str(error) for error in caught.value.exceptions] == ["sibling"]
            os.write(fd, b"next")
            assert await file.read(10) == b"next"


async def test_line_that_takes_what_was_given_back_and_is_cancelled_keeps_the_order(
    tiers: Tiers, tmp_path: Path
) -> None:
    given_back = b"".join(b"%05d " % number for number in range(2000))
    with fifo_writer(tmp_path / "fifo"):
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:
            file._handle.kept = given_back
            async with anyio.create_task_group() as group:
                group.start_soon(file.readline)
                await until(lambda: len(file._handle.kept) < len(given_back))
                group.cancel_scope.cancel()
            assert await file.read(len(given_back)) == given_back
