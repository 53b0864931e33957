"""`Path` beside `pathlib.Path`: the same results, errors and trees."""

from __future__ import annotations

import inspect
import os
import pathlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers

from anyio_uring import Path, statistics

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("tiers")]


def build(root: pathlib.Path) -> None:
    """One of everything."""
    root.mkdir()
    (root / "file").write_bytes(b"line\r\nother\n")
    (root / "empty").write_bytes(b"")
    (root / "text").write_text("größe\nzwei\n", encoding="utf-8")
    (root / "bad").write_bytes(b"\xff\xfe")
    (root / "dir").mkdir()
    (root / "dir" / "a.py").write_bytes(b"a")
    (root / "dir" / "sub").mkdir()
    (root / "dir" / "sub" / "b.py").write_bytes(b"b")
    (root / "void").mkdir()
    (root / "link").symlink_to("file")
    (root / "dirlink").symlink_to("dir")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket"))


def snapshot(root: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for folder, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = pathlib.Path(folder, name)
            facts = path.lstat()
            content = None
            if path.is_symlink():
                content = os.readlink(path).replace(str(root), "ROOT")
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(root))] = (oct(facts.st_mode), facts.st_nlink, content)
    return found


def plain(value: Any, root: pathlib.Path) -> Any:
    """A result without what must differ between the two trees."""
    if isinstance(value, os.stat_result):
        return (value.st_mode, value.st_nlink, value.st_uid, value.st_size, value.st_blksize)
    if isinstance(value, anyio.Path | PurePosixPath):
        return "path", str(value).replace(str(root), "ROOT")
    if isinstance(value, str):
        return value.replace(str(root), "ROOT")
    if isinstance(value, list):
        return sorted(plain(item, root) for item in value)
    if isinstance(value, tuple):
        return tuple(plain(item, root) for item in value)
    return value


def outcome(error: BaseException, root: pathlib.Path) -> Any:
    if isinstance(error, OSError):
        return (
            type(error),
            error.errno,
            error.strerror,
            plain(error.filename, root),
            plain(error.filename2, root),
        )
    return type(error), str(error).replace(str(root), "ROOT")


async def collect(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "stat": lambda p: p.stat(),
    "stat link": lambda p: p.stat(follow_symlinks=False),
    "lstat": lambda p: p.lstat(),
    "exists": lambda p: p.exists(),
    "is_dir": lambda p: p.is_dir(),
    "is_file": lambda p: p.is_file(),
    "is_symlink": lambda p: p.is_symlink(),
    "is_socket": lambda p: p.is_socket(),
    "is_fifo": lambda p: p.is_fifo(),
    # (pathlib of 3.11 has one of its own; AnyIO asks os.path)
    "is_mount": lambda p: p.is_mount() if isinstance(p, anyio.Path) else os.path.ismount(p),
    "is_block_device": lambda p: p.is_block_device(),
    "is_char_device": lambda p: p.is_char_device(),
    "samefile": lambda p: p.samefile(str(p.parent / "file")),
    "samefile path": lambda p: p.samefile(p.parent / "dir"),
    "samefile no": lambda p: p.samefile(p.parent / "nowhere"),
    "mkdir": lambda p: p.mkdir(),
    "mkdir mode": lambda p: p.mkdir(0o700),
    "mkdir exist_ok": lambda p: p.mkdir(exist_ok=True),
    "mkdir parents": lambda p: (p / "x" / "y").mkdir(parents=True),
    "mkdir parents exist_ok": lambda p: p.mkdir(parents=True, exist_ok=True),
    "mkdir below": lambda p: (p / "x").mkdir(),
    "rmdir": lambda p: p.rmdir(),
    "unlink": lambda p: p.unlink(),
    "unlink missing_ok": lambda p: p.unlink(missing_ok=True),
    "rename": lambda p: p.rename(p.parent / "renamed"),
    "rename onto a file": lambda p: p.rename(str(p.parent / "empty")),
    "rename onto a directory": lambda p: p.rename(p.parent / "void"),
    "rename into itself": lambda p: p.rename(p / "x"),
    "replace": lambda p: p.replace(p.parent / "empty"),
    "symlink_to": lambda p: p.symlink_to("file"),
    "symlink_to bytes": lambda p: (p.parent / "new").symlink_to(b"anything"),
    "symlink_to path": lambda p: (p.parent / "new").symlink_to(p),
    "hardlink_to": lambda p: (p.parent / "new").hardlink_to(p),
    "hardlink_to file": lambda p: p.hardlink_to(p.parent / "file"),
    "touch": lambda p: p.touch(),
    "touch exclusive": lambda p: p.touch(exist_ok=False),
    "readlink": lambda p: p.readlink(),
    "resolve": lambda p: p.resolve(),
    "chmod": lambda p: p.chmod(0o600),
    "iterdir": lambda p: p.iterdir(),
    "glob": lambda p: p.glob("*"),
    "glob deep": lambda p: p.glob("*/*.py"),
    "glob empty": lambda p: p.glob(""),
    "glob absolute": lambda p: p.glob("/x"),
    "rglob": lambda p: p.rglob("*.py"),
}
FILE_OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "read_bytes": lambda p: p.read_bytes(),
    "read_text": lambda p: p.read_text("utf-8"),
    "read_text errors": lambda p: p.read_text("ascii", "replace"),
    "read_text no encoding": lambda p: p.read_text("nonsense"),
    "write_bytes": lambda p: p.write_bytes(b"new content"),
    "write_bytes memoryview": lambda p: p.write_bytes(memoryview(b"new content")),
    "write_bytes str": lambda p: p.write_bytes("text"),
    "write_text": lambda p: p.write_text("a\nö\n", "utf-8", newline="\r\n"),
    "write_text bytes": lambda p: p.write_text(b"bytes"),
    "write_text cannot": lambda p: p.write_text("ö", "ascii"),
}
NAMES = ["file", "empty", "text", "bad", "dir", "void", "link", "dirlink", "dangling", "loop"]
NAMES += ["fifo", "socket", "nowhere", "file/below", "dir/../file", "n\0l", "x" * 300]


