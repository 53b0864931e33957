"""The gate: operations that need no waiting share the loop's turns among the tasks.

What can be counted is counted: operations between two turns of the loop, and whose they were.
"""

from __future__ import annotations

import itertools
import mmap
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyio_uring import AsyncFile, _handle, configure, current_settings, open_file, statistics
from anyio_uring._runtime import current_runtime

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not _handle.COMPILED, reason="serving inline needs the compiled core"),
]

SIZE = 4096
TASKS = [1, 16, 128, 1000]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cached"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
async def file(path: Path) -> AsyncIterator[AsyncFile[bytes]]:
    async with await open_file(path, "rb", 0) as file:
        yield file


ALLOWANCE, SMALL = 200e-6, 60e-6  # seconds


def in_a_turn(size: int = SIZE) -> int:
    """Operations of so many bytes that the allowance of one turn admits."""
    meter = current_runtime().meter
    count = 0
    meter.refill()
    while meter.charge(size):
        count += 1
    return count


async def longest_burst(operation: Callable[[], Any], count: int) -> int:
    """How often an operation was done, of so many times, without another task running."""
    done = longest = 0

    async def other() -> None:
        nonlocal done, longest
        while True:
            await checkpoint()
            longest, done = max(longest, done), 0

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        await wait_for_turns()
        for _ in range(count):
            await operation()
            done += 1
        group.cancel_scope.cancel()
    return max(longest, done)


async def wait_for_turns(count: int = 5) -> None:
    for _ in range(count):
        await checkpoint()


class Readers:
    """Tasks that read cached data flat out, until so many reads were made by all of them."""

    def __init__(self, file: AsyncFile[bytes], total: int) -> None:
        self.file = file
        self.total = total
        self.log: list[int] = []
        self.turns: Counter[int] = Counter()  # reads in each turn of the loop
        self.seconds: list[float] = []  # and how long it took
        self.begun = 0.0
        self.turn = 0

    async def read(self, number: int) -> None:
        while len(self.log) < self.total:
            await self.file.pread(SIZE, 0)
            self.log.append(number)
            self.turns[self.turn] += 1

    async def count_turns(self) -> None:
        while len(self.log) < self.total:
            await checkpoint()
            now = time.perf_counter()
            self.seconds.append(now - self.begun)
            self.begun = now
            self.turn += 1

    async def run(self, tasks: int) -> None:
        self.begun = time.perf_counter()
        async with anyio.create_task_group() as group:
            group.start_soon(self.count_turns)
            for number in range(tasks):
                group.start_soon(self.read, number)


