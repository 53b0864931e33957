"""What is refused, and in which words: closed files, wrong arguments, unsupported operations."""

from __future__ import annotations

import array
import io
import os
import pickle
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest

import anyio_uring

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.hosts("asyncio", "trio"),
    pytest.mark.tiers("auto", "thread"),
]

CONTENT = b"abc\n" * 10
MODES = ["rb", "wb", "ab", "r+b", "w+b", "a+b"]
PLAIN = ["readable", "writable", "seekable", "isatty", "fileno"]
CLOSED: list[tuple[str, Any]] = [
    ("read", ()),
    ("read", (0,)),
    ("read", (5,)),
    ("read", (-2,)),
    ("read1", ()),
    ("read1", (0,)),
    ("readinto", (bytearray(3),)),
    ("readinto1", (bytearray(3),)),
    ("readline", ()),
    ("readlines", ()),
    ("write", (b"x",)),
    ("write", ("x",)),
    ("writelines", ([b"x"],)),
    ("writelines", ([],)),
    ("seek", (0,)),
    ("seek", (0, 9)),
    ("tell", ()),
    ("truncate", ()),
    ("truncate", (0,)),
    ("flush", ()),
    *((name, ()) for name in PLAIN),
]
WRONG: list[tuple[str, Any]] = [
    ("read", ("x",)),
    ("read", (1.5,)),
    ("read", (True,)),
    ("read1", ("x",)),
    ("read1", (None,)),
    ("readline", ("x",)),
    ("readline", (1.5,)),
    ("readlines", ("x",)),
    ("readlines", (1.5,)),
    ("readinto", (b"x",)),
    ("readinto", (5,)),
    ("readinto", (memoryview(bytearray(4))[::2],)),
    ("readinto1", (5,)),
    ("seek", ("x",)),
    ("seek", (0, "x")),
    ("seek", (0, None)),
    ("seek", (1.0,)),
    ("seek", (0, 7)),
    ("seek", (0, -1)),
    ("seek", (1 << 70,)),
    ("truncate", ("x",)),
    ("truncate", (1.5,)),
    ("write", (5,)),
    ("write", ("x",)),
    ("write", (None,)),
    ("writelines", (5,)),
    ("writelines", ([5],)),
    ("writelines", ("ab",)),
]
READABLE = ["rb", "r+b", "w+b", "a+b"]


def outcome(error: Exception) -> tuple[Any, ...]:
    return type(error), str(error)


