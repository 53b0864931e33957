"""The arithmetic of the two queues, without a kernel: full, empty, and across 2**32."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyio_uring._handle import COMPILED

if not COMPILED:
    pytest.skip("the compiled core was not built", allow_module_level=True)

from anyio_uring._uring import PlainQueues

WRAP = 1 << 32
starts = pytest.mark.parametrize("start", [0, 1, 5, WRAP - 1, WRAP - 2, WRAP - 4, WRAP // 2 - 2])
both = pytest.mark.parametrize("indirect", [False, True])


@starts
@both
def test_submission_queue_takes_as_many_as_it_has_entries(start: int, indirect: bool) -> None:
    queues = PlainQueues(4, 8, start, indirect)
    assert queues.space == 4
    assert [queues.write(number) for number in range(1, 6)] == [True] * 4 + [False]
    assert (queues.space, queues.pending) == (0, 4)
    # Nothing is seen before it is published
    assert queues.kernel_takes(9) == []
    queues.publish()
    assert queues.kernel_takes(3) == [1, 2, 3]
    assert (queues.space, queues.pending) == (3, 1)


@starts
@both
def test_submission_queue_goes_round(start: int, indirect: bool) -> None:
    queues = PlainQueues(4, 8, start, indirect)
    for number in range(20):
        assert queues.write(0)  # cleared each time, whatever was there
        queues.publish()
        assert queues.kernel_takes(1) == [0]
        assert queues.write(number + 1)
        queues.publish()
        assert queues.kernel_takes(1) == [number + 1]
        assert queues.pending == 0


@starts
def test_completion_queue_full_and_around(start: int) -> None:
    queues = PlainQueues(4, 8, start)
    assert queues.reap(1) == []
    for _ in range(5):
        assert [queues.kernel_posts(number, -number) for number in range(9)] == [True] * 8 + [False]
        assert queues.ready == 8
        assert queues.reap(3) == [(0, 0), (1, -1), (2, -2)]
        assert queues.kernel_posts(8, -8)
        assert queues.reap(99) == [(number, -number) for number in range(3, 9)]
        assert queues.ready == 0


def test_sizes_are_powers_of_two() -> None:
    for sizes in ((0, 4), (4, 0), (3, 4), (4, 6)):
        with pytest.raises(ValueError, match="power of two"):
            PlainQueues(*sizes)


@given(
    start=st.one_of(st.integers(0, 20), st.integers(WRAP - 20, WRAP - 1)),
    indirect=st.booleans(),
    steps=st.lists(st.tuples(st.sampled_from("wptcr"), st.integers(1, 6)), max_size=60),
)
def test_queues_are_first_in_first_out(
    start: int, indirect: bool, steps: list[tuple[str, int]]
) -> None:
    queues = PlainQueues(4, 8, start, indirect)
    written: list[int] = []
    published = 0
    completions: list[tuple[int, int]] = []
    number = 0
    for step, count in steps:
        if step == "w":
            number += 1
            if queues.write(number):
                written.append(number)
            assert len(written) <= 4
        elif step == "p":
            queues.publish()
            published = len(written)
        elif step == "t":
            taken = queues.kernel_takes(count)
            assert taken == written[: min(count, published)]
            del written[: len(taken)]
            published -= len(taken)
        elif step == "c":
            number += 1
            assert queues.kernel_posts(number, count) == (len(completions) < 8)
            if len(completions) < 8:
                completions.append((number, count))
        else:
            assert queues.reap(count) == completions[:count]
            del completions[:count]
        assert (queues.pending, queues.space) == (len(written), 4 - len(written))
        assert queues.ready == len(completions)
