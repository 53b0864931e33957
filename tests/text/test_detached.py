"""What is left of a file whose raw file was given away: as with `io`, nothing."""

from __future__ import annotations

import gc
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.oracle import outcome

from anyio_uring import AsyncFile, open_file

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "ring", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]

CONTENT = "line one\nline two\n"
DETACHED = "raw stream has been detached"
BOTH: dict[str, Callable[[Any], Any]] = {
    "closed": lambda f: f.closed,
    "name": lambda f: f.name,
    "mode": lambda f: f.mode,
    "fileno": lambda f: f.fileno(),
    "isatty": lambda f: f.isatty(),
    "readable": lambda f: f.readable(),
    "writable": lambda f: f.writable(),
    "seekable": lambda f: f.seekable(),
    "read": lambda f: f.read(),
    "readlines": lambda f: f.readlines(),
    "writelines": lambda f: f.writelines(["x"]),
    "flush": lambda f: f.flush(),
    "tell": lambda f: f.tell(),
    "seek": lambda f: f.seek(0),
    "seek to the end": lambda f: f.seek(0, os.SEEK_END),
    "truncate": lambda f: f.truncate(3),
    "detach": lambda f: f.detach(),
    "close": lambda f: f.aclose() if isinstance(f, AsyncFile) else f.close(),
    "close at once": lambda f: f.close(),
}
TEXT: dict[str, Callable[[Any], Any]] = {
    **BOTH,
    "encoding": lambda f: f.encoding,
    "newlines": lambda f: f.newlines,
    "reconfigure": lambda f: f.reconfigure(line_buffering=True),
}
BINARY: dict[str, Callable[[Any], Any]] = {
    **BOTH,
    "read some": lambda f: f.read(1),
    "read nothing": lambda f: f.read(0),
    "readline": lambda f: f.readline(),
    "read1": lambda f: f.read1(1),
    "readinto": lambda f: f.readinto(bytearray(1)),
    "readinto1": lambda f: f.readinto1(bytearray(1)),
    "write": lambda f: f.write(b"x"),
}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "oracle", tmp_path / "ours"]
    for path in paths:
        path.write_text(CONTENT)
    return paths


@pytest.mark.parametrize("mode", ["r", "r+", "w", "rb", "r+b", "wb"])
async def test_file_over_a_raw_file_given_away_does_what_ios_does(
    mode: str, paths: list[Path]
) -> None:
    binary = "b" in mode
    oracle: Any = paths[0].open(mode)
    file: Any = await open_file(paths[1], mode)
    raws = [(f if binary else f.buffer).detach() for f in (oracle, file)]
    differing = {}
    for name, call in (BINARY if binary else TEXT).items():
        expected, result = await outcome(call, oracle), await outcome(call, file)
        if expected[0] is io.UnsupportedOperation and not binary:
            expected = ValueError, DETACHED  # there are two mistakes, and one is found first
        if result != expected:
            differing[name] = result, expected
    raws[0].close()
    await raws[1].aclose()
    assert differing == {}


async def test_text_over_a_raw_file_given_away_takes_and_gives_nothing(paths: list[Path]) -> None:
    """(`io` still gives what it had decoded, and takes text that goes nowhere)"""
    file: Any = await open_file(paths[1], "r+")
    assert await file.readline() == "line one\n"
    raw = file.buffer.detach()
    try:
        for call in (file.readline, file.__aiter__().__anext__, lambda: file.write("text")):
            with pytest.raises(ValueError, match=DETACHED):
                await call()
        assert repr(file).endswith(" [detached]")
    finally:
        await raw.aclose()
    assert paths[1].read_text() == CONTENT


async def test_text_that_is_dropped_leaves_the_raw_file_open(paths: list[Path]) -> None:
    file: Any = await open_file(paths[1])
    raw = file.buffer.detach()
    del file
    gc.collect()
    assert await raw.read(4) == b"line"
    await raw.aclose()
