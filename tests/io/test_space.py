"""`allocate` and `advise`, compared with fallocate(2) and ``os.posix_fadvise``."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.oracle import outcome

import anyio_uring
from anyio_uring import _transfers, statistics

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="posix_fadvise(2) needed"),
]

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


@pytest.mark.parametrize("mode", ["r+b", "ab", "r+"])
async def test_allocated_space_is_there_and_reads_as_zeros(
    tiers: Tiers, path: Path, mode: str
) -> None:
    file: Any
    async with await anyio_uring.open_file(path, mode) as file:
        await file.allocate(0, MIB)
        status = path.stat()
        assert status.st_size == MIB
        assert status.st_blocks * 512 >= MIB
        await file.allocate(2 * MIB, 4096, keep_size=True)
        assert path.stat().st_size == MIB
        assert path.stat().st_blocks > status.st_blocks
    assert path.read_bytes() == b"content" + bytes(MIB - 7)


async def test_allocation_is_an_operation_of_the_ring(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        await file.allocate(0, 4096)
        assert statistics().operations.get("fallocate", 0) == int(tiers.ring)


async def test_allocation_fails_as_fallocate_does(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        for offset, size, number in (
            (-1, 10, errno.EINVAL),
            (0, 0, errno.EINVAL),
            (0, -1, errno.EINVAL),
            ((1 << 63) - 5, 4, errno.EFBIG),
        ):
            kind, *facts = await outcome(
                lambda f, o=offset, s=size: f.allocate(o, s), file, str(path)
            )
            assert (kind, *facts) == (OSError, number, os.strerror(number)), (offset, size)
        with pytest.raises(ValueError, match="offset-sized"):
            await file.allocate(0, 1 << 63)
        with pytest.raises(TypeError):
            await file.allocate(0, "1")  # type: ignore[arg-type]
    assert path.read_bytes() == b"content"
    with pytest.raises(ValueError, match="closed file"):
        await file.allocate(0, 1)
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        with pytest.raises(io.UnsupportedOperation):
            await file.allocate(0, 1)


async def test_cancelled_allocation_has_not_begun(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.allocate(0, MIB)
        assert scope.cancelled_caught
    assert path.stat().st_size == 7


@pytest.fixture
def without_fallocate(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(_transfers, "_fallocate", lambda: None)
    return monkeypatch


@pytest.mark.tiers("thread")
async def test_system_without_fallocate_has_what_posix_has(
    tiers: Tiers, path: Path, without_fallocate: pytest.MonkeyPatch
) -> None:
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        await file.allocate(0, 4096)
        assert path.stat().st_size == 4096
        with pytest.raises(io.UnsupportedOperation):
            await file.allocate(0, 8192, keep_size=True)
        without_fallocate.delattr(os, "posix_fallocate")
        with pytest.raises(io.UnsupportedOperation):
            await file.allocate(0, 8192)
        assert path.stat().st_size == 4096


ALL = ("normal", "sequential", "random", "willneed", "dontneed", "noreuse")


async def test_every_advice_reaches_the_kernel(
    tiers: Tiers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: told.append(given))
    file: Any
    for mode in "rb", "r", "wb":
        async with await anyio_uring.open_file(path, mode) as file:
            for advice in ALL:
                await file.advise(advice, 4096, 8192)
                number = getattr(os, f"POSIX_FADV_{advice.upper()}")
                assert told.pop() == (file.fileno(), 4096, 8192, number)
            await file.advise("willneed")
            assert told.pop()[1:] == (0, 0, os.POSIX_FADV_WILLNEED)
    assert told == []


async def test_advice_that_is_wrong_is_refused(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "rb") as file:
        with pytest.raises(ValueError, match=r"'normal', .* not 'often'"):
            await file.advise("often")  # type: ignore[arg-type]
        for advice in "random", "dontneed":
            result = await outcome(lambda f, a=advice: f.advise(a, 0, -1), file, str(path))
            assert result == (OSError, errno.EINVAL, "Invalid argument")
    with pytest.raises(ValueError, match="closed file"):
        await file.advise("normal")


async def test_advice_where_there_is_none_does_nothing(
    tiers: Tiers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    async with await anyio_uring.open_file(reader, "rb", 0) as file:
        await file.advise("sequential")
    monkeypatch.delattr(os, "posix_fadvise")
    async with await anyio_uring.open_file(path, "rb") as file:
        await file.advise("dontneed")
        with pytest.raises(ValueError, match="advice must be"):
            await file.advise("often")  # type: ignore[arg-type]
