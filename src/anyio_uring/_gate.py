"""The gate: operations that need no waiting ration the loop's turns among the tasks.

An operation served from memory never makes its task wait, so without a gate a task that reads
cached data would never let another run.  Yielding every time costs several times the read.  A
plain budget per turn starves: the task that runs first in each turn uses it up.  So: an allowance
that is refilled only by passing the gate, one task at a time, in order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._handle import CROWD
from ._host import Host
from ._line import Line

# A task that somebody waits for takes up to three turns of the loop to run: the reactor's or the
# timer's, that of a future, its own.
GIVE_WAY_MAX = 2


class Gate:
    """One per loop.  `meter` is the compiled allowance; without one nothing is served inline, and
    every operation waits anyway.
    """

    __slots__ = ("_crew", "_host", "_line", "_recruit", "meter")

    def __init__(self, host: Host, meter: Any, recruit: Callable[[], Any] | None = None) -> None:
        self._host = host
        self._crew: Any = None
        self._recruit = recruit
        self._line = Line(meter)  # which wants to know whether somebody waits
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

    def crew(self) -> Any:
        """The `Crew`, if so many tasks are here that it is the one to ask; else None.

        What it is asked counts as a turn, and the answer is waited for at once, without `admit`.
        """
        meter = self.meter
        if meter is None or (meter.crowd < CROWD and self._line.length < CROWD):
            return None
        if self._crew is None and self._recruit is not None:
            self._crew, self._recruit = self._recruit(), None
        crew = self._crew
        if crew is None or not crew.willing() or not meter.clear():  # (then `admit` raises)
            return None
        return crew

    def spend(self, size: int) -> None:
        """Charge for `size` bytes that an operation has copied, which were not known before."""
        if self.meter is not None:
            self.meter.spend(size)

    async def turn(self) -> None:
        """Wait for this task's turn.

        Who is ready by then goes first, as far as that can be seen: a timer or a peer is late by
        one allowance, not by one for each turn of the loop that it takes to wake a task.  Those
        who wait in line get equal allowances, a task on its own less before the loop's next timer.
        """
        meter, checkpoint = self.meter, self._host.checkpoint
        waited = await self._line.acquire(self._host)
        try:
            if not waited:
                await checkpoint()
            spare = meter.spare()
            for _ in range(GIVE_WAY_MAX):
                if spare or meter.overdue():
                    break
                await checkpoint()
                spare = meter.spare()
            if waited or self._line.crowded or not spare:
                meter.refill()
            else:
                meter.refill(spare)
        finally:
            self._line.release()
