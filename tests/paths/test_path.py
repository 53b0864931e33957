"""`Path` beside `pathlib.Path`: the same results, errors and trees."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers
from tests.support.trees import CALLS, NAMES, build, check_tiers, same_as_pathlib, snapshot

from anyio_uring import Path, _listing, open_file, statistics

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]


@pytest.mark.parametrize("name", NAMES, ids=[name[:20].replace("\0", "NUL") for name in NAMES])
async def test_every_operation_on_everything(tmp_path: pathlib.Path, name: str) -> None:
    await same_as_pathlib(tmp_path, name, Path)


async def test_stat_is_complete(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1_234_567_890_123_456_789, -5))
    assert await Path(path).stat() == os.stat(path)
    mine, theirs = await Path(path).stat(), os.stat(path)
    for field in dir(theirs):
        if field.startswith("st_"):
            assert getattr(mine, field) == getattr(theirs, field), field
    assert list(mine) == list(theirs)


async def test_device_numbers() -> None:
    mine, theirs = await Path("/dev/null").stat(), os.stat("/dev/null")
    assert (mine.st_rdev, mine.st_dev) == (theirs.st_rdev, theirs.st_dev)
    assert await Path("/dev/null").is_char_device()


async def test_paths_made_of_it_keep_class_and_limiter(tmp_path: pathlib.Path) -> None:
    class Own(Path):
        pass

    limiter = anyio.CapacityLimiter(1)
    path = Own(tmp_path, limiter=limiter)
    (tmp_path / "a").write_bytes(b"x")
    made: list[Any] = [path / "a", await (path / "a").rename(tmp_path / "b"), path.parent]
    made += [found async for found in path.iterdir()]
    made += [found async for found in path.glob("*")]
    made += [found async for found in path.rglob("*")]
    made.append(await (path / "b").replace(str(tmp_path / "c")))
    for found in made:
        assert type(found) is Own
        assert found.limiter is limiter
    assert isinstance(path, anyio.Path)
    assert isinstance(path, os.PathLike)
    assert path == tmp_path
    assert hash(path) == hash(tmp_path)
    assert path < tmp_path / "x"
    async with await (path / "c").open("rb") as file:
        assert file.limiter is limiter


async def test_large_files(tmp_path: pathlib.Path) -> None:
    data = os.urandom(1 << 20) * 5 + b"end"
    path = Path(tmp_path / "large")
    assert await path.write_bytes(data) == len(data)
    assert await path.read_bytes() == data
    assert await path.read_text("latin-1") == (tmp_path / "large").read_text("latin-1")


async def test_files_without_a_size() -> None:
    assert (await Path("/proc/self/status").read_bytes()).startswith(b"Name:")


async def test_fifo_is_read_to_its_end(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    async def write() -> None:
        await anyio.to_thread.run_sync((tmp_path / "fifo").write_bytes, b"through the pipe")

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        assert await Path(tmp_path / "fifo").read_bytes() == b"through the pipe"


@pytest.mark.parametrize("count", [0, 1, 64, 65, 3000])
async def test_lists_of_many_entries(tmp_path: pathlib.Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"{number}.txt").touch()
    expected = sorted(tmp_path.iterdir())
    before = statistics().thread
    assert sorted([path async for path in Path(tmp_path).iterdir()]) == expected
    assert statistics().thread - before <= 2 + count // 500  # many entries in one hop
    assert sorted([path async for path in Path(tmp_path).glob("*.txt")]) == expected


class Octets(bytes):
    __slots__ = ()


async def test_subclasses_of_bytes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.touch()
    async with await open_file(Octets(os.fsencode(path)), "rb") as file:
        assert await file.read() == b""
    async with await open_file(Octets(os.fsencode(tmp_path / "new")), "wb"):
        pass
    await Path(tmp_path / "link").symlink_to(Octets(b"new"))
    await Path(tmp_path / "other").hardlink_to(Octets(os.fsencode(path)))
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "new", "other"]


async def test_slow_search_ends_only_where_it_ends(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_listing, "CHUNK_SECONDS", -1.0)  # each entry takes too long
    for number in range(5):
        (tmp_path / str(number)).touch()
    assert len([path async for path in Path(tmp_path).glob("*")]) == 5
    assert len([path async for path in Path(tmp_path).iterdir()]) == 5


async def test_stopping_early_closes_the_directory(tmp_path: pathlib.Path) -> None:
    for number in range(500):
        (tmp_path / str(number)).mkdir()
    before = sorted(os.listdir("/proc/self/fd"))
    for iterator in Path(tmp_path).iterdir(), Path(tmp_path).rglob("*"):
        async for _ in iterator:
            break
        await iterator.aclose()  # type: ignore[attr-defined]
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("operation", CALLS, ids=range(len(CALLS)))
async def test_cancelled_before_it_begins(
    tmp_path: pathlib.Path, operation: Callable[[Path], Awaitable[Any]]
) -> None:
    build(tmp_path / "tree")
    before = snapshot(tmp_path / "tree")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await operation(Path(tmp_path / "tree"))
        pytest.fail("not cancelled")
    assert scope.cancelled_caught
    assert snapshot(tmp_path / "tree") == before


async def test_which_tier_serves(tmp_path: pathlib.Path, tiers: Tiers) -> None:
    await check_tiers(Path, tmp_path, tiers)
