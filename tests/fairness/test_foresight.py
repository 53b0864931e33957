"""The meter sees what the loop has to do next, and spares it turns in which it would do nothing."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyio_uring import AsyncFile, _handle, open_file
from anyio_uring._gate import Gate
from anyio_uring._runtime import current_runtime

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not _handle.COMPILED, reason="serving inline needs the compiled core"),
]

SIZE = 4096
UNKNOWN = -1.0
OF_ASYNCIO = pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop")


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[AsyncFile[bytes]]:
    (tmp_path / "cached").write_bytes(bytes(SIZE))
    async with await open_file(tmp_path / "cached", "rb", 0) as file:
        for _ in range(3):  # what the fixtures have left to do
            await checkpoint()
        yield file


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often somebody has waited for a turn of the loop."""
    count = 0
    original = Gate.turn

    async def counting(gate: Gate) -> None:
        nonlocal count
        count += 1
        await original(gate)

    monkeypatch.setattr(Gate, "turn", counting)
    return lambda: count


async def reads_until(file: AsyncFile[bytes], happened: Callable[[], object]) -> int:
    """Read until something has happened that another task or the loop does."""
    for count in range(1, 1_000_000):
        await file.pread(SIZE, 0)
        if happened():
            return count
    raise AssertionError("it never happened")


def in_turns(turns: int) -> int:
    """Reads that the allowances of so many turns admit."""
    meter = current_runtime().meter
    meter.refill()
    left = meter.left
    assert meter.charge(SIZE)
    cost = left - meter.left
    meter.refill()
    return int(turns * (left // cost + 1))


# One that is spared gives an allowance twice as long.
SPARED = 2


@OF_ASYNCIO
async def test_spare_is_how_long_the_loop_has_nothing_to_do(file: AsyncFile[bytes]) -> None:
    meter, loop = current_runtime().meter, asyncio.get_running_loop()
    assert meter.spare() == math.inf

    timer = loop.call_later(100, int)
    assert 99 < meter.spare() <= 100
    timer.cancel()
    await checkpoint()
    assert meter.spare() == math.inf

    loop.call_soon(int)
    assert meter.spare() == 0.0
    await checkpoint()

    timer = loop.call_later(-1, int)
    assert meter.spare() == 0.0
    await checkpoint()
    await checkpoint()
    assert meter.spare() == math.inf

    reader, writer = os.pipe()
    try:
        loop.add_reader(reader, os.read, reader, 1)
        await checkpoint()  # uvloop watches it from its next turn on
        assert meter.spare() == math.inf
        os.write(writer, b"x")
        assert meter.spare() == 0.0
        await checkpoint()
        await checkpoint()
        assert meter.spare() == math.inf
    finally:
        loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)


# (In debug mode a read takes so long that the task seems to do much else.)
@pytest.mark.hosts("asyncio", "uvloop")
async def test_turns_that_would_do_nothing_are_spared(
    file: AsyncFile[bytes], turns: Callable[[], int]
) -> None:
    reads = in_turns(110)
    taken = []
    for _ in range(20):
        before = turns()
        for _ in range(reads):
            await file.pread(SIZE, 0)
        taken.append(turns() - before)
        # One turn and five that were spared are eleven allowances; where something else has the
        # processor the task seems to be busy otherwise, and none is spared.
        assert taken[-1] >= 5
        if taken[-1] <= 30:
            return
    pytest.fail(f"turns taken: {taken}")


async def test_no_turn_is_spared_for_a_task_that_does_much_else(
    file: AsyncFile[bytes], turns: Callable[[], int]
) -> None:
    reads = in_turns(5)
    before = turns()
    for _ in range(reads):
        await file.pread(SIZE, 0)
        begun = time.perf_counter()
        while time.perf_counter() < begun + 50e-6:
            pass
    assert turns() - before >= 4


@pytest.mark.hosts("asyncio", "asyncio-debug")
async def test_timer_that_is_not_a_number_stops_nothing(file: AsyncFile[bytes]) -> None:
    happened: list[str] = []
    asyncio.get_running_loop().call_later(math.nan, happened.append, "timer")
    assert current_runtime().meter.spare() == 0.0
    assert await reads_until(file, lambda: happened) <= in_turns(1) + 1


@pytest.mark.hosts("asyncio", "asyncio-debug")
async def test_loop_that_is_told_to_stop_stops(file: AsyncFile[bytes]) -> None:
    loop: Any = asyncio.get_running_loop()
    loop.stop()
    assert current_runtime().meter.spare() == 0.0
    loop._stopping = False  # the test goes on
    assert current_runtime().meter.spare() == math.inf


async def charged_in_another_task(times: int) -> int:
    """How many reads of so many a task of its own would be admitted, one after the other."""
    meter = current_runtime().meter
    admitted = 0

    async def charge() -> None:
        nonlocal admitted
        admitted = sum(meter.charge(SIZE) for _ in range(times))

    async with anyio.create_task_group() as group:
        group.start_soon(charge)
    return admitted


def use_up(seconds: float) -> None:
    """Have the current task use its allowance up, and time go by after that."""
    meter = current_runtime().meter
    meter.refill()
    while meter.charge(SIZE):
        pass
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        pass


async def test_where_the_loop_is_busy_otherwise_another_task_gets_a_small_allowance_at_once(
    file: AsyncFile[bytes],
) -> None:
    meter, most = current_runtime().meter, in_turns(1)
    meter.busy = True  # so that no turn is spared
    for _ in range(50):  # where something else has the processor, time goes by all the same
        use_up(0.0)
        if not await charged_in_another_task(most):
            break
    else:
        pytest.fail("another task got an allowance each time")
    use_up(0.01)
    assert 0 < await charged_in_another_task(most) < most // 2
    meter.busy = False


async def test_time_that_a_task_has_spent_itself_gets_it_no_allowance(
    file: AsyncFile[bytes],
) -> None:
    meter = current_runtime().meter
    meter.busy = True
    use_up(0.01)
    assert not meter.charge(SIZE)
    assert meter.overdue() is False
    assert not meter.charge(SIZE)
    meter.busy = False


@pytest.mark.hosts("asyncio")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("children", [1, 4, 5, 7])
async def test_tasks_that_begin_within_another_are_no_turn_of_the_loop(
    file: AsyncFile[bytes], children: int
) -> None:
    factory: Any = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]
    loop = asyncio.get_running_loop()

    async def one() -> None:
        await file.pread(SIZE, 0)
        begun = time.perf_counter()
        while time.perf_counter() < begun + 100e-6:
            pass

    happened: list[str] = []
    most = 2 * in_turns(3)
    loop.set_task_factory(factory)
    try:
        loop.call_soon(happened.append, "callback")
        reads = 0
        while not happened and reads <= most:
            for task in [loop.create_task(one()) for _ in range(children)]:
                await task
            reads += children
        assert reads <= most
    finally:
        loop.set_task_factory(None)


