"""``async with`` a file: entering and leaving make no coroutine where nothing is waited for, and
nobody can tell.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from tests.conftest import Tiers

import anyio_uring
from anyio_uring import _text
from anyio_uring._buffered import BufferedFile
from anyio_uring._file_steps import FileSteps
from anyio_uring._handle import COMPILED, Handle
from anyio_uring._line import Line
from anyio_uring._raw import RawFile
from anyio_uring._runtime import current_runtime

pytestmark = pytest.mark.anyio
KINDS: dict[str, tuple[Any, ...]] = {
    "raw": ("rb", 0),
    "buffered": ("rb",),
    "text": ("r",),
    "raw-w": ("r+b", 0),
    "buffered-w": ("r+b",),
    "text-w": ("r+",),
}


@pytest.fixture(params=KINDS)
def args(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, ...]:
    (tmp_path / "f").write_bytes(b"some data")
    return (tmp_path / "f", *KINDS[request.param])


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_it_gives_the_file_and_closes_it(tiers: Tiers, args: tuple[Any, ...]) -> None:
    file = await anyio_uring.open_file(*args)
    async with file as entered:
        assert entered is file
        fd = file._handle.fd
        assert is_open(fd)
    assert file.closed
    assert not is_open(fd)


async def test_it_has_no_effect_before_it_is_awaited(tiers: Tiers, args: tuple[Any, ...]) -> None:
    file = await anyio_uring.open_file(*args)
    entering = file.__aenter__()
    await file.aclose()
    with pytest.raises(ValueError, match=r"^I/O operation on closed file\.$"):
        await entering
    file = await anyio_uring.open_file(*args)
    leaving = file.__aexit__(None, None, None)
    assert not file.closed
    leaving.close()
    assert not file.closed
    await file.aclose()


async def test_a_closed_file_is_not_entered(tiers: Tiers, args: tuple[Any, ...]) -> None:
    file = await anyio_uring.open_file(*args)
    await file.aclose()
    with pytest.raises(ValueError, match=r"^I/O operation on closed file\.$"):
        async with file:
            pytest.fail("entered")


@pytest.mark.parametrize("mode", ["rb", "r", "r+b", "r+"])
async def test_a_detached_file_is_not_entered(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    (tmp_path / "f").write_bytes(b"some data")
    file: Any = await anyio_uring.open_file(tmp_path / "f", mode)
    below = file.detach()
    try:
        with pytest.raises(ValueError, match="detached"):
            async with file:
                pytest.fail("entered")
    finally:
        await below.aclose()


async def test_it_can_be_left_twice(tiers: Tiers, args: tuple[Any, ...]) -> None:
    async with await anyio_uring.open_file(*args) as file:
        await file.aclose()
    assert await file.__aexit__(None, None, None) is None  # type: ignore[func-returns-value]


async def test_exceptions_go_through(tiers: Tiers, args: tuple[Any, ...]) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with await anyio_uring.open_file(*args) as file:
            raise LookupError("mine")
    assert file.closed


async def test_it_is_closed_in_a_cancelled_scope(tiers: Tiers, args: tuple[Any, ...]) -> None:
    with anyio.CancelScope() as scope:
        async with await anyio_uring.open_file(*args) as file:
            fd = file._handle.fd
            scope.cancel()
    assert file.closed
    assert not is_open(fd)


async def test_a_stack_enters_and_leaves_it(tiers: Tiers, args: tuple[Any, ...]) -> None:
    async with AsyncExitStack() as stack:
        file = await stack.enter_async_context(await anyio_uring.open_file(*args))
        assert await file.read() in (b"some data", "some data")
    assert file.closed


async def test_the_synchronous_twin_is_closed_with_it(tiers: Tiers, args: tuple[Any, ...]) -> None:
    async with await anyio_uring.open_file(*args) as file:
        twin = file.wrapped
    assert twin.closed


def closing(kind: type[Any]) -> type[Any]:
    class Closing(kind):  # type: ignore[misc]
        __slots__ = ()

        async def aclose(self) -> None:
            closed.append(self)
            await super().aclose()

    return Closing


closed: list[Any] = []


@pytest.mark.parametrize("kind", [RawFile, BufferedFile, _text.TextFile])
async def test_who_closes_otherwise_is_asked(tiers: Tiers, tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"data")
    buffering = 0 if kind is RawFile else -1
    opened: Any = await anyio_uring.open_file(path, "rb", buffering)
    if kind is _text.TextFile:
        file = _open_text(closing(kind), opened)
    else:
        file = closing(kind)(opened._handle, path, "rb", None, opened._buffer)
    closed.clear()
    async with file:
        pass
    assert closed == [file]
    assert file.closed


def _open_text(kind: type[Any], binary: Any) -> Any:
    from anyio_uring._coding import Coding

    return kind(binary, "r", Coding("utf-8", None, None, False))


async def test_a_close_of_the_object_s_own_is_called(tiers: Tiers, args: tuple[Any, ...]) -> None:
    file: Any = await anyio_uring.open_file(*args)
    close, calls = file.aclose, []

    async def spy() -> None:
        calls.append(file.closed)
        await close()

    file.aclose = spy
    async with file:
        pass
    assert calls == [False]
    assert file.closed


class Awaited:
    """Can be awaited, and is no coroutine."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __await__(self) -> Any:
        return self.what.__await__()


