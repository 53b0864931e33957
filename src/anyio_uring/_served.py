"""`anyio.to_thread.run_sync` for functions whose work can be done without a thread.

For the functions of a table, called in a way that is known, there are three ways, tried in order:
at once, if that is certain not to wait; by the ring or a short hop to one of our threads; and
AnyIO's own, which serves whatever is unusual in the least.  What the caller sees is the same: where
the outcome is an error that is certain not to wait either, the function itself is called to raise
it.

What is different in a thread stays so for the caller: he gets the result of a call that has begun
even if he is cancelled meanwhile, and the call takes a token of a limiter that he has named.
"""

from __future__ import annotations

import builtins
import os
import pathlib
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any, Final

from anyio import CancelScope, CapacityLimiter, NoEventLoopError

from ._handle import remember
from ._hop import Act
from ._ops import Job
from ._runtime import Runtime, current_runtime
from ._served_files import KINDS, PROOFS, SETTLING, SPOOLED, FileCall, Known, file_call
from ._served_paths import LOOKUP, NOT_SERVED, OF_OS, OF_PATHS, OPEN, PATHS, Call, Quick, Service

# -- the table ------------------------------------------------------------------------------------

# Only Python's own functions: where they are replaced, for a test perhaps, so is what they do.
SERVED: Final[dict[Any, Service]] = {
    function: service
    for module, services in ((os, OF_OS), (builtins, {"open": OPEN}))
    for name, service in services.items()
    if type(function := getattr(module, name)) is BuiltinFunctionType
}
OF_PATH_CLASS: Final[dict[Any, Service]] = {
    function: service
    for name, service in OF_PATHS.items()
    if type(function := getattr(pathlib.Path, name)) is FunctionType
}
QUICK: Final[dict[Any, Quick]] = {
    function: service.quick
    for function, service in (SERVED | OF_PATH_CLASS).items()
    if service.quick is not None
}
# What Starlette's method may ask for: if there is more in it, it may wait for something else.
LOOKUP_NAMES: Final = frozenset(
    (
        *("startswith", "all_directories", "follow_symlink"),
        *("os", "path", "join", "abspath", "realpath", "commonpath", "stat", "str"),
        *("FileNotFoundError", "NotADirectoryError"),
    )
)


def names() -> dict[str, list[str]]:
    """What is served, for the documentation: names by where they are."""
    return {
        "os": [name for name in OF_OS if getattr(os, name) in SERVED],
        "builtins": ["open"],
        "pathlib.Path": [n for n in OF_PATHS if getattr(pathlib.Path, n) in OF_PATH_CLASS],
        **{f"io.{kind.__name__}": list(PROOFS) for kind in KINDS},
        "tempfile.SpooledTemporaryFile": [method.__name__ for method in SPOOLED],
        "starlette.staticfiles.StaticFiles": ["lookup_path"],
    }


def _find(
    function: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Service, Call] | FileCall | None:
    """The service of a function and the call of it, or a `FileCall`; or None."""
    kind = type(function)
    if issubclass(kind, BuiltinFunctionType):  # (some methods of files are of a subclass)
        service = SERVED.get(function)
        if service is None:
            return file_call(function, args, options)
        return service, Call(function, args, options)
    if kind is MethodType:
        inner, owner = function.__func__, function.__self__
        if type(inner) is not FunctionType:
            return None
        if type(owner) is PATHS[0]:
            service = OF_PATH_CLASS.get(inner)
        elif _is_lookup(inner):
            service = LOOKUP
        else:
            return file_call(function, args, options)
        if service is None:
            return None
        return service, Call(inner, (owner, *args), options)
    if kind is FunctionType and args and type(args[0]) is PATHS[0]:
        service = OF_PATH_CLASS.get(function)
        if service is not None:
            return service, Call(function, args, options)
    return None


def quickly(
    func: Any,
    *args: Any,
    abandon_on_cancel: bool = False,
    cancellable: bool | None = None,
    limiter: CapacityLimiter | None = None,
) -> Any:
    """The result of a call as most are, if it is at hand; else None, and nothing has happened."""
    if cancellable is not None or limiter is not None:
        return None
    quick = None
    kind = type(func)
    if kind is BuiltinFunctionType:
        quick = QUICK.get(func)
    elif kind is MethodType:
        func, args = func.__func__, (func.__self__, *args)
        if type(func) is not FunctionType:
            return None
        if func is _lookup[0]:
            quick = LOOKUP.quick if func.__code__ is _lookup[1] else None
        elif type(args[0]) is PATHS[0]:
            quick = QUICK.get(func)
    return None if quick is None else quick(func, args)


