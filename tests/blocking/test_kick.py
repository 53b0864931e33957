"""What a kernel may have left without a worker gets one, though the loop sleeps (`Ring.watch`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiers
from tests.support.state import fifo_writer

import anyio_uring
from anyio_uring._runtime import current_runtime

pytestmark = [pytest.mark.anyio, pytest.mark.tiers("ring")]


async def test_loop_that_waits_for_nothing_else_sends_it(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyio_uring import _uring

    make: Callable[..., Any] = _uring.Ring
    monkeypatch.setattr(_uring, "Ring", lambda *args: make(*args, kick_after=0.01))
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
