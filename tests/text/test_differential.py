"""`builtins.open` is the oracle for text, too: the same calls on both, the same results and bytes.

Each example opens two equal files, one with each, and makes the same random steps on both.  Where
a step would show what `io` keeps read ahead over a write, and we do not, both are flushed before.

``ANYIO_URING_FUZZ=1000`` makes so many random examples for each cell instead of the few fixed ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import anyio_uring

FUZZ = int(os.environ.get("ANYIO_URING_FUZZ", "0"))
MODES = ["r", "rt", "w", "a", "x", "r+", "w+", "a+", "x+"]
BUFFERINGS = [*range(1, 10), 16, 4096, -1]
CHUNKS = [1, 2, 3, 5, 8, 13, 100, 8192, 8192]
NEWLINES = [None, "", "\n", "\r", "\r\n"]
ENCODINGS = [
    *("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be", "utf-7"),
    *("ascii", "latin-1", "cp1252", "iso2022_jp", "iso2022_kr", "hz", "gb18030", "shift_jis"),
    *("euc_jp", "big5", "koi8-r", "unicode_escape", "raw_unicode_escape"),
]
ERRORS = [None, None, "strict", "replace", "ignore", "backslashreplace", "surrogateescape"]
# A spelling of each kind: one to four bytes, escape sequences, ends of lines of all three kinds
PIECES = [
    *("", "a", "bcd", "\n", "\r", "\r\n", "one\ntwo\n", "one\r\ntwo\rthree\n", "\n\n\r\r\n"),
    *(
        "é",
        "ж",
        "日本語\n",
        "漢字\r\n",
        "한글",
        "😀",
        "~{",
        "+-&",
        "\\",
        "x" * 40,
        "long line " * 30,
    ),
    *("long line " * 30, "line\n" * 50, "日本 " * 100 + "\r\n", "y" * 9000, "z\r\n" * 3000),
]
SIZES = [0, 1, 2, 3, 5, 7, 9, 16, 50, 1000, 8191, 8192, 20_000]

Step = tuple[Any, ...]


def steps() -> st.SearchStrategy[list[Step]]:
    size = st.sampled_from(SIZES)
    text = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
    call = st.one_of(
        st.tuples(st.just("read"), st.one_of(size, size, st.sampled_from([-1, None, -2, "x"]))),
        st.tuples(st.just("readline")),
        st.tuples(st.just("readline"), st.one_of(size, st.sampled_from([-1, None, -2]))),
        st.tuples(st.just("readlines"), st.sampled_from([None, -1, 0, 1, 5, 100, 9000])),
        st.tuples(st.just("iterate"), st.integers(1, 4)),
        st.tuples(st.just("write"), text),
        st.tuples(st.just("write"), text),
        st.tuples(st.just("write"), st.sampled_from([b"bytes", None, 5])),
        st.tuples(st.just("writelines"), st.lists(text, max_size=3)),
        st.tuples(st.just("seek"), st.sampled_from([0, 0, 0, -1, 1, 7]), st.integers(0, 3)),
        st.tuples(st.just("tell")),
        st.tuples(st.just("tell")),
        st.tuples(st.just("back"), st.integers(0, 20)),
        st.tuples(st.just("back"), st.integers(0, 20)),
        st.tuples(st.just("truncate"), st.sampled_from([None, None, 0, 3, 100])),
        st.tuples(st.just("flush")),
        st.tuples(st.just("reconfigure"), RECONFIGURATIONS),
        st.tuples(st.just("below")),
    )
    return st.lists(call, max_size=25)


RECONFIGURATIONS = st.fixed_dictionaries(
    {},
    optional={
        "encoding": st.sampled_from(["utf-8", "latin-1", "utf-16", "no such", None]),
        "errors": st.sampled_from(["replace", None]),
        "newline": st.sampled_from([*NEWLINES, "x"]),
        "line_buffering": st.booleans(),
        "write_through": st.booleans(),
    },
)
CONTENTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def error_key(error: Exception) -> tuple[Any, ...]:
    """What of an exception a caller can see; not the file's name, which `io` leaves out of some."""
    if isinstance(error, OSError) and error.errno is not None:
        return (type(error), error.errno, error.strerror)
    return (type(error), str(error))


def attempt(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is compared)
        return error_key(error)


async def attempt_async(function: Callable[[], Any]) -> Any:
    try:
        return await function()
    except Exception as error:  # noqa: BLE001
        return error_key(error)


