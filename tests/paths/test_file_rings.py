"""Small files that worker threads read by rings of their own: what differs from open and read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support import mounts, seccomp
from tests.support.state import descriptors

from anyio_uring import read_files, statistics
from anyio_uring._handle import COMPILED
from anyio_uring._many import Left, read_chunk
from anyio_uring._runtime import current_runtime

if COMPILED:
    from anyio_uring import _uring

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto"),
    pytest.mark.hosts("asyncio", "trio"),
    pytest.mark.skipif(not COMPILED, reason="it is compiled code that does so"),
    pytest.mark.skipif(mounts.cannot_mount() is not None, reason="mounting needs root"),
]

MANY = 96
PAGE = 4096
LIMIT = 4 << 20


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A file system of which a ring can read."""
    with mounts.loop("ext4") as folder:
        yield folder


@pytest.fixture
def folder(disk: Path) -> Iterator[Path]:
    place = disk / "folder"
    place.mkdir()
    yield place
    shutil.rmtree(place)


def fill(folder: Path, count: int = MANY, size: int = 1000) -> list[Any]:
    """Files, all in memory, on a mount of which is known what has to be.

    By whole pages, too: of what was only written, no more than the blocks may be there.
    """
    paths = [str(folder / f"{number:04}") for number in range(count)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(number.to_bytes(2, "big") * (size // 2))
    in_memory(paths)
    return paths


def in_memory(paths: list[Any]) -> None:
    done = 0
    while done < len(paths):
        done += len(read_chunk(paths[done:], LIMIT).results)


def told(paths: list[Any]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


async def run_alone(script: str) -> None:
    """In a process of its own."""
    root = Path(seccomp.__file__).parents[2]
    done = await anyio.run_process([sys.executable, "-c", script], cwd=root, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def ring_count() -> int:
    return list(descriptors().values()).count("anon_inode:[io_uring]")


async def test_run_and_statistics(folder: Path) -> None:
    paths = fill(folder, 3000)
    expected = told(paths)
    assert statistics().by_ring == 0
    assert await read_files(paths) == expected
    # A file may be asked for again, in the common way, where somebody else has a lock of it
    assert 0.9 * len(paths) < statistics().by_ring <= len(paths)
    assert await read_files(paths) == expected
    assert 1.8 * len(paths) < statistics().by_ring <= 2 * len(paths)


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, PAGE + 64, PAGE + 65, 3 * PAGE])
async def test_sizes(folder: Path, rings: Any, size: int) -> None:
    paths = fill(folder)
    for index in range(0, MANY, 3):
        Path(paths[index]).write_bytes(b"x" * size)
    in_memory(paths)
    assert read_chunk(paths, LIMIT, rings).results == told(paths)
    assert rings.files > MANY // 4


@pytest.mark.parametrize("size", [6000, 12_000, 16_000, 17_000])
async def test_files_that_want_more_room(folder: Path, rings: Any, size: int) -> None:
    paths = fill(folder, size=size)
    assert read_chunk(paths, LIMIT, rings).results == told(paths)
    assert (rings.files > 0) is (size < 4 * (PAGE + 64))


async def test_only_what_is_left_of_the_limit_is_used(folder: Path, rings: Any) -> None:
    paths = fill(folder)
    everything = told(paths)
    for limit in 900, 10_000, 40_000, 64_000, 90_000, 100_000:
        found = read_chunk(paths, limit, rings).results
        if limit < 1000:
            assert found[0] == Left(-1)
            continue
        assert found == everything[: len(found)]
        assert limit // 5000 <= len(found) <= limit // 1000


async def test_nothing_is_taken_of_a_pipe(folder: Path, rings: Any) -> None:
    paths = fill(folder)
    fifos = [paths[index] for index in range(5, MANY, 16)]
    ends = []
    for path in fifos:
        os.unlink(path)
        os.mkfifo(path)
        ends += [os.open(path, os.O_RDONLY | os.O_NONBLOCK), os.open(path, os.O_WRONLY)]
        os.write(ends[-1], b"kept")
    try:
        found = read_chunk(paths, LIMIT, rings).results
        for path, result in zip(paths, found, strict=True):
            if path in fifos:
                assert isinstance(result, Left)
                assert os.read(result.fd, 10) == b"kept"
                os.close(result.fd)
            else:
                assert result == Path(path).read_bytes()
    finally:
        for fd in ends:
            os.close(fd)
    assert rings.files > MANY // 2


@pytest.mark.parametrize("before", ["small files", "cold files", "a big file", "no room"])
async def test_writer_of_a_pipe_that_nobody_reads_yet(
    folder: Path, rings: Any, before: str
) -> None:
    """The first one to open it is the one who reads: a writer that has been let in stays."""
    paths = fill(folder)
    pipe = 25
    os.unlink(paths[pipe])
    os.mkfifo(paths[pipe])
    limit = LIMIT
    if before == "a big file":
        Path(paths[10]).write_bytes(bytes(LIMIT + 1))
    elif before == "no room":
        limit = 2 * 33 * 4160
        Path(paths[10]).write_bytes(bytes(limit - 10_000 - 33 * 1000))
    elif before == "cold files":
        os.sync()
        for path in paths[:pipe]:
            with open(path, "rb", 0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    failures = []
    begun = threading.Event()

    def write() -> None:
        begun.set()
        fd = os.open(paths[pipe], os.O_WRONLY)
        try:
            os.write(fd, b"heard")
        except BrokenPipeError as error:
            failures.append(error)
        os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(60)
    found: list[Any] = []
    while len(found) <= pipe:
        found += read_chunk(paths[len(found) :], limit, rings).results
    os.set_blocking(found[pipe].fd, True)
    writer.join(60)
    with open(found[pipe].fd, "rb", 0) as file:
        assert file.read() == b"heard"
    assert not failures


@pytest.mark.skipif(seccomp.cannot_filter() is not None, reason="needs seccomp")
async def test_queue_that_the_kernel_does_not_take(folder: Path) -> None:
    """A filter that comes later: what was asked for is read in the common way, for ever."""
    await run_alone(f"""
import errno
from tests.support.seccomp import install
from anyio_uring import _uring
from anyio_uring._many import read_chunk
paths = {fill(folder)!r}
expected = read_chunk(paths, {LIMIT}).results
rings = _uring.FileRings()
assert read_chunk(paths, {LIMIT}, rings).results == expected
known = rings.files
assert known > {MANY // 2}
install({{"io_uring_enter": errno.EPERM}})
for _ in range(40):
    assert read_chunk(paths, {LIMIT}, rings).results == expected
assert rings.files == known
""")


async def test_nothing_stays_open(folder: Path, rings: Any) -> None:
    """A lease for a writer is had where nobody else has the file open."""
    paths = fill(folder)
    read_chunk(paths, LIMIT, rings)
    assert rings.files > MANY // 2
    for path in paths:
        with open(path, "r+b", 0) as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


async def test_files_that_cannot_be_had(folder: Path, rings: Any) -> None:
    paths = fill(folder)
    os.unlink(paths[3])
    os.unlink(paths[4])
    os.mkdir(paths[4])
    os.unlink(paths[5])
    os.symlink("0006", paths[5])
    found = read_chunk(paths, LIMIT, rings)
    assert found.odd == [3, 4]
    for index, number in (3, errno.ENOENT), (4, errno.EISDIR):
        assert found.results[index].errno == number
        assert found.results[index].filename == paths[index]
    del paths[3:5], found.results[3:5]
    assert found.results == told(paths)


async def test_lease_of_somebody(folder: Path, rings: Any) -> None:
    paths = fill(folder)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with open(paths[20], "r+b", 0) as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            found = read_chunk(paths, LIMIT, rings)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        signal.signal(signal.SIGIO, before)
    assert found.odd == [20]
    assert found.results[20] == Left(-1)


@pytest.mark.hosts("asyncio")
@pytest.mark.parametrize("free", [0, 1, 2, 3])
@pytest.mark.parametrize("kept", [False, True])
async def test_few_descriptors(folder: Path, rings: Any, free: int, kept: bool) -> None:
    """They are for the files: what is kept for many goes where one of them wants it."""
    paths = fill(folder)
    if kept:
        read_chunk(paths, LIMIT, rings)
    Path(paths[7]).write_bytes(bytes(2 * PAGE))
    if free > 1:  # one is for this, which the caller gets
        os.unlink(paths[20])
        os.mkfifo(paths[20])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(free):
            os.close(taken.pop())
        found = read_chunk(paths, LIMIT, rings)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if free > 1:
        del paths[20]
        os.close(found.results.pop(20).fd)
    if free or kept:
        assert found.results == told(paths)
    else:
        assert {result.errno for result in found.results} == {errno.EMFILE}


async def test_slots_count_as_descriptors(folder: Path) -> None:
    """Where fewer are allowed than a ring has slots, there is no ring, and none is left."""
    await run_alone(f"""
import os, resource
from anyio_uring import _uring
from anyio_uring._many import read_chunk
paths = {fill(folder)!r}
expected = read_chunk(paths, {LIMIT}).results
rings = _uring.FileRings()
before = os.listdir("/proc/self/fd")
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (31, hard))
assert read_chunk(paths, {LIMIT}, rings).results == expected
assert rings.files == 0
assert os.listdir("/proc/self/fd") == before
""")


async def test_rings_are_kept_for_the_run(folder: Path) -> None:
    paths = fill(folder, 2000)
    before = ring_count()
    for _ in range(10):
        await read_files(paths)
        assert before < ring_count() <= before + 4


async def test_rings_end_with_their_owner(folder: Path) -> None:
    paths = fill(folder)
    before = ring_count()
    rings = _uring.FileRings()
    read_chunk(paths, LIMIT, rings)
    assert ring_count() == before + 1
    del rings
    assert ring_count() == before
    rings = _uring.FileRings()
    rings.close()
    assert read_chunk(paths, LIMIT, rings).results == told(paths)
    assert rings.files > MANY // 2
    assert ring_count() == before


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_forked_child_has_its_own(folder: Path) -> None:
    paths = fill(folder)
    expected = told(paths)
    others = ring_count()
    rings: Any = current_runtime().file_rings
    read_chunk(paths, LIMIT, rings)
    assert ring_count() == others + 1
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            inherited = rings.files
            code = 2 + 10 * (ring_count() == others + 1)
            in_memory(paths)  # and the mount is known again
            if read_chunk(paths, LIMIT, rings).results == expected:
                code += 10 if rings.files == inherited else -2
            rings.close()
            code += 10 * (ring_count() != others)
        os._exit(code)
    with anyio.fail_after(60):
        _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    before = rings.files
    assert read_chunk(paths, LIMIT, rings).results == expected
    assert rings.files > before
