"""The properties of text files, one by one, each beside `builtins.open`.

The random steps of `test_differential.py` meet most of them; here they have names.
"""

from __future__ import annotations

import io
import itertools
import locale
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.oracle import outcome

from anyio_uring import open_file, statistics
from anyio_uring._buffer import PortableText, Text
from anyio_uring._coding import Position, locate

pytestmark = pytest.mark.anyio
one_host = pytest.mark.hosts("asyncio")

NEWLINES = [None, "", "\n", "\r", "\r\n"]
ENCODINGS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "ascii",
    "latin-1",
    "iso2022_jp",
]
MIXED = "one\ntwo\r\nthree\rfour\n\r\r\n\nlast"
BOM_ENCODINGS = ["utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("encoding", ENCODINGS)
@one_host
async def test_newlines_on_reading_with_any_buffer(
    tmp_path: Path, newline: str | None, encoding: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(MIXED.encode(encoding))
    with open(path, encoding=encoding, newline=newline) as oracle:
        expected = list(oracle)
        newlines = oracle.newlines
    for buffering in range(2, 10):
        for chunk in range(1, 9):
            async with await open_file(path, "r", buffering, encoding, newline=newline) as file:
                file._CHUNK_SIZE = chunk
                assert [line async for line in file] == expected
                assert file.newlines == newlines
                await file.seek(0)
                assert await file.readlines() == expected
                await file.seek(0)
                assert await one_by_one(file) == list("".join(expected))


async def one_by_one(file: Any) -> list[str]:
    characters = []
    while character := await file.read(1):
        assert len(character) == 1
        characters.append(character)
    return characters


@pytest.mark.parametrize("at", range(8189, 8195))
async def test_crlf_across_the_end_of_a_chunk_is_one_newline(
    tiers: Tiers, tmp_path: Path, at: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * at + b"\r\nrest\r\n")
    async with await open_file(path) as file:
        assert await file.readline() == "x" * at + "\n"
        assert await file.read() == "rest\n"
        assert file.newlines == "\r\n"
    async with await open_file(path, newline="\r\n") as file:
        assert [len(line) async for line in file] == [at + 2, 6]
    async with await open_file(path, newline="") as file:
        assert [len(line) async for line in file] == [at + 2, 6]


@pytest.mark.parametrize("newline", NEWLINES)
@one_host
async def test_newlines_on_writing(tmp_path: Path, newline: str | None) -> None:
    async with await open_file(tmp_path / "f", "w", newline=newline) as file:
        assert await file.write("a\nb\r\nc\rd") == 8
        await file.writelines(["\n", "", "e"])
    with open(tmp_path / "oracle", "w", newline=newline) as oracle:
        oracle.write("a\nb\r\nc\rd\ne")
    assert (tmp_path / "f").read_bytes() == (tmp_path / "oracle").read_bytes()


BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"newline": "x"},
    {"newline": "\n\r"},
    {"newline": b"\n"},
    {"newline": 5},
    {"encoding": 5},
    {"encoding": "no such"},
    {"encoding": "hex"},
    {"encoding": "rot13"},
    {"encoding": "a\0b"},
    {"encoding": ""},
    {"errors": 5},
    {"errors": "a\0b"},
    {"buffering": 0},
    {"mode": "rb", "encoding": "utf-8"},
    {"mode": "rb", "errors": "strict"},
    {"mode": "rb", "newline": ""},
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=str)
@one_host
async def test_argument_is_refused_as_open_does(tmp_path: Path, arguments: dict[str, Any]) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(Exception) as expected:  # noqa: PT011 (whatever open raises)
        open(tmp_path / "f", **arguments)  # noqa: SIM115
    with pytest.raises(Exception) as found:  # noqa: PT011
        await open_file(tmp_path / "f", **arguments)
    assert type(found.value) is type(expected.value)
    assert str(found.value) == str(expected.value)


