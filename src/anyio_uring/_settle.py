"""Who tells the file what an operation on the ring has moved, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._ops import Job
    from ._uring import Operation


class Settle:
    """Tells `done`, once, what an operation moved.

    A write tells at its completion, whoever waits for it.  A read tells when its task takes the
    bytes.  If the task has left instead (a native cancel can come between the completion and the
    task's turn), a read at an explicit offset has moved nothing; one at the kernel's own position
    has, and hands its bytes to `salvage`.
    """

    __slots__ = ("_bytes_of", "_done", "_salvage")

    def __init__(self, job: Job, bytes_of: Callable[[Operation], bytes] | None = None) -> None:
        self._done = job.done
        self._salvage = job.salvage
        self._bytes_of = bytes_of

    def once(self, moved: int | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(moved)

    def __call__(self, operation: Operation) -> None:
        """At the completion, before any task is woken."""
        if operation.abandoned:
            self._lost(operation)
        elif (
            self._bytes_of is None
            and not operation.cancelled
            and not (operation.refused and not operation.moved)
        ):
            # (else the task tells, tries again, or a thread does, and tells then)
            self.once(operation.moved)

    def left(self, operation: Operation | None) -> None:
        """The task leaves with an exception."""
        if operation is None:
            self.once(None)
        elif operation.done:
            self._lost(operation)
        elif not (operation.started and (operation.effect or not operation.positional)):
            self.once(None)
        # else its completion tells

    def _lost(self, operation: Operation) -> None:
        if operation.cancelled or (operation.positional and not operation.effect):
            self.once(None)
            return
        if self._bytes_of is not None and self._salvage is not None and operation.moved:
            self._salvage(self._bytes_of(operation))
        self.once(operation.moved)
