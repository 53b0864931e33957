"""How an `atomic_write` can end: cancelled, interrupted, killed, without power."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.conftest import Tiers
from tests.support import atomic_child
from tests.support.fuse import FuseMount, cannot_fuse
from tests.support.state import descriptors, until

from anyio_uring import _runtime, _staged, atomic_write

pytestmark = [
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "ring", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]

OLD, NEW = b"old content", b"new" * 10_000
FUSE_REASON = cannot_fuse()
needs_fuse = pytest.mark.skipif(FUSE_REASON is not None, reason=FUSE_REASON or "")
STEPS = 60  # turns of the loop: more than any write takes here
ROUNDS = 34


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, if possible, where a sync takes no time."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def target(folder: Path) -> Path:
    path = folder / "target"
    path.write_bytes(OLD)
    return path


def run(main: Callable[[], Awaitable[None]], backend: Any) -> None:
    """A run, and the threads that it left behind."""
    try:
        anyio.run(main, backend=backend[0], backend_options=backend[1])
    finally:
        for thread in threading.enumerate():
            if thread.name.startswith(("AnyIO worker", "anyio_uring worker")):
                thread.join(30)
        gc.collect()


def leftovers(folder: Path) -> list[str]:
    found = [name for name in os.listdir(folder) if name != "target"]
    return found + [link for link in descriptors().values() if link.startswith(str(folder))]


async def write(target: Path, durable: bool = True, mode: str = "wb") -> None:
    async with atomic_write(target, mode, durable=durable) as file:
        await file.write(NEW)
        await checkpoint()


# -- cancelled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_a_scope_that_is_cancelled_at_any_step_leaves_the_target(
    target: Path, anyio_backend: Any, durable: bool
) -> None:
    outcomes = set()

    async def main() -> None:
        for steps in range(STEPS):
            target.write_bytes(OLD)
            ended = False

            async def body() -> None:
                nonlocal ended
                await write(target, durable)
                ended = True

            async with anyio.create_task_group() as group:
                group.start_soon(body)
                for _ in range(steps):
                    await checkpoint()
                group.cancel_scope.cancel()
            assert target.read_bytes() == (NEW if ended else OLD)
            assert leftovers(target.parent) == []
            outcomes.add(ended)

    run(main, anyio_backend)
    assert False in outcomes


@pytest.mark.hosts("asyncio", "uvloop")
@pytest.mark.parametrize("times", [1, 2])
def test_a_task_that_is_cancelled_natively_at_any_step_leaves_nothing(
    target: Path, anyio_backend: Any, times: int
) -> None:
    async def main() -> None:
        for steps in range(STEPS):
            target.write_bytes(OLD)
            task = asyncio.ensure_future(write(target))
            for turns in [steps, 1][:times]:
                for _ in range(turns):
                    await checkpoint()
                task.cancel()
            await asyncio.wait([task])
            content = target.read_bytes()
            assert content == NEW if not task.cancelled() else content in (OLD, NEW)
            if times == 1:
                assert os.listdir(target.parent) == ["target"]
                with anyio.fail_after(60):  # what it was torn away from ends by itself
                    while leftovers(target.parent):
                        await checkpoint()

    run(main, anyio_backend)
    assert leftovers(target.parent) == []


class Held:
    """A function of `os` that waits, in its thread, before it does anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._function = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.begun.set()
        assert self.go_on.wait(30)
        return self._function(*args, **kwargs)


