"""Trees beside `shutil`: the same copies, removals and errors, whatever others do meanwhile."""

from __future__ import annotations

import errno
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest

from anyio_uring import (
    _chunks,
    _copy,
    _descent,
    _remove,
    _trees,
    copy_tree,
    remove_tree,
    write_files,
)
from anyio_uring._handle import COMPILED

# Threads do the work in every cell: two columns show that the driver makes no difference
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers", "no_leaks"),
    pytest.mark.tiers("auto", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]

some_hosts = pytest.mark.hosts("asyncio", "trio")


@pytest.fixture
def no_leaks(tmp_path: pathlib.Path) -> Iterator[None]:
    """No descriptor stays open, no temporary stays, and what is outside is as it was."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "file").write_bytes(b"precious")
    (outside / "deep" / "file").write_bytes(b"precious")
    yield
    assert snapshot(outside, times=False) == {
        "deep": ("0o40755", None),
        "deep/file": ("0o100644", b"precious"),
        "file": ("0o100644", b"precious"),
    }
    assert list(tmp_path.rglob(".copy-*")) == []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
        assert not target.startswith(str(tmp_path)), target


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in each hop."""
    monkeypatch.setattr(_chunks, "CHUNK_SECONDS", -1)
    monkeypatch.setattr(_remove, "NAMES_MAX", 1)
    monkeypatch.setattr(_trees, "BATCH_ENTRIES", 4)
    monkeypatch.setattr(_copy, "PIECE_BYTES", 4096)


def build(root: pathlib.Path, special: bool = True) -> None:
    """One of everything."""
    (root / "dir" / "sub").mkdir(parents=True)
    (root / "void").mkdir()
    (root / "private").mkdir()
    (root / "private" / "file").write_bytes(b"private")
    (root / "file").write_bytes(b"content" * 1000)
    os.chmod(root / "file", 0o751)
    os.setxattr(root / "file", "user.test", b"value")
    for number in range(20):
        (root / "dir" / "sub" / f"file{number}").write_bytes(b"%d" % number * number)
    (root / "link").symlink_to("file")
    (root / "dirlink").symlink_to("dir")
    (root / "dangling").symlink_to("nowhere")
    if special:
        os.mkfifo(root / "fifo")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(root / "void" / "socket"))
    os.chmod(root / "private", 0o500)
    os.setxattr(root / "dir", "user.test", b"of a directory")
    for number, path in enumerate([*root.rglob("*"), root]):
        os.utime(path, ns=(number, 10**18 + number), follow_symlinks=False)


