"""A function gets another body and stays the same object."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

import pytest

from anyio_uring._swap import Swap, copy_of


def called(name: str, *arguments: Any) -> str:
    return f"{name}{arguments}"


def run(awaitable: Any) -> Any:
    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


class Base:
    def method(self, a: int) -> str:
        return called("base", a)


class Functions:
    """Pairs of functions with the same parameters."""

    @staticmethod
    def plain(a: int, b: int = 2) -> str:
        """Say what."""
        return called("old", a, b)

    @staticmethod
    def plain_new(a: int, b: int = 2) -> str:
        return called("new", a, b)

    @staticmethod
    async def all_kinds(a: int, /, b: int = 2, *c: int, d: int = 4, **e: int) -> str:
        return called("old", a, b, c, d, e)

    @staticmethod
    async def all_kinds_new(a: int, /, b: int = 2, *c: int, d: int = 4, **e: int) -> str:
        return called("new", a, b, c, d, e)

    @staticmethod
    async def keywords(*, a: int, b: int = 2) -> str:
        return called("old", a, b)

    @staticmethod
    async def keywords_new(*, a: int, b: int = 2, more: int = 3) -> str:
        return called("new", a, b, more)

    @staticmethod
    async def items(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @staticmethod
    def items_new(count: int) -> AsyncIterator[int]:
        return Squares(count)


class Squares:
    closed = 0

    def __init__(self, count: int) -> None:
        self.numbers = iter(range(count))

    def __aiter__(self) -> Squares:
        return self

    async def __anext__(self) -> int:
        for number in self.numbers:
            return number**2
        raise StopAsyncIteration

    async def aclose(self) -> None:
        Squares.closed += 1


def facts(function: Any) -> list[Any]:
    return [
        inspect.signature(function),
        function.__doc__,
        function.__annotations__,
        function.__defaults__,
        function.__kwdefaults__,
        function.__name__,
        function.__qualname__,
        function.__module__,
        function.__dict__,
        function.__code__.co_name,
        function.__code__.co_qualname,
        inspect.iscoroutinefunction(function),
        inspect.isasyncgenfunction(function),
    ]


@pytest.mark.parametrize("name", ["plain", "all_kinds", "keywords", "items"])
def test_only_the_body_changes_and_comes_back(name: str) -> None:
    function = getattr(Functions, name)
    before, code = facts(function), function.__code__
    swap = Swap(name, function, getattr(Functions, f"{name}_new"))
    assert swap.obstacle() is None
    for _ in range(2):
        swap.apply()
        swap.apply()  # once is enough
        assert function.__code__ is not code
        assert facts(function) == before
        assert swap.undo()
        assert function.__code__ is code
        assert swap.undo()
    assert facts(function) == before


def test_arguments_arrive_as_they_were_given() -> None:
    calls: list[tuple[Any, Any]] = [
        (Functions.plain, lambda f: f(1)),
        (Functions.plain, lambda f: f(a=1, b=5)),
        (Functions.all_kinds, lambda f: run(f(1))),
        (Functions.all_kinds, lambda f: run(f(1, 3, 5, 6, d=7, x=8))),
        (Functions.keywords, lambda f: run(f(b=5, a=3))),
    ]
    for function, call in calls:
        swap = Swap("function", function, getattr(Functions, f"{function.__name__}_new"))
        old = call(function)
        swap.apply()
        try:
            new = call(function)
        finally:
            swap.undo()
        expected = old.replace("old", "new")
        assert new in (expected, expected.replace(")", ", 3)"))
        assert call(function) == old


def test_wrong_arguments_are_refused_in_the_same_words() -> None:
    def refusal() -> str:
        with pytest.raises(TypeError) as caught:
            Functions.plain()  # type: ignore[call-arg]
        return str(caught.value)

    swap = Swap("plain", Functions.plain, Functions.plain_new)
    before = refusal()
    swap.apply()
    try:
        assert refusal() == before
    finally:
        swap.undo()


def test_asynchronous_generator_stays_one_and_closes_what_it_has() -> None:
    async def main() -> list[int]:
        generator = Functions.items(10)
        found = [await anext(generator) for _ in range(4)]
        await generator.aclose()  # type: ignore[attr-defined]
        assert Squares.closed == 1
        found += [number async for number in Functions.items(3)]
        assert Squares.closed == 2
        return found

    swap = Swap("items", Functions.items, Functions.items_new)
    swap.apply()
    try:
        assert asyncio.run(main()) == [0, 1, 4, 9, 0, 1, 4]
    finally:
        swap.undo()


def test_free_variables_are_kept() -> None:
    class Derived(Base):
        def method(self, a: int) -> str:
            return "derived " + super().method(a)

    swap = Swap("method", Derived.method, lambda self, a: called("new", a))
    swap.apply()
    assert Derived().method(1) == "new(1,)"
    swap.undo()
    assert Derived().method(1) == "derived base(1,)"


def test_copy_keeps_the_body_it_had() -> None:
    copy = copy_of(Functions.keywords)
    swap = Swap("keywords", Functions.keywords, Functions.keywords_new)
    swap.apply()
    try:
        assert run(copy(a=1)) == "old(1, 2)"
        assert run(Functions.keywords(a=1)) == "new(1, 2, 3)"
    finally:
        swap.undo()


def test_body_on_top_of_ours_is_left_alone() -> None:
    def patched(a: int, b: int = 2) -> str:
        return f"patched {a}"

    original = Functions.plain.__code__
    swap = Swap("plain", Functions.plain, Functions.plain_new)
    swap.apply()
    ours = Functions.plain.__code__
    Functions.plain.__code__ = patched.__code__
    assert not swap.undo()
    assert Functions.plain(1) == "patched 1"
    swap.apply()  # on top
    assert Functions.plain(1) == "new(1, 2)"
    assert swap.undo()
    assert Functions.plain(1) == "patched 1"
    assert Functions.plain.__code__ is not ours
    Functions.plain.__code__ = original


def test_body_that_somebody_has_put_back_is_no_concern() -> None:
    original = Functions.plain.__code__
    swap = Swap("plain", Functions.plain, Functions.plain_new)
    for _ in range(2):
        swap.apply()
        assert Functions.plain(1) == "new(1, 2)"
        Functions.plain.__code__ = original
        assert swap.undo()
        assert Functions.plain(1) == "old(1, 2)"


def test_gate_decides_in_each_call() -> None:
    open_to_us = [False]
    function = Functions.all_kinds
    before, code = facts(function), function.__code__
    swap = Swap("all_kinds", function, Functions.all_kinds_new)
    swap.apply(lambda: open_to_us[0])
    try:
        assert facts(function) == before
        for now, name in (False, "old"), (True, "new"), (False, "old"):
            open_to_us[0] = now
            found = run(function(1, 3, 5, d=7, x=8))
            assert found == called(name, 1, 3, (5,), 7, {"x": 8})
        swap.apply()  # for everybody
        assert run(function(1)).startswith("new")
        swap.apply(lambda: open_to_us[0])  # for some again
        assert run(function(1)).startswith("old")
    finally:
        assert swap.undo()
    assert function.__code__ is code


def test_gate_over_somebody_elses_body_leads_to_that() -> None:
    def patched(a: int, b: int = 2) -> str:
        return f"patched {a}"

    original = Functions.plain.__code__
    swap = Swap("plain", Functions.plain, Functions.plain_new)
    swap.apply()
    swap.apply(lambda: False)  # made while the other body was there
    assert Functions.plain(1) == "old(1, 2)"
    Functions.plain.__code__ = patched.__code__
    swap.apply(lambda: False)
    assert Functions.plain(1) == "patched 1"
    assert swap.undo()
    assert Functions.plain.__code__ is patched.__code__
    Functions.plain.__code__ = original


def test_gate_of_generators_and_methods_with_free_variables() -> None:
    class Derived(Base):
        def method(self, a: int) -> str:
            return "derived " + super().method(a)

    open_to_us = [False]
    items = Swap("items", Functions.items, Functions.items_new)
    method = Swap("method", Derived.method, lambda self, a: called("new", a))

    async def main() -> list[int]:
        return [number async for number in Functions.items(4)]

    for swap in items, method:
        swap.apply(lambda: open_to_us[0])
    try:
        for now in False, True:
            open_to_us[0] = now
            assert asyncio.run(main()) == ([0, 1, 4, 9] if now else [0, 1, 2, 3])
            assert Derived().method(1) == ("new(1,)" if now else "derived base(1,)")
    finally:
        assert items.undo()
        assert method.undo()


def other_name(a: int, c: int = 2) -> None: ...
def other_default(a: int, b: int = 3) -> None: ...
def other_kind(a: int, *, b: int = 2) -> None: ...
def other_order(b: int = 2, a: int = 1) -> None: ...
def one_less(a: int) -> None: ...
def one_more(a: int, b: int = 2, c: int = 3) -> None: ...
def generator(a: int, b: int = 2) -> Any:
    yield


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (other_name, "function has a parameter c: 'int' = 2 that was not expected"),
        (other_default, "function has a parameter b: 'int' = 3 that was not expected"),
        (other_kind, "function has a parameter b: 'int' = 2 that was not expected"),
        (other_order, "function has a parameter a: 'int' = 1 that was not expected"),
        (one_more, "function has a parameter c: 'int' = 3 that was not expected"),
        (generator, "function is a generator"),
        (partial(one_less, 1), "function is no Python function"),
        (len, "function is no Python function"),
        (one_less, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_function_of_another_shape_is_an_obstacle(function: Any, message: str | None) -> None:
    assert Swap("function", function, Functions.plain_new).obstacle() == message


def test_function_of_another_kind_is_an_obstacle() -> None:
    swap = Swap("function", Functions.plain, Functions.keywords)
    assert swap.obstacle() == "function is no coroutine function"
    swap = Swap("function", Functions.keywords, Functions.plain)
    assert swap.obstacle() == "function is a coroutine function"


def test_parameter_that_ours_needs_is_an_obstacle() -> None:
    swap = Swap("function", lambda: None, one_less)
    assert swap.obstacle() == "function lacks the parameter 'a'"
    swap = Swap("function", lambda b=2, a=1: None, lambda a=1, b=2: None)
    assert swap.obstacle() == "function has its parameters in another order than expected"


def test_what_is_quick_comes_first_and_takes_the_same_arguments() -> None:
    async def function(found: int, *, other: int = 0) -> object:
        return None

    async def new(found: int, *, other: int = 0) -> object:
        return "new", found, other

    async def later(found: int) -> object:
        return "later", found

    def quick(found: int, *, other: int = 0) -> object:
        return later(found) if found == 3 else ("quick", other) if found == 2 else None

    def of(call: Coroutine[Any, Any, object]) -> object:
        with pytest.raises(StopIteration) as ended:
            call.send(None)
        return ended.value.value

    swap = Swap("function", function, new, quick)
    assert swap.obstacle() is None
    swap.apply()
    assert of(function(1, other=5)) == ("new", 1, 5)
    assert of(function(2, other=5)) == ("quick", 5)
    assert of(function(3)) == ("later", 3)
    assert swap.undo()
    assert of(function(1)) is None

    def narrow(found: int) -> object:
        return found

    obstacle = Swap("function", function, new, narrow).obstacle()
    assert obstacle == "function has a parameter other: 'int' = 0 that was not expected"