CALLS: dict[str, Callable[[Any], Any]] = {
    "read none": lambda file: file.read(None),
    "read -2": lambda file: file.read(-2),
    "read str": lambda file: file.read("x"),
    "read float": lambda file: file.read(1.0),
    "readline none": lambda file: file.readline(None),
    "readline 0": lambda file: file.readline(0),
    "readline 3": lambda file: file.readline(3),
    "readline -2": lambda file: file.readline(-2),
    "readlines 5": lambda file: file.readlines(5),
    "readlines str": lambda file: file.readlines("x"),
    "write bytes": lambda file: file.write(b"x"),
    "write none": lambda file: file.write(None),
    "write nothing": lambda file: file.write(""),
    "seek -1": lambda file: file.seek(-1),
    "seek 1, 1": lambda file: file.seek(1, 1),
    "seek 0, 1": lambda file: file.seek(0, 1),
    "seek 1, 2": lambda file: file.seek(1, 2),
    "seek 0, 2": lambda file: file.seek(0, 2),
    "seek 0, 3": lambda file: file.seek(0, 3),
    "seek str": lambda file: file.seek("x"),
    "seek 0, float": lambda file: file.seek(0, 1.0),
    "seek far": lambda file: file.seek(1 << 200),
    "seek past": lambda file: file.seek(1 << 40),
    "tell": lambda file: file.tell(),
    "truncate -1": lambda file: file.truncate(-1),
    "truncate 3": lambda file: file.truncate(3),
    "flush": lambda file: file.flush(),
    "readable": lambda file: file.readable(),
    "writable": lambda file: file.writable(),
    "seekable": lambda file: file.seekable(),
    "isatty": lambda file: file.isatty(),
}


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("mode", ["r", "w", "a", "r+"])
@pytest.mark.parametrize("call", CALLS)
@one_host
async def test_call_has_the_same_outcome(
    tmp_path: Path, call: str, mode: str, closed: bool
) -> None:
    for name in ("oracle", "ours"):
        (tmp_path / name).write_bytes(b"one\ntwo\nthree\n")
    with open(tmp_path / "oracle", mode) as oracle:
        async with await open_file(tmp_path / "ours", mode) as ours:
            if closed:
                oracle.close()
                await ours.aclose()
                await ours.aclose()  # no error
            assert await outcome(CALLS[call], ours) == await outcome(CALLS[call], oracle)
            if not closed and not call.startswith("readlines"):  # `io` does not tell then
                assert await outcome(CALLS["tell"], ours) == await outcome(CALLS["tell"], oracle)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "oracle").read_bytes()


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-7", "gb18030", "euc_jp"])
@pytest.mark.parametrize("newline", NEWLINES)
@one_host
async def test_position_is_told_and_found_again(
    tmp_path: Path, encoding: str, newline: str | None
) -> None:
    """Also the numbers are those of `io`, so that one can use the other's."""
    text = "ab\r\nc\n" if encoding in {"ascii", "latin-1"} else "a日本\r\nb語\n\rc日d"
    text = text.encode(encoding, "ignore").decode(encoding) * 3 + "\r"
    path = tmp_path / "f"
    path.write_bytes(text.encode(encoding))
    for chunk in (1, 2, 3, 5, 8192):
        with open(path, encoding=encoding, newline=newline) as oracle:
            oracle._CHUNK_SIZE = chunk  # type: ignore[attr-defined]
            expected = []
            while True:
                expected.append(oracle.tell())
                if not oracle.read(1):
                    break
            oracle.seek(0)
            whole = oracle.read()
        async with await open_file(path, encoding=encoding, newline=newline) as file:
            file._CHUNK_SIZE = chunk
            found = []
            while True:
                found.append(await file.tell())
                if not await file.read(1):
                    break
            assert found == expected
            for number, position in reversed(list(enumerate(found))):
                assert await file.seek(position) == position
                assert await file.read() == whole[number:]
                assert await file.seek(position) == position
                assert await file.tell() == position


@one_host
async def test_position_that_no_number_holds_is_refused(tmp_path: Path) -> None:
    """This codec has more state than a number of `io` has room for."""
    (tmp_path / "f").write_text("한글" * 3, "iso2022_kr")
    with open(tmp_path / "f", encoding="iso2022_kr") as oracle:
        async with await open_file(tmp_path / "f", encoding="iso2022_kr") as file:
            for size in (0, 1, 2, 3):
                assert await file.read(size) == oracle.read(size)
                expected = await outcome(lambda file: file.tell(), oracle)
                assert await outcome(lambda file: file.tell(), file) == expected


