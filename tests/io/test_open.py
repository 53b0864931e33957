"""`open_file` with ``buffering=0``, argument by argument, compared with ``builtins.open``."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.oracle import CONTENT, MODES
from tests.support.state import descriptors, until

import anyio_uring

pytestmark = pytest.mark.anyio

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def told(error: BaseException) -> tuple[Any, ...]:
    """All that can be seen of an exception."""
    return (
        type(error),
        str(error),
        getattr(error, "errno", None),
        getattr(error, "filename", None),
        type(getattr(error, "filename", None)),
    )


def oracle_error(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    try:
        file = open(*args, **kwargs)  # noqa: SIM115
    except Exception as error:  # noqa: BLE001 (it is what is being compared)
        return told(error)
    file.close()
    raise AssertionError(f"builtins.open takes {args} {kwargs}")


async def error_of(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    before = descriptors()
    with pytest.raises(Exception) as caught:  # noqa: PT011 (compared in full by the caller)
        await anyio_uring.open_file(*args, **kwargs)
    error = told(caught.value)
    del caught
    opened = {fd: what for fd, what in descriptors().items() if before.get(fd) != what}
    # A ring brings descriptors of its own; a file or a directory would be a leak
    assert [what for what in opened.values() if what.startswith("/")] == []
    return error


class Fspath:
    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


# -- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("mode", MODES)
async def test_mode_creates_truncates_and_refuses_as_open_does(
    tiers: Tiers, tmp_path: Path, mode: str, exists: bool
) -> None:
    results = []
    for name in ("oracle", "ours"):
        path = tmp_path / name
        if exists:
            path.write_bytes(CONTENT)
        try:
            if name == "oracle":
                with open(path, mode, 0) as file:
                    results.append((file.mode, file.tell(), os.get_inheritable(file.fileno())))
            else:
                async with await anyio_uring.open_file(path, mode, 0) as ours:
                    results.append(
                        (ours.mode, await ours.tell(), os.get_inheritable(ours.fileno()))
                    )
        except OSError as error:
            results.append((type(error), error.errno, error.filename == str(path)))
        if path.exists():
            results[-1] += (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    assert results[0] == results[1]


INVALID_MODES = (
    "", "b", "+", "b+", "rw", "rwb", "rbt", "bt", "r++", "rr", "rbb", "U", "rU", "rbU", "z", "rb+x",
    "w+r", "xwb", "Rb", "r b", "rb\0", "rwbt", "tb+", "wab", 1, None, b"rb", ["rb"],
)  # fmt: skip


@pytest.mark.parametrize("mode", INVALID_MODES)
async def test_invalid_mode_is_refused_in_the_same_words(
    tiers: Tiers, tmp_path: Path, mode: Any
) -> None:
    path = tmp_path / "f"
    assert await error_of(path, mode, 0) == oracle_error(path, mode, 0)
    assert not path.exists()


@pytest.mark.parametrize("spelling", ["br+", "+rb", "b+r", "rb+"])
async def test_letters_of_a_mode_come_in_any_order(
    tiers: Tiers, tmp_path: Path, spelling: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    async with await anyio_uring.open_file(path, spelling, 0) as file:
        assert file.mode == "rb+"
        assert await file.read() == CONTENT


async def test_text_mode_without_a_buffer_is_refused(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    for mode in ("r", "w", "a+", "rt"):
        assert await error_of(path, mode, 0) == oracle_error(path, mode, 0)


# -- arguments ------------------------------------------------------------------------------------

WRONG: dict[str, Callable[[Path], Arguments]] = {
    "encoding in binary mode": lambda p: ((p, "rb", 0), {"encoding": "utf-8"}),
    "errors in binary mode": lambda p: ((p, "rb", 0), {"errors": "strict"}),
    "newline in binary mode": lambda p: ((p, "rb", 0), {"newline": ""}),
    "buffering a str": lambda p: ((p, "rb", "0"), {}),
    "buffering None": lambda p: ((p, "rb", None), {}),
    "buffering a float": lambda p: ((p, "rb", 0.0), {}),
    "closefd False with a path": lambda p: ((p, "wb", 0), {"closefd": False}),
    "negative descriptor": lambda p: ((-1, "rb", 0), {}),
    "very negative descriptor": lambda p: ((-1000, "rb", 0), {}),
    "descriptor that is not open": lambda p: ((9999, "rb", 0), {}),
    "None": lambda p: ((None, "rb", 0), {}),
    "list": lambda p: (([], "rb", 0), {}),
    "object": lambda p: ((Ellipsis, "rb", 0), {}),
    "fspath gives an int": lambda p: ((Fspath(3), "rb", 0), {}),
    "NUL in a str": lambda p: ((f"{p}\0", "wb", 0), {}),
    "NUL in bytes": lambda p: ((bytes(p) + b"\0x", "wb", 0), {}),
    "NUL in a path-like": lambda p: ((Fspath(f"{p}\0"), "wb", 0), {}),
    "missing": lambda p: ((p, "rb", 0), {}),
    "missing, str": lambda p: ((str(p), "rb", 0), {}),
    "missing, bytes": lambda p: ((bytes(p), "r+b", 0), {}),
    "missing, path-like of bytes": lambda p: ((Fspath(bytes(p)), "rb", 0), {}),
    "missing directory": lambda p: ((p / "x", "wb", 0), {}),
    "undecodable name": lambda p: ((os.fsdecode(bytes(p) + b"\xff\xfe"), "rb", 0), {}),
    "empty name": lambda p: (("", "rb", 0), {}),
    "empty bytes": lambda p: ((b"", "wb", 0), {}),
    "directory": lambda p: ((p.parent, "rb", 0), {}),
    "directory, bytes": lambda p: ((bytes(p.parent), "rb", 0), {}),
    "directory for writing": lambda p: ((p.parent, "wb", 0), {}),
    "directory for appending": lambda p: ((p.parent, "ab", 0), {}),
    "exclusive over a directory": lambda p: ((p.parent, "xb", 0), {}),
    "file as a directory": lambda p: ((p.parent / "file" / "x", "rb", 0), {}),
    "file with a slash": lambda p: ((f"{p.parent}/file/", "rb", 0), {}),
    "exclusive over a file": lambda p: ((p.parent / "file", "xb", 0), {}),
    "exclusive over a symlink to nothing": lambda p: ((p.parent / "dangling", "xb", 0), {}),
    "symlink to itself": lambda p: ((p.parent / "loop", "rb", 0), {}),
    "name too long": lambda p: ((p.parent / ("x" * 300), "wb", 0), {}),
    "path too long": lambda p: (("/x" * 3000, "rb", 0), {}),
    "socket": lambda p: ((p.parent / "socket", "rb", 0), {}),
    "opener is no function": lambda p: ((p, "wb", 0), {"opener": 5}),
    "opener gives None": lambda p: ((p, "wb", 0), {"opener": lambda *_: None}),
    "opener gives a float": lambda p: ((p, "wb", 0), {"opener": lambda *_: 3.0}),
    "opener gives a str": lambda p: ((p, "wb", 0), {"opener": lambda *_: "3"}),
    "opener gives -1": lambda p: ((p, "wb", 0), {"opener": lambda *_: -1}),
    "opener gives -7": lambda p: ((p, "wb", 0), {"opener": lambda *_: -7}),
    "opener raises": lambda p: ((p, "wb", 0), {"opener": lambda *_: 1 / 0}),
    "opener opens nothing": lambda p: ((p, "rb", 0), {"opener": os.open}),
    "opener opens a directory": lambda p: (
        (p, "rb", 0),
        {"opener": lambda path, flags: os.open(os.path.dirname(path), flags)},
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_argument_is_refused_in_the_same_words(
    tiers: Tiers, tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        args, kwargs = WRONG[wrong](tmp_path / "missing")
        assert await error_of(*args, **kwargs) == oracle_error(*args, **kwargs)
    assert not (tmp_path / "missing").exists()


async def test_directory_by_descriptor_is_refused_and_stays_open(
    tiers: Tiers, tmp_path: Path
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert await error_of(fd, "rb", 0) == oracle_error(fd, "rb", 0)
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


@pytest.mark.parametrize("buffering", [False, 0])
async def test_anything_that_counts_as_zero_is_unbuffered(
    tiers: Tiers, tmp_path: Path, buffering: Any
) -> None:
    with open(tmp_path / "f", "wb", buffering) as oracle:
        assert not hasattr(oracle, "peek")
    async with await anyio_uring.open_file(tmp_path / "f", "rb", buffering) as file:
        assert not hasattr(file, "peek")


def test_opening_outside_a_run_is_refused(tmp_path: Path) -> None:
    opening = anyio_uring.open_file(tmp_path / "f", "wb", 0)
    with pytest.raises(anyio.NoEventLoopError):
        opening.send(None)
    assert not (tmp_path / "f").exists()


# -- kinds of paths -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [str, os.fsencode, Path, anyio.Path, Fspath, lambda p: Fspath(os.fsencode(p))]
)
@pytest.mark.parametrize(
    "name", [b"plain", b"sp ace\n", "\u00fc\u4e16".encode(), b"\xff\xfe", b"-"]
)
async def test_each_kind_of_path_finds_the_file(
    tiers: Tiers, tmp_path: Path, kind: Callable[[str], Any], name: bytes
) -> None:
    path = bytes(tmp_path) + b"/" + name
    given = kind(os.fsdecode(path))
    async with await anyio_uring.open_file(given, "xb", 0) as file:
        await file.write(b"abc")
    with open(path, "rb", 0) as oracle:
        assert oracle.read() == b"abc"
    with open(given, "rb", 0) as oracle:
        async with await anyio_uring.open_file(given, "rb", 0) as file:
            assert await file.read() == b"abc"
            assert (type(file.name), file.name) == (type(oracle.name), oracle.name)


async def test_relative_path_and_symlink_are_followed(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("directory")
    os.symlink("directory/../target", "link")
    async with await anyio_uring.open_file("link", "wb", 0) as file:
        assert file.name == "link"
        await file.write(b"abc")
    assert Path("target").read_bytes() == b"abc"
    async with await anyio_uring.open_file("directory/../link", "rb", 0) as file:
        assert await file.read() == b"abc"


# -- descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rb", "wb", "ab", "r+b", "w+b", "a+b", "xb"])
async def test_descriptor_is_used_as_it_is(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    results = []
    for name in ("oracle", "ours"):
        path = tmp_path / name
        path.write_bytes(CONTENT)
        fd = os.open(path, os.O_RDWR)
        os.lseek(fd, 5, os.SEEK_SET)
        os.set_inheritable(fd, True)
        if name == "oracle":
            file: Any = open(fd, mode, 0)  # noqa: SIM115
            results.append([file.tell(), file.mode, file.readable(), file.writable()])
            file.close()
        else:
            file = await anyio_uring.open_file(fd, mode, 0)
            assert (file.name, file.fileno(), file.closefd) == (fd, fd, True)
            assert os.get_inheritable(fd)
            results.append([await file.tell(), file.mode, file.readable(), file.writable()])
            await file.aclose()
        results[-1].append(path.read_bytes())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert results[0] == results[1]


async def test_descriptor_that_cannot_do_what_the_mode_says_fails_in_the_call(
    tiers: Tiers, tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    for flags, mode, call in (
        (os.O_RDONLY, "r+b", lambda f: f.write(b"x")),
        (os.O_WRONLY, "r+b", lambda f: f.read(1)),
        (os.O_WRONLY, "r+b", lambda f: f.read()),
        (os.O_WRONLY, "r+b", lambda f: f.readinto(bytearray(1))),
        (os.O_RDONLY, "r+b", lambda f: f.pwrite(b"x", 0)),
        (os.O_WRONLY, "r+b", lambda f: f.pread(1, 0)),
    ):
        fd = os.open(path, flags)
        async with await anyio_uring.open_file(fd, mode, 0) as file:
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                await call(file)
            assert (caught.value.errno, caught.value.filename) == (errno.EBADF, fd)
    assert path.read_bytes() == CONTENT


async def test_descriptor_opened_for_appending_appends_in_any_mode(
    tiers: Tiers, tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    async with await anyio_uring.open_file(fd, "r+b", 0) as file:
        assert await file.tell() == 0
        assert await file.write(b"new") == 3
        assert await file.tell() == len(CONTENT) + 3
        with pytest.raises(OSError, match="append"):
            await file.pwrite(b"x", 0)
    assert path.read_bytes() == CONTENT + b"new"


# -- opener ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_opener_gets_the_same_arguments(tiers: Tiers, tmp_path: Path, mode: str) -> None:
    calls: list[Any] = []
    threads = []

    def opener(path: Any, flags: int) -> int:
        calls.append((path, flags))
        threads.append(threading.get_ident())
        return os.open(path, flags | os.O_CREAT & ~os.O_EXCL, 0o600)

    path = tmp_path / "f"
    for given in (path, str(path), bytes(path)):
        calls.clear()
        path.unlink(missing_ok=True)
        open(given, mode, 0, opener=opener).close()
        path.unlink(missing_ok=True)
        file = await anyio_uring.open_file(given, mode, 0, opener=opener)
        assert not os.get_inheritable(file.fileno())
        await file.aclose()
        assert calls[0] == calls[1]
        assert type(calls[0][0]) is type(calls[1][0])
        assert threads[-1] != threading.get_ident()  # it may block


async def test_opener_is_not_called_for_a_descriptor(tiers: Tiers, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_CREAT | os.O_WRONLY)
    async with await anyio_uring.open_file(fd, "wb", 0, opener=lambda *_: 1 // 0) as file:
        assert await file.write(b"abc") == 3


async def test_inheritable_result_of_an_opener_is_made_private(
    tiers: Tiers, tmp_path: Path
) -> None:
    def opener(path: str, flags: int) -> int:
        fd = os.open(path, flags)
        os.set_inheritable(fd, True)
        return fd

    async with await anyio_uring.open_file(tmp_path / "f", "wb", 0, opener=opener) as file:
        assert not os.get_inheritable(file.fileno())


async def test_opener_can_open_relative_to_a_directory(tiers: Tiers, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        async with await anyio_uring.open_file(
            "name", "wb", 0, opener=lambda path, flags: os.open(path, flags, dir_fd=directory)
        ) as file:
            await file.write(b"abc")
    finally:
        os.close(directory)
    assert (tmp_path / "name").read_bytes() == b"abc"


# -- audit ----------------------------------------------------------------------------------------

listening: list[Any] | None = None


def hook(event: str, args: tuple[Any, ...]) -> None:
    if listening is not None and event == "open" and args[1] is not None:
        listening.append(args)  # (None for a mode is os.open, in a thread of the driver)
        if args[0] == "forbidden":
            raise LookupError("not allowed")


@pytest.fixture
def events() -> Any:
    global listening
    if not hook.__dict__:
        sys.addaudithook(hook)
        hook.__dict__["added"] = True
    listening = []
    yield listening
    listening = None


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("mode", MODES)
async def test_audit_event_is_that_of_open(
    tiers: Tiers, tmp_path: Path, mode: str, buffering: int, events: list[Any]
) -> None:
    path = tmp_path / "f"
    fd = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    for given in (path, str(path), bytes(path), fd):
        for opener in (None, os.open):
            if "x" in mode:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(b"")
            events.clear()
            open(given, mode, buffering, opener=opener, closefd=given != fd).close()
            expected = list(events)
            path.unlink() if "x" in mode and given != fd else None
            events.clear()
            file = await anyio_uring.open_file(
                given, mode, buffering, opener=opener, closefd=given != fd
            )
            assert [args for args in events if args[0] in {str(path), bytes(path), fd}] == expected
            await file.aclose()
    os.close(fd)


async def test_audit_hook_that_raises_prevents_the_opening(
    tiers: Tiers, tmp_path: Path, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match="not allowed"):
        await anyio_uring.open_file("forbidden", "wb", 0)
    assert os.listdir() == []


# -- limiter --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limiter", [3, "1", object(), anyio.CapacityLimiter])
async def test_limiter_of_another_type_is_refused_as_anyio_does(
    tiers: Tiers, tmp_path: Path, limiter: Any
) -> None:
    with pytest.raises(TypeError) as expected:
        anyio.AsyncFile(io.BytesIO(), limiter=limiter)
    with pytest.raises(TypeError) as caught:
        await anyio_uring.open_file(tmp_path / "f", "wb", 0, limiter=limiter)
    assert str(caught.value) == str(expected.value)
    assert not (tmp_path / "f").exists()


async def test_limiter_bounds_threads_and_nothing_else(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    limiter = anyio.CapacityLimiter(1)
    done = []

    async def use(file: anyio_uring.AsyncFile[bytes]) -> None:
        done.append(await file.write(b"abc"))

    async with await anyio_uring.open_file(path, "r+b", 0, limiter=limiter) as file:
        assert file.limiter is limiter
        assert limiter.borrowed_tokens == 0
        await limiter.acquire_on_behalf_of(path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use, file)
            if not tiers.ring:
                await until(lambda: limiter.statistics().tasks_waiting == 1)
                assert done == []
            else:
                await until(lambda: done == [3])
            limiter.release_on_behalf_of(path)
        assert done == [3]


async def test_opener_runs_under_the_limiter(tiers: Tiers, tmp_path: Path) -> None:
    limiter = anyio.CapacityLimiter(1)
    borrowed = []

    def opener(path: str, flags: int) -> int:
        borrowed.append(limiter.borrowed_tokens)
        return os.open(path, flags)

    file = await anyio_uring.open_file(tmp_path / "f", "wb", 0, opener=opener, limiter=limiter)
    await file.aclose()
    assert borrowed == [1]
