"""The waiting line, without a loop: who is served next, and what leaving does to the others."""

from __future__ import annotations

import threading
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

import pytest

from anyio_uring._line import Line, Turn


class Cancelled(BaseException):
    pass


class FakeHost:
    """A host whose tasks are coroutines that the test steps by hand."""

    def __init__(self) -> None:
        self.woken: list[Any] = []
        self.dead: set[int] = set()

    def waiter(self) -> object:
        return object()

    @coroutine
    def park(self, waiter: object) -> Generator[object, None, None]:
        yield waiter

    def wake(self, waiter: object) -> bool:
        if id(waiter) in self.dead:
            return False
        self.woken.append(waiter)
        return True


class Task:
    """Somebody who wants to be served."""

    def __init__(self, line: Line, host: FakeHost) -> None:
        self.host = host
        self.coroutine: Coroutine[Any, Any, bool] = line.acquire(host)  # type: ignore[arg-type]
        self.result: bool | None = None
        self.waiter: Any = None
        try:
            self.waiter = self.coroutine.send(None)
        except StopIteration as stop:
            self.result = stop.value

    @property
    def called(self) -> bool:
        return self.waiter in self.host.woken

    def resume(self) -> None:
        with pytest.raises(StopIteration) as stop:
            self.coroutine.send(None)
        self.result = stop.value.value

    def cancel(self) -> None:
        with pytest.raises(Cancelled):
            self.coroutine.throw(Cancelled)


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


def line_of(host: FakeHost, count: int) -> tuple[Line, list[Task]]:
    line = Line()
    return line, [Task(line, host) for _ in range(count)]


def test_first_one_is_served_without_waiting(host: FakeHost) -> None:
    line, (first,) = line_of(host, 1)
    assert first.result is False
    assert line.busy
    line.release()
    assert not line.busy


def test_others_are_served_in_order_of_arrival(host: FakeHost) -> None:
    line, tasks = line_of(host, 10)
    for number, task in enumerate(tasks[1:], 1):
        assert [other.called for other in tasks[1:]] == [n < number for n in range(1, 10)]
        line.release()
        assert task.called
        assert line.busy
        task.resume()
        assert task.result is True
    line.release()
    assert not line.busy


def test_newcomer_does_not_overtake_one_who_was_called_but_has_not_run(host: FakeHost) -> None:
    line, (_, called) = line_of(host, 2)
    line.release()
    newcomer = Task(line, host)
    assert newcomer.result is None
    assert not line.try_acquire()
    called.resume()
    line.release()
    assert newcomer.called


@pytest.mark.parametrize("leaver", [1, 2, 3])
def test_one_who_leaves_is_skipped(host: FakeHost, leaver: int) -> None:
    line, tasks = line_of(host, 4)
    tasks[leaver].cancel()
    served = []
    for number in (1, 2, 3):
        if number != leaver:
            line.release()
            assert tasks[number].called
            tasks[number].resume()
            served.append(number)
    assert not tasks[leaver].called
    line.release()
    assert not line.busy


def test_one_who_leaves_after_being_called_passes_the_turn_on(host: FakeHost) -> None:
    line, (_, leaver, heir) = line_of(host, 3)
    line.release()
    assert leaver.called
    leaver.cancel()
    assert heir.called
    heir.resume()
    line.release()
    assert not line.busy


def test_last_one_who_leaves_after_being_called_frees_the_line(host: FakeHost) -> None:
    line, (_, leaver) = line_of(host, 2)
    line.release()
    leaver.cancel()
    assert not line.busy
    assert line.try_acquire()


def test_one_whose_loop_is_gone_is_skipped(host: FakeHost) -> None:
    line, (_, gone, alive) = line_of(host, 3)
    host.dead.add(id(gone.waiter))
    line.release()
    assert alive.called
    assert gone.waiter not in host.woken
    alive.resume()
    line.release()
    gone.coroutine.close()
    assert not line.busy


def test_hosts_differ_and_each_wakes_its_own() -> None:
    line = Line()
    hosts = [FakeHost() for _ in range(3)]
    tasks = [Task(line, each) for each in hosts]
    line.release()
    assert (tasks[1].called, tasks[2].called) == (True, False)
    tasks[1].resume()
    line.release()
    assert tasks[2].called
    tasks[2].resume()


def test_flag_shows_who_looks_whether_somebody_is_served(host: FakeHost) -> None:
    class Flag:
        busy = False

    flag = Flag()
    line = Line(flag)
    assert line.try_acquire()
    assert flag.busy is True
    line.release()
    assert flag.busy is False


def test_line_serves_one_thread_at_a_time() -> None:
    line = Line()
    inside = worst = 0
    rounds = 0

    def work() -> None:
        nonlocal inside, worst, rounds
        done = 0
        while done < 300:
            if line.try_acquire():
                inside += 1
                worst = max(worst, inside)
                rounds += 1
                inside -= 1
                done += 1
                line.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (worst, rounds) == (1, 1200)


# -- a turn ends when both are through, the task and the step it may have left under way ----------


def test_turn_without_a_step_ends_with_the_task(host: FakeHost) -> None:
    line, _ = line_of(host, 1)
    turn = Turn(line)
    turn.leave()
    assert not line.busy


def test_turn_goes_on_while_a_step_is_under_way(host: FakeHost) -> None:
    line, (_, next_one) = line_of(host, 2)
    turn = Turn(line)
    turn.begin()
    turn.leave()
    assert line.busy
    assert not next_one.called
    turn()
    assert next_one.called
    next_one.resume()
    line.release()


def test_turn_whose_step_is_over_goes_on_until_the_task_leaves(host: FakeHost) -> None:
    line, _ = line_of(host, 1)
    turn = Turn(line)
    for _ in range(3):
        turn.begin()
        turn()
        assert line.busy
    turn.leave()
    assert not line.busy


def test_turn_ends_with_its_last_step(host: FakeHost) -> None:
    line, (_, next_one) = line_of(host, 2)
    turn = Turn(line)
    turn.begin()
    turn()
    turn.begin(last=True)
    assert not next_one.called
    turn()
    assert next_one.called
    next_one.resume()
    turn.leave()  # the task that runs at last does not end the turn of the next one
    assert line.busy
    line.release()


def test_step_that_ends_in_another_thread_ends_the_turn(host: FakeHost) -> None:
    line, _ = line_of(host, 1)
    turn = Turn(line)
    turn.begin()
    turn.leave()
    thread = threading.Thread(target=turn)
    thread.start()
    thread.join()
    assert not line.busy