def test_position_is_found_in_few_calls_where_characters_are_of_one_size() -> None:
    class Counting:
        def __init__(self) -> None:
            self.calls = 0
            self.decoder = io.IncrementalNewlineDecoder(None, translate=False)

        def getstate(self) -> Any:
            return self.decoder.getstate()

        def setstate(self, state: Any) -> None:
            self.decoder.setstate(state)

        def reset(self) -> None:
            self.decoder.reset()

        def decode(self, data: bytes, final: bool = False) -> str:
            self.calls += 1
            return data.decode("latin-1")

    counting = Counting()
    assert locate(counting, Position(100, 0), b"x" * 8000, 5000, 1.0) == Position(5100)
    assert counting.calls == 1


@one_host
async def test_position_may_be_told_while_iterating(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one\ntwo\nthree\n")
    async with await open_file(tmp_path / "f") as file:
        assert [await file.tell() async for _ in file] == [4, 8, 14]


@pytest.mark.parametrize("encoding", BOM_ENCODINGS)
@pytest.mark.parametrize("tell_first", [False, True])
@one_host
async def test_byte_order_mark_is_written_once(
    tmp_path: Path, encoding: str, tell_first: bool
) -> None:
    path = tmp_path / "f"
    async with await open_file(path, "w", encoding=encoding) as file:
        await file.write("a")
        await file.write("b")
    assert path.read_bytes() == "ab".encode(encoding)
    async with await open_file(path, "a", encoding=encoding) as file:
        if tell_first:
            assert await file.tell() == len("ab".encode(encoding))
        await file.write("c")
    assert path.read_bytes() == "abc".encode(encoding)
    async with await open_file(path, "r+", encoding=encoding) as file:
        await file.seek(0, 2)
        end = await file.tell()
        await file.write("d")
        await file.seek(0)
        await file.write("x")  # at the start there belongs one
        await file.seek(end)
        await file.write("y")  # and here none
    assert path.read_bytes() == "xbcy".encode(encoding)
    async with await open_file(path, encoding=encoding) as file:
        assert await file.read() == "xbcy"


@pytest.mark.parametrize("errors", [None, "strict", "ignore", "replace", "surrogateescape"])
@one_host
async def test_errors_both_ways(tmp_path: Path, errors: str | None) -> None:
    (tmp_path / "bad").write_bytes(b"a\xffb\n")
    with open(tmp_path / "bad", encoding="utf-8", errors=errors) as oracle:
        expected = await outcome(lambda file: file.read(), oracle)
        async with await open_file(tmp_path / "bad", encoding="utf-8", errors=errors) as file:
            assert await outcome(lambda file: file.read(), file) == expected
            assert file.errors == oracle.errors
    with open(tmp_path / "io", "w", encoding="ascii", errors=errors) as oracle:
        async with await open_file(tmp_path / "ours", "w", encoding="ascii", errors=errors) as file:
            for text in ("ä", "\udcff", "ok"):
                write = partial(lambda file, text: file.write(text), text=text)
                assert await outcome(write, file) == await outcome(write, oracle)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "io").read_bytes()


@pytest.mark.parametrize("encoding", BOM_ENCODINGS)
@one_host
async def test_text_that_cannot_be_encoded_leaves_no_trace(tmp_path: Path, encoding: str) -> None:
    """Not even in the encoder, whose byte order mark is still to come (`io` forgets it)."""
    async with await open_file(tmp_path / "f", "w", encoding=encoding) as file:
        with pytest.raises(UnicodeEncodeError):
            await file.write("\udcff")
        await file.write("a")
    assert (tmp_path / "f").read_bytes() == "a".encode(encoding)


@pytest.mark.parametrize("text", ["a\n", "a\r", "a", "a\nb"])
async def test_line_buffering_flushes_lines(tiers: Tiers, tmp_path: Path, text: str) -> None:
    async with await open_file(tmp_path / "f", "w", 1) as file:
        assert file.line_buffering
        await file.write(text)
        expected = text if "\n" in text or "\r" in text else ""
        assert (tmp_path / "f").read_bytes() == expected.encode()


@one_host
async def test_terminal_is_line_buffered() -> None:
    control, terminal = os.openpty()
    async with await open_file(terminal, "w") as file:
        assert file.line_buffering
        assert file.isatty()
        await file.write("line\n")
        shown = b""
        while not shown.endswith(b"\n"):  # the terminal may show its own "\r\n" later
            shown += os.read(control, 100)
        assert shown == b"line\r\n"
    os.close(control)


