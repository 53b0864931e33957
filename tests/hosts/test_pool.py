"""The worker threads of a loop: how many, how long, and whom they keep waiting."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.conftest import HOSTS, Tiers
from tests.support.state import join_all, python_threads, until

import anyio_uring
from anyio_uring import statistics

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.anyio
threads_only = pytest.mark.tiers("thread")
every_host = pytest.mark.parametrize("host", HOSTS)


def workers() -> set[threading.Thread]:
    return {thread for thread in python_threads() if thread.name == "anyio_uring worker"}


@threads_only
@every_host
def test_no_more_threads_than_tokens_and_none_behind_the_end(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    backend, options = HOSTS[host]
    before = workers()

    async def main() -> set[threading.Thread]:
        limiter = anyio.CapacityLimiter(3)
        async with await anyio_uring.open_file(path, "rb", 0, limiter=limiter) as file:

            async def read(offset: int) -> None:
                for _ in range(20):
                    assert await file.pread(1, offset) == b"%d" % offset

            async with anyio.create_task_group() as group:
                for offset in range(10):
                    group.start_soon(read, offset)
            assert limiter.borrowed_tokens == 0
            assert statistics().thread > 200
            return workers() - before

    mine = anyio.run(main, backend=backend, backend_options=options)
    assert 1 <= len(mine) <= 3
    join_all(mine)


@threads_only
async def test_waits_in_line_for_a_token(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    limiter = anyio.CapacityLimiter(1)
    order: list[str] = []
    async with await anyio_uring.open_file(tmp_path / "file", "rb", 0, limiter=limiter) as file:

        async def other() -> None:
            async with limiter:
                order.append("other")

        async def read() -> None:
            assert await file.pread(7, 0) == b"content"
            order.append("file")

        await limiter.acquire_on_behalf_of(file)
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await until(lambda: limiter.statistics().tasks_waiting == 1)
            group.start_soon(read)
            await until(lambda: limiter.statistics().tasks_waiting == 2)
            with anyio.move_on_after(0) as scope:
                await file.pread(7, 0)
            assert scope.cancelled_caught
            assert limiter.statistics().tasks_waiting == 2  # a cancelled one does not stand in line
            limiter.release_on_behalf_of(file)
    assert order == ["other", "file"]
    assert limiter.borrowed_tokens == 0


@threads_only
async def test_token_is_given_back_when_a_job_fails(tiers: Tiers, tmp_path: Path) -> None:
    limiter = anyio.CapacityLimiter(1)
    for _ in range(3):
        with pytest.raises(FileNotFoundError) as caught:
            await anyio_uring.open_file(tmp_path / "none", "rb", 0, limiter=limiter)
        assert caught.value.filename == os.fspath(tmp_path / "none")
        assert limiter.borrowed_tokens == 0


@threads_only
async def test_task_that_holds_a_token_fares_as_with_anyio(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    limiter = anyio.CapacityLimiter(2)

    async def attempt(function: Callable[[], Awaitable[object]]) -> str:
        async with limiter:
            try:
                await function()
            except RuntimeError as error:
                return str(error)
            return "fine"

    expected = await attempt(lambda: to_thread.run_sync(int, limiter=limiter))
    async with await anyio_uring.open_file(tmp_path / "file", "rb", 0, limiter=limiter) as file:
        assert await attempt(lambda: file.pread(7, 0)) == expected
    assert limiter.borrowed_tokens == 0


@threads_only
async def test_default_limiter_is_anyios(tiers: Tiers, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    limiter = to_thread.current_default_thread_limiter()
    total = limiter.total_tokens
    async with await anyio_uring.open_file(tmp_path / "file", "rb", 0) as file:
        try:
            limiter.total_tokens = 1
            await limiter.acquire_on_behalf_of(file)
            async with anyio.create_task_group() as group:
                group.start_soon(file.pread, 7, 0)
                await until(lambda: limiter.statistics().tasks_waiting == 1)
                limiter.release_on_behalf_of(file)
        finally:
            limiter.total_tokens = total


@asynccontextmanager
async def without_collection() -> AsyncIterator[list[weakref.ref[Any]]]:
    """What is put into the list is freed behind the block without any help."""
    gc.collect()
    gc.disable()
    try:
        freed: list[weakref.ref[Any]] = []
        yield freed
        await until(lambda: not any(each() for each in freed))
    finally:
        gc.enable()


@pytest.mark.tiers("thread", "ring")
@pytest.mark.parametrize("method", ["read", "readall", "readinto", "readline"])
async def test_file_is_freed_with_its_last_reference(tiers: Tiers, method: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"content\n")
    os.close(writer)
    file: Any = await anyio_uring.open_file(reader, "rb", 0)
    async with without_collection() as freed:
        await getattr(file, method)(*[bytearray(7)] * (method == "readinto"))
        file.close()
        freed.append(weakref.ref(file))
        del file


@pytest.mark.tiers("thread", "ring")
async def test_error_is_freed_with_what_was_to_be_written(tiers: Tiers) -> None:
    async with (
        await anyio_uring.open_file("/dev/full", "wb", 0) as file,
        without_collection() as freed,
    ):
        data = array("b", bytes(100))
        freed.append(weakref.ref(data))
        with pytest.raises(OSError, match="No space left"):
            await file.write(data)
        del data


@threads_only
async def test_opener_is_called_by_anyio(tiers: Tiers, tmp_path: Path) -> None:
    seen: list[Any] = []

    def opener(path: str, flags: int) -> int:
        seen.append(anyio.from_thread.run(partial(anyio.sleep, 0)))
        return os.open(path, flags)

    async with await anyio_uring.open_file(tmp_path / "file", "wb", 0, opener=opener):
        assert seen == [None]


@threads_only
async def test_thread_that_cannot_be_started_is_an_error(
    tiers: Tiers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    limiter = anyio.CapacityLimiter(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await anyio_uring.open_file(tmp_path / "file", "xb", 0, limiter=limiter)
    assert limiter.borrowed_tokens == 0
    assert not (tmp_path / "file").exists()
    async with await anyio_uring.open_file(tmp_path / "file", "xb", 0, limiter=limiter) as file:
        assert await file.write(b"content") == 7


END = """
    import asyncio, os, sys, threading
    import anyio_uring
    from anyio_uring import _driver_thread, _pool
    from anyio_uring.testing import force_tiers

    how, path = sys.argv[1:]
    tiers = force_tiers("thread"); tiers.__enter__()
    begun = threading.Event()
    write_all = _driver_thread.write_any

    def late(*arguments):
        begun.set()
        threading.main_thread().join()  # until the interpreter ends
        return write_all(*arguments)

    _driver_thread.write_any = late
    _pool.PATIENCE_SECONDS = 0.1 if how == "open" else 60

    async def main():
        if how == "open":
            task = asyncio.ensure_future(anyio_uring.open_file(path, "rb", 0))
            while not anyio_uring.statistics().thread:
                await asyncio.sleep(0)
        else:
            file = await anyio_uring.open_file(path, "wb", 0)
            task = asyncio.ensure_future(file.write(b"content"))
            while not begun.is_set():
                await asyncio.sleep(0)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
    if how == "closed":
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
    sys.exit(7)
