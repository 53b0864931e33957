"""Many ranges of a file under one roof, without an event loop."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_uring._handle import COMPILED

if not COMPILED:
    pytest.skip("the compiled core was not built", allow_module_level=True)

from anyio_uring import _uring
from anyio_uring._uring import Handle, Ring, Spans, plain_ranges, touching

CONTENT = bytes(range(256))
LAST = (1 << 63) - 1
Span = tuple[list[int], int, int]


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[Handle]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    # Without a worker: what is in memory has been read when the kernel has taken the request
    yield Handle(
        fd,
        os.O_RDONLY,
        closefd=False,
        st_mode=stat.S_IFREG | 0o600,
        now=_uring.NOW_NOWAIT,
        local=True,
    )
    os.close(fd)


class Host:
    """As much of one as a unit sees."""

    def __init__(self, ring: Ring, submits: bool) -> None:
        self.ring: Ring | None = ring
        self.submits = submits
        self.ended = False
        self.awakened: list[Any] = []

    def submit_now(self) -> None:
        if self.submits and self.ring is not None:
            self.ring.submit()

    def awake(self, unit: Any) -> None:
        self.awakened.append(unit.waiter)


class Reading:
    """A unit with all that it is given.

    :param submits: else what is begun reaches the kernel in `finish`
    """

    def __init__(
        self,
        ring: Ring,
        handle: Handle,
        *spans: Span,
        submits: bool = True,
        todo: Iterator[Span] | None = None,
    ) -> None:
        self.todo = todo or iter(spans)
        self.found: list[bytes | None] = [None] * 10
        self.merged: list[tuple[list[int], bytes]] = []
        self.ring = ring
        self.host = Host(ring, submits)
        self.unit = Spans(self.host, handle, self.todo, self.found, self.merged, 1 << 20)
        self.unit.waiter = self
        self.unit.start()

    def finish(self) -> Spans:
        for _ in range(100):
            if self.unit.done:
                break
            self.ring.wait(0.1)
        assert self.unit.done
        assert self.host.awakened in ([self], [])  # (done before anybody could wait)
        return self.unit


def test_each_goes_to_its_place(ring: Ring, handle: Handle) -> None:
    spans = [([number], 2, 10 * number) for number in (7, 0, 3, 9)]
    reading = Reading(ring, handle, *spans, ([1, 4, 2], 300, 200), ([5], 9, 400))
    unit = reading.finish()
    assert reading.found == [
        *(b"\x00\x01", None, None, b"\x1e\x1f", None),
        *(b"", None, b"\x46\x47", None, b"\x5a\x5b"),
    ]
    assert reading.merged == [([1, 4, 2], CONTENT[200:])]
    unit.check("name")
    assert (unit.again, unit.refused, unit.cancelled) == ([], 0, False)
    assert handle.inflight == ring.inflight == 0


def test_nothing_to_read_is_done_at_once(ring: Ring, handle: Handle) -> None:
    assert Reading(ring, handle).unit.done


def test_no_more_begin_than_the_ring_takes(ring: Ring, pipe: tuple[int, int]) -> None:
    file = Handle(pipe[0], os.O_RDONLY, closefd=False, st_mode=stat.S_IFIFO | 0o600)
    spans = [([number], 1, -1) for number in range(5)]
    reading = Reading(ring, file, *spans)
    assert next(reading.todo) == spans[2]
    os.write(pipe[1], b"abcd")
    reading.finish()
    assert reading.found.count(None) == 6
    assert sorted(data for data in reading.found if data) == [b"a", b"b", b"c", b"d"]


def test_refusal_stops_it_and_leaves_the_rest(ring: Ring) -> None:
    # As a stream that is not to wait; but files of /proc do not know RWF_NOWAIT
    fd = os.open("/proc/self/stat", os.O_RDONLY)
    flags = os.O_RDONLY | os.O_NONBLOCK
    file = Handle(fd, flags, closefd=False, st_mode=stat.S_IFIFO | 0o600)
    spans = [([number], 1, -1) for number in range(5)]
    reading = Reading(ring, file, *spans)
    unit = reading.finish()
    os.close(fd)
    assert unit.refused == -errno.EOPNOTSUPP
    assert not unit.cancelled
    assert sorted(unit.again) == spans[:2]
    assert list(reading.todo) == spans[2:]
    assert reading.found == [None] * 10


def test_the_error_of_the_first_request_is_kept(ring: Ring, tmp_path: Path) -> None:
    # Which of two completes first, nobody knows: so both orders are tried
    for numbers in ([8], [3, 9]), ([3, 9], [8]):
        fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
        file = Handle(fd, os.O_RDONLY, closefd=False, st_mode=stat.S_IFREG | 0o600)
        reading = Reading(ring, file, (numbers[0], 1, 0), (numbers[1], 2, 4), ([0], 1, 0))
        unit = reading.finish()
        os.close(fd)
        assert unit.failed is not None
        assert unit.failed.requested == 2 - (numbers[0] == [3, 9])
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            unit.check("name")
        assert (caught.value.errno, caught.value.filename) == (errno.EBADF, "name")
        assert list(reading.todo) == [([0], 1, 0)]


def test_cancelled_ones_are_told(ring: Ring, pipe: tuple[int, int]) -> None:
    file = Handle(pipe[0], os.O_RDONLY, closefd=False, st_mode=stat.S_IFIFO | 0o600)
    spans = [([number], 1, -1) for number in range(5)]
    reading = Reading(ring, file, *spans)
    reading.unit.cancel(ring)
    unit = reading.finish()
    assert unit.cancelled
    assert reading.found == [None] * 10
    assert sorted([*unit.again, *reading.todo]) == spans


def test_those_that_had_not_begun_are_told_as_well(ring: Ring, handle: Handle) -> None:
    spans = [([number], 1, number) for number in range(5)]
    reading = Reading(ring, handle, *spans, submits=False)
    reading.unit.cancel(ring)  # too late for the two that are read at once
    unit = reading.finish()
    assert unit.cancelled
    assert [*unit.again, *reading.todo] == spans[2:]
    assert reading.found[:5] == [b"\x00", b"\x01", None, None, None]


def test_a_cancel_that_came_too_late_for_all_is_none(ring: Ring, handle: Handle) -> None:
    reading = Reading(ring, handle, ([0], 1, 0), ([1], 1, 1), submits=False)
    reading.unit.cancel(ring)
    unit = reading.finish()
    assert not unit.cancelled
    assert reading.found[:2] == [b"\x00", b"\x01"]


def test_nobody_gets_what_was_left_behind(ring: Ring, handle: Handle) -> None:
    spans = [([0], 1, 0), ([1, 2], 2, 5), ([3], 1, 9)]
    reading = Reading(ring, handle, *spans, submits=False)
    reading.unit.abandon(ring)
    unit = reading.finish()
    assert unit.abandoned
    assert reading.found == [None] * 10
    assert not reading.merged
    assert list(reading.todo) == spans[2:]
    assert handle.inflight == 0


def test_none_begins_after_the_end_of_the_loop(ring: Ring, handle: Handle) -> None:
    spans = [([number], 1, number) for number in range(5)]
    reading = Reading(ring, handle, *spans, submits=False)
    reading.host.ended = True
    unit = reading.finish()
    assert [*unit.again, *reading.todo] == spans[2:]
    assert unit.cancelled  # for whoever still waits, threads read the rest


def test_what_is_raised_on_the_way_is_the_tasks(ring: Ring, handle: Handle) -> None:
    def spans() -> Iterator[Span]:
        for number in range(5):
            if number == 3:
                raise MemoryError
            yield [number], 1, number

    reading = Reading(ring, handle, submits=False, todo=spans())
    unit = reading.finish()
    assert reading.found[:4] == [b"\x00", b"\x01", b"\x02", None]
    with pytest.raises(MemoryError):
        unit.check("name")
    unit.check("name")  # once
    assert handle.inflight == ring.inflight == 0


def test_what_is_raised_when_it_is_given_up_is_as_well(ring: Ring, handle: Handle) -> None:
    def spans() -> Iterator[Span]:
        yield [0], 1, 0
        yield [1], 1, 1
        raise MemoryError

    reading = Reading(ring, handle, submits=False, todo=spans())
    reading.unit.cancel(ring)
    with pytest.raises(MemoryError):
        reading.finish().check("name")


def test_without_a_ring_it_does_not_begin(ring: Ring, handle: Handle) -> None:
    host = Host(ring, True)
    unit = Spans(host, handle, [([0], 1, 0)], [None], [], 1 << 20)
    host.ring = None
    with pytest.raises(RuntimeError, match="no ring"):
        unit.start()


# -- what is asked for ----------------------------------------------------------------------------


def by_hand(requests: list[tuple[int, int]], numbers: list[int], most: int) -> list[Span]:
    result: list[Span] = []
    for number in sorted(numbers, key=lambda number: (requests[number][1], number)):
        size, offset = requests[number]
        if result:
            inside, whole, begin = result[-1]
            if offset <= begin + whole and offset + size <= begin + most:
                result[-1] = [*inside, number], max(whole, offset + size - begin), begin
                continue
        result.append(([number], size, offset))
    return result


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60) | st.integers(LAST - 40, LAST))),
    st.integers(0, 40),
    st.data(),
)
def test_what_touches_becomes_one(
    requests: list[tuple[int, int]], most: int, data: st.DataObject
) -> None:
    numbers = (
        data.draw(st.lists(st.sampled_from(range(len(requests))), unique=True)) if requests else []
    )
    assert touching(requests, numbers, most) == by_hand(requests, numbers, most)


def test_plain_ranges_are_copied_and_measured() -> None:
    requests = [(5, 7), (3, 20), (8, 9)]
    known = plain_ranges(requests)
    assert known == (requests, (3, 7, 20))
    assert known[0] is not requests
    assert plain_ranges([(-2, 0), (4, -3)]) == ([(-2, 0), (4, -3)], (-2, -3, 4))
    assert plain_ranges([(LAST, LAST)]) == ([(LAST, LAST)], (LAST, LAST, LAST))


@pytest.mark.parametrize(
    "requests",
    [
        [],
        ((1, 2),),
        iter([(1, 2)]),
        [[1, 2]],
        [(1, 2, 3)],
        [(1,)],
        [(True, 2)],
        [(1, 2.0)],
        [(1, 2), ("1", 2)],
        [(1, LAST + 1)],
        None,
    ],
)
def test_anything_else_goes_the_long_way(requests: Any) -> None:
    assert plain_ranges(requests) is None


def test_touching_wants_requests_that_are_there() -> None:
    with pytest.raises(IndexError):
        touching([(1, 2)], [1], 10)
    with pytest.raises(TypeError):
        touching([(1, 2), (3, "4")], [0, 1], 10)  # type: ignore[list-item]
    assert _uring.touching([], [], 10) == []
