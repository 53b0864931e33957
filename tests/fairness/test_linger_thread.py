"""The loop looks a short while for the end of a write that is alone in the threads, too."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.conftest import Tiers

from anyio_uring import _handle, open_file
from anyio_uring._runtime import current_runtime

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hosts("asyncio", "uvloop"),  # Trio's has other tasks in the runner of the tests
    pytest.mark.tiers("thread"),
    pytest.mark.skipif(not _handle.COMPILED, reason="needs the compiled core"),
]


@pytest.fixture
async def offers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each write that might be looked for: whether it was."""
    found: list[bool] = []
    host: Any = current_runtime().host
    original = host.linger_in_thread

    def counting() -> Any:
        landing = original()
        found.append(landing is not None)
        return landing

    monkeypatch.setattr(host, "linger_in_thread", counting)
    return found


async def few_wait(path: Path) -> bool:
    """Whether most writes are done when they have been handed over."""
    waited = 0
    host: Any = current_runtime().host
    original = host.wait

    async def counting(unit: Any) -> None:
        nonlocal waited
        waited += 1
        await original(unit)

    async with await open_file(path, "wb", 0) as file:
        await file.write(b"x")
        host.wait = counting
        # A thread that is not let run takes longer, and then it is not looked for each time
        for _ in range(100):
            waited = 0
            for _ in range(20):
                await file.write(b"x")
            if waited < 10:
                return path.read_bytes().strip(b"x") == b""
    return False


async def test_write_that_is_alone_needs_no_turn_of_the_loop(tiers: Tiers, tmp_path: Path) -> None:
    assert await few_wait(tmp_path / "f")


@pytest.mark.hosts("trio")
def test_nor_in_trio(tiers: Tiers, tmp_path: Path) -> None:
    assert anyio.run(few_wait, tmp_path / "f", backend="trio")


async def test_error_of_a_write_that_was_looked_for(tiers: Tiers) -> None:
    async with await open_file("/dev/full", "wb", 0) as file:
        with pytest.raises(OSError, match="No space left") as caught:
            await file.write(b"x")
    assert caught.value.filename == "/dev/full"


async def test_not_for_what_waits_for_a_device(
    tiers: Tiers, tmp_path: Path, offers: list[bool]
) -> None:
    def synced(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_DSYNC)

    async with await open_file(tmp_path / "f", "wb", 0, opener=synced) as file:
        await file.write(b"x")
        await file.fsync()
    assert offers == []
    async with await open_file(tmp_path / "f", "wb", 0) as file:
        await file.write(b"x")
    assert len(offers) == 1


async def test_not_beside_another_thread_at_work(
    tiers: Tiers, tmp_path: Path, offers: list[bool]
) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def opening() -> None:
        async with await open_file(tmp_path / "fifo", "rb", 0):
            pass

    async with await open_file(tmp_path / "f", "wb", 0) as file, anyio.create_task_group() as group:
        group.start_soon(opening)
        while current_runtime().host.threads().idle:
            await checkpoint()
        await file.write(b"x")
        beside = offers.copy()
        with open(tmp_path / "fifo", "wb", 0):
            while not current_runtime().host.threads().idle:
                await checkpoint()
        await file.write(b"x")
    assert beside == []
    assert len(offers) == 1


async def test_landing_is_told_of_in_one_way(tiers: Tiers) -> None:
    meter: Any = current_runtime().meter

    def offered() -> Any:
        meter.refill()
        for _ in range(100):
            landing = meter.linger_in_thread()
            if landing is not None:
                return landing
        raise AssertionError("never the time for it")

    for _ in range(3):  # what the fixtures have left to do
        await checkpoint()
    early = offered()
    assert early.land()
    assert early.look()
    late = offered()
    assert not late.look()
    assert not late.land()
    for _ in range(200):  # at the same time: one of them knows
        landing = offered()
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(landing.land()))  # noqa: B023
        thread.start()
        found = landing.look()
        thread.join()
        assert answers == [found]
