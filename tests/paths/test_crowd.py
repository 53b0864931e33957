"""Many tasks that ask something of paths: helpers answer, and nobody can tell."""

from __future__ import annotations

import asyncio
import os
import pathlib
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from tests.conftest import Tiers
from tests.support.fuse import FuseMount, cannot_fuse

from anyio_uring import (
    Path,
    _gate,
    _mounts,
    _open,
    _path,
    _path_jobs,
    _whole,
    open_file,
    statistics,
)
from anyio_uring._buffered import BufferedFile
from anyio_uring._handle import COMPILED, CROWD, MISS
from anyio_uring._host import Host
from anyio_uring._raw import RawFile
from anyio_uring._runtime import current_runtime

if COMPILED:
    from anyio_uring import _uring

TASKS = 64
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop", "trio"),
    pytest.mark.tiers("auto", "now+thread"),
    pytest.mark.usefixtures("tiers"),
    pytest.mark.skipif(not COMPILED, reason="helpers run compiled code"),
    pytest.mark.skipif(
        COMPILED and len(os.sched_getaffinity(0)) == 1, reason="one processor: no helpers"
    ),
]

SIZES = {"empty": 0, "small": 1000, "block-1": 4095, "block": 4096, "block+1": 4097}
SIZES |= {"most": (64 << 10) - 1, "more": 64 << 10, "big": 3 << 20}
LONG_NS = 10**10


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, size in SIZES.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("small")
    (tmp_path / "nowhere").symlink_to("nothing")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "läng" / ("x" * 200)).mkdir(parents=True)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


NAMES = [*SIZES, "directory", "link", "nowhere", "round", "nothing", "small/x", "läng", "y" * 300]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crew is asked whatever there is to ask."""
    monkeypatch.setattr(_gate, "CROWD", 0)
    monkeypatch.setattr(_open, "_at_once", lambda path, flags: None)
    monkeypatch.setattr(_open, "open_plain", plain_in_a_crowd)
    for module in _path, _path_jobs:
        monkeypatch.setattr(module, "stat_quick", lambda path, follow, cost: None)
    monkeypatch.setattr(_path, "read_quick", lambda path, cost: None)


def plain_in_a_crowd(*args: Any) -> Any:
    return _uring.open_plain(*args) if current_runtime().meter.crowd >= CROWD else None


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return type(error), error.errno, error.filename


async def outcome_of(awaited: Awaitable[Any]) -> Any:
    try:
        return await awaited
    except OSError as error:
        return type(error), error.errno, error.filename


@pytest.mark.parametrize("by", ["helper", "loop"])
async def test_answers(
    always: None, tree: pathlib.Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crew says, before anybody makes up for what it does not know."""
    if by == "loop":
        monkeypatch.setattr(Host, "hire", staticmethod(lambda crew: False))
    crew = current_runtime().gate.crew()
    if by == "helper":
        crew.own_most = 0
    # The first one tells what the mount is
    assert await crew.stat(os.fsencode(tree), True) == MISS
    for name in [*NAMES, "fifo"]:
        path = os.fsencode(tree / name)
        for follow in True, False:
            # What has been looked up is in memory, which is all that the loop looks at
            facts = outcome(lambda: os.stat(path, follow_symlinks=follow))  # noqa: B023
            found = await crew.stat(path, follow)
            assert found == facts or is_error(found, facts, by)
        facts = outcome(lambda: os.stat(path))  # noqa: B023
        read, opened = await crew.read(path), await crew.open(path, os.O_RDONLY)
        if not isinstance(facts, os.stat_result):
            assert is_error(read, facts, by)
            assert is_error(opened, facts, by)
        elif not stat.S_ISREG(facts.st_mode):
            assert read == opened == MISS
        else:
            content = (tree / name).read_bytes()
            assert read == (content if len(content) < 64 << 10 else MISS)
            assert os.pread(opened.fd, len(content), 0) == content
    assert crew.own == (crew.served if by == "loop" else 0)


def is_error(found: Any, expected: Any, by: str) -> bool:
    """The loop may have to leave an error to who may wait: too many links, a name too long."""
    return found == -4096 - expected[1] or (by == "loop" and found == MISS)


@pytest.mark.parametrize("name", [*NAMES, "fifo"])
async def test_facts_are_those_of_os(always: None, tree: pathlib.Path, name: str) -> None:
    path = str(tree / name)
    for follow in True, False:
        # Twice: the first one tells helpers what the mount is
        for _ in range(2):
            found = await outcome_of(_whole.facts(path, follow, None))
            assert found == outcome(lambda: os.stat(path, follow_symlinks=follow))  # noqa: B023
    crew: Any = current_runtime().host.crew
    assert crew.served >= 4 if crew.takes_stats else crew.served == 0


