"""The methods of an unbuffered file, each compared with `io.FileIO`."""

from __future__ import annotations

import array
import gc
import io
import mmap
import os
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.oracle import CONTENT, MODES, Pair, outcome

import anyio_uring
from anyio_uring._handle import COMPILED

pytestmark = pytest.mark.anyio


class Index:
    """A number that is not an int."""

    def __index__(self) -> int:
        return 3


class BadIndex:
    def __index__(self) -> int:
        raise LookupError("no number")


def strided() -> memoryview:
    return memoryview(bytearray(10))[::2]


def filled(method: str, buffer: Any) -> Callable[[Any], Any]:
    """Call `readinto`, and look at what it put into the buffer."""

    def call(file: Any) -> Any:
        target = type(buffer)(buffer) if not isinstance(buffer, array.array) else buffer[:]
        count = getattr(file, method)(target)
        if not hasattr(count, "__await__"):
            return count, bytes(target)

        async def finish() -> Any:
            return await count, bytes(target)

        return finish()

    return call


READING: dict[str, Callable[[Any], Any]] = {
    "read()": lambda f: f.read(),
    "read(-1)": lambda f: f.read(-1),
    "read(-7)": lambda f: f.read(-7),
    "read(None)": lambda f: f.read(None),
    "read(0)": lambda f: f.read(0),
    "read(1)": lambda f: f.read(1),
    "read(True)": lambda f: f.read(True),
    "read(Index)": lambda f: f.read(Index()),
    "read(BadIndex)": lambda f: f.read(BadIndex()),
    "read(all + 1)": lambda f: f.read(len(CONTENT) + 1),
    "read('1')": lambda f: f.read("1"),
    "read(1.0)": lambda f: f.read(1.0),
    "readinto(bytearray)": filled("readinto", bytearray(10)),
    "readinto(more than there is)": filled("readinto", bytearray(100)),
    "readinto(nothing)": filled("readinto", bytearray()),
    "readinto(array)": filled("readinto", array.array("i", [7, 8, 9])),
    "readinto(bytes)": lambda f: f.readinto(b"constant"),
    "readinto(str)": lambda f: f.readinto("text"),
    "readinto(None)": lambda f: f.readinto(None),
    "readinto(read-only view)": lambda f: f.readinto(memoryview(b"constant")),
    "readinto(strided)": lambda f: f.readinto(strided()),
    "readline()": lambda f: f.readline(),
    "readline(None)": lambda f: f.readline(None),
    "readline(-5)": lambda f: f.readline(-5),
    "readline(0)": lambda f: f.readline(0),
    "readline(3)": lambda f: f.readline(3),
    "readline(100)": lambda f: f.readline(100),
    "readline(Index)": lambda f: f.readline(Index()),
    "readline('3')": lambda f: f.readline("3"),
    "readline(3.0)": lambda f: f.readline(3.0),
    "readlines()": lambda f: f.readlines(),
    "readlines(None)": lambda f: f.readlines(None),
    "readlines(0)": lambda f: f.readlines(0),
    "readlines(-1)": lambda f: f.readlines(-1),
    "readlines(1)": lambda f: f.readlines(1),
    "readlines(a line)": lambda f: f.readlines(len("line one\n")),
    "readlines(more than a line)": lambda f: f.readlines(len("line one\n") + 1),
    "readlines(Index)": lambda f: f.readlines(Index()),
    "readlines('1')": lambda f: f.readlines("1"),
    "readlines(1.0)": lambda f: f.readlines(1.0),
}
WRITING: dict[str, Callable[[Any], Any]] = {
    "write(bytes)": lambda f: f.write(b"new"),
    "write(nothing)": lambda f: f.write(b""),
    "write(bytearray)": lambda f: f.write(bytearray(b"new")),
    "write(memoryview)": lambda f: f.write(memoryview(b"xnewx")[1:-1]),
    "write(array)": lambda f: f.write(array.array("i", [1, 2])),
    "write(str)": lambda f: f.write("text"),
    "write(int)": lambda f: f.write(3),
    "write(None)": lambda f: f.write(None),
    "write(strided)": lambda f: f.write(strided()),
    "writelines(list)": lambda f: f.writelines([b"a\n", bytearray(b"b"), memoryview(b"c")]),
    "writelines(nothing)": lambda f: f.writelines([]),
    "writelines(generator)": lambda f: f.writelines(bytes([n]) for n in range(3)),
    "writelines(bytes)": lambda f: f.writelines(b"abc"),
    "writelines(bytes, then str)": lambda f: f.writelines([b"kept", "text"]),
    "writelines(str)": lambda f: f.writelines("ab"),
    "writelines(None)": lambda f: f.writelines(None),
    "writelines(int)": lambda f: f.writelines(5),
    "truncate()": lambda f: f.truncate(),
    "truncate(None)": lambda f: f.truncate(None),
    "truncate(0)": lambda f: f.truncate(0),
    "truncate(3)": lambda f: f.truncate(3),
    "truncate(1000)": lambda f: f.truncate(1000),
    "truncate(-1)": lambda f: f.truncate(-1),
    "truncate('3')": lambda f: f.truncate("3"),
    "truncate(3.0)": lambda f: f.truncate(3.0),
    "truncate(2**62)": lambda f: f.truncate(1 << 62),
    "truncate(2**63)": lambda f: f.truncate(1 << 63),
    "flush()": lambda f: f.flush(),
}
MOVING: dict[str, Callable[[Any], Any]] = {
    "tell()": lambda f: f.tell(),
    "seek(0)": lambda f: f.seek(0),
    "seek(5)": lambda f: f.seek(5),
    "seek(Index)": lambda f: f.seek(Index()),
    "seek(beyond the end)": lambda f: f.seek(1000),
    "seek(-1)": lambda f: f.seek(-1),
    "seek(3, CUR)": lambda f: f.seek(3, os.SEEK_CUR),
    "seek(-1000, CUR)": lambda f: f.seek(-1000, os.SEEK_CUR),
    "seek(0, END)": lambda f: f.seek(0, os.SEEK_END),
    "seek(-2, END)": lambda f: f.seek(-2, os.SEEK_END),
    "seek(-1000, END)": lambda f: f.seek(-1000, os.SEEK_END),
    "seek(0, 9)": lambda f: f.seek(0, 9),
    "seek(0, -1)": lambda f: f.seek(0, -1),
    "seek(0, None)": lambda f: f.seek(0, None),
    "seek(0, '0')": lambda f: f.seek(0, "0"),
    "seek('0')": lambda f: f.seek("0"),
    "seek(0.0)": lambda f: f.seek(0.0),
    "seek(2**42 + 1)": lambda f: f.seek((1 << 42) + 1),
    "seek(2**62 - 1)": lambda f: f.seek((1 << 62) - 1),
    "seek(2**62)": lambda f: f.seek(1 << 62),
    "seek(2**63 - 1)": lambda f: f.seek((1 << 63) - 1),
    "seek(2**63 - 1, CUR)": lambda f: f.seek((1 << 63) - 1, os.SEEK_CUR),
    "seek(2**63 - 1, END)": lambda f: f.seek((1 << 63) - 1, os.SEEK_END),
    "seek(2**63, CUR)": lambda f: f.seek(1 << 63, os.SEEK_CUR),
    "seek(-2**63 - 1)": lambda f: f.seek((-1 << 63) - 1),
    "seek(2**63)": lambda f: f.seek(1 << 63),
    "seek(-2**63)": lambda f: f.seek(-1 << 63),
}
for name in ("SEEK_DATA", "SEEK_HOLE"):
    if hasattr(os, name):
        whence = getattr(os, name)
        MOVING[f"seek(2, {name})"] = lambda f, whence=whence: f.seek(2, whence)
        MOVING[f"seek(beyond, {name})"] = lambda f, whence=whence: f.seek(1000, whence)
