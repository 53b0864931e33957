"""``anyio.run(main, backend="asyncio_uring")``: AnyIO's own backends, and files of ours in the run.

File functions of AnyIO do not ask the backend, so their bodies are swapped while such a run
exists, and each call asks whether it comes from one (`_scope`).  The backend itself is needed for
the beginning and the end of a run only: within it AnyIO reports, and uses, its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import current_token

from . import _private, _scope
from ._install import begin_run, end_run
from ._settings import Settings
from ._targets import version_of

if TYPE_CHECKING:
    from typing import Self

SUFFIX = "_uring"
OPTION = "uring"
TARGETS = {"asyncio": ("anyio",), "trio": ("anyio", "trio")}


def backend_class(library: str) -> Any:
    """The class that AnyIO gets for ``asyncio_uring`` or ``trio_uring``.

    :raises LookupError: the event loop is not installed
    :raises RuntimeError: AnyIO's own class is not as expected
    """
    try:
        theirs = _private.anyio_backend(library)
    except ImportError as error:
        raise LookupError(
            f"Backend {library + SUFFIX!r} is not available. "
            f"Install it with: pip install anyio[{library}]"
        ) from error

    class Backend(theirs):  # type: ignore[misc, valid-type]
        @classmethod
        def run(
            cls,
            func: Callable[..., Any],
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            options: dict[str, Any],
        ) -> Any:
            with Run(library, Backend, options) as run:
                return super().run(run.beginning_with(func), args, kwargs, run.options)

        @classmethod
        def create_test_runner(cls, options: dict[str, Any]) -> Any:
            run = Run(library, Backend, options)
            return TestRun(run, super().create_test_runner(run.options))

    Backend.__name__ = Backend.__qualname__ = f"Uring{theirs.__name__}"
    Backend.__doc__ = f"AnyIO's {theirs.__name__}; in its runs AnyIO's files are anyio_uring's."
    return Backend


class Run:
    """One run, from before its loop is made until that is closed."""

    def __init__(self, library: str, backend: type, options: dict[str, Any]) -> None:
        self.options = dict(options)
        self._settings = self.options.pop(OPTION, None)
        if not isinstance(self._settings, Settings | None):
            raise TypeError(
                f"the backend option {OPTION!r} must be anyio_uring.Settings, "
                f"not {type(self._settings).__name__}"
            )
        self._library = library
        self._backend = backend
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for target in TARGETS[self._library]:
                begin_run(target)
                stack.callback(end_run, target)
            self._report(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _report(self, stack: ExitStack) -> None:
        """AnyIO has told sniffio the name of the backend: make it that of the event loop."""
        variable = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
        if variable is not None and variable.get() == self._library + SUFFIX:
            stack.callback(variable.reset, variable.set(self._library))

    def begin(self) -> None:
        """The run is the current one from here on."""
        if issubclass(current_token().backend_class, self._backend):
            raise RuntimeError(
                f"AnyIO {version_of('anyio')} reports {self._library + SUFFIX!r} where other "
                f"libraries expect {self._library!r}: this version is not known"
            )
        self._stack.callback(_scope.leave, _scope.enter(self._settings))

    def beginning_with(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function that is run, but the run begins when it is called, within the loop.

        Not a coroutine function, which would be one more line in each traceback.
        """

        def begin(*arguments: Any) -> Any:
            self.begin()
            return function(*arguments)

        named = function
        while isinstance(named, partial):
            named = named.func
        for name in ("__module__", "__qualname__"):  # what the task is called after
            setattr(begin, name, getattr(named, name, getattr(begin, name)))
        return begin


class TestRun:
    """What AnyIO's pytest plugin enters for tests, and gets AnyIO's own runner from."""

    def __init__(self, run: Run, runner: Any) -> None:
        self._run = run
        self._runner = runner
        self._stack = ExitStack()

    def __enter__(self) -> Any:
        with ExitStack() as stack:
            stack.enter_context(self._run)
            runner = stack.enter_context(self._runner)
            runner.run_fixture(self._begin, {})
            self._stack = stack.pop_all()
        return runner

    async def _begin(self) -> None:
        self._run.begin()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(exc_type, exc_value, traceback)
