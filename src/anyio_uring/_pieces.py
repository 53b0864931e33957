"""Several reads under one roof: a big range in pieces (many ranges are `_uring.Spans`).

A `Unit`: a task waits for all of it, and gives all of it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _uring
from ._host import Host
from ._settle import Settle

if TYPE_CHECKING:
    from ._uring import Handle, Operation, Ring

# A big read is several pieces of this size, so many of them in flight at once: enough to keep
# the processors' copies and the device busy, little enough for others to get their turn.
PIECE_BYTES = 512 << 10
PIECES_MAX = 4


class Pieces:
    """One read of a big range: pieces of it in flight side by side, filling one bytes object."""

    effect = False

    def __init__(
        self,
        host: Host,
        handle: Handle,
        size: int,
        offset: int,
        settle: Settle,
        box: list[bytes],
        got: int,
    ) -> None:
        self.host = host
        self.handle = handle
        self.size = size
        self.offset = offset
        self.settle = settle
        self._box = box  # fresh bytes, in a list so that they can be cut in place
        self._begin = self._next = got  # what is before that is there already
        self.waiter: Any = None
        self.result = 0
        self.moved = 0
        self.refused = 0  # or the result of a piece that the ring has refused
        self.cancelled = False
        self.abandoned = False
        self.done = False
        self._live: dict[int, Operation] = {}
        self._got: dict[int, int] = {}
        self._stopping = False
        self._asked = False

    def start(self) -> None:
        while self._next < self.size and len(self._live) < PIECES_MAX and not self._stopping:
            self._start_next()

    def _start_next(self) -> None:
        start = self._next
        size = min(PIECE_BYTES, self.size - start)
        operation = _uring.piece_operation(
            self.handle, self._box[0], start, size, self.offset + start
        )
        operation.when_done = lambda finished: self._piece_done(start, size, finished)
        self._next = start + size
        self._live[start] = operation
        self.host.start(operation)

    def _piece_done(self, start: int, size: int, operation: Operation) -> None:
        del self._live[start]
        self._got[start] = operation.moved
        if operation.refused:
            self.refused = operation.result
        elif operation.cancelled:
            self.cancelled = True
        elif operation.result < 0:
            self.result = operation.result
        if operation.moved < size or self.host.ended:
            self._stopping = True  # EOF, or one of the above; or nobody is left to read on
        if not self._stopping and self._next < self.size:
            self._start_next()
        elif not self._live:
            self._finish()

    def _finish(self) -> None:
        self.done = True
        position = self.moved = self._begin
        while position in self._got:
            self.moved += self._got[position]
            position += PIECE_BYTES
            if self.moved < position:
                break
        if self._asked and self._next < self.size and self.moved == self._next:
            self.cancelled = True  # no end of file met, and not everything was asked for
        if self.result < 0 and self.moved and not self.cancelled:
            self.result = 0  # the part before the error counts; the next read meets it
        if not self.refused and not self.cancelled:
            self.settle.once(self.moved if self.result == 0 else None)
        if self.waiter is not None:
            self.host.awake(self)

    def take(self) -> bytes:
        """What has been read."""
        return _uring.take_bytes(self._box, self.moved)

    def cancel(self, ring: Ring) -> None:
        self._stopping = self._asked = True
        for operation in list(self._live.values()):
            ring.cancel(operation)

    def abandon(self, ring: Ring) -> None:
        self.abandoned = True
        self._stopping = self._asked = True
        for operation in list(self._live.values()):
            ring.abandon(operation)
