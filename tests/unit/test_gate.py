"""The gate, without a loop: who is admitted, who has to wait, and who is next."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

import pytest

from anyio_uring._gate import Gate

UNKNOWN = -1.0
TURN = "a turn of the loop"


class Cancelled(BaseException):
    pass


class FakeMeter:
    """An allowance that counts operations."""

    refilled_for: float | None = None

    def __init__(self, budget: int) -> None:
        self.budget = self.left = budget
        self.busy = False
        self.spares: list[float] = []  # UNKNOWN when there are no more
        self.is_clear = True
        self.is_overdue = False
        self.refills = 0

    def clear(self) -> bool:
        return self.is_clear

    def charge(self, size: int) -> bool:
        if self.left <= 0:
            return False
        self.left -= 1 + size
        return True

    def spend(self, size: int) -> None:
        self.left -= size

    def overdue(self) -> bool:
        return self.is_overdue

    def spare(self) -> float:
        return self.spares.pop(0) if self.spares else UNKNOWN

    def refill(self, spare: float = UNKNOWN) -> None:
        self.refilled_for = spare
        self.refills += 1
        self.left = self.budget


class FakeHost:
    def __init__(self) -> None:
        self.cancelled = False
        self.asked = 0
        self.woken: list[Any] = []

    async def checkpoint_if_cancelled(self) -> None:
        self.asked += 1
        if self.cancelled:
            raise Cancelled

    @coroutine
    def checkpoint(self) -> Generator[object, None, None]:
        yield TURN

    def waiter(self) -> object:
        return object()

    @coroutine
    def park(self, waiter: object) -> Generator[object, None, None]:
        yield waiter

    def wake(self, waiter: object) -> bool:
        self.woken.append(waiter)
        return True


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


def gate_of(host: FakeHost, budget: int) -> Gate:
    return Gate(host, FakeMeter(budget))  # type: ignore[arg-type]


def step(task: Coroutine[Any, Any, None]) -> Any:
    """What the task waits for; "done" if for nothing any more."""
    try:
        return task.send(None)
    except StopIteration:
        return "done"


def test_allowance_admits_at_once_until_it_is_used_up(host: FakeHost) -> None:
    gate = gate_of(host, 3)
    assert [step(gate.admit()) for _ in range(3)] == ["done"] * 3
    task = gate.admit()
    assert step(task) == TURN
    assert gate.meter.refills == 0
    assert step(task) == "done"
    assert gate.meter.refills == 1


def test_operation_goes_on_after_its_turn_although_others_used_the_allowance_up(
    host: FakeHost,
) -> None:
    gate = gate_of(host, 1)
    gate.spend(1)
    task = gate.admit(100)
    assert step(task) == TURN
    assert step(task) == "done"
    assert gate.meter.left < 0


def test_those_who_wait_pass_one_by_one_in_order(host: FakeHost) -> None:
    gate = gate_of(host, 1)
    gate.spend(1)
    tasks = [gate.admit() for _ in range(4)]
    waits = [step(task) for task in tasks]
    assert waits[0] == TURN
    for number, task in enumerate(tasks):
        assert host.woken == waits[1 : number + 1]
        assert step(task) == "done"
    assert host.woken == waits[1:]
    assert gate.meter.refills == 4


@pytest.mark.parametrize("ready", [0, 1, 2, 3])
def test_those_who_are_ready_go_first_for_two_turns_more(host: FakeHost, ready: int) -> None:
    gate = gate_of(host, 1)
    gate.spend(1)
    gate.meter.spares = [0.0] * ready + [0.25]
    task = gate.admit()
    turns = 1 + min(ready, 2)
    assert [step(task) for _ in range(turns)] == [TURN] * turns
    assert step(task) == "done"
    assert gate.meter.refilled_for == (0.25 if ready < 3 else UNKNOWN)


def test_those_in_line_get_equal_allowances(host: FakeHost) -> None:
    gate = gate_of(host, 1)
    gate.spend(1)
    tasks = [gate.admit(), gate.admit()]
    for task in tasks:
        step(task)
    for task in tasks:
        gate.meter.spares = [0.25]
        assert step(task) == "done"
        assert gate.meter.refilled_for == UNKNOWN
    assert not gate.meter.busy


def test_newcomer_with_an_allowance_need_not_wait_for_those_in_line(host: FakeHost) -> None:
    gate = gate_of(host, 2)
    gate.spend(2)
    waiting = [gate.admit(), gate.admit()]
    for task in waiting:
        step(task)
    step(waiting[0])  # has passed, and has left one of its allowance
    assert step(gate.admit()) == "done"
    assert step(waiting[1]) == "done"


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_one_who_is_cancelled_passes_the_turn_on(host: FakeHost, leaver: int) -> None:
    gate = gate_of(host, 1)
    gate.spend(1)
    tasks = [gate.admit() for _ in range(3)]
    waits = [step(task) for task in tasks]
    with pytest.raises(Cancelled):
        tasks[leaver].throw(Cancelled)
    for number, task in enumerate(tasks):
        if number != leaver:
            assert number == 0 or waits[number] in host.woken
            assert step(task) == "done"
    gate.spend(100)
    again = gate.admit()
    assert step(again) == TURN  # the line is free again
    assert step(again) == "done"


def test_cancelled_scope_is_asked_for_only_if_the_meter_cannot_tell(host: FakeHost) -> None:
    gate = gate_of(host, 10)
    assert step(gate.admit()) == "done"
    assert host.asked == 0
    gate.meter.is_clear = False
    assert step(gate.admit()) == "done"
    assert host.asked == 1
    host.cancelled = True
    before = gate.meter.left
    with pytest.raises(Cancelled):
        gate.admit().send(None)
    assert gate.meter.left == before


def test_gate_without_a_meter_only_asks_for_the_scope(host: FakeHost) -> None:
    gate = Gate(host, None)  # type: ignore[arg-type]
    gate.spend(1 << 30)
    assert [step(gate.admit(1 << 30)) for _ in range(100)] == ["done"] * 100
    assert host.asked == 100
    host.cancelled = True
    with pytest.raises(Cancelled):
        gate.admit().send(None)
