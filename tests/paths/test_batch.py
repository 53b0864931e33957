"""Many files in one await: order, failures, cancellation, bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support import state

from anyio_uring import (
    Path as UringPath,
)
from anyio_uring import (
    _batch,
    iter_files,
    read_files,
    stat_files,
    statistics,
)
from anyio_uring._batch import (
    AHEAD_MIN,
    CHUNK_BYTES,
    CHUNK_FILES,
    CHUNKS_MAX,
    COLD_FILES,
    WARM_CHUNKS,
    _Chunk,
    _Parts,
)
from anyio_uring._handle import COMPILED
from anyio_uring._many import Found, Left, read_chunk, stat_chunk

# Threads do the work in every cell, by rings of their own where the driver has one
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]


def make(folder: Path, count: int, size: int = 100) -> list[Path]:
    paths = []
    for number in range(count):
        path = folder / f"{number:05}"
        path.write_bytes(number.to_bytes(4, "big") * (number % size))
        paths.append(path)
    return paths


def descriptors() -> dict[int, str]:
    """Without rings, which a run keeps for its next batch."""
    found = state.descriptors().items()
    return {fd: link for fd, link in found if link != "anon_inode:[io_uring]"}


@pytest.mark.parametrize("count", [0, 1, CHUNK_FILES, CHUNK_FILES * (CHUNKS_MAX + 1) + 3])
async def test_order_is_kept(tmp_path: Path, count: int) -> None:
    paths = make(tmp_path, count)
    before = statistics().thread
    assert await read_files(paths) == [path.read_bytes() for path in paths]
    assert await stat_files(iter(paths)) == [path.stat() for path in paths]
    # Many files in a hop, if not as many where this machine was slow
    assert statistics().thread - before <= 2 * (4 + count // COLD_FILES)


async def test_every_type_of_path(tmp_path: Path) -> None:
    [path] = make(tmp_path, 1)
    path.write_bytes(b"x")
    paths: list[Any] = [path, str(path), os.fsencode(path), UringPath(path)]
    assert await read_files(paths) == [b"x"] * 4
    assert await stat_files(paths) == [path.stat()] * 4
    async with iter_files(paths) as files:
        assert [item async for item in files] == [(path, b"x") for path in paths]


class Text(str):
    __slots__ = ()


class Octets(bytes):
    __slots__ = ()


async def test_subclasses_of_str_and_bytes(tmp_path: Path) -> None:
    [path] = make(tmp_path, 1)
    path.write_bytes(b"x")
    paths: list[Any] = [Text(path), Octets(os.fsencode(path))]
    assert await read_files(paths) == [b"x"] * 2
    assert await stat_files(paths) == [path.stat()] * 2
    async with iter_files(paths) as files:
        assert [item async for item in files] == [(path, b"x") for path in paths]


async def test_files_of_every_kind(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(CHUNK_BYTES + 1))
    exact = tmp_path / "exact"
    exact.write_bytes(bytes(CHUNK_BYTES - 1))
    empty = tmp_path / "empty"
    empty.touch()
    (tmp_path / "link").symlink_to(big)
    made_up = Path("/proc/self/limits")
    null = Path("/dev/null")
    paths = [empty, big, exact, made_up, tmp_path / "link", null, big]
    expected = [path.read_bytes() for path in paths]
    assert await read_files(paths) == expected
    for ordered in True, False:
        async with iter_files(paths, ordered=ordered, bytes_ahead_max=1 << 20) as files:
            found = [item async for item in files]
        if ordered:
            assert found == list(zip(paths, expected, strict=True))
        else:
            assert sorted(found) == sorted(zip(paths, expected, strict=True))


async def test_fifo_keeps_only_itself_waiting(tmp_path: Path) -> None:
    paths = make(tmp_path, 3)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    seen = []
    async with iter_files([*paths, fifo, *paths]) as files:
        async for path, data in files:
            seen.append(path)
            if len(seen) == 3:
                writer = os.open(fifo, os.O_RDWR)
                os.write(writer, b"from the pipe")
                other = os.open(fifo, os.O_WRONLY)
                os.close(writer)
                os.close(other)
            if path == fifo:
                assert data == b"from the pipe"
    assert seen == [*paths, fifo, *paths]


async def test_links_are_followed_or_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    path = tmp_path / "link"
    assert await stat_files([path]) == [path.stat()]
    assert await stat_files([path], follow_symlinks=False) == [path.lstat()]


async def test_errors_sit_in_their_places(tmp_path: Path) -> None:
    paths = make(tmp_path, 300)
    wrong = [tmp_path / "none", paths[0] / "below", tmp_path / ("x" * 300), tmp_path]
    mixed: list[Path] = [*paths[:100], *wrong, *paths[100:]]
    for function in read_files, stat_files:
        found: list[Any] = await function(mixed, return_exceptions=True)  # type: ignore[operator]
        assert not any(isinstance(result, OSError) for result in found[:100] + found[104:])
        for path, result in zip(wrong, found[100:104], strict=True):
            if function is stat_files and path == tmp_path:
                assert result == path.stat()
                continue
            with pytest.raises(OSError, match="Errno") as caught:
                path.stat() if function is stat_files else path.read_bytes()
            assert type(result) is caught.type
            assert str(result) == str(caught.value)
            assert result.filename == str(path)


async def test_first_failure_is_raised_bare(tmp_path: Path) -> None:
    paths = make(tmp_path, 20)
    missing = str(tmp_path / "none")
    for function in read_files, stat_files:
        with pytest.raises(FileNotFoundError) as caught:
            await function([*paths, missing, *paths])  # type: ignore[operator]
        assert caught.value.filename == missing


@pytest.mark.parametrize("wrong", [None, 3.5, 7, "a\0b"])
async def test_no_path_at_all(tmp_path: Path, wrong: Any) -> None:
    paths = make(tmp_path, 2)
    expected = ValueError if isinstance(wrong, str) else TypeError
    before = statistics().thread
    for function in read_files, stat_files:
        with pytest.raises(expected):
            await function([*paths, wrong], return_exceptions=True)  # type: ignore[operator]
    assert statistics().thread == before
    async with iter_files([*paths, wrong, *paths]) as files:
        assert len([await anext(files) for _ in paths]) == 2
        with pytest.raises(expected):
            await anext(files)
        assert [path async for path, _ in files] == paths


async def test_name_that_cannot_be_encoded(tmp_path: Path) -> None:
    paths = make(tmp_path, 2)
    wrong = tmp_path / "\ud800"
    for function in read_files, stat_files:
        with pytest.raises(UnicodeEncodeError):
            await function([*paths, wrong], return_exceptions=True)  # type: ignore[operator]
    async with iter_files([*paths, wrong, *paths]) as files:
        assert [(await anext(files))[0] for _ in paths] == paths
        with pytest.raises(UnicodeEncodeError):
            await anext(files)
        assert [path async for path, _ in files] == paths


async def test_failure_is_raised_before_a_fifo_is_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = descriptors()
    with anyio.fail_after(10), pytest.raises(FileNotFoundError):
        await read_files([fifo, tmp_path / "none"])
    assert descriptors() == before


async def test_iterating_goes_on_behind_an_error(tmp_path: Path) -> None:
    paths = make(tmp_path, 3)
    async with iter_files([paths[0], tmp_path / "none", *paths[1:]]) as files:
        assert (await anext(files))[0] == paths[0]
        with pytest.raises(FileNotFoundError):
            await anext(files)
        assert [path async for path, _ in files] == paths[1:]
        with pytest.raises(StopAsyncIteration):
            await anext(files)


async def test_chunk_that_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make(tmp_path, 3)
    causes = [MemoryError()]

    def failing(*args: Any) -> Any:
        if causes:
            raise causes.pop()
        return read_chunk(*args)

    monkeypatch.setattr(_batch, "read_chunk", failing)
    async with iter_files(paths) as files:
        with pytest.raises(MemoryError):
            await anext(files)
        assert [path async for path, _ in files] == paths[1:]


async def test_error_of_the_callers_iterator(tmp_path: Path) -> None:
    paths = make(tmp_path, 3)

    def broken() -> Iterator[Path]:
        yield from paths
        raise LookupError("mine")

    async with iter_files(broken()) as files:
        found = [await anext(files) for _ in paths]
        assert [path for path, _ in found] == paths
        with pytest.raises(LookupError, match="mine"):
            await anext(files)
        with pytest.raises(StopAsyncIteration):
            await anext(files)


async def test_no_more_ahead_than_asked_for(tmp_path: Path) -> None:
    size = 10_000
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield path

    limit = 1 << 20
    async with iter_files(endless(), bytes_ahead_max=limit) as files:
        for count in range(1, 1000):
            await anext(files)
            # What is held, what is on its way, and the paths of one chunk for each worker
            assert taken - count <= limit // size + CHUNKS_MAX * CHUNK_FILES
            assert files._held <= limit  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", ["none", "no\0name"], ids=["absent", "no name"])
async def test_results_without_bytes_are_bounded_too(tmp_path: Path, wrong: str) -> None:
    taken = 0

    def many() -> Iterator[Path]:
        nonlocal taken
        while taken < 100_000:
            taken += 1
            yield tmp_path / wrong

    async with iter_files(many(), bytes_ahead_max=AHEAD_MIN) as files:
        for count in range(1, 2000):
            with pytest.raises((FileNotFoundError, ValueError)):
                await anext(files)
            await anyio.lowlevel.checkpoint()
            assert taken - count <= (CHUNKS_MAX + 2) * CHUNK_FILES


async def test_leaving_the_block(tmp_path: Path) -> None:
    paths = make(tmp_path, 2000)
    before = descriptors()
    for ending in ValueError, KeyboardInterrupt:
        with pytest.raises(ending):  # noqa: PT012
            async with iter_files(paths) as files:
                await anext(files)
                raise ending
    with anyio.CancelScope() as scope:
        async with iter_files(paths) as files:
            await anext(files)
            scope.cancel()
            await anext(files)
            pytest.fail("not cancelled")
    assert scope.cancelled_caught
    with pytest.raises(StopAsyncIteration):
        await anext(files)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with iter_files([*paths[:3], fifo]) as files:
        await anext(files)
    assert descriptors() == before


async def test_leaving_the_block_ends_whoever_waits(tmp_path: Path) -> None:
    [path] = make(tmp_path, 1)
    ended = 0

    async def consume() -> None:
        nonlocal ended
        async for _ in files:
            pass
        ended += 1

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, iter_files([path]) as files:
            own: Any = files
            own._chunks[-1] = _Chunk()  # as if its hop took long
            for _ in range(2):
                group.start_soon(consume)
            await anyio.wait_all_tasks_blocked()
            assert ended == 0
    assert ended == 2


async def test_cancelled_while_a_fifo_waits(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = descriptors()
    with anyio.move_on_after(0.05) as scope:
        await read_files([fifo])
    assert scope.cancelled_caught
    assert descriptors() == before


async def test_cancelled_step_leaves_a_big_file_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, small = tmp_path / "big", tmp_path / "small"
    big.write_bytes(bytes(AHEAD_MIN))
    small.touch()
    read_waiting = _batch.read_waiting

    async def wait_for_ever(*args: Any) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    async with iter_files([big, small], bytes_ahead_max=AHEAD_MIN) as files:
        monkeypatch.setattr(_batch, "read_waiting", wait_for_ever)
        with anyio.move_on_after(0.05) as scope:
            await anext(files)
        assert scope.cancelled_caught
        monkeypatch.setattr(_batch, "read_waiting", read_waiting)
        assert [path async for path, _ in files] == [big, small]


async def test_cancelled_threads_end_behind_their_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    parts = []

    def held(paths: Any, *args: Any) -> Found:
        parts.append(paths)
        begun.set()
        assert go_on.wait(60)
        return read_chunk(paths, *args)

    monkeypatch.setattr(_batch, "read_chunk", held)
    paths = make(tmp_path, 10) * 2000
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(read_files, paths)
            await anyio.to_thread.run_sync(begun.wait)
            scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
            go_on.set()
    assert scope.cancelled_caught
    assert len(parts) <= WARM_CHUNKS


async def test_threads_end_behind_a_part_that_ended_early() -> None:
    def find(paths: Any) -> Found:
        parts.give_up()
        return Found([b""] * 16, [], cold=False)

    parts = _Parts(["name"] * 5000, find, until_odd=False)
    assert parts.take_some() == []
    assert [len(parts.results), parts.results.count(b""), parts.left()] == [5000, 16, 0]


async def test_what_is_left_of_big_parts_is_shared_out_on_a_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(paths: Any) -> Found:
        sizes.append(len(paths))
        return Found([b""] * min(len(paths), 16), [], cold=True)

    monkeypatch.setattr(_batch, "WARM_CHUNKS", 3)  # on two processors fewer
    sizes: list[int] = []
    parts = _Parts(["name"] * 600, find, until_odd=False)
    parts.take_some()
    assert parts.left() == -(-584 // COLD_FILES) + 1  # 84 are left of the first part
    while parts.left():
        parts.take_some()
    assert (sizes[0], max(sizes[1:])) == (100, COLD_FILES)
    assert parts.results == [b""] * 600


async def test_a_hop_ends_behind_what_may_hold_descriptors() -> None:
    def find(paths: Any) -> Found:
        return Found([Left(-1), *[b""] * (len(paths) - 1)], [0], cold=False)

    parts = _Parts(["name"] * 5000, find, until_odd=False)
    left = parts.left()
    assert parts.take_some() == [(0, Left(-1))]
    assert parts.left() == left - 1 > 1


async def test_cancelled_before_it_begins(tmp_path: Path) -> None:
    paths = make(tmp_path, 2)
    before = statistics().thread
    for function in read_files, stat_files:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await function(paths)  # type: ignore[operator]
        assert scope.cancelled_caught
    assert statistics().thread == before


async def test_small_bound_still_reads_ahead(tmp_path: Path) -> None:
    limit = 16 << 10
    paths = make(tmp_path, 3)
    almost, exact = tmp_path / "almost", tmp_path / "exact"
    almost.write_bytes(bytes(limit - 1))
    exact.write_bytes(bytes(limit + 1))
    last = paths[2].read_bytes()
    assert read_chunk([str(path) for path in paths], limit)[:2] == (
        [p.read_bytes() for p in paths],
        [],
    )
    assert read_chunk([str(almost)] * 2, limit)[:2] == ([almost.read_bytes()], [])
    assert read_chunk([str(exact), str(paths[2])], limit)[:2] == ([Left(-1), last], [0])
    assert read_chunk([str(paths[2]), str(exact)], limit)[:2] == ([last], [])


@pytest.mark.parametrize("path", ["/etc", b"/etc", Path("/etc")])
async def test_one_path_in_place_of_many(path: Any) -> None:
    for function in read_files, stat_files:
        with pytest.raises(TypeError, match="not one path"):
            await function(path)  # type: ignore[operator]
    with pytest.raises(TypeError, match="not one path"):
        iter_files(path)


async def test_iterating_without_entering() -> None:
    with pytest.raises(TypeError, match="async with"):
        async for _ in iter_files([]):  # type: ignore[attr-defined]
            pass


async def test_bound_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="at least 65536"):
        iter_files([], bytes_ahead_max=1000)


async def test_a_task_goes_on_meanwhile(tmp_path: Path) -> None:
    paths = make(tmp_path, 100) * 40
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        async with iter_files(paths) as files:
            async for _ in files:
                pass
        group.cancel_scope.cancel()
    assert turns > 5


# -- bigger and smaller than the memory that files are read into ----------------------------------

BLOCK, STEP = 512 << 10, 16 << 10
SIZES = [10, BLOCK + 1, 20, BLOCK, BLOCK - 1, 0, 3 * BLOCK, 4 * BLOCK + 7, 1, BLOCK // 4, BLOCK, 30]
SIZES += [BLOCK - STEP, STEP, BLOCK - STEP + 1, STEP - 1, STEP + 1, BLOCK - STEP - 1, STEP + 1]


def make_big(folder: Path, sizes: list[int]) -> list[Path]:
    paths = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.big"
        path.write_bytes(number.to_bytes(2, "big") * (size // 2) + b"x" * (size % 2))
        paths.append(path)
    return paths


@pytest.mark.parametrize("limit", [BLOCK // 2, BLOCK + 1, 5 * BLOCK, CHUNK_BYTES])
async def test_files_that_outgrow_the_memory(tmp_path: Path, limit: int) -> None:
    paths = make_big(tmp_path, SIZES * 3)
    rest = [str(path) for path in paths]
    results: list[Any] = []
    while rest:
        found = read_chunk(rest, limit).results
        assert found
        assert sum(len(data) for data in found if isinstance(data, bytes)) <= limit
        results += found
        del rest[: len(found)]
    for path, data in zip(paths, results, strict=True):
        if data == Left(-1):
            assert path.stat().st_size >= limit
        else:
            assert data == path.read_bytes()


async def test_parts_that_end_early_go_on_in_order(tmp_path: Path) -> None:
    # All of a part would be more than a hop may bring
    paths = make_big(tmp_path, SIZES) * 12
    assert len(paths) > 4 * COLD_FILES
    expected = [path.read_bytes() for path in paths]
    assert await read_files(paths) == expected
    paths[50:50] = [tmp_path / "none", Path("/dev/null")]
    found: list[Any] = await read_files(paths, return_exceptions=True)
    assert isinstance(found.pop(50), FileNotFoundError)
    assert found.pop(50) == b""
    assert found == expected


@pytest.mark.parametrize("size", [0, 1, 511, 600, 4095, 4097, 20_000, 28_000, 100_000, 140_000])
async def test_objects_of_every_size(tmp_path: Path, size: int) -> None:
    # Those in the middle are made of memory that was there before
    paths = make_big(tmp_path, [max(size - number % 7, 0) for number in range(300)])
    results = [*read_chunk([str(path) for path in paths], CHUNK_BYTES).results]
    assert results
    for path, data in zip(paths, results, strict=False):
        assert data == path.read_bytes()


MEMORY = """
import sys
from anyio_uring._many import read_chunk

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10

