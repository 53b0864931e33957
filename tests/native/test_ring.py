"""`Ring` on the real kernel, with a blocking wait and no event loop."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anyio_uring import _probe
from anyio_uring._handle import COMPILED

if not COMPILED or not _probe.probe().available:
    pytest.skip("io_uring does not work here", allow_module_level=True)

from anyio_uring import _uring
from anyio_uring._uring import Handle, Operation, Ring

ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516


@pytest.fixture(params=[0, 1, 2, 3], ids="ladder {}".format)
def ring(request: pytest.FixtureRequest) -> Iterator[Ring]:
    ring = Ring(8, ladder_from=request.param)
    yield ring
    if not ring.closed:
        finish(ring)
        assert ring.leak() == 0


def finish(ring: Ring) -> list[Operation]:
    """Wait until the ring is idle; what came."""
    got: list[Operation] = []
    while not ring.idle:
        got += ring.wait(10)  # nothing, if what has come begins a second attempt
    return got


def finish_when_woken(ring: Ring) -> list[Operation]:
    """As `finish`, but looking at the ring only when its eventfd says so, as a loop does."""
    got = list(ring.submit())
    poll = select.poll()
    poll.register(ring.eventfd, select.POLLIN)
    while not ring.idle:
        assert poll.poll(5000), "nobody wakes the loop"
        got += ring.wake()
    return got


def pipe_read() -> tuple[Handle, int]:
    reading, writing = os.pipe()
    return Handle(reading, os.O_RDONLY, st_mode=os.fstat(reading).st_mode), writing


def test_setup_takes_the_best_flags_from_each_step_of_the_ladder() -> None:
    flags = [Ring(8, ladder_from=step).setup_flags for step in range(4)]
    names = _uring.SETUP_FLAGS
    assert flags[0] & names["DEFER_TASKRUN"]
    assert flags[0] & names["NO_SQARRAY"]
    assert flags[1] & names["DEFER_TASKRUN"]
    assert not flags[1] & names["NO_SQARRAY"]
    assert flags[2] & names["COOP_TASKRUN"]
    assert not flags[2] & names["SINGLE_ISSUER"]
    assert not flags[3] & (names["COOP_TASKRUN"] | names["SUBMIT_ALL"])


def test_nop_completes(ring: Ring) -> None:
    operation = _uring.nop_operation()
    ring.start(operation)
    assert ring.inflight == 1
    assert finish(ring) == [operation]
    assert operation.done
    assert operation.result == 0
    assert ring.inflight == ring.queued == 0


@pytest.mark.parametrize(
    ("injected", "result", "refused"),
    [
        (0, 0, False),
        (7, 7, False),
        (-errno.EIO, -errno.EIO, False),
        (-errno.ECANCELED, -errno.ECANCELED, True),  # nobody asked: a thread may do it
        (-errno.EAGAIN, -errno.EAGAIN, True),  # after a second attempt by a worker
        (-errno.EINVAL, -errno.EINVAL, False),
    ],
)
def test_result_decides_the_state(ring: Ring, injected: int, result: int, refused: bool) -> None:
    operation = _uring.nop_operation(injected)
    ring.start(operation)
    assert finish(ring) == [operation]
    assert (operation.result, operation.refused) == (result, refused)
    assert not operation.cancelled


@pytest.mark.parametrize(
    "number",
    [errno.EINTR, ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK],
)
def test_signal_starts_it_again_until_it_is_given_up(ring: Ring, number: int) -> None:
    operation = _uring.nop_operation(-number)
    ring.start(operation)
    for _ in range(5):
        ring.wake()
        assert not operation.done
    ring.abandon(operation)
    assert operation in finish(ring)
    # Whatever it was, a result is what it ends with: 0 would be a descriptor or an end of file
    assert operation.cancelled
    assert operation.result == -errno.ECANCELED


def workers() -> int:
    """The kernel's worker threads of this thread, whose number they have in their names."""
    name = f"iou-wrk-{threading.get_native_id()}\n"
    count = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            count += task.joinpath("comm").read_text() == name
        except FileNotFoundError:  # it has just ended
            continue
    return count


def kick(ring: Ring) -> None:
    """Wait until the ring has sent something for a worker, and has it back."""
    before = ring.kicked
    while ring.kicked == before or ring.kicks:
        assert ring.wait(10) == []


