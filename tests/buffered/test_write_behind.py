"""`write_behind`: writes return early, nothing overtakes them, and no error is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import Tiers
from tests.support.fuse import FuseMount, cannot_fuse
from tests.support.state import nothing_in_flight

import anyio_uring
from anyio_uring._runtime import current_runtime
from anyio_uring.testing import force_tiers

pytestmark = pytest.mark.anyio

ring_only = pytest.mark.tiers("auto", "ring")
KIB = 1 << 10


@pytest.fixture(scope="module")
def shared_mount() -> Iterator[FuseMount]:
    if reason := cannot_fuse():
        pytest.skip(reason)
    with FuseMount({"file": b""}, direct_io=True) as mount:
        yield mount


@pytest.fixture
def mount(shared_mount: FuseMount) -> Iterator[FuseMount]:
    yield shared_mount
    shared_mount.release()


async def test_everything_is_on_the_disk_at_the_end(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    draw = random.Random(1)
    parts = [draw.randbytes(draw.choice([1, 500, 4096, 64 * KIB, 70_000])) for _ in range(200)]
    async with await anyio_uring.open_file(path, "wb", write_behind=256 * KIB) as file:
        for part in parts:
            assert await file.write(part) == len(part)
        assert await file.tell() == sum(map(len, parts))
    assert path.read_bytes() == b"".join(parts)


step = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 30_000)),
    st.tuples(st.just("write"), st.integers(0, 100)),
    st.tuples(st.just("seek"), st.integers(0, 50_000)),
    st.tuples(st.just("truncate"), st.integers(0, 50_000)),
    st.tuples(st.just("pwrite"), st.integers(0, 9000), st.integers(0, 50_000)),
    st.sampled_from([("tell",), ("flush",), ("fsync",), ("share",)]),
)


@given(steps=st.lists(step, max_size=20), tier=st.sampled_from(["ring", "thread"]))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_sequence_ends_as_with_io(
    tmp_path: Path, steps: list[tuple[Any, ...]], tier: Any
) -> None:
    ours, oracle = tmp_path / "ours", tmp_path / "oracle"

    async def main() -> None:
        count = 0
        async with await anyio_uring.open_file(ours, "wb", 4096, write_behind=20_000) as file:
            with open(oracle, "wb", 4096) as other:
                for name, *arguments in steps:
                    count += 1
                    data = bytes([count]) * arguments[0] if "write" in name else b""
                    if name == "write":
                        assert await file.write(data) == other.write(data)
                    elif name == "pwrite":
                        other.flush()
                        await file.flush()
                        await file.pwrite(data, arguments[1])
                        os.pwrite(other.fileno(), data, arguments[1])
                    elif name == "share":
                        file.fileno()
                    elif name == "fsync":
                        await file.fsync()
                        other.flush()
                        assert ours.stat().st_size == oracle.stat().st_size
                    else:
                        result = await getattr(file, name)(*arguments)
                        assert result == getattr(other, name)(*arguments)
        assert ours.read_bytes() == oracle.read_bytes()

    with force_tiers(tier, "thread"):
        anyio.run(main)


@ring_only
async def test_write_returns_before_the_server_answers(tiers: Tiers, mount: FuseMount) -> None:
    data = bytes(64 * KIB)
    file = await anyio_uring.open_file(mount.path / "file", "wb", write_behind=128 * KIB)
    own: Any = file
    mount.stall("WRITE")
    assert await file.write(data) == len(data)
    assert await file.write(data) == len(data)
    assert own._behind == 128 * KIB
    # That is all there is room for: the next one waits, and can be cancelled before its effect
    with anyio.move_on_after(0.05) as scope:
        await file.write(data)
    assert scope.cancelled_caught
    for wait in file.flush, file.tell, lambda: file.seek(0):
        with anyio.move_on_after(0.05) as scope:
            await wait()
        assert scope.cancelled_caught
    mount.release()
    assert await file.tell() == 128 * KIB
    await file.aclose()
    assert mount.content("file") == 2 * data


@ring_only
async def test_staged_writes_go_with_the_next_turn_of_the_loop(
    tiers: Tiers, mount: FuseMount
) -> None:
    file = await anyio_uring.open_file(mount.path / "file", "wb", write_behind=1 << 20)
    own: Any = file
    mount.stall("WRITE")
    for _ in range(3):
        await file.write(bytes(8 * KIB))
    assert len(own._staged) == 2
    assert file._handle.inflight == 1
    await anyio.wait_all_tasks_blocked()
    assert not own._staged
    assert file._handle.inflight == 2  # the two as one
    mount.release()
    await file.aclose()
    assert len(mount.content("file")) == 24 * KIB


@ring_only
@pytest.mark.parametrize("then", ["close", "aclose", "flush", "seek", "fsync", "tell"])
async def test_staged_writes_are_not_overtaken(tiers: Tiers, tmp_path: Path, then: str) -> None:
    file = await anyio_uring.open_file(tmp_path / "f", "wb", write_behind=1 << 20)
    for number in range(4):
        await file.write(bytes([number]) * (16 * KIB))
    if then == "close":
        file.close()
        await nothing_in_flight()
    else:
        await getattr(file, then)(*(0,) * (then == "seek"))
    assert (tmp_path / "f").read_bytes() == b"".join(bytes([n]) * (16 * KIB) for n in range(4))
    await file.aclose()


@ring_only
async def test_staged_writes_without_memory_for_them_are_left_to_a_thread(
    tiers: Tiers, mount: FuseMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> bool:
        raise MemoryError

    parts = [bytes([number]) * (64 * KIB) for number in range(3)]
    file = await anyio_uring.open_file(mount.path / "file", "wb", write_behind=1 << 20)
    own: Any = file
    mount.stall("WRITE")
    await file.write(parts[0])
    monkeypatch.setattr(type(current_runtime().ops), "write_behind", no_memory)
    await file.write(parts[1])
    await file.write(parts[2])
    await anyio.wait_all_tasks_blocked()
    assert own._behind == 64 * KIB
    mount.release()
    await file.flush()
    assert own._behind == 0
    assert mount.content("file") == b"".join(parts)
    monkeypatch.undo()
    await file.aclose()


@ring_only
async def test_write_that_waits_while_the_file_is_closed_is_not_accepted(
    tiers: Tiers, mount: FuseMount
) -> None:
    data = bytes(64 * KIB)
    file = await anyio_uring.open_file(mount.path / "file", "wb", write_behind=64 * KIB)
    mount.stall("WRITE")
    await file.write(data)

    async def write() -> None:
        with pytest.raises(ValueError, match="closed file"):
            await file.write(data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        file.close()
        mount.release()
    await nothing_in_flight()
    assert mount.content("file") == data


@ring_only
@pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop")
async def test_refused_write_whose_task_leaves_is_not_overtaken(
    tiers: Tiers, mount: FuseMount
) -> None:
    file = await anyio_uring.open_file(mount.path / "file", "wb", write_behind=64 * KIB)
    own: Any = file
    own._refused.append((b"1" * 4096, 0))
    seen = mount.seen("WRITE")
    mount.stall("WRITE")
    task = asyncio.ensure_future(file.flush())
    await to_thread.run_sync(mount.wait_for, "WRITE", seen + 1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert file._handle.busy
    mount.release()
    await file.seek(0)
    await file.write(b"2" * 4096)
    await file.aclose()
    assert mount.content("file") == b"2" * 4096
    assert mount.seen("WRITE") == seen + 2


@ring_only
async def test_staged_writes_are_the_parents(tiers: Tiers, mount: FuseMount) -> None:
    file = await anyio_uring.open_file(mount.path / "file", "wb", write_behind=1 << 20)
    mount.stall("WRITE")
    for _ in range(3):
        await file.write(b"1" * (16 * KIB))
    own: Any = file
    assert own._staged
    own._pid -= 1  # as a forked child sees it
    mount.release()
    own._flush_rest()
    assert (own._staged, own._behind, own._pid) == ([], 0, os.getpid())
    await file.aclose()
    assert mount.content("file") == b"1" * (16 * KIB)


@ring_only
@pytest.mark.parametrize("then", ["write", "flush", "tell", "seek", "fsync", "aclose"])
async def test_error_is_raised_once_by_what_comes_next(
    tiers: Tiers, mount: FuseMount, then: str
) -> None:
    path = mount.path / "file"
    data = bytes(64 * KIB)
    file = await anyio_uring.open_file(path, "wb", write_behind=1 << 20)
    seen = mount.seen("WRITE")
    mount.stall("WRITE")
    await file.write(data)
    await to_thread.run_sync(mount.wait_for, "WRITE", seen + 1)
    mount.release(error=errno.ENOSPC)
    await nothing_in_flight()
    arguments = {"write": (data,), "seek": (0,)}.get(then, ())
    with pytest.raises(OSError, match="No space left") as caught:
        await getattr(file, then)(*arguments)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert file.closed == (then == "aclose")
    await file.aclose()


@ring_only
async def test_synchronous_close_leaves_the_rest_to_the_kernel(
    tiers: Tiers, mount: FuseMount
) -> None:
    data = b"x" * (64 * KIB)
    file = await anyio_uring.open_file(mount.path / "file", "wb", write_behind=1 << 20)
    mount.stall("WRITE")
    await file.write(data)
    await to_thread.run_sync(file.close)
    assert file.closed
    mount.release()
    await nothing_in_flight()
    assert mount.content("file") == data


async def test_cancelled_close_finishes_what_was_written(tiers: Tiers, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    with anyio.CancelScope() as scope:
        async with await anyio_uring.open_file(tmp_path / "f", "wb", write_behind=1 << 20) as file:
            await file.write(data[:200_000])
            await file.write(data[200_000:])
            scope.cancel()
    assert (tmp_path / "f").read_bytes() == data


@pytest.fixture
def limit() -> Iterator[int]:
    """No file may become bigger than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


