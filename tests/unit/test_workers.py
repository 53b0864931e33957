"""A lack of kernel workers is remembered, and forgotten when the kernel makes them again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import anyio_uring
from anyio_uring import _probe
from anyio_uring._runtime import current_runtime
from anyio_uring.testing import force_tiers

pytestmark = pytest.mark.skipif(not _probe.probe().available, reason="needs io_uring")

NO_WORKER = -errno.ECANCELED


class FakeHost:
    """Keeps the questions that are put to the kernel."""

    def __init__(self) -> None:
        self.questions: list[Any] = []

    def start(self, operation: Any) -> None:
        self.questions.append(operation)

    def answer(self, result: int) -> None:
        self.questions.pop().when_done(SimpleNamespace(result=result))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    from anyio_uring import _workers

    clock = Clock()
    monkeypatch.setattr(_workers, "monotonic", clock)
    monkeypatch.setattr(_workers, "ASK_SECONDS", 1.0)
    return clock


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def workers(host: FakeHost) -> Any:
    from anyio_uring._workers import Workers

    return Workers(host)  # type: ignore[arg-type]


def test_workers_lack_after_one_refusal_and_nothing_is_asked_at_once(
    clock: Clock, host: FakeHost, workers: Any
) -> None:
    before = workers.lacking()
    workers.refuse(NO_WORKER)
    clock.now += 0.9
    assert (before, workers.lacking(), workers.refused, host.questions) == (False, True, 1, [])


def test_refusal_for_another_reason_is_no_lack_of_workers(clock: Clock, workers: Any) -> None:
    workers.refuse(-errno.EAGAIN)
    assert (workers.lacking(), workers.refused) == (False, 1)


def test_kernel_is_asked_once_in_a_while_and_nobody_waits_for_the_answer(
    clock: Clock, host: FakeHost, workers: Any
) -> None:
    workers.refuse(NO_WORKER)
    clock.now += 1.0
    assert [workers.lacking() for _ in range(3)] == [True] * 3
    assert len(host.questions) == 1


@pytest.mark.parametrize(("result", "lacking"), [(0, False), (NO_WORKER, True)])
def test_answer_says_whether_the_lack_goes_on(
    clock: Clock, host: FakeHost, workers: Any, result: int, lacking: bool
) -> None:
    workers.refuse(NO_WORKER)
    clock.now += 1.0
    workers.lacking()
    host.answer(result)
    assert workers.lacking() is lacking


def test_kernel_is_asked_again_if_no_answer_comes(
    clock: Clock, host: FakeHost, workers: Any
) -> None:
    workers.refuse(NO_WORKER)
    for _ in range(2):
        clock.now += 1.0
        workers.lacking()
    assert len(host.questions) == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_without_workers_threads_do_everything_but_transfers_of_streams(
    clock: Clock, tmp_path: Path, backend: str
) -> None:
    here, there = os.pipe()

    async def main() -> list[Any]:
        async with await anyio_uring.open_file(here, "rb", 0) as pipe:
            ops: Any = current_runtime().ops
            ops.workers.refuse(NO_WORKER)
            async with await anyio_uring.open_file(tmp_path / "file", "w+b", 0) as file:
                await file.write(b"abc")
                await file.fsync()
                await file.truncate(2)
                data = await file.pread(3, 0)
            after_file = anyio_uring.statistics()
            os.write(there, b"x")
            byte = await pipe.read(1)
            served = anyio_uring.statistics().operations
            return [data, after_file.ring, after_file.thread >= 6, byte, served]

    try:
        with force_tiers("ring"):
            result = anyio.run(main, backend=backend)
    finally:
        os.close(there)
    assert result == [b"ab", 0, True, b"x", {"read": 1}]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_kernel_that_makes_workers_is_believed(clock: Clock, tmp_path: Path, backend: str) -> None:
    async def main() -> tuple[bool, int]:
        async with await anyio_uring.open_file(tmp_path / "file", "wb", 0) as file:
            ops: Any = current_runtime().ops
            ops.workers.refuse(NO_WORKER)
            clock.now += 1.0
            first = ops.workers.lacking()
            with anyio.fail_after(30):
                while ops.workers.lacking():
                    await anyio.lowlevel.checkpoint()
            await file.fsync()
        return first, anyio_uring.statistics().operations["fsync"]

    with force_tiers("ring"):
        assert anyio.run(main, backend=backend) == (True, 1)
