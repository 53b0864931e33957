"""stdin, stdout and terminals: lines, timeouts that lose nothing, and flags left as they were."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers

from anyio_uring import open_file

fcntl = pytest.importorskip("fcntl", reason="descriptors as POSIX has them")

pytestmark = pytest.mark.anyio

LATE_SECONDS_MAX = 0.05
# What a program does with its standard streams: each line in capitals, then how the input ended.
PROGRAM = """
    import json, os, sys
    import anyio, anyio_uring
    from anyio_uring.testing import force_tiers

    async def main():
        source = await anyio_uring.open_file(0, closefd=False)
        target = await anyio_uring.open_file(1, "w", closefd=False)
        with anyio.move_on_after(0.05) as scope:
            await source.readline()
        await target.write(f"waited {scope.cancelled_caught}\\n")

        async def read():
            async for line in source:
                await target.write(line.upper())
                await target.flush()

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            while not source._handle.inflight:
                await anyio.lowlevel.checkpoint()
            await target.write("waiting\\n")
            await target.flush()
        await target.write("end\\n")
        await target.aclose()
        await source.aclose()
        os.fstat(0), os.fstat(1)

    tiers, backend, options = json.loads(sys.argv[1])
    with force_tiers(*tiers):
        anyio.run(main, backend=backend, backend_options=options)
"""


def flags(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL)  # type: ignore[no-any-return]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(control, terminal)"""
    control, terminal = pty.openpty()
    yield control, terminal
    os.close(control)
    os.close(terminal)


async def test_timeout_on_a_terminal_is_punctual_and_loses_no_byte(
    terminal: tuple[int, int], tiers: Tiers
) -> None:
    control, fd = terminal
    before = flags(fd)
    late = []
    async with await open_file(fd, closefd=False) as file:
        for _ in range(5):
            with anyio.move_on_after(0.02) as scope:
                await file.readline()
            late.append(anyio.current_time() - scope.deadline)
            assert scope.cancelled_caught
            os.write(control, b"half")  # no line yet: the terminal keeps it
            os.write(control, b" and half\nnext\n")
            assert await file.readline() == "half and half\n"
            assert await file.readline() == "next\n"
    assert min(late) < LATE_SECONDS_MAX
    assert flags(fd) == before


async def test_line_cut_off_by_a_timeout_is_whole_afterwards(tiers: Tiers) -> None:
    read_end, write_end = os.pipe()
    before = flags(read_end)
    async with await open_file(read_end, closefd=False) as file:
        os.write(write_end, b"first \xc3")
        with anyio.move_on_after(0.02) as scope:
            await file.readline()
        assert scope.cancelled_caught
        os.write(write_end, b"\xa4\nsecond\n")
        assert await file.readline() == "first ä\n"
        assert await file.readline() == "second\n"
    assert flags(read_end) == before
    os.close(read_end)
    os.close(write_end)


@pytest.mark.hosts("asyncio", "uvloop", "trio")
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_program_on_its_standard_streams(
    kind: str, terminal: tuple[int, int], tiers: Tiers, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    control, fd = terminal
    read_end, write_end = (os.dup(fd), os.dup(control)) if kind == "terminal" else os.pipe()
    before = flags(read_end)
    arguments = json.dumps([tiers.allowed, *anyio_backend])
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), arguments],
        stdin=read_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waited True\n"
        assert child.stdout.readline() == "waiting\n"
        meanwhile = flags(read_end)  # of the same file description as the child's
        os.write(write_end, b"one\n")
        assert child.stdout.readline() == "ONE\n"
        os.write(write_end, b"two\n\x04" if kind == "terminal" else b"two\nthree")
        os.close(write_end)
        out, error = child.communicate(timeout=30)
    assert (meanwhile, flags(read_end)) == (before, before)
    os.close(read_end)
    assert error == ""
    assert out == ("TWO\nend\n" if kind == "terminal" else "TWO\nTHREEend\n")
    assert child.returncode == 0