@OF_ASYNCIO
async def test_who_becomes_ready_does_not_wait_for_more_than_an_allowance(
    file: AsyncFile[bytes],
) -> None:
    """A callback, a descriptor and a task's future, while a task on its own reads."""
    loop = asyncio.get_running_loop()
    most = in_turns(SPARED) + 1  # the one that waited for its turn is through, too
    happened: list[str] = []

    loop.call_soon(happened.append, "callback")
    assert await reads_until(file, lambda: happened) <= most

    reader, writer = os.pipe()
    try:
        loop.add_reader(reader, lambda: (loop.remove_reader(reader), happened.append("descriptor")))
        await checkpoint()
        os.write(writer, b"x")
        assert await reads_until(file, lambda: happened[1:]) <= most
    finally:
        os.close(reader)
        os.close(writer)

    event = anyio.Event()

    async def wait() -> None:
        await event.wait()
        happened.append("task")

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await checkpoint()
        event.set()
        assert await reads_until(file, lambda: happened[2:]) <= most
    assert happened == ["callback", "descriptor", "task"]


@OF_ASYNCIO
async def test_task_that_cancels_itself_ends_soon(file: AsyncFile[bytes]) -> None:
    async def read() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await reads_until(file, lambda: False)

    most = in_turns(SPARED)
    count = 0
    original = file.pread

    async def counting(size: int, offset: int) -> bytes:
        nonlocal count
        count += 1
        return await original(size, offset)

    file.pread = counting  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(read())
    assert count <= most


async def test_no_turn_is_spared_while_another_task_waits_for_its_own(
    file: AsyncFile[bytes], turns: Callable[[], int]
) -> None:
    counts = [0, 0]

    async def read(number: int) -> None:
        while sum(counts) < total:
            await file.pread(SIZE, 0)
            counts[number] += 1

    total = in_turns(40)
    before = turns()
    async with anyio.create_task_group() as group:
        group.start_soon(read, 0)
        group.start_soon(read, 1)
    assert turns() - before >= 40
    assert max(counts) < 2 * min(counts)


@pytest.mark.hosts("uvloop")
async def test_more_timers_than_are_looked_through_spare_no_turn(
    file: AsyncFile[bytes], turns: Callable[[], int]
) -> None:
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(100, int) for _ in range(65)]
    assert current_runtime().meter.spare() == UNKNOWN
    reads = in_turns(21)
    before = turns()
    for _ in range(reads):
        await file.pread(SIZE, 0)
    assert turns() - before >= 20
    for timer in timers:
        timer.cancel()
    await checkpoint()
    assert current_runtime().meter.spare() == math.inf


@pytest.mark.hosts("trio")
async def test_guest_of_another_loop_is_spared_no_turn(
    file: AsyncFile[bytes], turns: Callable[[], int]
) -> None:
    """AnyIO's plugin runs Trio's tests as a guest.  Its host has something to do as well."""
    meter = current_runtime().meter
    with anyio.move_on_after(100):
        assert 99 < meter.spare() <= 100
        await checkpoint()
    reads = in_turns(21)
    before = turns()
    for _ in range(reads):
        await file.pread(SIZE, 0)
    assert turns() - before >= 20
