"""`to_thread.run_sync` of functions that need no thread: the same for who calls, and no thread."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CancelScope, CapacityLimiter, fail_after, to_thread
from anyio.to_thread import run_sync as imported_early
from tests.conftest import Tiers

from anyio_uring import InstallError, _served_files, _targets, install, statistics
from anyio_uring._handle import COMPILED
from anyio_uring._runtime import current_runtime
from anyio_uring._served import quickly, serving
from anyio_uring._swap import copy_of

partial = functools.partial
PATIENCE_SECONDS = 30
ORIGINAL: Any = copy_of(to_thread.run_sync)
pytestmark = [pytest.mark.anyio]


class Spied:
    """`run_sync` as it is when installed, and which functions it has given to AnyIO's thread."""

    def __init__(self) -> None:
        self.hopped: list[Any] = []
        self._serving = serving(self._original)
        self.run_sync: Any = self._run_sync

    async def _run_sync(self, *args: Any, **options: Any) -> Any:
        found = quickly(*args, **options)
        return await self._serving(*args, **options) if found is None else found

    async def _original(self, func: Any, *args: Any, **options: Any) -> Any:
        self.hopped.append(func)
        return await ORIGINAL(func, *args, **options)


@pytest.fixture
def spied() -> Spied:
    return Spied()


AUDITED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir")
# What is asked for here; others are of modules that are imported, and of asyncio's debug mode
ABSOLUTE = ("/dev/null", "/proc/self/comm")
events: list[tuple[str, tuple[Any, ...]]] | None = None


def listen(event: str, args: tuple[Any, ...]) -> None:
    if events is None or event not in AUDITED:
        return
    path = str(args[0])
    if path in ABSOLUTE or not path.startswith("/"):
        events.append((event, args))


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(listen)


async def outcome(run_sync: Any, function: Any, *args: Any, **options: Any) -> Any:
    """What comes of a call, and what audit hooks are told of it."""
    global events
    events = []
    try:
        found = await run_sync(function, *args, **options)
    except OSError as error:
        found = (type(error), error.errno, str(error), error.filename, error.filename2)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the same
        found = (type(error), str(error))
    finally:
        told, events = events, None
    if isinstance(found, io.IOBase):
        found = described(found)
    return type(found), found, told


def described(file: Any) -> list[Any]:
    with file:
        try:
            content = file.read()
        except (io.UnsupportedOperation, UnicodeError) as error:
            content = type(error)
        inner = [file, getattr(file, "buffer", file)]
        inner.append(getattr(inner[1], "raw", inner[1]))
        return [
            *[(type(each), each.name, getattr(each, "mode", None)) for each in inner],
            *(getattr(file, name, None) for name in ("encoding", "errors", "line_buffering")),
            (inner[1].__sizeof__(), inner[2].closefd, os.get_inheritable(file.fileno())),
            content,
        ]


# -- what is answered before anything else is looked at -------------------------------------------


async def test_error_that_is_at_hand_has_no_other_behind_it(tiers: Tiers, tmp_path: Path) -> None:
    async def caught(function: Any, *args: Any) -> OSError:
        with pytest.raises(FileNotFoundError) as found:
            await to_thread.run_sync(function, *args)
        return found.value

    missing = tmp_path / "missing"
    calls: list[tuple[Any, ...]] = [(os.stat, missing), (missing.stat,), (os.stat, str(missing))]
    with install(to_thread=True, strict=True):
        for call in calls:
            for _ in range(3):  # the kernel remembers it from the second time on
                error = await caught(*call)
                assert str(error.filename) == str(missing)
                assert (error.__context__, error.__cause__) == (None, None)


async def test_lookup_of_another_class_of_that_name_stays_in_threads(
    tiers: Tiers, tmp_path: Path
) -> None:
    staticfiles = pytest.importorskip("starlette.staticfiles")
    ident = threading.get_ident()
    threads = []

    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            threads.append(threading.get_ident())
            return "here"

    namespace: dict[str, Any] = {"staticfiles": staticfiles, "str": Text.__str__}
    exec(
        "class StaticFiles(staticfiles.StaticFiles):\n"
        "    def lookup_path(self, path):\n"
        "        return str(path), None\n",
        namespace,
    )
    (tmp_path / "a").touch()
    with install(to_thread=True, strict=True):
        for kind in (staticfiles.StaticFiles, namespace["StaticFiles"]) * 3:
            found = await to_thread.run_sync(kind(directory=tmp_path).lookup_path, "a")
            assert found[0] == ("here" if kind is namespace["StaticFiles"] else str(tmp_path / "a"))
    assert len(threads) == 3
    assert ident not in threads


async def test_lookup_of_what_cannot_be_encoded_is_the_methods_own_affair(
    tiers: Tiers, tmp_path: Path
) -> None:
    staticfiles = pytest.importorskip("starlette.staticfiles")
    files = staticfiles.StaticFiles(directory=tmp_path)
    (tmp_path / "a").touch()
    with install(to_thread=True, strict=True):
        await to_thread.run_sync(files.lookup_path, "a")
        for _ in range(3):
            assert await to_thread.run_sync(files.lookup_path, "/\ud800") == ("", None)


