"""`builtins.open` is the oracle: the same calls on both, the same results, errors and bytes.

Each example opens two equal files, one with each, and makes the same random steps on both.  What
differs on purpose is excluded where it is met, narrowly, and told in the documentation ("How files
differ from io").

``ANYIO_URING_FUZZ=1000`` makes so many random examples for each cell instead of the few fixed ones.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anyio_uring

FUZZ = int(os.environ.get("ANYIO_URING_FUZZ", "0"))
MODES = ["rb", "wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b"]
BUFFERINGS = [*range(10), 16, 4096, -1]
PIECES = [0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 100, 4095, 4096, 4097, 10_000]

Step = tuple[Any, ...]


def steps() -> st.SearchStrategy[list[Step]]:
    size = st.sampled_from(PIECES)
    wanted = st.one_of(size, st.sampled_from([-1, None, -2]))
    data = st.builds(Data, size, st.integers(0, 25))
    offset = st.one_of(size, size.map(lambda value: -value))
    whence = st.sampled_from([0, 0, 0, 1, 1, 2, 5, 2.0])
    call = st.one_of(
        st.tuples(st.just("read"), wanted),
        st.tuples(st.just("read"), size),
        st.tuples(st.just("read1"), st.one_of(size, st.sampled_from([-1, -2]))),
        st.tuples(st.just("readinto"), size),
        st.tuples(st.just("readinto1"), size),
        st.tuples(st.just("readline"), st.one_of(size, st.sampled_from([-1, None, -2]))),
        st.tuples(st.just("readlines"), st.sampled_from([None, -1, 0, 1, 5, 100, 9000])),
        st.tuples(st.just("peek"), size),
        st.tuples(st.just("iterate"), st.integers(0, 4)),
        st.tuples(st.just("write"), data),
        st.tuples(st.just("write"), data),
        st.tuples(st.just("write"), st.sampled_from(["text", None, 5])),
        st.tuples(st.just("writelines"), st.lists(data, max_size=3)),
        st.tuples(st.just("seek"), offset, whence),
        st.tuples(st.just("seek"), size, st.just(0)),
        st.tuples(st.just("tell")),
        st.tuples(st.just("truncate"), st.one_of(st.none(), size, st.just(-1))),
        st.tuples(st.just("flush")),
        st.tuples(st.just("pread"), size, size),
        st.tuples(st.just("preadinto"), size, size),
        st.tuples(st.just("pwrite"), data, size),
        st.tuples(st.just("appender"), data),
        st.tuples(st.just("fileno")),
        st.tuples(st.just("sync")),
    )
    return st.lists(call, max_size=20)


@dataclass(frozen=True)
class Data:
    """Recognisable bytes with a newline here and there, told in few words when a test fails."""

    size: int
    salt: int

    def __bytes__(self) -> bytes:
        salt = self.salt
        pattern = bytes(range(97 + salt, 123)) + b"\n" + bytes(range(97, 97 + salt)) + b"\r\n\n"
        return (pattern * (self.size // len(pattern) + 1))[: self.size]


CONTENTS = st.builds(Data, st.sampled_from([0, 3, 20, 100, 9000, 30_000]), st.integers(0, 25))


def plain(value: Any) -> Any:
    """An argument of a step as the files take it."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return bytes(value) if isinstance(value, Data) else value


def error_key(error: Exception) -> tuple[Any, ...]:
    """What of an exception a caller can see; not the file's name, which `io` leaves out of some."""
    if isinstance(error, OSError) and error.errno is not None:
        return (type(error), error.errno, error.strerror)
    return (type(error), str(error))


