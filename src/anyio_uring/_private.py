"""Every use of a private part of AnyIO, asyncio or Trio, in one place.

Each function says what it needs, and what happens when that is gone: None makes the caller take
the public way.  ``tests/unit/test_private.py`` pins each one, so that an upgrade which changes
something shows up as a failing test rather than as a slower program.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from types import ModuleType
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
    eager: Any  # tasks that take their first step within another's; None: nobody can tell


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
    # (of 3.12 on; as long as one is in its first step)
    eager = vars(asyncio.tasks).get("_eager_tasks", () if sys.version_info < (3, 12) else None)
    return AsyncioView(current, states, eager)


# What AnyIO says in Task.cancel(msg) when a cancel scope, not a person, cancels a task.
SCOPE_MESSAGE = "Cancelled via cancel scope "


def asyncio_events(loop: Any) -> int | None:
    """A descriptor that is readable when a loop of asyncio's own has others to serve: that of its
    ``_selector``.  With ``_ready``, ``_scheduled`` and ``_stopping`` (callbacks, a heap of timers,
    whether it was told to stop) the meter sees all that the loop has to do.  None: another loop.
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


def offer_backend(name: str, make: Callable[[], Any]) -> None:
    """Have AnyIO find a backend by its name: `backend_class` of ``anyio._backends._NAME``, which it
    imports.  That is made when it is first asked for.  If AnyIO looks elsewhere one day, it says
    that there is no such backend.
    """
    module: Any = ModuleType(f"anyio._backends._{name}")

    def get(attribute: str) -> Any:
        if attribute != "backend_class":
            raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r}")
        module.backend_class = make()
        return module.backend_class

    module.__getattr__ = get
    sys.modules[module.__name__] = module


def anyio_backend(library: str) -> Any:
    """AnyIO's own class for an event loop, and of that ``run(func, args, kwargs, options)`` and
    ``create_test_runner(options)``.

    :raises ImportError: the event loop is not installed
    :raises RuntimeError: the class is not as expected
    """
    import inspect
    from importlib import import_module

    from anyio.abc import AsyncBackend

    try:
        found = import_module(f"anyio._backends._{library}").backend_class
        if not issubclass(found, AsyncBackend):
            raise TypeError(f"{found} is no backend")
        for method, names in (
            (found.run, ["func", "args", "kwargs", "options"]),
            (found.create_test_runner, ["options"]),
        ):
            if list(inspect.signature(method).parameters) != names:
                raise TypeError(f"{method.__qualname__} has other parameters than {names}")
    except (ImportError, AttributeError, TypeError) as error:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] != "anyio":
            raise
        from importlib.metadata import version

        raise RuntimeError(
            f"AnyIO {version('anyio')} is not known to anyio_uring: its backend for {library} "
            f"is not as expected ({error})"
        ) from error
    return found


class UvloopEvents(NamedTuple):
    """What the meter looks at to see what uvloop has to do next."""

    descriptor: int  # readable when it has descriptors to serve
    ready: deque[Any]  # callbacks
    timers: set[Any]  # not in order


def uvloop_events(loop: Any) -> UvloopEvents | None:
    """Two attributes of uvloop's compiled class that have no name in Python, found among what the
    collector visits by a callback and a timer, and ``_get_backend_id()``.  None: another loop.

    Not seen: a descriptor that libuv has been told to watch since its last turn.
    """
    get_descriptor = getattr(loop, "_get_backend_id", None)
    if get_descriptor is None:
        return None
    callback, timer = loop.call_soon(int), loop.call_later(1000, int)
    visited = gc.get_referents(loop)
    ready = [found for found in visited if type(found) is deque and callback in found]
    timers = [found for found in visited if type(found) is set and timer in found]
    callback.cancel()
    timer.cancel()
    fd = get_descriptor()
    if len(ready) != 1 or len(timers) != 1 or not isinstance(fd, int) or fd < 0:
        return None
    return UvloopEvents(fd, ready[0], timers[0])


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


def trio_events(runner: Any) -> int | None:
    """A descriptor that is readable when the run has others to serve: that of Trio's epoll set.

    With ``runq``, ``deadlines.next_deadline()``, ``clock.current_time()`` and the ``_next_send_fn``
    of each of ``tasks`` (not None: it is ready) the meter sees all that Trio has to do.  -1: all
    but the descriptors (the guest of another loop, or no epoll).  None: nothing.
    """
    if not (
        isinstance(getattr(runner, "runq", None), deque)
        and hasattr(getattr(runner, "deadlines", None), "next_deadline")
        and hasattr(getattr(runner, "clock", None), "current_time")
    ):
        return None
    task = getattr(runner, "init_task", None)
    if not isinstance(getattr(runner, "tasks", None), set) or not hasattr(task, "_next_send_fn"):
        return -1
    if getattr(runner, "is_guest", True):
        return -1
    try:
        fd = runner.io_manager._epoll.fileno()
    except (AttributeError, ValueError):
        return -1
    return fd if isinstance(fd, int) else -1


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


def trio_request() -> Callable[[Any], Any] | None:
    """What a task of Trio yields to sleep until it is rescheduled, made of its abort function; what
    it is sent then is an outcome.  None: there is only `trio.lowlevel.wait_task_rescheduled`.
    """
    try:
        from trio._core._traps import WaitTaskRescheduled
    except ImportError:
        return None
    fields = [field.name for field in getattr(WaitTaskRescheduled, "__attrs_attrs__", ())]
    return WaitTaskRescheduled if fields == ["abort_func"] else None


def trio_path_over(of_pathlib: type[pathlib.Path]) -> Callable[[T], T]:
    """Tell a subclass of `trio.Path` which class does its work in a thread: ``_wrapped_cls``.

    Trio's concrete classes have it, and cannot be subclassed.  If the name is gone, the methods
    that are still Trio's do not find theirs; ours do without.
    """

    def complete(kind: T) -> T:
        kind._wrapped_cls = of_pathlib  # type: ignore[attr-defined]
        return kind

    return complete
