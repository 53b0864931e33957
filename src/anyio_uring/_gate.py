"""The gate: operations that need no waiting ration the loop's turns among the tasks.

An operation served from memory never makes its task wait, so without a gate a task that reads
cached data would never let another run.  Yielding every time costs several times the read.  A
plain budget per turn starves: the task that runs first in each turn uses it up.  So: an allowance
that is refilled only by passing the gate, one task at a time, in order of arrival.
"""

from __future__ import annotations

from typing import Any

from ._host import Host
from ._line import Line


class Gate:
    """One per loop.  `meter` is the compiled allowance; without one nothing is served inline, and
    every operation waits anyway.
    """

    __slots__ = ("_host", "_line", "meter")

    def __init__(self, host: Host, meter: Any) -> None:
        self._host = host
        self._line = Line()
        self.meter = meter

    async def admit(self, size: int = 0) -> None:
        """Pass an operation that copies `size` bytes: raises if the scope is cancelled, and
        waits for a turn of the loop when the allowance is used up.  After it the operation goes
        on, whatever others have used up meanwhile.
        """
        meter = self.meter
        if meter is None or not meter.clear():
            await self._host.checkpoint_if_cancelled()
        if meter is not None and not meter.charge(size):
            await self.turn()
            meter.charge(size)

    def spend(self, size: int) -> None:
        """Charge for `size` bytes that an operation has copied, which were not known before."""
        if self.meter is not None:
            self.meter.spend(size)

    async def turn(self) -> None:
        """Wait for this task's turn, which comes with a full allowance."""
        waited = await self._line.acquire(self._host)
        try:
            if not waited:
                await self._host.checkpoint()
            self.meter.refill()
        finally:
            self._line.release()
