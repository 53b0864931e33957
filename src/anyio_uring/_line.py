"""A waiting line: one at a time, in order of arrival, across tasks, loops and threads."""

from __future__ import annotations

from _thread import RLock  # `threading.RLock` is a function around it
from collections import deque
from collections.abc import Callable
from typing import Any

from ._host import Host


class _Place:
    __slots__ = ("called", "host", "waiter")

    def __init__(self, host: Host, waiter: Any) -> None:
        self.host = host
        self.waiter = waiter
        self.called = False


class Turn:
    """The right to a file's position, for one operation of the file layer.

    It ends when both are through: the task (`leave`), and the step that it may have left under
    way (`begin`, and its end by calling this, in any thread).

    :ivar under_way: whether there is such a step
    """

    __slots__ = ("_commit", "_left", "_line", "under_way")

    def __init__(self, line: Line) -> None:
        self._line = line
        self.under_way = self._left = False
        self._commit: Callable[[int | None], object] | None = None

    def begin(
        self, commit: Callable[[int | None], object] | None = None, last: bool = False
    ) -> None:
        """:param commit: called with what the step has moved, at its end
        :param last: the turn ends with it; others need not wait for the task to run
        """
        self._commit = commit
        self.under_way = True
        self._left = last

    def __call__(self, moved: int | None = None) -> None:
        """The step is over."""
        commit, self._commit = self._commit, None
        try:
            if commit is not None:
                commit(moved)
        finally:
            with self._line.mutex:
                self.under_way = False
                left = self._left
            if left:
                self._line.release()

    def leave(self) -> None:
        with self._line.mutex:
            if self._left:
                return
            self._left = True
            under_way = self.under_way
        if not under_way:
            self._line.release()


class Line:
    """A FIFO lock whose owner is an operation, not a task.

    It may be released in another thread than the one that acquired it, and while the task that
    acquired it has long gone.  A task that leaves the line has had no effect.

    :ivar mutex: for what the ends of one operation share, its task and a step left under way
    :param flag: an object whose `busy` attribute, False at first, shows whether somebody is being
        served, for code that wants to look without a call
    """

    __slots__ = ("_flag", "_places", "busy", "mutex")

    def __init__(self, flag: Any = None) -> None:
        itself: Any = self
        self._flag: Any = itself if flag is None else flag
        self._places: deque[_Place] | None = None  # made when somebody has to wait
        # Reentrant: the collector may finalise a task that waits here while this one looks
        self.mutex = RLock()
        if flag is None:
            self.busy = False

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._places)

    @property
    def length(self) -> int:
        """How many wait."""
        return len(self._places or ())

    def try_acquire(self) -> bool:
        with self.mutex:
            if self._flag.busy:
                return False
            self._flag.busy = True
            return True

    async def acquire(self, host: Host) -> bool:
        """Wait for our turn; True if there was somebody before us."""
        with self.mutex:
            if not self._flag.busy:
                self._flag.busy = True
                return False
            place = _Place(host, host.waiter())
            if self._places is None:
                self._places = deque()
            places = self._places
            places.append(place)
        try:
            await host.park(place.waiter)
        except BaseException:
            with self.mutex:
                called = place.called
                if not called and place in places:
                    places.remove(place)
            if called:
                self.release()
            raise
        return True

    def release(self) -> None:
        """Serve the next one who is still there."""
        with self.mutex:
            while self._places:
                place = self._places.popleft()
                if place.host.wake(place.waiter):
                    place.called = True
                    return
            self._flag.busy = False