async def test_lookup_borrowed_by_a_class_with_slots(tiers: Tiers, tmp_path: Path) -> None:
    staticfiles = pytest.importorskip("starlette.staticfiles")
    (tmp_path / "file").touch()

    class Borrower:
        __slots__ = ("all_directories", "follow_symlink")
        lookup_path = staticfiles.StaticFiles.lookup_path

    borrower: Any = Borrower()
    borrower.all_directories, borrower.follow_symlink = [str(tmp_path)], False
    with install(to_thread=True, strict=True):
        for _ in range(3):
            found = await to_thread.run_sync(borrower.lookup_path, "file")
            assert found[0] == os.path.realpath(tmp_path / "file")


# -- the same -------------------------------------------------------------------------------------

P = pathlib.Path
OTHER = pathlib.PurePosixPath


class Fancy(type(P())):  # type: ignore[misc]
    """A user's."""

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        return "fancy"


QUESTIONS: list[tuple[Any, ...]] = [
    *((function, name) for function in (os.stat, os.lstat) for name in (
        "file", "folder", "link", "loop", "dangling", "missing", "file/below", b"file", "", "a\0b",
        P("file"), P("missing"), OTHER("file"), anyio.Path("file"), "x" * 300, Fancy("file"),
    )),
    *((getattr(P(name), method),) for name in ("file", "folder", "link", "loop", "dangling", "fifo",
        "missing", "file/below", "a\0b", "x" * 300, "/dev/null", "\ud800") for method in (
        "stat", "lstat", "exists", "is_file", "is_dir", "is_symlink", "is_socket", "is_fifo",
        "is_block_device", "is_char_device")),
    *((getattr(P(name), method),) for name in ("file", "folder", "missing", "link", "a\0b")
      for method in ("read_bytes", "read_text")),
    (Fancy("file").stat,), (Fancy("file").lstat,),
    (P.stat, P("file")), (P.stat, "file"), (P.exists, Fancy("file")), (P.stat,),
    (partial(os.stat, "link", follow_symlinks=False),),
    (partial(os.stat, "link", follow_symlinks=True),),
    (partial(os.stat, "link", follow_symlinks=1),),
    (partial(P("link").stat, follow_symlinks=False),),
    (partial(os.stat, "file", dir_fd=None),), (partial(os.stat, "file", wrong=1),),
    (partial(os.stat), "file"), (os.stat,), (os.stat, "file", "file"), (os.stat, None),
    (os.stat, 0.5), (os.stat, ["file"]), (P("file").stat, 1), (P("file").is_file, 1, 2),
    (partial(P("text").read_text, "latin-1"),), (partial(P("text").read_text, encoding="utf-8"),),
    (P("text").read_text, "ascii"), (P("text").read_text, "ascii", "replace"),
    (P("text").read_text, "no such"), (P("text").read_text, 1), (P("text").read_text, "a", "b", 3),
    (partial(P("text").read_text, "ascii", encoding="ascii"),), (P("newlines").read_text, "utf-8"),
    (os.listdir, "folder"), (os.listdir, b"folder"), (os.listdir, P("folder")), (os.listdir,),
    (os.listdir, "missing"), (os.listdir, "file"), (os.listdir, "a\0b"), (os.listdir, None),
    *((open, name, *rest) for name in ("file", P("file"), b"file", "missing", "folder", "", "a\0b")
      for rest in ((), ("rb",), ("rb", 0), ("r", 1), ("r+b",), ("r", -1, "utf-8"))),
    *((P(name).open, *rest) for name in ("text", "missing", "folder") for rest in (("rb",), (
        "r", -1, "utf-8", "replace", "\n"))),
    (open, "text", "r", -1, "ascii", "replace", "\r"), (open, "text", "r", -1, "ascii"),
    (partial(open, "text", encoding="utf-8", errors="strict", newline=""),),
    (partial(open, "file", "rb", closefd=True),), (partial(open, file="file"),),
    (partial(open, "file", path="x"),), (partial(open, "file", mode="rb", buffering=16),),
    (open, "file", "rb", 1), (open, "file", "rb", 0.5), (open, "file", "q"), (open, "file", 1),
    (open, "file", "rb", -1, "utf-8"), (open, "file", "r", 0), (open, "file", "r", -1, "no such"),
    (open, "file", "r", -1, None, "no such"), (open, "file", "r", -1, None, None, "x"), (open,),
    (open, "/dev/null", "rb"), (open, "/proc/self/comm", "rb"),
]  # fmt: skip
CHANGES: list[tuple[Any, ...]] = [
    (os.rename, "file", "other"), (os.rename, P("file"), b"other"), (os.rename, "missing", "x"),
    (os.rename, "file", "folder"), (os.rename, "file", "a\0b"), (os.rename, "file"),
    (os.replace, "file", "text"), (os.replace, "missing", P("x")), (os.replace, 1, "x"),
    (partial(os.rename, "file", "other", src_dir_fd=None),), (partial(os.rename, "file"), "other"),
    *((function, name) for function in (os.unlink, os.remove, os.rmdir, os.mkdir) for name in (
        "file", "link", "empty", "folder", "missing", P("new"), b"new", "missing/new", "", "a\0b")),
    (os.mkdir, "new", 0o700), (os.mkdir, "new", -1), (os.mkdir, "new", "x"),
    (os.mkdir, "new", 0o777, 1), (partial(os.mkdir, "new", mode=0o700),),
    (P("file").rename, "other"), (P("file").rename, P("other")), (P("missing").rename, "other"),
    (P("file").rename, b"other"), (P("file").replace, "text"), (P("file").replace, 1),
    (P("file").unlink,), (P("missing").unlink,), (P("missing").unlink, True),
    (partial(P("missing").unlink, missing_ok=True),), (partial(P("file").unlink, missing_ok=0),),
    (P("folder").unlink, True), (P("file").unlink, 1, 2), (P("file").unlink, "yes"),
    (P("new").mkdir,), (P("new").mkdir, 0o700), (P("file").mkdir,), (P("new/below").mkdir,),
    (P("new/below").mkdir, 0o777, True), (partial(P("folder").mkdir, exist_ok=True),),
    (partial(P("new/below").mkdir, parents=True, exist_ok=True),), (P("empty").rmdir,),
    (P("folder").rmdir,), (P("missing").rmdir,), (P("new").write_bytes, b"data"),
    (P("new").write_text, "text", "utf-8"), (P("new").touch,),
    *((open, "new", mode) for mode in ("w", "wb", "xb", "ab", "w+b", "x+", "a+")),
    *((open, "file", mode) for mode in ("w", "wb", "xb", "ab", "w+b", "x+", "a+", "r+")),
    (open, "folder", "wb"), (open, "missing/new", "wb"), (open, "new", "w", -1, "no such"),
    (open, "new", "wb", 1), (partial(open, "new", "wb", buffering=0),), (P("new").open, "wb"),
]  # fmt: skip


