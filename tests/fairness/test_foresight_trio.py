"""As ``test_foresight``, where Trio is not the guest of another loop."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from anyio_uring import AsyncFile, _handle, open_file
from anyio_uring._runtime import current_runtime

trio = pytest.importorskip("trio")
pytestmark = pytest.mark.skipif(
    not _handle.COMPILED, reason="serving inline needs the compiled core"
)

SIZE = 4096


class Turns:
    """How often Trio has waited for I/O."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


def run(tmp_path: Path, test: Callable[[AsyncFile[bytes], Any, Turns], Awaitable[None]]) -> None:
    """`test` with a file, the meter and the count of turns."""
    path = tmp_path / "cached"
    path.write_bytes(bytes(SIZE))
    turns = Turns()

    async def main() -> None:
        async with await open_file(path, "rb", 0) as file:
            for _ in range(3):  # what the beginning of a run has left to do
                await trio.lowlevel.checkpoint()
            await test(file, current_runtime().meter, turns)

    trio.run(main, instruments=[turns])


def in_turns(meter: Any, turns: int) -> int:
    """Reads that the allowances of so many turns admit."""
    meter.refill()
    left = meter.left
    assert meter.charge(SIZE)
    cost = left - meter.left
    meter.refill()
    return int(turns * (left // cost + 1))


def test_spare_is_how_long_trio_has_nothing_to_do(tmp_path: Path) -> None:
    async def test(file: AsyncFile[bytes], meter: Any, turns: Turns) -> None:
        assert meter.spare() == math.inf
        with trio.move_on_after(100):
            assert 99 < meter.spare() <= 100
            await trio.lowlevel.checkpoint()
        assert meter.spare() == math.inf

        reader, writer = os.pipe()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
                assert meter.spare() == 0.0
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                assert meter.spare() == math.inf
                nursery.start_soon(trio.lowlevel.wait_readable, reader)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                assert meter.spare() == math.inf
                os.write(writer, b"x")
                assert meter.spare() == 0.0
        finally:
            os.close(reader)
            os.close(writer)

    run(tmp_path, test)


def test_turns_that_would_do_nothing_are_spared(tmp_path: Path) -> None:
    async def test(file: AsyncFile[bytes], meter: Any, turns: Turns) -> None:
        reads = in_turns(meter, 110)
        taken = []
        for _ in range(20):
            before = turns.count
            for _ in range(reads):
                await file.pread(SIZE, 0)
            taken.append(turns.count - before)
            # One turn and five that were spared are eleven allowances; where something else has
            # the processor the task seems to be busy otherwise, and none is spared.
            assert taken[-1] >= 5
            if taken[-1] <= 30:
                return
        pytest.fail(f"turns taken: {taken}")

    run(tmp_path, test)


@pytest.mark.parametrize("busy", [False, True], ids=["waits", "ready"])
def test_task_of_the_same_round_does_not_wait_for_more_than_an_allowance(
    tmp_path: Path, busy: bool
) -> None:
    """Trio's queue is empty while a round runs; who goes first in it is left to chance."""

    async def test(file: AsyncFile[bytes], meter: Any, turns: Turns) -> None:
        most = in_turns(meter, 2) + 1
        event = trio.Event()
        steps = 0

        async def other() -> None:
            nonlocal steps
            if not busy:
                await event.wait()
            while not done:
                steps += 1
                await trio.lowlevel.checkpoint()

        for _ in range(20):
            steps, done, event = 0, False, trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                event.set()
                begun, reads = steps, 0
                while steps == begun:
                    await file.pread(SIZE, 0)
                    reads += 1
                assert reads <= most
                done = True

    run(tmp_path, test)


def test_no_turn_is_spared_among_more_tasks_than_are_looked_through(tmp_path: Path) -> None:
    async def test(file: AsyncFile[bytes], meter: Any, turns: Turns) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(65):
                nursery.start_soon(trio.sleep_forever)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            reads = in_turns(meter, 21)
            before = turns.count
            for _ in range(reads):
                await file.pread(SIZE, 0)
            assert turns.count - before >= 20
            nursery.cancel_scope.cancel()

    run(tmp_path, test)
