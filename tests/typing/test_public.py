"""What type checkers see; checked by mypy, and run once so that the names are real."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeAlias, assert_type

import anyio
import pytest
import trio
from trio._file_io import AsyncIOWrapper

import anyio_uring
import anyio_uring.trio
from anyio_uring import AsyncFile, Settings, Statistics

pytestmark = pytest.mark.anyio

Opening: TypeAlias = Coroutine[Any, Any, anyio.AsyncFile[bytes]]


async def takes_anyio(file: anyio.AsyncFile[bytes]) -> bytes:
    return await file.read(4)


async def test_ours_is_accepted_where_anyio_is_annotated(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    async with await anyio_uring.open_file(tmp_path / "file", "rb", 0) as file:
        assert_type(file, AsyncFile[bytes])
        assert await takes_anyio(file) == b"data"
        assert_type(await file.seek(0), int)
        assert_type(await file.readlines(), list[bytes])
        async for line in file:
            assert_type(line, bytes)


async def modes(path: os.PathLike[str], mode: str) -> None:
    """Only checked: most of these modes are still to come."""
    assert_type(await anyio_uring.open_file(path, "rb"), AsyncFile[bytes])
    assert_type(await anyio_uring.open_file(path, "w+b", buffering=0), AsyncFile[bytes])
    assert_type(await anyio_uring.open_file(path), AsyncFile[str])
    assert_type(await anyio_uring.open_file(path, "a", encoding="utf-8"), AsyncFile[str])
    assert_type(await anyio_uring.open_file(path, mode), AsyncFile[Any])
    assert_type(await anyio_uring.open_file(3, "rb", closefd=False), AsyncFile[bytes])
    assert_type(await anyio_uring.open_file(b"name", "rb", opener=os.open), AsyncFile[bytes])


async def test_open_file_can_stand_for_anyio_open_file(tmp_path: Path) -> None:
    async def use(open_file: Callable[[Path, Literal["rb"], int], Opening]) -> bytes:
        async with await open_file(tmp_path / "file", "rb", 0) as file:
            return await file.read()

    (tmp_path / "file").write_bytes(b"data")
    assert await use(anyio_uring.open_file) == await use(anyio.open_file) == b"data"
    assert_type(anyio_uring.statistics(), Statistics)


async def temporary() -> None:
    """Only checked."""
    async with anyio_uring.TemporaryFile() as nameless:
        assert_type(nameless, AsyncFile[bytes])
    async with anyio_uring.NamedTemporaryFile("w") as named:
        assert_type(named, AsyncFile[str])
    spooled = anyio_uring.SpooledTemporaryFile(10, "w+")
    assert_type(await spooled.read(), str)
    assert_type(await anyio_uring.mkstemp(b"suffix"), tuple[int, bytes])
    async with await anyio_uring.FileReadStream.from_path("name") as stream:
        assert_type(await stream.receive(), bytes)


async def takes_path(path: anyio.Path, kind: type[anyio.Path]) -> bytes:
    async with await path.open("rb") as file:
        return await file.read(4) + await kind(path).read_bytes()


async def test_path_is_accepted_where_anyio_is_annotated(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    path = anyio_uring.Path(tmp_path)
    assert_type(path / "file", anyio_uring.Path)
    assert await takes_path(path / "file", anyio_uring.Path) == b"datadata"
    async with await (path / "file").open("rb") as file:
        assert_type(file, AsyncFile[bytes])
    async with await (path / "file").open() as text:
        assert_type(text, AsyncFile[str])
    async for child in path.iterdir():
        assert_type(child, anyio_uring.Path)
    async for child in path.glob("*"):
        assert_type(child, anyio_uring.Path)
    assert_type(await (path / "file").rename(path / "other"), anyio_uring.Path)
    assert_type(await path.stat(), os.stat_result)


async def atomic(path: os.PathLike[str], mode: str) -> None:
    """Only checked."""
    async with anyio_uring.atomic_write(path) as binary:
        assert_type(binary, AsyncFile[bytes])
    async with anyio_uring.atomic_write(path, "x", durable=False, encoding="utf-8") as text:
        assert_type(text, AsyncFile[str])
    async with anyio_uring.atomic_write(b"name", mode) as either:
        assert_type(either, AsyncFile[Any])


def test_settings_are_typed() -> None:
    assert_type(anyio_uring.current_settings(), Settings)
    assert_type(Settings().workers_max, int | None)
    with pytest.raises(ValueError, match="driver must be"):
        Settings(driver="fast")  # type: ignore[arg-type]


async def trio_takes(file: AsyncIOWrapper[io.BufferedReader]) -> bytes:
    return await file.peek(4)


async def flavour_of_trio(path: os.PathLike[str]) -> None:
    """Only checked: what a file can do follows from how it was opened, as with Trio."""
    reader = await anyio_uring.trio.open_file(path, "rb")
    assert_type(reader, AsyncIOWrapper[io.BufferedReader])
    assert_type(await trio_takes(reader), bytes)
    text = await anyio_uring.trio.open_file(path)
    assert_type(text, AsyncIOWrapper[io.TextIOWrapper])
    assert_type(await text.readline(4), str)
    await text.peek()  # type: ignore[misc]
    assert_type(await anyio_uring.trio.open_file(path, "r+b", 0), AsyncIOWrapper[io.FileIO])
    assert_type(await anyio_uring.trio.open_file(path, "wb"), AsyncIOWrapper[io.BufferedWriter])
    assert_type(await anyio_uring.trio.wrap_file(io.StringIO()).read(), str)
    assert_type(anyio_uring.wrap_file(io.BytesIO()), anyio.AsyncFile[bytes])


async def trio_takes_path(path: trio.Path, kind: type[trio.Path]) -> bytes:
    async with await path.open("rb") as file:
        return await file.peek(4) + await kind(path).read_bytes()


async def path_of_trio(name: str) -> None:
    """Only checked: what Trio's own have, with our class."""
    path = anyio_uring.trio.Path(name)
    assert_type(path / "file", anyio_uring.trio.Path)
    assert_type(await trio_takes_path(path, anyio_uring.trio.Path), bytes)
    assert_type(await path.open("rb"), AsyncIOWrapper[io.BufferedReader])
    assert_type(await path.open(), AsyncIOWrapper[io.TextIOWrapper])
    assert_type(await path.rename("other"), anyio_uring.trio.Path)
    assert_type(await path.resolve(), anyio_uring.trio.Path)
    assert_type(await path.stat(follow_symlinks=False), os.stat_result)
    assert_type(await anyio_uring.trio.Path.cwd(), anyio_uring.trio.Path)
    for child in await path.iterdir():
        assert_type(child, anyio_uring.trio.Path)
    await path.stat(False)  # type: ignore[call-arg]