limit, paths = int(sys.argv[1]), sys.argv[2:]
read_chunk(paths[:1], limit)
before = peak()
for _ in range(20):
    assert sum(map(len, read_chunk(paths, limit).results)) > limit // 2
print(peak() - before)
"""


async def test_memory_for_big_files_is_bounded(tmp_path: Path) -> None:
    paths = make_big(tmp_path, [20, *[4 * BLOCK] * 20])
    command = [sys.executable, "-c", MEMORY, str(CHUNK_BYTES), *map(str, paths)]
    grown = int(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    # The results, what they are made of, and what the allocator keeps
    assert grown < 4 * CHUNK_BYTES


# -- results that have numbers in common ----------------------------------------------------------

FIELDS = [name for name in dir(os.stat_result) if name.startswith("st_")]


def values(result: Any) -> list[Any]:
    """All of it: by name, and by place, where whole seconds are."""
    return [*((name, getattr(result, name)) for name in FIELDS), *result]


def make_different(folder: Path) -> list[Path]:
    """Files whose neighbours have some things in common and others not."""
    second = 1_000_000_000
    old = 1_234_567_890 * second
    times = [
        (old, old),
        (old + 1, old + 2),
        (old, old + 1),
        (old + 1, old + second + 1),
        (old + second, old),
        (-second - 1, -second - 1),
        (-1, 1),
        (0, 0),
    ]
    paths = []
    for number, ns in enumerate(times):
        for mode in 0o600, 0o644, 0o644:
            path = folder / f"{number}.{len(paths)}"
            path.write_bytes(bytes(len(paths)))
            if os.geteuid() == 0:
                os.chown(path, 1000 * (number % 3), 5000 + len(paths) % 2)
            path.chmod(mode)
            os.utime(path, ns=ns)
            paths.append(path)
        (folder / f"new{number}").touch()  # three times the same
        (folder / f"folder{number}").mkdir()
        paths += [folder / f"new{number}", folder / f"folder{number}", Path("/dev/null")]
    return paths


async def test_results_are_those_of_stat_in_every_field(tmp_path: Path) -> None:
    paths = make_different(tmp_path)
    missing = tmp_path / "none"
    for order in paths, paths[::-1], sorted(paths), [p for p in paths for _ in range(2)]:
        mixed = [path for pair in zip(order, [missing] * len(order), strict=True) for path in pair]
        expected = [values(path.stat()) for path in order]
        assert [values(result) for result in await stat_files(order)] == expected
        found: list[Any] = await stat_files(mixed, return_exceptions=True)
        assert [values(result) for result in found[::2]] == expected
        assert all(isinstance(result, FileNotFoundError) for result in found[1::2])


async def test_results_far_behind_are_those_of_stat(tmp_path: Path) -> None:
    # The last of a step and all of the next one, whose answers take the place of the first ones
    [one, other] = make(tmp_path, 2)
    one.chmod(0o600)
    other.chmod(0o644)
    names = [str(one)] * 256 + [str(other)] * 256
    results: list[Any] = []
    while len(results) < len(names):
        results += stat_chunk(names[len(results) :], True).results
    expected = [values(path.stat()) for path in (one, other)]
    assert [values(result) for result in results] == [expected[0]] * 256 + [expected[1]] * 256


async def test_numbers_in_common_are_counted(tmp_path: Path) -> None:
    if not COMPILED:
        pytest.skip("the portable form has none in common")
    paths = [str(path) for path in make(tmp_path, 20)]
    results: list[Any] = stat_chunk(paths, True).results
    first, last = results[0], results[-1]
    assert first.st_mode is last.st_mode
    mode, time, alone = first.st_mode, first.st_mtime_ns, int("1" * 20)
    kept = values(last)
    assert sys.getrefcount(mode) > sys.getrefcount(alone) + 10
    del results, first
    assert kept == values(last) == values(os.stat(paths[-1]))
    del last, kept
    assert sys.getrefcount(mode) == sys.getrefcount(time) == sys.getrefcount(alone)


async def test_results_that_are_dropped_leave_nothing(tmp_path: Path) -> None:
    paths = [str(path) for path in [*make_different(tmp_path), tmp_path / "none"]]
    tracemalloc.start()
    try:
        stat_chunk(paths, True)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100_000 // len(paths)):
            stat_chunk(paths, True)
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
