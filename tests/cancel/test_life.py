"""The life of an operation that is cancelled: who waits, who owns, who is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.fuse import FuseMount, cannot_fuse

import anyio_uring
from anyio_uring import _runtime, _settings
from anyio_uring.testing import force_tiers

pytestmark = pytest.mark.skipif(not anyio_uring.driver_info().features, reason="needs io_uring")


@pytest.fixture
def narrow() -> Iterator[None]:
    """A ring with place for one operation: the next waits in the backlog."""
    before = _settings._current
    anyio_uring.configure(inflight_max=1)
    yield
    _settings._current = before


def ring() -> Any:
    return _runtime.current_runtime().host.ring  # type: ignore[attr-defined]


async def until(condition: Any) -> None:
    while not condition():
        await anyio.lowlevel.checkpoint()


async def test_cancel_in_the_backlog_wakes_the_task(narrow: None, anyio_backend: Any) -> None:
    (first, _), (second, writer) = os.pipe(), os.pipe()
    async with (
        await anyio_uring.open_file(first, "rb", 0) as waiting,
        await anyio_uring.open_file(second, "rb", 0) as queued,
        anyio.create_task_group() as group,
    ):
        group.start_soon(waiting.read, 1)
        await until(lambda: _runtime.current_runtime().host.ring is not None)
        with anyio.fail_after(5):  # nothing else would wake this loop
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    await until(lambda: ring().queued)
                    scope.cancel()

                group.start_soon(cancel)
                await queued.read(1)
        assert scope.cancelled_caught
        group.cancel_scope.cancel()
    os.close(writer)
    os.close(_)


def test_native_cancel_of_a_close_in_the_backlog_still_closes(narrow: None, tmp_path: Path) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        waiting = await anyio_uring.open_file(reader, "rb", 0)
        file = await anyio_uring.open_file(tmp_path / "f", "w+b", 0)
        fd = file._handle.fd
        reading = asyncio.ensure_future(waiting.read(1))
        await until(lambda: ring() and ring().inflight)
        closing = asyncio.ensure_future(file.aclose())
        await until(lambda: ring().queued)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        os.write(writer, b"x")
        assert await reading == b"x"
        await waiting.aclose()
        await until(lambda: ring().idle)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        os.close(writer)

    asyncio.run(main())


@pytest.mark.skipif(bool(cannot_fuse()), reason=cannot_fuse() or "")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_shield_raised_during_the_grace_does_not_return_unread_memory(backend: str) -> None:
    with FuseMount({"f": b"hello"}, direct_io=True) as mount, force_tiers("ring", "thread"):

        async def main() -> None:
            answers = []
            async with await anyio_uring.open_file(mount.path / "f", "rb", 0) as file:
                mount.stall("READ")

                async def read() -> None:
                    with anyio.CancelScope() as outer, anyio.CancelScope() as inner:
                        scopes.extend([outer, inner])
                        answers.append(await file.pread(5, 0))

                scopes: list[anyio.CancelScope] = []
                async with anyio.create_task_group() as group:
                    group.start_soon(read)
                    await until(lambda: ring() and ring().inflight)
                    await anyio.to_thread.run_sync(mount.wait_for, "READ")
                    scopes[0].cancel()
                    await until(lambda: ring().cancels or ring().submitted > 2)
                    scopes[1].shield = True
                    # Past the grace period, which ends nothing any more
                    await anyio.sleep(3 * anyio_uring.current_settings().cancel_grace)
                    mount.release()
            # Trio delivers what it has begun to deliver; AnyIO takes it back
            assert answers == ([b"hello"] if backend == "asyncio" else [])

        anyio.run(main, backend=backend)


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
async def test_open_of_a_fifo_for_writing_can_be_cancelled(
    mode: str, tmp_path: Path, anyio_backend: Any
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with force_tiers("ring", "thread"), anyio.fail_after(5):
        with anyio.move_on_after(0.01) as scope:
            async with await anyio_uring.open_file(tmp_path / "fifo", mode, 0):
                pass
    assert scope.cancelled_caught or mode == "r+b"  # opened for both, it waits for nobody


def test_task_that_has_just_begun_waiting_survives_a_completion(tmp_path: Path) -> None:
    """AnyIO counts the cancels that it made; none may be left behind."""

    async def main() -> None:
        reader, writer = os.pipe()
        async with await anyio_uring.open_file(reader, "rb", 0) as file:
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    await until(lambda: ring() and ring().inflight)
                    os.write(writer, b"x")
                    scope.cancel()

                task = asyncio.ensure_future(cancel())
                data = await file.read(1)
                assert data == b"x"
            await task
            current = asyncio.current_task()
            assert current is not None
            assert current.cancelling() == 0
            await asyncio.sleep(0)
        os.close(writer)

    asyncio.run(main())
