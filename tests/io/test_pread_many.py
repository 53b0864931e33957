"""`pread_many`, compared with as many calls of ``os.pread``."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import Tiers
from tests.support.fuse import FuseMount, cannot_fuse
from tests.support.oracle import outcome
from tests.support.state import nothing_in_flight

import anyio_uring
from anyio_uring import _driver_thread, _ranges, statistics
from anyio_uring.testing import force_tiers

pytestmark = pytest.mark.anyio

SIZE = (1 << 20) + 777
CONTENT = random.Random(1).randbytes(SIZE)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "file"
    path.write_bytes(CONTENT)
    return path


def expected(path: Path, requests: list[tuple[int, int]]) -> list[bytes]:
    with open(path, "rb") as file:
        return [os.pread(file.fileno(), size, offset) for size, offset in requests]


@pytest.mark.parametrize("buffering", [0, -1])
async def test_results_are_those_of_pread_in_the_order_asked(
    tiers: Tiers, path: Path, buffering: int
) -> None:
    draw = random.Random(2)
    requests = [(draw.randrange(9000), draw.randrange(SIZE + 9000)) for _ in range(300)]
    requests += [(4096, 4096 * number) for number in range(64)]  # one behind the other
    requests += [(100, 50), (100, 50), (10, 90), (0, 7), (0, 1 << 40), (5, SIZE - 2), (5, SIZE)]
    requests += [(2 << 20, 3), (SIZE, 0)]
    draw.shuffle(requests)
    async with await anyio_uring.open_file(path, "rb", buffering) as file:
        assert await file.pread_many(requests) == expected(path, requests)
        assert await file.pread_many(pair for pair in requests[:9]) == expected(path, requests[:9])
        assert await file.pread_many([]) == []
        assert await file.tell() == 0
        assert await file.read(10) == CONTENT[:10]


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 2200)), min_size=1, max_size=40
    ),
    tier=st.sampled_from(["ring", "thread", "now"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_requests_give_what_pread_gives(
    path: Path, requests: list[tuple[int, int]], tier: Any
) -> None:
    begin = SIZE - 2000
    moved = [(size, begin + offset) for size, offset in requests]

    async def main() -> None:
        async with await anyio_uring.open_file(path, "rb", 0) as file:
            assert await file.pread_many(moved) == expected(path, moved)

    with force_tiers(tier, "thread"):
        anyio.run(main)


async def test_buffered_bytes_are_written_before_they_are_read(
    tiers: Tiers, tmp_path: Path
) -> None:
    async with await anyio_uring.open_file(tmp_path / "f", "w+b") as file:
        await file.write(b"0123456789")
        assert await file.pread_many([(2, 20), (3, 1), (4, 8)]) == [b"", b"123", b"89"]
        await file.write(b"abc")
        assert await file.pread_many([(3, 0)]) == [b"012"]
        assert (tmp_path / "f").read_bytes() == b"0123456789"  # not touched, so still here
        assert await file.pread_many([(3, 0), (9, 11)]) == [b"012", b"bc"]
        assert await file.tell() == 13


WRONG: dict[str, tuple[Callable[[Any], Any], type[BaseException]]] = {
    "no pairs": (lambda f: f.pread_many([1, 2]), TypeError),
    "three of them": (lambda f: f.pread_many([(1, 2, 3)]), ValueError),
    "None": (lambda f: f.pread_many(None), TypeError),
    "a size of str": (lambda f: f.pread_many([("1", 0)]), TypeError),
    "a negative size": (lambda f: f.pread_many([(1, 0), (-1, 0)]), ValueError),
    "an offset of float": (lambda f: f.pread_many([(1, 0.0)]), TypeError),
    "an offset too far": (lambda f: f.pread_many([(1, 1 << 63)]), OverflowError),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_arguments_that_are_wrong_are_refused(tiers: Tiers, path: Path, wrong: str) -> None:
    call, error = WRONG[wrong]
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        with pytest.raises(error):
            await call(file)
        assert await file.pread_many([(1, 0)]) == [CONTENT[:1]]


async def test_errors_are_those_of_pread(tiers: Tiers, path: Path, tmp_path: Path) -> None:
    file = await anyio_uring.open_file(path, "rb", 0)
    result = await outcome(lambda f: f.pread_many([(1, 0), (1, -1)]), file, str(path))
    assert result == (OSError, errno.EINVAL, "Invalid argument")
    await file.aclose()
    with pytest.raises(ValueError, match="closed file"):
        await file.pread_many([(1, 0)])
    async with await anyio_uring.open_file(tmp_path / "w", "wb") as file:
        with pytest.raises(OSError, match="not open for reading"):
            await file.pread_many([])
    async with await anyio_uring.open_file(path, "rt", encoding="latin-1") as text:
        with pytest.raises(OSError, match="on its buffer"):
            await text.pread_many([(1, 0)])
        assert await text.buffer.pread_many([(1, 0)]) == [CONTENT[:1]]
    reader, writer = os.pipe()
    os.close(writer)
    async with await anyio_uring.open_file(reader, "rb", 0) as file:
        result = await outcome(lambda f: f.pread_many([]), file, reader)
        assert result == (OSError, errno.ESPIPE, "Illegal seek")


async def test_cancelled_scope_raises_before_anything_is_read(tiers: Tiers, path: Path) -> None:
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.pread_many([(1, 0)])
        assert scope.cancelled_caught
        assert await file.pread_many([(1, 0)]) == [CONTENT[:1]]


@pytest.mark.tiers("ring")
async def test_all_are_in_the_kernel_together_and_neighbours_are_one(
    tiers: Tiers, path: Path
) -> None:
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        before = statistics()
        await file.pread_many([(512, 8192 * number) for number in range(100)])
        apart = statistics()
        assert apart.operations["read"] - before.operations.get("read", 0) == 100
        assert apart.enters - before.enters <= 12
        await file.pread_many([(4096, 4096 * number) for number in range(64)])
        assert statistics().operations["read"] - apart.operations["read"] == 2


@pytest.mark.tiers("ring")
async def test_more_requests_than_the_kernel_takes_are_all_read(tiers: Tiers, path: Path) -> None:
    requests = [(100, 1000 * number) for number in range(1000)]
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert await file.pread_many(requests) == expected(path, requests)


@pytest.mark.tiers("ring")
async def test_lack_of_memory_on_the_way_is_raised_and_loses_nothing(
    tiers: Tiers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [(100, 1000 * number) for number in range(1000)]
    blocks = 0

    def touching(requests: Any, numbers: Any, most: int) -> Any:
        nonlocal blocks
        blocks += 1
        if blocks == 3:
            raise MemoryError
        return _ranges._apart(requests, numbers, most)

    async with await anyio_uring.open_file(path, "rb", 0) as file:
        with monkeypatch.context() as patch:
            patch.setattr(_ranges, "touching", touching)
            with pytest.raises(MemoryError):
                await file.pread_many(requests)
        assert statistics().inflight == 0
        assert await file.pread_many(requests) == expected(path, requests)


@pytest.mark.tiers("thread")
async def test_threads_get_many_at_a_time(
    tiers: Tiers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [(100, 1000 * number) for number in range(1000)]
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        before = statistics().thread
        assert await file.pread_many(requests) == expected(path, requests)
        assert statistics().thread - before == 8
        assert await file.pread_many(requests[:32]) == expected(path, requests[:32])
        assert statistics().thread - before == 9
        monkeypatch.setattr(_driver_thread, "SPANS_BYTES_MAX", 250)
        before = statistics().thread
        assert await file.pread_many(requests[:5]) == expected(path, requests[:5])
        assert statistics().thread - before == 3


@pytest.mark.tiers("thread")
async def test_threads_read_side_by_side(
    tiers: Tiers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(8, timeout=60)
    read = _driver_thread.pread_any

    def pread(handle: Any, size: int, offset: int) -> bytes:
        if offset % 32_000 == 0:  # the first of each hop
            together.wait()
        return read(handle, size, offset)

    monkeypatch.setattr(_driver_thread, "pread_any", pread)
    requests = [(100, 1000 * number) for number in range(256)]
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        assert await file.pread_many(requests) == expected(path, requests)


@pytest.mark.tiers("thread")
async def test_threads_end_before_the_first_error_is_raised(
    tiers: Tiers, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = []
    both = threading.Barrier(2, timeout=60)

    def fail(handle: Any, size: int, offset: int) -> bytes:
        at_work.append(offset)
        try:
            if offset in (32_000, 64_000):  # of the second and third hop, both of which have begun
                both.wait()
                raise OSError(offset, "broken")
            return b"x" * size
        finally:
            at_work.remove(offset)

    monkeypatch.setattr(_driver_thread, "pread_any", fail)
    requests = [(100, 1000 * number) for number in range(20_000)]
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        monkeypatch.setattr(_driver_thread, "SPANS_MAX", 32)
        with pytest.raises(OSError, match="broken") as caught:
            await file.pread_many(requests)
        assert not at_work
        assert caught.value.errno == 32_000
        assert caught.value.filename == str(path)


@pytest.mark.tiers("auto", "now+thread")
async def test_cached_requests_leave_others_their_turns(tiers: Tiers, path: Path) -> None:
    requests = [(4096, 4096 * (number % 250)) for number in range(8000)]
    turns = 0
    async with await anyio_uring.open_file(path, "rb", 0) as file:

        async def count() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            before = statistics().now
            results = await file.pread_many(requests)
            assert statistics().now - before > 7000
            group.cancel_scope.cancel()
        assert turns >= 20
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.lowlevel.checkpoint)

                async def cancel() -> None:
                    scope.cancel()

                group.start_soon(cancel)
                await file.pread_many(requests)
        assert scope.cancelled_caught
    assert results == expected(path, requests)


# -- a server that does not answer, or with an error ----------------------------------------------


@pytest.fixture(scope="module")
def shared_mount() -> Iterator[FuseMount]:
    if reason := cannot_fuse():
        pytest.skip(reason)
    with FuseMount({"file": CONTENT}, direct_io=True) as mount:
        yield mount


@pytest.fixture
def mount(shared_mount: FuseMount) -> Iterator[FuseMount]:
    yield shared_mount
    shared_mount.release()


SCATTERED = [(100, 200_000 * number) for number in range(5)]


@pytest.mark.tiers("ring", "auto")
async def test_hung_reads_are_left_behind_together(tiers: Tiers, mount: FuseMount) -> None:
    file = await anyio_uring.open_file(mount.path / "file", "rb", 0)
    seen = mount.seen("READ")
    mount.stall("READ")
    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:

        async def read() -> None:
            with scope:
                await file.pread_many(SCATTERED)

        group.start_soon(read)
        await to_thread.run_sync(mount.wait_for, "READ", seen + 5)
        scope.cancel()
    assert scope.cancelled_caught
    assert statistics().inflight == 5
    mount.release()
    await nothing_in_flight()
    assert await file.pread_many(SCATTERED) == [CONTENT[at : at + 100] for _, at in SCATTERED]
    await file.aclose()


async def test_closing_waits_for_all_of_them(tiers: Tiers, mount: FuseMount) -> None:
    file = await anyio_uring.open_file(mount.path / "file", "rb", 0)
    seen = mount.seen("READ")
    mount.stall("READ")
    results: list[list[bytes]] = []
    async with anyio.create_task_group() as group:

        async def read() -> None:
            results.append(await file.pread_many(SCATTERED))

        async def close() -> None:
            await file.aclose()
            assert results

        group.start_soon(read)
        await to_thread.run_sync(mount.wait_for, "READ", seen + 1)
        group.start_soon(close)
        while not file.closed:
            await anyio.lowlevel.checkpoint()
        mount.release()
    assert results == [[CONTENT[at : at + 100] for _, at in SCATTERED]]


async def test_error_is_raised_with_the_files_name(tiers: Tiers, mount: FuseMount) -> None:
    path = mount.path / "file"
    async with await anyio_uring.open_file(path, "rb", 0) as file:
        seen = mount.seen("READ")
        mount.stall("READ")

        async def fail() -> None:
            await to_thread.run_sync(mount.wait_for, "READ", seen + 1)
            mount.release(error=errno.EIO)

        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            result = await outcome(lambda f: f.pread_many(SCATTERED), file, str(path))
            assert result == (OSError, errno.EIO, "Input/output error")
        mount.release()
        await nothing_in_flight()
