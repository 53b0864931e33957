"""`copy_file` beside `shutil.copyfile`: the same copies and errors, and never half of one."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from anyio_uring import _chunks, _copy, copy_file

# Threads do the work in every cell: two columns show that the driver makes no difference
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No descriptor stays open, and no temporary stays in the test's directory."""
    path = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if path is not None:
        assert list(path.rglob(".copy-*")) == []
        assert open_below(path) == []


def open_below(path: pathlib.Path) -> list[str]:
    """What this process has open there."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        if target.startswith(str(path)):
            found.append(target)
    return found


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece in each hop."""
    monkeypatch.setattr(_chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(_copy, "PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(_copy, "BUFFER_BYTES", 64 << 10)


def build(root: pathlib.Path) -> None:
    """One of everything."""
    root.mkdir()
    (root / "file").write_bytes(b"content" * 1000)
    os.chmod(root / "file", 0o751)
    os.utime(root / "file", ns=(1_234_567_890_123_456_789, 987_654_321_123_456_789))
    os.setxattr(root / "file", "user.test", b"value")
    (root / "other").write_bytes(b"something longer" * 1000)
    os.chmod(root / "other", 0o640)
    (root / "empty").write_bytes(b"")
    for name in ["other", "empty"]:
        os.utime(root / name, ns=(1, 2))
    (root / "dir").mkdir()
    (root / "link").symlink_to("file")
    (root / "link2").symlink_to("other")
    (root / "dangling").symlink_to("created")
    (root / "astray").symlink_to("nowhere/created")
    (root / "loop").symlink_to("loop")
    (root / "hard").hardlink_to(root / "file")
    os.mkfifo(root / "fifo")


def snapshot(root: pathlib.Path, times: bool, other_link: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        if path.name == other_link:
            continue
        facts = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path).replace(str(root), "ROOT")
        elif path.is_file():
            content = path.read_bytes(), os.listxattr(path)
            if times:
                content += (facts.st_mtime_ns,)
        found[str(path.relative_to(root))] = (oct(facts.st_mode), content)
    return found


SOURCES = ["file", "other", "empty", "dir", "link", "dangling", "loop", "fifo", "nowhere"]
SOURCES += ["file/below", "n\0l"]
TARGETS = ["new", "file", "other", "empty", "dir", "link", "link2", "dangling", "astray", "loop"]
TARGETS += ["fifo", "hard", "nowhere/new", "file/below", "new/", "dir/new", "x" * 300, "", "n\0l"]
TARGETS += ["y" * 255, "dir/../new"]


@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.parametrize("source", SOURCES, ids=[name.replace("\0", "NUL") for name in SOURCES])
@pytest.mark.parametrize("follow", [True, False])
async def test_everything_onto_everything_is_as_with_shutil(
    tmp_path: pathlib.Path, source: str, follow: bool
) -> None:
    for number, target in enumerate(TARGETS):
        metadata = bool(number % 2)
        theirs, ours = tmp_path / f"theirs{number}", tmp_path / f"ours{number}"
        build(theirs)
        build(ours)
        expected: Any = None
        original, copy = str(theirs / source), join(theirs, target)
        try:
            shutil.copyfile(original, copy, follow_symlinks=follow)
            if metadata:
                shutil.copystat(original, copy, follow_symlinks=follow)
        except (OSError, ValueError) as error:
            expected = outcome(error, theirs)
        found = None
        try:
            await copy_file(
                ours / source, join(ours, target), follow_symlinks=follow, metadata=metadata
            )
        except (OSError, ValueError) as error:
            found = outcome(error, ours)
        assert found == expected, target
        # Ours leaves what was there to its other links
        other = "file" if target == "hard" else "hard"
        assert snapshot(ours, metadata, other) == snapshot(theirs, metadata, other), target
        shutil.rmtree(theirs)
        shutil.rmtree(ours)


def join(root: pathlib.Path, name: str) -> str:
    return f"{root}/{name}" if name else ""


def outcome(error: Exception, root: pathlib.Path) -> Any:
    if not isinstance(error, OSError) or isinstance(error, shutil.Error):
        return type(error), str(error).replace(str(root), "ROOT")
    name = str(error.filename).replace(str(root), "ROOT")
    if str(error).startswith("Directory does not exist"):
        name = str(error).rpartition(": ")[2].replace(str(root), "ROOT")
        return type(error), errno.ENOENT, name
    return type(error), error.errno, name


async def test_other_hard_links_keep_what_was_there(tmp_path: pathlib.Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    os.chmod(tmp_path / "old", 0o604)
    (tmp_path / "hard").hardlink_to(tmp_path / "old")
    await copy_file(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"new"
    assert (tmp_path / "hard").read_bytes() == b"old"
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o604


async def test_owner_is_kept_as_by_writing(tmp_path: pathlib.Path) -> None:
    if os.getuid():
        pytest.skip("only root can give files away")
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    os.chown(tmp_path / "old", 12345, 54321)
    os.chmod(tmp_path / "old", 0o4755)
    await copy_file(os.fsencode(tmp_path / "new"), os.fsencode(tmp_path / "old"))
    facts = (tmp_path / "old").stat()
    assert (facts.st_uid, facts.st_gid) == (12345, 54321)
    assert stat.S_IMODE(facts.st_mode) == 0o4755


async def test_special_files_are_refused_without_being_opened(tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    for special in [tmp_path / "socket", pathlib.Path("/dev/zero")]:
        with pytest.raises(shutil.SpecialFileError, match=str(special)):
            await copy_file(special, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_device_as_target_is_written_to(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    await copy_file(tmp_path / "file", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


async def test_file_without_a_size_is_copied_to_its_end(tmp_path: pathlib.Path) -> None:
    await copy_file("/proc/self/mounts", tmp_path / "mounts")
    assert (tmp_path / "mounts").read_bytes() == pathlib.Path("/proc/self/mounts").read_bytes()
    await copy_file("/sys/kernel/mm/transparent_hugepage/enabled", tmp_path / "sys")
    assert b"always" in (tmp_path / "sys").read_bytes()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("ranges", [True, False], ids=["copy_file_range", "plain"])
async def test_progress_is_told_between_chunks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    if not ranges:
        monkeypatch.delattr(os, "copy_file_range")
    monkeypatch.setattr(_copy, "_clone", lambda *_: False)
    data = os.urandom(300_000)
    (tmp_path / "file").write_bytes(data)
    told: list[tuple[int, int]] = []
    await copy_file(
        tmp_path / "file",
        tmp_path / "copy",
        progress=lambda done, total: told.append((done, total)),
    )
    assert (tmp_path / "copy").read_bytes() == data
    assert told == [(done, 300_000) for done in [65536, 131072, 196608, 262144, 300_000]]
    (tmp_path / "empty").touch()
    told.clear()
    await copy_file(tmp_path / "empty", tmp_path / "copy", progress=lambda *now: told.append(now))
    assert told == [(0, 0)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("exists", [True, False])
async def test_cancelled_in_the_middle_leaves_the_target_as_it_was(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    monkeypatch.setattr(_copy, "_clone", lambda *_: False)
    (tmp_path / "file").write_bytes(bytes(500_000))
    if exists:
        (tmp_path / "copy").write_bytes(b"old")
    told = []

    def cancel(done: int, total: int) -> None:
        told.append(done)
        assert len(list(tmp_path.glob(".copy-*.tmp"))) == 1
        if len(told) == 2:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await copy_file(tmp_path / "file", tmp_path / "copy", progress=cancel)
    assert scope.cancelled_caught
    assert len(told) == 2
    assert (tmp_path / "copy").exists() is exists
    assert not exists or (tmp_path / "copy").read_bytes() == b"old"


async def test_cancelled_before_it_begins_does_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await copy_file(tmp_path / "file", tmp_path / "copy")
    assert scope.cancelled_caught
    assert not (tmp_path / "copy").exists()


@pytest.mark.usefixtures("small_chunks")
async def test_exception_of_progress_ends_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_copy, "_clone", lambda *_: False)
    (tmp_path / "file").write_bytes(bytes(500_000))

    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError(done)

    with pytest.raises(ZeroDivisionError, match="65536"):
        await copy_file(tmp_path / "file", tmp_path / "copy", progress=fail)
    assert not (tmp_path / "copy").exists()


@pytest.mark.hosts("asyncio", "uvloop")
@pytest.mark.usefixtures("small_chunks")
async def test_native_cancel_leaves_nothing_behind(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_copy, "_clone", lambda *_: False)
    (tmp_path / "file").write_bytes(bytes(500_000))
    tasks: list[asyncio.Task[None]] = []
    copying = copy_file(
        tmp_path / "file", tmp_path / "copy", progress=lambda *_: tasks[0].cancel("natively")
    )
    tasks.append(asyncio.ensure_future(copying))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    while list(tmp_path.glob(".copy-*")):  # the thread may still be at it
        await anyio.lowlevel.checkpoint()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("step", ["write", "rename"])
async def test_failure_names_the_files_and_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "inner name")

    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "copy").write_bytes(b"old")
    monkeypatch.setattr(_copy, "_clone", lambda *_: False)
    monkeypatch.setattr(os, "copy_file_range" if step == "write" else "replace", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        await copy_file(tmp_path / "file", tmp_path / "copy")
    assert caught.value.errno == errno.ENOSPC
    names = [str(tmp_path / "file"), str(tmp_path / "copy")]
    if step == "rename":
        names = [names[1], None]  # type: ignore[list-item]
    assert [caught.value.filename, caught.value.filename2] == names
    assert (tmp_path / "copy").read_bytes() == b"old"


# -- file systems ---------------------------------------------------------------------------------


@pytest.mark.hosts("asyncio", "trio")
async def test_holes_stay_holes(somewhere: tuple[str, pathlib.Path]) -> None:
    kind, directory = somewhere
    source, target = directory / "sparse", directory / "copy"
    with source.open("wb") as file:
        for offset in [1 * MIB, 5 * MIB + 123]:
            file.seek(offset)
            file.write(os.urandom(70_000))
        file.truncate(16 * MIB + 1)
    for ranges in [True, False]:
        with pytest.MonkeyPatch.context() as patch:
            if not ranges:
                patch.delattr(os, "copy_file_range")
                patch.setattr(_copy, "_clone", lambda *_: False)
            await copy_file(source, target)
        assert target.read_bytes() == source.read_bytes()
        os.sync()
        assert target.stat().st_blocks * 512 < 2 * MIB, (kind, ranges)
    with source.open("wb") as file:
        file.truncate(3 * MIB)
    await copy_file(source, target)
    assert target.read_bytes() == bytes(3 * MIB)
    assert target.stat().st_blocks * 512 < MIB
    assert [path.name for path in directory.glob(".copy-*")] == []


@pytest.mark.hosts("asyncio", "trio")
async def test_blocks_are_shared_where_the_file_system_can(
    somewhere: tuple[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, directory = somewhere
    source, target = directory / "original", directory / "clone"
    source.write_bytes(os.urandom(4 * MIB))

    def transferred(*_: Any) -> int:
        raise AssertionError("copied, not cloned")

    if kind in {"btrfs", "xfs"}:
        monkeypatch.setattr(os, "copy_file_range", transferred)
        monkeypatch.setattr(_copy, "_copy_plainly", transferred)
    await copy_file(source, target)
    assert target.read_bytes() == source.read_bytes()
    with target.open("r+b") as file:
        file.write(b"changed")
    assert source.read_bytes()[:7] != b"changed"


async def test_between_two_file_systems(
    somewhere: tuple[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    data = os.urandom(3 * MIB)
    (somewhere[1] / "here").write_bytes(data)
    await copy_file(somewhere[1] / "here", tmp_path / "there")
    await copy_file(tmp_path / "there", somewhere[1] / "back")
    assert (somewhere[1] / "back").read_bytes() == data


KILLED = """
import os, signal, sys
import anyio, anyio_uring
from anyio_uring import _chunks, _copy
_chunks.CHUNK_BYTES = 1
_copy.PIECE_BYTES = 1 << 16
_copy._clone = lambda *_: False
anyio.run(lambda: anyio_uring.copy_file(
    sys.argv[1], sys.argv[2], progress=lambda *_: os.kill(os.getpid(), getattr(signal, sys.argv[3]))
))
"""


@pytest.mark.hosts("asyncio")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
async def test_process_that_ends_leaves_nothing_under_the_name(
    tmp_path: pathlib.Path, name: str
) -> None:
    (tmp_path / "file").write_bytes(bytes(MIB))
    files = [str(tmp_path / "file"), str(tmp_path / "copy")]
    command = [sys.executable, "-c", KILLED, *files, name]
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, capture_output=True, check=False)
    )
    assert done.returncode != 0
    assert not (tmp_path / "copy").exists()
    if name == "SIGKILL":
        for left in tmp_path.glob(".copy-*"):
            left.unlink()
    else:
        assert b"KeyboardInterrupt" in done.stderr
