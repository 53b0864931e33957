"""`Listing`: one consumer at a time, and no entry lost between two steps."""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.state import descriptors

from anyio_uring import Path as UringPath
from anyio_uring import _listing
from anyio_uring._entries import names
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

    monkeypatch.setattr(_listing, "CHUNK_MIN", 1)
    listing = Listing(entries, anyio.CapacityLimiter(2), int)
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


@pytest.mark.parametrize("error", [StopIteration, StopIteration("found")])
async def test_conversion_cannot_pass_for_an_answer(error: Any) -> None:
    def convert(entry: int) -> int:
        if entry < 2:  # the first one comes with the hop, the next is held
            raise error
        return entry

    listing = Listing(lambda: iter(range(4)), None, convert)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            await anext(listing)
        assert isinstance(caught.value.__cause__, StopIteration)
    assert [entry async for entry in listing] == [2, 3]


async def test_steps_made_before_they_are_awaited_have_each_an_entry() -> None:
    listing = Listing(lambda: iter(range(1000)), None, int)
    seen = []
    for _ in range(500):
        first, second = anext(listing), anext(listing)
        seen += [await second, await first]
    assert seen == list(range(1000))
    with pytest.raises(StopAsyncIteration):
        await anext(listing)


async def test_two_consumers_in_turn_have_each_entry_once(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / str(number)).touch()
    listing = UringPath(tmp_path).iterdir()
    lock = anyio.Lock()
    seen: dict[int, list[str]] = {0: [], 1: []}

    async def consume(who: int) -> None:
        while True:
            async with lock:
                try:
                    path = await anext(listing)
                except StopAsyncIteration:
                    return
            seen[who].append(path.name)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for who in seen:
                group.start_soon(consume, who)
    assert all(seen.values())
    assert sorted(seen[0] + seen[1]) == sorted(str(number) for number in range(1500))


async def test_cancelled_between_two_turns_loses_no_entry() -> None:
    listing = Listing(lambda: iter(range(1000)), None, int)
    seen = []
    cancelled = 0
    while True:
        if not listing._chunk and listing._rest:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(listing)
                pytest.fail("not cancelled")
            cancelled += scope.cancelled_caught
        try:
            seen.append(await anext(listing))
        except StopAsyncIteration:
            break
    assert cancelled
    assert seen == list(range(1000))


class Watched:
    """Names whose reading begins when it may."""

    def __init__(self, path: Path) -> None:
        self.begun, self.go, self.closed = (threading.Event() for _ in range(3))
        self._path = str(path)

    def start(self) -> Watched:
        self._names: Any = names(self._path)
        return self

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.begun.set()
        assert self.go.wait(10)
        return next(self._names)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._names.close()
        self.closed.set()


async def test_cancelled_in_a_hop_ends_it_and_closes_the_directory(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    wait = partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(1))
    watched = Watched(tmp_path)
    await wait(watched.closed.is_set)  # the thread for waiting is there
    before = descriptors()
    listing = Listing(watched.start, anyio.CapacityLimiter(1), str)
    other = anext(listing)
    async with anyio.create_task_group() as group:
        group.start_soon(anext, listing)
        assert await wait(watched.begun.wait, 10)
        with pytest.raises(RuntimeError, match="already running"):
            await other
        group.cancel_scope.cancel()
    with pytest.raises(StopAsyncIteration):
        await anext(listing)
    watched.go.set()
    assert await wait(watched.closed.wait, 10)
    with pytest.raises(StopAsyncIteration):
        await anext(listing)
    opened = set(descriptors().items()) - set(before.items())
    assert not [place for _, place in opened if place == str(tmp_path)]


class OfAbc(UringPath, metaclass=abc.ABCMeta):
    """A path whose class is not of the class `type`."""


async def test_children_are_of_the_class_whatever_its_metaclass(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (child,) = [child async for child in OfAbc(tmp_path).iterdir()]
    assert type(child) is OfAbc
    assert str(child) == str(tmp_path / "f")
