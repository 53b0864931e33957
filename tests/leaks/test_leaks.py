"""After any amount of work, half of it cancelled, everything is back where it was."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.conftest import HOSTS, Tiers
from tests.support.fuse import FuseMount, cannot_fuse
from tests.support.state import descriptors, fifo_writer, nothing_in_flight, python_threads

import anyio_uring
from anyio_uring import statistics

needs_fuse = pytest.mark.skipif(cannot_fuse() is not None, reason=str(cannot_fuse()))
REPOSITORY = Path(__file__).parents[2]
OPERATIONS = 10_000


async def cancelled_at_random(seed: int, file: Any, stream: Any, path: Path, count: int) -> int:
    """`count` operations, half of them cancelled after a few turns of the loop."""
    chance = random.Random(seed)
    scopes: list[anyio.CancelScope] = []
    cancelled = 0
    kinds = [
        lambda: file.pread(100, chance.randrange(4000)),
        lambda: file.pwrite(b"x" * 100, chance.randrange(4000)),
        lambda: file.preadinto(bytearray(100), 0),
        lambda: file.read(10),
        lambda: file.seek(0),
        *[lambda: stream.read(1)] * 2,  # nothing else is certain to wait
        partial(open_and_close, path),
    ]

    async def one() -> None:
        nonlocal cancelled
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await chance.choice(kinds)()
        cancelled += scope.cancelled_caught

    for _ in range(count // 50):
        scopes.clear()
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(one)
            for _ in range(chance.randrange(8)):
                await checkpoint()
            chance.shuffle(scopes)
            for scope in scopes[:25]:
                scope.cancel()
            await checkpoint()
            os.write(stream.feed, b"...")  # for fewer than there are, as a rule
            for _ in range(5):
                await checkpoint()
            # What is left waits for bytes of the stream that cancelled operations did not take
            for scope in scopes:
                scope.cancel()
    return cancelled


async def open_and_close(path: Path) -> None:
    file = await anyio_uring.open_file(path, "rb", 0)
    await file.aclose()


class Stream:
    """The reading end of a FIFO, and what feeds it."""

    def __init__(self, file: Any, feed: int) -> None:
        self.read = file.read
        self.feed = feed


@pytest.mark.tiers("auto", "ring", "thread")
@pytest.mark.anyio
async def test_operations_half_of_them_cancelled_leave_nothing(
    tiers: Tiers, tmp_path: Path, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8000))
    debug = anyio_backend[1].get("debug", False)
    count = OPERATIONS if tiers.name == "ring" and not debug else OPERATIONS // 20
    with fifo_writer(tmp_path / "fifo") as fd:
        os.set_blocking(fd, False)
        async with (
            await anyio_uring.open_file(path, "r+b", 0) as file,
            await anyio_uring.open_file(tmp_path / "fifo", "rb", 0) as fifo,
        ):
            stream = Stream(fifo, fd)
            await cancelled_at_random(1, file, stream, path, 500)
            await nothing_in_flight()
            gc.collect()
            before, threads = descriptors(), python_threads()
            tracemalloc.start()
            try:
                cancelled = await cancelled_at_random(2, file, stream, path, count)
                await nothing_in_flight()
                gc.collect()
                used, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert cancelled > count // 20
            assert descriptors() == before
            assert used < 400_000
            assert file._handle.inflight == fifo._handle.inflight == 0
            assert not file._handle.busy
            assert statistics().abandoned == 0 or tiers.ring
            if tiers.name == "ring":
                assert python_threads() == threads  # none was started
            assert await file.pread(1, 7999) == b"\0"


@pytest.mark.tiers("auto", "ring")
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # other threads, from 3.12
def test_fork_with_operations_in_flight_lets_both_go_on(
    tiers: Tiers, tmp_path: Path, host: str
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    backend, options = HOSTS[host]
    fifo = tmp_path / "fifo"

    async def child() -> None:
        async with await anyio_uring.open_file(tmp_path / "file", "rb", 0) as file:
            assert await file.read() == b"content"
        async with await anyio_uring.open_file(tmp_path / "child", "wb", 0) as file:
            await file.write(b"from the child")
        assert statistics().rings == 1
        with anyio.move_on_after(0.01) as scope:
            async with await anyio_uring.open_file(fifo, "rb", 0) as file:
                await file.read(1)
        assert scope.cancelled_caught

    def in_child() -> None:
        status = 1
        try:
            thread = threading.Thread(
                target=lambda: anyio.run(child, backend=backend, backend_options=options)
            )
            thread.start()  # this thread's loop is running, in the parent's sense
            thread.join()
            status = 0
        finally:
            os._exit(status)

    async def main() -> None:
        async with await anyio_uring.open_file(fifo, "rb", 0) as file:
            got: list[bytes] = []

            async def read() -> None:
                got.append(await file.read(100))

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                while not file._handle.inflight:
                    await checkpoint()
                pid = os.fork()
                if pid == 0:
                    in_child()
                _, status = await anyio.to_thread.run_sync(os.waitpid, pid, 0)
                assert status == 0
                assert statistics().inflight == 1
                os.write(fd, b"for the parent")
            assert got == [b"for the parent"]
            # A program started with descriptors of ours
            async with await anyio_uring.open_file(tmp_path / "file", "rb", 0) as passed:
                assert await passed.read(3) == b"con"
                number = passed.fileno()
                process = await anyio.run_process(
                    [sys.executable, "-c", f"import os; print(os.read({number}, 2).decode())"],
                    pass_fds=[number],
                )
                assert process.stdout == b"te\n"
                assert await passed.read(9) == b"nt"

    with fifo_writer(fifo) as fd:
        anyio.run(main, backend=backend, backend_options=options)
    assert (tmp_path / "child").read_bytes() == b"from the child"


EXIT = """
    import asyncio, os, sys, threading
    import anyio, anyio_uring
    from anyio_uring.testing import force_tiers

    how, host, path = sys.argv[1:]
    tiers = force_tiers("ring"); tiers.__enter__()

    async def main():
        file = await anyio_uring.open_file(path, "r+b", 0)
        task = None
        async def operate():
            await (file.write(b"x" * (32 << 20)) if "write" in how else file.read(10))
        async def leave():
            while not file._handle.inflight:
                await anyio.lowlevel.checkpoint()
            if "hung" in how:
                print("in flight", flush=True)
                await anyio.to_thread.run_sync(sys.stdin.readline)
            if "exit" in how:
                sys.exit(7)
            if "hard" in how:
                os._exit(7)
            raise SystemExit(7)
        async with anyio.create_task_group() as group:
            group.start_soon(operate)
            group.start_soon(leave)

    def bare():
        loop = asyncio.new_event_loop()
        async def begin():
            file = await anyio_uring.open_file(path, "r+b", 0)
            task = asyncio.ensure_future(
                file.write(b"x" * (32 << 20)) if "write" in how else file.read(10))
            while not file._handle.inflight:
                await asyncio.sleep(0)
            return file, task
        globals()["kept"] = loop, loop.run_until_complete(begin())
        sys.exit(7)  # neither the file nor the loop is closed

    if "bare" in how:
        bare()
    elif "thread" in how:
        thread = threading.Thread(target=anyio.run, args=(main,), daemon=True)
        thread.start()
        thread.join(0.1)
        sys.exit(7)
    else:
        try:
            anyio.run(main, backend=host)
        except BaseExceptionGroup as group:
            raise group.exceptions[0]
