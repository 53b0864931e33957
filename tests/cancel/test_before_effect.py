"""In a cancelled scope nothing happens; what has begun is whole."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.cancel.conftest import CONTENT
from tests.conftest import Tiers
from tests.support.fuse import FuseMount
from tests.support.state import descriptors, nothing_in_flight, until

import anyio_uring
from anyio_uring import AsyncFile, statistics
from anyio_uring._runtime import current_runtime

pytestmark = pytest.mark.anyio
asyncio_only = pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop")

METHODS: dict[str, Callable[[AsyncFile[Any]], Awaitable[Any]]] = {
    "read": lambda file: file.read(3),
    "read nothing": lambda file: file.read(0),
    "read all": lambda file: file.read(),
    "readall": lambda file: file.readall(),
    "readinto": lambda file: file.readinto(bytearray(3)),
    "readinto nothing": lambda file: file.readinto(bytearray()),
    "readline": lambda file: file.readline(),
    "readlines": lambda file: file.readlines(),
    "iterate": lambda file: file.__aiter__().__anext__(),
    "pread": lambda file: file.pread(3, 1),
    "preadinto": lambda file: file.preadinto(bytearray(3), 1),
    "write": lambda file: file.write(b"new"),
    "write nothing": lambda file: file.write(b""),
    "writelines": lambda file: file.writelines([b"new"]),
    "pwrite": lambda file: file.pwrite(b"new", 1),
    "seek": lambda file: file.seek(2),
    "seek to the end": lambda file: file.seek(0, os.SEEK_END),
    "tell": lambda file: file.tell(),
    "truncate": lambda file: file.truncate(1),
    "truncate here": lambda file: file.truncate(),
    "flush": lambda file: file.flush(),
    "fsync": lambda file: file.fsync(),
    "fdatasync": lambda file: file.fdatasync(),
}


def served() -> tuple[int, int, int]:
    counts = statistics()
    return counts.now, counts.ring, counts.thread


@pytest.mark.parametrize("shared", [False, True])
async def test_method_in_a_cancelled_scope_has_no_effect(
    tiers: Tiers, tmp_path: Path, shared: bool
) -> None:
    (tmp_path / "file").write_bytes(b"0123\n56789")
    async with await anyio_uring.open_file(tmp_path / "file", "r+b", 0) as file:
        if shared:
            file.fileno()
        await file.seek(2)
        before = served()
        for name, method in METHODS.items():
            with anyio.CancelScope() as scope:
                scope.cancel()
                await method(file)
                pytest.fail(f"{name} was not cancelled")
            assert scope.cancelled_caught, name
        assert served() == before
        assert await file.tell() == 2
    assert (tmp_path / "file").read_bytes() == b"0123\n56789"


async def test_open_in_a_cancelled_scope_creates_nothing(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    for mode, name in (("xb", "new"), ("wb", "file"), ("rb", "file"), ("ab", "new")):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio_uring.open_file(tmp_path / name, mode, 0)  # type: ignore[arg-type]
            pytest.fail(f"{mode} was not cancelled")
        assert scope.cancelled_caught
    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


async def test_close_in_a_cancelled_scope_closes_and_returns(tiers: Tiers, tmp_path: Path) -> None:
    for mode in ("wb", "rb"):
        file = await anyio_uring.open_file(tmp_path / "file", mode, 0)  # type: ignore[call-overload]
        fd = file._handle.fd
        returned = False
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.aclose()
            returned = True
        assert returned
        assert file.closed
        assert fd not in descriptors()


async def test_opens_cancelled_at_random_leak_nothing(tiers: Tiers, mount: FuseMount) -> None:
    chance = random.Random(2)
    mount.delay(OPEN=0.002)
    outcomes: list[bool] = []

    async def open_one(limit: float, gate: anyio.CapacityLimiter) -> None:
        async with gate:
            with anyio.move_on_after(limit) as scope:
                file = await anyio_uring.open_file(mount.path / "file", "rb", 0)
                await file.aclose()
            outcomes.append(scope.cancelled_caught)

    async def run(count: int) -> None:
        gate = anyio.CapacityLimiter(32)
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(open_one, chance.random() * 0.02, gate)
        await nothing_in_flight()

    await run(10)
    outcomes.clear()
    before = descriptors()
    for _ in range(5):  # where a turn of the loop takes longer than the limits, all are done first
        await run(400)
        if any(outcomes):
            break
    crew = current_runtime().host.crew  # helpers stay, with an eventfd
    own = set() if crew is None else {crew.eventfd}
    await until(lambda: len(descriptors().keys() - own) <= len(before))
    assert {fd for fd, what in descriptors().items() if "fuse-" in what} == set()
    assert len(outcomes) % 400 == 0
    if tiers.ring:
        assert any(outcomes)


@pytest.mark.tiers("ring", "thread")
@pytest.mark.parametrize("turns", [1, 3, 40])
async def test_big_write_cancelled_in_flight_is_whole(
    tiers: Tiers, tmp_path: Path, turns: int
) -> None:
    data = os.urandom(1 << 20) * 64 + b"the end"
    done: list[int] = []
    async with await anyio_uring.open_file(tmp_path / "file", "wb", 0) as file:

        async def write(scope: anyio.CancelScope) -> None:
            with scope:
                done.append(await file.write(data))

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(write, scope)
            await until(lambda: file._handle.inflight == 1)
            for _ in range(turns):
                await checkpoint()
            scope.cancel()
        assert done == [len(data)]
        assert not scope.cancelled_caught
        assert await file.tell() == len(data)
    assert (tmp_path / "file").read_bytes() == data


@asyncio_only
@pytest.mark.tiers("ring", "thread")
async def test_big_write_left_by_a_native_cancel_is_whole(tiers: Tiers, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 64 + b"the end"
    file = await anyio_uring.open_file(tmp_path / "file", "wb", 0)
    task = asyncio.ensure_future(file.write(data))
    await until(lambda: (tmp_path / "file").stat().st_size > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    data = b""  # the operation keeps its own reference
    assert await file.tell() == (64 << 20) + 7
    await file.aclose()
    assert (tmp_path / "file").stat().st_size == (64 << 20) + 7
    assert (tmp_path / "file").read_bytes()[-7:] == b"the end"


async def test_write_cancelled_before_it_goes_back_keeps_what_was_read_ahead(
    tiers: Tiers, mount: FuseMount
) -> None:
    limiter = anyio.CapacityLimiter(1)
    path = mount.path / "file"
    async with await anyio_uring.open_file(path, "r+b", limiter=limiter) as file:
        file.fileno()
        assert await file.read(1) == CONTENT[:1]
        await limiter.acquire_on_behalf_of(file)
        async with anyio.create_task_group() as group:
            group.start_soon(file.write, b"x")
            await until(lambda: limiter.statistics().tasks_waiting == 1)
            group.cancel_scope.cancel()
        limiter.release_on_behalf_of(file)
        assert await file.tell() == 1
        assert await file.read(1) == CONTENT[1:2]


async def test_mount_is_as_it_was(tiers: Tiers, mount: FuseMount) -> None:
    assert mount.content("file") == CONTENT
