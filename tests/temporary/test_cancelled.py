"""Cancelled anywhere, natively or by a scope, temporary files leave no name and no descriptor."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import anyio_uring
from anyio_uring import _temporary

pytestmark = [pytest.mark.usefixtures("tiers"), pytest.mark.tiers("ring", "thread")]
STEPS = 14


async def use_file(kind: str, folder: str) -> None:
    async with getattr(anyio_uring, kind)(mode="w+", dir=folder) as file:
        await file.write("data")


async def use_late_name(folder: str) -> None:
    async with anyio_uring.NamedTemporaryFile(dir=folder, delete_on_close=False) as file:
        await file.write(b"data")


async def use_spooled(folder: str) -> None:
    async with anyio_uring.SpooledTemporaryFile(2, dir=folder) as file:
        await file.write(b"data")


async def use_directory(folder: str) -> None:
    async with anyio_uring.TemporaryDirectory(dir=folder) as path:
        stream = await anyio_uring.FileWriteStream.from_path(Path(path) / "file")
        async with stream:
            await stream.send(b"data")


async def use_functions(folder: str) -> None:
    # (nothing is awaited between a result and its removal)
    fd, path = await anyio_uring.mkstemp(dir=folder)
    os.close(fd)
    os.unlink(path)
    os.rmdir(await anyio_uring.mkdtemp(dir=folder))


USES: dict[str, Callable[[str], Awaitable[None]]] = {
    "nameless": lambda folder: use_file("TemporaryFile", folder),
    "named": lambda folder: use_file("NamedTemporaryFile", folder),
    "late name": use_late_name,
    "spooled": use_spooled,
    "directory": use_directory,
    "functions": use_functions,
}


def leftovers(folder: Path) -> list[str]:
    found = [path.name for path in folder.iterdir()]
    if os.path.isdir("/proc/self/fd"):
        for fd in os.listdir("/proc/self/fd"):
            try:
                link = os.readlink(f"/proc/self/fd/{fd}")
            except FileNotFoundError:
                continue
            if link.startswith(f"{folder}/"):
                found.append(link)
    return found


def run(main: Callable[[], Awaitable[None]], backend: Any) -> None:
    """A run, and the threads that it left behind."""
    anyio.run(main, backend=backend[0], backend_options=backend[1])
    for thread in threading.enumerate():
        if thread.name.startswith(("AnyIO worker", "anyio_uring worker")):
            thread.join(30)
    gc.collect()


@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_scope_cancelled_at_any_step(
    use: Callable[[str], Awaitable[None]], tmp_path: Path, anyio_backend: Any
) -> None:
    async def main() -> None:
        for steps in range(STEPS):
            async with anyio.create_task_group() as group:
                group.start_soon(use, str(tmp_path))
                for _ in range(steps):
                    await checkpoint()
                group.cancel_scope.cancel()

    run(main, anyio_backend)
    assert leftovers(tmp_path) == []


@pytest.mark.hosts("asyncio", "uvloop", "trio")
@pytest.mark.parametrize("kind", ["TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory"])
def test_entering_in_a_cancelled_scope_makes_nothing(
    kind: str, tmp_path: Path, anyio_backend: Any
) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with getattr(anyio_uring, kind)(dir=str(tmp_path)):
                pytest.fail("the block was entered")
        assert scope.cancelled_caught

    run(main, anyio_backend)
    assert leftovers(tmp_path) == []


@pytest.mark.hosts("asyncio")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_task_cancelled_natively_at_any_step(
    use: Callable[[str], Awaitable[None]], tmp_path: Path, anyio_backend: Any
) -> None:
    async def main() -> None:
        for steps in range(STEPS):

            async def body() -> None:
                await use(str(tmp_path))

            task = asyncio.create_task(body())
            for _ in range(steps):
                await checkpoint()
            task.cancel()
            await asyncio.wait([task])

    run(main, anyio_backend)
    assert leftovers(tmp_path) == []


@pytest.mark.hosts("asyncio", "uvloop")
@pytest.mark.parametrize("use", [USES["named"], USES["functions"], USES["late name"]])
def test_task_cancelled_natively_while_its_name_is_made(
    use: Callable[[str], Awaitable[None]],
    tmp_path: Path,
    anyio_backend: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, go_on = threading.Event(), threading.Event()
    mkstemp = tempfile.mkstemp

    def slow(*args: Any) -> Any:
        result = mkstemp(*args)
        made.set()
        assert go_on.wait(30)
        return result

    monkeypatch.setattr(tempfile, "mkstemp", slow)

    async def main() -> None:
        async def body() -> None:
            await use(str(tmp_path))

        task = asyncio.create_task(body())
        await asyncio.to_thread(made.wait, 30)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert len(leftovers(tmp_path)) == 2
        go_on.set()

    run(main, anyio_backend)
    assert leftovers(tmp_path) == []


@pytest.mark.hosts("asyncio", "uvloop")
def test_task_cancelled_natively_while_its_removal_waits_for_a_thread(
    tmp_path: Path, anyio_backend: Any
) -> None:
    async def main() -> None:
        limiter = anyio.to_thread.current_default_thread_limiter()
        entered, leave = asyncio.Event(), asyncio.Event()

        async def body() -> None:
            async with anyio_uring.TemporaryDirectory(dir=str(tmp_path)):
                entered.set()
                await leave.wait()

        task = asyncio.create_task(body())
        await entered.wait()
        total, limiter.total_tokens = limiter.total_tokens, 1
        await limiter.acquire_on_behalf_of(limiter)
        leave.set()
        while not limiter.statistics().tasks_waiting:
            await checkpoint()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert leftovers(tmp_path) == []
        limiter.release_on_behalf_of(limiter)
        limiter.total_tokens = total

    run(main, anyio_backend)


def test_once_runs_once() -> None:
    calls: list[None] = []
    once = _temporary._Once(lambda: calls.append(None))
    once()
    once()
    assert len(calls) == 1
