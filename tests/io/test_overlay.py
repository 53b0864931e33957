"""overlayfs: what is not in memory is never read on the loop's thread."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from tests.support import mounts
from tests.support.fuse import cannot_mount

import anyio_uring
from anyio_uring import statistics
from anyio_uring._handle import COMPILED

pytestmark = [
    pytest.mark.skipif(not COMPILED, reason="the now tier is compiled"),
    pytest.mark.skipif(cannot_mount() is not None, reason=str(cannot_mount())),
]

SIZE = 8 << 20
COLD = 6 << 20  # beyond what reading the head brings in

AS_NOBODY = """
import os, sys
import anyio, anyio_uring

async def main():
    async with await anyio_uring.open_file(sys.argv[1], "rb", 0) as file:
        await file.pread(1, 0)  # everything has been imported when the user changes
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        before = anyio_uring.statistics().now
        await file.pread(4096, int(sys.argv[2]))
        print(anyio_uring.statistics().now - before)

anyio.run(main)
"""


@pytest.fixture
def cold_file() -> Iterator[Path]:
    """A file on overlayfs whose content is on a disk (an image of ext4) and not in memory."""
    try:
        with mounts.loop("ext4") as base, mounts.overlay({"file": bytes(SIZE)}, base) as overlay:
            fd = os.open(overlay.lower / "file", os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
            for folder in (base, overlay.path, overlay.lower):
                folder.chmod(0o755)
            yield overlay.path / "file"
    except mounts.MissingToolError as error:
        pytest.skip(str(error))


def test_cold_read_misses_and_a_cached_one_is_served_now(cold_file: Path) -> None:
    async def main() -> tuple[int, int]:
        async with await anyio_uring.open_file(cold_file, "rb", 0) as file:
            await file.pread(4096, COLD)
            cold = statistics().now
            await file.pread(4096, COLD)
            return cold, statistics().now

    assert anyio.run(main) == (0, 1)


def test_cold_read_at_the_kernels_own_position_misses(cold_file: Path) -> None:
    async def main() -> int:
        fd = os.open(cold_file, os.O_RDONLY)
        async with await anyio_uring.open_file(fd, "rb", 0) as file:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            os.pread(fd, 65536, 0)  # the head is in memory, the position is elsewhere
            os.lseek(fd, COLD, os.SEEK_SET)
            assert len(await file.read(4096)) == 4096
            return statistics().now

    assert anyio.run(main) == 0


def test_user_who_is_not_told_what_is_resident_does_not_believe_it(cold_file: Path) -> None:
    """To a process that neither owns nor may write a file, mincore(2) says that all of it is."""
    result = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, os.fspath(cold_file), str(COLD)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.fixture
def overlay() -> Iterator[mounts.Overlay]:
    with mounts.overlay({"file": b"content"}) as overlay:
        yield overlay


def closed_now(path: Path | int, mode: str, then: Callable[[], object] = list) -> int:
    """How many files were closed at once, of one."""

    async def main() -> int:
        async with await anyio_uring.open_file(path, mode) as file:
            if "r" in mode:
                await file.read()
            then()
        return statistics().now_closed

    return anyio.run(main)


def test_file_that_was_opened_at_once_is_closed_so(overlay: mounts.Overlay) -> None:
    """And no other: a layer may be a server's, who is told of the close."""
    assert closed_now(overlay.path / "file", "rb") == 0  # its path was not known
    assert closed_now(overlay.path / "file", "rb") == 1
    fd = os.open(overlay.path / "file", os.O_RDONLY)
    assert closed_now(fd, "rb") == 0


def test_file_that_may_have_been_written_is_not(overlay: mounts.Overlay) -> None:
    assert closed_now(overlay.path / "file", "r+b") == 0
    assert closed_now(overlay.path / "new", "wb") == 0


def test_file_without_a_name_is_not_either(overlay: mounts.Overlay) -> None:
    """To close the last that holds it deletes it, in the layer that changes go to."""
    path = overlay.path / "new"
    path.write_bytes(b"content")
    assert closed_now(path, "rb", path.unlink) == 0
