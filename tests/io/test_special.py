"""Files that are no ordinary ones: /proc, /sys, devices, full disks, limits."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Tiers
from tests.support.mounts import cannot_mount, tmpfs
from tests.support.oracle import outcome

import anyio_uring

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="files of Linux"),
]

STEADY = [
    "/proc/cpuinfo",  # has no size, and is longer than one page
    "/proc/version",
    "/proc/self/cmdline",
    "/proc/filesystems",
    "/proc/sys/kernel/ostype",
    "/proc/modules",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/devices/system/cpu/online",
    "/sys/kernel/notes",
]


def there(paths: list[str]) -> list[str]:
    return [path for path in paths if os.access(path, os.R_OK)]


def sync_read(path: str) -> bytes:
    with open(path, "rb", 0) as file:
        data = file.read()
    return b"\n".join(line for line in data.split(b"\n") if b"MHz" not in line)


@pytest.mark.parametrize("path", there(STEADY))
async def test_file_without_a_size_is_read_to_its_end(tiers: Tiers, path: str) -> None:
    def steady(data: bytes) -> bytes:
        return b"\n".join(line for line in data.split(b"\n") if b"MHz" not in line)

    expected = sync_read(path)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert steady(await file.read()) == expected
        assert await file.read() == b""
        await file.seek(0)
        assert steady(await file.readall()) == expected
        await file.seek(0)
        if len(expected) < 500:  # unbuffered lines are read byte by byte
            assert b"".join([line async for line in file]) == expected
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        file.fileno()
        assert steady(await file.read()) == expected
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        data = b""
        while part := await file.read(100):
            data += part
        assert steady(data) == expected
        position = await file.tell()
        assert position == len(data)


async def test_file_longer_than_any_step_is_read_to_its_end(tiers: Tiers) -> None:
    """Megabytes, no size, and each read(2) gives a page at most."""
    path = "/proc/kallsyms"
    if not os.access(path, os.R_OK):
        pytest.skip("no /proc/kallsyms")
    with open(path, "rb", 0) as oracle:
        expected = oracle.read()
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert await file.read() == expected
        assert await file.tell() == len(expected)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert await file.read(len(expected) + 10) == expected


@pytest.fixture
def comm() -> Iterator[Path]:
    """The file that holds this process's name, which can be changed."""
    path = Path("/proc/self/comm")
    before = path.read_bytes()
    yield path
    path.write_bytes(before.strip())


@pytest.mark.parametrize("buffering", [0, -1])
async def test_lines_of_a_text_that_changes_are_of_one_piece(
    tiers: Tiers, comm: Path, buffering: int
) -> None:
    """Each read at an offset of its own would make the text anew, and cut it elsewhere."""
    comm.write_bytes(b"short")
    async with await anyio_uring.open_file("/proc/self/status", "rb", buffering) as file:
        assert await file.readline() == b"Name:\tshort\n"
        comm.write_bytes(b"not-so-short")
        lines = [line async for line in file]
    assert [line for line in lines if not re.match(rb"\w+:\t", line)] == []
    assert f"Pid:\t{os.getpid()}\n".encode() in lines


async def test_positional_reads_of_files_without_a_size(tiers: Tiers) -> None:
    async with await anyio_uring.open_file("/proc/version", "rb", 0) as file:
        with open("/proc/version", "rb", 0) as oracle:
            whole = os.pread(oracle.fileno(), 1000, 0)
        assert await file.pread(1000, 0) == whole
        assert await file.pread(5, 3) == whole[3:8]
        assert await file.pread(5, 5000) == b""
        target = bytearray(1000)
        assert await file.preadinto(target, 2) == len(whole) - 2


@pytest.mark.parametrize("mode", ["wb", "r+b", "w+b"])
async def test_writing_to_proc_takes_effect(tiers: Tiers, comm: Path, mode: str) -> None:
    async with await anyio_uring.open_file(comm, mode, 0) as file:
        assert await file.write(b"renamed") == 7
        if file.readable():
            await file.seek(0)
            assert await file.read() == b"renamed\n"
    assert comm.read_bytes() == b"renamed\n"


async def test_error_of_a_kernel_file_is_the_systems(tiers: Tiers) -> None:
    """Errors other than those of ordinary files come through, with the name."""
    for path, mode, call in (
        ("/proc/self/mem", "rb", lambda f: f.read(1)),  # EIO: nothing is mapped at 0
        ("/proc/self/oom_score_adj", "r+b", lambda f: f.write(b"no number")),  # EINVAL
    ):
        with open(path, mode, 0) as oracle:
            expected = await outcome(call, oracle)
        async with await anyio_uring.open_file(path, mode, 0) as file:
            assert await outcome(call, file, path) == expected
        assert expected[0] is OSError


# -- devices --------------------------------------------------------------------------------------


async def test_zero_gives_what_is_asked_for(tiers: Tiers) -> None:
    async with await anyio_uring.open_file("/dev/zero", "r+b", 0) as file:
        for size in (0, 1, 100, 5000, 300_000):
            # The kernel stops early when it has something else to do for this thread
            data = await file.read(size)
            assert data == bytes(len(data))
            assert min(size, 4096) <= len(data) <= size
            target = bytearray(b"x" * size)
            count = await file.readinto(target)
            assert min(size, 4096) <= count <= size
            assert target == bytes(count) + b"x" * (size - count)
        assert await file.write(b"x" * 1000) == 1000