@one_host
async def test_write_through_leaves_nothing_with_the_text(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "f", "w", 16) as file:
        file.reconfigure(write_through=True)
        assert file.write_through
        await file.write("x" * 17)  # more than the buffer takes
        assert (tmp_path / "f").read_bytes() == b"x" * 17


@one_host
async def test_settings_change_before_the_first_read_only(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xe9\n")
    async with await open_file(tmp_path / "f", encoding="utf-8") as file:
        file.reconfigure(encoding="latin-1")
        assert (file.encoding, file.errors) == ("latin-1", "strict")
        assert await file.readline() == "é\n"
        with pytest.raises(io.UnsupportedOperation, match="after the first read"):
            file.reconfigure(newline="")
        file.reconfigure(line_buffering=True)
        assert file.line_buffering
    async with await open_file(tmp_path / "f") as file:
        with pytest.raises(LookupError):
            file.reconfigure(encoding="no such")


async def test_settings_do_not_change_under_an_operation(tiers: Tiers) -> None:
    reader, writer = os.pipe()
    async with await open_file(reader) as file, anyio.create_task_group() as group:
        group.start_soon(file.readline)
        while not file._handle.busy:
            await anyio.lowlevel.checkpoint()
        for call in (file.reconfigure, file.detach):
            with pytest.raises(anyio.BusyResourceError):
                call()
        os.write(writer, b"line\n")
    os.close(writer)


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 20_000])
@pytest.mark.parametrize("buffering", [2, 100, 8191, 8192, -1])
async def test_bytes_reach_the_disk_when_those_of_io_do(
    tiers: Tiers, tmp_path: Path, size: int, buffering: int
) -> None:
    with open(tmp_path / "io", "w", buffering) as oracle:
        async with await open_file(tmp_path / "ours", "w", buffering) as file:
            for length in (size, 1, size, 5000, 5000, size, 3):
                oracle.write("x" * length)
                assert await file.write("x" * length) == length
                sizes = [os.stat(tmp_path / name).st_size for name in ("ours", "io")]
                assert sizes[0] == sizes[1]


