"""`read()` goes by the size that the open has found: of files that have changed since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.places import KINDS, NoPlaceError, evict, place

from anyio_uring import AsyncFile, open_file
from anyio_uring import Path as AsyncPath

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

PAGE = 4096


async def open_second(path: Path) -> AsyncFile[bytes]:
    """An open that is served at once, where one can be: the first of a run looks it up."""
    async with await open_file(path, "rb"):
        pass
    return await open_file(path, "rb")


@pytest.mark.parametrize("size", [0, 1, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
async def test_read_of_a_file_grown_since_its_open_is_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * size)
    async with await open_second(path) as file:
        with open(path, "ab") as other:
            other.write(b"b" * 5000)
        assert await file.read() == b"a" * size + b"b" * 5000
        assert await file.read() == b""
        with open(path, "ab") as other:
            other.write(b"c" * 10)
        assert await file.read() == b"c" * 10
        assert await file.tell() == size + 5010


@pytest.mark.parametrize("cut", [0, 50, PAGE, PAGE + 1])
async def test_read_of_a_file_cut_since_its_open_ends_there(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (2 * PAGE + 17))
    async with await open_second(path) as file:
        os.truncate(path, cut)
        assert await file.read() == b"a" * cut
        assert await file.tell() == cut
        path.write_bytes(b"a" * cut + b"more")
        assert await file.read() == b"more"


async def test_rest_of_a_file_begins_with_what_was_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(3 * PAGE + 5)
    path.write_bytes(content)
    async with await open_second(path) as file:
        assert await file.read(10) == content[:10]
        assert await file.read() == content[10:]
        assert await file.seek(-5, os.SEEK_END) == 3 * PAGE
        assert await file.read(None) == content[-5:]
    async with await open_file(path, "r+b") as file:
        await file.seek(0, os.SEEK_END)
        await file.write(b"written")
        await file.seek(3 * PAGE)
        assert await file.read() == content[-5:] + b"written"


@pytest.mark.parametrize("kind", KINDS)
async def test_end_that_has_become_a_page_border_is_not_taken_for_the_end(kind: str) -> None:
    """The read of what is in memory stops there, at the very size that the open has found."""
    try:
        found = place(kind)
        directory = found.__enter__()
    except NoPlaceError as error:
        pytest.skip(str(error))
    try:
        path = directory / "file"
        path.write_bytes(b"a" * PAGE)
        async with await open_second(path) as file:
            with open(path, "ab") as other:
                other.write(b"b" * PAGE * 64)
            with open(path, "rb", 0) as other:
                os.posix_fadvise(other.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
                evict(other.fileno(), PAGE * 65)
                os.pread(other.fileno(), PAGE, 0)
            assert await file.read() == b"a" * PAGE + b"b" * PAGE * 64
        path.unlink()
    finally:
        found.__exit__(None, None, None)


async def test_paths_stand_in_for_each_other(tmp_path: Path) -> None:
    """One that was made of a `pathlib.Path` keeps it; everything else is as if it were its own."""
    plain = tmp_path / "file"
    plain.write_bytes(b"content")
    path = AsyncPath(plain)
    assert (path, str(path), os.fspath(path)) == (AsyncPath(str(plain)), str(plain), str(plain))
    assert hash(path) == hash(plain)
    assert await (path.parent / plain.name).read_bytes() == b"content"
    assert [child async for child in path.parent.iterdir()] == [path]
    with pytest.raises(TypeError, match="limiter must be"):
        AsyncPath(plain, limiter=1)  # type: ignore[arg-type]
