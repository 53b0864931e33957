"""`atomic_write`: what it replaces, what it keeps, what it refuses."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support import mounts
from tests.support.state import descriptors

import anyio_uring
from anyio_uring import Path as OurPath
from anyio_uring import _staged, atomic_write

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]

OLD = b"old content"
STALE = ".target.atomic-0123456789abcdef"
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")
needs_mount = pytest.mark.skipif(mounts.cannot_mount() is not None, reason="mounting needs root")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, if possible, where a sync takes no time."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(OLD)
    return path


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert [path for path in tmp_path.rglob("*atomic-*") if path.name != STALE] == []
    assert [link for link in descriptors().values() if link.startswith(str(tmp_path))] == []


# -- what it does ---------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("mode", ["wb", "w", "wt"])
async def test_the_target_is_replaced_when_the_block_ends(
    target: Path, mode: str, durable: bool
) -> None:
    ino = target.stat().st_ino
    data: Any = b"new" if "b" in mode else "new"
    async with atomic_write(target, mode, durable=durable) as file:
        await file.write(data)
        assert (target.read_bytes(), target.stat().st_ino) == (OLD, ino)
        assert len(os.listdir(target.parent)) == 2
        await file.write(data * 100_000)
        assert target.read_bytes() == OLD
    assert file.closed
    assert target.read_bytes() == b"new" * 100_001
    assert target.stat().st_ino != ino
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize("mode", ["wb", "xb"])
async def test_a_new_file_has_the_permissions_of_open(tmp_path: Path, mode: str) -> None:
    old = os.umask(0o027)
    try:
        async with atomic_write(tmp_path / "ours", mode) as file:
            await file.write(b"new")
            assert not (tmp_path / "ours").exists()
        (tmp_path / "theirs").touch()
    finally:
        os.umask(old)
    ours, theirs = (tmp_path / "ours").stat(), (tmp_path / "theirs").stat()
    assert stat.S_IMODE(ours.st_mode) == stat.S_IMODE(theirs.st_mode) == 0o640
    assert (ours.st_uid, ours.st_gid, ours.st_nlink) == (theirs.st_uid, theirs.st_gid, 1)
    assert (tmp_path / "ours").read_bytes() == b"new"


async def test_the_file_is_that_of_open_file(target: Path) -> None:
    async with atomic_write(target) as file:
        assert isinstance(file, anyio_uring.AsyncFile)
        assert (file.name, file.mode) == (str(target), "wb")
        assert (file.readable(), file.writable(), file.seekable()) == (False, True, True)
        assert await file.write(b"0123456789") == 10
        assert await file.pwrite(b"ab", 2) == 2
        await file.seek(-1, os.SEEK_END)
        await file.write(b"end")
        assert await file.truncate(11) == 11
    assert target.read_bytes() == b"01ab45678en"


async def test_text_is_encoded_as_by_open(target: Path) -> None:
    arguments: Any = {"encoding": "utf-16", "errors": "replace", "newline": "\r\n"}
    async with atomic_write(target, "w", **arguments) as file:
        await file.write("größe\n\udcff\n")
    with open(target.with_name("theirs"), "w", **arguments) as theirs:
        theirs.write("größe\n\udcff\n")
    assert target.read_bytes() == target.with_name("theirs").read_bytes()


@pytest.mark.parametrize("kind", [bytes, str, Path, OurPath])
async def test_a_path_is_taken_in_every_form(target: Path, kind: Callable[[Any], Any]) -> None:
    path = os.fsencode(target) if kind is bytes else kind(target)
    async with atomic_write(path) as file:
        assert file.name == os.fspath(path)
        await file.write(b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("length", [110, 128, 250, 255])
async def test_long_names_leave_room_for_a_temporary(tmp_path: Path, length: int) -> None:
    target = tmp_path / ("ö" * (length // 2) + "x" * (length % 2))
    for content in b"1", b"2":
        async with atomic_write(target) as file:
            await file.write(content)
            assert len(os.listdir(os.fsencode(tmp_path))[0]) <= max(length, 128)
        assert target.read_bytes() == content


async def test_a_file_that_the_block_has_closed_is_taken(target: Path) -> None:
    async with atomic_write(target) as file:
        await file.write(b"new")
        await file.aclose()
        assert target.read_bytes() == OLD
    assert target.read_bytes() == b"new"


async def test_the_directory_is_the_one_of_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    async with atomic_write("target") as file:
        await file.write(b"new")
        os.chdir(tmp_path)
        (tmp_path / "first").rename(tmp_path / "moved")
        (tmp_path / "first").mkdir()
    assert (tmp_path / "moved" / "target").read_bytes() == b"new"
    assert os.listdir(tmp_path / "first") == []


async def test_two_writers_of_one_target_do_not_meet(target: Path) -> None:
    async with atomic_write(target) as first:
        await first.write(b"first")
        async with atomic_write(target) as second:
            await second.write(b"second")
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first"


async def test_many_writers_leave_one_whole_content(target: Path) -> None:
    async def write(number: int) -> None:
        async with atomic_write(target, durable=False) as file:
            for _ in range(3):
                await file.write(bytes([number]) * 5000)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(write, number)
    content = target.read_bytes()
    assert content == content[:1] * 15000


async def test_one_block_for_one_call(target: Path) -> None:
    writing = atomic_write(target)
    async with writing:
        pass
    with pytest.raises(RuntimeError, match="for one block"):
        async with writing:
            pytest.fail("a second block")


# -- "x" ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["x", "xb"])
async def test_exclusive_refuses_what_is_there(target: Path, mode: str) -> None:
    (target.parent / "dangling").symlink_to("nowhere")
    for path in target, target.parent / "dangling", target.parent:
        with pytest.raises(FileExistsError) as caught:
            async with atomic_write(path, mode):
                pytest.fail("it is there")
        assert caught.value.filename == str(path)
    assert target.read_bytes() == OLD


async def test_exclusive_refuses_what_has_come_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "target"

    async def write() -> None:
        async with atomic_write(target, "xb") as file:
            await file.write(b"new")
            target.write_bytes(OLD)

    with pytest.raises(FileExistsError) as caught:
        await write()
    assert (caught.value.filename, caught.value.filename2) == (str(target), None)
    assert target.read_bytes() == OLD


async def test_exclusive_has_one_winner(tmp_path: Path) -> None:
    winners, losers = [], []

    async def write(number: int) -> None:
        try:
            async with atomic_write(tmp_path / "target", "xb", durable=False) as file:
                await file.write(bytes([number]))
                await anyio.lowlevel.checkpoint()
            winners.append(number)
        except FileExistsError:
            losers.append(number)

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(write, number)
    assert (len(winners), len(losers)) == (1, 9)
    assert (tmp_path / "target").read_bytes() == bytes(winners)


@pytest.mark.parametrize("there", [False, True])
async def test_exclusive_without_links(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "target"

    async def write() -> None:
        async with atomic_write(target, "xb") as file:
            await file.write(b"new")
            if there:
                target.write_bytes(OLD)

    if there:
        with pytest.raises(FileExistsError, match=str(target)):
            await write()
    else:
        await write()
    assert target.read_bytes() == (OLD if there else b"new")


# -- what it keeps --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o755, 0o1777])
async def test_permission_bits_are_kept(target: Path, mode: int) -> None:
    target.chmod(mode)
    async with atomic_write(target) as file:
        await file.write(b"new")
        [temporary] = target.parent.glob(".*")
        assert stat.S_IMODE(temporary.stat().st_mode) & ~mode == 0
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == mode


@needs_root
@pytest.mark.parametrize("mode", [0o400, 0o444, 0o4755, 0o2755])
async def test_root_keeps_owners_and_all_bits(target: Path, mode: int) -> None:
    os.chown(target, 1234, 4321)
    target.chmod(mode)
    async with atomic_write(target) as file:
        await file.write(b"new")
    status = target.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, mode)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A directory of the user nobody, who runs the test."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, NOBODY, NOBODY)
    groups = os.getgroups()
    try:
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        yield folder
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        shutil.rmtree(folder)


def by_root(function: Callable[..., Any], *arguments: Any) -> None:
    os.seteuid(0)
    function(*arguments)
    os.seteuid(NOBODY)


@needs_root
@pytest.mark.parametrize("content", [b"new", b""])
@pytest.mark.parametrize(
    ("mode", "kept"), [(0o666, 0o666), (0o646, 0o646), (0o662, 0o622), (0o6777, 0o777)]
)
async def test_a_group_that_cannot_be_kept_may_do_no_more_than_everybody(
    as_nobody: Path, mode: int, kept: int, content: bytes
) -> None:
    target = as_nobody / "target"
    target.write_bytes(OLD)
    by_root(os.chown, target, 0, 1234)
    by_root(os.chmod, target, mode)
    async with atomic_write(target) as file:
        await file.write(content)
    status = target.stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert stat.S_IMODE(status.st_mode) == kept
    assert target.read_bytes() == content


@needs_root
@pytest.mark.parametrize("mode", ["w", "x"])
async def test_a_directory_that_is_not_writable_is_an_error_of_the_target(
    as_nobody: Path, mode: str
) -> None:
    target = as_nobody / "target"
    if mode == "w":
        target.write_bytes(OLD)
    as_nobody.chmod(0o555)
    with pytest.raises(PermissionError) as caught:
        async with atomic_write(target, mode):
            pytest.fail("it cannot be written")
    assert (caught.value.filename, caught.value.filename2) == (str(target), None)
    assert os.listdir(as_nobody) == ["target"] * (mode == "w")


@needs_root
async def test_a_file_that_is_not_writable_is_refused_as_by_open(as_nobody: Path) -> None:
    target = as_nobody / "target"
    target.write_bytes(OLD)
    target.chmod(0o444)
    with pytest.raises(PermissionError) as caught:
        async with atomic_write(target):
            pytest.fail("it cannot be written")
    assert caught.value.filename == str(target)
    assert target.read_bytes() == OLD
    assert os.listdir(as_nobody) == ["target"]


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access control list as the kernel has it: of tags, permissions and ids."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ANYBODY = 0xFFFFFFFF
LIST = acl((1, 6, ANYBODY), (2, 6, 1234), (4, 0, ANYBODY), (16, 6, ANYBODY), (32, 0, ANYBODY))


@pytest.mark.parametrize("of_directory", [False, True])
async def test_an_access_control_list_is_kept(target: Path, of_directory: bool) -> None:
    name = "system.posix_acl_access"
    try:
        os.setxattr(target, name, LIST)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    if of_directory:
        os.removexattr(target, name)
        os.setxattr(target.parent, "system.posix_acl_default", LIST)
    mode = target.stat().st_mode
    async with atomic_write(target) as file:
        await file.write(b"new")
    if of_directory:
        assert name not in os.listxattr(target)
    else:
        assert os.getxattr(target, name) == LIST
    assert target.stat().st_mode == mode


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["other/file", "{}/other/file", "other/link", "dirlink/file"])
async def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(OLD)
    (tmp_path / "other" / "file").chmod(0o640)
    (tmp_path / "other" / "link").symlink_to("file")
    (tmp_path / "dirlink").symlink_to("other")
    link = tmp_path / "link"
    link.symlink_to(content.format(tmp_path))
    async with atomic_write(link) as file:
        await file.write(b"new")
        assert len(os.listdir(tmp_path / "other")) == 3
    assert os.readlink(link) == content.format(tmp_path)
    assert (tmp_path / "other" / "link").is_symlink()
    assert (tmp_path / "other" / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "other" / "file").stat().st_mode) == 0o640


async def test_a_dangling_link_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("other/new")
    async with atomic_write(tmp_path / "link") as file:
        await file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "other" / "new").read_bytes() == b"new"


# -- what it refuses ------------------------------------------------------------------------------

NAMES = ["dir", "dir/", "dir/.", ".", "..", "", "/", "file/", "file/below", "nowhere/file", "new/"]
NAMES += ["loop", "loop/below", "dirlink", "dirlink/", "danglingdir/x", "to nowhere", "to slash"]
NAMES += ["x" * 256, "n\0l", "fifo/below", "dir/new/..", "nowhere/.."]


def build(root: Path) -> None:
    (root / "dir").mkdir(parents=True)
    (root / "file").write_bytes(OLD)
    (root / "loop").symlink_to("loop")
    (root / "dirlink").symlink_to("dir")
    (root / "danglingdir").symlink_to("nowhere")
    (root / "to nowhere").symlink_to("nowhere/file")
    (root / "to slash").symlink_to("new/")
    os.mkfifo(root / "fifo")


@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.parametrize("mode", ["w", "xb"])
async def test_errors_are_those_of_open(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "tree")
    before = sorted(tmp_path.rglob("*"))
    for name in NAMES:
        for path in name, os.fsencode(name):
            with pytest.raises((OSError, ValueError)) as theirs:
                open(path, mode)  # noqa: SIM115
            with pytest.raises((OSError, ValueError)) as ours:
                async with atomic_write(path, mode):
                    pytest.fail("it can be written")
            assert type(ours.value) is type(theirs.value), name
            assert str(ours.value) == str(theirs.value), name
            assert sorted(tmp_path.rglob("*")) == before, name


@pytest.mark.parametrize("name", ["fifo", "/dev/null", "link"])
async def test_what_is_no_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    path = tmp_path / name
    mode = path.stat().st_mode
    with pytest.raises(OSError, match="Not a regular file") as caught:
        async with atomic_write(path):
            pytest.fail("it can be written")
    assert (caught.value.errno, caught.value.filename) == (22, str(path))
    assert path.stat().st_mode == mode


@pytest.mark.parametrize("mode", ["a", "r", "ab", "rb", "r+", "w+", "w+b", "xb+", "a+", "rt"])
async def test_other_modes_are_refused(target: Path, mode: str) -> None:
    with pytest.raises(
        ValueError, match=r"^atomic_write\(\) writes a file as a whole: .*'w', 'wb'"
    ):
        atomic_write(target, mode)


@pytest.mark.parametrize("mode", ["", "q", "ww", "wx", "wbt", "b", "U", None, b"w", "w\0"])
async def test_what_is_no_mode_is_refused_as_by_open(target: Path, mode: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        open(target, mode)  # noqa: SIM115
    with pytest.raises((ValueError, TypeError)) as ours:
        atomic_write(target, mode)
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))
    assert target.read_bytes() == OLD


async def test_arguments_are_refused_as_by_open(target: Path) -> None:
    for name in "encoding", "errors", "newline":
        with pytest.raises(ValueError, match=f"binary mode doesn't take an? {name} argument"):
            atomic_write(target, "wb", **{name: "strict"})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"expected str, bytes or os\.PathLike object, not int"):
        atomic_write(3)  # type: ignore[call-overload]
    for wrong, error in ({"encoding": "none"}, LookupError), ({"newline": "x"}, ValueError):
        with pytest.raises(error):
            async with atomic_write(target, "w", **wrong):  # type: ignore[call-overload]
                pytest.fail("wrong arguments")
    assert target.read_bytes() == OLD


# -- what others have left ------------------------------------------------------------------------


async def test_a_stale_temporary_is_removed_and_nothing_else(target: Path) -> None:
    keep = [STALE[:-1], STALE + "0", ".other" + STALE[7:], STALE[1:], "." + STALE]
    for name in [STALE, *keep]:
        (target.parent / name).write_bytes(b"stale")
    async with atomic_write(target):
        assert not (target.parent / STALE).exists()
    assert sorted(os.listdir(target.parent)) == sorted([*keep, "target"])
    for name in keep:
        (target.parent / name).unlink()


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "fifo"])
async def test_what_is_no_temporary_is_left_alone(target: Path, kind: str) -> None:
    path = target.parent / STALE
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("target" if kind == "link" else "nowhere")
    async with atomic_write(target) as file:
        await file.write(b"new")
    assert sorted(os.listdir(target.parent)) == [STALE, "target"]
    assert target.read_bytes() == b"new"


async def test_a_temporary_that_was_taken_for_a_stale_one_is_made_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = _staged._lock
    removed = []

    def late(fd: int, shared: bool = False) -> bool | None:
        if not removed:
            [temporary] = target.parent.glob(".*")
            removed.append(temporary.name)
            temporary.unlink()
        return lock(fd, shared)

    monkeypatch.setattr(_staged, "_lock", late)
    async with atomic_write(target) as file:
        [temporary] = target.parent.glob(".*")
        assert temporary.name not in removed
        await file.write(b"new")
    assert target.read_bytes() == b"new"


async def test_without_locks_nothing_is_removed(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_staged, "_lock", lambda fd, shared=False: None)
    (target.parent / STALE).write_bytes(b"stale")
    async with atomic_write(target) as file:
        await file.write(b"new")
    assert target.read_bytes() == b"new"
    assert (target.parent / STALE).exists()


# -- a full disk ----------------------------------------------------------------------------------


@needs_mount
@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.parametrize("piece", [100, 1 << 20])
async def test_a_full_disk_leaves_the_target(piece: int) -> None:
    with mounts.tmpfs(2 << 20) as root:
        target = root / "target"
        target.write_bytes(OLD)

        async def write() -> None:
            async with atomic_write(target) as file:
                for _ in range(0, 4 << 20, piece):
                    await file.write(bytes(piece))

        with pytest.raises(OSError, match="No space left") as caught:
            await write()
        assert caught.value.filename == str(target)
        assert os.listdir(root) == ["target"]
        assert target.read_bytes() == OLD
        async with atomic_write(target) as file:
            await file.write(bytes(1 << 20))
        assert target.read_bytes() == bytes(1 << 20)


@needs_mount
@pytest.mark.hosts("asyncio", "trio")
async def test_a_disk_that_is_full_at_the_end_of_the_block_leaves_the_target() -> None:
    with mounts.tmpfs(1 << 20) as root:
        target = root / "target"
        target.write_bytes(OLD)

        async def write() -> None:
            async with atomic_write(target) as file:
                await file.write(b"new")
                with suppress(OSError), open(root / "other", "wb", 0) as other:
                    while other.write(bytes(4096)):
                        pass

        with pytest.raises(OSError, match="No space left") as caught:
            await write()
        assert caught.value.filename == str(target)
        assert sorted(os.listdir(root)) == ["other", "target"]
        assert target.read_bytes() == OLD
