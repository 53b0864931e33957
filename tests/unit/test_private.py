"""What is private in AnyIO, asyncio and Trio: pinned here, and done without where it is missing.

The first half fails when an upgrade changes what ``_private.py`` looks at.  The second shows that
files work all the same.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import select
import selectors
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
import trio
from anyio._backends import _asyncio as backend
from trio._core import _run as trio_run

import anyio_uring
from anyio_uring import _handle, _private, _probe, statistics

needs_ring = pytest.mark.skipif(not _probe.probe().available, reason="needs io_uring")


# -- pinned: asyncio and AnyIO --------------------------------------------------------------------


def test_asyncio_view_is_there_and_shows_the_current_task() -> None:
    async def main() -> None:
        view = _private.asyncio_view()
        assert view is not None
        loop = asyncio.get_running_loop()
        current = view.current_task
        task = current[loop] if isinstance(current, dict) else current(loop)
        assert task is asyncio.current_task()

    anyio.run(main, backend="asyncio")


def test_asyncio_view_leads_to_the_scopes_of_a_task() -> None:
    async def main() -> None:
        view = _private.asyncio_view()
        assert view is not None
        task = asyncio.current_task()
        assert task is not None
        outer, inner = anyio.CancelScope(), anyio.CancelScope(shield=True)
        with outer, inner:
            scope = view.task_states[weakref.ref(task)].cancel_scope
            assert (scope._shield, scope._cancel_called) == (True, False)
            assert (scope._parent_scope._shield, scope._parent_scope._cancel_called) == (
                False,
                False,
            )
            outer.cancel()
            assert scope._parent_scope._cancel_called
            assert not scope._cancel_called
            inner.cancel()
            assert scope._cancel_called

    anyio.run(main, backend="asyncio")


def test_asyncio_view_outside_of_a_run_is_none() -> None:
    assert _private.asyncio_view() is None


def test_what_a_loop_of_asyncio_has_to_do_can_be_seen() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        events = _private.asyncio_events(loop)
        assert events is not None
        reader, writer = os.pipe()
        with open(reader, "rb"), open(writer, "wb", 0) as end:
            loop.add_reader(reader, int)
            assert select.select([events], [], [], 0)[0] == []
            end.write(b"x")
            assert select.select([events], [], [], 0)[0] == [events]
            loop.remove_reader(reader)
        timer = loop.call_later(100, int)
        assert timer in loop._scheduled
        assert timer.when() > loop.time()
        timer.cancel()
        handle = loop.call_soon(int)
        assert handle in loop._ready

    anyio.run(main, backend="asyncio")


@pytest.mark.parametrize(
    "missing", ["_ready", "_scheduled", "_stopping", "_selector", "_selector.fileno"]
)
def test_loop_of_another_shape_is_not_looked_at(missing: str) -> None:
    class Loop:
        _ready: ClassVar[deque[Any]] = deque()
        _scheduled: ClassVar[list[Any]] = []
        _stopping = False
        _selector = selectors.DefaultSelector()

    with Loop._selector:
        assert _private.asyncio_events(Loop()) == Loop._selector.fileno()
        if "." in missing:
            Loop._selector = None  # type: ignore[assignment]
        else:
            delattr(Loop, missing)
        assert _private.asyncio_events(Loop()) is None


def test_message_of_a_scope_begins_as_expected() -> None:
    messages: list[Any] = []

    class Recorder(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            messages.append(msg)
            return super().cancel(msg)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            loop = asyncio.get_running_loop()
            loop.call_soon(scope.cancel)
            await Recorder()
        task = asyncio.create_task(native())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def native() -> None:
        await Recorder()

    anyio.run(main, backend="asyncio")
    assert messages[0].startswith(_private.SCOPE_MESSAGE)
    assert not any(str(message).startswith(_private.SCOPE_MESSAGE) for message in messages[-1:])


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_backend_of_anyio_is_what_its_runs_use(library: str) -> None:
    async def current() -> object:
        return anyio.lowlevel.current_token().backend_class

    assert _private.anyio_backend(library) is anyio.run(current, backend=library)


def test_backend_of_an_event_loop_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    monkeypatch.delitem(sys.modules, "anyio._backends._trio", raising=False)
    with pytest.raises(ModuleNotFoundError, match="trio"):
        _private.anyio_backend("trio")


def test_backend_that_is_offered_is_found_by_anyio() -> None:
    made: list[Any] = []

    class Backend(backend.AsyncIOBackend):
        @classmethod
        def run(cls, func: Any, args: Any, kwargs: Any, options: Any) -> Any:
            return func, args, kwargs, options

    def make() -> Any:
        made.append(Backend)
        return Backend

    _private.offer_backend("offered", make)
    try:
        assert made == []
        for _ in range(2):
            found: Any = anyio.run(
                anyio.sleep, 0, backend="offered", backend_options={"debug": True}
            )
            assert found == (anyio.sleep, (0,), {}, {"debug": True})
        assert made == [Backend]
        with pytest.raises(AttributeError, match=r"_offered' has no attribute 'other'$"):
            sys.modules["anyio._backends._offered"].other  # noqa: B018
    finally:
        from anyio._core import _eventloop

        _eventloop.loaded_backends.pop("offered", None)
        del sys.modules["anyio._backends._offered"]


# -- pinned: Trio ---------------------------------------------------------------------------------


def test_trio_variables_are_those_of_the_running_task() -> None:
    async def main() -> None:
        variables = _private.trio_locals()
        assert variables is not None
        task = trio.lowlevel.current_task()
        assert variables["task"] is task
        assert variables["runner"] is task._runner is _private.trio_runner()  # type: ignore[attr-defined]
        scope, shield = trio.CancelScope(), trio.CancelScope(shield=True)
        with scope:
            assert not task._cancel_status.effectively_cancelled
            scope.cancel()
            assert task._cancel_status.effectively_cancelled
            with shield:
                assert not task._cancel_status.effectively_cancelled

    trio.run(main)


def test_what_trio_has_to_do_can_be_seen() -> None:
    async def main() -> None:
        runner = _private.trio_runner()
        assert runner is not None
        events = _private.trio_events(runner)
        assert events is not None
        assert events >= 0
        assert _private.trio_events(None) is None
        with trio.move_on_at(1e9):
            assert runner.deadlines.next_deadline() == 1e9
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(100):
            assert 99 < runner.deadlines.next_deadline() - runner.clock.current_time() <= 100
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            assert runner.runq

    trio.run(main)


def test_trio_variables_are_those_of_one_thread() -> None:
    found: list[Any] = []

    async def main() -> None:
        thread = threading.Thread(target=lambda: found.append(_private.trio_locals()))
        thread.start()
        thread.join()
        assert found[0] is not _private.trio_locals()
        assert found[0].get("runner") is None

    trio.run(main)


def test_trio_variables_exist_only_once_trio_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trio")
    assert _private.trio_locals() is None
    assert _private.trio_runner() is None


@pytest.mark.skipif(sys.platform != "linux", reason="epoll")
def test_trio_wakes_for_a_foreign_descriptor_in_its_epoll_set() -> None:
    async def main() -> None:
        eventfd = os.eventfd(0)
        assert _private.trio_watch(eventfd)
        thread = threading.Thread(target=os.eventfd_write, args=(eventfd, 1))
        woken = trio.Event()

        class Turns(trio.abc.Instrument):
            def after_io_wait(self, timeout: float) -> None:
                if select.select([eventfd], [], [], 0)[0]:
                    os.eventfd_read(eventfd)
                    woken.set()

        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        try:
            with trio.fail_after(10):
                thread.start()
                await woken.wait()
        finally:
            trio.lowlevel.remove_instrument(turns)
            _private.trio_unwatch(eventfd)
            os.close(eventfd)
            thread.join()

    trio.run(main)


def test_nothing_is_watched_outside_of_a_trio_run() -> None:
    reader, writer = os.pipe()
    try:
        assert not _private.trio_watch(reader)
        _private.trio_unwatch(reader)  # nothing happens
    finally:
        os.close(reader)
        os.close(writer)


def test_path_of_trio_works_on_the_class_that_it_names() -> None:
    made: list[Any] = []

    class Recording(type(pathlib.Path())):  # type: ignore[misc]
        def __new__(cls, *args: Any) -> Any:
            made.append(args)
            return super().__new__(cls, *args)

    @_private.trio_path_over(Recording)
    class Path(trio.Path, type(pathlib.PurePath())):  # type: ignore[misc]
        pass

    path = Path("name")
    assert not trio.run(path.is_mount)
    assert made[0] == (path,)
    concrete: Any = type(trio.Path())
    assert concrete._wrapped_cls is type(pathlib.Path())


# -- missing: the public way ----------------------------------------------------------------------


async def use_files(directory: Path) -> anyio_uring.Statistics:
    """Whatever passes the checks that look at private parts: cached, at the ring, cancelled."""
    path = directory / "file"
    path.write_bytes(b"0123456789")
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        assert await file.read(3) == b"012"
        assert await file.write(b"xy") == 2
        assert await file.pread(20, 0) == b"012xy56789"
        for call in (file.read, file.tell, file.flush):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                assert await file.read(1) == b"5"
        assert await file.tell() == 6
    reader, writer = os.pipe()
    async with await anyio_uring.open_file(reader, "rb", 0) as stream:
        with anyio.move_on_after(0.01) as scope:
            await stream.read(1)
        assert scope.cancelled_caught
        os.write(writer, b"z")
        assert await stream.read(1) == b"z"
        os.close(writer)
        assert await stream.read() == b""
    return statistics()


async def finish_late(directory: Path) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):  # Trio ends generators in a cancelled scope
            async with await anyio_uring.open_file(directory / "late", "wb", 0) as file:
                await file.write(b"late")
                await file.fsync()


def while_looking(
    monkeypatch: pytest.MonkeyPatch, function: str, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Have something changed while a function of `_private` looks, and only then."""
    original = getattr(_private, function)

    def look(*args: Any) -> Any:
        with monkeypatch.context() as patch:
            change(patch)
            return original(*args)

    monkeypatch.setattr(_private, function, look)


