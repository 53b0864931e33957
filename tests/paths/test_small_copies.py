"""Small files of a tree that is copied: compiled code copies them together, and leaves the odd."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
from contextlib import suppress
from typing import Any

import anyio
import pytest

from anyio_uring import _chunks, _trees, copy_tree
from anyio_uring._handle import COMPILED
from anyio_uring._many import copy_chunk

if COMPILED:
    from anyio_uring import _uring

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("thread"),  # threads do it, whatever the driver
    pytest.mark.hosts("asyncio", "trio"),
]

MOST = 256 << 10
SIZES = {"void": 0, "one": 1, "page": 4096, "odd": 4097, "most": MOST, "more": MOST + 1}


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def facts(root: pathlib.Path, times: bool) -> dict[str, Any]:
    found = {}
    for path in root.iterdir():
        status = path.lstat()
        found[path.name] = status.st_mode, path.read_bytes(), os.listxattr(path)
        if times:
            found[path.name] += (status.st_mtime_ns, status.st_atime_ns)
    return found


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What compiled code has copied, or given up, by name."""
    found: dict[str, int] = {}

    def remember(names: list[str], *args: Any) -> tuple[list[int], bool, bool]:
        results = copy_chunk(names, *args)
        found.update(zip(names, results[0], strict=True))
        return results

    monkeypatch.setattr(_trees, "copy_chunk", remember)
    return found


def build(tree: pathlib.Path) -> None:
    tree.mkdir()
    for name, size in SIZES.items():
        (tree / name).write_bytes(os.urandom(size))
    for name, mode in [("suid", 0o4755), ("group", 0o640), ("sticky", 0o1777), ("none", 0o400)]:
        (tree / name).write_bytes(name.encode())
        (tree / name).chmod(mode)
    (tree / "named").write_bytes(b"with an attribute")
    with suppress(OSError):  # not on tmpfs before Linux 6.6
        os.setxattr(tree / "named", "user.test", b"value")
    with (tree / "holes").open("wb") as file:
        file.truncate(MOST // 2)
    (tree / "name \udcff\n").write_bytes(b"of a kind")
    for number, path in enumerate(sorted(tree.iterdir())):
        os.utime(path, ns=(10**18 + number, number - 5 + 10**9 * (number - 3)))


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
async def test_small_copies_are_those_of_shutil(
    tmp_path: pathlib.Path, quickly: dict[str, int], metadata: bool, umask: int
) -> None:
    build(tmp_path / "tree")
    before = descriptors()
    umask = os.umask(umask)
    try:
        copy = shutil.copy2 if metadata else shutil.copyfile
        shutil.copytree(tmp_path / "tree", tmp_path / "theirs", copy_function=copy)
        for path in (tmp_path / "tree").iterdir():
            status = (tmp_path / "theirs" / path.name).stat()
            if metadata:  # reading them has changed the times of access
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        await copy_tree(tmp_path / "tree", tmp_path / "ours", metadata=metadata)
    finally:
        os.umask(umask)
    ours, theirs = (facts(tmp_path / name, metadata) for name in ["ours", "theirs"])
    assert ours == theirs
    assert descriptors() == before
    if COMPILED:
        slow = {name for name, size in quickly.items() if size < 0}
        assert slow - {"more", "holes"} == ({"named"} if metadata else set())
        for name, size in quickly.items():
            if name not in slow:
                assert size == len(theirs[name][1])
        assert len(quickly) > 10


@pytest.mark.skipif(not COMPILED, reason="about the compiled form")
async def test_name_that_is_taken_meanwhile(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")

    def take_one(names: list[str], *args: Any) -> tuple[list[int], bool, bool]:
        for name in {"page", "odd"} & set(names):
            (tmp_path / "copy" / name).write_bytes(b"another's")
        return copy_chunk(names, *args)

    monkeypatch.setattr(_trees, "copy_chunk", take_one)
    await copy_tree(tmp_path / "tree", tmp_path / "copy")
    for name in SIZES:
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "tree" / name).read_bytes()
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        path.name for path in (tmp_path / "tree").iterdir()
    }


@pytest.mark.skipif(not COMPILED, reason="about the compiled form")
async def test_what_is_given_up_leaves_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    os.mkfifo(tmp_path / "source" / "fifo")
    (tmp_path / "source" / "link").symlink_to("file")
    (tmp_path / "source" / "folder").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"content")
    proc, source, target = (
        os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for path in ["/proc", tmp_path / "source", tmp_path / "target"]
    )
    names = ["fifo", "link", "folder", "nowhere", "file"]
    before = descriptors()
    try:
        copies = _uring.copy_many(names, source, target, True, False)
        assert copies == ([-1, -1, -1, -1, 7], False, False)
        # A file that says it is empty and is not; a directory that takes no files without a name
        assert _uring.copy_many(["cmdline"], proc, target, False, False) == ([-1], False, False)
        assert _uring.copy_many(["file"] * 2, source, proc, False, True) == ([-1] * 2, True, True)
        assert _uring.copy_many(["file"], source, -1, False, False) == ([-1], False, False)
        assert _uring.copy_many([], source, target, True, True) == ([], True, False)
        # The name is taken, also by a symlink to nowhere
        assert _uring.copy_many(["file"], source, target, True, False) == ([-1], False, False)
        (tmp_path / "target" / "file").unlink()
        (tmp_path / "target" / "file").symlink_to("nowhere")
        assert _uring.copy_many(["file"], source, target, True, False) == ([-1], False, False)
    finally:
        after = descriptors()
        for descriptor in (proc, source, target):
            os.close(descriptor)
    assert after == before
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["file"]


