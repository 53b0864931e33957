"""AnyIO's flavour where it differs from Trio's, and the files that AnyIO wraps for us."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyio_uring

KINDS = [("rb", 0), ("r+b", 0), ("r+b", -1), ("wb", -1), ("r+", -1), ("w", -1)]


@pytest.mark.usefixtures("tiers")
@pytest.mark.parametrize(("mode", "buffering"), KINDS)
@pytest.mark.parametrize("library", [anyio, anyio_uring], ids=["anyio", "ours"])
async def test_aclose_in_a_cancelled_scope_closes_and_returns(
    library: Any, mode: str, buffering: int, tmp_path: Path, anyio_backend: Any
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    file = await library.open_file(path, mode, buffering)
    fd = file.fileno()
    if file.writable():
        await file.write(b"new" if "b" in mode else "new")
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await file.aclose() is None
    assert not scope.cancelled_caught
    assert file.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert path.read_bytes().startswith(b"new" if mode != "rb" else b"old")


async def test_wrap_file_serves_any_object_with_threads(anyio_backend: Any) -> None:
    async with anyio_uring.wrap_file(io.StringIO("one\ntwo\n")) as file:
        assert isinstance(file, anyio.AsyncFile)
        assert await file.readline() == "one\n"
        assert [line async for line in file] == ["two\n"]
        assert file.getvalue() == "one\ntwo\n"
    assert file.wrapped.closed


async def test_wrap_file_takes_a_limiter_of_its_own(anyio_backend: Any) -> None:
    limiter = anyio.CapacityLimiter(1)
    file = anyio_uring.wrap_file(io.BytesIO(b"data"), limiter=limiter)
    assert file.limiter is limiter
    assert await file.read() == b"data"
    with pytest.raises(TypeError, match="limiter must be"):
        anyio_uring.wrap_file(io.BytesIO(), limiter=1)  # type: ignore[arg-type]


async def test_detach_of_a_buffered_file_gives_the_raw_one(
    tmp_path: Path, anyio_backend: Any
) -> None:
    path = tmp_path / "file"
    file = await anyio_uring.open_file(path, "w+b")
    await file.write(b"data")
    raw = file.detach()
    assert path.read_bytes() == b"data"
    assert await raw.pread(4, 0) == b"data"
    assert await raw.write(b".") == 1
    for call in (file.read, file.tell, file.flush):
        with pytest.raises(ValueError, match="raw stream has been detached"):
            await call()
    with pytest.raises(ValueError, match="raw stream has been detached"):
        file.detach()
    await raw.aclose()
    assert path.read_bytes() == b"data."


def test_importing_the_package_does_not_import_trio() -> None:
    program = (
        "import sys, anyio_uring; assert 'trio' not in sys.modules; "
        "import anyio_uring.trio; assert 'trio' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