FACTS: dict[str, Callable[[Any], Any]] = {
    "readable()": lambda f: f.readable(),
    "writable()": lambda f: f.writable(),
    "seekable()": lambda f: f.seekable(),
    "isatty()": lambda f: f.isatty(),
    "closed": lambda f: f.closed,
    "closefd": lambda f: f.closefd,
    "mode": lambda f: f.mode,
    "fileno()": lambda f: type(f.fileno()),
}
CALLS = READING | WRITING | MOVING | FACTS


@pytest.mark.parametrize("mode", MODES)
async def test_each_method_answers_as_fileio(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    for what, call in CALLS.items():
        async with Pair(tmp_path, mode) as pair:
            await pair.same(call, what)


@pytest.mark.parametrize("mode", ["rb", "r+b", "a+b"])
async def test_each_method_answers_as_fileio_in_the_middle(
    tiers: Tiers, tmp_path: Path, mode: str
) -> None:
    for what, call in CALLS.items():
        async with Pair(tmp_path, mode) as pair:
            await pair.same(lambda f: f.seek(11))
            await pair.same(call, what)
            await pair.same(call, f"{what} again")


@pytest.mark.parametrize("mode", ["rb", "wb"])
async def test_each_method_of_a_closed_file_answers_as_fileio(
    tiers: Tiers, tmp_path: Path, mode: str
) -> None:
    late = {  # FileIO looks at these arguments first
        "seek(0, '0')", "seek(0, None)", "readline(0)",
    }  # fmt: skip
    async with Pair(tmp_path, mode) as pair:
        pair.oracle.close()
        await pair.ours.aclose()
        for what, call in CALLS.items():
            if what not in late:
                await pair.same(call, what)
        for what in late:
            result = await outcome(CALLS[what], pair.ours)
            assert result in {
                (ValueError, "I/O operation on closed file"),
                await outcome(CALLS[what], pair.oracle),
            }
        for call in (
            lambda f: f.readall(),
            lambda f: f.pread(1, 0),
            lambda f: f.preadinto(bytearray(1), 0),
            lambda f: f.pwrite(b"x", 0),
            lambda f: f.fsync(),
            lambda f: f.fdatasync(),
        ):
            result = await outcome(call, pair.ours)
            assert result == (ValueError, "I/O operation on closed file")
        with pytest.raises(ValueError, match=r"^I/O operation on closed file"):
            pair.ours.wrapped  # noqa: B018
        with pytest.raises(ValueError, match=r"^I/O operation on closed file"):
            [line async for line in pair.ours]
        with pytest.raises(ValueError, match=r"^I/O operation on closed file"):
            async with pair.ours:
                pass


@pytest.mark.parametrize("mode", MODES)
async def test_readall_answers_as_fileio(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    async with Pair(tmp_path, mode) as pair:
        if pair.oracle.readable():
            await pair.same(lambda f: f.readall())
            await pair.same(lambda f: f.readall())
        else:
            # FileIO says EBADF here, and the other thing in read(); the latter is an OSError, too
            with pytest.raises(io.UnsupportedOperation, match=r"^File not open for reading$"):
                await pair.ours.readall()


@pytest.mark.parametrize(
    ("mode", "call", "text"),
    [
        ("wb", lambda f: f.pread(1, 0), "File not open for reading"),
        ("wb", lambda f: f.preadinto(bytearray(1), 0), "File not open for reading"),
        ("rb", lambda f: f.pwrite(b"x", 0), "File not open for writing"),
        ("ab", lambda f: f.pwrite(b"x", 0), "pwrite in an append mode would append"),
        ("a+b", lambda f: f.pwrite(b"x", 0), "pwrite in an append mode would append"),
    ],
)
async def test_positional_method_that_the_mode_forbids_is_unsupported(
    tiers: Tiers, tmp_path: Path, mode: str, call: Callable[[Any], Any], text: str
) -> None:
    async with Pair(tmp_path, mode) as pair:
        assert await outcome(call, pair.ours) == (io.UnsupportedOperation, None, text)
        pair.same_on_disk()


async def test_numbers_that_fit_nowhere_are_refused(tiers: Tiers, tmp_path: Path) -> None:
    async with Pair(tmp_path, "r+b") as pair:
        for what, call in {
            "read": lambda f: f.read(1 << 70),
            "seek": lambda f: f.seek(1 << 70),
            "truncate": lambda f: f.truncate(1 << 70),
        }.items():
            result = await outcome(call, pair.ours)
            expected = await outcome(call, pair.oracle)
            if COMPILED:
                assert result[0] is expected[0] is OverflowError, what
        pair.same_on_disk()


async def test_huge_read_of_a_small_file_needs_no_memory(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(CONTENT)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert await file.read(10**12) == CONTENT
        assert await file.read(10**12) == b""
        assert await file.pread(10**12, 5) == CONTENT[5:]
        await file.seek(0)
        file.fileno()  # from here on the kernel keeps the position
        assert await file.read(10**12) == CONTENT


async def test_readinto_fills_mapped_memory(tiers: Tiers, tmp_path: Path) -> None:
    async with Pair(tmp_path, "rb") as pair:
        with mmap.mmap(-1, 4096) as memory:
            memory[:] = b"." * 4096
            assert await pair.ours.readinto(memory) == len(CONTENT)
            assert memory[:] == CONTENT + b"." * (4096 - len(CONTENT))


async def test_buffer_is_free_again_after_the_call(tiers: Tiers, tmp_path: Path) -> None:
    target = bytearray(8)
    async with Pair(tmp_path, "r+b") as pair:
        await pair.ours.readinto(target)
        target.append(0)  # BufferError as long as anybody holds it
        await pair.ours.write(target)
        target.clear()


async def test_write_of_a_changing_buffer_takes_what_it_was(tiers: Tiers, tmp_path: Path) -> None:
    data = bytearray(b"before")
    async with Pair(tmp_path, "wb") as pair:
        await pair.ours.write(data)
        data[:] = b"after!"
        assert pair.paths[1].read_bytes() == b"before"


@pytest.mark.parametrize("size", [1 << 16, (1 << 18) + 1, (3 << 20) + 17])
async def test_big_data_comes_back_in_one_piece(tiers: Tiers, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    async with await anyio_uring.open_file(tmp_path / "big", "x+b", 0) as file:
        assert await file.write(data) == size
        assert await file.tell() == size
        assert await file.pread(size, 0) == data
        assert await file.pread(size, 100) == data[100:]
        await file.seek(1)
        assert await file.read(size) == data[1:]
        await file.seek(2)
        assert await file.readall() == data[2:]
        assert await file.tell() == size
        target = bytearray(size + 5)
        assert await file.preadinto(target, 0) == size
        assert target[:size] == data
        file.fileno()
        await file.seek(3)
        assert await file.read(size) == data[3:]
        await file.seek(4)
        assert await file.read() == data[4:]
    assert (tmp_path / "big").read_bytes() == data


async def test_lines_of_any_length_are_whole(tiers: Tiers, tmp_path: Path) -> None:
    content = b"\n".join(b"x" * length for length in (0, 1, 8190, 8191, 8192, 8193, 40000)) + b"\n"
    path = tmp_path / "lines"
    path.write_bytes(content)
    expected = content.splitlines(keepends=True)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert [line async for line in file] == expected
        await file.seek(0)
        assert await file.readlines() == expected
        await file.seek(0)
        positions = []
        while await file.readline():
            positions.append(await file.tell())
    assert positions == [sum(map(len, expected[: n + 1])) for n in range(len(expected))]


async def test_iteration_can_be_left_and_goes_on(tiers: Tiers, tmp_path: Path) -> None:
    async with Pair(tmp_path, "rb") as pair:
        async with aclosing(cast("AsyncGenerator[bytes]", aiter(pair.ours))) as lines:
            async for line in lines:
                assert line == next(pair.oracle)
                break
        assert await pair.ours.tell() == pair.oracle.tell()
        assert [line async for line in pair.ours] == list(pair.oracle)
        assert [line async for line in pair.ours] == []


async def test_methods_that_fileio_lacks_fail_as_missing_attributes(
    tiers: Tiers, tmp_path: Path
) -> None:
    async with Pair(tmp_path, "rb") as pair:
        for name in ("peek", "detach", "raw", "buffer", "encoding", "newlines", "getvalue"):
            assert not hasattr(pair.oracle, name)
            assert not hasattr(pair.ours, name)
            with pytest.raises(AttributeError, match=f"object has no attribute '{name}'"):
                getattr(pair.ours, name)
        # AnyIO's class has these for every file; they fail when called
        for name in ("read1", "readinto1"):
            assert not hasattr(pair.oracle, name)
            with pytest.raises(AttributeError, match=f"object has no attribute '{name}'"):
                await getattr(pair.ours, name)(bytearray(1) if "into" in name else 1)


# -- attributes and closing -----------------------------------------------------------------------


async def test_file_is_an_anyio_file(tiers: Tiers, tmp_path: Path) -> None:
    async with await anyio_uring.open_file(tmp_path / "f", "wb", 0) as file:
        assert isinstance(file, anyio.AsyncFile)
        assert isinstance(file, anyio_uring.AsyncFile)
        assert file.limiter is None


async def test_repr_tells_name_mode_and_state(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    async with await anyio_uring.open_file(path, "w+b", 0) as file:
        assert repr(file).startswith("<anyio_uring.")
        assert f"name={str(path)!r} mode='rb+' closefd=True>" in repr(file)
    assert "[closed]" in repr(file)


async def test_name_is_what_was_opened(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    for given in (str(path), os.fsencode(path), path, anyio.Path(path)):
        with io.open(given, "rb", buffering=0) as oracle:  # noqa: UP020
            async with await anyio_uring.open_file(given, "rb", 0) as file:
                assert file.name == oracle.name
                assert type(file.name) is type(oracle.name)


async def test_file_can_be_referenced_weakly(tiers: Tiers, tmp_path: Path) -> None:
    file = await anyio_uring.open_file(tmp_path / "f", "wb", 0)
    reference = weakref.ref(file)
    await file.aclose()
    assert reference() is file
    del file
    gc.collect()
    assert reference() is None


async def test_dropped_file_warns_and_closes_its_descriptor(tiers: Tiers, tmp_path: Path) -> None:
    file = await anyio_uring.open_file(tmp_path / "f", "wb", 0)
    fd = file.fileno()
    files = [file]
    del file
    with pytest.warns(ResourceWarning, match=r"^unclosed file <anyio_uring\..*name='.*/f'"):
        files.clear()  # the last reference
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_dropped_file_that_does_not_own_its_descriptor_is_silent(
    tiers: Tiers, tmp_path: Path
) -> None:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    file = await anyio_uring.open_file(fd, "wb", 0, closefd=False)
    del file
    gc.collect()
    os.close(fd)


async def test_closing_twice_is_no_error(tiers: Tiers, tmp_path: Path) -> None:
    for first, second in (("aclose", "close"), ("close", "aclose"), ("aclose", "aclose")):
        file: Any = await anyio_uring.open_file(tmp_path / "f", "wb", 0)
        fd = file.fileno()
        for name in (first, second):
            result = getattr(file, name)()
            if result is not None:
                await result
            assert file.closed
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


async def test_leaving_the_block_closes_also_by_an_error(tiers: Tiers, tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        async with await anyio_uring.open_file(tmp_path / "f", "wb", 0) as file:
            raise LookupError
    assert file.closed


async def test_closefd_false_leaves_the_descriptor_open(tiers: Tiers, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
    try:
        async with await anyio_uring.open_file(fd, "r+b", 0, closefd=False) as file:
            assert (file.name, file.closefd, file.fileno()) == (fd, False, fd)
            await file.write(b"abc")
        assert file.closed
        assert os.pread(fd, 10, 0) == b"abc"
    finally:
        os.close(fd)


async def test_close_error_is_raised_once_and_the_file_closed(tiers: Tiers, tmp_path: Path) -> None:
    file = await anyio_uring.open_file(tmp_path / "f", "wb", 0)
    os.close(file.fileno())  # somebody else's mistake: close(2) will say EBADF
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        await file.aclose()
    assert caught.value.filename == str(tmp_path / "f")
    assert file.closed
    await file.aclose()


async def test_wrapped_is_a_fileio_on_the_same_position(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        assert await file.read(2) == b"01"
        wrapped = file.wrapped
        assert type(wrapped) is io.FileIO
        assert wrapped is file.wrapped
        assert (wrapped.fileno(), wrapped.mode) == (file.fileno(), file.mode)
        assert not wrapped.closefd
        assert wrapped.read(2) == b"23"
        assert await file.read(2) == b"45"
        assert await file.tell() == wrapped.tell() == 6
        await file.seek(1)
        wrapped.write(b"ab")
        await file.write(b"cd")
        assert wrapped.tell() == 5
    assert wrapped.closed
    assert path.read_bytes() == b"0abcd56789"


@pytest.mark.parametrize("mode", MODES)
async def test_wrapped_exists_in_each_mode(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    async with Pair(tmp_path, mode) as pair:
        wrapped: Any = pair.ours.wrapped
        assert wrapped.readable() == pair.oracle.readable()
        assert wrapped.writable() == pair.oracle.writable()
        pair.same_on_disk("wrapped")


# -- in a cancelled scope -------------------------------------------------------------------------


async def test_aclose_in_a_cancelled_scope_closes_and_does_not_raise(
    tiers: Tiers, tmp_path: Path
) -> None:
    file = await anyio_uring.open_file(tmp_path / "f", "wb", 0)
    fd = file.fileno()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await file.aclose()
        went_on = True
    assert went_on
    assert file.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_buffer_is_free_again_after_an_error(tiers: Tiers) -> None:
    """Also while somebody holds on to the traceback."""
    data = bytearray(8)
    async with await anyio_uring.open_file("/dev/full", "wb", 0) as file:
        with pytest.raises(OSError, match="No space left") as error:
            await file.write(data)
        data.append(0)
    assert error.value.filename == "/dev/full"
    with pytest.raises(ValueError, match="closed file") as closed:
        await file.write(data)
    data.append(0)
    assert closed.value.__traceback__ is not None
