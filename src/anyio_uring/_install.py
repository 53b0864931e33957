"""`install`: AnyIO's and Trio's own names for files, served by us.

AnyIO has no plug-in point for files, so the bodies of its functions are swapped (`_swap`).  What is
swapped for what is said in `_targets`.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from ._scope import is_scoped
from ._swap import Swap
from ._targets import TARGETS, swaps_of, version_obstacle, version_of, wrapped_obstacle

if TYPE_CHECKING:
    from typing import Self


# Read by ``python -m anyio_uring run`` and the pytest plugin.
VARIABLE = "ANYIO_URING_INSTALL"


class InstallError(RuntimeError):
    """A target cannot be served; `install` raises this with ``strict=True``.

    :ivar target: ``"anyio"``, ``"trio"`` or ``"to_thread"``
    :ivar version: of the package that is there

    >>> import anyio_uring
    >>> try:
    ...     anyio_uring.install(strict=True).uninstall()
    ... except anyio_uring.InstallError as error:
    ...     print(error.target, error.version)
    """

    def __init__(self, target: str, version: str, reason: str) -> None:
        super().__init__(f"{target} {version}: {reason}")
        self.target = target
        self.version = version


class Installation:
    """What one call of :func:`install` has done; as a context manager it ends with the block.

    :ivar patched: the functions that are served, as ``"anyio.Path.stat"``
    :ivar skipped: targets that are left as they were -> why

    >>> import anyio_uring
    >>> with anyio_uring.install() as installation:
    ...     "anyio.open_file" in installation.patched
    True
    """

    patched: tuple[str, ...] = ()
    skipped: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self._served: list[str] = []

    def _add(self, target: str) -> None:
        reason = None if _wanted[target] else _serve(target)
        if reason is None:
            _wanted[target] += 1
            self._served.append(target)
            self.patched += tuple(swap.name for swap in _swapped[target])
        else:
            self.skipped = MappingProxyType({**self.skipped, target: reason})

    def uninstall(self) -> None:
        """End it.  What no other installation wants is as it was before; files that are open go on.

        A second time nothing happens.  A function that somebody else has patched since stays as
        it is, with a RuntimeWarning: his patch may need ours.
        """
        self._end(3)

    def _end(self, stacklevel: int) -> None:
        left: list[str] = []
        with _lock:
            served, self._served = self._served, []
            for target in served:
                _wanted[target] -= 1
                if not _wanted[target]:
                    left += _settle(target)
        _warn_of(left, stacklevel + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(3)

    def __repr__(self) -> str:
        return f"<Installation: {len(self.patched)} functions, skipped: {dict(self.skipped)}>"


_lock = threading.RLock()  # a signal handler may come in between
if hasattr(os, "register_at_fork"):  # a child shall neither wait for it nor find half of the work
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )
# How many installations want a target, how many runs do for themselves alone, and what is swapped
# for it, once it has been.
_wanted = dict.fromkeys(TARGETS, 0)
_runs = dict.fromkeys(TARGETS, 0)
_swapped: dict[str, list[Swap]] = {}


def install(
    *, anyio: bool = True, trio: bool = False, to_thread: bool = False, strict: bool = False
) -> Installation:
    """Have AnyIO's and Trio's own files, paths, temporary files and streams served by us.

    For the whole process, until :meth:`Installation.uninstall`.  Names that were imported before,
    subclasses and paths that are there already are served too: functions and classes stay the same
    objects.  Files that are open stay what they are.

    :param anyio: ``open_file``, ``Path``, ``TemporaryFile``, ``NamedTemporaryFile``,
        ``SpooledTemporaryFile``, ``TemporaryDirectory``, ``mkstemp``, ``mkdtemp``, and
        ``FileReadStream`` and ``FileWriteStream`` made by ``from_path``
    :param trio: Trio's ``open_file`` and ``Path``
    :param to_thread: ``anyio.to_thread.run_sync`` of functions that need no thread, such as
        ``os.stat``: :doc:`the list </how-to/install>`
    :param strict: raise where a target cannot be served; otherwise it is left wholly as it is,
        with a RuntimeWarning: an upgrade of AnyIO shall not keep a server from starting
    :raises InstallError: a target's version or functions are not as expected, and `strict`
    :raises ImportError: `trio`, and it is not installed

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with await anyio.open_file("/etc/passwd", "rb") as f:
    ...         return isinstance(f, anyio_uring.AsyncFile)
    >>> with anyio_uring.install():
    ...     anyio.run(main)
    True
    >>> anyio.run(main)
    False
    """
    if trio:
        import_module("trio")
    installation = Installation()
    try:
        with _lock:
            wishes = (("anyio", anyio), ("trio", trio), ("to_thread", to_thread))
            for target, wanted in wishes:
                if wanted:
                    installation._add(target)
        for target, reason in installation.skipped.items():
            if strict:
                raise InstallError(target, version_of(target), reason)
            warnings.warn(
                f"anyio_uring: {target} {version_of(target)} is left as it is: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
    except BaseException:  # perhaps the warning, or an interrupt
        installation.uninstall()
        raise
    return installation


def begin_run(target: str) -> None:
    """Serve a target in those runs that `_scope` knows, if nobody wants it for the whole process.

    :raises InstallError: it cannot be served
    """
    with _lock:
        reason = None if _wanted[target] or _runs[target] else _serve(target, is_scoped)
        if reason is not None:
            raise InstallError(target, version_of(target), reason)
        _runs[target] += 1


def end_run(target: str) -> None:
    """One of these runs has ended."""
    with _lock:
        _runs[target] -= 1
        left = _settle(target) if not _runs[target] and not _wanted[target] else []
    _warn_of(left, 3)


def targets_of(text: str) -> dict[str, bool]:
    """The arguments of `install` from a text: ``1``, ``0``, or a list of targets.

    :raises ValueError: it is something else
    """
    words = {"1": ["anyio"], "0": [], "": []}.get(text.strip())
    if words is None:
        words = [word.strip() for word in text.split(",")]
    unknown = set(words) - set(TARGETS)
    if unknown:
        raise ValueError(
            f"{VARIABLE} and --anyio-uring-targets are 1, 0 or a list of 'anyio', 'trio' "
            f"and 'to_thread', not {text!r}"
        )
    return {target: target in words for target in TARGETS}


def _serve(target: str, gate: Callable[[], bool] | None = None) -> str | None:
    """Swap all functions of a target, or none; why none."""
    reason = None if _runs[target] else _look(target)
    if reason is not None:
        return reason
    try:
        for swap in _swapped[target]:
            swap.apply(gate)
    except BaseException:
        _settle(target)
        raise
    return None


def _settle(target: str) -> list[str]:
    """Nobody wants a target for the whole process by now: leave it to the runs, or as it was.

    Returns what somebody else has patched since.
    """
    if not _runs[target]:
        return [swap.name for swap in _swapped[target] if not swap.undo()]
    ours = [swap for swap in _swapped[target] if swap.is_on_top()]
    for swap in ours:
        swap.apply(is_scoped)
    return [swap.name for swap in _swapped[target] if swap not in ours]


def _warn_of(names: list[str], stacklevel: int) -> None:
    if names:
        warnings.warn(
            f"anyio_uring: somebody else has patched {', '.join(names)} since; left as it is",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def _look(target: str) -> str | None:
    """Find the functions of a target; why they cannot be swapped."""
    try:
        swaps = swaps_of(target)
    except (AttributeError, ImportError, KeyError) as error:
        return f"something is missing: {error}"
    known = _swapped.get(target, [])
    # (one that was replaced meanwhile, for a test perhaps, is looked at again)
    if [swap.function for swap in known] != [swap.function for swap in swaps]:
        reason = version_obstacle(target)
        if reason is not None:
            return reason
        for swap in swaps:
            reason = wrapped_obstacle(target, swap) or swap.obstacle()
            if reason is not None:
                return reason
        _swapped[target] = swaps
    return None
