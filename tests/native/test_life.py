"""Operations and rings without an event loop: what a completion, a cancel, an end leads to."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from typing import Any

import pytest

_uring = pytest.importorskip("anyio_uring._uring")


def handle(fd: int, *, seekable: bool = False, flags: int = os.O_RDWR) -> Any:
    """A handle that does not own its descriptor; `seekable`: as if it were a file's."""
    mode = stat.S_IFREG if seekable else stat.S_IFIFO
    return _uring.Handle(fd, flags, closefd=False, st_mode=mode | 0o600)


def finish(ring: Any, *operations: Any) -> None:
    for _ in range(100):
        ring.wait(0.1)
        if all(operation.done for operation in operations):
            return
    pytest.fail("an operation did not come back")


def test_result_of_an_operation_under_way_cannot_be_taken(ring: Any, pipe: Any) -> None:
    operation = _uring.read_operation(handle(pipe[0]), 5, -1, False, False)
    ring.start(operation)
    ring.submit()
    with pytest.raises(RuntimeError, match="still in the kernel"):
        operation.take()
    os.write(pipe[1], b"hello")
    finish(ring, operation)
    assert operation.take() == b"hello"


def test_part_of_a_read_before_an_error_counts(ring: Any) -> None:
    # A socket has no offsets but 0: the second part of this read fails with ESPIPE
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"abc")
        operation = _uring.read_operation(handle(ours.fileno(), seekable=True), 8, 0, True, False)
        ring.start(operation)
        finish(ring, operation)
        assert operation.result == 0
        assert operation.take() == b"abc"


def test_part_of_a_read_at_an_offset_is_forgotten_by_a_cancel(ring: Any, pipe: Any) -> None:
    operation = _uring.read_operation(handle(pipe[0], seekable=True), 8, 0, True, False)
    ring.start(operation)
    ring.submit()
    os.write(pipe[1], b"abc")
    while operation.moved == 0:
        ring.wait(0.1)
    assert not operation.done  # it goes on: a file's short read is continued
    ring.abandon(operation)  # cancels, and again: a worker can miss it, one time in 10,000
    finish(ring, operation)
    assert operation.cancelled


def test_write_from_several_buffers_goes_on_after_a_part(ring: Any, pipe: Any) -> None:
    # As if the pipe were a file: what it has room for ends within the second buffer
    parts = tuple(bytes([number]) * 40_000 for number in range(4))
    operation = _uring.gather_operation(handle(pipe[1], seekable=True), parts, 0)
    assert operation.requested == 160_000
    ring.start(operation)
    ring.submit()
    for _ in range(100):
        if operation.moved:
            break
        ring.wait(0.1)
    assert 40_000 < operation.moved < 80_000
    got = b""
    while len(got) < 160_000:
        got += os.read(pipe[0], 1 << 20)
        ring.wait(0.1)
    finish(ring, operation)
    assert (operation.result, operation.moved) == (0, 160_000)
    assert got == b"".join(parts)


def test_write_from_several_buffers_refuses_what_it_cannot_hold(pipe: Any) -> None:
    for count in 0, 1025:
        with pytest.raises(ValueError, match="1 to 1024"):
            _uring.gather_operation(handle(pipe[1]), (b"x",) * count, 0)
    with pytest.raises(ValueError, match="one transfer"):
        _uring.gather_operation(handle(pipe[1]), (bytes(1 << 20),) * 65, 0)
    for part in None, bytearray(1):
        with pytest.raises(TypeError):
            _uring.gather_operation(handle(pipe[1]), (b"x", part), 0)


def test_destination_is_given_back_with_the_failure(ring: Any, pipe: Any) -> None:
    buffer = bytearray(8)
    operation = _uring.readinto_operation(handle(pipe[0]), buffer, -1, False, False)
    ring.start(operation)
    ring.submit()
    with pytest.raises(BufferError):
        buffer.clear()
    ring.cancel(operation)
    finish(ring, operation)
    assert operation.cancelled
    buffer.clear()


def test_open_result_that_nobody_claims_is_closed_with_its_operation(ring: Any) -> None:
    operation = _uring.open_operation(b"/dev/null", os.O_RDONLY, 0)
    ring.start(operation)
    finish(ring, operation)
    fd = operation.result
    os.fstat(fd)
    del operation
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_open_that_was_abandoned_is_closed_by_the_ring(ring: Any) -> None:
    operation = _uring.open_operation(b"/dev/null", os.O_RDONLY | os.O_CREAT, 0)
    ring.start(operation)
    ring.submit()
    ring.abandon(operation)  # with O_CREAT it goes on
    finish(ring, operation)
    while not ring.idle:
        ring.wait(0.1)
    assert ring.orphans == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(operation.result)