@pytest.mark.hosts("asyncio", "uvloop", "trio")
@pytest.mark.parametrize("name", NAMES, ids=[name[:20].replace("\0", "NUL") for name in NAMES])
async def test_every_operation_on_everything(tmp_path: pathlib.Path, name: str) -> None:
    operations = dict(OPERATIONS)
    if name != "fifo":  # to open one is to wait for its other end
        operations.update(FILE_OPERATIONS)
    for number, (title, operation) in enumerate(operations.items()):
        theirs, ours = tmp_path / f"theirs{number}", tmp_path / f"ours{number}"
        build(theirs)
        build(ours)
        expected: Any
        try:
            result = operation(theirs / name)
            if inspect.isgenerator(result) or hasattr(result, "__next__"):
                result = list(result)
            expected = plain(result, theirs)
        except Exception as error:  # noqa: BLE001
            expected = outcome(error, theirs)
        try:
            result = operation(Path(ours / name))
            if hasattr(result, "__anext__"):
                result = await collect(result)
            else:
                result = await result
            found = plain(result, ours)
        except Exception as error:  # noqa: BLE001
            found = outcome(error, ours)
        assert found == expected, title
        assert snapshot(ours) == snapshot(theirs), title


async def test_stat_is_complete(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1_234_567_890_123_456_789, -5))
    assert await Path(path).stat() == os.stat(path)
    mine, theirs = await Path(path).stat(), os.stat(path)
    for field in dir(theirs):
        if field.startswith("st_"):
            assert getattr(mine, field) == getattr(theirs, field), field
    assert list(mine) == list(theirs)


async def test_device_numbers() -> None:
    mine, theirs = await Path("/dev/null").stat(), os.stat("/dev/null")
    assert (mine.st_rdev, mine.st_dev) == (theirs.st_rdev, theirs.st_dev)
    assert await Path("/dev/null").is_char_device()


async def test_paths_made_of_it_keep_class_and_limiter(tmp_path: pathlib.Path) -> None:
    class Own(Path):
        pass

    limiter = anyio.CapacityLimiter(1)
    path = Own(tmp_path, limiter=limiter)
    (tmp_path / "a").write_bytes(b"x")
    made: list[Any] = [path / "a", await (path / "a").rename(tmp_path / "b"), path.parent]
    made += [found async for found in path.iterdir()]
    made += [found async for found in path.glob("*")]
    made += [found async for found in path.rglob("*")]
    made.append(await (path / "b").replace(str(tmp_path / "c")))
    for found in made:
        assert type(found) is Own
        assert found.limiter is limiter
    assert isinstance(path, anyio.Path)
    assert isinstance(path, os.PathLike)
    assert path == tmp_path
    assert hash(path) == hash(tmp_path)
    assert path < tmp_path / "x"
    async with await (path / "c").open("rb") as file:
        assert file.limiter is limiter


async def test_large_files(tmp_path: pathlib.Path) -> None:
    data = os.urandom(1 << 20) * 5 + b"end"
    path = Path(tmp_path / "large")
    assert await path.write_bytes(data) == len(data)
    assert await path.read_bytes() == data
    assert await path.read_text("latin-1") == (tmp_path / "large").read_text("latin-1")