async def test_null_takes_everything_and_gives_nothing(tiers: Tiers) -> None:
    with open("/dev/null", "r+b", 0) as oracle:
        async with await anyio_uring.open_file("/dev/null", "r+b", 0) as file:
            assert file.isatty() == oracle.isatty()
            assert file.seekable() == oracle.seekable()
            for call in (
                lambda f: f.read(),
                lambda f: f.read(10),
                lambda f: f.readline(),
                lambda f: f.readlines(),
                lambda f: f.readinto(bytearray(10)),
                lambda f: f.write(b"x" * 300_000),
                lambda f: f.write(b""),
                lambda f: f.seek(10),
                lambda f: f.tell(),
                lambda f: f.seek(0, os.SEEK_END),
                lambda f: f.truncate(),
                lambda f: f.flush(),
            ):
                assert await outcome(call, file, "/dev/null") == await outcome(call, oracle)


async def test_full_device_is_full(tiers: Tiers) -> None:
    async with await anyio_uring.open_file("/dev/full", "r+b", 0) as file:
        for _ in range(2):
            with pytest.raises(OSError, match="No space left on device") as caught:
                await file.write(b"x")
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
        assert await file.read(3) == bytes(3)


async def test_random_bytes_are_random(tiers: Tiers) -> None:
    async with await anyio_uring.open_file("/dev/urandom", "rb", 0) as file:
        first, second = await file.read(64), await file.read(64)
    assert len(first) == len(second) == 64
    assert first != second


# -- sparse files ---------------------------------------------------------------------------------


async def test_holes_are_read_as_zeros_and_found(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    mib = 1 << 20
    async with await anyio_uring.open_file(path, "w+b", 0) as file:
        await file.truncate(8 * mib)
        await file.pwrite(b"island", 4 * mib)
        assert await file.pread(20, 4 * mib - 5) == bytes(5) + b"island" + bytes(9)
        data = await file.read()
        assert len(data) == 8 * mib
        assert data.strip(b"\0") == b"island"
        with open(path, "rb", 0) as oracle:
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                for offset in (0, 4 * mib, 5 * mib, 9 * mib):
                    expected = await outcome(lambda f: f.seek(offset, whence), oracle)  # noqa: B023
                    result = await outcome(lambda f: f.seek(offset, whence), file)  # noqa: B023
                    assert result == expected
                    assert await file.tell() == oracle.tell()
    assert path.stat().st_blocks * 512 < mib


# -- no room --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Iterator[Path]:
    """A file system of 256 KiB."""
    reason = cannot_mount()
    if reason is not None:
        pytest.skip(reason)
    with tmpfs(256 << 10) as path:
        yield path


async def test_full_disk_takes_a_part_and_then_says_so(tiers: Tiers, small: Path) -> None:
    results = []
    for name in ("oracle", "ours"):
        path = small / name
        try:
            if name == "oracle":
                with open(path, "wb", 0) as file:
                    first = await outcome(lambda f: f.write(bytes(400 << 10)), file)
                    results.append((first, await outcome(lambda f: f.write(bytes(8192)), file)))
            else:
                async with await anyio_uring.open_file(path, "wb", 0) as ours:
                    first = await outcome(lambda f: f.write(bytes(400 << 10)), ours)
                    second = await outcome(lambda f: f.write(bytes(8192)), ours, str(path))
                    results.append((first, second))
                    assert await ours.tell() == first[1] == path.stat().st_size
                    with pytest.raises(OSError, match="No space left") as caught:
                        await ours.pwrite(bytes(400 << 10), 0)
                    assert (caught.value.errno, caught.value.filename) == (
                        errno.ENOSPC,
                        str(path),
                    )
        finally:
            path.unlink()
    assert results[0] == results[1]
    assert results[0][1] == (OSError, errno.ENOSPC, "No space left on device")


LIMITED = """
    import resource, signal, sys
    import anyio, anyio_uring
    from anyio_uring.testing import force_tiers

    async def main():
        async with await anyio_uring.open_file(sys.argv[1], "wb", 0) as file:
            print(await file.write(bytes(1500)), await file.tell())
            for call in (lambda: file.write(bytes(10)), lambda: file.pwrite(b"x", 5000),
                         lambda: file.truncate(2000)):
                try:
                    print(await call())
                except OSError as error:
                    print(type(error).__name__, error.errno, error.filename)

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with force_tiers(*sys.argv[3].split(",")):
        anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.hosts("asyncio")
async def test_file_size_limit_takes_a_part_and_then_says_so(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), path, "asyncio", ",".join(tiers.allowed)],
        capture_output=True,
        text=True,
    )
    refusal = f"OSError {errno.EFBIG} {path}\n"
    assert (result.stdout, result.stderr) == ("1000 1000\n" + 3 * refusal, "")
    assert path.stat().st_size == 1000
