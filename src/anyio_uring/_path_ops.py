"""Operations on paths: each one operation of the kernel's, or one hop to a thread.

The ring hands every one of them to a kernel worker.  What only asks can be cancelled, and leaves
nothing behind.  What changes a directory runs to its end, like a write, and is never done a second
time: it goes to a thread only if the kernel has not begun with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import to_thread

from ._hop import Errand

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from ._driver_thread import ThreadOps
    from ._host import Host
    from ._ops import AnyPath
    from ._uring import Operation
    from ._workers import Workers

T = TypeVar("T")


class PathOps:
    """The operations of one loop.

    :param supported: what its ring can do, by opcode; None without one
    """

    def __init__(
        self,
        host: Host,
        threads: ThreadOps,
        supported: frozenset[int] | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.threads = threads
        self._host = host
        self._workers = workers
        self._can: frozenset[str] = frozenset()
        if supported:
            from . import _uring

            codes = _uring.OPERATIONS.items()
            self._can = frozenset(name for name, code in codes if code in supported)

    async def stat(
        self, path: AnyPath, follow: bool, limiter: CapacityLimiter | None
    ) -> os.stat_result:
        """As `os.stat`, or `os.lstat` if not to `follow`; can be cancelled."""
        if "statx" in self._can:
            from ._uring import stat_operation

            operation = await self._on_ring(partial(stat_operation, follow=follow), path)
            if operation is not None:
                if operation.result < 0:
                    raise operation.error(path)
                return operation.stat_result()
        return await self.ask(partial(os.stat, path, follow_symlinks=follow), limiter)

    async def rename(
        self, source: AnyPath, target: AnyPath, limiter: CapacityLimiter | None
    ) -> None:
        """As `os.rename`, which on Windows replaces nothing."""
        await self._change("rename", os.rename, (source, target), (-1, -1), limiter)

    async def replace(
        self, source: AnyPath, target: AnyPath, limiter: CapacityLimiter | None
    ) -> None:
        """As `os.replace`; where there is a ring, that is the same."""
        await self._change("rename", os.replace, (source, target), (-1, -1), limiter)

    async def unlink(self, path: AnyPath, limiter: CapacityLimiter | None) -> None:
        await self._change("unlink", os.unlink, (path,), (-1,), limiter)

    async def rmdir(self, path: AnyPath, limiter: CapacityLimiter | None) -> None:
        await self._change("rmdir", os.rmdir, (path,), (-1,), limiter)

    async def mkdir(self, path: AnyPath, mode: int, limiter: CapacityLimiter | None) -> None:
        await self._change("mkdir", os.mkdir, (path,), (mode, -1), limiter, mode)

    async def symlink(
        self, content: AnyPath, path: AnyPath, limiter: CapacityLimiter | None
    ) -> None:
        await self._change("symlink", os.symlink, (content, path), (-1,), limiter)

    async def link(self, source: AnyPath, path: AnyPath, limiter: CapacityLimiter | None) -> None:
        await self._change("link", os.link, (source, path), (-1, -1), limiter)

    async def ask(
        self,
        function: Callable[[], T],
        limiter: CapacityLimiter | None,
        discard: Callable[[T], object] = type,
    ) -> T:
        """A question in a thread, which is left behind if the task is cancelled; as AnyIO's.

        :param discard: called, in any thread, with an answer that nobody waits for any more
        """
        self.threads.jobs += 1
        in_thread = partial(to_thread.run_sync, abandon_on_cancel=True, limiter=limiter)
        return await Errand(function, discard).run(in_thread)

    async def do(self, function: Callable[[], T], limiter: CapacityLimiter | None) -> T:
        """A change in a thread, which runs to its end whatever becomes of the task."""
        return await self.threads.call(function, limiter, type)

    async def _change(
        self,
        name: str,
        function: Callable[..., None],
        paths: tuple[AnyPath, ...],
        audited: tuple[int, ...],
        limiter: CapacityLimiter | None,
        *arguments: int,
    ) -> None:
        """Do it on the ring, or call the function of `os` in a thread.

        :param audited: what the function of `os` tells audit hooks behind the paths
        """
        if ("unlink" if name == "rmdir" else name) in self._can:
            from . import _uring

            sys.audit(f"os.{'remove' if name == 'unlink' else name}", *paths, *audited)
            make: Any = getattr(_uring, f"{name}_operation")
            operation = await self._on_ring(make, *paths, arguments=arguments)
            if operation is not None:
                if operation.result < 0:
                    error = -operation.result
                    raise OSError(error, os.strerror(error), *_names(paths))
                return
        await self.do(partial(function, *paths, *arguments), limiter)

    async def _on_ring(
        self,
        make: Callable[..., Operation],
        *paths: AnyPath,
        arguments: tuple[int, ...] = (),
    ) -> Operation | None:
        """The finished operation; None if nothing has happened, and a thread is to do it."""
        encoded = [bytes(os.fsencode(path)) for path in paths]  # not of a subclass
        workers = self._workers
        assert workers is not None
        if any(b"\0" in path for path in encoded):
            return None  # the kernel would see the part before it
        while self._host.ready() and not workers.lacking():
            operation = make(*encoded, *arguments)
            await self._host.perform(operation)
            if operation.refused:
                workers.refuse(operation.result)
                return None
            if not operation.cancelled:
                return operation
        return None


def _names(paths: tuple[AnyPath, ...]) -> tuple[Any, ...]:
    """The file names of an OSError, as its arguments."""
    return paths if len(paths) == 1 else (paths[0], None, paths[1])