"""


@pytest.mark.parametrize("how", ["bare", "closed"])
def test_interpreter_waits_for_a_write(tmp_path: Path, how: str) -> None:
    end(how, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_interpreter_does_not_wait_for_the_peer_of_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    end("open", tmp_path / "fifo")


AGAIN = """
    import asyncio, atexit, sys, threading

    host, path = sys.argv[1:]

    @atexit.register  # before ours, and so called behind it
    def again():
        try:
            threading.Thread(target=int).start()
        except RuntimeError as refused:
            message = str(refused)  # Python 3.12 and its successors give no thread to anybody now
        else:
            message = None
        try:
            loop.run_until_complete(asyncio.wait_for(use(), 20))
        except RuntimeError as error:
            assert str(error) == message
            with open(path, "ab") as file:
                file.write(b" refused")
        loop.close()

    import anyio_uring
    from anyio_uring.testing import force_tiers
    if host == "uvloop":
        import uvloop as asyncio_or_uvloop
    else:
        asyncio_or_uvloop = asyncio
    tiers = force_tiers("thread"); tiers.__enter__()

    async def use():
        async with await anyio_uring.open_file(path, "ab", 0) as file:
            await file.write(b"content")

    loop = asyncio_or_uvloop.new_event_loop()
    loop.run_until_complete(use())
    sys.exit(7)
"""


@pytest.mark.parametrize("host", [host for host in HOSTS if host in ("asyncio", "uvloop")])
def test_loop_may_run_once_more_at_the_exit(tmp_path: Path, host: str) -> None:
    end(host, tmp_path / "file", AGAIN)
    assert (tmp_path / "file").read_bytes() in (b"contentcontent", b"content refused")


def end(how: str, path: Path, script: str = END) -> None:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), how, os.fspath(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert process.returncode == 7, process.stderr
    assert "Fatal" not in process.stderr
