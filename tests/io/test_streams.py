"""Pipes, FIFOs, sockets, terminals: what has no position, compared with `io.FileIO`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.oracle import outcome
from tests.support.state import until

import anyio_uring

pytestmark = pytest.mark.anyio

Ends = tuple[int, int]


def pipe() -> Ends:
    return os.pipe()


def sockets() -> Ends:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def terminal() -> Ends:
    """A terminal without line editing: (slave, master)."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[0] = attributes[1] = attributes[3] = 0
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    return slave, master


try:
    import termios
except ImportError:  # not on Windows
    KINDS: list[Callable[[], Ends]] = [pipe, sockets]
else:
    KINDS = [pipe, sockets, terminal]


def flags(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def fill(fd: int) -> None:
    """Write until there is no room, and leave the descriptor blocking."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(4096))
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x")
    os.set_blocking(fd, True)


two_ways = pytest.mark.parametrize("kind", [pipe, sockets])
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def ends(kind: Callable[[], Ends]) -> Iterator[Ends]:
    """(the end that is read, the end that is written); a test may close them."""
    both = kind()
    identities = [os.fstat(fd).st_ino for fd in both]
    yield both
    for fd, identity in zip(both, identities, strict=True):
        try:
            if os.fstat(fd).st_ino == identity:
                os.close(fd)
        except OSError:
            continue  # closed by the test


# -- facts ----------------------------------------------------------------------------------------


@every_kind
async def test_stream_has_no_position_as_fileio(tiers: Tiers, ends: Ends) -> None:
    reader, _ = ends
    with open(reader, "rb", 0, closefd=False) as oracle:
        async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
            for call in (
                lambda f: f.seekable(),
                lambda f: f.isatty(),
                lambda f: f.readable(),
                lambda f: f.writable(),
                lambda f: f.mode,
                lambda f: f.name,
                lambda f: f.fileno(),
                lambda f: f.tell(),
                lambda f: f.seek(0),
                lambda f: f.seek(0, os.SEEK_END),
                lambda f: f.seek(5, os.SEEK_CUR),
                lambda f: f.truncate(),
                lambda f: f.write(b"x"),
                lambda f: f.flush(),
                lambda f: f.read(0),
                lambda f: f.readinto(bytearray()),
            ):
                assert await outcome(call, file, reader) == await outcome(call, oracle)


@two_ways
async def test_append_mode_of_a_stream_needs_no_position(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    async with await anyio_uring.open_file(writer, "ab", 0, closefd=False) as file:
        assert await file.write(b"abc") == 3
    assert os.read(reader, 10) == b"abc"


# -- reading --------------------------------------------------------------------------------------


@every_kind
async def test_read_gives_what_is_there(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
        os.write(writer, b"abcdef")
        assert await file.read(4) == b"abcd"
        assert await file.read(100) == b"ef"
        os.write(writer, b"ghi")
        target = bytearray(b"......")
        assert await file.readinto(target) == 3
        assert target == b"ghi..."


@every_kind
async def test_read_waits_for_the_other_end(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    got: list[Any] = []

    async def read(file: anyio_uring.AsyncFile[bytes]) -> None:
        got.append(await file.read(10))
        target = bytearray(10)
        got.append((await file.readinto(target), bytes(target)))

    async with (
        await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(read, file)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert got == []
        os.write(writer, b"late")
        await until(lambda: len(got) == 1)
        os.write(writer, b"later")
    assert got == [b"late", (5, b"later" + bytes(5))]


@two_ways
async def test_end_of_the_stream_is_the_end(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
        os.write(writer, b"rest")
        os.close(writer)
        assert await file.read() == b"rest"
        for call in (file.read, file.readall, file.readline):
            assert await call() == b""
        assert await file.read(5) == b""
        assert await file.readinto(bytearray(5)) == 0
        assert await file.readlines() == []


@two_ways
async def test_everything_is_read_until_the_other_end_closes(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    data = os.urandom(3 << 20)

    def write() -> None:
        with open(writer, "wb", 0) as sink:
            view = memoryview(data)
            while view:
                view = view[sink.write(view) :]

    thread = threading.Thread(target=write)
    thread.start()
    try:
        async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
            assert await file.read() == data
    finally:
        thread.join()


@two_ways
async def test_lines_take_nothing_that_is_behind_them(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
        os.write(writer, b"one\ntwo\nthree")
        assert await file.readline() == b"one\n"
        assert os.read(reader, 2) == b"tw"  # somebody else reads there, too
        assert await file.readline() == b"o\n"
        assert await file.readline(2) == b"th"
        os.close(writer)
        assert [line async for line in file] == [b"ree"]


@every_kind
async def test_line_that_is_cancelled_loses_nothing(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
        os.write(writer, b"begin")
        with anyio.move_on_after(0.05) as scope:
            await file.readline()
        assert scope.cancelled_caught
        os.write(writer, b" and end\nnext")
        assert await file.readline() == b"begin and end\n"
        assert await file.read(10) == b"next"


async def test_line_of_a_terminal_ends_where_the_user_ends_it(tiers: Tiers) -> None:
    master, slave = pty.openpty()
    async with await anyio_uring.open_file(slave, "r+b", 0) as file:
        assert file.isatty()
        os.write(master, b"typed\n")
        assert await file.read(100) == b"typed\n"
        os.write(master, b"\x04")  # end of file, for once
        assert await file.read(100) == b""
        os.write(master, b"more\n")
        assert await file.readline() == b"more\n"
        assert await file.write(b"shown") == 5
        shown = b""
        while not shown.endswith(b"shown"):
            shown += os.read(master, 100)
    os.close(master)


# -- writing --------------------------------------------------------------------------------------


@every_kind
async def test_write_reaches_the_other_end(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    async with await anyio_uring.open_file(writer, "wb", 0, closefd=False) as file:
        assert await file.write(b"abc") == 3
        assert await file.write(b"") == 0
        await file.writelines([b"d", bytearray(b"e"), memoryview(b"f")])
    got = b""
    while len(got) < 6:
        got += os.read(reader, 100)
    assert got == b"abcdef"


@two_ways
async def test_write_waits_for_room(tiers: Tiers, ends: Ends) -> None:
    """More than the kernel holds: written to its end by as many calls as that takes."""
    reader, writer = ends
    data = os.urandom(1 << 20)
    got = bytearray()
    results = []

    async def write(file: anyio_uring.AsyncFile[bytes]) -> None:
        view = memoryview(data)
        while view:
            count = await file.write(view)
            results.append(count)
            view = view[count:]
        file.close()

    sink = await anyio_uring.open_file(writer, "wb", 0)
    async with (
        await anyio_uring.open_file(reader, "rb", 0) as source,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(write, sink)
        while part := await source.read(1 << 16):
            got += part
    assert got == data
    assert sum(results) == len(data)


@two_ways
async def test_write_without_a_reader_is_a_broken_pipe(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    os.close(reader)
    async with await anyio_uring.open_file(writer, "wb", 0, closefd=False) as file:
        for _ in range(2):
            with pytest.raises(BrokenPipeError) as caught:
                await file.write(b"x")
            assert (caught.value.errno, caught.value.filename) == (errno.EPIPE, writer)


async def test_socket_works_both_ways(tiers: Tiers) -> None:
    one, other = sockets()
    async with (
        await anyio_uring.open_file(one, "r+b", 0) as first,
        await anyio_uring.open_file(other, "r+b", 0) as second,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(second.read, 1)
        await anyio.lowlevel.checkpoint()
        assert await first.write(b"x") == 1  # while the other one waits
        tasks.start_soon(second.write, b"pong")
        assert await first.read(4) == b"pong"


# -- descriptors that do not block ----------------------------------------------------------------


@every_kind
async def test_nonblocking_descriptor_with_nothing_gives_none(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    os.set_blocking(reader, False)
    with open(reader, "rb", 0, closefd=False) as oracle:
        async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
            for call in (
                lambda f: f.read(5),
                lambda f: f.read(),
                lambda f: f.readall(),
                lambda f: f.readinto(bytearray(5)),
                lambda f: f.readline(),
                lambda f: f.readlines(),
            ):
                assert await outcome(call, file) == await outcome(call, oracle)
            for call in (
                lambda f: f.read(5),
                lambda f: f.read(),
                lambda f: f.readinto(bytearray(5)),
                lambda f: f.readline(),
            ):
                results = []
                for each in (oracle, file):
                    os.write(writer, b"abc")
                    if each is file and tiers.ring:
                        await anyio.lowlevel.checkpoint()
                    results.append(await outcome(call, each))
                assert results[0] == results[1]
    assert not os.get_blocking(reader)


@two_ways
async def test_nonblocking_descriptor_without_room_gives_none(tiers: Tiers, ends: Ends) -> None:
    _, writer = ends
    os.set_blocking(writer, False)
    with open(writer, "wb", 0, closefd=False) as oracle:
        while oracle.write(bytes(4096)) is not None:
            pass
        while oracle.write(b"x") is not None:
            pass
        async with await anyio_uring.open_file(writer, "wb", 0, closefd=False) as file:
            assert await outcome(lambda f: f.write(b"xyz"), file) == (type(None), None)
    assert not os.get_blocking(writer)


@two_ways
async def test_nonblocking_write_takes_a_part(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    async with await anyio_uring.open_file(writer, "wb", 0, closefd=False) as file:
        data = os.urandom(4 << 20)
        count = await file.write(data)
        assert 0 < count < len(data)
    got = bytearray()
    while len(got) < count:
        got += os.read(reader, 1 << 20)
    assert got == data[:count]
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)


@every_kind
async def test_flags_of_a_stream_are_left_alone_by_a_read(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    before = flags(reader), flags(writer)
    async with (
        await anyio_uring.open_file(reader, "rb", 0, closefd=False) as source,
        await anyio_uring.open_file(writer, "wb", 0, closefd=False) as sink,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(source.read, 3)
        await until(lambda: source._handle.inflight == 1)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert (flags(reader), flags(writer)) == before  # while it waits
        await sink.write(b"abc")
    assert (flags(reader), flags(writer)) == before


@two_ways
async def test_flags_of_a_stream_are_left_alone_by_a_write(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    fill(writer)
    os.set_blocking(reader, False)
    before = flags(writer)
    async with (
        await anyio_uring.open_file(writer, "wb", 0, closefd=False) as sink,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(sink.write, b"abc")
        await until(lambda: sink._handle.inflight == 1)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert flags(writer) == before  # while it waits
        got = bytearray()
        while not got.endswith(b"abc"):
            try:
                got += os.read(reader, 1 << 20)
            except BlockingIOError:
                await anyio.lowlevel.checkpoint()
    assert flags(writer) == before


@two_ways
async def test_write_that_waits_ends_when_its_reader_goes(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    fill(writer)
    errors: list[BaseException] = []

    async def write(file: Any) -> None:
        try:
            await file.write(b"abc")
        except OSError as error:
            errors.append(error)

    async with (
        await anyio_uring.open_file(writer, "wb", 0, closefd=False) as sink,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(write, sink)
        await until(lambda: sink._handle.inflight == 1)
        os.close(reader)
    assert [type(error) for error in errors] in ([BrokenPipeError], [ConnectionResetError])


@pytest.mark.hosts("asyncio", "trio")  # uvloop's own wait makes the descriptor non-blocking
@two_ways
async def test_somebody_elses_wait_for_a_stream_goes_on(tiers: Tiers, ends: Ends) -> None:
    reader, writer = ends
    ready = anyio.Event()

    async def watch() -> None:
        await anyio.wait_readable(reader)
        ready.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        async with await anyio_uring.open_file(reader, "rb", 0, closefd=False) as file:
            with anyio.move_on_after(0.01) as scope:
                await file.read(1)
            assert scope.cancelled_caught
        assert not ready.is_set()
        os.write(writer, b"x")
    assert ready.is_set()


async def test_ordinary_file_takes_no_notice_of_nonblocking(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(1 << 16))
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    async with await anyio_uring.open_file(fd, "r+b", 0) as file:
        assert await file.read(5) == bytes(5)
        assert await file.pread(5, 40000) == bytes(5)
        assert await file.write(b"abc") == 3


# -- FIFOs by path --------------------------------------------------------------------------------


async def test_fifo_opened_by_path_from_both_ends(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    got = []

    async def read() -> None:
        async with await anyio_uring.open_file(path, "rb", 0) as file:
            assert not file.seekable()
            got.append(await file.read(3))
            got.append(await file.read())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        async with await anyio_uring.open_file(path, "wb", 0) as file:
            assert await file.write(b"abc") == 3
            await until(lambda: got == [b"abc"])
            assert await file.write(b"def") == 3
    assert got == [b"abc", b"def"]


async def test_fifo_opened_for_both_needs_no_other_end(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="Illegal seek"):
        os.lseek(os.open(path, os.O_RDWR | os.O_NONBLOCK), 0, os.SEEK_CUR)
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        assert await file.write(b"abc") == 3
        assert await file.read(10) == b"abc"


# -- children -------------------------------------------------------------------------------------


async def test_output_of_a_child_is_read_line_by_line(tiers: Tiers) -> None:
    program = "for n in range(5): print('line', n, flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        async with await anyio_uring.open_file(
            child.stdout.fileno(), "rb", 0, closefd=False
        ) as file:
            assert [line async for line in file] == [b"line %d\n" % n for n in range(5)]


STANDARD = """
    import sys, anyio, anyio_uring
    from anyio_uring.testing import force_tiers
    async def main():
        async with await anyio_uring.open_file(0, "rb", 0, closefd=False) as source:
            async with await anyio_uring.open_file(1, "wb", 0, closefd=False) as sink:
                while line := await source.readline():
                    await sink.write(line.upper())
    with force_tiers(*sys.argv[1].split(",")):
        anyio.run(main)
"""


@pytest.mark.hosts("asyncio")
async def test_standard_streams_of_a_program_are_files(tiers: Tiers) -> None:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STANDARD), ",".join(tiers.allowed)],
        input=b"one\ntwo\nthree",
        capture_output=True,
    )
    assert (result.stdout, result.stderr) == (b"ONE\nTWO\nTHREE", b"")
