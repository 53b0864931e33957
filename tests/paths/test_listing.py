"""`Listing`: one consumer at a time, and no entry lost between two steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from anyio_uring import Path as UringPath
from anyio_uring._hop import Errand
from anyio_uring._listing import Listing

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("tiers")]


async def test_two_consumers_at_once_are_told(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / str(number)).touch()
    limiter = anyio.CapacityLimiter(1)  # one hop behind the other
    listing = UringPath(tmp_path, limiter=limiter).iterdir()
    seen: list[str] = []
    refused = 0

    async def consume() -> None:
        nonlocal refused
        while True:
            try:
                seen.append((await anext(listing)).name)
            except StopAsyncIteration:
                return
            except RuntimeError:
                refused += 1
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(consume)
    assert refused
    assert sorted(seen) == sorted(str(number) for number in range(1000))


async def test_entries_behind_lost_ones_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, done, dropped = (threading.Event() for _ in range(4))
    keep = Errand._keep

    def keep_late(errand: Errand[object], result: object) -> bool:
        done.set()
        assert dropped.wait(10)
        return keep(errand, result)

    def entries() -> Iterator[int]:
        begun.set()
        assert go.wait(10)
        yield from range(10)

    listing = Listing(entries, anyio.CapacityLimiter(2), int, ahead=False)
    monkeypatch.setattr(Errand, "_keep", keep_late)
    async with anyio.create_task_group() as group:
        group.start_soon(anext, listing)
        await anyio.to_thread.run_sync(begun.wait, 10)
        group.cancel_scope.cancel()
    # The thread has its entry, which nobody waits for, and does not know that yet
    go.set()
    await anyio.to_thread.run_sync(done.wait, 10)
    monkeypatch.setattr(Errand, "_keep", keep)
    with pytest.raises(StopAsyncIteration):
        await anext(listing)
    dropped.set()


async def test_error_of_the_conversion_is_raised() -> None:
    def convert(entry: int) -> int:
        if entry == 1:
            raise IndexError(entry)
        return entry

    listing = Listing(lambda: iter(range(3)), None, convert)
    assert await anext(listing) == 0
    with pytest.raises(IndexError):
        await anext(listing)
    assert await anext(listing) == 2