@pytest.mark.parametrize("name", NAMES)
async def test_contents_are_those_of_pathlib(always: None, tree: pathlib.Path, name: str) -> None:
    path = tree / name
    for _ in range(2):
        found = await outcome_of(_whole.read_whole(str(path), None))
        assert found == outcome(path.read_bytes)
    assert current_runtime().host.crew.served >= 2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "mode", "buffering"),
    [(str, mode, -1) for mode in ("rb", "r+b", "r")]
    + [(pathlib.Path, "rb", 0), (str, "rb", 1000), (str, "r+b", 0)],
)
async def test_files_are_those_of_open(
    always: None, tree: pathlib.Path, name: str, kind: type, mode: str, buffering: int
) -> None:
    path = kind(tree / name)

    def theirs() -> Any:
        with open(path, mode, buffering, errors=errors) as file:
            return file.name, file.mode, file.read(), file.tell(), hasattr(file, "peek")

    async def ours() -> Any:
        async with await open_file(path, mode, buffering, errors=errors) as file:
            assert os.get_blocking(file.fileno())
            assert not os.get_inheritable(file.fileno())
            content, buffered = await file.read(), hasattr(file, "peek")
            return file.name, file.mode, content, await file.tell(), buffered

    errors = None if "b" in mode else "replace"
    for _ in range(2):
        assert await outcome_of(ours()) == outcome(theirs)
    assert current_runtime().host.crew.served >= 2  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["wb", "ab", "xb", "w+b"])
async def test_what_makes_files_is_not_for_helpers(
    always: None, tree: pathlib.Path, mode: str
) -> None:
    async with await open_file(tree / f"new-{mode}", mode) as file:
        await file.write(b"content")
    assert (tree / f"new-{mode}").read_bytes() == b"content"
    crew = current_runtime().host.crew
    assert crew is None or crew.served == 0


async def test_devices_are_read_once(always: None) -> None:
    assert await Path("/dev/null").read_bytes() == b""
    assert stat.S_ISCHR((await _whole.facts("/dev/null", True, None)).st_mode)


async def test_a_fifo_waits_for_its_writer(always: None, tree: pathlib.Path) -> None:
    found = []

    async def read() -> None:
        found.append(await Path(tree / "fifo").read_bytes())

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        async with await open_file(tree / "fifo", "wb") as file:
            await file.write(b"through")
    assert found == [b"through"]


async def test_names_that_no_file_can_have(always: None) -> None:
    for call in _whole.read_whole("a\0b", None), _whole.facts("a\0b", True, None):
        with pytest.raises(ValueError, match="null"):
            await call
    for call in _whole.read_whole("\ud800", None), _whole.facts("\ud800", True, None):
        with pytest.raises(UnicodeEncodeError):
            await call
    assert not await Path("a\0b").exists()


# -- crowds ---------------------------------------------------------------------------------------


