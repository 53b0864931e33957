"""Settings that change in the middle of a text, and streams that cannot seek, as `io` has them."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiers
from tests.support.oracle import outcome

from anyio_uring import open_file

pytestmark = pytest.mark.anyio
one_host = pytest.mark.hosts("asyncio")

Step = tuple[str, tuple[Any, ...], dict[str, Any]]


def write(text: str) -> Step:
    return ("write", (text,), {})


def seek(position: int) -> Step:
    return ("seek", (position,), {})


def change(**settings: Any) -> Step:
    return ("reconfigure", (), settings)


def call(name: str, *arguments: Any) -> Step:
    return (name, arguments, {})


# What a file was opened with, and what is done with it then.
SEQUENCES: dict[str, tuple[dict[str, Any], list[Step]]] = {
    "a mark only where the text begins": (
        {"mode": "w", "encoding": "utf-8-sig"},
        [write("foo\n"), change(encoding="utf-8-sig"), write("é\n"), seek(0), write("bär")],
    ),
    "no mark before what is in the file": (
        {"mode": "w", "encoding": "ascii"},
        [write("foo\n"), change(encoding="utf-8-sig"), write("é\n")],
    ),
    "a mark in an empty file": (
        {"mode": "w", "encoding": "ascii"},
        [change(encoding="utf-8-sig"), write("foo\n"), write("é\n")],
    ),
    "a mark after going back": (
        {"mode": "w", "encoding": "ascii"},
        [write("foo\n"), change(encoding="utf-16"), seek(0), write("bar\n"), write("é\n")],
    ),
    "the other byte order": (
        {"mode": "w", "encoding": "utf-16"},
        [write("a"), change(encoding="utf-16-le"), write("b"), change(encoding="utf-16-be")],
    ),
    "appending": (
        {"mode": "a", "encoding": "latin-1"},
        [write("ä"), change(encoding="utf-16"), write("b")],
    ),
    "errors go back to strict with the encoding": (
        {"mode": "w", "encoding": "ascii", "errors": "replace"},
        [write("é"), change(encoding="latin-1"), write("é"), write("日")],
    ),
    "errors stay without it": (
        {"mode": "w", "encoding": "ascii", "errors": "replace"},
        [change(errors=None), write("é"), change(errors="ignore"), write("日")],
    ),
    "nothing is changed": (
        {"mode": "w", "encoding": "ascii", "errors": "replace", "newline": "\n"},
        [change(), change(encoding=None, errors=None), write("é\n"), change(line_buffering=None)],
    ),
    "the locale's": (
        {"mode": "w", "encoding": "utf-16"},
        [change(encoding="locale"), write("e\n")],
    ),
    "newlines in the middle": (
        {"mode": "w", "newline": "\n"},
        [
            write("CR\n"),
            change(newline="\r\n"),
            write("CRLF\n"),
            change(newline="\r"),
            write("LF\n"),
        ],
    ),
    "newlines by default": (
        {"mode": "w", "newline": "\r\n"},
        [write("a\n"), change(newline=None), write("b\n"), change(newline=""), write("c\n")],
    ),
    "newlines before the first read": (
        {"mode": "r", "newline": "\n"},
        [change(newline="\r"), call("readline"), call("tell"), call("read")],
    ),
    "nothing but the buffering after a read": (
        {"mode": "r"},
        [
            call("read", 1),
            change(encoding="latin-1"),
            change(errors="ignore"),
            change(newline=""),
            change(line_buffering=True),
            change(write_through=True),
            call("read"),
        ],
    ),
    "after going back, too": (
        {"mode": "r", "encoding": "utf-8"},
        [call("read", 1), seek(0), change(encoding="latin-1"), call("read")],
    ),
    "settings of another type": (
        {"mode": "w"},
        [
            change(encoding=5),
            change(errors=5),
            change(newline=5),
            change(newline="x"),
            change(encoding="hex"),
            change(encoding="no such"),
            change(errors="no such"),
            write("a"),
        ],
    ),
    "truncating what was written in another encoding": (
        {"mode": "w+", "encoding": "utf-8"},
        [write("é"), change(encoding="utf-16"), write("b"), seek(0), call("truncate", 1)],
    ),
}


async def take(step: Step, file: Any) -> tuple[Any, ...]:
    name, arguments, settings = step
    return await outcome(lambda file: getattr(file, name)(*arguments, **settings), file)


def settings_of(file: Any) -> tuple[Any, ...]:
    return file.encoding, file.errors, file.line_buffering, file.write_through, file.newlines


@pytest.mark.parametrize("name", SEQUENCES)
async def test_changed_settings_act_as_those_of_io(tiers: Tiers, tmp_path: Path, name: str) -> None:
    options, steps = SEQUENCES[name]
    paths = tmp_path / "io", tmp_path / "ours"
    for path in paths:
        path.write_bytes(b"caf\xc3\xa9\rau lait\r\nsans\n")
    with open(paths[0], **options) as oracle:
        async with await open_file(paths[1], **options) as file:
            for step in steps:
                assert await take(step, file) == await take(step, oracle), step
                assert settings_of(file) == settings_of(oracle), step
    assert paths[1].read_bytes() == paths[0].read_bytes()


ENDS: dict[str, list[Step]] = {
    "w": [
        write("a\n"),
        change(encoding="utf-8-sig"),
        write("é"),
        call("tell"),
        seek(0),
        call("seek", 0, 1),
        call("seek", 0, 2),
        call("truncate"),
        call("seekable"),
        call("flush"),
    ],
    "r": [
        call("readline"),
        call("tell"),
        seek(0),
        call("seek", 0, 2),
        call("seekable"),
        call("read"),
    ],
}


@pytest.mark.parametrize("mode", ENDS)
@one_host
async def test_stream_that_cannot_seek_has_the_same_outcomes(mode: str) -> None:
    found = []
    for opened in (open, open_file):
        read_end, write_end = os.pipe()
        mine, other = (read_end, write_end) if mode == "r" else (write_end, read_end)
        if mode == "r":
            os.write(other, "one\r\nzwölf\n".encode())
            os.close(other)
        file: Any = opened(mine, mode, encoding="utf-8")  # type: ignore[operator]
        if inspect.isawaitable(file):
            file = await file
        found.append([await take(step, file) for step in ENDS[mode]])
        await take(call("aclose" if opened is open_file else "close"), file)
        if mode == "w":
            found[-1].append(os.read(other, 100))
            os.close(other)
    assert found[1] == found[0]