@pytest.mark.parametrize("tasks", TASKS)
async def test_shares_are_equal_and_turns_bounded(
    file: AsyncFile[bytes], tasks: int, anyio_backend: Any, anyio_backend_name: str
) -> None:
    if tasks > 128 and anyio_backend[1].get("debug"):
        pytest.skip("asyncio's debug mode takes a minute for a thousand")
    burst = in_a_turn()
    readers = Readers(file, tasks * burst * 5 // 2)
    await readers.run(tasks)
    del readers.turns[readers.turn]  # when all was read, nobody counted turns any more
    shares = Counter(readers.log)
    assert len(shares) == tasks
    assert max(shares.values()) <= 2 * min(shares.values())
    # One task passes the gate in each turn of the loop.  Trio shuffles the tasks of a turn, so
    # there two may come between two looks at the counter.  In a turn that takes long, as the first
    # does in which all of them begin, others get small allowances, four times as long apart.
    factor = 2 if anyio_backend_name == "trio" else 1
    for turn, reads in readers.turns.items():
        small = max(readers.seconds[turn] - 4 * ALLOWANCE, 0) / (4 * SMALL) * (SMALL / ALLOWANCE)
        assert reads <= factor * burst * (1 + small)
    counts = statistics()
    assert counts.now == len(readers.log)
    assert (counts.ring, counts.thread) == (0, 0)


async def test_tasks_take_turns_in_order(file: AsyncFile[bytes]) -> None:
    tasks, rounds = 16, 6
    readers = Readers(file, tasks * in_a_turn() * rounds)
    await readers.run(tasks)
    bursts = [number for number, _ in itertools.groupby(readers.log)]
    order = bursts[tasks : 2 * tasks]
    assert sorted(order) == list(range(tasks))
    expected = itertools.cycle(order)
    for number in bursts[tasks : tasks * (rounds - 1)]:
        assert number == next(expected)


@pytest.mark.parametrize("tasks", [16, 1000])
async def test_timeout_is_not_kept_waiting(file: AsyncFile[bytes], tasks: int) -> None:
    seconds = []
    for _ in range(3):
        readers = Readers(file, 1 << 40)
        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(readers.read, number)
            await wait_for_turns()
            start = time.perf_counter()
            with anyio.move_on_after(0.1):
                await anyio.sleep_forever()
            seconds.append(time.perf_counter() - start)
            group.cancel_scope.cancel()
        assert readers.log
        if seconds[-1] <= 0.11:
            return
    pytest.fail(f"a timeout of 0.1 s fired after {seconds}")


@pytest.mark.parametrize(
    "call",
    [
        lambda file: file.read(SIZE),
        lambda file: file.readall(),
        lambda file: file.readline(),
        lambda file: file.readinto(bytearray(SIZE)),
        lambda file: file.preadinto(bytearray(SIZE), 0),
        lambda file: file.seek(0),
        lambda file: file.seek(0, 2),
        lambda file: file.tell(),
        lambda file: file.flush(),
    ],
    ids=["read", "readall", "readline", "readinto", "preadinto", "seek", "end", "tell", "flush"],
)
async def test_every_operation_lets_others_run(
    file: AsyncFile[bytes], call: Callable[[AsyncFile[bytes]], Any]
) -> None:
    longest = await longest_burst(lambda: call(file), 1000)
    # Trio shuffles the tasks of a turn, so there two may come between
    assert 0 < longest <= 2 * in_a_turn(0)


async def test_opening_and_closing_let_others_run(path: Path) -> None:
    async def open_and_close() -> None:
        await (await open_file(path, "rb", 0)).aclose()

    # Ten times as dear as a small read
    assert await longest_burst(open_and_close, 500) <= 2 * in_a_turn(0) / 5


@pytest.mark.parametrize("size", [1 << 10, 8 << 10, 1 << 19], ids=["1K", "8K", "512K"])
async def test_data_is_charged_by_its_size(tmp_path: Path, size: int) -> None:
    assert size <= current_settings().inline_size_max
    path = tmp_path / "larger"
    path.write_bytes(bytes(size))
    async with await open_file(path, "rb", 0) as file:

        async def read() -> None:
            await file.seek(0)
            assert len(await file.readall()) == size

        assert await longest_burst(read, 200) <= 2 * (in_a_turn(size) + 1)


async def test_slow_copying_is_charged_by_the_clock(tmp_path: Path) -> None:
    size = current_settings().inline_size_max
    path = tmp_path / "large"
    path.write_bytes(bytes(size))
    meter = current_runtime().meter
    meter.refill()
    full = meter.left
    assert meter.charge(size)
    estimate = full - meter.left
    async with await open_file(path, "rb", 0) as file:
        meter.refill()
        # Memory that was never touched: each page has to be found first
        with mmap.mmap(-1, size) as fresh:
            assert await file.preadinto(fresh, 0) == size
        assert full - meter.left > estimate


# -- the line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_task_that_leaves_the_line_is_skipped(file: AsyncFile[bytes], leaver: int) -> None:
    runtime = current_runtime()
    gate = runtime.gate
    passed: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def pass_gate(number: int) -> None:
        with scopes[number]:
            await gate.turn()
            passed.append(number)

    await gate._line.acquire(runtime.host)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(pass_gate, number)
            await wait_for_turns()
        assert passed == []
        scopes[leaver].cancel()
        await wait_for_turns()
        gate._line.release()
    assert passed == [number for number in range(3) if number != leaver]
    with anyio.fail_after(5):
        await gate.turn()


async def test_cancelled_head_passes_its_turn_on(file: AsyncFile[bytes]) -> None:
    gate = current_runtime().gate
    passed: list[str] = []

    async def be_cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await gate.turn()
            passed.append("head")

    async def come_behind() -> None:
        await gate.turn()
        passed.append("behind")

    with anyio.fail_after(5):
        for _ in range(20):
            async with anyio.create_task_group() as group:
                group.start_soon(be_cancelled)
                group.start_soon(come_behind)
    assert passed == ["behind"] * 20


async def test_cancelled_reader_does_not_stop_the_others(file: AsyncFile[bytes]) -> None:
    readers = Readers(file, 16 * in_a_turn() * 4)
    scopes = [anyio.CancelScope() for _ in range(16)]

    async def read(number: int) -> None:
        with scopes[number]:
            await readers.read(number)

    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(read, number)
        await wait_for_turns()
        for scope in scopes[::2]:
            scope.cancel()
            await checkpoint()
    assert set(readers.log[-8 * in_a_turn() :]) == set(range(1, 16, 2))


# -- a checkpoint for every operation --------------------------------------------------------------


@pytest.fixture
def every_one() -> Iterator[None]:
    before = current_settings().checkpoint_every
    configure(checkpoint_every=1)
    yield
    configure(checkpoint_every=before)


async def test_checkpoint_every_one_alternates(every_one: None, path: Path) -> None:
    log: list[int] = []

    async def read(number: int) -> None:
        for _ in range(50):
            await file.pread(SIZE, 0)
            log.append(number)

    async with await open_file(path, "rb", 0) as file, anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(read, number)
    # From the second round on, until the first of them has finished
    for first, second in itertools.pairwise(log[3:-6]):
        assert first != second


async def test_checkpoint_every_one_gives_a_full_checkpoint(
    every_one: None, path: Path, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("the instrument that looks for checkpoints is Trio's")
    from trio.testing import assert_checkpoints

    with assert_checkpoints():
        file = await open_file(path, "r+b", 0)
    operations: list[Callable[[], Any]] = [
        lambda: file.read(10),
        lambda: file.read(0),
        file.readall,
        file.readline,
        lambda: file.readinto(bytearray(10)),
        lambda: file.pread(10, 0),
        lambda: file.preadinto(bytearray(10), 0),
        lambda: file.write(b"x"),
        lambda: file.pwrite(b"x", 0),
        lambda: file.seek(0),
        file.tell,
        lambda: file.truncate(5),
        file.flush,
        file.fsync,
        file.aclose,
    ]
    for operation in operations:
        with assert_checkpoints():
            await operation()
    with assert_checkpoints():
        reading = await open_file(path, "rb", 0)
    with assert_checkpoints():
        await reading.aclose()