async def crowd(work: Callable[[int], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        for number in range(TASKS):
            group.start_soon(work, number)


async def test_it_gathers_in_the_line_for_the_allowance(tree: pathlib.Path) -> None:
    runtime = current_runtime()

    async def work(number: int) -> None:
        while runtime.host.crew is None or runtime.host.crew.served < TASKS:
            assert len(await Path(tree / "small").read_bytes()) == SIZES["small"]

    with anyio.fail_after(60):
        await crowd(work)


async def test_more_readers_at_a_time_than_are_given_room(always: None, tree: pathlib.Path) -> None:
    names = ["empty", "small", "block-1", "block", "block+1"]
    contents = {name: (tree / name).read_bytes() for name in names}
    found: list[tuple[str, bytes]] = []

    async def read(name: str) -> None:
        found.append((name, await Path(tree / name).read_bytes()))

    await Path(tree / "small").read_bytes()  # its mount is known now
    crew = current_runtime().gate.crew()
    assert crew is not None
    await crew.read(os.fsencode(tree / "small"))
    missed = crew.missed
    async with anyio.create_task_group() as group:
        for number in range(600):
            group.start_soon(read, names[number % len(names)])
    assert len(found) == 600
    for name, data in found:
        assert data == contents[name]
    assert crew.missed == missed


async def test_everybody_gets_his_answer(always: None, tree: pathlib.Path) -> None:
    contents = {name: (tree / name).read_bytes() for name in SIZES}
    done = []

    async def work(number: int) -> None:
        for turn in range(20):
            name = list(SIZES)[(number + turn) % len(SIZES)]
            path = Path(tree / name)
            assert await path.read_bytes() == contents[name]
            assert (await path.stat()).st_size == SIZES[name]
            assert await (tree_of(path) / "link").is_symlink()
            for name_of, buffering in (str, -1), (str, 0), (pathlib.Path, -1):
                async with await open_file(name_of(path), "rb", buffering) as file:
                    assert type(file) is (BufferedFile if buffering else RawFile)
                    assert (file.name, file.mode) == (str(path), "rb")
                    assert await file.read() == contents[name]
            with pytest.raises(FileNotFoundError) as caught:
                await Path(tree / f"no-{number}-{turn}").read_bytes()
            assert caught.value.filename == str(tree / f"no-{number}-{turn}")
            with pytest.raises(IsADirectoryError):
                await Path(tree / "directory").read_bytes()
            with pytest.raises(FileNotFoundError):
                await open_file(str(tree / "nothing"), "rb")
        done.append(number)

    await crowd(work)
    assert sorted(done) == list(range(TASKS))
    crew = current_runtime().host.crew
    assert crew is not None
    assert crew.outstanding == 0
    # Most went this way, and most of it was of use
    assert crew.served > TASKS * 20
    assert crew.missed < crew.served / 2
    assert 0 < statistics().helped <= crew.served


def tree_of(path: Path) -> Path:
    return path.parent


async def test_without_helpers_the_loop_does_it_all(
    always: None, tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "hire", staticmethod(lambda crew: False))

    async def work(number: int) -> None:
        for _ in range(20):
            assert len(await Path(tree / "small").read_bytes()) == SIZES["small"]

    await crowd(work)
    crew = current_runtime().host.crew
    assert crew is not None
    assert crew.served == crew.own > 0
    assert statistics().helped == 0


async def test_a_crowd_comes_again(always: None, tree: pathlib.Path) -> None:
    async def work(number: int) -> None:
        for _ in range(10):
            await Path(tree / "small").read_bytes()

    await crowd(work)
    crew = current_runtime().host.crew
    assert crew is not None
    served = crew.served
    for _ in range(2000):  # what watches the turns of the loop has been taken out by then
        await anyio.lowlevel.checkpoint()
    await crowd(work)
    assert crew.served > served


async def test_few_are_served_at_once(tree: pathlib.Path) -> None:
    async def work() -> None:
        for _ in range(200):
            await Path(tree / "small").read_bytes()

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(work)
    assert current_runtime().host.crew is None


async def test_each_operation_a_turn(tree: pathlib.Path) -> None:
    """Who wants AnyIO's behaviour to the letter gets no crew, whose answers come in any order."""
    runtime = current_runtime()
    runtime.settings = replace(runtime.settings, checkpoint_every=1)
    assert runtime._recruit() is None


async def test_cancelled_opens_leave_nothing_open(always: None, tree: pathlib.Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    started = anyio.Event()

    async def work(number: int) -> None:
        while True:
            async with await open_file(tree / "small", "rb") as file:
                started.set()
                await file.read()

    for _ in range(30):
        async with anyio.create_task_group() as group:
            group.start_soon(crowd, work)
            await started.wait()
            started = anyio.Event()
            group.cancel_scope.cancel()
    crew = current_runtime().host.crew
    assert crew is not None
    while crew.outstanding:
        await anyio.lowlevel.checkpoint()
    # (the crew's own eventfd, and the ring with its own)
    assert len(os.listdir("/proc/self/fd")) <= before + 3


async def closed_at_once(path: pathlib.Path, *, wait: bool = False, age: int = 0) -> bool:
    """Whether a file is, the name of which goes while it is open."""
    for last in False, True:  # the first tells what the mount is
        before = time.monotonic_ns()
        file = await open_file(path, "rb", 0)
        counts, handle = statistics(), file._handle
        if last:
            assert handle.linked_at == 0 or before < handle.linked_at <= time.monotonic_ns()
            os.unlink(path)
            await file.pread(10, 0)
            if wait:
                await anyio.lowlevel.checkpoint()
            if handle.linked_at:
                handle.linked_at = time.monotonic_ns() + LONG_NS - age
        await file.aclose()
    assert handle.fd == -1
    assert current_runtime().host.crew.served >= 2  # type: ignore[union-attr]
    return statistics().now_closed > counts.now_closed


async def test_small_file_just_opened_is_not_looked_at_again(
    always: None, tree: pathlib.Path
) -> None:
    """So the loop closes it at once, although it has no name by then."""
    assert await closed_at_once(tree / "small")


async def test_file_is_looked_at_again_if_the_task_has_waited(
    always: None, tree: pathlib.Path
) -> None:
    assert not await closed_at_once(tree / "small", wait=True)


async def test_file_is_looked_at_again_a_moment_later(always: None, tree: pathlib.Path) -> None:
    assert not await closed_at_once(tree / "small", age=LONG_NS + 2_000_000)


@pytest.mark.parametrize("big", ["content", "hole", "room"])
async def test_file_that_is_not_small_is_looked_at_again(
    always: None, tree: pathlib.Path, big: str
) -> None:
    """To delete it takes longer, the more is in memory or allocated."""
    path = tree / ("big" if big == "content" else "small")
    if big == "hole":
        os.truncate(path, 1 << 20)
    elif big == "room":
        async with await open_file(path, "r+b", 0) as file:
            await file.allocate(SIZES["small"], 1 << 20, keep_size=True)
    assert not await closed_at_once(path)


async def test_few_files_are_open_ahead(always: None, tree: pathlib.Path) -> None:
    most = 0

    async def work() -> None:
        nonlocal most
        async with await open_file(tree / "small", "rb") as file:
            most = max(most, len(os.listdir("/proc/self/fd")))
            await file.read()

    before = len(os.listdir("/proc/self/fd"))
    async with anyio.create_task_group() as group:
        for _ in range(800):
            group.start_soon(work)
    assert most - before < 300


async def test_a_loop_that_is_held_up_finds_all_answers(always: None, tree: pathlib.Path) -> None:
    crew = current_runtime().gate.crew()
    crew.own_most = crew.idle_seconds = 0
    await crew.stat(os.fsencode(tree), True)
    answered = 0

    async def work() -> None:
        nonlocal answered
        await Path(tree / "small").read_bytes()
        answered += 1
        if answered == 10:
            while crew.helpers and crew.done < 64:  # as many as are found ahead
                os.sched_yield()
            for _ in range(5000):  # a helper that leaves then, with the rest to be answered, can
                os.sched_yield()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(600):
                group.start_soon(work)
    assert answered == 600


async def test_a_burst_after_the_last_helper_has_left(always: None, tree: pathlib.Path) -> None:
    crew = current_runtime().gate.crew()
    crew.own_most = crew.idle_seconds = 0

    async def work() -> None:
        await Path(tree / "small").read_bytes()

    with anyio.fail_after(60):
        for _ in range(20):
            await work()
            while crew.helpers:
                pass  # it may still wait for the interpreter
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(work)
    assert crew.outstanding == 0


async def test_the_loop_rests_afterwards(always: None, tree: pathlib.Path) -> None:
    crew = current_runtime().gate.crew()

    async def work() -> None:
        for _ in range(2):
            await Path(tree / "small").read_bytes()

    for _ in range(400):
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(work)
        # What still wakes it, it takes back
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        assert crew.outstanding == 0
        assert not select.select([crew.eventfd], [], [], 0)[0]
        assert not getattr(current_runtime().host, "_turning", False)  # asyncio's next turn


async def test_a_thread_that_cannot_start(
    always: None, tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    async def work(number: int) -> None:
        for _ in range(5):
            assert len(await Path(tree / "small").read_bytes()) == SIZES["small"]

    await crowd(work)
    assert statistics().helped == 0


async def test_a_mount_that_cannot_be_looked_up(
    always: None, tree: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise MemoryError

    _uring.set_classifier(refuse, _mounts.is_whole)
    try:
        for _ in range(3):
            with anyio.fail_after(60), pytest.raises(MemoryError):  # of the next tier
                await Path(tree / "small").read_bytes()
    finally:
        _uring.set_classifier(_mounts.classify, _mounts.is_whole)
    assert (await Path(tree / "small").stat()).st_size == SIZES["small"]


async def test_what_is_of_no_use_is_not_asked_for_long(always: None) -> None:
    async def work(number: int) -> None:
        for _ in range(20):
            assert await Path("/proc/self/cmdline").read_bytes()

    await crowd(work)
    crew = current_runtime().host.crew
    assert crew is not None
    assert crew.served < TASKS * 20 / 2


@pytest.mark.hosts("asyncio")
def test_helpers_of_a_dropped_loop_leave(always: None, tiers: Tiers, tree: pathlib.Path) -> None:
    async def main() -> None:
        crew = current_runtime().gate.crew()
        crew.own_most = 0
        await Path(tree / "small").read_bytes()
        helpers.extend(each for each in threading.enumerate() if "helper" in each.name)

    helpers: list[threading.Thread] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    assert helpers
    for helper in helpers:
        helper.join(60)
        assert not helper.is_alive()
    loop.close()


@pytest.mark.hosts("trio")
def test_an_autojump_clock_waits_for_helpers(
    always: None, tiers: Tiers, tree: pathlib.Path
) -> None:
    async def work() -> None:
        for _ in range(20):
            with trio.fail_after(60):
                assert len(await Path(tree / "small").read_bytes()) == SIZES["small"]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(work)
        assert trio.current_time() == began

    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    trio.run(main, clock=clock)


FORKING = """
import os, sys
import anyio
from anyio_uring import Path, _gate
from anyio_uring._runtime import current_runtime

_gate.CROWD = 0

async def work():
    for _ in range(20):
        await Path(sys.argv[1]).read_bytes()

async def main():
    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(work)
    runtime = current_runtime()
    crew = runtime.host.crew
    child = os.fork()
    if child == 0:
        assert crew.ended and runtime.gate.crew() is None
        return
    assert os.waitpid(child, 0)[1] == 0
    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(work)
    assert crew.outstanding == 0 and not crew.ended
    print("parent")

anyio.run(main)
print("ended")
"""


@pytest.mark.hosts("asyncio")
def test_a_forked_child_ends_without_its_helpers(tiers: Tiers, tree: pathlib.Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, str(tree / "small")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split() == ["ended", "parent", "ended"]


# -- what has to be waited for --------------------------------------------------------------------

REASON = cannot_fuse()
needs_fuse = pytest.mark.skipif(REASON is not None, reason=REASON or "")
FILES = [f"file-{number}" for number in range(400)]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FuseMount, Iterator[str]]]:
    with FuseMount(dict.fromkeys(FILES, b"content"), direct_io=True) as mount:
        yield mount, iter(FILES)


@needs_fuse
async def test_a_helper_that_waits_holds_up_nobody_else(
    always: None, served: tuple[FuseMount, Iterator[str]], tree: pathlib.Path
) -> None:
    mount, names = served
    slow = Path(mount.path, next(names))
    found = []

    async def wait() -> None:
        found.append(await slow.read_bytes())

    async def work(number: int) -> None:
        for _ in range(20):
            assert len(await Path(tree / "small").read_bytes()) == SIZES["small"]

    async with anyio.create_task_group() as group:
        with waiting(mount) as crew:
            group.start_soon(wait)
            await until_waiting(mount, crew)
            await crowd(work)
            assert crew.outstanding == 1
            assert not found
    assert found == [b"content"]


@needs_fuse
async def test_who_is_cancelled_leaves_a_helper_that_waits(
    always: None, served: tuple[FuseMount, Iterator[str]]
) -> None:
    mount, names = served
    slow = Path(mount.path, next(names))
    with waiting(mount) as crew:
        async with anyio.create_task_group() as group:
            group.start_soon(slow.read_bytes)
            await until_waiting(mount, crew)
            group.cancel_scope.cancel()
        assert crew.outstanding == 1


@needs_fuse
def test_a_loop_ends_while_a_helper_waits(
    always: None,
    served: tuple[FuseMount, Iterator[str]],
    tiers: Tiers,
    anyio_backend: Any,
) -> None:
    mount, names = served
    path = Path(mount.path, next(names))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            crews.append(stack.enter_context(waiting(mount)))
            group.start_soon(path.read_bytes)
            await until_waiting(mount, crews[0])
            group.cancel_scope.cancel()

    crews: list[Any] = []
    with ExitStack() as stack:
        backend, options = anyio_backend
        anyio.run(main, backend=backend, backend_options=options)
        assert crews[0].ended


@contextmanager
def waiting(mount: FuseMount) -> Iterator[Any]:
    """A crew whose helper will wait for a server, which answers at the end."""
    crew = current_runtime().gate.crew()
    crew.own_most = 0  # or the loop might be quicker to ask
    mount.stall("LOOKUP")
    try:
        yield crew
    finally:
        mount.release()


async def until_waiting(mount: FuseMount, crew: Any) -> None:
    while not mount.held("LOOKUP"):
        await anyio.lowlevel.checkpoint()
    crew.own_most = 8
