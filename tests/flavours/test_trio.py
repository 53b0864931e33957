"""Trio's flavour keeps the promises of Trio's own files, which stand every test here, too."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.support.oracle import outcome
from trio._file_io import _FILE_ASYNC_METHODS, _FILE_SYNC_ATTRS, AsyncIOWrapper

import anyio_uring.trio

pytestmark = [pytest.mark.hosts("trio"), pytest.mark.usefixtures("tiers", "anyio_backend")]

CONTENT = "first line\nsecond line\nno end"
# What `io` has a type of its own for
KINDS = [
    *(("rb", 0), ("r+b", 0), ("wb", 0)),
    *(("rb", -1), ("r+b", -1), ("wb", -1), ("ab", -1)),
    *(("r", -1), ("r+", -1), ("w", -1)),
]
NAMES = sorted(_FILE_SYNC_ATTRS | _FILE_ASYNC_METHODS)
Opener = Callable[..., Any]


@pytest.fixture(params=[trio.open_file, anyio_uring.trio.open_file], ids=["trio", "ours"])
def open_file(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text(CONTENT)
    return path


def calls(file: Any) -> dict[str, Callable[[], Any]]:
    """Each method that the file has, with arguments that change little."""
    data: Any = "text" if hasattr(file, "encoding") else b"data"
    arguments: dict[str, tuple[Any, ...]] = {
        "readinto": (bytearray(3),),
        "readinto1": (bytearray(3),),
        "seek": (0,),
        "write": (data,),
        "writelines": ([data, data],),
    }
    methods = [name for name in sorted(_FILE_ASYNC_METHODS) if hasattr(file, name)]
    return {
        name: lambda name=name: getattr(file, name)(*arguments.get(name, ())) for name in methods
    }


async def attempt(call: Callable[[], Any]) -> None:
    """A checkpoint is due whatever comes of a call."""
    try:
        await call()
    except (OSError, ValueError, TypeError, StopAsyncIteration):
        pass


# -- opening ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "buffering"), KINDS)
async def test_file_is_an_instance_of_the_class_of_trio(
    open_file: Opener, path: Path, mode: str, buffering: int
) -> None:
    async with await open_file(path, mode, buffering) as file:
        assert isinstance(file, AsyncIOWrapper)
        assert isinstance(file, trio.abc.AsyncResource)


async def test_opening_is_a_checkpoint_also_when_it_fails(open_file: Opener, path: Path) -> None:
    with trio.testing.assert_checkpoints():
        file = await open_file(path, "rb")
    await file.aclose()
    with trio.testing.assert_checkpoints(), pytest.raises(FileNotFoundError):
        await open_file(path.with_name("missing"), "rb")
    with trio.testing.assert_checkpoints(), pytest.raises(ValueError, match="invalid mode"):
        await open_file(path, "q")


async def test_opening_in_a_cancelled_scope_makes_no_file(open_file: Opener, path: Path) -> None:
    path.unlink()
    with trio.CancelScope() as scope:
        scope.cancel()
        await open_file(path, "w")
    assert scope.cancelled_caught
    assert not path.exists()


async def test_opening_what_cannot_be_names_it(open_file: Opener, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        await open_file(str(tmp_path), "rb")
    assert (caught.value.errno, caught.value.filename) == (errno.EISDIR, str(tmp_path))


async def test_opening_takes_all_arguments_of_open(open_file: Opener, path: Path) -> None:
    arguments = (str(path), "w", 1, "utf-16", "replace", "\r\n", True, os.open)
    async with await open_file(*arguments) as file:
        await file.write("a\n")
        assert (file.encoding, file.errors, file.line_buffering) == ("utf-16", "replace", True)
    assert path.read_bytes().decode("utf-16") == "a\r\n"


def test_missing_encoding_is_the_callers_to_name(path: Path) -> None:
    program = (
        "import trio, anyio_uring.trio\n"
        "async def main():\n"
        f"    await (await anyio_uring.trio.open_file({str(path)!r})).aclose()\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "always::EncodingWarning"]
    done = subprocess.run([*command, "-c", program], capture_output=True, text=True, timeout=60)
    warned = [line for line in done.stderr.splitlines() if "EncodingWarning" in line]
    assert [
        line.split(": ")[0] for line in warned if "anyio_uring" in line or "<string>" in line
    ] == ["<string>:3"]


# -- attributes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "buffering"), KINDS)
async def test_dir_and_hasattr_are_those_of_trio(path: Path, mode: str, buffering: int) -> None:
    async with (
        await trio.open_file(path, mode, buffering) as theirs,
        await anyio_uring.trio.open_file(path, mode, buffering) as ours,
    ):
        for listed in (dir, lambda file: [n for n in [*NAMES, "pread"] if hasattr(file, n)]):
            expected = {name for name in listed(theirs) if not name.startswith("_")}
            assert {name for name in listed(ours) if not name.startswith("_")} == expected


@pytest.mark.parametrize(
    "name", ["pread", "fsync", "close", "reconfigure", "write_through", "limiter", "_CHUNK_SIZE"]
)
async def test_other_attributes_are_missing(open_file: Opener, path: Path, name: str) -> None:
    async with await open_file(path, "r+") as file:
        with pytest.raises(AttributeError, match=f"^{name}$"):
            getattr(file, name)


async def test_facts_are_those_of_trio(path: Path) -> None:
    async with (
        await trio.open_file(str(path), "r+") as theirs,
        await anyio_uring.trio.open_file(str(path), "r+") as ours,
    ):
        for name in ["name", "mode", "encoding", "errors", "newlines", "line_buffering", "closed"]:
            assert getattr(ours, name) == getattr(theirs, name), name
        for name in ["readable", "writable", "seekable", "isatty"]:
            assert getattr(ours, name)() == getattr(theirs, name)(), name


async def test_wrapped_and_raw_are_synchronous(open_file: Opener, path: Path) -> None:
    async with await open_file(path, "rb") as file:
        assert isinstance(file.raw, io.FileIO)
        assert isinstance(file.wrapped, io.IOBase)
        assert os.path.sameopenfile(file.wrapped.fileno(), file.fileno())
        assert file.wrapped.read(5) == b"first"


@pytest.mark.parametrize(("mode", "buffering"), KINDS)
async def test_hasattr_and_dir_of_a_closed_file_are_those_of_trio(
    path: Path, mode: str, buffering: int
) -> None:
    theirs = await trio.open_file(path, mode, buffering)
    ours = await anyio_uring.trio.open_file(path, mode, buffering)
    for file in (theirs, ours):
        await file.aclose()
    for name in NAMES:
        assert hasattr(ours, name) == hasattr(theirs, name), name
    assert {n for n in dir(ours) if n[0] != "_"} == {n for n in dir(theirs) if n[0] != "_"}


async def test_nothing_is_below_a_file_that_was_detached(open_file: Opener, path: Path) -> None:
    text = await open_file(path)
    binary = await text.detach()
    raw = await binary.detach()
    assert text.buffer is binary.raw is None
    for file, words in (text, "underlying buffer"), (binary, "raw stream"):
        for name in ("closed", "name", "fileno", "seekable"):
            with pytest.raises(ValueError, match=words + " has been detached"):
                getattr(file, name)()
        for method in (file.read, file.aclose, file.detach):
            with pytest.raises(ValueError, match=words + " has been detached"):
                await method()
    await raw.aclose()


async def test_buffer_of_text_is_the_same_each_time(open_file: Opener, path: Path) -> None:
    async with await open_file(path) as file:
        assert file.buffer is file.buffer
        assert file.buffer.mode == "rb"
        assert isinstance(file.buffer, AsyncIOWrapper | io.BufferedReader)


async def test_method_is_made_once_and_keeps_nothing_alive(open_file: Opener, path: Path) -> None:
    file = await open_file(path)
    assert file.read is file.read
    assert file.read.__name__ == "read"
    await file.aclose()
    reference = weakref.ref(file)
    del file
    assert reference() is None


# -- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "buffering"), KINDS)
async def test_each_call_is_a_checkpoint(
    open_file: Opener, path: Path, mode: str, buffering: int
) -> None:
    async with await open_file(path, mode, buffering) as file:
        for name, call in calls(file).items():
            for _ in range(3):  # once from the disk, then from memory
                with trio.testing.assert_checkpoints():
                    await attempt(call)
            assert name
        with trio.testing.assert_checkpoints():
            await attempt(file.__anext__)
    with trio.testing.assert_checkpoints():
        await file.aclose()
    for call in calls(file).values():
        with trio.testing.assert_checkpoints():
            await attempt(call)


@pytest.mark.parametrize(("mode", "buffering"), KINDS)
async def test_call_in_a_cancelled_scope_has_no_effect(
    open_file: Opener, path: Path, mode: str, buffering: int
) -> None:
    async with await open_file(path, mode, buffering) as file:
        before, position = path.read_bytes(), await file.tell()
        for name, call in calls(file).items():
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught, name
        assert await file.tell() == position
        await file.flush()
        assert path.read_bytes() == before


# -- closing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "buffering"), KINDS)
async def test_aclose_in_a_cancelled_scope_closes_then_raises(
    open_file: Opener, path: Path, mode: str, buffering: int
) -> None:
    file = await open_file(path, mode, buffering)
    fd = file.fileno()
    if file.writable():
        await file.write("new" if hasattr(file, "encoding") else b"new")
    went_on = False
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.aclose()
        went_on = True
    assert scope.cancelled_caught
    assert not went_on
    assert file.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    if "r" not in mode or "+" in mode:
        assert b"new" in path.read_bytes()


async def test_aclose_twice_is_no_error_and_raises_when_cancelled(
    open_file: Opener, path: Path
) -> None:
    file = await open_file(path)
    await file.aclose()
    with trio.testing.assert_checkpoints():
        await file.aclose()
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.aclose()
    assert scope.cancelled_caught


async def test_aclose_that_fails_is_a_checkpoint_and_closes(open_file: Opener) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    file = await open_file("/dev/full", "wb")
    await file.write(b"data")
    with trio.testing.assert_checkpoints(), pytest.raises(OSError, match="No space left") as caught:
        await file.aclose()
    assert caught.value.errno == errno.ENOSPC
    assert file.closed


# -- lines, peek, detach ------------------------------------------------------------------------


async def test_iterating_is_on_the_object_itself(open_file: Opener, path: Path) -> None:
    async with await open_file(path) as file:
        assert file.__aiter__() is file
        assert await file.__anext__() == "first line\n"
        with trio.testing.assert_checkpoints():
            assert [line async for line in file] == ["second line\n", "no end"]
        with pytest.raises(StopAsyncIteration):
            await file.__anext__()


@pytest.mark.parametrize(("mode", "buffering"), [("rb", 0), ("rb", -1), ("r", -1)])
async def test_readline_takes_a_size_and_readlines_a_hint(
    open_file: Opener, path: Path, mode: str, buffering: int
) -> None:
    def text(data: Any) -> str:
        return data if isinstance(data, str) else data.decode()

    async with await open_file(path, mode, buffering) as file:
        assert text(await file.readline(5)) == "first"
        assert text(await file.readline(100)) == " line\n"
        assert [text(line) for line in await file.readlines(3)] == ["second line\n"]
        assert text(await file.read(None)) == "no end"


async def test_peek_gives_what_is_read_next(open_file: Opener, path: Path) -> None:
    async with await open_file(path, "rb") as file:
        assert await file.peek(1) == CONTENT.encode()
        assert await file.tell() == 0
        assert await file.read(5) == b"first"
        assert await file.peek() == CONTENT[5:].encode()


async def test_detach_gives_the_file_below(open_file: Opener, path: Path) -> None:
    text = await open_file(path, "w", newline="")
    await text.write("written")
    buffered = await text.detach()
    assert isinstance(buffered, AsyncIOWrapper)
    assert path.read_bytes() == b"written"
    assert hasattr(buffered, "raw")
    assert not hasattr(buffered, "encoding")
    await buffered.write(b", and more")
    raw = await buffered.detach()
    assert isinstance(raw, AsyncIOWrapper)
    assert path.read_bytes() == b"written, and more"
    assert hasattr(raw, "readall")
    assert not hasattr(raw, "raw")
    assert await raw.write(b".") == 1
    with pytest.raises(AttributeError, match="detach"):
        await raw.detach()
    for file in (text, buffered):
        with pytest.raises(ValueError, match=r"closed|detached"):
            await file.write("more" if file is text else b"more")
    await raw.aclose()
    assert path.read_bytes() == b"written, and more."


@pytest.mark.parametrize("size", [20_000, len(CONTENT)])
async def test_detach_is_a_checkpoint_and_loses_what_was_read_ahead(
    open_file: Opener, path: Path, size: int
) -> None:
    path.write_bytes(b"x" * 10 + b"\n" + b"y" * (size - 11))
    file = await open_file(path, "rb", 4096)
    assert await file.readline() == b"x" * 10 + b"\n"
    with trio.testing.assert_checkpoints():
        raw = await file.detach()
    assert await raw.tell() == min(size, 4096)
    assert await raw.readall() == b"y" * (size - min(size, 4096))
    await raw.aclose()


async def test_detach_in_a_cancelled_scope_leaves_the_file_whole(
    open_file: Opener, path: Path
) -> None:
    async with await open_file(path) as file:
        with trio.CancelScope() as scope:
            scope.cancel()
            await file.detach()
        assert scope.cancelled_caught
        assert await file.read() == CONTENT


async def test_results_are_those_of_trio(path: Path) -> None:
    """What else is passed on: one script of calls, on both."""
    results = []
    for opened in trio.open_file, anyio_uring.trio.open_file:
        path.write_text(CONTENT)
        async with await opened(path, "r+b") as file:
            buffer = bytearray(4)
            script: list[tuple[str, tuple[Any, ...]]] = [
                *(("read", (3,)), ("read1", (2,)), ("readinto", (buffer,)), ("tell", ())),
                *(("readinto1", (buffer,)), ("seek", (-2, 2)), ("write", (b"END",)), ("flush", ())),
                *(("seek", (0,)), ("readlines", ()), ("truncate", (5,)), ("read", ("x",))),
                *(("write", ("text",)), ("writelines", ([b"1", b"2"],)), ("seek", (0, 9))),
            ]
            found = [
                await outcome(lambda file, c=call: getattr(file, c[0])(*c[1]), file)
                for call in script
            ]
        results.append((found, bytes(buffer), path.read_bytes()))
    assert results[1] == results[0]


# -- wrapping -----------------------------------------------------------------------------------


async def test_wrap_file_takes_any_file_object() -> None:
    file = anyio_uring.trio.wrap_file(io.StringIO(CONTENT))
    assert isinstance(file, AsyncIOWrapper)
    with trio.testing.assert_checkpoints():
        assert await file.readline() == "first line\n"
    assert file.getvalue() == CONTENT


async def test_wrap_file_refuses_what_is_none() -> None:
    with pytest.raises(TypeError, match="required duck-file methods"):
        anyio_uring.trio.wrap_file(object())
