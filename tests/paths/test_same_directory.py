"""Files of the same directory, which compiled code looks up from there, and reads but once."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import stat
import struct
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support import mounts

from anyio_uring import Path as AsyncPath
from anyio_uring import _mounts, open_file, read_files
from anyio_uring._handle import COMPILED
from anyio_uring._many import Left, read_chunk

if COMPILED:
    from anyio_uring import _uring

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "thread"),  # threads do it, by rings of their own if they may
    pytest.mark.hosts("asyncio", "trio"),
]
needs_mount = pytest.mark.skipif(mounts.cannot_mount() is not None, reason="mounting needs root")
needs_core = pytest.mark.skipif(not COMPILED, reason="it is compiled code that does so")

MANY = 8  # files in a row for which their directory is opened
PAGE = 4096
SIZES = [0, 1, 100, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 7, 600_000, 512 << 10, 50]


def told(path: Any) -> Any:
    """What plain Python reads, or its error."""
    try:
        with open(path, "rb", 0) as file:
            return file.read()
    except OSError as error:
        return type(error), error.errno, error.filename


def same(results: list[Any]) -> list[Any]:
    return [
        (type(found), found.errno, found.filename) if isinstance(found, OSError) else found
        for found in results
    ]


def fill(folder: Path) -> list[str]:
    """Files of every size and things of every kind; their names."""
    folder.mkdir(parents=True)
    for number, size in enumerate(SIZES * 2):
        (folder / f"file{number}").write_bytes(os.urandom(size))
    (folder / "folder").mkdir()
    (folder / "folder" / "below").write_bytes(b"below")
    (folder / "link").symlink_to("file2")
    (folder / "absolute").symlink_to(folder / "file3")
    (folder / "aside").symlink_to("folder", target_is_directory=True)
    (folder / "dangling").symlink_to("none")
    (folder / "loop").symlink_to("loop")
    (folder / "null").symlink_to("/dev/null")
    (folder / "made up").symlink_to("/proc/crypto")  # read by the page
    (folder / "name \udcff\n").write_bytes(b"of a kind")
    (folder / ("n" * 255)).write_bytes(b"long")
    (folder / "etc").mkdir()
    (folder / "etc" / "passwd").write_bytes(b"not the system's")
    odd = ["none", "n" * 256, "", ".", "..", "file1/", "folder/below", "aside/below", "./file2"]
    odd += ["folder/../file3", "/file4", "file1/none", "/etc/passwd", "/etc/shadow", "//file5"]
    return [*os.listdir(folder), *odd]


@pytest.mark.parametrize("style", ["str", "bytes", "relative", "dotted", "deep"])
async def test_results_are_those_of_open(
    tmp_path: Path, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    if style == "deep":
        folder = tmp_path.joinpath(*["d" * 200] * 3)  # more than is kept of a directory's name
    names = fill(folder)
    monkeypatch.chdir(tmp_path)
    start = {"relative": "folder", "dotted": f"{tmp_path}/./folder//"}.get(style, str(folder))
    chance = random.Random(5)
    for _ in range(4):
        chance.shuffle(names)
        paths: list[Any] = [f"{start}/{name}" for name in names] * 4
        if style == "bytes":
            paths = [os.fsencode(path) for path in paths]
        found: list[Any] = await read_files(paths, return_exceptions=True)
        assert same(found) == [told(path) for path in paths]


async def test_limits_are_those_of_whole_paths(tmp_path: Path) -> None:
    """Of their length, and of the symlinks on the way."""
    folder = tmp_path
    for number in range(25):
        (tmp_path / f"to{number}").symlink_to(f"to{number + 1}" if number < 24 else ".")
        (tmp_path / f"link{number}").symlink_to(f"link{number + 1}" if number < 24 else "file")
    (tmp_path / "file").write_bytes(b"at the end of the links")
    longest = 4095 - len(f"{folder}/") - len("file")
    paths: list[Any] = [str(folder / "file")] * MANY
    paths += [f"{folder}/{'./' * (size // 2)}file" for size in range(longest - 4, longest + 6)]
    paths += [str(folder / "to0" / name) for name in ["file", "link20", "link0"] * MANY]
    paths *= 4
    for _ in range(2):  # what is learnt of a file system is used from then on
        found: list[Any] = await read_files(paths, return_exceptions=True)
        assert same(found) == [told(path) for path in paths]
    kinds = {found.errno if isinstance(found, OSError) else 0 for found in found}
    assert kinds == {0, errno.ENAMETOOLONG, errno.ELOOP}


async def test_last_descriptor_goes_to_the_file(tmp_path: Path, rings: Any) -> None:
    paths = [str(tmp_path / f"{number}") for number in range(8 * MANY)]
    for path in paths:
        Path(path).write_bytes(path.encode())
    read_chunk([*paths], 1 << 20, rings)  # the file system is known from now on
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        os.close(taken.pop())
        found = read_chunk([*paths], 1 << 20, rings).results
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [path.encode() for path in paths]


async def test_directories_that_alternate(tmp_path: Path) -> None:
    folders = [tmp_path / f"folder{number}" for number in range(3)]
    names = {folder: fill(folder) for folder in folders}
    chance = random.Random(7)
    paths: list[str] = []
    for _ in range(30):
        folder = chance.choice(folders)
        paths += [str(folder / name) for name in chance.sample(names[folder], MANY + 3)]
    found: list[Any] = await read_files(paths, return_exceptions=True)
    assert same(found) == [told(path) for path in paths]


async def test_files_of_a_system_that_reads_short() -> None:
    # A file longer than what one read brings, though it is said to have no size at all
    paths = ["/proc/kallsyms", "/proc/filesystems"] * MANY
    for _ in range(2):  # what is learnt of a file system is used from then on
        found = await read_files(paths)
        assert [len(data) for data in found] == [len(told(path)) for path in paths]
    assert len(found[0]) > 100_000


async def test_fifo_among_the_files_is_opened_once(tmp_path: Path, rings: Any) -> None:
    folder = tmp_path / "folder"
    fill(folder)
    os.mkfifo(folder / "fifo")
    names = [*[f"file{number}" for number in range(MANY)] * 5, "fifo", "file9"]
    paths: list[Any] = [str(folder / name) for name in names]
    found = read_chunk(paths, 8 << 20, rings)
    [left] = [result for result in found.results if isinstance(result, Left)]
    try:
        assert found.results.index(left) == 5 * MANY
        assert os.path.samestat(os.fstat(left.fd), os.stat(folder / "fifo"))
    finally:
        os.close(left.fd)
    assert [*found.results[:-2], found.results[-1]] == [
        told(p) for p in paths if not p.endswith("fifo")
    ]


async def test_device_among_the_files_is_not_at_its_end(tmp_path: Path, rings: Any) -> None:
    device = tmp_path / "kmsg"  # a record of the kernel's log in each read
    try:
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 11))
        os.close(os.open(device, os.O_RDONLY))
    except PermissionError as error:
        pytest.skip(f"mknod(2) needs CAP_MKNOD, and a mount without nodev: {error}")
    paths: list[Any] = [str(tmp_path / f"{number}") for number in range(5 * MANY)]
    for path in paths:
        Path(path).write_bytes(path.encode())
    for _ in range(2):  # what is learnt of a file system is used from then on
        results = read_chunk([*paths, str(device)], 1 << 20, rings).results
        left = results.pop()
        assert isinstance(left, Left)
        os.close(left.fd)
        assert results == [path.encode() for path in paths]


@needs_core
@needs_mount
async def test_mount_that_cannot_be_looked_up() -> None:
    asked = []

    def refuse(*mount: object) -> Any:
        asked.append(mount)
        raise MemoryError

    with mounts.tmpfs() as folder:  # one that nobody has met
        paths: list[Any] = [str(folder / f"{number}") for number in range(2 * MANY)]
        for path in paths:
            Path(path).write_bytes(path.encode())
        _uring.set_classifier(refuse, _mounts.is_whole)
        try:
            found = read_chunk(paths, 1 << 20).results
        finally:
            _uring.set_classifier(_mounts.classify, _mounts.is_whole)
    assert asked
    assert found == [path.encode() for path in paths]


@needs_core
async def test_the_loop_asks_no_device(tmp_path: Path) -> None:
    """What reads there may be cut at is asked by a thread, once: blockbuster and its like forbid
    a loop to read a file, and a driver could let it wait.
    """
    asked = []

    def ask(now: int, local: bool, major: int, minor: int) -> bool:
        asked.append(threading.get_ident())
        return _mounts.is_whole(now, local, major, minor)

    paths: list[Any] = [str(tmp_path / f"{number}") for number in range(2 * MANY)]
    for path in paths:
        Path(path).write_bytes(path.encode())
    _uring.set_classifier(_mounts.classify, ask)
    try:
        async with await open_file(paths[0], "rb") as file:
            assert await file.read() == paths[0].encode()
        assert await AsyncPath(paths[1]).read_bytes() == paths[1].encode()
        assert await AsyncPath(paths[1]).is_file()
        assert not asked
        for _ in range(3):
            assert await read_files(paths) == [path.encode() for path in paths]
    finally:
        _uring.set_classifier(_mounts.classify, _mounts.is_whole)
    assert len(asked) == 1
    assert threading.get_ident() not in asked


@needs_core
async def test_directory_that_another_one_replaces(tmp_path: Path) -> None:
    """The name leads elsewhere while the directory is open: no file gets lost by it."""
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    size = 120_000  # one of them, and the memory is full
    names = [f"file{number}" for number in range(3 * MANY)]
    for name in names[:MANY]:
        (place / name).write_bytes(b"a" * size)
    os.mkfifo(place / "fifo")
    for name in names:
        (other / name).write_bytes(b"b" * size)

    def left(fd: int) -> str:
        os.close(fd)
        place.rename(tmp_path / "away")
        other.rename(place)
        return "left"

    paths: list[str | bytes] = [str(place / name) for name in ["file0", "fifo", *names[1:]]]
    results, odd, _ = _uring.read_many(paths, 100 * size, left)
    assert odd == [1]
    assert results.pop(1) == "left"
    # Of what both have, either is right
    assert results[0][:1] == b"a"
    assert [data[:1] for data in results[MANY:]] == [b"b"] * (2 * MANY)
    assert {len(data) for data in results} == {size}


@needs_mount
async def test_mount_over_one_of_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(20 * MANY)]
    for path in paths:
        path.write_bytes(path.name.encode())
    covered = paths[MANY + 2]
    await read_files(paths)  # the file system is known from now on
    subprocess.run(["mount", "--bind", "/proc/crypto", covered], check=True)  # read by the page
    try:
        found = await read_files(paths)
        assert found.pop(MANY + 2) == told("/proc/crypto")
    finally:
        subprocess.run(["umount", covered], check=True)
    assert found == [path.name.encode() for path in paths if path != covered]


FIBMAP, FIGETBSZ = 1, 2


def place_on_disk(path: Path, offset: int) -> int:
    """Where a byte of a file is on its file system."""
    with open(path, "rb") as file:
        [size] = struct.unpack("i", fcntl.ioctl(file, FIGETBSZ, struct.pack("i", 0)))
        [block] = struct.unpack("i", fcntl.ioctl(file, FIBMAP, struct.pack("i", offset // size)))
    assert block
    return int(block * size)


@needs_mount
@pytest.mark.one_python
@pytest.mark.parametrize("begun", [False, True])
async def test_page_that_cannot_be_read_is_no_end(tmp_path: Path, begun: bool) -> None:
    """A disk that ends within a file: the first page is read, and behind it is an error.

    :param begun: the first page is in memory already, as everything else
    """
    with (
        tempfile.TemporaryDirectory(dir=tmp_path) as images,
        mounts.loop("ext4", directory=Path(images)) as folder,
    ):
        paths = [folder / f"{number}" for number in range(MANY)]
        for path in paths:
            path.write_bytes(os.urandom(100))
        paths *= 20
        torn = folder / "torn"
        torn.write_bytes(os.urandom(PAGE + 100))
        await read_files(paths)  # the file system is known from now on
        mounts.drop_caches()
        end = place_on_disk(torn, PAGE)
        assert all(place_on_disk(path, 0) < end for path in paths)
        assert place_on_disk(torn, 0) < end
        if begun:
            await read_files(paths)
            with open(torn, "rb", 0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                file.read(1)
        [image] = Path(images).iterdir()
        size = image.stat().st_size
        os.truncate(image, end)
        try:
            found: list[Any] = await read_files(
                [*paths[:MANY], torn, *paths[MANY:]], return_exceptions=True
            )
        finally:
            os.truncate(image, size)
        assert same([found.pop(MANY)]) == [(OSError, errno.EIO, str(torn))]
        assert found == [path.read_bytes() for path in paths]
