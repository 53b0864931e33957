"""The loop looks a short while for the completion of an operation that is alone and short."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.conftest import Tiers

from anyio_uring import _handle, open_file, statistics
from anyio_uring._runtime import current_runtime

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hosts("asyncio", "uvloop"),
    pytest.mark.tiers("auto", "ring"),
    pytest.mark.skipif(not _handle.COMPILED, reason="needs the compiled core"),
]


@pytest.fixture
def fifo(tmp_path: Path) -> bytes:
    os.mkfifo(tmp_path / "fifo")
    return bytes(tmp_path / "fifo")


class Alone:
    """The opening of a FIFO that nobody writes to: short by its kind, and never done."""

    def __init__(self, fifo: bytes) -> None:
        from anyio_uring import _uring

        self.runtime: Any = current_runtime()
        assert self.runtime.host.ready()
        self.ring = self.runtime.host.ring
        self.operation = _uring.open_operation(fifo, os.O_RDONLY, 0)
        self.ring.start(self.operation)
        self.ring.submit()

    def cost(self) -> int:
        """What looking for its completion takes from the allowance, in nanoseconds."""
        meter = self.runtime.meter
        meter.refill()
        before = meter.left
        assert meter.linger(self.ring, self.operation) == []
        return int(before - meter.left)

    def end(self) -> None:
        self.ring.cancel(self.operation)
        while not self.operation.done:
            self.runtime.host.deliver(self.ring.wait(1))


@pytest.fixture
async def alone(tiers: Tiers, fifo: bytes) -> AsyncIterator[Alone]:
    if not tiers.ring or statistics().driver != "uring":
        pytest.skip("needs a ring")
    for _ in range(3):  # what the fixtures have left to do
        await checkpoint()
    alone = Alone(fifo)
    yield alone
    alone.end()


async def test_it_is_looked_for_now_and_then_where_that_is_in_vain(alone: Alone) -> None:
    length = alone.runtime.meter.linger_ns
    costs = [alone.cost() for _ in range(40)]
    assert all(cost >= length for cost in costs[:4])
    assert [cost >= length for cost in costs[4:]].count(True) in (2, 3)
    assert {cost for cost in costs[4:] if cost < length} == {0}


async def test_not_while_the_loop_has_something_else_to_do(alone: Alone) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(int)
    assert alone.cost() == 0
    await checkpoint()
    timer = loop.call_later(alone.runtime.meter.linger_ns * 1e-9 / 2, int)
    assert alone.cost() == 0
    timer.cancel()
    await checkpoint()
    await checkpoint()
    assert alone.cost() > 0


async def test_not_beside_another_operation(alone: Alone, fifo: bytes) -> None:
    other = Alone(fifo)
    assert alone.cost() == other.cost() == 0
    other.end()
    # (the kernel signals the end after it can be seen, and that is something to do for the loop)
    with anyio.fail_after(60):
        while alone.cost() == 0:
            await checkpoint()


async def test_not_for_what_may_wait_for_a_device(alone: Alone, tmp_path: Path) -> None:
    from anyio_uring import _uring

    alone.end()
    meter = alone.runtime.meter
    meter.refill()
    left = meter.left
    for flags in (os.O_DSYNC, os.O_DIRECT):
        with open(os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT), "r+b", 0) as file:
            handle = _uring.Handle(
                file.fileno(),
                os.O_RDWR | flags,
                closefd=False,
                st_mode=os.stat(tmp_path / "f").st_mode,
            )
            write = _uring.write_operation(handle, b"x", 0, True)
            read = _uring.read_operation(handle, 1, 0, True, False)
            sync = _uring.fsync_operation(handle, False)
            assert meter.linger(alone.ring, write) == []
            assert meter.linger(alone.ring, read) == []
            assert meter.linger(alone.ring, sync) == []
    assert meter.left == left


async def test_write_that_is_alone_needs_no_turn_of_the_loop(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tiers.ring or statistics().driver != "uring":
        pytest.skip("needs a ring")
    async with await open_file(tmp_path / "f", "wb", 0) as file:
        await file.write(b"x")
        waited = 0
        host: Any = current_runtime().host
        original = type(host).wait

        async def counting(self: Any, unit: Any) -> None:
            nonlocal waited
            waited += 1
            await original(self, unit)

        monkeypatch.setattr(type(host), "wait", counting)
        # A worker that is not let run takes longer, and then it is not looked for each time
        for _ in range(50):
            waited = 0
            for _ in range(20):
                await file.write(b"x")
            if waited < 10:
                return
    pytest.fail("nearly all of the writes waited")


@pytest.mark.parametrize("processors", [1, 2])
async def test_not_on_a_single_processor(processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))

    async def main() -> int:
        return int(current_runtime().meter.linger_ns)

    found = await anyio.to_thread.run_sync(anyio.run, main)
    assert (found > 0) == (processors > 1)