async def call(file: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    try:
        result = getattr(file, name)(*arguments)
        return await result if hasattr(result, "__await__") else result
    except Exception as error:  # noqa: BLE001 (whatever it is, it is compared)
        return outcome(error)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("mode", MODES)
async def test_closed_file_refuses_as_io_does(path: Path, mode: str) -> None:
    with open(path, mode) as sync:
        pass
    file = await anyio_uring.open_file(path, mode)
    await file.aclose()
    for name, arguments in CLOSED:
        expected = await call(sync, name, arguments)
        assert await call(file, name, arguments) == expected, (name, arguments)
    with pytest.raises(ValueError, match="closed file" if mode in READABLE else "read"):
        async for _ in file:
            pass


@pytest.mark.parametrize("mode", MODES)
async def test_wrong_arguments_are_refused_as_io_does(path: Path, mode: str) -> None:
    with open(path, mode) as sync:
        async with await anyio_uring.open_file(path, mode) as file:
            for name, arguments in WRONG:
                if name in {"read", "read1"} and mode not in READABLE:
                    continue  # what is found wrong first differs between versions
                expected = await call(sync, name, arguments)
                assert await call(file, name, arguments) == expected, (name, arguments)
                assert await call(file, "tell", ()) == await call(sync, "tell", ())


@pytest.mark.parametrize("mode", ["rb", "r+b"])
async def test_peek_takes_an_integer(path: Path, mode: str) -> None:
    async with await anyio_uring.open_file(path, mode) as file:
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            await file.peek("x")  # type: ignore[attr-defined]


async def test_sizes_beyond_memory_are_refused(path: Path) -> None:
    async with await anyio_uring.open_file(path, "rb") as file:
        for size in (1 << 64, 1 << 70):
            with pytest.raises(OverflowError):
                await file.read(size)
        assert await file.read(1 << 40) == CONTENT  # that much is not set aside


async def test_writer_has_no_peek(path: Path) -> None:
    async with await anyio_uring.open_file(path, "wb") as file:
        with pytest.raises(AttributeError, match="peek"):
            await file.peek()  # type: ignore[attr-defined]


async def test_error_of_the_system_names_the_file(path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b") as file:
        for offset, whence in ((-1, os.SEEK_SET), (-9, os.SEEK_CUR), (-100, os.SEEK_END)):
            with pytest.raises(OSError, match="Invalid argument") as caught:
                await file.seek(offset, whence)
            assert caught.value.filename == os.fspath(path)
            assert await file.tell() == 0
        with pytest.raises(OSError, match="Invalid argument") as caught:
            await file.truncate(-1)
        assert caught.value.filename == os.fspath(path)


async def test_attributes_are_those_of_io(path: Path) -> None:
    for mode in MODES:
        with open(path, mode) as sync:
            async with await anyio_uring.open_file(path, mode) as file:
                assert (file.mode, file.name) == (sync.mode, sync.name)
                assert (file.closed, sync.closed) == (False, False)
                assert [getattr(file, name)() for name in PLAIN[:-1]] == [
                    getattr(sync, name)() for name in PLAIN[:-1]
                ]
                assert weakref.ref(file)() is file
        assert (file.closed, sync.closed) == (True, True)


async def test_closing_twice_is_no_error_and_with_on_a_closed_file_is(path: Path) -> None:
    file = await anyio_uring.open_file(path, "r+b")
    for _ in range(3):
        await file.aclose()
        file.close()
    with pytest.raises(ValueError, match="closed file"):
        async with file:
            await file.read()


async def test_any_buffer_is_written_and_read_into(path: Path) -> None:
    numbers = array.array("i", range(40))
    async with await anyio_uring.open_file(path, "w+b", 16) as file:
        assert await file.write(numbers) == numbers.itemsize * 40
        assert await file.write(memoryview(b"abcdef").cast("B", (2, 3))) == 6
        assert await file.write(bytearray()) == 0
        await file.seek(0)
        target = array.array("i", bytes(numbers.itemsize * 40))
        assert await file.readinto(target) == numbers.itemsize * 40
        assert target == numbers
        await file.seek(-6, io.SEEK_END)
        square = memoryview(bytearray(6)).cast("B", (2, 3))
        assert await file.readinto1(square) == 6
        assert bytes(square) == b"abcdef"


async def test_written_buffer_may_be_changed_afterwards(path: Path) -> None:
    async with await anyio_uring.open_file(path, "wb", 16) as file:
        data = bytearray(b"first ")
        await file.write(data)
        data[:] = b"second"
        await file.write(data)
        data[:] = b"third "
        await file.write(data)
        del data[:]
    assert path.read_bytes() == b"first secondthird "


async def test_file_cannot_be_pickled(path: Path) -> None:
    for mode in MODES:
        async with await anyio_uring.open_file(path, mode) as file:
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                with pytest.raises(TypeError, match="pickle"):
                    pickle.dumps(file, protocol)


@pytest.mark.parametrize(
    "arguments", [("file", "rb", 1), (False, "rb", -1, None, None, None, False)]
)
async def test_warnings_are_those_of_open(
    path: Path, arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        open(*arguments).close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = await anyio_uring.open_file(*arguments)
    await file.aclose()
    told = [(each.category, str(each.message)) for each in caught]
    assert told == [(each.category, str(each.message)) for each in expected]
    assert {each.filename for each in caught} <= {__file__}  # where the caller is
