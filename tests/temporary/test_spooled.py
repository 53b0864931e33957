"""`SpooledTemporaryFile` behaves as AnyIO's, and does not lose what is in memory."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.oracle import outcome
from tests.temporary.test_temporary import SHAPES, script

import anyio_uring
from anyio_uring import SpooledTemporaryFile, _spooled

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "ring", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]


@pytest.mark.parametrize("size_max", [0, 12, 1000])
@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.tiers("auto", "thread")
@pytest.mark.parametrize("shape", [*SHAPES[:2], SHAPES[3], SHAPES[5], SHAPES[7]], ids=str)
async def test_file_behaves_as_anyios(size_max: int, shape: dict[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"max_size": size_max, **shape, "dir": str(tmp_path)}
    oracle: Any = anyio.SpooledTemporaryFile(**arguments)
    file: Any = SpooledTemporaryFile(**arguments)
    assert isinstance(file, anyio.SpooledTemporaryFile)
    text = "b" not in shape.get("mode", "b")
    for number, call in enumerate(script(text)):
        expected = await outcome(call, oracle)
        result = await outcome(call, file)
        if result[:1] == expected[:1] == (ValueError,):
            continue  # a closed file's text differs between BytesIO and files
        assert result == expected, number
        assert file._rolled == oracle._rolled, number


async def test_rollover_translates_newlines_once() -> None:
    async with SpooledTemporaryFile(mode="w+", encoding="utf-16", newline="\r\n") as file:
        await file.write("one\ntwo\n")
        await file.rollover()
        await file.write("three\n")
        await file.seek(0)
        assert await file.read() == "one\r\ntwo\r\nthree\r\n"


@pytest.mark.parametrize("mode", ["w+b", "w+"])
async def test_rollover_keeps_bytes_and_position(mode: Any) -> None:
    data: Any = b"one\ntwo\n" if "b" in mode else "öne\ntwö\n"
    async with SpooledTemporaryFile(mode=mode) as file:
        await file.write(data)
        await file.seek(0)
        line = await file.readline()
        assert isinstance(file.wrapped, io.BytesIO | io.TextIOWrapper)
        await file.rollover()
        await file.rollover()
        assert isinstance(file.fileno(), int)
        assert isinstance(file.wrapped, io.FileIO)
        assert line + await file.read() == data
    assert file.closed


async def test_binary_methods_work_before_and_after_the_rollover() -> None:
    async with SpooledTemporaryFile() as file:
        await file.write(b"0123456789")
        for _ in range(2):
            buffer = bytearray(3)
            await file.seek(0)
            assert await file.read1(2) == b"01"
            assert await file.readinto(buffer) == 3
            assert await file.readinto1(memoryview(buffer)[:1]) == 1
            assert bytes(buffer) == b"534"
            assert [line async for line in file] == [b"6789"]
            await file.flush()
            await file.rollover()


async def test_rollover_that_fails_leaves_the_data_in_memory() -> None:
    async with SpooledTemporaryFile(4, dir="/no/such/folder") as file:
        await file.write(b"data")
        with pytest.raises(FileNotFoundError):
            await file.write(b"more")
        assert not file._rolled
        await file.seek(0)
        assert await file.read() == b"datamore"


async def test_operations_of_others_wait_for_the_rollover(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    enter = anyio_uring.TemporaryFile.__aenter__

    async def slow(self: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await enter(self)

    monkeypatch.setattr(_spooled.TemporaryFile, "__aenter__", slow)
    async with SpooledTemporaryFile(4) as file:
        async with anyio.create_task_group() as group:
            group.start_soon(file.write, b"first ")
            await begun.wait()
            group.start_soon(file.write, b"second")
            await anyio.lowlevel.checkpoint()
            go_on.set()
        await file.seek(0)
        assert await file.read() == b"first second"


@pytest.mark.hosts("asyncio", "uvloop")
@pytest.mark.parametrize("how", ["synchronously", "by a task that is cancelled"])
async def test_file_closed_while_it_moves_stays_closed(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    made: list[Any] = []
    enter = anyio_uring.TemporaryFile.__aenter__

    async def slow(self: Any) -> Any:
        made.append(await enter(self))
        begun.set()
        await go_on.wait()
        return made[0]

    monkeypatch.setattr(_spooled.TemporaryFile, "__aenter__", slow)
    file: Any = SpooledTemporaryFile(4)
    moving = asyncio.create_task(file.write(b"first "))
    await begun.wait()
    if how == "synchronously":
        file.close()
    else:
        closing = asyncio.create_task(file.aclose())
        await anyio.lowlevel.checkpoint()
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
    go_on.set()
    await asyncio.wait([moving])
    assert made[0].closed
    assert file.closed


async def test_cancelled_scope_raises_before_any_effect() -> None:
    async with SpooledTemporaryFile(4) as file:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.write(b"too much")
        assert scope.cancelled_caught
        assert await file.tell() == 0
        assert not file._rolled
