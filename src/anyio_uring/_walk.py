"""Trees of directories, from the top down or from the bottom up.

A hop for each directory would cost more than to read it.  From the top down the walk must not be
ahead of whoever it is for, who may prune it and change what lies before it: what has been read
ahead is handed out only if a look at the directory, in the loop's turn, shows that it is as it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ._entries import directory_stamp, sorted_names
from ._handle import stat_now, stat_quick
from ._listing import CHUNK_MAX, CHUNK_MIN, CHUNK_SECONDS, Listing
from ._runtime import current_runtime
from ._whole import STAT_COST_BYTES

if TYPE_CHECKING:
    from typing import Self

    from anyio import CapacityLimiter

OnError: TypeAlias = Callable[[OSError], object]
Step: TypeAlias = tuple[str, list[str], list[str]]
Stamp: TypeAlias = tuple[int, int, int]

# Two changes of a directory can bear one time stamp, but not further apart than this: the coarsest
# that a disk's file system keeps are of two seconds
STAMP_NS = 2_000_000_000


def walk(
    text: str,
    top_down: bool,
    on_error: OnError | None,
    follow: bool,
    limiter: CapacityLimiter | None,
) -> Walk | Listing[Step, Step]:
    """An asynchronous iterator over what `pathlib.Path.walk` gives, with texts for paths.

    :param on_error: called in a thread
    """
    if top_down:
        return Walk(text, on_error, follow, limiter)
    return Listing(partial(_bottom_up, text, on_error, follow), limiter, _itself)


class Reading(NamedTuple):
    directories: list[str]
    others: list[str]
    stamp: Stamp | None


class Walk(AsyncIterator[Step]):
    """From the top down.  One hop reads `CHUNK_MAX` entries or for `CHUNK_SECONDS`, as long as what
    it reads is asked for; it reads one directory if symlinks are followed, if changes could not be
    seen, if it was changed of late, or if it is on another mount: there may be a server behind it
    that does not answer, and whoever walks may want to go round it.
    """

    def __init__(
        self, text: str, on_error: OnError | None, follow: bool, limiter: CapacityLimiter | None
    ) -> None:
        self._on_error = on_error
        self._follow = follow
        self._limiter = limiter
        self._to_do = [text]  # the next one last
        self._last: Step | None = None
        self._ahead: dict[str, Reading] = {}
        self._may_read_ahead = not follow
        self._size = CHUNK_MIN

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        if self._last is not None:
            # As its list of directories is by now
            self._to_do += _below(self._last[0], self._last[1])
        while self._to_do:
            text = self._to_do.pop()
            found = self._ahead.pop(text, None)
            if found is not None and not await self._is_unchanged(text, found.stamp):
                self._size = 1
                found = None
            if found is None:
                await self._hop(text)
                found = self._ahead.pop(text, None)
            if found is not None:
                self._last = (text, found.directories, found.others)
                return self._last
        self.close()
        raise StopAsyncIteration

    def close(self) -> None:
        """Nothing is open; what has been read is given up."""
        self._to_do.clear()
        self._ahead.clear()
        self._last = None

    async def _is_unchanged(self, text: str, stamp: Stamp | None) -> bool:
        """Whether a directory has this stamp; False also if that cannot be seen at once."""
        if stamp is None:
            return True  # it was read in its turn
        try:
            status: os.stat_result | int | None = stat_quick(text, True, STAT_COST_BYTES)
            if status is None:
                gate = current_runtime().gate
                await gate.admit(STAT_COST_BYTES)
                status = stat_now(os.fsencode(text), True, gate.meter)
        except OSError:
            return False
        if not isinstance(status, os.stat_result):
            self._may_read_ahead = False
            return False
        return (status.st_dev, status.st_ino, status.st_ctime_ns) == stamp

    async def _hop(self, text: str) -> None:
        if self._ahead or not self._may_read_ahead:
            self._size = 1  # not all of it was asked for
        behind = self._to_do[-self._size :]
        read = partial(self._read, text, behind, self._size)
        self._size = min(2 * self._size, CHUNK_MAX)
        self._ahead = await current_runtime().paths.ask(read, self._limiter)

    def _read(self, text: str, to_do: list[str], size: int) -> dict[str, Reading]:
        """In a thread: this directory, if it can be read, and what comes behind it.

        :param to_do: what is known of that, the next one last; is used up
        """
        end = time.monotonic() + CHUNK_SECONDS
        try:
            reading = Reading(*sorted_names(text, self._follow), None)
        except OSError as error:
            if self._on_error is not None:
                self._on_error(error)
            return {}
        readings = {text: reading}
        size -= _size_of(reading)
        mount = _mount_and_stamp(text)[0] if size > 0 else None
        while size > 0 and mount is not None and time.monotonic() < end:
            to_do += _below(text, reading.directories)
            if not to_do:
                break
            text = to_do.pop()
            on_mount, stamp = _mount_and_stamp(text)
            if on_mount != mount or stamp is None:
                break
            try:
                reading = Reading(*sorted_names(text, False), stamp)
            except Exception:  # noqa: BLE001  # it is met in its turn
                break
            readings[text] = reading
            size -= _size_of(reading)
        return readings


def _bottom_up(text: str, on_error: OnError | None, follow: bool) -> Iterator[Step]:
    """In threads."""
    to_do: list[str | Step] = [text]
    while to_do:
        top = to_do.pop()
        if isinstance(top, tuple):
            yield top
            continue
        try:
            directories, others = sorted_names(top, follow)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            continue
        to_do.append((top, directories, others))
        to_do += _below(top, directories)


def _below(text: str, directories: list[str]) -> list[str]:
    """The first one last."""
    prefix = "" if text == "." else text  # as of `pathlib.Path`
    return [os.path.join(prefix, name) for name in reversed(directories)]


def _size_of(reading: Reading) -> int:
    return 1 + len(reading.directories) + len(reading.others)


def _mount_and_stamp(text: str) -> tuple[int | None, Stamp | None]:
    """Where a directory is, and a stamp that is another one as soon as it is changed; None for what
    cannot be told.
    """
    found = directory_stamp(text)
    if found is None:
        return None, None
    mount, *stamp = found
    device, inode, changed = stamp
    settled = time.time_ns() - changed > STAMP_NS
    return mount, (device, inode, changed) if settled else None


def _itself(step: Step) -> Step:
    return step
