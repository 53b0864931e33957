"""Errors in the middle: what `io` does on the same file system, ours does.

The same calls are made on both, each on its own; compared are results, errors, positions and what
is in the file when the cause has gone and the call is made again.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.conftest import Tiers
from tests.support.fuse import FuseMount
from tests.support.mounts import cannot_mount, tmpfs
from tests.support.state import fifo_writer, until

import anyio_uring

from .conftest import CONTENT

pytestmark = [pytest.mark.anyio, pytest.mark.hosts("asyncio", "trio")]
needs_mount = pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount() or "")
ROOM = 8192
DATA = CONTENT[:6000]


async def call(file: Any, name: str, *arguments: Any) -> Any:
    """What a call gives, or its error with the errors that it is chained to."""
    try:
        result = getattr(file, name)(*arguments)
        return await result if inspect.isawaitable(result) else result
    except OSError as error:
        named = error.filename == getattr(file, "name", None)
        ours = isinstance(file, anyio_uring.AsyncFile)
        return chain(error) if named or not ours else "without the file's name"


def chain(error: BaseException | None) -> list[Any]:
    found: list[Any] = []
    while error is not None:
        found.append((type(error), getattr(error, "errno", None)))
        error = error.__context__
    return found


async def open_ours(path: Any, mode: str, buffering: int) -> Any:
    return await anyio_uring.open_file(path, mode, buffering)


async def open_io(path: Any, mode: str, buffering: int) -> Any:
    return open(path, mode, buffering)


async def close(file: Any) -> Any:
    return await call(file, "aclose" if hasattr(file, "aclose") else "close")


async def same(play: Callable[[Any], Awaitable[list[Any]]]) -> list[Any]:
    """Play it with `io` and with ours: what both gave."""
    expected = await play(open_io)
    assert await play(open_ours) == expected
    return expected


# -- no space left --------------------------------------------------------------------------------

STEPS: dict[str, tuple[Any, ...]] = {
    "flush": ("flush",),
    "write": ("write", DATA),
    "big write": ("write", DATA * 4),
    "seek": ("seek", 0),
    "seek to the end": ("seek", 0, os.SEEK_END),
    "truncate": ("truncate",),
    "read": ("read",),
    "readinto": ("readinto", bytearray(10)),
    "peek": ("peek",),
}


@pytest.fixture(scope="module")
def small() -> Iterator[Path]:
    if reason := cannot_mount():
        pytest.skip(reason)
    with tmpfs(64 << 10) as path:
        yield path


@contextmanager
def full(place: Path, room: int) -> Iterator[Callable[[], None]]:
    """A disk with so much room; call what is yielded to make more."""
    filler = place / "filler"
    (place / "file").unlink(missing_ok=True)
    with open(filler, "wb", 0) as file:
        size = file.write(bytes(1 << 20))  # as much as there is
        assert size < 1 << 20
        os.truncate(filler, size - room)
    try:
        yield lambda: os.truncate(filler, 0)
    finally:
        filler.unlink()


@pytest.mark.parametrize("mode", ["w+b", "ab", "a+b"])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("room", [0, 4096])
@pytest.mark.hosts("asyncio")
async def test_full_disk_keeps_the_rest_for_another_attempt(
    tiers: Tiers, small: Path, name: str, mode: str, room: int
) -> None:
    if "+" not in mode and STEPS[name][0] in {"read", "readinto", "peek"}:
        return

    async def play(open_it: Any) -> list[Any]:
        with full(small, room) as make_room:
            file = await open_it(os.fspath(small / "file"), mode, ROOM)
            told = [await call(file, "write", DATA)]
            told.append(await call(file, *STEPS[name]))
            told.append(await call(file, "tell"))
            told.append((small / "file").read_bytes())
            told.append(await call(file, "flush"))
            make_room()
            told.append(await call(file, "flush"))
            told.append(await call(file, "tell"))
            told.append(await close(file))
            told.append((small / "file").read_bytes())
            return told

    told = await same(play)
    assert [(OSError, 28)] in told[1:]
    assert told[-1][:6000] == DATA


@pytest.mark.parametrize("room", [0, 4096])
async def test_full_disk_at_the_close_is_told_and_the_file_closed(
    tiers: Tiers, small: Path, room: int
) -> None:
    async def play(open_it: Any) -> list[Any]:
        with full(small, room):
            file = await open_it(os.fspath(small / "file"), "wb", ROOM)
            told = [await call(file, "write", DATA), await close(file), file.closed]
            told.append(await close(file))
            told.append((small / "file").read_bytes())
            return told

    told = await same(play)
    assert told[1:4] == [[(OSError, 28)], True, None]
    assert told[4] == DATA[:room]


async def test_full_disk_is_told_by_a_sync(tiers: Tiers, small: Path) -> None:
    with full(small, 0) as make_room:
        async with await anyio_uring.open_file(small / "file", "wb", ROOM) as file:
            await file.write(DATA)
            for method in (file.fsync, file.fdatasync):
                with pytest.raises(OSError, match="No space") as caught:
                    await method()
                assert caught.value.filename == os.fspath(small / "file")
            make_room()
            await file.fsync()
            assert (small / "file").read_bytes() == DATA


# -- a file that may not grow ---------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("limit", [4096, 5000])
@pytest.mark.hosts("asyncio")
async def test_limit_of_the_file_size_keeps_the_rest_for_another_attempt(
    tiers: Tiers, path: Path, name: str, limit: int
) -> None:
    async def play(open_it: Any) -> list[Any]:
        path.write_bytes(b"")
        file = await open_it(os.fspath(path), "w+b", ROOM)
        with file_size_limit(limit):
            told = [await call(file, "write", DATA)]
            told.append(await call(file, *STEPS[name]))
            told.append(await call(file, "tell"))
            told.append(path.read_bytes())
            told.append(await call(file, "truncate", limit + 1))
        told.append(await call(file, "flush"))
        told.append(await close(file))
        told.append(path.read_bytes())
        return told

    told = await same(play)
    assert [(OSError, 27)] in told[1:]
    assert told[-1][:6000] == DATA


# -- an error of the device -----------------------------------------------------------------------


async def failing(mount: FuseMount, opcode: str, error: int, operation: Any) -> Any:
    """Have the requests of an operation fail; of a synchronous one in a thread."""
    before = mount.seen(opcode)
    results: list[Any] = []

    async def run() -> None:
        results.append(await operation())

    mount.stall(opcode)
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await until(lambda: mount.seen(opcode) > before)
        finally:
            mount.release(opcode, error=error)
    return results[0]


async def in_thread(file: Any, name: str, *arguments: Any) -> Any:
    """The call, where it cannot hold the loop up."""
    if isinstance(file, anyio_uring.AsyncFile):
        return await call(file, "aclose" if name == "close" else name, *arguments)

    def run() -> Any:
        try:
            return getattr(file, name)(*arguments)
        except OSError as error:
            return chain(error)

    return await anyio.to_thread.run_sync(run)


@pytest.mark.parametrize("name", ["flush", "seek", "truncate", "read", "big write", "close"])
@pytest.mark.parametrize("mode", ["r+b", "a+b"])
async def test_device_error_of_a_write_keeps_the_rest_for_another_attempt(
    tiers: Tiers, mount: FuseMount, slow: Path, name: str, mode: str
) -> None:
    async def play(open_it: Any) -> list[Any]:
        slow.write_bytes(CONTENT)
        file = await open_it(os.fspath(slow), mode, ROOM)
        step = ("close",) if name == "close" else STEPS[name]
        told = [await call(file, "write", DATA)]
        told.append(await failing(mount, "WRITE", 5, lambda: in_thread(file, *step)))
        told.append(file.closed)
        if name != "close":
            told.append(await in_thread(file, "tell"))
            told.append(await in_thread(file, "flush"))
        told.append(await in_thread(file, "close"))
        told.append(mount.content("file"))
        return told

    told = await same(play)
    assert told[1] == [(OSError, 5)]
    assert told[2] is (name == "close")


@pytest.mark.parametrize("name", ["read", "readline", "readinto", "read1", "peek"])
async def test_device_error_of_a_read_moves_nothing(
    tiers: Tiers, mount: FuseMount, slow: Path, name: str
) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"read": (50,), "readinto": (bytearray(50),)}

    async def play(open_it: Any) -> list[Any]:
        file = await open_it(os.fspath(slow), "rb", 16)
        told = [await in_thread(file, "read", 16)]
        step = (name, *arguments.get(name, ()))
        told.append(await failing(mount, "READ", 5, lambda: in_thread(file, *step)))
        told.append(await in_thread(file, "tell"))
        told.append(await in_thread(file, "readline"))
        told.append(await in_thread(file, "close"))
        return told

    told = await same(play)
    assert told[1:4] == [[(OSError, 5)], 16, CONTENT[16:24]]


async def test_error_of_the_flush_and_of_the_close_are_chained(tiers: Tiers, path: Path) -> None:
    async def play(open_it: Any) -> list[Any]:
        file = await open_it(os.fspath(path), "wb", ROOM)
        await call(file, "write", DATA)
        os.close(file.fileno())  # somebody else's mistake: EBADF, twice
        return [await close(file), file.closed, await close(file)]

    assert await same(play) == [[(OSError, 9), (OSError, 9)], True, None]


async def test_interrupted_request_is_made_again(
    tiers: Tiers, mount: FuseMount, slow: Path
) -> None:
    async def play(open_it: Any) -> list[Any]:
        slow.write_bytes(CONTENT)
        file = await open_it(os.fspath(slow), "r+b", 16)
        told = [await failing(mount, "READ", 4, lambda: in_thread(file, "read", 8))]
        told.append(await in_thread(file, "write", b"data"))
        told.append(await failing(mount, "WRITE", 4, lambda: in_thread(file, "flush")))
        told.append(await in_thread(file, "close"))
        return [*told, mount.content("file")]

    told = await same(play)
    assert told == [CONTENT[:8], 4, None, None, CONTENT[:8] + b"data" + CONTENT[12:]]


# -- streams --------------------------------------------------------------------------------------


async def test_pipe_without_a_reader_is_broken(tiers: Tiers) -> None:
    async def play(open_it: Any) -> list[Any]:
        reader, writer = os.pipe()
        file = await open_it(writer, "wb", 16)
        told = [await call(file, "write", b"data")]
        os.close(reader)
        told.append(await call(file, "flush"))
        told.append(await call(file, "write", b"more"))
        told.append(await call(file, "write", b"so much more"))
        told.append(await call(file, "write", b"so much more that it is too much"))
        told.append(await close(file))
        told.append(file.closed)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(writer)
        return told

    broken = [(BrokenPipeError, 32)]
    assert await same(play) == [4, broken, 4, broken, broken, broken, True]


async def test_full_pipe_that_does_not_block_says_how_much_it_took(tiers: Tiers) -> None:
    async def play(open_it: Any) -> list[Any]:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        file = await open_it(writer, "wb", 16)
        taken = 0
        while True:
            try:
                result = file.write(b"x" * 7)
                taken += await result if inspect.isawaitable(result) else result
            except BlockingIOError as error:
                told: list[Any] = [error.errno, error.characters_written]
                break
        told.append(await call(file, "flush"))
        os.set_blocking(reader, False)
        got = len(os.read(reader, 1 << 20))
        told.append(await call(file, "flush"))
        told.append(await close(file))
        got += len(os.read(reader, 1 << 20))
        os.close(reader)
        return [*told, taken, got]

    told = await same(play)
    assert told[1] == 2  # of the seven, the rest of the buffer
    assert told[-1] == told[-2] + told[1]


@pytest.mark.parametrize("name", ["readline", "read"])
async def test_signals_do_not_disturb_a_read(tiers: Tiers, tmp_path: Path, name: str) -> None:
    signals: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: signals.append(number))
    try:
        with fifo_writer(tmp_path / "fifo") as fd:
            async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 4) as file:
                got: list[bytes] = []

                async def read() -> None:
                    got.append(await (file.readline() if name == "readline" else file.read(10)))

                async with anyio.create_task_group() as group:
                    group.start_soon(read)
                    for number, part in enumerate((b"sig", b"nal", b"led", b"\n"), 1):
                        await until(lambda: file._handle.inflight == 1)
                        os.kill(os.getpid(), signal.SIGALRM)
                        await until(lambda number=number: len(signals) == number)  # type: ignore[misc]
                        os.write(fd, part)
                assert got == [b"signalled\n"]
    finally:
        signal.signal(signal.SIGALRM, before)
