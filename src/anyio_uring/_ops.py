"""FileOps: the seam between the file layer and the drivers.

It speaks in whole jobs, not in system calls: one await is one thread hop in `ThreadOps`, and a
loop over completions in `UringOps`.  Both give the same results, the same errors with the same
file names, and cancel in the same way as far as a thread can be cancelled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from ._handle import MISS

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from anyio import CapacityLimiter

    from ._handle import Handle

AnyPath: TypeAlias = str | bytes
"""A path as `os.fspath` gives it."""

Done: TypeAlias = Callable[[int | None], object]
"""Called exactly once when a job that owns a file's position is over, whatever became of the task
that asked: with the bytes transferred, or None if nothing happened.  It may run in any thread, and
runs no user code."""

Parts: TypeAlias = tuple[bytes, ...]
"""What is written one behind the other."""

Span: TypeAlias = tuple[list[int], int, int]
"""A range of a file that is read as one: whose it is (numbers of requests), its size and offset."""

Over: TypeAlias = Callable[[Parts, int, OSError | None, bool], object]
"""Called when a write that nobody waits for has come to its end: with its data and offset, its
error, and whether it has been refused before anything happened."""


# Up to here a cached range is copied on the loop's thread, piece by piece; beyond, by others.
PACED_MAX = 4 << 20


class Job(NamedTuple):
    """What a job is about: the file, its name for errors, the thread limiter, and `done`.

    :ivar done: None for jobs that do not own the position.  Reads at an explicit offset need
        none: nobody misses one that was left behind
    :ivar tried: the cached read has been tried just now
    :ivar salvage: called with the bytes that a read took from the kernel's own position for a
        task that has left, before `done`; in any thread.  True behind them: the task itself gives
        them back, and what its last step has given back, or still will, comes behind them
    """

    handle: Handle
    name: Any = None
    limiter: CapacityLimiter | None = None
    done: Done | None = None
    tried: bool = False
    salvage: Callable[..., object] | None = None


class Opened(NamedTuple):
    """A new descriptor with its facts (as `anyio_uring._handle.fd_facts`)."""

    fd: int
    facts: tuple[int, int, int, str, int, bool]


class Pace(NamedTuple):
    """How cached data too big for one go is copied on the loop's thread: piece by piece, each
    admitted by the gate.

    :ivar admit: raises if the scope is cancelled, waits for a turn if one is due
    :ivar piece: bytes copied at once
    :ivar refund: takes the admission of so many bytes back, since the operation waits after all
    """

    admit: Callable[[int], Awaitable[None]]
    piece: int
    refund: Callable[[int], None]

    async def fill(self, handle: Handle, whole: bytes, size: int, offset: int) -> tuple[int, bool]:
        """Read cached data into fresh bytes.

        Returns how much, and whether that is all there is; if not, the rest is not in memory.
        """
        got = 0
        while got < size:
            wanted = min(self.piece, size - got)
            if got:
                await self.admit(wanted)
            count = handle.fill_cached(whole, got, wanted, offset + got)
            if count == MISS:
                return got, False
            got += count
            if count < wanted:
                break
        return got, True


class FileOps(Protocol):
    """A driver.  Offsets are in bytes; offset -1 is the kernel's own position.

    ``None`` from `read`, `readinto` and `write` means EAGAIN on a non-blocking descriptor,
    as in `io.RawIOBase`.
    """

    name: str
    pace: Pace | None

    async def open(
        self, path: str | bytes, flags: int, mode: int, limiter: CapacityLimiter | None
    ) -> Opened: ...

    async def read(self, job: Job, size: int, offset: int) -> bytes | None:
        """`size` bytes; fewer only at EOF, or on a stream."""

    async def read_spans(
        self, job: Job, spans: Iterable[Span], found: list[bytes | None]
    ) -> list[tuple[list[int], bytes]]:
        """Several reads side by side, each as `read`; none is tried in memory.

        The caller has joined the handle.

        :param spans: taken as there is room for them
        :param found: where the bytes of those go that are of a single number, to that place
        :returns: the numbers and the bytes of the others
        """

    async def read_to_end(self, job: Job, offset: int) -> bytes | None: ...

    async def readinto(self, job: Job, buffer: WriteableBuffer, offset: int) -> int | None: ...

    async def write(self, job: Job, data: ReadableBuffer, offset: int, whole: bool) -> int | None:
        """All of `data`.  After a part was written an error is raised if `whole`, else the size
        of the part is returned and the error left for the next call, as write(2) does.
        """

    def write_behind(self, job: Job, parts: Parts, offset: int, over: Over) -> bool:
        """Begin to write all of that, and have `over` called at the end; False if a task has to
        wait for it.
        """

    async def join(self, chunks: list[bytes], limiter: CapacityLimiter | None) -> bytes:
        """Put the parts of one read together without holding the loop up."""

    async def size(self, job: Job) -> int: ...

    async def seek(self, job: Job, offset: int, whence: int) -> int:
        """lseek(2) on the kernel's own position."""

    async def truncate(self, job: Job, size: int) -> None: ...

    async def allocate(self, job: Job, offset: int, size: int, keep_size: bool) -> None:
        """fallocate(2).

        :raises io.UnsupportedOperation: the system has no such call
        """

    async def sync(self, job: Job, datasync: bool) -> None: ...

    async def close(self, job: Job) -> None:
        """Close the descriptor of a handle with no operations in flight; never abandoned."""

    def interrupt(self, handle: Handle) -> None:
        """The file is being closed: end what waits on it and has no effect."""
