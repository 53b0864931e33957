"""Several reads under one roof: a big range in pieces, and many ranges of one file.

Each is a `Unit`: a task waits for all of it, and gives all of it up.
"""

from __future__ import annotations

from collections.abc import Iterator
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
# So many ranges of one call are in the kernel at once; a device has no more to choose from, and
# operations of other tasks are not kept waiting behind them.
SPANS_MAX = 256
# Each so many of them begin at once: the device has something to do while the next are made.
PUSHED = 16


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


class Spans:
    """Reads of many ranges of a file, side by side.

    :param todo: numbers, each with its (size, offset); taken as there is room for them
    :ivar found: what has been read, by number
    :ivar again: what has not, of those taken, since it was cancelled or refused
    :ivar failed: the operations that ended with an error, by number
    """

    effect = False

    def __init__(
        self,
        host: Host,
        handle: Handle,
        todo: Iterator[tuple[int, tuple[int, int]]],
        inline_max: int,
    ) -> None:
        self.host = host
        self.handle = handle
        self.waiter: Any = None
        self.found: dict[int, bytes] = {}
        self.again: dict[int, tuple[int, int]] = {}
        self.failed: dict[int, Operation] = {}
        self.refused = 0  # or the result of an operation that the ring has refused
        self.cancelled = False
        self.abandoned = False
        self.done = False
        self._inline_max = inline_max
        self._todo = todo
        self._live: dict[Operation, tuple[int, tuple[int, int]]] = {}
        self._stopping = False  # no more of them is to begin
        self._asked = False
        self._filling = False

    def start(self) -> None:
        ring = self.host.ring
        assert ring is not None
        self._limit = min(SPANS_MAX, ring.inflight_max)
        self._low = self._limit * 15 // 16  # then the next ones are started, some at a time
        self._fill(ring)
        if not self.done:
            self.host.submit_now()

    def _fill(self, ring: Ring | None) -> None:
        """Start as many as there is room for; the last of them with the loop's next turn."""
        if self._filling:
            return  # called by a completion within one of these starts
        self._filling = True
        try:
            while not self._stopping and len(self._live) < self._limit:
                assert ring is not None
                taken = next(self._todo, None)
                if taken is None:
                    self._stopping = True
                    break
                _, (size, offset) = taken
                operation = _uring.read_operation(
                    self.handle, size, offset, True, size > self._inline_max
                )
                operation.when_done = self._span_done
                self._live[operation] = taken
                ring.start(operation)
                if ring.pending >= PUSHED:
                    ring.push_only()
        finally:
            self._filling = False
        if not self._live and not self.done:
            self.done = True
            if self._asked and (taken := next(self._todo, None)) is not None:
                number, self.again[number] = taken
                self.cancelled = True  # some had not begun
            if self.waiter is not None:
                self.host.awake(self)

    def _span_done(self, operation: Operation) -> None:
        live = self._live
        number, span = live.pop(operation)
        if operation.result < 0:
            self._stopping = True
            if operation.refused:
                self.refused = operation.result
                self.again[number] = span
            elif operation.cancelled:
                self.cancelled = True
                self.again[number] = span
            else:
                self.failed[number] = operation
        elif not self.abandoned:
            self.found[number] = operation.take()
        if live and (self._stopping or len(live) > self._low):
            return
        ring = self.host.ring
        if self.host.ended or ring is None:
            self._stopping = True
        self._fill(ring)

    def cancel(self, ring: Ring) -> None:
        self._stopping = self._asked = True
        for operation in list(self._live):
            ring.cancel(operation)

    def abandon(self, ring: Ring) -> None:
        self.abandoned = self._stopping = True
        for operation in list(self._live):
            ring.abandon(operation)