class Pair:
    """A file of `io` and one of ours, and their two paths."""

    def __init__(self, directory: Path, options: dict[str, Any], chunk: int) -> None:
        self.paths = (directory / "io" / "file", directory / "ours" / "file")
        self.options = options
        self.mode = options["mode"]
        self.chunk = chunk
        self.positions = [0]
        self.wrote = False
        self.over = False
        self.sync: Any
        self.file: Any

    async def open(self) -> bool:
        async def ours() -> Any:
            return await anyio_uring.open_file(self.paths[1], **self.options)

        first: Any = attempt(partial(open, self.paths[0], **self.options))
        second: Any = await attempt_async(ours)
        if isinstance(first, tuple) or isinstance(second, tuple):
            assert second == first
            return False
        self.sync, self.file = first, second
        self.sync._CHUNK_SIZE = self.file._CHUNK_SIZE = self.chunk
        return True

    async def both(self, name: str, *arguments: Any) -> Any:
        first = attempt(partial(getattr(self.sync, name), *arguments))
        second = await attempt_async(partial(getattr(self.file, name), *arguments))
        assert second == first
        if isinstance(first, tuple) and issubclass(first[0], UnicodeError):
            self.over = True  # what is left behind then, `io` does not say
        self.compare_attributes()
        return first

    async def step(self, name: str, *arguments: Any) -> None:
        # (Of a file that cannot be read, `io` hands on what is written before it says so.)
        if name not in {"write", "writelines"} and (
            ("+" in self.mode and self.wrote) or name in {"readline", "readlines", "iterate"}
        ):
            await self.both("flush")
            self.wrote = False
        special = getattr(self, f"step_{name}", None)
        if special is not None:
            await special(*arguments)
        else:
            await self.both(name, *arguments)
        if name in {"write", "writelines"}:
            self.wrote = True
        if name in {"flush", "tell", "back", "seek", "truncate"} or "+" not in self.mode:
            self.compare_disk()

    def compare_disk(self) -> None:
        assert self.paths[1].read_bytes() == self.paths[0].read_bytes()

    def compare_attributes(self) -> None:
        for name in ("newlines", "encoding", "errors", "line_buffering", "write_through", "mode"):
            assert getattr(self.file, name) == getattr(self.sync, name), name

    async def step_iterate(self, count: int) -> None:
        def sync() -> list[str]:
            lines = []
            while len(lines) < count and (line := self.sync.readline()):
                lines.append(line)
            return lines

        async def ours() -> list[str]:
            lines = []
            async for line in self.file:
                lines.append(line)
                if len(lines) == count:
                    break
            return lines

        first = attempt(sync)
        assert await attempt_async(ours) == first
        if isinstance(first, tuple) and issubclass(first[0], UnicodeError):
            self.over = True

    async def step_readlines(self, hint: int | None) -> None:
        """`io` iterates here, and cannot tell its position then."""

        def sync() -> list[str]:
            lines: list[str] = []
            while line := self.sync.readline():
                lines.append(line)
                if 0 < (hint or 0) < sum(map(len, lines)):
                    break
            return lines

        first = attempt(sync)
        assert await attempt_async(partial(self.file.readlines, hint)) == first
        if isinstance(first, tuple) and issubclass(first[0], UnicodeError):
            self.over = True

    async def step_writelines(self, lines: list[str]) -> None:
        if lines:
            await self.both("writelines", lines)

    async def step_tell(self) -> None:
        position = await self.both("tell")
        if isinstance(position, int):
            self.positions.append(position)

    async def step_back(self, number: int) -> None:
        await self.both("seek", self.positions[number % len(self.positions)])

    async def step_reconfigure(self, changes: dict[str, Any]) -> None:
        if "+" in self.mode:
            await self.both("flush")
        first = attempt(partial(self.sync.reconfigure, **changes))
        assert attempt(partial(self.file.reconfigure, **changes)) == first
        self.compare_attributes()

    async def step_below(self) -> None:
        """The binary file below is where `io` has it, and can be used in between."""
        await self.both("flush")
        assert await attempt_async(self.file.buffer.tell) == attempt(self.sync.buffer.tell)

    async def close(self) -> None:
        if self.wrote and "+" in self.mode:
            await self.both("flush")
        self.sync.close()
        await self.file.aclose()
        self.compare_disk()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        for name in ("io", "ours"):
            Path(path, name).mkdir()
        yield Path(path)


@pytest.mark.usefixtures("tiers")
@pytest.mark.hosts("asyncio", "trio")
@settings(
    max_examples=FUZZ or 40,
    derandomize=not FUZZ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    options=st.fixed_dictionaries(
        {
            "mode": st.sampled_from(MODES),
            "buffering": st.sampled_from(BUFFERINGS),
            "encoding": st.sampled_from(ENCODINGS),
            "errors": st.sampled_from(ERRORS),
            "newline": st.sampled_from(NEWLINES),
        }
    ),
    chunk=st.sampled_from(CHUNKS),
    content=CONTENTS,
    calls=steps(),
)
def test_same_steps_have_same_results(
    anyio_backend: tuple[str, dict[str, Any]],
    directory: Path,
    options: dict[str, Any],
    chunk: int,
    content: str,
    calls: list[Step],
) -> None:
    async def main() -> None:
        pair = Pair(directory, options, chunk)
        for path in pair.paths:
            path.unlink(missing_ok=True)
            if "x" not in pair.mode:
                path.write_bytes(content.encode(options["encoding"], "ignore"))
        if not await pair.open():
            return
        try:
            for call in calls:
                await pair.step(*call)
                if pair.over:
                    return
            await pair.close()
        finally:
            pair.sync.close()
            await pair.file.aclose()

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
