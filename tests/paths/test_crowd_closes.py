"""Files that a crowd has read are closed by its helpers: soon, whatever becomes of these."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers

from anyio_uring import _gate, _open, open_file, statistics
from anyio_uring._handle import COMPILED
from anyio_uring._host import Host
from anyio_uring._runtime import current_runtime

TASKS = 64
TURNS = 20
LEFT_MAX = 16  # as in the core
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop", "trio"),
    pytest.mark.tiers("auto", "now+thread"),
    pytest.mark.usefixtures("tiers", "always"),
    pytest.mark.skipif(not COMPILED, reason="helpers run compiled code"),
    pytest.mark.skipif(
        COMPILED and len(os.sched_getaffinity(0)) == 1, reason="one processor: no helpers"
    ),
]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a crew whatever there is to ask, and no file is opened without it."""
    monkeypatch.setattr(_gate, "CROWD", 0)
    monkeypatch.setattr(_open, "_at_once", lambda path, flags: None)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that never comes: what is left to it stays, unless the loop takes it back."""
    monkeypatch.setattr(Host, "hire", staticmethod(lambda crew: True))


@pytest.fixture
def files(tmp_path: pathlib.Path) -> list[str]:
    paths = [tmp_path / f"file-{number}" for number in range(TASKS * TURNS)]
    for path in paths:
        path.write_bytes(b"content")
    return [str(path) for path in paths]


def opened(files: list[str]) -> list[str]:
    """Those of them that this process has open."""
    directory, names = os.path.dirname(files[0]), []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # that of the list itself, or it has just been closed
            continue
    return [name for name in names if name.startswith(directory + os.sep)]


async def read_all(files: list[str], *, fileno: bool = False, unlink: bool = False) -> Any:
    """By many tasks; the crew that has helped."""

    async def work(number: int) -> None:
        for name in files[number::TASKS]:
            async with await open_file(name, "rb") as file:
                if fileno:
                    file.fileno()
                if unlink:
                    os.unlink(name)
                assert await file.read() == b"content"

    async with anyio.create_task_group() as group:
        for number in range(TASKS):
            group.start_soon(work, number)
    await rest()
    crew = current_runtime().host.crew
    assert crew is not None
    assert crew.outstanding == 0
    return crew


async def rest() -> None:
    """The loop has nothing more to do."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


async def until_closed(files: list[str]) -> None:
    with anyio.fail_after(60):
        while opened(files):
            await anyio.lowlevel.checkpoint()


@contextmanager
def helping(crew: Any) -> Iterator[None]:
    """The one that was absent comes after all."""
    helper = threading.Thread(target=crew.help)
    helper.start()
    yield
    crew.end()
    helper.join(60)
    assert not helper.is_alive()


async def test_helpers_close(files: list[str]) -> None:
    before, times = statistics().now_closed, 0
    with anyio.fail_after(60):
        while True:
            crew = await read_all(files)
            await until_closed(files)
            times += 1
            # (on a busy machine the loop takes most of them back)
            if crew.closed > LEFT_MAX:
                break
    assert statistics().helped == crew.served - crew.own + crew.closed
    assert statistics().now_closed - before == times * len(files)


async def test_who_knows_the_descriptor_finds_it_closed(files: list[str]) -> None:
    crew = await read_all(files, fileno=True)
    assert crew.closed == 0
    assert opened(files) == []


async def test_unlinked_files_are_closed_by_helpers(files: list[str]) -> None:
    await read_all(files, unlink=True)
    await until_closed(files)
    assert not any(map(os.path.exists, files))


async def test_nothing_is_left_to_a_helper_that_does_not_come(
    absent: None, files: list[str]
) -> None:
    crew = await read_all(files)
    assert crew.helpers == 1
    assert opened(files) == []
    assert crew.closed == 0


async def test_nothing_is_left_for_long_while_others_come(absent: None, files: list[str]) -> None:
    async def work(number: int) -> None:
        mine = files[number::TASKS]
        for turn, name in enumerate(mine):
            async with await open_file(name, "rb") as file:
                await file.read()
            if turn > 2:
                assert not set(opened(files)) & set(mine[: turn - 2])

    async with anyio.create_task_group() as group:
        for number in range(TASKS):
            group.start_soon(work, number)


async def test_few_are_left_at_a_time(absent: None, files: list[str]) -> None:
    """Files without a name are deleted by it, which would hold up the loop."""
    crew = await read_all(files, unlink=True)
    assert 0 < len(opened(files)) <= LEFT_MAX
    with helping(crew):
        await until_closed(files)
    assert crew.closed > 0


def test_the_end_of_a_loop_closes_what_is_left(
    absent: None, tiers: Tiers, files: list[str], anyio_backend: Any
) -> None:
    async def main() -> None:
        await read_all(files, unlink=True)
        assert opened(files)

    backend, options = anyio_backend
    anyio.run(main, backend=backend, backend_options=options)
    assert opened(files) == []


FORKING = """
import os, sys
import anyio
from tests.paths.test_crowd_closes import Host, _gate, _open, opened, read_all

_gate.CROWD = 0
_open._at_once = lambda path, flags: None
Host.hire = staticmethod(lambda crew: True)
files = [entry.path for entry in os.scandir(sys.argv[1])]

async def main():
    await read_all(files, unlink=True)
    assert opened(files)
    child = os.fork()
    if child == 0:
        os._exit(len(opened(files)))
    assert os.waitpid(child, 0)[1] == 0
    assert opened(files)

anyio.run(main)
"""


@pytest.mark.hosts("asyncio")
def test_a_forked_child_has_nothing_of_it(tiers: Tiers, files: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, os.path.dirname(files[0])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
