"""Functions that get another body and stay the same object.

Whoever imported such a function long ago calls the new body, and its signature, documentation,
annotations and defaults are the old ones.  Only ``__code__`` changes, and is put back exactly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import CodeType, CoroutineType, FunctionType
from typing import Any

from ._arguments import SWAPPED

_KINDS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR
_PLACE = "anyio_uring: "  # and a name
_CALLS = {
    0: "return {call}",
    inspect.CO_COROUTINE: "return await {call}",
    # An iterator becomes the generator that callers may have reason to expect
    inspect.CO_ASYNC_GENERATOR: (
        "items = {call}\n"
        "  try:\n"
        "   async for item in items:\n"
        "    yield item\n"
        "  finally:\n"
        "   await items.aclose()"
    ),
}


class Swap:
    """One function and its other body.

    :param name: what it is called in messages
    :param function: whose body is to be swapped
    :param implementation: what the other body calls, with the same arguments.  It may take more,
        optional ones, and of a coroutine function it is one, of an asynchronous generator function
        it returns an asynchronous iterator with ``aclose``
    :param quick: of a coroutine function: called before it with the same arguments, without
        waiting.  What it returns is the result, or a coroutine that has it, unless that is None
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        implementation: Callable[..., Any],
        quick: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name
        self.function: Any = function
        self.implementation = implementation
        self.quick = quick
        self._before: CodeType | None = None
        self._codes: dict[bool, CodeType] = {}  # with a gate or without -> the other body

    def obstacle(self) -> str | None:
        """Why this cannot be done; None if it can."""
        function = self.function
        if not isinstance(function, FunctionType):
            return f"{self.name} is no Python function"
        if function.__code__.co_flags & _KINDS not in _CALLS:
            return f"{self.name} is a generator"
        is_async = inspect.iscoroutinefunction(function)
        if is_async != inspect.iscoroutinefunction(self.implementation):
            return f"{self.name} is {'a' if is_async else 'no'} coroutine function"
        theirs = inspect.signature(function).parameters
        for ours in self.implementation, self.quick:
            if ours is not None and (found := self._misfit(theirs, inspect.signature(ours))):
                return found
        return None

    def _misfit(
        self, theirs: Mapping[str, inspect.Parameter], signature: inspect.Signature
    ) -> str | None:
        ours = signature.parameters
        for parameter in theirs.values():
            if _shape(ours.get(parameter.name)) != _shape(parameter):
                return f"{self.name} has a parameter {parameter} that was not expected"
        for parameter in ours.values():
            if parameter.name not in theirs and parameter.default is parameter.empty:
                return f"{self.name} lacks the parameter {parameter.name!r}"
        if _by_position(theirs) != _by_position(ours)[: len(_by_position(theirs))]:
            return f"{self.name} has its parameters in another order than expected"
        return None

    def apply(self, gate: Callable[[], bool] | None = None) -> None:
        """Put the other body on top of whatever there is; once is enough.

        :param gate: asked in each call, and the function does what it did before if it says no
        """
        if not self.is_on_top() and self.function.__code__ is not self._before:
            self._before, self._codes = self.function.__code__, {}
        assert self._before is not None
        gated = gate is not None
        if gated not in self._codes:
            inserted: dict[str, object] = {"_implementation": self.implementation}
            if self.quick is not None and not gated:
                inserted.update(_quick=self.quick, _coroutine=CoroutineType)
            if gated:
                original: Any = copy_of(self.function)
                original.__code__ = self._before
                inserted.update(_gate=gate, _original=original)
            self._codes[gated] = _body(self._before, inserted)
        self.function.__code__ = self._codes[gated]

    def undo(self) -> bool:
        """Put back what was there; False, and nothing done, if somebody else's is on top."""
        if self.is_on_top():
            self.function.__code__ = self._before
        return self.function.__code__ is self._before

    def is_on_top(self) -> bool:
        """Whether the body that is there is one of ours."""
        found = self.function.__code__
        return any(found is code for code in self._codes.values())  # (== compares the contents)


def _shape(parameter: inspect.Parameter | None) -> object:
    return None if parameter is None else (parameter.kind, parameter.default)


def _by_position(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [
        name for name, parameter in parameters.items() if parameter.kind < parameter.KEYWORD_ONLY
    ]


def copy_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the body it has now, whatever body it gets later."""
    assert isinstance(function, FunctionType)
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _body(old: CodeType, inserted: Mapping[str, object]) -> CodeType:
    """Code with the parameters, the kind and the free variables of the old one.

    It calls ``_implementation``, or ``_original`` where there is a ``_gate`` that says no; where
    there is a ``_quick``, that before.
    """
    names = list(old.co_varnames)
    positional, keyword = old.co_argcount, old.co_kwonlyargcount
    parameters = names[:positional]
    arguments = list(parameters)
    if old.co_posonlyargcount:
        parameters.insert(old.co_posonlyargcount, "/")
    rest = names[positional + keyword :]
    if old.co_flags & inspect.CO_VARARGS:
        several = f"*{rest.pop(0)}"
        parameters.append(several)
        arguments.append(several)
    elif keyword:
        parameters.append("*")
    for name in names[positional : positional + keyword]:
        parameters.append(name)
        arguments.append(f"{name}={name}")
    if old.co_flags & inspect.CO_VARKEYWORDS:
        named = f"**{rest.pop(0)}"
        parameters.append(named)
        arguments.append(named)
    kind = old.co_flags & _KINDS
    called = "(_implementation if _gate() else _original)"
    if "_gate" not in inserted:
        called = "_implementation"
    call = f"{called}({', '.join(arguments)})"
    body = _CALLS[kind].format(call=call)
    if "_quick" in inserted:
        body = (
            f"_found = _quick({', '.join(arguments)})\n"
            "  if type(_found) is _coroutine: return await _found\n"
            f"  if _found is not None: return _found\n  {body}"
        )
    places = {f"{_PLACE}{name}": value for name, value in inserted.items()}
    lines = [
        f"def outer({', '.join(old.co_freevars)}):",
        f" {'async ' if kind else ''}def inner({', '.join(parameters)}):",
        f"  if 0: {', '.join(old.co_freevars) or None}",
        *(f"  {name} = {_PLACE + name!r}" for name in inserted),
        f"  {body}",
        " return inner",
    ]
    found: dict[str, Any] = {}
    filename = f"{SWAPPED}{old.co_qualname}>"
    exec(compile("\n".join(lines), filename, "exec", dont_inherit=True), found)
    code: CodeType = found["outer"](*old.co_freevars).__code__
    return code.replace(
        co_name=old.co_name,
        co_qualname=old.co_qualname,
        co_consts=tuple(
            places.get(constant, constant) if isinstance(constant, str) else constant
            for constant in code.co_consts
        ),
    )