def fill(place: Path) -> Path:
    place.mkdir()
    (place / "file").write_bytes(b"content\n" * 3)
    (place / "text").write_text("gr\u00fc\u00dfe\n", "utf-8")
    (place / "newlines").write_bytes(b"a\r\nb\rc\n")
    (place / "empty").mkdir()
    (place / "folder").mkdir()
    (place / "folder" / "inside").touch()
    (place / "link").symlink_to("file")
    (place / "loop").symlink_to("loop")
    (place / "dangling").symlink_to("nowhere")
    os.mkfifo(place / "fifo")
    return place


def state(place: Path) -> list[Any]:
    found = []
    for path in sorted(place.rglob("*")):
        content = path.read_bytes() if path.is_file() else None
        found.append((str(path.relative_to(place)), path.lstat().st_mode, content))
    return found


async def test_questions_have_the_same_outcome(
    tiers: Tiers, spied: Spied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path / "place"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for function, *args in QUESTIONS:
            expected = await outcome(ORIGINAL, function, *args)
            for _ in range(2):  # in memory by now, whether it was so before or not
                found = await outcome(spied.run_sync, function, *args)
                assert found == expected, (function, args)


async def test_changes_have_the_same_outcome(
    tiers: Tiers, spied: Spied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for number, (function, *args) in enumerate(CHANGES):
            results = []
            for run_sync in (ORIGINAL, spied.run_sync):
                place = fill(tmp_path / f"{number}-{len(results)}")
                monkeypatch.chdir(place)
                found = await outcome(run_sync, function, *args)
                results.append((found, state(place)))
            assert results[1] == results[0], (function, args)


async def test_hook_that_refuses(
    tiers: Tiers, spied: Spied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised by the call, and nothing stays open."""
    (tmp_path / "file").write_bytes(b"data")

    class Refusing(list[Any]):
        def append(self, item: Any) -> None:
            if "file" in str(item):
                raise RuntimeError("refused")

    monkeypatch.chdir(tmp_path)
    path = P("file")
    (await spied.run_sync(open, __file__, "rb")).close()  # what is opened once and for all
    before = os.listdir("/proc/self/fd")
    for function, *args in ((open, "file", "rb"), (path.read_bytes,), (path.read_text,)):
        monkeypatch.setattr(sys.modules[__name__], "events", Refusing())
        with pytest.raises(RuntimeError, match="refused"):
            await spied.run_sync(function, *args)
        monkeypatch.setattr(sys.modules[__name__], "events", None)
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- and without a thread -------------------------------------------------------------------------


@pytest.mark.tiers("auto", "ring", "now+thread")
async def test_listed_calls_take_no_thread_of_anyios(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    run_sync = spied.run_sync
    place = fill(tmp_path / "place")
    file, path = str(place / "file"), place / "file"
    await run_sync(os.stat, file)
    await run_sync(partial(os.lstat, path))
    assert await run_sync(path.exists)
    assert await run_sync((place / "folder").is_dir)
    await run_sync(os.rename, file, f"{file}2")
    await run_sync((place / "file2").replace, path)
    await run_sync(os.mkdir, place / "new")
    await run_sync((place / "new").rmdir)
    assert await run_sync(os.listdir, place / "folder") == ["inside"]
    await run_sync(partial((place / "gone").unlink, missing_ok=True))
    if tiers.now:
        assert await run_sync(path.read_bytes) == b"content\n" * 3
        with await run_sync(open, file, "rb") as opened:
            assert await run_sync(opened.read, 3) == b"con"
            assert await run_sync(opened.tell) == 3
            assert await run_sync(opened.seek, 0) == 0
            assert await run_sync(opened.read) == b"content\n" * 3
            await run_sync(opened.close)
            assert opened.closed
    assert spied.hopped == []
    if tiers.ring:
        assert statistics().thread == 1  # the list
        assert statistics().ring > 4
    if tiers.now:
        assert statistics().now >= 5


async def test_others_go_to_anyios_thread(
    tiers: Tiers, spied: Spied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> str:
            return "deaf"

    class File(io.FileIO):
        def read(self, size: int | None = -1) -> Any:
            return threading.get_ident()

    assert await spied.run_sync(threading.get_ident) != threading.get_ident()
    assert await spied.run_sync(Deaf()) == "deaf"
    assert await spied.run_sync(partial(Deaf())) == "deaf"
    assert await spied.run_sync([1].copy) == [1]
    with File(os.devnull) as file:
        assert await spied.run_sync(file.read) != threading.get_ident()
    real, seen = os.stat, []

    def replaced(*args: Any, **options: Any) -> os.stat_result:
        seen.append(threading.get_ident())
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", replaced)
        await spied.run_sync(os.stat, "/")
    assert set(seen) - {threading.get_ident()}
    assert len(spied.hopped) == 6


async def test_tasks_get_their_turn(tiers: Tiers, spied: Spied, tmp_path: Path) -> None:
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        for _ in range(2000):
            await spied.run_sync(os.stat, tmp_path)
        done = True
    assert turns >= 10


# -- limiters, cancellation, warnings -------------------------------------------------------------


@pytest.mark.parametrize("function", [os.stat, os.rmdir])
async def test_limiter_is_waited_for(
    tiers: Tiers, spied: Spied, tmp_path: Path, function: Callable[..., Any]
) -> None:
    (tmp_path / "folder").mkdir()
    limiter = CapacityLimiter(1)
    limiter.acquire_on_behalf_of_nowait("somebody")
    done = False

    async def call() -> None:
        nonlocal done
        await spied.run_sync(function, tmp_path / "folder", limiter=limiter)
        done = True

    with fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            while not limiter.statistics().tasks_waiting:
                await anyio.lowlevel.checkpoint()
            assert not done
            limiter.release_on_behalf_of("somebody")
    assert limiter.borrowed_tokens == 0
    await spied.run_sync(os.stat, tmp_path, limiter=limiter)
    assert limiter.borrowed_tokens == 0
    if tiers.now:
        assert len(spied.hopped) == 1


@pytest.mark.parametrize("limiter", [object(), 3])
async def test_limiter_of_a_wrong_kind(tiers: Tiers, spied: Spied, limiter: Any) -> None:
    expected = await outcome(ORIGINAL, os.stat, "/", limiter=limiter)
    assert await outcome(spied.run_sync, os.stat, "/", limiter=limiter) == expected


@pytest.mark.parametrize("abandon", [False, True])
async def test_cancelled_before_there_is_an_effect(
    tiers: Tiers, spied: Spied, tmp_path: Path, abandon: bool
) -> None:
    path = tmp_path / "folder"
    for function, *args in (
        (os.mkdir, path),
        (os.stat, tmp_path),
        (path.mkdir,),
        (open, path, "wb"),
        (open, os.devnull, "rb"),
        (tmp_path.exists,),
    ):
        with CancelScope() as scope:
            scope.cancel()
            await spied.run_sync(function, *args, abandon_on_cancel=abandon)
        assert scope.cancelled_caught
        assert not path.exists()


@pytest.mark.tiers("auto", "ring", "thread")
async def test_cancellation_waits_for_a_call_that_has_begun(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    opened: list[Any] = []

    async def read() -> None:
        with CancelScope() as scope:
            scopes.append(scope)
            opened.append(await spied.run_sync(open, fifo, "rb", 0))

    def writing() -> int | None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    scopes: list[CancelScope] = []
    with fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            while not scopes:
                await anyio.lowlevel.checkpoint()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()  # it has begun
            scopes[0].cancel()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert opened == []
            while (writer := writing()) is None:
                await anyio.lowlevel.checkpoint()
    os.write(writer, b"data")
    os.close(writer)
    with opened[0] as file:
        assert file.read() == b"data"
    assert not scopes[0].cancelled_caught


async def test_deprecated_argument_is_told_of_as_before(tiers: Tiers) -> None:
    async def call() -> list[Any]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            await to_thread.run_sync(os.stat, "/", cancellable=True)
            await to_thread.run_sync(int, cancellable=False)
        return [(str(each.message), each.category, each.filename, each.lineno) for each in found]

    before = await call()
    assert len(before) == 2
    with install(anyio=False, to_thread=True):
        assert await call() == before


# -- file objects ---------------------------------------------------------------------------------

KINDS: list[tuple[str, int]] = [
    ("rb", -1), ("rb", 0), ("rb", 7), ("wb", -1), ("wb", 16), ("ab", -1), ("r+b", -1), ("r+b", 0),
    ("w+b", -1), ("r+b", 16),
]  # fmt: skip


def steps(seed: int) -> list[tuple[str, tuple[Any, ...]]]:
    chooser = random.Random(seed)
    choices: list[Callable[[], tuple[str, tuple[Any, ...]]]] = [
        lambda: ("read", (chooser.choice([0, 1, 5, 100, 4096, 9000, -1, None]),)),
        lambda: ("read", ()),
        lambda: ("write", (bytes([chooser.randrange(256)]) * chooser.choice([1, 9, 20, 9000]),)),
        lambda: ("seek", (chooser.randrange(25000),)),
        lambda: ("seek", (chooser.randrange(-100, 100), chooser.choice([0, 1, 2]))),
        lambda: ("tell", ()),
        lambda: ("flush", ()),
        lambda: ("readline", ()),
        lambda: ("truncate", ()),
        lambda: ("seek", ("x",)),
        lambda: ("read", (1, 2)),
        lambda: ("write", ("text",)),
        lambda: ("write", (bytearray(b"array"),)),
    ]
    found = [chooser.choice(choices)() for _ in range(60)]
    return [*found, ("close", ()), ("read", ()), ("close", ())]


@pytest.mark.parametrize(("mode", "buffering"), KINDS)
async def test_file_does_what_it_does_without_us(
    tiers: Tiers, spied: Spied, tmp_path: Path, mode: str, buffering: int
) -> None:
    content = bytes(range(256)) * 80
    for seed in range(4):
        chooser = random.Random(seed)
        (tmp_path / "theirs").write_bytes(content)
        (tmp_path / "ours").write_bytes(content)
        with (
            open(tmp_path / "theirs", mode, buffering) as theirs,
            await spied.run_sync(open, tmp_path / "ours", mode, buffering) as ours,
        ):
            for name, args in steps(seed):
                function = getattr(ours, name)
                wanted = called(getattr(theirs, name), args)
                if chooser.random() < 0.2:
                    found = called(function, args)  # past us
                else:
                    try:
                        found = await spied.run_sync(function, *args)
                    except (OSError, ValueError, TypeError) as error:
                        found = (type(error), str(error))
                assert found == wanted, (seed, name, args)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def called(function: Any, args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except (OSError, ValueError, TypeError) as error:
        return (type(error), str(error))


now = pytest.mark.tiers("auto", "now+thread")


@now
@pytest.mark.skipif(not COMPILED, reason="nothing is served at once without the compiled core")
async def test_what_needs_no_disk_is_called_at_once(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    with open(tmp_path / "file", "wb") as file:
        await spied.run_sync(file.write, b"some")
        await spied.run_sync(file.tell)
        assert spied.hopped == []
        await spied.run_sync(file.flush)
        assert len(spied.hopped) == 1
        await spied.run_sync(file.flush)
        await spied.run_sync(file.seek, 0)
        assert len(spied.hopped) == 1
        await spied.run_sync(file.write, bytes(1 << 20))
        assert len(spied.hopped) == 2
    spied.hopped.clear()
    with open(tmp_path / "file", "r+b") as both:
        await spied.run_sync(both.read, 10)  # nobody knows yet
        await spied.run_sync(both.read, 10)
        assert len(spied.hopped) == 1
        await spied.run_sync(both.write, b"x")
        await spied.run_sync(both.read, 10)
        assert len(spied.hopped) == 3
        await spied.run_sync(both.close)
        assert len(spied.hopped) == 4


@now
@pytest.mark.skipif(not COMPILED, reason="nothing is served at once without the compiled core")
async def test_what_may_need_the_disk_is_not_called_at_once(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb", 0) as file:
        await spied.run_sync(file.seek, 0)
        assert spied.hopped == []
        await spied.run_sync(file.seek, 0, os.SEEK_DATA)
        assert len(spied.hopped) == 1
    direct = os.open(tmp_path / "file", os.O_RDONLY | os.O_DIRECT)
    with open(direct, "rb", 0) as file:
        await spied.run_sync(file.seek, 0)
        assert len(spied.hopped) == 2
    with await spied.run_sync(open, tmp_path / "file", "r", -1, "cp037") as text:
        assert isinstance(text, io.TextIOWrapper)
        assert len(spied.hopped) == 3  # an encoding that is a module
    with tempfile.SpooledTemporaryFile(max_size=1, dir=tmp_path) as spooled:
        spooled.write(b"moved")
        await spied.run_sync(spooled.seek, 0)
        await spied.run_sync(spooled.read, 1)
        spied.hopped.clear()
        await spied.run_sync(spooled.read, 1)
        assert spied.hopped == []
        await spied.run_sync(spooled.writelines, [b"x"])
        await spied.run_sync(spooled.read, 1)
        assert len(spied.hopped) == 2


@now
@pytest.mark.skipif(not COMPILED, reason="nothing is served at once without the compiled core")
async def test_reading_without_a_size_is_paid_for(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(500_000))
    meter = current_runtime().meter
    with open(tmp_path / "file", "rb", 0) as file:
        for _ in range(50):  # where it takes long there is a new allowance meanwhile
            spent = []
            for size in (500_001, -1):
                await spied.run_sync(file.seek, 0)
                meter.refill()
                before = meter.left
                await spied.run_sync(file.read, size)
                spent.append(before - meter.left)
            if spent[1] > spent[0] // 2 > 0:
                break
        else:
            pytest.fail(f"{spent}")
    assert spied.hopped == []


@pytest.mark.parametrize("size", [sys.maxsize, 1 << 62, -(1 << 62), 1 << 70])
async def test_size_that_cannot_be_had(
    tiers: Tiers, spied: Spied, tmp_path: Path, size: int
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb") as file:
        for _ in range(2):
            expected = await outcome(ORIGINAL, file.read, size)
            file.seek(0)
            assert await outcome(spied.run_sync, file.read, size) == expected
            file.seek(0)


@pytest.mark.hosts("asyncio", "uvloop")
async def test_opening_that_is_left_before_a_thread_is_free_leaves_nothing_open(
    tiers: Tiers, spied: Spied
) -> None:
    """A native cancel, behind the ring's part of it."""
    limiter = to_thread.current_default_thread_limiter()
    taken = [object() for _ in range(int(limiter.available_tokens))]
    for borrower in taken:
        limiter.acquire_on_behalf_of_nowait(borrower)
    try:
        for _ in range(3):
            task = asyncio.ensure_future(spied.run_sync(open, "/dev/zero", "rb", 0))
            with fail_after(PATIENCE_SECONDS):
                while not limiter.statistics().tasks_waiting:
                    await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    finally:
        for borrower in taken:
            limiter.release_on_behalf_of(borrower)
    assert all(
        os.readlink(fd) != "/dev/zero" for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()
    )


@now
@pytest.mark.skipif(not COMPILED, reason="nothing is served at once without the compiled core")
async def test_nothing_is_called_at_once_while_a_thread_is_in_the_file(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    """It would have the file's lock."""
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "r+b") as file:
        await spied.run_sync(file.tell)
        assert spied.hopped == []
        handle = _served_files._known[file].handle
        handle.join()  # as for a thread
        await spied.run_sync(file.tell)
        assert len(spied.hopped) == 1
        handle.leave()
        await spied.run_sync(file.tell)
        assert len(spied.hopped) == 1


@now
@pytest.mark.skipif(not COMPILED, reason="nothing is served at once without the compiled core")
async def test_file_is_in_use_while_a_thread_is_in_it(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    seen: list[int] = []
    fail = False

    async def original(func: Any, *args: Any, **options: Any) -> Any:
        seen.append(handle.inflight)
        if fail:
            raise ZeroDivisionError
        return await ORIGINAL(func, *args, **options)

    run_sync: Any = serving(original)
    with open(tmp_path / "file", "r+b") as file:
        await run_sync(file.tell)
        handle = _served_files._known[file].handle
        await run_sync(file.readline)
        with pytest.raises(TypeError):
            await run_sync(file.readinto)
        fail = True
        with pytest.raises(ZeroDivisionError):
            await run_sync(file.truncate)
        assert (seen, handle.inflight) == ([1, 1, 1], 0)


async def test_spooled_file_before_and_after_it_moves(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    with tempfile.SpooledTemporaryFile(max_size=10, dir=tmp_path) as file:
        for data in (b"some", b"thing longer"):
            assert await spied.run_sync(partial(file.write, data)) == len(data)
        await spied.run_sync(file.seek, 0)
        assert await spied.run_sync(file.read, 4) == b"some"
        spied.hopped.clear()
        assert await spied.run_sync(file.tell) == 4
        assert await spied.run_sync(file.read) == b"thing longer"
        assert await spied.run_sync(file.read) == b""
        assert (spied.hopped == []) is tiers.now
        await spied.run_sync(file.close)
        assert file.closed


# -- what calls it --------------------------------------------------------------------------------


async def test_upload_that_has_moved_to_disk(
    tiers: Tiers, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("python_multipart")
    from fastapi import UploadFile

    app = fastapi.FastAPI()
    content = bytes(range(256)) * 10_000  # of two megabytes: Starlette's limit is one
    seen: list[Any] = []

    async def upload(file: UploadFile) -> dict[str, Any]:
        seen.append(file.file._rolled)  # type: ignore[attr-defined]
        before = counted()
        first = await file.read(1000)
        await file.seek(0)
        whole = b"".join([chunk async for chunk in chunks(file)])
        seen.append(counted() - before)
        await file.write(b"more")
        await file.seek(len(content))
        rest = await file.read()
        await file.close()
        return {"same": first + whole == content[:1000] + content, "rest": rest.decode()}

    def counted() -> int:
        return sum(thread.name.startswith(("AnyIO", "Trio")) for thread in threading.enumerate())

    async def chunks(file: UploadFile) -> Any:
        while chunk := await file.read(64 << 10):
            yield chunk

    upload.__annotations__["file"] = UploadFile
    app.post("/upload")(upload)
    answer = await asked(app, "POST", "/upload", content)
    assert answer == (200, b'{"same":true,"rest":"more"}')
    assert seen == [True, 0]


async def asked(app: Any, method: str, path: str, upload: bytes | None = None) -> tuple[int, bytes]:
    """One request to an application, as a server would make it."""
    body, headers = b"", []
    if upload is not None:
        disposition = b'Content-Disposition: form-data; name="file"; filename="x"'
        body = b"\r\n".join([b"--edge", disposition, b"", upload, b"--edge--", b""])
        headers = [(b"content-type", b"multipart/form-data; boundary=edge")]
    pieces = [body[start : start + 64_000] for start in range(0, len(body), 64_000)] or [b""]
    status, answer = 0, b""

    async def receive() -> dict[str, Any]:
        if not pieces:
            await anyio.sleep_forever()
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "root_path": "",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "scheme": "http",
        "server": None,
        "client": None,
    }
    with fail_after(PATIENCE_SECONDS):
        await app(scope, receive, send)
    return status, answer


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("several", [False, True])
async def test_static_files_are_found_as_before(
    tiers: Tiers, spied: Spied, tmp_path: Path, follow: bool, several: bool
) -> None:
    static = pytest.importorskip("starlette.staticfiles")
    place = fill(tmp_path / "place")
    (place / "folder" / "out").symlink_to(tmp_path)
    (tmp_path / "secret").touch()
    second = fill(tmp_path / "second")
    (second / "only").touch()
    files = static.StaticFiles(directory=place, follow_symlink=follow, check_dir=False)
    files.all_directories = [place, str(second)][: 1 + several]
    # What the kernel answers only if it may wait; and of which it is not known where they lead
    unproven = {"a\0b", "file/below", "missing/below", "a/" * 40, "folder/" + "x" * 4100}
    unsure = {"x" * 300, "loop", "dangling"}
    if several:
        unproven |= {"link", "../secret", "folder/out/secret"}
    for path in (
        *("file", "link", "loop", "missing", "folder", "folder/inside", "only", "../secret"),
        *("missing/below", "a/" * 40, "folder/" + "x" * 4100),
        *("folder/out/secret", "file/below", "/etc/passwd", "x" * 300, "a\0b", ".", "", "dangling"),
    ):
        spied.hopped.clear()
        expected = await outcome(ORIGINAL, files.lookup_path, path)
        for call in ((files.lookup_path, path), (partial(files.lookup_path, path),)):
            assert await outcome(spied.run_sync, *call) == expected, path
        if path not in unsure:
            assert (spied.hopped == []) is (tiers.now and path not in unproven), path


async def test_static_files_are_left_alone_where_somebody_watches_over_the_loop(
    tiers: Tiers, spied: Spied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As blockbuster does: it cannot know that a call will not wait."""
    static = pytest.importorskip("starlette.staticfiles")
    real, seen = os.path.abspath, []

    def watched(path: Any) -> Any:
        seen.append(threading.get_ident())
        return real(path)

    (tmp_path / "file").touch()
    files = static.StaticFiles(directory=tmp_path)
    monkeypatch.setattr(os.path, "abspath", watched)
    await spied.run_sync(files.lookup_path, "file")
    assert threading.get_ident() not in seen
    assert len(spied.hopped) == 1


async def test_static_files_of_a_subclass_are_its_own_affair(
    tiers: Tiers, spied: Spied, tmp_path: Path
) -> None:
    static = pytest.importorskip("starlette.staticfiles")

    class Files(static.StaticFiles):  # type: ignore[misc,name-defined]
        def lookup_path(self, path: str) -> Any:
            return threading.get_ident()

    class Asking(static.StaticFiles):  # type: ignore[misc,name-defined]
        @property
        def all_directories(self) -> list[Any]:
            asked.append(threading.get_ident())
            return [str(tmp_path)]

        @all_directories.setter
        def all_directories(self, value: Any) -> None:
            pass

    asked: list[int] = []
    (tmp_path / "file").touch()
    files = Files(directory=tmp_path)
    assert await spied.run_sync(files.lookup_path, "file") != threading.get_ident()
    await spied.run_sync(Asking(directory=tmp_path).lookup_path, "file")
    assert len(spied.hopped) == 2
    assert threading.get_ident() not in asked


async def test_static_files_and_responses(tiers: Tiers, installed: None, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.responses import FileResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    fill(tmp_path / "place")
    app = Starlette(
        routes=[
            Route("/one", lambda request: FileResponse(tmp_path / "place" / "file")),
            Mount("/", StaticFiles(directory=tmp_path / "place")),
        ]
    )
    for path in "/one", "/file", "/link":
        assert await asked(app, "GET", path) == (200, b"content\n" * 3)
        assert await asked(app, "HEAD", path) == (200, b"")
    assert (await asked(app, "GET", "/missing"))[0] == 404


async def test_jupyters_files(tiers: Tiers, installed: None, tmp_path: Path) -> None:
    fileio = pytest.importorskip("jupyter_server.services.contents.fileio")

    class Manager(fileio.AsyncFileManagerMixin):  # type: ignore[misc,name-defined]
        pass

    manager, path = Manager(), tmp_path / "file.txt"
    await manager._save_file(str(path), "gr\u00fc\u00dfe", "text")
    for kind in "text", "base64":
        await manager._read_file(str(path), kind)
    assert (await manager._read_file(str(path), "text"))[0] == "gr\u00fc\u00dfe"


# -- installed ------------------------------------------------------------------------------------


@pytest.fixture
def installed() -> Iterator[None]:
    original = imported_early.__code__  # type: ignore[attr-defined]
    with install(to_thread=True, strict=True) as installation:
        assert "anyio.to_thread.run_sync" in installation.patched
        yield
    assert imported_early.__code__ is original  # type: ignore[attr-defined]


@pytest.mark.tiers("auto", "ring", "now+thread")
async def test_installed_for_who_has_imported_it_before(
    tiers: Tiers, installed: None, tmp_path: Path
) -> None:
    for _ in range(3):
        assert (await imported_early(os.stat, tmp_path)).st_nlink > 0
    counts = statistics()
    assert counts.now + counts.ring >= 3
    assert counts.thread == 0


async def test_files_of_anyios_own_work_on_top_of_it(tiers: Tiers, tmp_path: Path) -> None:
    path = anyio.Path(tmp_path) / "file"
    with install(anyio=False, to_thread=True, strict=True):
        await path.write_bytes(b"data")
        async with await anyio.open_file(path, "r+b") as file:
            assert type(file) is anyio.AsyncFile
            assert await file.read() == b"data"
            await file.write(b", more")
        assert await path.read_text("utf-8") == "data, more"
        assert [entry.name async for entry in anyio.Path(tmp_path).iterdir()] == ["file"]
        await path.rename(path.with_name("other"))
        async with anyio.SpooledTemporaryFile(max_size=2) as spooled:
            await spooled.write(b"data")
            await spooled.seek(0)
            assert await spooled.read() == b"data"
    assert await anyio.Path(tmp_path / "other").exists()


def test_outside_of_a_run() -> None:
    coroutine: Any = imported_early(os.stat, "/")
    with pytest.raises(anyio.NoEventLoopError) as before:
        coroutine.send(None)
    with install(to_thread=True):
        coroutine = imported_early(os.stat, "/")
        with pytest.raises(anyio.NoEventLoopError) as caught:
            coroutine.send(None)
    assert str(caught.value) == str(before.value)


def test_run_sync_of_another_shape_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(func: Any, *args: Any, abandon_on_cancel: bool = True) -> None: ...

    from anyio_uring import _install

    theirs = type(run_sync)(run_sync.__code__, vars(sys.modules["anyio.to_thread"]))
    theirs.__kwdefaults__ = run_sync.__kwdefaults__
    monkeypatch.setattr(_install, "_swapped", {})
    monkeypatch.setattr(to_thread, "run_sync", theirs)
    with pytest.raises(InstallError, match=r"to_thread 4.*has a parameter") as caught:
        install(to_thread=True, strict=True)
    assert caught.value.target == "to_thread"
    assert theirs.__code__ is run_sync.__code__


def test_target_by_name(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import anyio, os\nfrom anyio_uring import statistics\n"
        "async def main():\n"
        "    await anyio.to_thread.run_sync(os.listdir, '/')\n"
        "    return statistics().thread\n"
        "print(anyio.run(main))\n"
    )
    for value, expected in (("anyio", "0"), ("anyio,to_thread", "1")):
        done = subprocess.run(
            [sys.executable, "-m", "anyio_uring", "run", os.fspath(script)],
            env={**os.environ, "ANYIO_URING_INSTALL": value},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_documented_names_are_served() -> None:
    from anyio_uring import _served

    names = _served.names()
    changes = ["rename", "replace", "unlink", "remove", "mkdir", "rmdir"]
    assert names["os"] == ["stat", "lstat", *changes, "listdir"]
    assert "read_bytes" in names["pathlib.Path"]
    assert set(names["tempfile.SpooledTemporaryFile"]) == set(names["io.BufferedRandom"])
    assert _targets.PACKAGES.keys() == _targets.TARGETS.keys()