async def test_a_close_that_is_no_coroutine_is_awaited(tiers: Tiers, args: tuple[Any, ...]) -> None:
    file: Any = await anyio_uring.open_file(*args)
    close = file.aclose
    file.aclose = lambda: Awaited(close())
    async with file:
        pass
    assert file.closed


@pytest.mark.parametrize("kind", [RawFile, BufferedFile])
async def test_a_file_that_was_not_initialised_is_closed(tiers: Tiers, kind: Any) -> None:
    file = kind.__new__(kind)
    for name in ("read", "readline", "tell", "flush", "__aenter__"):
        with pytest.raises(ValueError, match=r"closed|detached"):
            await getattr(file, name)()


async def test_a_buffered_file_without_a_buffer_is_no_crash(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    opened: Any = await anyio_uring.open_file(tmp_path / "f", "r+b")
    file: Any = BufferedFile(opened._handle, "f", "rb+")
    for name, args in {"read": (3,), "readline": (), "seek": (1,), "write": (b"x",)}.items():
        with pytest.raises(AttributeError, match="NoneType"):
            await getattr(file, name)(*args)
    await opened.aclose()


@pytest.mark.hosts("trio")
async def test_trio_sees_through_it(tiers: Tiers, tmp_path: Path) -> None:
    """What a task waits for can be followed into a close that waits."""
    file: Any = await anyio_uring.open_file(tmp_path / "f", "wb")
    await file.write(b"data")
    turn = await file._take_turn(current_runtime())

    async def leave() -> None:
        async with file:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        names = [frame.f_code.co_name for frame, _ in task.iter_await_frames()]
        turn.leave()
    assert names[:2] == ["leave", "aclose"]
    assert file.closed


async def test_files_with_a_name_lose_it(tiers: Tiers, tmp_path: Path) -> None:
    async with anyio_uring.NamedTemporaryFile(dir=str(tmp_path)) as file:
        assert os.listdir(tmp_path)
        async with file:  # as in `tempfile`: it is closed with this
            pass
        assert file.closed
        assert os.listdir(tmp_path) == []


# -- the line for the position, made when something has to wait ----------------------------------


@pytest.mark.tiers("auto")
@pytest.mark.skipif(not COMPILED, reason="what needs no waiting is compiled")
async def test_a_file_that_nobody_waits_for_has_no_line(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"data")
    async with await anyio_uring.open_file(tmp_path / "f", "rb"):
        pass  # the loop is known from now on
    async with await anyio_uring.open_file(tmp_path / "f", "rb") as file:
        assert await file.read() == b"data"
        with monkeypatch.context() as patch:
            patch.delattr(FileSteps, "_new_line")
            with pytest.raises(AttributeError, match="_new_line"):
                file._line  # noqa: B018 (it is not there)
        assert file._line is file._line


class Overtaken(RawFile):
    """Another thread makes a line while this one does."""

    __slots__ = ("other",)

    def _new_line(self) -> Line:
        if not hasattr(self, "other"):
            self.other: Line | None = None
            self.other = self._line
        return super()._new_line()


def test_who_is_overtaken_stands_in_the_other_one_s_line() -> None:
    file = Overtaken(Handle(-1, 0), "f", "rb")
    line = file._line
    assert line is file.other
    assert file._line is line


async def test_text_and_its_buffer_stand_in_one_line(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    async with await anyio_uring.open_file(tmp_path / "f") as file:
        buffer: Any = file.buffer  # type: ignore[attr-defined]
        assert buffer._line is file._line
