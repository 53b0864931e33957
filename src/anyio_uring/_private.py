"""Every use of a private part of AnyIO, asyncio or Trio, in one place.

Each function says what it needs, and what happens when that is gone: None makes the caller take
the public way.  ``tests/unit/test_private.py`` pins each one, so that an upgrade which changes
something shows up as a failing test rather than as a slower program.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

    # The class of Trio's files; `anyio_uring.trio` gets it from a public function
    from trio._file_io import AsyncIOWrapper as AsyncIOWrapper  # noqa: PLC0414  # mypy: exported

T = TypeVar("T")


class AsyncioView(NamedTuple):
    """What the meter looks at to see the current asyncio task and its AnyIO cancel scopes."""

    current_task: Any  # dict or callable: loop -> task
    task_states: dict[Any, Any]


def asyncio_view() -> AsyncioView | None:
    """AnyIO's task states and scope chain: ``_task_states``, ``CancelScope._cancel_called``,
    ``_shield``, ``_parent_scope``.  None: ask `anyio.lowlevel.checkpoint_if_cancelled` instead.
    """
    try:
        import asyncio.tasks

        from anyio._backends import _asyncio

        backend: Any = _asyncio
        states = backend._task_states.data
        scope = backend.CancelScope()
        if not isinstance(states, dict) or scope._cancel_called or scope._shield:
            return None
        if scope._parent_scope is not None or "cancel_scope" not in backend.TaskState.__slots__:
            return None
        current: Any = asyncio.tasks.current_task
        # Up to 3.13 the table it looks in is shared with C; 3.14 has none.
        table = vars(asyncio.tasks).get("_current_tasks")
        loop = asyncio.get_running_loop()
        if isinstance(table, dict) and table.get(loop) is current(loop) is not None:
            current = table
    except (ImportError, AttributeError, RuntimeError):
        return None
    return AsyncioView(current, states)


# What AnyIO says in Task.cancel(msg) when a cancel scope, not a person, cancels a task.
SCOPE_MESSAGE = "Cancelled via cancel scope "


def asyncio_events(loop: Any) -> int | None:
    """A descriptor that is readable when a loop of asyncio's own has others to serve: that of its
    ``_selector``.  With ``_ready``, ``_scheduled`` and ``_stopping`` (callbacks, a heap of timers,
    whether it was told to stop) the meter sees all that the loop has to do.  None (uvloop has none
    of them): it takes a turn to find out.
    """
    if not isinstance(getattr(loop, "_ready", None), deque):
        return None
    if not isinstance(getattr(loop, "_scheduled", None), list) or not hasattr(loop, "_stopping"):
        return None
    try:
        fd = loop._selector.fileno()
    except (AttributeError, ValueError):
        return None
    return fd if isinstance(fd, int) else None


def trio_locals() -> dict[str, Any] | None:
    """Trio's variables of the current thread, `runner` and `task`, if Trio is imported at all.

    With ``task._cancel_status.effectively_cancelled``, ``runner.ki_pending``.  None: ask
    `trio.lowlevel.checkpoint_if_cancelled` instead.
    """
    if "trio" not in sys.modules:
        return None
    try:
        from trio._core._run import GLOBAL_RUN_CONTEXT, CancelStatus, Runner, Task
    except ImportError:
        return None
    fields = {field.name for field in getattr(Runner, "__attrs_attrs__", ())}
    if (
        not hasattr(Task, "_activate_cancel_status")
        or not hasattr(CancelStatus, "effectively_cancelled")
        or not {"io_manager", "ki_pending"} <= fields
    ):
        return None
    variables = vars(GLOBAL_RUN_CONTEXT)  # of a threading.local: this thread's own dictionary
    return variables if variables is vars(GLOBAL_RUN_CONTEXT) else None


def trio_runner() -> Any | None:
    """The runner of the current Trio run: its identity, `io_manager` and `ki_pending` are used."""
    variables = trio_locals()
    return None if variables is None else variables.get("runner")


def trio_foreseen(runner: Any) -> bool:
    """Whether the meter sees what Trio has to do next: ``runq``, ``deadlines.next_deadline()``,
    ``clock.current_time()``; though not the tasks of the round that runs, nor descriptors.
    """
    return (
        isinstance(getattr(runner, "runq", None), deque)
        and hasattr(getattr(runner, "deadlines", None), "next_deadline")
        and hasattr(getattr(runner, "clock", None), "current_time")
    )


def trio_watch(fd: int) -> bool:
    """Put `fd` into Trio's own epoll set, level-triggered: the run wakes while it is readable.

    Trio's event processing tolerates a descriptor it does not know (`EpollIOManager`), and our
    instrument does the rest.  False: use `trio.lowlevel.wait_readable` in a task.
    """
    import select

    manager = getattr(trio_runner(), "io_manager", None)
    epoll = getattr(manager, "_epoll", None)
    if not isinstance(epoll, select.epoll) or not hasattr(manager, "_registered"):
        return False
    epoll.register(fd, select.EPOLLIN)
    return True


def trio_unwatch(fd: int) -> None:
    """Take `fd` out again, when a ring is replaced within a run."""
    epoll = getattr(getattr(trio_runner(), "io_manager", None), "_epoll", None)
    if epoll is not None and not epoll.closed:
        epoll.unregister(fd)


def trio_path_over(of_pathlib: type[pathlib.Path]) -> Callable[[T], T]:
    """Tell a subclass of `trio.Path` which class does its work in a thread: ``_wrapped_cls``.

    Trio's concrete classes have it, and cannot be subclassed.  If the name is gone, the methods
    that are still Trio's do not find theirs; ours do without.
    """

    def complete(kind: T) -> T:
        kind._wrapped_cls = of_pathlib  # type: ignore[attr-defined]
        return kind

    return complete