def test_leaked_operations_tell_their_files_and_keep_their_memory(pipe: Any) -> None:
    ring = _uring.Ring(1, None, 8)
    owner = handle(pipe[0])
    told: list[Any] = []
    started, queued = (_uring.read_operation(owner, 4, -1, False, False) for _ in range(2))
    for operation in (started, queued):
        operation.when_done = told.append
        ring.start(operation)
    ring.submit()
    assert (owner.inflight, ring.queued) == (2, 1)
    assert ring.leak() == 1
    assert set(ring.collect()) == {started, queued}
    assert set(told) == {started, queued}
    assert owner.inflight == 0
    assert started.done
    assert started.cancelled
    with pytest.raises(RuntimeError, match="still in the kernel"):
        started.take()


def test_closed_ring_refuses_and_touches_nothing(pipe: Any) -> None:
    ring = _uring.Ring(1, None, 8)
    operation = _uring.read_operation(handle(pipe[0]), 4, -1, False, False)
    ring.start(operation)
    ring.leak()
    ring.cancel(operation)
    ring.abandon(operation)
    assert ring.leak() == 0
    with pytest.raises(RuntimeError, match="closed"):
        ring.start(_uring.nop_operation())
    with pytest.raises(RuntimeError, match="closed"):
        ring.submit()


def test_operation_of_another_ring_is_left_alone(ring: Any, pipe: Any) -> None:
    other = _uring.Ring(2, None, 8)
    mine, foreign = (_uring.read_operation(handle(pipe[0]), 4, -1, False, False) for _ in range(2))
    ring.start(mine)
    ring.submit()
    other.start(foreign)  # the same slot and generation as `mine`
    other.submit()
    ring.cancel(foreign)
    ring.wait(0)
    assert ring.cancels == 0
    assert not mine.done
    other.leak()


def test_callback_that_fails_does_not_lose_the_completions_behind_it(ring: Any) -> None:
    def fail(operation: Any) -> None:
        raise KeyboardInterrupt

    told: list[Any] = []
    first, second = _uring.nop_operation(), _uring.nop_operation()
    first.when_done, second.when_done = fail, told.append
    ring.start(first)
    ring.start(second)
    with pytest.raises(KeyboardInterrupt):
        ring.wait(1)
    assert not ring.idle
    assert ring.wait(1) == [first, second]
    assert told == [second]


def test_child_forgets_queued_and_finished_operations_too(pipe: Any) -> None:
    ring = _uring.Ring(1, None, 8)
    owner = handle(pipe[0])
    for _ in range(2):
        ring.start(_uring.read_operation(owner, 4, -1, False, False))
    ring.submit()
    owner.call_when_idle(print)
    pid = os.fork()
    if pid == 0:
        ring.forget()
        os._exit(owner.inflight + (owner.when_idle is not None))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert owner.inflight == 2
    ring.leak()


def test_call_when_idle_answers_at_once_when_nothing_is_under_way(pipe: Any) -> None:
    calls: list[str] = []
    owner = handle(pipe[0])
    assert not owner.call_when_idle(lambda: calls.append("never"))
    owner.join()
    assert owner.call_when_idle(lambda: calls.append("idle"))
    owner.leave()
    assert calls == ["idle"]


def test_errors_above_511_reach_nobody(ring: Any, pipe: Any) -> None:
    operation = _uring.read_operation(handle(pipe[0]), 4, -1, False, False)
    ring.start(operation)
    ring.submit()
    ring.cancel(operation)
    finish(ring, operation)
    assert operation.result == -errno.ECANCELED


@pytest.mark.parametrize("others", [True, False])
def test_worker_that_missed_a_cancel_is_asked_again(pipe: Any, others: bool) -> None:
    """By `abandon`, and as long as it has not noticed with the next operations, or in `wait`."""
    for delay_us in range(300):
        ring = _uring.Ring(2, None, 8)
        operation = _uring.read_operation(handle(pipe[0]), 4, -1, False, True)
        ring.start(operation)
        ring.submit()
        begun = time.perf_counter()
        while time.perf_counter() < begun + delay_us % 100 * 1e-6:
            pass
        ring.cancel(operation)
        ring.wait(0.01)
        ring.abandon(operation)
        until = time.monotonic() + 5
        while not operation.done and time.monotonic() < until:
            ring.wait(0.005 if others else 1)
            if others:
                ring.start(_uring.nop_operation())
        assert operation.cancelled
        ring.leak()


class Task:
    """Can be referred to weakly."""


def test_path_is_charged_to_one_meter_whoever_is_remembered_meanwhile() -> None:
    meter, other = _uring.Meter(), _uring.Meter()

    def current_task(loop: object) -> Task:
        _uring.remember(other)  # as by a loop in another thread
        return task

    task = Task()
    meter.watch_asyncio(object(), current_task, {})
    for quick in (
        lambda: _uring.stat_quick("/proc/self/status", True, 1 << 10),  # never at once
        lambda: _uring.read_quick("/proc/self/status", 1 << 10),
        lambda: _uring.read_quick("a\0b", 1 << 10),
    ):
        _uring.remember(meter)
        assert quick() is None
        assert meter.left == other.left  # all of it was given back
