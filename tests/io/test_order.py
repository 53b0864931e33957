"""Tasks that share a file: in order of arrival, one at a time, and leaving has no effect."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import HOSTS, Tiers
from tests.support.state import until

import anyio_uring

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(200))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("shared", [False, True])
async def test_reads_of_fifty_tasks_get_consecutive_bytes_in_order(
    tiers: Tiers, path: Path, shared: bool
) -> None:
    got: list[tuple[int, bytes]] = []
    started: list[int] = []

    async def read(file: anyio_uring.AsyncFile[bytes], number: int) -> None:
        started.append(number)
        got.append((number, await file.read(1)))

    async with await anyio_uring.open_file(path, "rb", 0) as file:
        if shared:
            file.fileno()
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(read, file, number)
        assert await file.tell() == 50
    # Trio starts the tasks of one turn in an order of its own
    bytes_of = dict(got)
    assert [bytes_of[number] for number in started] == [bytes([n]) for n in range(50)]


async def test_mixed_operations_happen_in_order(tiers: Tiers, path: Path) -> None:
    """Each at the position that the one before has left, whatever tier serves it."""
    log: list[Any] = []

    async def step(call: Any, *args: Any) -> None:
        log.append((call.__name__, await call(*args)))

    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        target = bytearray(3)
        for call, *args in (
            (file.seek, 10),
            (file.read, 2),
            (file.write, b"xyz"),
            (file.tell,),
            (file.readinto, target),
            (file.seek, -5, os.SEEK_CUR),
            (file.read, 5),
            (file.truncate,),
            (file.seek, 0, os.SEEK_END),
            (file.tell,),
        ):
            await step(call, *args)
    assert log == [
        ("seek", 10),
        ("read", CONTENT[10:12]),
        ("write", 3),
        ("tell", 15),
        ("readinto", 3),
        ("seek", 13),
        ("read", b"yz" + CONTENT[15:18]),
        ("truncate", 18),
        ("seek", 18),
        ("tell", 18),
    ]


@pytest.mark.parametrize("shared", [False, True])
async def test_concurrent_writes_are_whole_and_next_to_each_other(
    tiers: Tiers, tmp_path: Path, shared: bool
) -> None:
    records = [bytes([65 + n]) * (100 + n) for n in range(26)]
    async with await anyio_uring.open_file(tmp_path / "log", "wb", 0) as file:
        if shared:
            file.fileno()
        async with anyio.create_task_group() as tasks:
            for record in records:
                tasks.start_soon(file.write, record)
        assert await file.tell() == sum(map(len, records))
    content = (tmp_path / "log").read_bytes()
    assert len(content) == sum(map(len, records))
    for record in records:
        assert content.count(record) == 1


async def test_concurrent_lines_are_whole(tiers: Tiers, tmp_path: Path) -> None:
    lines = [b"%d:" % n + b"x" * (n * 37) + b"\n" for n in range(60)]
    (tmp_path / "lines").write_bytes(b"".join(lines))
    got: list[bytes] = []

    async def read() -> None:
        while line := await file.readline():
            got.append(line)

    async with (
        await anyio_uring.open_file(tmp_path / "lines", "rb", 0) as file,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(5):
            tasks.start_soon(read)
    assert sorted(got) == sorted(lines)


@pytest.mark.parametrize("name", ["read", "readline", "readall", "seek", "write", "readinto"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5])
async def test_descriptor_asked_for_in_the_middle_shows_the_position_afterwards(
    tiers: Tiers, tmp_path: Path, name: str, turns: int
) -> None:
    line = b"x" * 30_000 + b"\n"
    path = tmp_path / "lines"
    path.write_bytes(line * 3)
    calls: dict[str, tuple[Any, ...]] = {
        "read": (20_000,),
        "readline": (),
        "readall": (),
        "seek": (-5, os.SEEK_END),
        "write": (b"y" * 50,),
        "readinto": (bytearray(10_000),),
    }
    expected = {
        "read": 20_000,
        "readline": len(line) - 100,
        "readall": 3 * len(line) - 100,
        "seek": 3 * len(line) - 5 - 100,
        "write": 50,
        "readinto": 10_000,
    }
    results: list[Any] = []

    async def call() -> None:
        results.append(await getattr(file, name)(*calls[name]))

    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        await file.seek(100)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            fd = file.fileno()
        position = 100 + expected[name]
        assert os.lseek(fd, 0, os.SEEK_CUR) == position
        assert await file.tell() == position
    if isinstance(results[0], bytes):
        assert results[0] == (line * 3)[100:position]


@pytest.fixture
def held(path: Path) -> Any:
    """A pipe whose reading end is a file of ours: a read on it waits until we write."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)