# The last method that was one, and its code: to look it through takes a microsecond.
_lookup: tuple[Any, CodeType | None] = (None, None)


def _is_lookup(function: FunctionType) -> bool:
    global _lookup
    code = function.__code__
    if function is _lookup[0] and code is _lookup[1]:
        return True
    if function.__qualname__ != "StaticFiles.lookup_path":
        return False
    if function.__module__ != "starlette.staticfiles":
        return False
    if not LOOKUP_NAMES.issuperset(code.co_names) or code.co_freevars:
        return False
    _lookup = function, code
    return True


# -- the function ---------------------------------------------------------------------------------


def serving(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """What takes the place of `run_sync`.

    :param original: AnyIO's
    """

    async def run_sync(
        func: Callable[..., Any],
        *args: Any,
        abandon_on_cancel: bool = False,
        cancellable: bool | None = None,
        limiter: CapacityLimiter | None = None,
    ) -> Any:
        if cancellable is not None:
            abandon_on_cancel = cancellable
            warnings.warn(DEPRECATED, DeprecationWarning, stacklevel=3)
        if type(func) is partial:
            found = _find(func.func, (*func.args, *args), func.keywords)
        else:
            found = _find(func, args, {})
        if found is None:
            return await original(func, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        in_thread = partial(original, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        try:
            runtime = current_runtime()
        except NoEventLoopError:
            return await in_thread(func, *args)
        if isinstance(found, FileCall):
            known = found.known()
            if runtime.meter is None or known is None:
                return await in_thread(func, *args)
            return await _serve_file(found, known, runtime, limiter, in_thread)
        result = await _serve(found[0], found[1], runtime, abandon_on_cancel, limiter)
        return await in_thread(func, *args) if result is NOT_SERVED else result

    return run_sync


DEPRECATED = (
    "The `cancellable=` keyword argument to `anyio.to_thread.run_sync` is "
    "deprecated since AnyIO 4.1.0; use `abandon_on_cancel=` instead"
)


async def _serve(
    service: Service,
    call: Call,
    runtime: Runtime,
    abandon_on_cancel: bool,
    limiter: CapacityLimiter | None,
) -> Any:
    meter, at_once = runtime.meter, service.at_once
    if at_once is not None and meter is not None:
        if not meter.admits(service.cost):
            await runtime.gate.admit(service.cost)
        remember(meter)
        result = _with_token(partial(at_once, call, meter), limiter)
        if result is not NOT_SERVED:
            return result
    else:
        await runtime.gate.admit()
    if service.waiting is None or abandon_on_cancel or limiter is not None:
        return NOT_SERVED
    waiting = service.waiting(call, runtime)
    if waiting is None:
        return NOT_SERVED
    with CancelScope(shield=True):
        return await waiting


def _with_token(function: Callable[[], Any], limiter: Any) -> Any:
    """Call it holding the token of a limiter, if one is free."""
    if limiter is None:
        return function()
    if not isinstance(limiter, CapacityLimiter):
        return NOT_SERVED
    try:
        limiter.acquire_nowait()
    except Exception:  # noqa: BLE001  # none (AnyIO 4.14 raises Trio's WouldBlock), or it is held
        return NOT_SERVED
    try:
        return function()
    finally:
        limiter.release()


async def _serve_file(
    found: FileCall,
    known: Known,
    runtime: Runtime,
    limiter: CapacityLimiter | None,
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Any:
    meter, cost = runtime.meter, found.cost()
    if not meter.admits(cost):
        await runtime.gate.admit(cost)

    def at_once() -> Any:
        known.handle.meter = meter
        return found.call() if found.is_proven(known) else NOT_SERVED

    result = _with_token(at_once, limiter)
    if result is not NOT_SERVED:
        return result
    known.settled = False
    known.turn += 1
    turn = known.turn
    act = Act(Job(known.handle), lambda _: found.call())
    try:
        await in_thread(act)
    except BaseException:
        act.leave()
        raise
    finally:
        undisturbed = known.turn == turn and known.handle.inflight == 0
        known.turn += 1
    known.settled = undisturbed and found.name in SETTLING
    return act.take()
