"""Whether the kernel makes workers for a loop's ring.

Where it cannot (a container's pids limit is reached), it tries for some 50 ms, then gives the
operation back undone.  A thread of ours can still do it, since those are there already or are made
where the limit leaves room.  So one refusal is remembered: what would need a worker goes to a
thread at once, until the kernel has shown that it makes them again.  It is asked now and then, by
an operation that does nothing and that nobody waits for.
"""

from __future__ import annotations

import errno
from time import monotonic
from typing import TYPE_CHECKING

from . import _uring

if TYPE_CHECKING:
    from ._host import Host
    from ._uring import Handle, Operation

# Rare enough that its 50 ms of attempts cost nothing, often enough that a lack is soon forgotten.
ASK_SECONDS = 1.0


class Workers:
    """What the operations of one loop have met."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.refused = 0  # operations handed on to a thread, for whatever reason
        self._ask_at: float | None = None  # None: nothing is lacking

    def refuse(self, result: int) -> None:
        """The ring has refused an operation.  ECANCELED without having asked: no worker."""
        self.refused += 1
        if result == -errno.ECANCELED:
            self._ask_at = monotonic() + ASK_SECONDS

    def lacking(self, transfer: Handle | None = None) -> bool:
        """Whether an operation would wait for a worker in vain.  The ring must be ready.

        :param transfer: it reads or writes this file, and needs no worker if that is a stream
            (the kernel polls it) or past the page cache (nor has a thread aligned memory for it)
        """
        if self._ask_at is None:
            return False
        now = monotonic()
        if now >= self._ask_at:
            self._ask_at = now + ASK_SECONDS  # also if no answer comes: its ring can be given up
            question = _uring.nop_operation(force_async=True)
            question.when_done = self._answered
            self.host.start(question)
        return transfer is None or (transfer.seekable and not transfer.direct)

    def _answered(self, question: Operation) -> None:
        if question.result == 0:
            self._ask_at = None
