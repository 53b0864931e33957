"""asyncio's tasks go on with a helper's answer at once, within the turn that hands it out, which
they cannot tell from a callback of their own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from anyio_uring import _gate
from anyio_uring._handle import COMPILED
from anyio_uring._runtime import current_runtime

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hosts("asyncio", "asyncio-debug", "uvloop"),
    pytest.mark.tiers("auto"),
    pytest.mark.usefixtures("tiers", "always"),
    pytest.mark.skipif(not COMPILED, reason="helpers run compiled code"),
    pytest.mark.skipif(
        COMPILED and len(os.sched_getaffinity(0)) == 1, reason="one processor: no helpers"
    ),
]

HERE = os.fsencode(__file__)
TASKS = 40
number: ContextVar[int] = ContextVar("number")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a crew whatever there is to ask."""
    monkeypatch.setattr(_gate, "CROWD", 0)


def crew_here() -> Any:
    return current_runtime().gate.crew()


async def test_each_in_its_own_context() -> None:
    crew = crew_here()

    async def work(mine: int) -> None:
        number.set(mine)
        task = asyncio.current_task()
        heard: list[int] = []
        for _ in range(20):
            await crew.stat(HERE, True)
            assert asyncio.current_task() is task
            assert number.get() == mine
            asyncio.get_running_loop().call_soon(lambda: heard.append(number.get()))
        await asyncio.sleep(0)
        assert heard == 20 * [mine]

    await asyncio.gather(*(work(mine) for mine in range(TASKS)))
    with pytest.raises(LookupError):
        number.get()


async def test_cancelled_with_a_message() -> None:
    crew = crew_here()

    async def work() -> Any:
        try:
            return await _stat(crew)
        except asyncio.CancelledError as error:
            return error.args

    tasks = [asyncio.ensure_future(work()) for _ in range(TASKS)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        assert task.cancel("enough")
    results = await asyncio.gather(*tasks)
    assert results[::2] == TASKS // 2 * [("enough",)]
    assert all(isinstance(result, os.stat_result) for result in results[1::2])
    assert await _all_handed_out(crew)


async def test_cancelled_before_it_waits_and_after() -> None:
    crew = crew_here()
    await _stat(crew)

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await crew.stat(HERE, True)

    async def goes_on() -> str:
        await crew.stat(HERE, True)
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        try:
            await crew.open(HERE, os.O_RDONLY)
        except asyncio.CancelledError:
            return "cancelled at the next one"
        return "not cancelled"

    gc.collect()  # (what earlier loops have left)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(cancels_itself())
    assert await asyncio.ensure_future(goes_on()) == "cancelled at the next one"
    assert await _all_handed_out(crew)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_timeouts() -> None:
    crew = crew_here()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(-1):
            await crew.stat(HERE, True)
    assert isinstance(await asyncio.wait_for(_stat(crew), 60), os.stat_result)


async def test_a_task_that_waits_is_seen_to_wait() -> None:
    crew = crew_here()
    await _stat(crew)
    task = asyncio.ensure_future(_stat(crew))
    await anyio.wait_all_tasks_blocked()
    await task
    asked = crew.stat(HERE, True)
    assert not asked.done()
    await asked
    assert asked.done()
    assert not asked.cancelled()


def test_nobody_waits_for_a_closed_loop() -> None:
    async def start() -> Any:
        await _stat(crew_here())
        return crew_here().stat(HERE, True)

    loop = asyncio.new_event_loop()
    try:
        asked = loop.run_until_complete(start())
    finally:
        loop.close()
    with pytest.raises(RuntimeError, match="loop is closed"):
        asked.send(None)


async def test_the_loop_run_within_a_task() -> None:
    """As notebooks patch it: what has been answered by then is handed out by the inner turns."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("only Python's own loop can be run within itself")
    crew = crew_here()
    crew.own_most = 0
    await _stat(crew)
    done = within = 0

    async def work(first: Callable[[], object] | None = None) -> None:
        nonlocal done
        await crew.stat(HERE, True)
        if first is not None:
            first()
        done += 1

    def run_others() -> None:
        nonlocal within
        task = asyncio.current_task()
        asyncio.tasks._leave_task(loop, task)  # type: ignore[attr-defined]
        try:
            while done < TASKS and time.monotonic() < end:
                loop._run_once()  # type: ignore[attr-defined]
        finally:
            asyncio.tasks._enter_task(loop, task)  # type: ignore[attr-defined]
        within = done

    others = [asyncio.ensure_future(work(run_others))]
    others += [asyncio.ensure_future(work()) for _ in range(TASKS)]
    await asyncio.sleep(0)  # all have asked, and none has been answered
    end = time.monotonic() + 60
    alarm = loop.call_at(end, lambda: None)  # or the inner loop would sleep for ever
    while crew.done <= TASKS and time.monotonic() < end:
        os.sched_yield()
    await asyncio.gather(*others)
    alarm.cancel()
    assert within == TASKS
    assert done == TASKS + 1


def test_an_interrupt_loses_no_answer() -> None:
    """What a task raises out of the loop leaves the others' answers to the next turn."""
    loop = asyncio.new_event_loop()
    finished = []

    async def work(mine: int) -> None:
        await crew_here().stat(HERE, True)
        if mine == 3:
            raise KeyboardInterrupt
        finished.append(mine)

    async def start() -> list[asyncio.Task[None]]:
        await crew_here().stat(HERE, True)
        return [asyncio.ensure_future(work(mine)) for mine in range(TASKS)]

    try:
        tasks = loop.run_until_complete(start())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(asyncio.wait(tasks, timeout=60))
    finally:
        loop.close()
    assert isinstance(tasks[3].exception(), KeyboardInterrupt)
    assert sorted(finished) == [mine for mine in range(TASKS) if mine != 3]


async def _stat(crew: Any) -> Any:
    found = await crew.stat(HERE, True)
    # (the first one only tells what the mount is)
    return found if isinstance(found, os.stat_result) else await crew.stat(HERE, True)


async def _all_handed_out(crew: Any) -> bool:
    while crew.outstanding:
        await asyncio.sleep(0)
    return True
