"""Trees of one of everything, and the operations on paths that are compared on them.

The same calls on a `pathlib.Path` and on one of ours, in two trees that begin the same.
"""

from __future__ import annotations

import inspect
import os
import pathlib
import socket
import stat
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import anyio

from anyio_uring import statistics

if TYPE_CHECKING:
    from tests.conftest import Tiers

__all__ = ["CALLS", "NAMES", "build", "check_tiers", "same_as_pathlib", "settled", "snapshot"]


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
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            content: Any = None
            if stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path).replace(str(root), "ROOT")
            elif stat.S_ISREG(facts.st_mode):
                with open(path, "rb", 0) as file:
                    content = file.read()
            place = path.removeprefix(f"{root}/")
            found[place] = (oct(facts.st_mode), facts.st_nlink, content)
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


async def settled(result: Any) -> Any:
    """What a call gives in the end, however it is to be waited for or stepped through."""
    if inspect.isawaitable(result):
        result = await result
    if hasattr(result, "__anext__"):
        return [item async for item in result]
    return list(result) if hasattr(result, "__next__") else result


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


async def same_as_pathlib(
    folder: pathlib.Path, name: str, flavour: Callable[[pathlib.Path], Any]
) -> None:
    """Every operation on the entry of this name: results, errors and trees must not differ."""
    operations = dict(OPERATIONS)
    if name != "fifo":  # to open one is to wait for its other end
        operations.update(FILE_OPERATIONS)
    build(folder / "new")
    as_new = snapshot(folder / "new")
    theirs = ours = folder / "new"
    is_new = False  # whether both are as they were made, for the next operation as well
    for number, (title, operation) in enumerate(operations.items()):
        if not is_new:
            theirs, ours = folder / f"theirs{number}", folder / f"ours{number}"
            build(theirs)
            build(ours)
        found = []
        for root, path in (theirs, theirs / name), (ours, flavour(ours / name)):
            try:
                found.append(plain(await settled(operation(path)), root))
            except Exception as error:  # noqa: BLE001
                found.append(outcome(error, root))
        assert found[1] == found[0], title
        left = snapshot(ours)
        assert left == snapshot(theirs), title
        is_new = left == as_new


# On the root of such a tree: calls that are cancelled before they begin, and leave it as it is
CALLS: list[Callable[[Any], Any]] = [
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
    lambda root: settled(root.iterdir()),
    lambda root: settled(root.glob("*")),
]


async def check_tiers(kind: Any, folder: pathlib.Path, tiers: Tiers) -> None:
    """What is cached comes at once, and changes of directories go to the ring, if they may."""
    path = kind(folder / "file")
    await path.write_bytes(b"12")
    before = statistics()
    assert (await path.stat()).st_size == 2
    assert await path.read_bytes() == b"12"
    middle = statistics()
    if tiers.now:
        assert middle.now - before.now == 2
        assert (middle.ring, middle.thread) == (before.ring, before.thread)
    await path.rename(folder / "other")
    await kind(folder / "other").unlink()
    await kind(folder / "new").mkdir()
    await kind(folder / "new").rmdir()
    after = statistics()
    if tiers.ring:
        assert after.ring - middle.ring == 4
        assert after.thread == middle.thread
    else:
        assert after.thread - middle.thread == 4
