"""The worker threads of one event loop.

Limiters decide how many there are: a job comes here when it has its token, and a thread is started
when none is free.  Those of AnyIO and Trio have more to do with each job (contexts, names,
`from_thread`), and ours need none of that.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable

try:
    from _queue import SimpleQueue  # all that is wanted of `queue`, which is dear to import
except ImportError:
    from queue import SimpleQueue

# What a thread does when the interpreter ends gets as long as what is in the kernel then.
PATIENCE_SECONDS = 5.0


class Pool:
    """`submit` and `free` belong to the loop's thread.  A thread stays until the loop ends.

    :ivar ended: the threads are gone, or will be when they have done what they have
    """

    def __init__(self) -> None:
        self.ended = False
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._free = 0
        _pools.add(self)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return len(self._threads) == self._free

    def submit(self, task: Callable[[], object]) -> None:
        """Have a thread call a function that raises nothing.

        :raises RuntimeError: no thread is free, and none can be started
        """
        if self._free:
            self._free -= 1
        else:
            # Daemons, since nobody may have closed the loop by the time the interpreter ends, and
            # a thread may wait for a FIFO's peer; `finish` waits for what they are doing then.
            thread = threading.Thread(target=self._work, name="anyio_uring worker", daemon=True)
            self._threads.add(thread)
            try:
                thread.start()
            except RuntimeError:
                self._threads.discard(thread)
                raise
        self._tasks.put(task)

    def free(self) -> None:
        """A task has come to its end: its thread can be had again."""
        self._free += 1

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task
        self._threads.discard(threading.current_thread())

    def close(self) -> None:
        """The threads end with what they are doing."""
        if not self.ended:
            self.ended = True
            for _ in list(self._threads):
                self._tasks.put(None)

    def wait(self, deadline: float) -> None:
        """Until they have ended, but not for ever."""
        for thread in list(self._threads):
            thread.join(max(deadline - time.monotonic(), 0))


# Those with threads at least: these hold their pool.
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """At the end of the interpreter.  A loop may run once more in a function called after this."""
    pools = list(_pools)
    for pool in pools:
        pool.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    for pool in pools:
        pool.wait(deadline)


def forget_pools() -> None:
    """In a forked child: the threads are the parent's."""
    for pool in list(_pools):
        pool.ended = True
    _pools.clear()