async def test_files_without_a_size() -> None:
    assert (await Path("/proc/self/status").read_bytes()).startswith(b"Name:")


async def test_fifo_is_read_to_its_end(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def write() -> None:
        await anyio.to_thread.run_sync((tmp_path / "fifo").write_bytes, b"through the pipe")

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        assert await Path(tmp_path / "fifo").read_bytes() == b"through the pipe"


@pytest.mark.parametrize("count", [0, 1, 64, 65, 3000])
async def test_lists_of_many_entries(tmp_path: pathlib.Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"{number}.txt").touch()
    expected = sorted(tmp_path.iterdir())
    before = statistics().thread
    assert sorted([path async for path in Path(tmp_path).iterdir()]) == expected
    assert statistics().thread - before <= 2 + count // 500  # many entries in one hop
    assert sorted([path async for path in Path(tmp_path).glob("*.txt")]) == expected


async def test_stopping_early_closes_the_directory(tmp_path: pathlib.Path) -> None:
    for number in range(500):
        (tmp_path / str(number)).mkdir()
    before = sorted(os.listdir("/proc/self/fd"))
    for iterator in Path(tmp_path).iterdir(), Path(tmp_path).rglob("*"):
        async for _ in iterator:
            break
        await iterator.aclose()  # type: ignore[attr-defined]
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Path.walk is newer")
@pytest.mark.parametrize("top_down", [True, False])
async def test_walk(tmp_path: pathlib.Path, top_down: bool) -> None:
    build(tmp_path / "tree")
    path: Any = Path(tmp_path / "tree")
    found = [(str(root), sorted(d), sorted(f)) async for root, d, f in path.walk(top_down)]
    theirs: Any = tmp_path / "tree"
    expected = [(str(root), sorted(d), sorted(f)) for root, d, f in theirs.walk(top_down)]
    assert found == expected


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Path.walk is newer")
async def test_walk_can_be_pruned_and_tells_errors(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree")
    path: Any = Path(tmp_path / "tree")
    seen = []
    async for root, directories, _ in path.walk():
        assert type(root) is Path
        seen.append(root.name)
        if root.name == "tree":
            directories[:] = ["dir"]
            (tmp_path / "tree" / "dir" / "late").mkdir()
    assert sorted(seen) == ["dir", "late", "sub", "tree"]
    errors: list[OSError] = []
    async for _ in Path(tmp_path / "none").walk(on_error=errors.append):  # type: ignore[attr-defined]
        pytest.fail("there is nothing to be walked")
    assert [type(error) for error in errors] == [FileNotFoundError]


MUTATIONS: list[Callable[[Path], Awaitable[Any]]] = [
    lambda root: (root / "new").mkdir(),
    lambda root: (root / "void").rmdir(),
    lambda root: (root / "file").unlink(),
    lambda root: (root / "file").rename(root / "other"),
    lambda root: (root / "file").replace(root / "other"),
    lambda root: (root / "new").symlink_to("file"),
    lambda root: (root / "new").hardlink_to(root / "file"),
    lambda root: (root / "new").touch(),
    lambda root: (root / "file").write_bytes(b"other"),
    lambda root: (root / "file").write_text("other"),
    lambda root: (root / "file").read_bytes(),
    lambda root: (root / "file").read_text(),
    lambda root: (root / "file").stat(),
    lambda root: (root / "file").exists(),
    lambda root: collect(root.iterdir()),
    lambda root: collect(root.glob("*")),
]


@pytest.mark.parametrize("operation", MUTATIONS, ids=range(len(MUTATIONS)))
async def test_cancelled_before_it_begins(
    tmp_path: pathlib.Path, operation: Callable[[Path], Awaitable[Any]]
) -> None:
    build(tmp_path / "tree")
    before = snapshot(tmp_path / "tree")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await operation(Path(tmp_path / "tree"))
        pytest.fail("not cancelled")
    assert scope.cancelled_caught
    assert snapshot(tmp_path / "tree") == before


async def test_which_tier_serves(tmp_path: pathlib.Path, tiers: Tiers) -> None:
    path = Path(tmp_path / "file")
    await path.write_bytes(b"12")
    before = statistics()
    await path.stat()
    await path.read_bytes()
    middle = statistics()
    if tiers.now:
        assert middle.now - before.now == 2
        assert (middle.ring, middle.thread) == (before.ring, before.thread)
    await path.rename(tmp_path / "other")
    await Path(tmp_path / "other").unlink()
    await Path(tmp_path / "new").mkdir()
    await Path(tmp_path / "new").rmdir()
    after = statistics()
    if tiers.ring:
        assert after.ring - middle.ring == 4
        assert after.thread == middle.thread
    else:
        assert after.thread - middle.thread == 4
