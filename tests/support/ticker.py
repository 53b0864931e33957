"""Is the loop turning?  A task that ticks every millisecond, and what its ticks tell.

`Ticker` records the gaps between ticks.  `turns_while_held` needs no clock: a request is withheld
by the FUSE server of the tests, and released once the loop has ticked often enough meanwhile, or
never could.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from .fuse import FuseMount

TICK_SECONDS = 0.001
# Ticks while a request is withheld that prove it does not hold the loop up.
TICKS_ENOUGH = 10
PATIENCE_SECONDS = 10.0


class Ticker:
    """An asynchronous context manager; `gaps` are the seconds between ticks, less the tick."""

    def __init__(self) -> None:
        self.ticks = 0
        self.gaps: list[float] = []

    async def __aenter__(self) -> Self:
        self._group: TaskGroup = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._tick)
        # The first tick has come before anything is measured
        while not self.ticks:
            await anyio.sleep(TICK_SECONDS)
        return self

    async def __aexit__(self, *exc_info: object) -> bool | None:
        # What held the loop up last shows in the tick that follows
        last = self.ticks
        with anyio.CancelScope(shield=True):
            while exc_info[0] is None and self.ticks < last + 2:
                await anyio.sleep(TICK_SECONDS)
        self._group.cancel_scope.cancel()
        return await self._group.__aexit__(*exc_info)

    async def _tick(self) -> None:
        before = time.perf_counter()
        while True:
            await anyio.sleep(TICK_SECONDS)
            now = time.perf_counter()
            self.gaps.append(now - before - TICK_SECONDS)
            self.ticks += 1
            before = now

    @property
    def largest(self) -> float:
        return max(self.gaps)

    def percentile(self, share: float) -> float:
        return sorted(self.gaps)[min(int(len(self.gaps) * share), len(self.gaps) - 1)]


async def turns_while_held(
    mount: FuseMount, opcode: str, operation: Callable[[], Awaitable[Any]]
) -> Any:
    """Run an operation while requests of this opcode are withheld; its result.

    The server is watched by a thread, since the loop may be what stands still.

    :raises AssertionError: the loop did not turn while the request was held
    """
    before = mount.seen(opcode)
    mount.stall(opcode)
    ended = threading.Event()
    observed: list[str] = []

    async with Ticker() as ticker:

        def watch() -> None:
            try:
                observed.append(_observe(mount, opcode, before + 1, ticker, ended))
            finally:
                mount.release()

        thread = threading.Thread(target=watch, name="watch")
        thread.start()
        try:
            result = await operation()
        finally:
            ended.set()
            with anyio.CancelScope(shield=True):
                while thread.is_alive():
                    await anyio.sleep(TICK_SECONDS)
            thread.join()
    if observed != ["turned"]:
        raise AssertionError(*observed)
    return result


def _observe(
    mount: FuseMount, opcode: str, count: int, ticker: Ticker, ended: threading.Event
) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while mount.seen(opcode) < count:
        if ended.is_set():
            return f"no {opcode} was sent"
        if time.monotonic() > deadline:
            return f"no {opcode} was sent for {PATIENCE_SECONDS:g} s"
        time.sleep(TICK_SECONDS)
    start = ticker.ticks
    while ticker.ticks < start + TICKS_ENOUGH:
        if ended.is_set():
            return f"the operation did not wait for its {opcode}"
        if time.monotonic() > deadline:
            return f"the loop stood still while {opcode} was held"
        time.sleep(TICK_SECONDS)
    return "turned"