@pytest.mark.parametrize("refused", [True, False])
async def test_a_target_that_refuses_is_not_asked_for_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    for folder in ["tree", "tree/folder"]:
        (tmp_path / folder).mkdir()
        for number in range(100):
            (tmp_path / folder / f"{number:03}").write_bytes(b"%d" % number)
    tries: list[str] = []

    def refuse(names: list[str], *_: Any) -> tuple[list[int], bool, bool]:
        tries.extend(names)
        return [-1] * len(names), False, refused

    monkeypatch.setattr(_chunks, "PARALLEL_MAX", 1)
    monkeypatch.setattr(_trees, "copy_chunk", refuse)
    await copy_tree(tmp_path / "tree", tmp_path / "copy")
    assert len(tries) == (_trees.QUICK_FILES if refused else 200)
    assert len(list((tmp_path / "copy").rglob("???"))) == 200


@pytest.mark.skipif(not COMPILED, reason="about the compiled form")
@pytest.mark.parametrize("odd", ["empty", "link", "big", "attribute"])
async def test_odd_neighbours_do_not_slow_the_others(
    tmp_path: pathlib.Path, quickly: dict[str, int], odd: str
) -> None:
    for folder in ["tree", "tree/folder"]:
        (tmp_path / folder).mkdir()
        for number in range(100):
            path = tmp_path / folder / f"{number:03}"
            if odd == "link" and number % 2:
                path.symlink_to("000")
                continue
            path.write_bytes(b"content")
            if odd == "empty" and number % 2:
                path.write_bytes(b"")
            elif odd == "big" and folder == "tree":
                path.write_bytes(bytes(MOST + 1))
            elif odd == "attribute" and folder == "tree":
                os.setxattr(path, "user.test", b"value")
    await copy_tree(tmp_path / "tree", tmp_path / "copy")
    copied = [path.name for path in (tmp_path / "tree" / "folder").iterdir() if path.is_file()]
    plain = {name for name in copied if not (tmp_path / "tree" / "folder" / name).is_symlink()}
    assert {name for name, size in quickly.items() if size >= 0} >= plain


KILLED = """
import os, signal, sys, threading
import anyio, anyio_uring
from anyio_uring import _trees
copy_chunk, calls = _trees.copy_chunk, 0

def die_meanwhile(*args):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        delay = threading.Timer(calls % 5 / 1000, os.kill, (os.getpid(), signal.SIGKILL))
        delay.start()
    return copy_chunk(*args)

_trees.copy_chunk = die_meanwhile
anyio.run(anyio_uring.copy_tree, sys.argv[1], sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.hosts("asyncio")
@pytest.mark.parametrize("when", [1, 2, 4, 8, 14])
async def test_killed_it_leaves_whole_files(tmp_path: pathlib.Path, when: int) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(500):
        (tmp_path / "tree" / f"{number}").write_bytes(b"%d" % number * 5000)
    command = [sys.executable, "-c", KILLED, tmp_path / "tree", tmp_path / "copy", str(when)]
    await anyio.run_process(command, check=False, stdout=None, stderr=None)
    found = list((tmp_path / "copy").iterdir())
    assert found or when < 4
    for path in found:
        if COMPILED or not path.name.startswith(".copy-"):
            assert path.read_bytes() == (tmp_path / "tree" / path.name).read_bytes()


async def test_small_copies_on_every_file_system(
    somewhere: tuple[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, directory = somewhere
    tree, copy = directory / "tree", directory / "copy"
    for path in (tree, copy):
        shutil.rmtree(path, ignore_errors=True)
    build(tree)
    results = []

    def remember(*args: Any) -> Any:
        results.append(copy_chunk(*args))
        return results[-1]

    monkeypatch.setattr(_trees, "copy_chunk", remember)
    await copy_tree(tree, copy)
    assert facts(copy, False) == facts(tree, False)
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == {
        path.name: path.stat().st_mtime_ns for path in tree.iterdir()
    }
    if COMPILED:
        assert sum(size >= 0 for result in results for size in result[0]) > 6
        assert all(result[1] == (kind in {"xfs", "btrfs"}) for result in results)
    (copy / "page").write_bytes(b"changed")
    assert (tree / "page").stat().st_size == 4096
