"""What is done without waiting, on which file system: open, read, size, close.

A file system that must not be touched from the loop's thread (FUSE, overlayfs for writing, tmpfs
with swap) is not; and what is served at once is right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.support.fuse import FuseMount, cannot_fuse, mount, umount
from tests.support.mounts import cannot_mount, fs_type, tmpfs
from tests.support.places import KINDS, NoPlaceError, place

import anyio_uring
from anyio_uring import _handle, _mounts, open_file, statistics

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not _handle.COMPILED, reason="serving at once needs the compiled core"),
]

CONTENT = bytes(range(256)) * 40
LOCAL = ["ext4", "xfs", "btrfs", "tmpfs"]


@pytest.fixture(scope="module", params=[*KINDS, "fuse"])
def somewhere(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    if request.param == "fuse":
        if (reason := cannot_fuse()) is not None:
            pytest.skip(reason)
        with FuseMount({}) as served:
            yield request.param, served.path
        return
    try:
        found = place(request.param)
        directory = found.__enter__()
    except NoPlaceError as error:
        pytest.skip(str(error))
    yield request.param, directory
    found.__exit__(None, None, None)


@pytest.fixture
def kind(somewhere: tuple[str, Path]) -> str:
    return somewhere[0]


@pytest.fixture
def path(somewhere: tuple[str, Path]) -> Iterator[Path]:
    path = somewhere[1] / "file"
    path.write_bytes(CONTENT)
    path.read_bytes()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    if (reason := cannot_mount()) is not None:
        pytest.skip(reason)
    with tmpfs() as directory:
        yield directory


async def test_file_system_is_recognised(kind: str, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        _, _, size, name, now, local = _handle.fd_facts(fd)
    finally:
        os.close(fd)
    assert name == fs_type(path)
    assert size == len(CONTENT)
    assert local == (kind in LOCAL)
    expected = {"overlay": _mounts.NOW_RESIDENT, "fuse": _mounts.NOW_NEVER}
    if kind == "tmpfs":
        swap = _mounts.has_swap()
        assert now == (_mounts.NOW_NEVER if swap else _mounts.NOW_PLAIN)
    else:
        assert now == expected.get(kind, _mounts.NOW_NOWAIT)


async def test_reading_is_served_at_once_where_it_may_be(kind: str, path: Path) -> None:
    async with await open_file(path, "rb", 0) as file:
        assert await file.read(100) == CONTENT[:100]
        assert await file.pread(5000, 5000) == CONTENT[5000:10000]
        assert await file.pread(100, len(CONTENT) - 10) == CONTENT[-10:]
        assert await file.pread(100, len(CONTENT)) == b""
        assert await file.readall() == CONTENT[100:]
        assert await file.read(10) == b""
        counts = statistics()
    assert statistics().now_closed == counts.now_opened
    assert counts.now_opened == (0 if kind == "fuse" else 1)
    if kind == "fuse":
        assert counts.now == 0
    elif kind != "tmpfs" or not _mounts.has_swap():
        assert counts.now == 6


async def test_writing_is_never_done_at_once(kind: str, path: Path) -> None:
    async with await open_file(path, "r+b", 0) as file:
        opened = statistics()
        assert await file.write(b"abc") == 3
        assert await file.pwrite(b"def", 5) == 3
        assert await file.truncate(1000) == 1000
        assert await file.seek(0, os.SEEK_END) == 1000
        await file.fsync()
    # Overlayfs would copy the file up
    assert opened.now_opened == (1 if kind in LOCAL else 0)
    assert statistics().now_closed == 0
    assert path.read_bytes() == b"abc" + CONTENT[3:5] + b"def" + CONTENT[8:1000]


async def test_truncating_appending_and_creating(kind: str, path: Path) -> None:
    async with await open_file(path, "ab", 0) as file:
        assert await file.tell() == len(CONTENT)
        await file.write(b"more")
    assert path.read_bytes() == CONTENT + b"more"
    async with await open_file(path, "wb", 0) as file:
        assert os.stat(path).st_size == 0
        await file.write(b"new")
    assert path.read_bytes() == b"new"
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        await open_file(path, "rb", 0)
    assert caught.value.filename == str(path) or caught.value.filename == path
    async with await open_file(path, "xb", 0) as file:
        await file.write(b"created")
    with pytest.raises(FileExistsError):
        await open_file(path, "xb", 0)
    assert path.read_bytes() == b"created"
    assert statistics().now_opened == 0


async def test_data_written_by_others_is_seen(kind: str, path: Path) -> None:
    async with await open_file(path, "rb", 0) as file:
        assert await file.pread(4, 0) == CONTENT[:4]
        path.write_bytes(b"shrt")
        assert await file.pread(100, 0) == b"shrt"
        with path.open("ab") as other:
            other.write(b" and longer")
        assert await file.readall() == b"shrt and longer"


async def test_symlinks_lead_to_their_target(
    somewhere: tuple[str, Path], path: Path, tmp_path: Path
) -> None:
    """What counts is the file system of the file, not that of the link."""
    link, loop = tmp_path / "link", tmp_path / "loop"
    link.symlink_to(path)
    loop.symlink_to(loop)
    for _ in range(100_000):
        # Following a link writes its access time, until that is a tick past the change
        link.stat()
        status = link.lstat()
        if status.st_atime_ns > status.st_ctime_ns:
            break
    async with await open_file(link, "rb", 0) as file:
        assert await file.read(10) == CONTENT[:10]
    assert statistics().now_opened == (0 if somewhere[0] == "fuse" else 1)
    with pytest.raises(OSError, match="symbolic links"):
        await open_file(loop, "rb", 0)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        await open_file(link, "rb", 0)


async def test_directory_is_refused(somewhere: tuple[str, Path]) -> None:
    for mode in ("rb", "r+b", "wb"):
        with pytest.raises(IsADirectoryError):
            await open_file(somewhere[1], mode, 0)


async def test_unlinked_file_is_closed_by_a_worker(kind: str, path: Path) -> None:
    file = await open_file(path, "rb", 0)
    path.unlink()
    assert await file.read(10) == CONTENT[:10]
    await file.aclose()
    assert statistics().now_closed == 0


# -- tmpfs and swap ----------------------------------------------------------------------------


@pytest.mark.parametrize("swap", [False, True])
async def test_tmpfs_is_read_at_once_only_without_swap(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    monkeypatch.setattr(_mounts, "has_swap", lambda: swap)
    path = in_memory / "file"
    path.write_bytes(CONTENT)
    async with await open_file(path, "rb", 0) as file:
        assert await file.read() == CONTENT
        assert statistics().now == (0 if swap else 1)


# -- mounts come and go --------------------------------------------------------------------------


async def test_another_file_system_at_the_same_place_is_another(in_memory: Path) -> None:
    if (reason := cannot_fuse()) is not None:
        pytest.skip(reason)
    place = in_memory / "place"
    place.mkdir()
    for _ in range(5):
        # An anonymous device number that has been given back is given out again
        mount("tmpfs", place, "tmpfs")
        (place / "file").write_bytes(CONTENT)
        async with await open_file(place / "file", "rb", 0) as file:
            assert await file.read(4) == CONTENT[:4]
        # Nothing of ours keeps it busy
        umount(place, 0)
        before = statistics().now_opened
        with FuseMount({"file": b"served"}, place) as served:
            async with await open_file(served.path / "file", "rb", 0) as file:
                assert await file.read(4) == b"serv"
        assert statistics().now_opened == before


async def test_mount_on_top_of_a_known_file_hides_it(in_memory: Path) -> None:
    (in_memory / "inner").mkdir()
    (in_memory / "inner" / "file").write_bytes(b"below")
    for _ in range(2):
        async with await open_file(in_memory / "inner" / "file", "rb", 0) as file:
            assert await file.read() == b"below"
    mount("tmpfs", in_memory / "inner", "tmpfs")
    try:
        with pytest.raises(FileNotFoundError):
            await open_file(in_memory / "inner" / "file", "rb", 0)
    finally:
        umount(in_memory / "inner", 0)


async def test_file_outlives_a_lazy_unmount(in_memory: Path) -> None:
    place = in_memory / "place"
    place.mkdir()
    mount("tmpfs", place, "tmpfs")
    (place / "file").write_bytes(CONTENT)
    async with await open_file(place / "file", "rb", 0) as file:
        umount(place)
        assert await file.read() == CONTENT


# -- races with a rename --------------------------------------------------------------------------


async def test_file_that_is_replaced_all_the_time_is_whole(somewhere: tuple[str, Path]) -> None:
    """Each open gets one of the files that the name has stood for, never a mixture or an error."""
    import threading

    kind, directory = somewhere
    path = directory / "replaced"
    path.write_bytes(b"0" * 64)
    ended = threading.Event()

    def replace() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            new = directory / "new"
            new.write_bytes(b"%d" % (number % 10) * 64)
            new.rename(path)

    if kind == "fuse":
        pytest.skip("the server of the tests knows no rename")
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(300):
            async with await open_file(path, "rb", 0) as file:
                data = await file.read()
                assert data == data[:1] * 64
                assert os.fstat(file.fileno()).st_size == 64
    finally:
        ended.set()
        thread.join()
        path.unlink()
    assert statistics().inflight == 0


async def test_no_descriptor_is_kept(kind: str, path: Path) -> None:
    async with await open_file(path, "r+b", 0) as file:
        await file.write(b"x")  # whatever a run needs for its files is there now
    before = sorted(os.listdir("/proc/self/fd"))
    for mode in ("rb", "r+b", "ab", "wb"):
        async with await open_file(path, mode, 0) as file:
            await file.seek(0)
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_driver_info_agrees(kind: str, path: Path) -> None:
    info = anyio_uring.driver_info(path)
    assert info.file_system == fs_type(path)
    assert info.tiers["open"].startswith("now") == (kind != "fuse")


async def test_fifo_is_waited_for_wherever_it_lies(somewhere: tuple[str, Path]) -> None:
    """Its name may be on a file system that is served without asking, but its peer is nowhere."""
    kind, directory = somewhere
    if kind == "fuse":
        pytest.skip("it has no FIFOs")
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    peer = os.open(fifo, os.O_RDWR)
    try:
        async with await open_file(fifo, "rb", buffering=0) as file:
            with anyio.move_on_after(0.05) as scope:
                await file.read(100)
            assert scope.cancelled_caught
            os.write(peer, b"heard")
            assert await file.read(100) == b"heard"
    finally:
        os.close(peer)
        fifo.unlink()