@pytest.mark.tiers("thread")
@pytest.mark.parametrize("held", ["open", "fsync", "replace"])
def test_a_scope_that_is_cancelled_during_a_step_waits_for_it(
    target: Path, anyio_backend: Any, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        step = Held(monkeypatch, held)
        async with anyio.create_task_group() as group:
            group.start_soon(write, target)
            await until(step.begun.is_set)
            group.cancel_scope.cancel()
            step.go_on.set()
        # From the rename on it is too late
        assert target.read_bytes() == (NEW if held == "replace" else OLD)
        assert leftovers(target.parent) == []

    run(main, anyio_backend)


@pytest.mark.tiers("thread")
@pytest.mark.hosts("asyncio", "uvloop")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("held", ["open", "fsync", "replace", "unlink"])
def test_a_task_that_is_cancelled_natively_during_a_step(
    target: Path, anyio_backend: Any, held: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing() -> None:
        async with atomic_write(target):
            raise ValueError

    async def main() -> None:
        step = Held(monkeypatch, held)
        task = asyncio.ensure_future(failing() if held == "unlink" else write(target))
        await until(step.begun.is_set)
        for _ in range(times):
            task.cancel()
            for _ in range(10):
                await checkpoint()
        # Once it waits for the step, so that everything is over afterwards; twice it leaves
        if times == 2 or held == "unlink":
            await until(task.done)
        assert task.done() == (times == 2 or held == "unlink")
        step.go_on.set()
        await asyncio.wait([task])
        assert task.cancelled()
        if times == 1 and held != "unlink":
            assert leftovers(target.parent) == []

    run(main, anyio_backend)
    assert target.read_bytes() == (NEW if held == "replace" else OLD)
    assert leftovers(target.parent) == []


def test_a_step_that_comes_after_the_end_does_nothing(target: Path, anyio_backend: Any) -> None:
    staged = _staged.Staged(str(target), False, True)
    staged.discard()
    before = target.parent.stat().st_mtime_ns
    staged.create()
    staged.commit()
    assert target.parent.stat().st_mtime_ns == before
    assert (target.read_bytes(), leftovers(target.parent)) == (OLD, [])


def test_what_is_removed_in_a_cancelled_scope_does_not_hold_the_loop_up(
    target: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink
    threads = []

    def telling(*args: Any, **kwargs: Any) -> None:
        threads.append(threading.current_thread())
        unlink(*args, **kwargs)

    monkeypatch.setattr(os, "unlink", telling)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with atomic_write(target):
                scope.cancel()
                await checkpoint()

    run(main, anyio_backend)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_nothing_happens_in_a_cancelled_scope(target: Path, anyio_backend: Any) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            before = target.parent.stat().st_mtime_ns
            async with atomic_write(target):
                pytest.fail("not cancelled")
        assert scope.cancelled_caught
        assert target.parent.stat().st_mtime_ns == before

    run(main, anyio_backend)
    assert (target.read_bytes(), leftovers(target.parent)) == (OLD, [])


# -- exceptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_target(
    target: Path, anyio_backend: Any, error: type[BaseException]
) -> None:
    ino = target.stat().st_ino

    async def main() -> None:
        async with atomic_write(target) as file:
            await file.write(b"new")
            raise error

    with pytest.raises(error):
        run(main, anyio_backend)
    assert (target.read_bytes(), target.stat().st_ino) == (OLD, ino)
    assert leftovers(target.parent) == []


def test_an_interrupt_leaves_the_target(target: Path, anyio_backend: Any) -> None:
    async def main() -> None:
        async with atomic_write(target) as file:
            await file.write(b"new")
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run(main, anyio_backend)
    assert (target.read_bytes(), leftovers(target.parent)) == (OLD, [])


def test_an_error_in_the_block_is_not_hidden_by_what_cannot_be_written(
    target: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with atomic_write(target) as file:
            await file.write(b"new")
            os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
            raise LookupError

    with pytest.raises(LookupError):
        run(main, anyio_backend)
    assert target.read_bytes() == OLD
    os.close(max(fd for fd, link in descriptors().items() if link == "/dev/full"))
    assert leftovers(target.parent) == []


def test_a_generator_that_is_closed_leaves_the_target(target: Path, anyio_backend: Any) -> None:
    async def numbers() -> AsyncIterator[int]:
        async with atomic_write(target) as file:
            await file.write(b"new")
            yield 1

    async def main() -> None:
        generator: Any = numbers()
        assert await anext(generator) == 1
        assert len(os.listdir(target.parent)) == 2
        await generator.aclose()
        assert leftovers(target.parent) == []

    run(main, anyio_backend)
    assert target.read_bytes() == OLD


def test_a_coroutine_that_nobody_drives_any_more_leaves_the_target(
    target: Path, anyio_backend: Any
) -> None:
    @types.coroutine
    def suspend() -> Iterator[None]:
        yield

    async def main() -> None:
        writing: Any = atomic_write(target)
        file = await writing.__aenter__()
        await file.write(b"new")

        async def rest_of_block() -> None:
            try:
                await suspend()
            except BaseException as error:
                await writing.__aexit__(type(error), error, None)
                raise

        coroutine = rest_of_block()
        coroutine.send(None)
        coroutine.close()
        assert leftovers(target.parent) == []

    run(main, anyio_backend)
    assert target.read_bytes() == OLD


def test_a_block_that_is_never_left_leaves_no_temporary(target: Path, anyio_backend: Any) -> None:
    async def main() -> None:
        writing = atomic_write(target)
        file = await writing.__aenter__()
        await file.aclose()
        assert len(os.listdir(target.parent)) == 2
        del writing
        gc.collect()
        assert leftovers(target.parent) == []

    run(main, anyio_backend)
    assert target.read_bytes() == OLD


def test_a_forked_process_removes_nothing_at_its_end(
    target: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        writing: Any = atomic_write(target)
        async with writing as file:
            await file.write(NEW)
            with monkeypatch.context() as context:
                pid = os.getpid()
                context.setattr(os, "getpid", lambda: pid + 1)
                writing._staged.discard()
                writing._staged._discarded = False  # (that of the parent is another one)
            assert len(os.listdir(target.parent)) == 2

    run(main, anyio_backend)
    assert (target.read_bytes(), leftovers(target.parent)) == (NEW, [])


# -- the order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("mode", ["wb", "w", "xb"])
@pytest.mark.parametrize("durable", [True, False])
def test_the_order_of_steps(
    folder: Path,
    anyio_backend: Any,
    mode: str,
    durable: bool,
    closed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []
    target = folder / "target"

    def tell(owner: Any, name: str, title: Callable[..., str]) -> None:
        function = getattr(owner, name)

        def telling(*args: Any, **kwargs: Any) -> Any:
            steps.append(title(*args))
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, telling)

    def synced(fd: int) -> str:
        return "sync directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "sync"

    async def main() -> None:
        ops = _runtime.current_runtime().ops
        tell(ops, "write", lambda *_: "write")
        if ops.name == "uring":
            tell(ops, "sync", lambda *_: "sync")
        tell(os, "fsync", synced)
        tell(os, "replace", lambda *_: "rename")
        tell(os, "link", lambda *_: "rename")
        async with atomic_write(target, mode, durable=durable) as file:
            await file.write("new" if mode == "w" else b"new")
            if closed:
                await file.aclose()

    run(main, anyio_backend)
    expected = ["write", "sync", "rename", "sync directory"] if durable else ["write", "rename"]
    assert steps == expected
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("number", sorted(_staged.NO_SYNC))
def test_a_directory_that_knows_no_sync_is_no_error(
    target: Path, anyio_backend: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    run(lambda: write(target), anyio_backend)
    assert (target.read_bytes(), leftovers(target.parent)) == (NEW, [])


# -- killed ---------------------------------------------------------------------------------------


@pytest.fixture
def killed(anyio_backend: Any, tiers: Tiers) -> Iterator[Callable[[str, bool, Path, int], None]]:
    """Have a process write, and kill it when it has told so many bytes of progress."""
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, atomic_child.__file__, str(writer), anyio_backend[0], *tiers.allowed],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[writer],
    )
    assert child.stdin is not None
    assert child.stdout is not None
    sender, receiver = child.stdin, child.stdout

    def kill(mode: str, durable: bool, path: Path, progress: int) -> None:
        sender.write(f"{mode} {durable} {path}\n")
        sender.flush()
        pid = int(receiver.readline())
        for _ in range(progress):
            os.read(reader, 1)
        os.kill(pid, signal.SIGKILL)
        assert receiver.readline() == "dead\n"
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(reader, 4096):
                pass
        os.set_blocking(reader, True)

    try:
        yield kill
    finally:
        sender.close()
        child.wait(30)
        receiver.close()
        os.close(reader)
        os.close(writer)


@pytest.mark.one_python
@pytest.mark.tiers("auto", "ring", "thread")
@pytest.mark.hosts("asyncio", "trio")
def test_a_killed_process_leaves_old_or_new(
    folder: Path, anyio_backend: Any, killed: Callable[[str, bool, Path, int], None]
) -> None:
    target = folder / "target"
    randomly = random.Random(1)
    left = 0
    for number in range(ROUNDS):
        mode = "xb" if number % 3 == 2 else "wb"
        old = None if mode == "xb" else b"old"
        if old is None:
            target.unlink(missing_ok=True)
        else:
            target.write_bytes(old)
        killed(mode, number % 2 == 0, target, randomly.randrange(1, 16))
        content = target.read_bytes() if target.exists() else None
        if content not in (old, None):
            assert content == atomic_child.content(int(content[:8]))
        names = os.listdir(folder)
        left += len(names) - ("target" in names)

        run(lambda: write(target, durable=False), anyio_backend)
        assert os.listdir(folder) == ["target"]
        assert target.read_bytes() == NEW
    assert left > ROUNDS // 4, "hardly ever killed in the middle"


# -- without power --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_mount() -> Iterator[FuseMount]:
    with FuseMount({f"{number}/target": OLD for number in range(200)}) as mount:
        yield mount


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return iter(range(200))


@pytest.fixture
def mount(shared_mount: FuseMount) -> Iterator[FuseMount]:
    yield shared_mount
    shared_mount.release()


@pytest.fixture
def name(numbers: Iterator[int]) -> str:
    return f"{next(numbers)}/target"


def contents_after_power_cut(mount: FuseMount, name: str) -> list[bytes | None]:
    disks = [mount.after_power_cut(entries_synced=synced) for synced in (True, False)]
    return [disk.get(name) for disk in disks]


@needs_fuse
@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.parametrize("opcode", ["CREATE", "WRITE", "FLUSH", "FSYNC", "RENAME", "FSYNCDIR"])
def test_a_power_cut_at_any_step_leaves_old_or_new(
    mount: FuseMount, name: str, anyio_backend: Any, opcode: str
) -> None:
    async def main() -> None:
        mount.stall(opcode)
        before = mount.seen(opcode)
        async with anyio.create_task_group() as group:
            group.start_soon(write, mount.path / name)
            await until(lambda: mount.seen(opcode) > before)
            found = contents_after_power_cut(mount, name)
            assert found == ([OLD, NEW] if opcode == "FSYNCDIR" else [OLD, OLD])
            mount.release()
        assert contents_after_power_cut(mount, name) == [NEW, NEW]

    run(main, anyio_backend)


@needs_fuse
@pytest.mark.hosts("asyncio")
def test_what_is_not_durable_may_be_lost(mount: FuseMount, name: str, anyio_backend: Any) -> None:
    before = mount.counts()
    run(lambda: write(mount.path / name, durable=False), anyio_backend)
    assert mount.content(name) == NEW
    assert contents_after_power_cut(mount, name) == [OLD, b""]
    for opcode in "FSYNC", "FSYNCDIR":
        assert mount.seen(opcode) == before.get(opcode, 0)


@needs_fuse
@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.parametrize("opcode", ["CREATE", "WRITE", "FLUSH", "FSYNC", "RENAME", "FSYNCDIR"])
def test_an_error_at_any_step_names_the_target(
    mount: FuseMount, name: str, anyio_backend: Any, opcode: str
) -> None:
    async def fail() -> None:
        with pytest.raises(OSError, match="Input/output error") as caught:
            await write(mount.path / name)
        assert caught.value.errno == errno.EIO
        assert caught.value.filename == str(mount.path / name)

    async def main() -> None:
        before = mount.seen(opcode)
        mount.stall(opcode)
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await until(lambda: mount.seen(opcode) > before)
            mount.release(error=errno.EIO)

    run(main, anyio_backend)
    # Only the last step comes after the rename
    assert mount.content(name) == (NEW if opcode == "FSYNCDIR" else OLD)
    assert os.listdir((mount.path / name).parent) == ["target"]


@needs_fuse
@pytest.mark.hosts("asyncio", "trio")
def test_exclusive_where_there_are_no_links(
    mount: FuseMount, name: str, anyio_backend: Any
) -> None:
    path = mount.path / (name + ".new")

    async def too_late() -> None:
        async with atomic_write(path.with_name("other"), "xb") as file:
            await file.write(b"new")
            path.rename(path.with_name("other"))

    async def main() -> None:
        await write(path, mode="xb")
        with pytest.raises(FileExistsError):
            await too_late()

    run(main, anyio_backend)
    assert mount.content(name.replace("target", "other")) == NEW
    assert sorted(os.listdir(path.parent)) == ["other", "target"]