"""


def leave(how: str, host: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(EXIT), how, host, os.fspath(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


@pytest.mark.tiers("ring")
@pytest.mark.parametrize("host", ["asyncio", "trio"])
@pytest.mark.parametrize("how", ["exit", "hard", "bare", "write exit", "write hard", "write bare"])
def test_interpreter_exit_with_operations_in_flight(
    tiers: Tiers, tmp_path: Path, how: str, host: str
) -> None:
    path = tmp_path / "target"
    if "write" in how:
        path.write_bytes(b"")
        process = leave(how, host, path)
        _, errors = process.communicate(timeout=30)
    else:
        with fifo_writer(path):
            process = leave(how, host, path)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 7, errors
    assert "Fatal" not in errors


@needs_fuse
@pytest.mark.tiers("ring")
@pytest.mark.parametrize("host", ["asyncio", "trio"])
def test_interpreter_exit_with_a_hung_read(tiers: Tiers, host: str) -> None:
    # The kernel itself waits for what a worker does when the process goes; so the mount answers,
    # but only after Python has let go of the operation.
    with FuseMount({"file": b"content"}, direct_io=True) as mount:
        mount.stall("READ")
        process = leave("hung exit", host, mount.path / "file")
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "in flight\n"
        mount.wait_for("READ", 1)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stderr is not None
        assert any("still in the kernel" in line for line in process.stderr)
        mount.release()
        process.communicate(timeout=30)
    assert process.returncode == 7


@needs_fuse
@pytest.mark.tiers("ring")
@pytest.mark.parametrize("host", HOSTS)
def test_stuck_operation_is_leaked_aloud_at_the_end(tiers: Tiers, host: str) -> None:
    backend, options = HOSTS[host]
    with FuseMount({"file": b"content"}, direct_io=True) as mount:

        async def main() -> None:
            file = await anyio_uring.open_file(mount.path / "file", "rb", 0)
            mount.stall("READ")
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(file.read, 3)
                    await anyio.to_thread.run_sync(mount.wait_for, "READ", 1)
                    scope.cancel()
            file.close()

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            anyio.run(main, backend=backend, backend_options=options)
        texts = [str(warning.message) for warning in caught]
        assert [text for text in texts if "still in the kernel" in text]
        mount.release()