@pytest.mark.parametrize("leaver", [1, 2, 3])
async def test_waiter_that_leaves_has_no_effect(
    tiers: Tiers, held: tuple[int, int], leaver: int
) -> None:
    reader, writer = held
    got: dict[int, Any] = {}
    scopes = [anyio.CancelScope() for _ in range(5)]

    async def read(file: anyio_uring.AsyncFile[bytes], number: int) -> None:
        with scopes[number]:
            got[number] = await file.read(1)
            return
        got[number] = "cancelled"

    async with (
        await anyio_uring.open_file(reader, "rb", 0) as file,
        anyio.create_task_group() as tasks,
    ):
        for number in range(5):
            tasks.start_soon(read, file, number)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
        scopes[leaver].cancel()
        await until(lambda: leaver in got)
        assert got == {leaver: "cancelled"}
        os.write(writer, b"abcd")
    expected: dict[int, Any] = {}
    letters = iter((b"a", b"b", b"c", b"d"))
    for number in range(5):
        expected[number] = "cancelled" if number == leaver else next(letters)
    assert got == expected


async def test_everybody_leaves_and_the_file_goes_on(tiers: Tiers, held: tuple[int, int]) -> None:
    reader, writer = held
    async with await anyio_uring.open_file(reader, "rb", 0) as file:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(file.read, 1)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        os.write(writer, b"ab")
        with anyio.fail_after(10):
            assert await file.read(1) == b"a"
            assert await file.read(1) == b"b"


async def test_cancelled_seek_and_write_in_line_do_not_happen(tiers: Tiers, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    peer = os.open(fifo, os.O_RDWR)
    async with await anyio_uring.open_file(fifo, "r+b", 0, opener=os.open) as file:
        scope = anyio.CancelScope()

        async def write() -> None:
            with scope:
                await file.write(b"never")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(file.read, 1)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(write)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
            await until(lambda: scope.cancelled_caught)
            os.write(peer, b"x")
        os.set_blocking(peer, False)
        with pytest.raises(BlockingIOError):
            os.read(peer, 10)
    os.close(peer)


@pytest.mark.parametrize("host", HOSTS)
def test_one_file_serves_two_loops_in_two_threads(tiers: Tiers, tmp_path: Path, host: str) -> None:
    backend, options = HOSTS[host]
    count = 300
    path = tmp_path / "numbers"
    path.write_bytes(b"".join(n.to_bytes(2, "big") for n in range(2 * count)))
    got: list[list[int]] = [[], []]
    errors: list[BaseException] = []
    barrier = threading.Barrier(2)

    async def opening() -> anyio_uring.AsyncFile[bytes]:
        return await anyio_uring.open_file(path, "rb", 0)

    async def reading(file: anyio_uring.AsyncFile[bytes], mine: list[int]) -> None:
        for _ in range(count):
            data = await file.read(2)
            assert len(data) == 2
            mine.append(int.from_bytes(data, "big"))

    def work(file: anyio_uring.AsyncFile[bytes], mine: list[int]) -> None:
        try:
            barrier.wait()
            anyio.run(reading, file, mine, backend=backend, backend_options=options)
        except BaseException as error:  # noqa: BLE001 (raised in the test's own thread)
            errors.append(error)

    file = anyio.run(opening, backend=backend, backend_options=options)
    threads = [threading.Thread(target=work, args=(file, mine)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(got[0] + got[1]) == list(range(2 * count))
    assert all(mine == sorted(mine) for mine in got)
    anyio.run(file.aclose, backend=backend, backend_options=options)
