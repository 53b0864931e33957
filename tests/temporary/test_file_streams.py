"""The byte streams of files behave as AnyIO's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams import file as anyio_file
from anyio.streams.file import FileStreamAttribute

from anyio_uring import AsyncFile, FileReadStream, FileWriteStream, open_file

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "ring", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]

READ: list[Callable[[Any], Any]] = [
    lambda s: s.receive(3),
    lambda s: s.tell(),
    lambda s: s.seek(-2, os.SEEK_CUR),
    lambda s: s.receive(0),
    lambda s: s.receive(-1),
    lambda s: s.receive(),
    lambda s: s.receive(),
    lambda s: s.seek(-1),
    lambda s: s.seek(0),
    lambda s: s.receive(100),
    lambda s: sorted(map(str, s.extra_attributes)) and len(s.extra_attributes),
    lambda s: s.extra(FileStreamAttribute.path),
    lambda s: s.extra(FileStreamAttribute.fileno) > 2,
    lambda s: s.extra(FileStreamAttribute.file).fileno() == s.extra(FileStreamAttribute.fileno),
    lambda s: s.aclose(),
    lambda s: s.aclose(),
    lambda s: s.receive(),
    lambda s: s.extra_attributes,
]
WRITE: list[Callable[[Any], Any]] = [
    lambda s: s.send(b"data"),
    lambda s: s.send(memoryview(b"more")),
    lambda s: s.send("text"),
    lambda s: s.extra(FileStreamAttribute.path),
    lambda s: s.aclose(),
    lambda s: s.aclose(),
    lambda s: s.send(b"late"),
]


async def told(call: Callable[[Any], Any], stream: Any) -> Any:
    try:
        value = call(stream)
        return await value if hasattr(value, "__await__") else value
    except Exception as error:  # noqa: BLE001 (it is what is being compared)
        text = error.errno if isinstance(error, OSError) else str(error)
        return type(error), text, type(error.__cause__)


async def test_reading_behaves_as_anyios(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 3)
    theirs = await anyio_file.FileReadStream.from_path(path)
    ours = await FileReadStream.from_path(path)
    around = FileReadStream(path.open("rb"))
    given = FileReadStream(await open_file(path, "rb"))
    assert isinstance(ours, anyio_file.FileReadStream)
    for number, call in enumerate(READ):
        expected = await told(call, theirs)
        for stream in (ours, around, given):
            assert await told(call, stream) == expected, number


@pytest.mark.parametrize("append", [False, True])
async def test_writing_behaves_as_anyios(append: bool, tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"old")
    other.write_bytes(b"old")
    theirs = await anyio_file.FileWriteStream.from_path(other, append)
    ours = await FileWriteStream.from_path(str(path), append)
    assert isinstance(ours, anyio_file.FileWriteStream)
    for number, call in enumerate(WRITE):
        expected, result = await told(call, theirs), await told(call, ours)
        if expected == other:
            assert result == path
            continue
        assert result == expected, number
    assert path.read_bytes() == other.read_bytes() == b"old" * append + b"datamore"


async def test_write_stream_around_a_synchronous_file_writes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with FileWriteStream(path.open("wb")) as stream:
        await stream.send(b"data")
        assert stream.extra(FileStreamAttribute.path) == path
    assert path.read_bytes() == b"data"


async def test_looking_at_attributes_does_not_give_the_position_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    async with await FileReadStream.from_path(tmp_path / "file") as stream:
        file: Any = stream._file
        assert isinstance(file, AsyncFile)
        assert stream.extra(FileStreamAttribute.path) == tmp_path / "file"
        assert not file._handle.shared


async def test_os_error_becomes_broken_resource() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    stream = await FileWriteStream.from_path("/dev/full")
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await stream.send(b"x" * (1 << 20))
    assert isinstance(caught.value.__cause__, OSError)
    await stream.aclose()


async def test_wrong_direction_is_a_closed_resource_as_anyios(tmp_path: Path) -> None:
    async with FileReadStream(await open_file(tmp_path / "file", "wb")) as reading:
        with pytest.raises(anyio.ClosedResourceError):
            await reading.receive()
    async with FileWriteStream(await open_file(tmp_path / "file", "rb")) as writing:
        with pytest.raises(anyio.ClosedResourceError):
            await writing.send(b"data")


async def test_wrong_path_raises_what_opening_does(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await FileReadStream.from_path(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        await FileWriteStream.from_path(tmp_path)
    with pytest.raises(TypeError):
        await FileReadStream.from_path(3)  # type: ignore[arg-type]


async def test_closing_in_a_cancelled_scope_writes_closes_and_raises(tmp_path: Path) -> None:
    stream = await FileWriteStream.from_path(tmp_path / "file")
    await stream.send(b"data")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert scope.cancelled_caught
    assert (tmp_path / "file").read_bytes() == b"data"
    with pytest.raises(anyio.ClosedResourceError):
        await stream.send(b"late")