async def test_full_disk_is_told_by_a_synchronous_close(
    tiers: Tiers, tmp_path: Path, limit: int
) -> None:
    file = await anyio_uring.open_file(tmp_path / "f", "wb", write_behind=1 << 20)
    own: Any = file
    own._refused.append((bytes(limit + 1), 0))  # by the ring, for want of a worker
    with pytest.raises(OSError, match="too large"):
        file.close()
    assert (tmp_path / "f").stat().st_size == limit


async def test_error_of_what_the_ring_refused_is_told_once(
    tiers: Tiers, tmp_path: Path, limit: int
) -> None:
    file = await anyio_uring.open_file(tmp_path / "f", "wb", write_behind=1 << 20)
    own: Any = file
    own._refused += [(bytes(1), limit), (b"behind it", 0)]  # by the ring, for want of a worker
    with pytest.raises(OSError, match="too large") as caught:
        await file.flush()
    assert caught.value.errno == errno.EFBIG
    await file.flush()
    await file.aclose()
    assert (tmp_path / "f").read_bytes() == b"behind it"


async def test_what_could_not_be_handed_over_is_not_waited_for(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> bool:
        raise MemoryError

    file = await anyio_uring.open_file(tmp_path / "f", "wb", write_behind=1 << 20)
    monkeypatch.setattr(type(current_runtime().ops), "write_behind", no_memory)
    with pytest.raises(MemoryError):
        await file.write(bytes(64 * KIB))
    own: Any = file
    assert own._behind == 0
    monkeypatch.undo()
    await file.write(b"data")
    await file.aclose()
    assert (tmp_path / "f").read_bytes() == b"data"


async def test_full_disk_is_told_at_the_latest_by_closing(
    tiers: Tiers, tmp_path: Path, limit: int
) -> None:
    async def write() -> None:
        async with file:
            await file.write(bytes(64 * KIB))
            await file.write(bytes(64 * KIB))

    file = await anyio_uring.open_file(tmp_path / "f", "wb", write_behind=1 << 20)
    with pytest.raises(OSError, match="too large"):
        await write()
    assert file.closed


@pytest.mark.parametrize(
    ("mode", "buffering", "behind"),
    [
        ("w", -1, 1),
        ("rb", -1, 1),
        ("ab", -1, 1),
        ("w+b", -1, 1),
        ("wb", 0, 1),
        ("wb", -1, -1),
    ],
)
async def test_where_it_makes_no_sense_it_is_refused(
    tiers: Tiers, tmp_path: Path, mode: str, buffering: int, behind: int
) -> None:
    with pytest.raises(ValueError, match="write_behind"):
        await anyio_uring.open_file(tmp_path / "f", mode, buffering, write_behind=behind)
    assert not (tmp_path / "f").exists()


async def test_it_is_for_a_path_and_a_number_of_bytes(tiers: Tiers, tmp_path: Path) -> None:
    path = tmp_path / "f"
    with pytest.raises(ValueError, match="write_behind is for a path"):
        await anyio_uring.open_file(path, "wb", opener=os.open, write_behind=1)
    wrong: Any = "4M"
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        await anyio_uring.open_file(path, "wb", write_behind=wrong)
    assert not path.exists()
    with open(path, "wb") as file, pytest.raises(ValueError, match="write_behind is for a path"):
        await anyio_uring.open_file(file.fileno(), "wb", write_behind=1)