def in_thread(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own, which no worker belongs to yet."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result()


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_what_stays_in_the_kernel_gets_something_for_its_workers_behind_it(step: int) -> None:
    def stay() -> None:
        ring = Ring(8, ladder_from=step, kick_after=0.01)
        handle, writing = pipe_read()
        operation = _uring.read_operation(handle, 10, -1, False, False)
        ring.start(operation)
        assert ring.submit() == []
        assert workers() == 0
        kick(ring)
        assert workers() == 2  # one for files, one for everything else
        os.write(writing, b"new")
        assert finish(ring) == [operation]
        assert operation.take() == b"new"
        os.close(writing)
        assert ring.leak() == 0

    in_thread(stay)


def test_that_is_sent_once_and_again_when_something_else_has_been_started() -> None:
    ring = Ring(8, kick_after=0.01)
    handles = []
    for count in range(3):
        handle, writing = pipe_read()
        handles.append((handle, writing))
        ring.start(_uring.read_operation(handle, 10, -1, False, False))
        kick(ring)
        while ring.watching:  # the time after it is over, too: nothing will signal the eventfd
            assert ring.wait(10) == []
        assert (ring.kicks, ring.inflight) == (0, count + 1)
    for _, writing in handles:
        os.close(writing)
    assert len(finish(ring)) == 3
    assert ring.leak() == 0


def test_ring_that_is_done_by_then_sends_nothing() -> None:
    ring = Ring(8, kick_after=0.01)
    for _ in range(3):
        ring.start(_uring.nop_operation())
        finish(ring)
        poll = select.poll()
        poll.register(ring.eventfd, select.POLLIN)
        assert poll.poll(5000)  # the time is over
        assert ring.wake() == []
        assert not ring.watching
    assert ring.kicked == 0
    assert ring.leak() == 0


def test_more_operations_than_places_wait_and_come_in_order(ring: Ring) -> None:
    operations = [_uring.nop_operation(number) for number in range(100)]
    for operation in operations:
        ring.start(operation)
    assert ring.inflight == 8
    assert ring.queued == 92
    assert [operation.result for operation in finish(ring)] == list(range(100))


def test_places_are_used_again_and_old_cancels_hit_nobody(ring: Ring) -> None:
    for _ in range(50):
        old = _uring.nop_operation()
        ring.start(old)
        finish(ring)
        handle, writing = pipe_read()
        new = _uring.read_operation(handle, 10, -1, False, False)
        ring.start(new)
        ring.submit()
        ring.cancel(old)
        ring.submit()
        os.write(writing, b"new")
        assert finish(ring) == [new]
        assert new.take() == b"new"
        os.close(writing)


def test_cancelled_read_is_over_with_its_own_completion(ring: Ring) -> None:
    handle, writing = pipe_read()
    operation = _uring.read_operation(handle, 10, -1, False, False)
    ring.start(operation)
    ring.submit()
    ring.cancel(operation)
    ring.cancel(operation)  # asks once
    assert ring.cancels == 1
    assert finish(ring) == [operation]
    assert operation.cancelled
    assert handle.inflight == 0
    os.close(writing)


def test_queued_operation_is_cancelled_on_the_spot(ring: Ring, tmp_path: Path) -> None:
    held = [pipe_read() for _ in range(8)]
    reads = [_uring.read_operation(handle, 1, -1, False, False) for handle, _ in held]
    for read in reads:
        ring.start(read)
    ring.submit()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    handle = Handle(fd, os.O_RDWR, st_mode=os.fstat(fd).st_mode)
    write = _uring.write_operation(handle, b"never", 0, True)
    ring.start(write)
    ring.cancel(write)
    assert write.done
    assert write.cancelled
    assert ring.submit() == [write]
    for read in reads:
        ring.cancel(read)
    finish(ring)
    assert os.fstat(fd).st_size == 0
    for _, writing in held:
        os.close(writing)


def test_result_of_an_operation_in_the_kernel_is_shown_to_nobody(ring: Ring) -> None:
    handle, writing = pipe_read()
    operation = _uring.read_operation(handle, 10, -1, False, False)
    ring.start(operation)
    ring.submit()
    for look in (operation.take, operation.copy_out, operation.claim, operation.bounced):
        with pytest.raises(RuntimeError, match="still in the kernel"):
            look()
    os.write(writing, b"x")
    finish(ring)
    assert operation.take() == b"x"
    os.close(writing)


def test_other_thread_is_refused(ring: Ring) -> None:
    errors: list[str] = []

    def use() -> None:
        for call in (ring.submit, ring.wake, ring.poll, ring.push_only, lambda: ring.wait(0)):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == ["ring used outside the thread that made it"] * 5


def test_closed_ring_is_refused(ring: Ring) -> None:
    assert ring.leak() == 0
    assert ring.closed
    with pytest.raises(RuntimeError, match="closed"):
        ring.start(_uring.nop_operation())
    with pytest.raises(RuntimeError, match="closed"):
        ring.submit()


def test_operation_is_started_once(ring: Ring) -> None:
    operation = _uring.nop_operation()
    ring.start(operation)
    with pytest.raises(RuntimeError, match="twice"):
        ring.start(operation)


def test_abandoned_open_is_closed_when_it_arrives(ring: Ring, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = set(os.listdir("/proc/self/fd"))
    for late in (False, True):
        operation = _uring.open_operation(
            os.fsencode(tmp_path / ("fifo" if late else "file")), os.O_RDWR | os.O_CREAT, 0o600
        )
        ring.start(operation)
        if late:
            finish(ring)
        ring.abandon(operation)
        finish(ring)
        assert operation.result >= 0
    assert ring.orphans == 2
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_overflowing_completion_queue_loses_nothing(step: int) -> None:
    # Sized as it is it cannot overflow; this one can.
    ring = Ring(64, entries=4, ladder_from=step, cq_entries=4)
    assert ring.cq_entries == 4
    operations = [_uring.nop_operation(number) for number in range(200)]
    for operation in operations:
        ring.start(operation)
    assert [operation.result for operation in finish_when_woken(ring)] == list(range(200))
    assert ring.overflows > 0
    assert ring.inflight == ring.queued == 0
    assert ring.leak() == 0


def test_overflow_with_cancels_loses_nothing() -> None:
    ring = Ring(32, entries=4, cq_entries=4)
    ends = [pipe_read() for _ in range(32)]
    reads = [_uring.read_operation(handle, 1, -1, False, False) for handle, _ in ends]
    for read in reads:
        ring.start(read)
    ring.submit()
    for read in reads:
        ring.cancel(read)
    got = finish_when_woken(ring)
    assert sorted(map(id, got)) == sorted(map(id, reads))
    assert all(read.cancelled for read in reads)
    assert ring.overflows > 0
    assert ring.leak() == 0
    for _, writing in ends:
        os.close(writing)


def test_completion_queue_of_the_usual_size_cannot_overflow() -> None:
    for inflight_max in (1, 8, 1000):
        ring = Ring(inflight_max)
        assert ring.inflight_max == inflight_max
        assert ring.cq_entries >= 2 * inflight_max
        assert ring.leak() == 0