def snapshot(root: pathlib.Path, times: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in [*root.rglob("*"), root] if times else root.rglob("*"):
        facts = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (oct(facts.st_mode), content)
        if times:
            found[str(path.relative_to(root))] += (facts.st_mtime_ns,)
            if not path.is_symlink():
                found[str(path.relative_to(root))] += (os.listxattr(path),)
    return found


# -- copies ---------------------------------------------------------------------------------------


@some_hosts
@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("exists", [False, True])
async def test_copy_of_everything_is_as_with_shutil(
    tmp_path: pathlib.Path, follow: bool, metadata: bool, exists: bool
) -> None:
    build(tmp_path / "tree")
    if exists:
        for copy in ["theirs", "ours"]:
            (tmp_path / copy / "dir" / "sub").mkdir(parents=True)
            (tmp_path / copy / "dir" / "sub" / "file1").write_bytes(b"old")
            (tmp_path / copy / "file").write_bytes(b"old")
            (tmp_path / copy / "void").write_bytes(b"a file")
            (tmp_path / copy / "private").mkdir()
            os.mkfifo(tmp_path / copy / "dir" / "sub" / "file2")
            for kept in ["void", "dir/sub/file2"]:
                os.utime(tmp_path / copy / kept, ns=(1, 2))
    source = str(tmp_path / "tree")
    with pytest.raises(shutil.Error) as theirs:
        shutil.copytree(
            source,
            str(tmp_path / "theirs"),
            symlinks=not follow,
            copy_function=shutil.copy2 if metadata else shutil.copyfile,
            dirs_exist_ok=exists,
        )
    with pytest.raises(shutil.Error) as ours:
        await copy_tree(
            source,
            str(tmp_path / "ours"),
            follow_symlinks=follow,
            metadata=metadata,
            dirs_exist_ok=exists,
        )

    def reasons(caught: pytest.ExceptionInfo[shutil.Error], name: str) -> Any:
        found = {}
        for original, copy, reason in caught.value.args[0]:
            reason = reason.replace(f"{tmp_path}/{name}", "COPY").replace(str(tmp_path), "ROOT")
            if original.endswith("socket"):
                reason = "it cannot be copied"  # theirs has opened it
            found[str(original), str(copy).replace(name, "COPY")] = reason
        return found

    assert reasons(ours, "ours") == reasons(theirs, "theirs")
    if metadata:
        assert snapshot(tmp_path / "ours") == snapshot(tmp_path / "theirs")
    else:  # shutil copies those of directories and symlinks all the same
        for tree in ["ours", "theirs"]:
            for path in (tmp_path / tree).rglob("*"):
                if path.is_dir():
                    os.chmod(path, 0o755)
        ours_found = snapshot(tmp_path / "ours", times=False)
        assert ours_found == snapshot(tmp_path / "theirs", times=False)


async def test_copy_without_failures_tells_its_progress(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree", special=False)
    told: list[tuple[int, int]] = []
    await copy_tree(
        tmp_path / "tree",
        os.fsencode(tmp_path / "new" / "copy"),
        progress=lambda *now: told.append(now),
    )
    assert snapshot(tmp_path / "new" / "copy") == snapshot(tmp_path / "tree")
    entries = list((tmp_path / "tree").rglob("*"))
    size = sum(path.stat().st_size for path in entries if path.is_file() and not path.is_symlink())
    assert told[-1] == (len(entries), size)
    assert told == sorted(set(told))


@some_hosts
async def test_copy_that_cannot_begin(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree", special=False)
    before = snapshot(tmp_path / "tree")
    with pytest.raises(FileExistsError):
        await copy_tree(tmp_path / "tree", tmp_path / "outside")
    with pytest.raises(FileExistsError):
        await copy_tree(tmp_path / "tree", tmp_path / "tree" / "file", dirs_exist_ok=True)
    with pytest.raises(FileNotFoundError):
        await copy_tree(tmp_path / "nowhere", tmp_path / "copy")
    with pytest.raises(NotADirectoryError):
        await copy_tree(tmp_path / "tree" / "file", tmp_path / "copy")
    with pytest.raises(shutil.SameFileError):
        await copy_tree(tmp_path / "tree", tmp_path / "tree" / "dir" / "..", dirs_exist_ok=True)
    assert not (tmp_path / "copy").exists()
    assert snapshot(tmp_path / "tree") == before


@some_hosts
async def test_copy_into_itself_has_no_copy_of_itself(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree", special=False)
    before = snapshot(tmp_path / "tree", times=False)
    await copy_tree(tmp_path / "tree", tmp_path / "tree" / "dir" / "copy")
    assert snapshot(tmp_path / "tree" / "dir" / "copy", times=False) == before


@some_hosts
async def test_copy_that_follows_symlinks_ends_at_loops(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tree" / "dir").mkdir(parents=True)
    (tmp_path / "tree" / "dir" / "file").write_bytes(b"x")
    (tmp_path / "tree" / "dir" / "up").symlink_to("..")
    with pytest.raises(shutil.Error) as caught:
        await copy_tree(tmp_path / "tree", tmp_path / "copy", follow_symlinks=True)
    assert [os.path.basename(source) for source, _, _ in caught.value.args[0]] == ["up"]
    assert (tmp_path / "copy" / "dir" / "file").read_bytes() == b"x"


@some_hosts
async def test_copy_does_not_write_through_symlinks_of_its_target(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tree" / "dir").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_bytes(b"new")
    (tmp_path / "tree" / "dir" / "file").write_bytes(b"new")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "file").symlink_to(tmp_path / "outside" / "file")
    (tmp_path / "copy" / "dir").symlink_to(tmp_path / "outside" / "deep")
    with pytest.raises(shutil.Error) as caught:
        await copy_tree(tmp_path / "tree", tmp_path / "copy", dirs_exist_ok=True)
    assert [source for source, _, _ in caught.value.args[0]] == [str(tmp_path / "tree" / "dir")]
    assert str(tmp_path / "copy" / "dir") in str(caught.value)
    assert not (tmp_path / "copy" / "file").is_symlink()
    assert (tmp_path / "copy" / "file").read_bytes() == b"new"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("when", [1, 3, 6, 12])
async def test_copy_that_is_cancelled_leaves_whole_files(
    tmp_path: pathlib.Path, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_copy, "_clone", lambda *_: False)
    build(tmp_path / "tree", special=False)
    (tmp_path / "tree" / "big").write_bytes(bytes(100_000))
    calls = 0

    def cancel(*_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == when:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await copy_tree(tmp_path / "tree", tmp_path / "copy", progress=cancel)
    assert scope.cancelled_caught
    whole = snapshot(tmp_path / "tree", times=False)
    for name, (_, content) in snapshot(tmp_path / "copy", times=False).items():
        assert content == whole[name][1]


@pytest.mark.usefixtures("small_chunks")
async def test_exception_of_progress_ends_a_copy_and_is_raised_bare(
    tmp_path: pathlib.Path,
) -> None:
    build(tmp_path / "tree", special=False)

    def fail(entries: int, size: int) -> None:
        if entries > 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await copy_tree(tmp_path / "tree", tmp_path / "copy", progress=fail)


# -- trees that others change ---------------------------------------------------------------------


def before(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, condition: Callable[..., bool]
) -> Callable[[Callable[[], object]], None]:
    """Have something done just before a function is called, once."""

    def register(action: Callable[[], object]) -> None:
        original = getattr(module, name)
        done = False

        def function(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if not done and condition(*args):
                done = True
                action()
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, function)

    return register


def swap(tmp_path: pathlib.Path, directory: pathlib.Path) -> None:
    """Put a symlink to outside in the place of a directory."""
    directory.rename(tmp_path / "swapped")
    directory.symlink_to(tmp_path / "outside")


@some_hosts
async def test_copy_does_not_follow_a_directory_of_the_original_that_is_swapped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree", special=False)
    at = before(monkeypatch, _trees, "open_folder", lambda name, *_: name == "dir")
    at(lambda: swap(tmp_path, tmp_path / "tree" / "dir"))
    with pytest.raises(shutil.Error) as caught:
        await copy_tree(tmp_path / "tree", tmp_path / "copy")
    assert [source for source, _, _ in caught.value.args[0]] == [str(tmp_path / "tree" / "dir")]
    assert "precious" not in str(snapshot(tmp_path / "copy"))


@some_hosts
async def test_copy_does_not_follow_a_directory_of_the_copy_that_is_swapped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree", special=False)
    made = tmp_path / "copy" / "dir"
    at = before(
        monkeypatch, _trees, "open_folder", lambda name, *_: name == "dir" and made.exists()
    )
    at(lambda: swap(tmp_path, made))
    with pytest.raises(shutil.Error) as caught:
        await copy_tree(tmp_path / "tree", tmp_path / "copy")
    assert [target for _, target, _ in caught.value.args[0]] == [str(made)]


def before_copying(
    monkeypatch: pytest.MonkeyPatch, file: str, quickly: bool
) -> Callable[[Callable[[], object]], None]:
    """Before this file is copied: by itself, or together with others."""
    if quickly:
        return before(monkeypatch, _trees, "copy_chunk", lambda names, *_: file in names)
    monkeypatch.setattr(_trees, "copy_chunk", lambda names, *_: ([-1] * len(names), True, True))
    return before(monkeypatch, _trees, "open_source", lambda pair, *_: pair.source == file)


@some_hosts
@pytest.mark.parametrize("quickly", [False, *([True] if COMPILED else [])])
async def test_copy_does_not_follow_a_file_that_is_swapped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, quickly: bool
) -> None:
    build(tmp_path / "tree", special=False)
    victim = tmp_path / "tree" / "dir" / "sub" / "file7"

    def swap_file() -> None:
        victim.unlink()
        victim.symlink_to(tmp_path / "outside" / "file")

    before_copying(monkeypatch, "file7", quickly)(swap_file)
    with pytest.raises(shutil.Error) as caught:
        await copy_tree(tmp_path / "tree", tmp_path / "copy")
    assert [source for source, _, _ in caught.value.args[0]] == [str(victim)]
    assert "precious" not in str(snapshot(tmp_path / "copy"))


@some_hosts
@pytest.mark.parametrize("quickly", [False, *([True] if COMPILED else [])])
async def test_copy_goes_on_in_directories_that_are_moved_away(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, quickly: bool
) -> None:
    build(tmp_path / "tree", special=False)
    expected = snapshot(tmp_path / "tree" / "dir", times=False)
    at = before_copying(monkeypatch, "file7", quickly)
    at(lambda: swap(tmp_path, tmp_path / "copy" / "dir"))
    await copy_tree(tmp_path / "tree", tmp_path / "copy")
    assert snapshot(tmp_path / "swapped", times=False) == expected


@some_hosts
@pytest.mark.parametrize("name", ["dir", "sub"])
async def test_removal_does_not_follow_a_directory_that_is_swapped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    build(tmp_path / "tree")
    victim = tmp_path / "tree" / "dir" if name == "dir" else tmp_path / "tree" / "dir" / "sub"
    at = before(monkeypatch, _remove, "open_folder", lambda found, *_: found == name)
    at(lambda: swap(tmp_path, victim))
    await remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert len(list((tmp_path / "swapped").rglob("file*"))) == 20


@some_hosts
async def test_removal_of_a_directory_that_is_swapped_while_it_is_emptied(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    at = before(monkeypatch, os, "unlink", lambda found: found == "file7")
    at(lambda: swap(tmp_path, tmp_path / "tree" / "dir" / "sub"))
    await remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert list((tmp_path / "swapped").iterdir()) == []


@some_hosts
async def test_removal_whose_top_is_swapped_stops_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    at = before(monkeypatch, _remove, "open_folder", lambda found, *_: found == "tree")
    at(lambda: swap(tmp_path, tmp_path / "tree"))
    with pytest.raises(NotADirectoryError):
        await remove_tree(tmp_path / "tree")
    assert (tmp_path / "tree").is_symlink()


@some_hosts
async def test_removal_empties_a_directory_that_is_filled_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    at = before(monkeypatch, os, "rmdir", lambda found: found == "sub")
    at((tmp_path / "tree" / "dir" / "sub" / "late").mkdir)
    at = before(monkeypatch, os, "rmdir", lambda found: found == "tree")
    at((tmp_path / "tree" / "late").touch)
    await remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


@some_hosts
async def test_removal_gives_a_directory_up_that_is_filled_for_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    rmdir = os.rmdir

    def refill(name: str, *, dir_fd: int) -> None:
        if name == "sub":
            (tmp_path / "tree" / "dir" / "sub" / "late").touch()
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", refill)
    with pytest.raises(OSError, match="not empty") as caught:
        await remove_tree(tmp_path / "tree")
    assert caught.value.errno == errno.ENOTEMPTY
    assert caught.value.filename == str(tmp_path / "tree" / "dir" / "sub")
    monkeypatch.undo()


@pytest.mark.usefixtures("small_chunks")
async def test_removal_overlooks_what_others_have_removed(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree")

    def remove(_: int) -> None:
        names = list((tmp_path / "tree" / "dir" / "sub").glob("*"))
        if len(names) < 20:  # it has been listed
            for path in names[:3]:
                path.unlink()
        if (tmp_path / "tree" / "void").exists():
            shutil.rmtree(tmp_path / "tree" / "void")

    await remove_tree(tmp_path / "tree", progress=remove)
    assert not (tmp_path / "tree").exists()


@some_hosts
@pytest.mark.parametrize("operation", ["copy", "remove"])
async def test_tree_that_another_thread_keeps_changing(
    tmp_path: pathlib.Path, operation: str
) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    for number in range(30):
        (tree / f"d{number % 5}" / f"d{number}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{number % 5}" / f"d{number}" / "file").write_bytes(b"harmless")
    over = threading.Event()
    began = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            number += 1
            some, away = tree / f"d{number % 5}", tmp_path / f"away{number % 5}"
            low, moved = some / f"d{number % 30}", tree / f"e{number % 30}"
            for action in (
                partial(some.rename, away),
                partial(some.symlink_to, outside),
                partial(some.unlink),
                partial(away.rename, some),
                partial(low.rename, moved),
                partial(low.symlink_to, outside / "deep"),
                partial(low.unlink),
                partial(moved.rename, low),
                partial((some / "new").write_bytes, b"harmless"),
            ):
                with suppress(OSError):
                    action()
            began.set()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        await anyio.to_thread.run_sync(began.wait)
        for turn in range(10):
            with suppress(OSError):  # told, not lost
                if operation == "copy":
                    await copy_tree(tree, tmp_path / f"copy{turn}")
                else:
                    await remove_tree(tree)
    finally:
        over.set()
        thread.join()
    for copy in tmp_path.glob("copy*"):
        for path in copy.rglob("*"):
            assert path.is_symlink() or path.is_dir() or path.read_bytes() != b"precious"


# -- removals -------------------------------------------------------------------------------------


@some_hosts
@pytest.mark.parametrize("name", ["", "file", "link", "dirlink", "dirlink/", "dir/", "nowhere"])
@pytest.mark.parametrize("ignore", [False, True])
async def test_removal_is_as_with_shutil(tmp_path: pathlib.Path, name: str, ignore: bool) -> None:
    outcomes = []
    for tree in [tmp_path / "theirs", tmp_path / "ours"]:
        build(tree)
        raised = None
        try:
            if tree.name == "theirs":
                # shutil removes what is behind "dirlink/", and fails then
                shutil.rmtree(f"{tree}/{name}".rstrip("/"), ignore)
            else:
                await remove_tree(f"{tree}/{name}", ignore_errors=ignore)
        except OSError as error:
            raised = error.errno or errno.ENOTDIR, bool(error.filename or "symbolic" in str(error))
        outcomes.append((raised, snapshot(tree, times=False) if tree.exists() else None))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", [".", "..", "/", "tree/."])
async def test_removal_by_a_name_that_has_none_is_refused(
    tmp_path: pathlib.Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    found = snapshot(tmp_path / "tree")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "unlink", None)
    with pytest.raises(OSError, match="by this name"):
        await remove_tree(name)
    assert snapshot(tmp_path / "tree") == found


async def test_removal_of_a_relative_path_tells_its_progress(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    count = len(list((tmp_path / "tree").rglob("*"))) + 1
    monkeypatch.chdir(tmp_path)
    told: list[int] = []
    await remove_tree(b"tree", progress=told.append)
    assert told[-1] == count
    assert not (tmp_path / "tree").exists()


@some_hosts
@pytest.mark.parametrize("ignore", [False, True])
async def test_removal_meets_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ignore: bool
) -> None:
    build(tmp_path / "tree")
    unlink = os.unlink

    def refuse(name: str, *, dir_fd: int) -> None:
        if name == "file7":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        unlink(name, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        if ignore:
            await remove_tree(tmp_path / "tree", ignore_errors=True)
            left = [path.name for path in (tmp_path / "tree").rglob("*")]
            assert sorted(left) == ["dir", "file7", "sub"]
        else:
            with pytest.raises(PermissionError) as caught:
                await remove_tree(tmp_path / "tree")
            assert caught.value.filename == str(tmp_path / "tree" / "dir" / "sub" / "file7")


@pytest.mark.usefixtures("small_chunks")
async def test_removal_that_is_cancelled_stops(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree")
    told: list[int] = []

    def cancel(count: int) -> None:
        told.append(count)
        if count >= 3:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await remove_tree(tmp_path / "tree", progress=cancel)
    assert scope.cancelled_caught
    assert told[-1] == 3
    assert (tmp_path / "tree").exists()


@pytest.mark.parametrize("function", [copy_tree, remove_tree, write_files])
async def test_cancelled_before_it_begins_does_nothing(
    tmp_path: pathlib.Path, function: Any
) -> None:
    build(tmp_path / "tree")
    found = snapshot(tmp_path / "tree")
    arguments: dict[Any, list[Any]] = {
        copy_tree: [tmp_path / "tree", tmp_path / "copy"],
        remove_tree: [tmp_path / "tree"],
        write_files: [[(tmp_path / "copy", b"x")]],
    }
    with anyio.CancelScope() as scope:
        scope.cancel()
        await function(*arguments[function])
    assert scope.cancelled_caught
    assert snapshot(tmp_path / "tree") == found
    assert not (tmp_path / "copy").exists()


# -- deep trees -----------------------------------------------------------------------------------

DEPTH = 3000


@pytest.fixture
def deep_tree(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    dig(tmp_path / "tree")
    yield tmp_path / "tree"
    # What pytest could not remove, if something has gone wrong
    subprocess.run(["rm", "-rf", tmp_path / "tree", tmp_path / "copy"], check=True)


def dig(root: pathlib.Path) -> None:
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for number in range(DEPTH):
        with open("file", "wb", opener=lambda name, flags, fd=fd: os.open(name, flags, dir_fd=fd)):
            pass
        os.mkdir("d" * (1 + number % 9), dir_fd=fd)
        lower = os.open("d" * (1 + number % 9), os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = lower
    os.close(fd)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 220, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@some_hosts
@pytest.mark.tiers("auto", "thread")
@pytest.mark.usefixtures("few_descriptors")
async def test_deep_tree_is_copied_and_removed(deep_tree: pathlib.Path) -> None:
    copy = deep_tree.parent / "copy"
    told: list[int] = []
    await copy_tree(deep_tree, copy, progress=lambda n, _: told.append(n))
    assert told[-1] == 2 * DEPTH
    for tree in [deep_tree, copy]:
        await remove_tree(tree, progress=told.append)
        assert told[-1] == 2 * DEPTH + 1


@some_hosts
async def test_way_back_is_found_by_names_if_a_directory_was_moved(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_descent, "OPEN_MAX", 2)
    deep = tmp_path / "tree" / "a" / "b" / "c" / "d" / "e"
    deep.mkdir(parents=True)
    (deep / "deepest").touch()
    (deep.parents[2] / "file").touch()
    (deep.parents[4] / "z").mkdir()
    # "d" leaves the tree while "e" is worked on, and ".." of it leads elsewhere then
    at = before(monkeypatch, os, "unlink", lambda name: name == "deepest")
    at(lambda: deep.parent.rename(tmp_path / "away"))
    await remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    assert [path.name for path in (tmp_path / "away").iterdir()] == []


@some_hosts
@pytest.mark.parametrize("side", ["tree", "copy"])
async def test_copy_finds_its_way_back_by_names_if_a_directory_was_moved(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    monkeypatch.setattr(_descent, "OPEN_MAX", 2)
    deep = pathlib.Path("a", "b", "c", "d", "e", "f")
    (tmp_path / "tree" / deep).mkdir(parents=True)
    for number in range(9):  # some of them before "d", some after it
        (tmp_path / "tree" / "a" / "b" / "c" / f"z{number}" / "late").mkdir(parents=True)
    expected = snapshot(tmp_path / "tree", times=False)
    at = before(monkeypatch, _trees, "open_folder", lambda name, *_: name == "f")
    at(lambda: (tmp_path / side / deep.parent.parent).rename(tmp_path / "away"))
    await copy_tree(tmp_path / "tree", tmp_path / "copy")
    if side == "copy":
        (tmp_path / "away").rename(tmp_path / "copy" / deep.parent.parent)
    assert snapshot(tmp_path / "copy", times=False) == expected


# -- many files -----------------------------------------------------------------------------------


async def test_files_are_written_and_their_sizes_told_in_order(tmp_path: pathlib.Path) -> None:
    contents = {str(tmp_path / f"f{number}"): b"%d" % number * number for number in range(300)}
    (tmp_path / "f1").write_bytes(b"longer than what comes")
    sizes = await write_files((name, memoryview(data)) for name, data in contents.items())
    assert sizes == [len(data) for data in contents.values()]
    for name, data in contents.items():
        assert pathlib.Path(name).read_bytes() == data
    assert await write_files([]) == []


@some_hosts
async def test_first_failure_of_many_writes_is_raised_bare(tmp_path: pathlib.Path) -> None:
    pairs = [(tmp_path / f"f{number}", b"x") for number in range(10)]
    pairs[3] = (tmp_path / "nowhere" / "f3", b"x")
    with pytest.raises(FileNotFoundError) as caught:
        await write_files(pairs)
    assert caught.value.filename == str(tmp_path / "nowhere" / "f3")
    found = await write_files(pairs, return_exceptions=True)
    assert isinstance(found[3], FileNotFoundError)
    assert [*found[:3], *found[4:]] == [1] * 9
    with pytest.raises(TypeError):
        await write_files([(tmp_path / "text", "text")])  # type: ignore[list-item]


@some_hosts
async def test_pairs_are_taken_as_they_are_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pairs() -> Iterator[tuple[pathlib.Path, bytes]]:
        for number in range(2000):
            if number == 1999:
                assert (tmp_path / "f0").exists()
                scope.cancel()
            yield tmp_path / f"f{number}", b"x"

    with anyio.CancelScope() as scope:
        await write_files(pairs())
    assert scope.cancelled_caught
    assert not (tmp_path / "f1999").exists()
