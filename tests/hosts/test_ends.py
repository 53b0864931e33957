"""Loops and runs that begin and end in every way they can."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import pytest
from tests.conftest import HOSTS, Tiers
from tests.support.state import descriptors, fifo_writer, join_all, python_threads, until

import anyio_uring
from anyio_uring import _runtime, statistics

ring_only = pytest.mark.tiers("ring")
every_host = pytest.mark.parametrize("host", HOSTS)


def run(host: str, function: Callable[..., Any], *args: Any) -> Any:
    backend, options = HOSTS[host]
    return anyio.run(partial(function, *args), backend=backend, backend_options=options)


async def use(path: Path) -> bytes:
    """One operation of each kind, on the ring where that is forced."""
    async with await anyio_uring.open_file(path, "r+b", 0) as file:
        await file.write(b"content")
        return await file.pread(7, 0)


@every_host
def test_many_loops_one_after_another_leave_nothing(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    run(host, use, path)
    gc.collect()
    before, threads = descriptors(), python_threads()
    for _ in range(300 if tiers.name == "ring" else 10):
        assert run(host, use, path) == b"content"
    gc.collect()
    assert descriptors() == before
    join_all(python_threads() - threads)


@every_host
def test_loops_in_several_threads_at_once(tiers: Tiers, tmp_path: Path, host: str) -> None:
    def work(number: int) -> list[bytes]:
        path = tmp_path / str(number)
        path.write_bytes(b"")

        async def main() -> list[bytes]:
            got = [await use(path) for _ in range(20)]
            assert statistics().rings == tiers.ring
            return got

        return run(host, main)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(work, range(8)):
            assert got == [b"content"] * 20


@every_host
def test_one_file_in_two_loops_at_once(tiers: Tiers, tmp_path: Path, host: str) -> None:
    lines = [b"%07d\n" % number for number in range(400)]
    (tmp_path / "file").write_bytes(b"".join(lines))
    got: list[bytes] = []
    together = threading.Barrier(2, timeout=10)

    async def main() -> None:
        file = await anyio_uring.open_file(tmp_path / "file", "rb", 0)

        async def read() -> None:
            together.wait()
            got.extend([await file.read(8) for _ in range(200)])

        other = threading.Thread(target=run, args=(host, read))
        other.start()
        await read()
        await anyio.to_thread.run_sync(other.join)
        await file.aclose()

    run(host, main)
    assert sorted(got) == lines


@every_host
def test_run_ended_by_an_exception_leaves_nothing(tiers: Tiers, tmp_path: Path, host: str) -> None:
    class BoomError(Exception):
        pass

    async def main() -> None:
        async with (
            await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file,
            anyio.create_task_group() as group,
        ):
            group.start_soon(file.read, 10)
            await until(lambda: file._handle.inflight == 1)
            raise BoomError

    with fifo_writer(tmp_path / "fifo"):
        before = descriptors()
        with pytest.raises(ExceptionGroup) as caught:
            run(host, main)
        assert isinstance(caught.value.exceptions[0], BoomError)
        assert descriptors() == before


@every_host
def test_async_generator_uses_files_after_the_main_task_ended(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    kept: list[Any] = []
    late: list[bytes] = []
    path = tmp_path / "file"
    path.write_bytes(b"")

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            with anyio.CancelScope(shield=True):  # Trio finalises in a cancelled scope
                late.append(await use(path))

    async def main() -> None:
        await use(path)
        generator = generate()
        kept.append(generator)
        assert await anext(generator) == 1

    run(host, main)
    assert late == [b"content"]


@every_host
def test_use_outside_a_run_is_refused(host: str) -> None:
    file = run(host, partial(anyio_uring.open_file, os.devnull, "rb", 0))
    calls: list[Callable[[], Any]] = [
        lambda: anyio_uring.open_file(os.devnull, "rb", 0),
        lambda: file.read(1),
        file.aclose,
    ]
    for call in calls:
        with pytest.raises(anyio.NoEventLoopError):
            call().send(None)
    with pytest.raises(anyio.NoEventLoopError):
        statistics()
    file.close()


# -- asyncio ---------------------------------------------------------------------------------------


def new_loop(host: str) -> asyncio.AbstractEventLoop:
    if host == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    loop = asyncio.new_event_loop()
    loop.set_debug(host == "asyncio-debug")
    return loop


asyncio_loops = pytest.mark.parametrize("host", [name for name in HOSTS if name != "trio"])


@asyncio_loops
def test_bare_loop_closed_without_ceremony_leaves_nothing(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    new_loop(host).close()  # libuv keeps a pipe for the whole process
    before = descriptors()
    for _ in range(3):
        loop = new_loop(host)
        assert loop.run_until_complete(use(tmp_path / "file")) == b"content"
        loop.close()
        loop.close()
    gc.collect()
    assert descriptors() == before


@asyncio_loops
@ring_only
def test_loop_closed_with_a_read_in_flight_cancels_it(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    with fifo_writer(tmp_path / "fifo") as fd:
        new_loop(host).close()
        before = descriptors()
        loop = new_loop(host)
        file = loop.run_until_complete(anyio_uring.open_file(tmp_path / "fifo", "rb", 0))

        async def begin() -> asyncio.Task[bytes]:
            task = asyncio.ensure_future(file.read(10))
            await until(lambda: file._handle.inflight == 1)
            return task

        task = loop.run_until_complete(begin())
        loop.close()  # no ResourceWarning: nothing is left in the kernel
        assert file._handle.inflight == 0
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        gc.collect()
        file.close()
        assert descriptors() == before
        os.write(fd, b"for nobody")
        assert os.read(fd, 100) == b"for nobody"


@asyncio_loops
@pytest.mark.tiers("now+thread", "thread")
def test_loop_closed_with_a_wait_for_a_stream_watches_nothing(tiers: Tiers, host: str) -> None:
    reader, writer = os.pipe()
    new_loop(host).close()
    before = descriptors()
    loop = new_loop(host)
    file = loop.run_until_complete(anyio_uring.open_file(reader, "rb", 0, closefd=False))

    async def begin() -> asyncio.Task[bytes]:
        task = asyncio.ensure_future(file.read(10))
        await until(lambda: file._handle.inflight == 1)
        return task

    task = loop.run_until_complete(begin())
    loop.close()
    try:
        assert descriptors() == before
    finally:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()  # type: ignore[union-attr]
        file.close()
        os.close(reader)
        os.close(writer)


@asyncio_loops
def test_loop_stopped_and_run_again_in_another_thread(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    new_loop(host).close()  # libuv keeps a pipe for the whole process
    before = descriptors()
    loop = new_loop(host)
    assert loop.run_until_complete(use(tmp_path / "file")) == b"content"

    def elsewhere() -> None:
        async def main() -> None:
            assert await use(tmp_path / "file") == b"content"
            assert statistics().rings == (2 if tiers.ring else 0)

        loop.run_until_complete(main())
        loop.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(elsewhere).result(10)
    gc.collect()
    assert descriptors() == before


@asyncio_loops
@pytest.mark.tiers("thread")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # other threads, from 3.12
def test_forked_child_goes_on_with_a_loop_that_was_stopped(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    loop = new_loop(host)
    assert loop.run_until_complete(use(tmp_path / "file")) == b"content"
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            faulthandler.dump_traceback_later(20, exit=True)
            status = loop.run_until_complete(use(tmp_path / "file")) != b"content"
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert loop.run_until_complete(use(tmp_path / "file")) == b"content"
    loop.close()


def test_loop_without_add_reader_gets_threads(tmp_path: Path) -> None:
    class Loop(asyncio.SelectorEventLoop):
        add_reader = asyncio.AbstractEventLoop.add_reader

        def _add_reader(self, *args: Any) -> Any:  # its own self-pipe
            return super()._add_reader(*args)  # type: ignore[misc]

    (tmp_path / "file").write_bytes(b"")

    async def main() -> None:
        assert await use(tmp_path / "file") == b"content"
        counts = statistics()
        assert (counts.driver, counts.ring, counts.rings) == ("thread", 0, 0)
        assert counts.thread > 0

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


# -- Trio ------------------------------------------------------------------------------------------


@ring_only
def test_trio_as_a_guest_of_asyncio(tiers: Tiers, tmp_path: Path) -> None:
    import trio

    (tmp_path / "guest").write_bytes(b"")
    (tmp_path / "host").write_bytes(b"")

    async def guest() -> list[bytes]:
        got = [await use(tmp_path / "guest") for _ in range(20)]
        with trio.move_on_after(0.001):
            async with await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file:
                await file.read(10)
        assert statistics().rings == 1
        return got

    async def host() -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=over.set_result,
        )
        for _ in range(20):
            assert await use(tmp_path / "host") == b"content"
        assert (await over).unwrap() == [b"content"] * 20
        assert statistics().rings == 1

    with fifo_writer(tmp_path / "fifo"):
        asyncio.run(host())
    assert [counts.driver for counts in tiers.runs] == ["uring", "uring"]


# -- KeyboardInterrupt -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["asyncio", "trio", "trio at checkpoints"])
def test_interrupt_ends_a_waiting_read(tiers: Tiers, tmp_path: Path, host: str) -> None:
    waiting = threading.Event()
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt() -> None:
        if waiting.wait(10):
            signal.pthread_kill(main_thread, signal.SIGINT)

    async def tell(file: Any) -> None:
        await until(lambda: file._handle.inflight == 1)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        waiting.set()

    async def main() -> None:
        async with (
            await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as file,
            anyio.create_task_group() as group,
        ):
            group.start_soon(tell, file)
            await file.read(10)

    def start() -> None:
        if host == "asyncio":
            asyncio.run(main())
        else:
            import trio

            trio.run(main, restrict_keyboard_interrupt_to_checkpoints=host != "trio")

    with fifo_writer(tmp_path / "fifo") as fd:
        before = descriptors()
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
                start()
        finally:
            thread.join()
        if isinstance(caught.value, BaseExceptionGroup):
            matching, rest = caught.value.split(KeyboardInterrupt)
            assert matching is not None
            assert rest is None
        assert descriptors() == before
        os.write(fd, b"untouched")
        assert os.read(fd, 100) == b"untouched"


def test_trio_that_another_thread_is_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> bool:
        return await anyio_uring.Path("/etc/passwd").is_file()

    monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))
    assert asyncio.run(main())


class Cancelled(asyncio.Future[None]):
    """Cancelled between a look at it and what follows, as Ctrl-C can."""

    def done(self) -> bool:
        return False


@pytest.mark.anyio
@pytest.mark.usefixtures("tiers")
@pytest.mark.hosts("asyncio", "uvloop")
@pytest.mark.tiers("auto")
async def test_waking_who_is_cancelled_at_that_moment() -> None:
    host: Any = _runtime.current_runtime().host
    waiter = Cancelled(loop=host.loop)
    waiter.cancel()
    assert not host.wake(waiter)
    host.awake(SimpleNamespace(waiter=waiter))
    with pytest.raises(asyncio.CancelledError):
        waiter.result()
