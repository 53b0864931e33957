"""Big reads of streams: all of it, nothing lost, and no byte copied again for each piece."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers

from anyio_uring import open_file
from anyio_uring._buffer_steps import BufferSteps

pytestmark = pytest.mark.anyio

PIECE = bytes(range(256)) * 256
PIECES = 40


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


def feed(writer: int) -> threading.Thread:
    """Write everything, as a process at the other end would, and hang up."""

    def write() -> None:
        with os.fdopen(writer, "wb", 0) as stream:
            for _ in range(PIECES):
                stream.write(PIECE)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("more", [0, 1000], ids=["exactly", "beyond-the-end"])
async def test_big_read_of_a_pipe_gives_all_of_it(
    tiers: Tiers, pipe: tuple[int, int], more: int
) -> None:
    reader, writer = pipe
    thread = feed(writer)
    async with await open_file(reader, "rb") as file:
        head = await file.read(10)
        rest = await file.read(len(PIECE) * PIECES - 10 + more)
        assert head + rest == PIECE * PIECES
        assert await file.read(1) == b""
    thread.join()


async def test_big_read_of_a_pipe_keeps_no_more_than_a_buffer_behind(
    tiers: Tiers, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been read so far would be copied again with each piece that comes."""
    unread: list[int] = []
    fill = BufferSteps._fill

    async def watched(file: Any, *arguments: Any) -> bytes | None:
        unread.append(file._buffer.unread)
        return await fill(file, *arguments)

    monkeypatch.setattr(BufferSteps, "_fill", watched)
    reader, writer = pipe
    thread = feed(writer)
    async with await open_file(reader, "rb") as file:
        assert len(await file.read(len(PIECE) * PIECES)) == len(PIECE) * PIECES
        assert len(unread) > 10
        assert max(unread) <= file._buffer.size
    thread.join()


async def test_big_read_of_a_pipe_cancelled_in_the_middle_loses_nothing(
    tiers: Tiers, pipe: tuple[int, int]
) -> None:
    reader, writer = pipe
    async with await open_file(reader, "rb") as file:
        os.write(writer, b"0123456789")
        assert await file.read(2) == b"01"
        with anyio.move_on_after(0.05) as scope:
            await file.read(100_000)
        assert scope.cancelled_caught
        assert file._buffer.peek() == b"23456789"
        os.write(writer, b"ab")
        os.close(writer)
        assert await file.read(100_000) == b"23456789ab"