def other_states(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(backend, "_task_states", type("States", (), {"data": None}))


def no_states(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(backend, "_task_states")


def other_scopes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(backend, "CancelScope", object)


def no_task_table(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(asyncio.tasks, "_current_tasks", raising=False)


@pytest.mark.parametrize("change", [other_states, no_states, other_scopes, no_task_table])
def test_files_work_on_asyncio_without_the_private_parts(
    change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_looking(monkeypatch, "asyncio_view", change)
    seen: list[Any] = []

    async def main() -> anyio_uring.Statistics:
        seen.append(_private.asyncio_view())
        return await use_files(tmp_path)

    counts = anyio.run(main, backend="asyncio")
    assert (seen[0] is None) == (change is not no_task_table)
    if _handle.COMPILED:
        assert counts.now > 0  # slower, but still served from memory


def test_scope_that_cancels_in_other_words_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyio_uring import _host_asyncio

    monkeypatch.setattr(_host_asyncio, "SCOPE_MESSAGE", "no scope says this ")
    anyio.run(use_files, tmp_path, backend="asyncio")


def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(patch: pytest.MonkeyPatch) -> None:
        patch.delattr(trio_run, "GLOBAL_RUN_CONTEXT")

    while_looking(monkeypatch, "trio_locals", hide)


def other_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(patch: pytest.MonkeyPatch) -> None:
        patch.delattr(trio_run.Runner, "__attrs_attrs__")

    while_looking(monkeypatch, "trio_locals", hide)


def no_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(_private, "trio_runner", lambda: None)

    while_looking(monkeypatch, "trio_watch", hide)
    while_looking(monkeypatch, "trio_unwatch", hide)


@pytest.mark.parametrize("change", [no_variables, other_runner, no_epoll])
def test_files_work_on_trio_without_the_private_parts(
    change: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    seen: list[Any] = []

    async def main() -> anyio_uring.Statistics:
        seen.append(_private.trio_locals())
        return await use_files(tmp_path)

    counts = anyio.run(main, backend="trio")
    assert (seen[0] is None) == (change is not no_epoll)
    if _probe.probe().available:
        assert (counts.ring > 0, counts.thread) == (True, 0)
    if _handle.COMPILED:
        assert counts.now > 0


@needs_ring
@pytest.mark.parametrize("change", [None, no_variables, no_epoll])
def test_async_generator_left_to_the_end_of_a_trio_run_can_use_files(
    change: Callable[[pytest.MonkeyPatch], None] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if change is not None:
        change(monkeypatch)
    generators = []

    async def main() -> None:
        async with await anyio_uring.open_file(tmp_path / "early", "wb", 0) as file:
            await file.write(b"early")
        generators.append(finish_late(tmp_path))
        await anext(generators[0])

    trio.run(main)
    assert (tmp_path / "late").read_bytes() == b"late"


def test_nothing_private_is_used_anywhere_else() -> None:
    """Only ``_private.py`` names private modules of AnyIO and Trio."""
    for path in Path(anyio_uring.__file__).parent.glob("*.py"):
        if path.name != "_private.py":
            text = path.read_text()
            for name in (
                "anyio._",
                "trio._",
                "_task_states",
                "GLOBAL_RUN_CONTEXT",
                "_cancel_called",
                "_wrapped_cls",
            ):
                assert name not in text, f"{path.name} uses {name}"


def test_scopes_of_another_class_are_seen_as_they_are() -> None:
    """Of AnyIO's own class the gate knows where the slots are; here they are elsewhere."""

    class Scope(backend.CancelScope):
        __slots__ = ("_shield",)

    async def main() -> None:
        async with await anyio_uring.open_file(__file__, "rb", 0) as file:
            with anyio.CancelScope():
                assert await file.pread(1, 0) == b'"'  # now it knows
                with anyio.CancelScope() as outer, Scope(shield=True) as inner:
                    outer.cancel()
                    assert await file.pread(1, 0) == b'"'
                    inner.shield = False
                    vars(backend.CancelScope)["_shield"].__set__(inner, True)  # who would look?
                    await file.pread(1, 0)
                    pytest.fail("not cancelled")
                assert outer.cancelled_caught

    anyio.run(main, backend="asyncio")