class Pair:
    """A file of `io` and one of ours, and their two paths."""

    def __init__(self, directory: Path, mode: str, buffering: int) -> None:
        self.paths = (directory / "io" / "file", directory / "ours" / "file")
        self.mode = mode
        self.buffering = buffering
        self.sync: IO[Any]
        self.file: anyio_uring.AsyncFile[Any]
        self.ahead_differs = False

    async def open(self) -> bool:
        """Open both, or see both fail in the same way."""

        async def ours() -> Any:
            return await anyio_uring.open_file(self.paths[1], self.mode, self.buffering)

        first = attempt(partial(open, self.paths[0], self.mode, self.buffering))
        second = await attempt_async(ours)
        if isinstance(first, tuple) or isinstance(second, tuple):
            assert second == first
            return False
        self.sync, self.file = first, second
        return True

    async def both(self, name: str, *arguments: Any) -> None:
        first = attempt(partial(getattr(self.sync, name, _missing), *arguments))
        second = await attempt_async(partial(getattr(self.file, name, _missing_async), *arguments))
        assert second == first

    async def step(self, name: str, *arguments: Any) -> None:
        if name in {"write", "writelines"} and self.mode == "a+b":
            # What `io` had read ahead it takes for the place it writes to, which is the end
            await self.both("flush")
            self.have_io_forget()
        special = getattr(self, f"step_{name}", None)
        if special is not None:
            await special(*arguments)
        else:
            await self.both(name, *arguments)
        if name in {"write", "writelines"}:
            self.ahead_differs = True
        elif name in {"flush", "truncate", "sync"}:
            self.ahead_differs = False
        if name in {"flush", "truncate", "sync"} or (
            # Where nothing is read, what is handed to the kernel, and when, is the same as well
            name in {"write", "writelines", "seek"} and "+" not in self.mode
        ):
            self.compare_disk()

    def compare_disk(self) -> None:
        assert self.paths[1].read_bytes() == self.paths[0].read_bytes()

    async def before_size_of_buffer_shows(self) -> None:
        """In a file that is read and written `io` keeps what it had read ahead over a write, and
        we do not: how much comes at once differs, and either is right.
        """
        if self.ahead_differs and "+" in self.mode:
            await self.both("flush")
            self.ahead_differs = False

    def have_io_forget(self) -> None:
        """Have `io` forget what it had read ahead, as ours does."""
        if self.sync.readable() and self.buffering != 0:
            position = self.sync.tell()
            self.sync.seek(0, os.SEEK_END)
            self.sync.seek(position)

    async def step_read1(self, size: int) -> None:
        if self.buffering != 0:
            await self.before_size_of_buffer_shows()
            await self.both("read1", size)

    async def step_readinto(self, size: int, name: str = "readinto") -> None:
        first, second = bytearray(size), bytearray(size)
        assert await attempt_async(partial(getattr(self.file, name), second)) == attempt(
            partial(getattr(self.sync, name), first)
        )
        assert second == first

    async def step_readinto1(self, size: int) -> None:
        if self.buffering != 0:
            await self.before_size_of_buffer_shows()
            await self.step_readinto(size, "readinto1")

    async def step_peek(self, size: int) -> None:
        if self.buffering == 0 or not self.sync.readable():
            return
        if "+" not in self.mode:
            await self.both("peek", size)
            return
        # `io` reads again what it had read ahead, and gives more of it
        await self.before_size_of_buffer_shows()
        first, second = self.sync.peek(size), await self.file.peek(size)  # type: ignore[attr-defined]
        assert bool(second) == bool(first)
        assert first.startswith(second)
        self.ahead_differs = True

    async def step_iterate(self, count: int) -> None:
        def sync() -> list[Any]:
            return [line for _, line in zip(range(count), self.sync, strict=False)]

        async def ours() -> list[Any]:
            lines: list[Any] = []
            iterator = aiter(self.file)
            try:
                while len(lines) < count:
                    lines.append(await anext(iterator))
            except StopAsyncIteration:
                pass
            finally:
                if hasattr(iterator, "aclose"):  # of an unbuffered file
                    await iterator.aclose()
            return lines

        def exact() -> list[Any]:
            return sync() if count else []

        assert await attempt_async(ours) == attempt(exact)

    async def step_pread(self, size: int, offset: int) -> None:
        if not self.sync.readable():
            return
        self.sync.flush()
        expected = os.pread(self.sync.fileno(), size, offset)
        assert await self.file.pread(size, offset) == expected

    async def step_preadinto(self, size: int, offset: int) -> None:
        if not self.sync.readable():
            return
        self.sync.flush()
        expected = os.pread(self.sync.fileno(), size, offset)
        target = bytearray(size)
        assert await self.file.preadinto(target, offset) == len(expected)
        assert target[: len(expected)] == expected

    async def step_pwrite(self, data: bytes, offset: int) -> None:
        if not self.sync.writable() or "a" in self.mode:
            return
        self.sync.flush()
        self.have_io_forget()
        os.pwrite(self.sync.fileno(), data, offset)
        assert await self.file.pwrite(data, offset) == len(data)

    async def step_appender(self, data: bytes) -> None:
        for path in self.paths:
            with open(path, "ab") as other:
                other.write(data)

    async def step_fileno(self) -> None:
        """From now on ours is a shared file; the kernel's offset is where the user is."""
        if "+" in self.mode:
            await self.both("flush")
        self.have_io_forget()
        assert self.file.fileno() > 0

    async def step_sync(self) -> None:
        self.sync.flush()
        await self.file.fsync()

    async def close(self) -> None:
        await self.both("tell")
        self.sync.close()
        await self.file.aclose()
        self.compare_disk()


def attempt(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is compared)
        return error_key(error)


async def attempt_async(function: Callable[[], Any]) -> Any:
    """The same of ours, where errors of the system have to name the file."""
    try:
        return await function()
    except Exception as error:  # noqa: BLE001
        named = not isinstance(error, OSError) or error.errno is None or error.filename
        return error_key(error) if named else error


def _missing(*_: Any) -> None:
    raise AttributeError


async def _missing_async(*_: Any) -> None:
    raise AttributeError


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        for name in ("io", "ours"):
            Path(path, name).mkdir()
        yield Path(path)


@pytest.mark.usefixtures("tiers")
@settings(
    max_examples=FUZZ or 25,
    derandomize=not FUZZ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    mode=st.sampled_from(MODES),
    buffering=st.sampled_from(BUFFERINGS),
    content=CONTENTS,
    calls=steps(),
)
def test_same_steps_have_same_results(
    anyio_backend: tuple[str, dict[str, Any]],
    directory: Path,
    mode: str,
    buffering: int,
    content: Data,
    calls: list[Step],
) -> None:
    async def main() -> None:
        pair = Pair(directory, mode, buffering)
        for path in pair.paths:
            path.unlink(missing_ok=True)
            if "x" not in mode:
                path.write_bytes(bytes(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # buffering=1
            assert await pair.open()
        try:
            for call in calls:
                await pair.step(*map(plain, call))
            await pair.close()
        finally:
            pair.sync.close()
            await pair.file.aclose()

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