@one_host
async def test_default_encoding_is_the_locale(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for encoding in (None, "locale"):
        with open(tmp_path / "f", encoding=encoding) as oracle:
            async with await open_file(tmp_path / "f", encoding=encoding) as file:
                assert file.encoding == oracle.encoding == locale.getencoding()


SCRIPT = """
import sys, warnings
import anyio, anyio_uring

async def main():
    async with await anyio_uring.open_file(__file__) as file:  # line 6
        print(file.encoding)
    async with await anyio_uring.open_file(__file__, encoding="locale") as file:
        print(file.encoding)
    async with await anyio_uring.open_file(__file__, encoding="utf-8") as file:
        pass

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    anyio.run(main)
print(*(f"{one.category.__name__}:{one.message}:{one.lineno}" for one in caught
        if one.filename == __file__))
"""


@pytest.mark.parametrize("utf8", [0, 1])
def test_missing_encoding_is_warned_of_at_the_callers_line(tmp_path: Path, utf8: int) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-X", "warn_default_encoding", "-X", f"utf8={utf8}"]
    done = subprocess.run(
        [*command, tmp_path / "script.py"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second, *rest = done.stdout.splitlines()
    assert first.lower() == ("utf-8" if utf8 else second.lower())
    assert rest == ["EncodingWarning:'encoding' argument not specified:6"]


@one_host
async def test_what_a_text_file_tells(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    for mode in ("w", "rt", "r+", "a"):
        async with await open_file(path, mode, encoding="ascii") as file:
            assert file.mode == mode
            assert file.name == path
            text = f"<anyio_uring._text.TextFile name={path!r} mode={mode!r} encoding='ascii'>"
            assert repr(file) == text
            assert file.buffer is file.buffer
            for attribute in ("buffer", "encoding", "errors", "newlines", "line_buffering"):
                with pytest.raises(AttributeError):
                    setattr(file, attribute, None)
            assert isinstance(file, anyio.AsyncFile)
            assert weakref.ref(file)() is file
            assert not file.closed
        assert repr(file) == text + " [closed]"
        assert file.closed
        assert file.buffer.closed


@one_host
async def test_binary_methods_are_on_the_buffer(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"some text")
    async with await open_file(tmp_path / "f") as file:
        for call in (file.read1(), file.readinto(bytearray(1)), file.readinto1(bytearray(1))):
            with pytest.raises(AttributeError):
                await call
        for call in (file.pread(1, 0), file.preadinto(bytearray(1), 0), file.pwrite(b"x", 0)):
            with pytest.raises(io.UnsupportedOperation):
                await call
        assert not hasattr(file, "peek")
        assert await file.buffer.pread(4, 5) == b"text"
        assert await file.read(4) == "some"
        assert await file.buffer.tell() == 9
        assert await file.buffer.read() == b""


@one_host
async def test_detached_buffer_goes_on_and_the_text_does_not(tmp_path: Path) -> None:
    file: Any = await open_file(tmp_path / "f", "w")
    await file.write("text")
    binary = file.detach()
    assert (tmp_path / "f").read_bytes() == b"text"
    assert repr(file).endswith(" [detached]")
    await binary.write(b" and bytes")
    for call in (
        file.detach,
        file.readable,
        file.fileno,
        partial(getattr, file, "closed"),
        file.close,
    ):
        with pytest.raises(ValueError, match="underlying buffer has been detached"):
            call()
    for start in (file.read, file.aclose, file.tell, file.flush, partial(file.write, "x")):
        with pytest.raises(ValueError, match="underlying buffer has been detached"):
            await start()
    await binary.aclose()
    assert (tmp_path / "f").read_bytes() == b"text and bytes"


@one_host
async def test_wrapped_is_a_file_of_bytes_on_the_descriptor(tmp_path: Path) -> None:
    async with await open_file(tmp_path / "f", "w+") as file:
        await file.write("text")
        assert isinstance(file.wrapped, io.FileIO)
        assert file.wrapped is file.wrapped
        assert (tmp_path / "f").read_bytes() == b"text"
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 4


@pytest.mark.parametrize("how", ["dropped", "closed"])
@one_host
async def test_file_left_open_warns_and_writes(tmp_path: Path, how: str) -> None:
    file = await open_file(tmp_path / "f", "w", encoding="utf-16")
    await file.write("text")
    if how == "dropped":
        with pytest.warns(ResourceWarning, match="unclosed file <anyio_uring._text.TextFile"):
            del file
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            file.close()
    assert (tmp_path / "f").read_bytes() == "text".encode("utf-16")


async def test_kernel_file_without_a_size_is_read_whole(tiers: Tiers) -> None:
    expected = Path("/proc/kallsyms").read_text()
    if not expected:
        pytest.skip("no /proc/kallsyms")
    async with await open_file("/proc/kallsyms") as file:
        whole = await file.read()
    async with await open_file("/proc/kallsyms") as file:
        lines = [line async for line in file]
    # Modules may come and go meanwhile, but not at the begin
    assert len(whole) > len(expected) * 0.9
    assert whole[:10_000] == expected[:10_000]
    assert "".join(lines[:100]) == whole[: sum(map(len, lines[:100]))]
    assert len(lines) > expected.count("\n") * 0.9


@pytest.mark.parametrize("newline", NEWLINES)
def test_compiled_and_portable_text_find_the_same_lines(newline: str | None) -> None:
    for size in range(6):
        for parts in itertools.product("\r\na", repeat=size):
            chars = "".join(parts)
            for used, after_cr in itertools.product(range(size + 1), (False, True)):
                texts: list[Any] = [Text(newline, 1), PortableText(newline, 1)]
                for text in texts:
                    text.decoded(chars, used)
                sizes = [text.line_size(after_cr) for text in texts]
                assert sizes[0] == sizes[1], (chars, used, after_cr)


@pytest.mark.tiers("auto")
async def test_lines_that_are_decoded_start_nothing(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("line\n" * 10_000)
    async with await open_file(tmp_path / "f") as file:
        before = statistics()
        count = 0
        async for _ in file:
            count += 1
        after = statistics()
    assert count == 10_000
    if after.now:
        assert after.now - before.now < 20  # one for each chunk of 8 KiB
    assert after.ring + after.thread - before.ring - before.thread < 20


@pytest.mark.tiers("auto")
async def test_reader_of_decoded_lines_lets_others_run(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("line\n" * 20_000)
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        async with await open_file(tmp_path / "f") as file:
            async for _ in file:
                pass
        done = True
    assert turns > 20
