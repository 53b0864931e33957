"""What a kernel may have left without a worker gets one, though the loop sleeps (`Ring.watch`)."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.conftest import Tiers
from tests.support.state import fifo_writer

import anyio_uring
from anyio_uring._host_trio import IDLE_TURNS_MAX
from anyio_uring._runtime import current_runtime

pytestmark = [pytest.mark.anyio, pytest.mark.tiers("ring")]


async def test_loop_that_waits_for_nothing_else_sends_it(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyio_uring import _uring

    make: Callable[..., Any] = _uring.Ring
    monkeypatch.setattr(_uring, "Ring", lambda *args: make(*args, kick_after=0.2))
    with fifo_writer(tmp_path / "fifo") as writing:
        async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:
            host: Any = current_runtime().host
            deliver = host.deliver

            def answer(batch: Iterable[Any]) -> None:
                deliver(batch)
                if host.ring.kicked and not host.ring.kicks:
                    host.deliver = deliver
                    os.write(writing, b"answer")

            host.deliver = answer
            assert await file.read(10) == b"answer"
            assert host.ring.kicked == 1


@pytest.mark.hosts("trio")
async def test_clock_of_the_ring_that_goes_off_after_many_idle_turns_does_not_keep_trio_awake(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyio_uring import _uring

    make: Callable[..., Any] = _uring.Ring
    monkeypatch.setattr(_uring, "Ring", lambda *args: make(*args, kick_after=0.5))
    async with await anyio_uring.open_file(tmp_path / "file", "wb"):
        ring: Any = current_runtime().host.ring
        for _ in range(IDLE_TURNS_MAX + 10):
            await trio.lowlevel.checkpoint()
        assert ring.watching  # the turns took less time than that
        poll = select.poll()
        poll.register(ring.eventfd, select.POLLIN)
        assert poll.poll(5000)
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked()
        assert poll.poll(0) == []
