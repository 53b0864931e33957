"""What callers hand over: sizes, offsets, buffers, with the errors that `io` raises for others."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction
from operator import index
from typing import Any

# What `install` swaps in calls itself by such a file name.
SWAPPED = "<anyio_uring.install: "


def as_size(size: Any) -> int:
    """An argument that is a number of bytes, or None for all of them (-1)."""
    if size is None:
        return -1
    if not hasattr(type(size), "__index__"):
        raise TypeError(f"argument should be integer or None, not {type(size).__name__!r}")
    size = index(size)
    if not -sys.maxsize - 1 <= size <= sys.maxsize:
        raise OverflowError("cannot fit 'int' into an index-sized integer")
    return int(size)


def as_offset(offset: Any) -> int:
    """An argument that is a position in a file, or a distance in it."""
    offset = index(offset)
    if not -1 << 63 <= offset < 1 << 63:
        raise ValueError("cannot fit 'int' into an offset-sized integer")
    return int(offset)


class Loan:
    """The bytes of a caller's buffer for the time of a call.

    Given back at its end, also when a traceback holds on to the frames; an operation that was left
    under way keeps its own hold.
    """

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, *error: object) -> None:
        try:
            self._view.release()
        except BufferError:
            pass


def as_writable(buffer: Any, argument: str) -> Loan:
    """The bytes of a buffer to be read into.

    :param argument: what the error calls it
    """
    try:
        view = memoryview(buffer)
    except TypeError:
        view = memoryview(b"")
    if view.readonly or not view.c_contiguous:
        raise TypeError(
            f"{argument} must be read-write bytes-like object, "
            f"not {'None' if buffer is None else type(buffer).__name__}"
        )
    return Loan(_as_bytes(view))


def as_readable(data: Any) -> Loan:
    """The bytes of a buffer to be written."""
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not {type(data).__name__!r}") from None
    return Loan(_as_bytes(view))


def _as_bytes(view: memoryview) -> memoryview:
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def check_progress(progress: Any) -> None:
    """Refuse what cannot be told of progress, before there is any."""
    if progress is None:
        return
    if not callable(progress):
        raise TypeError(f"progress must be callable, not {type(progress).__name__!r}")
    function = progress
    while isinstance(function, partial):
        function = function.func
    asked = (function, type(function).__call__)
    if any(iscoroutinefunction(one) or isasyncgenfunction(one) for one in asked):
        raise TypeError("progress is called and not awaited: an async function will not do")


def text_encoding(encoding: str | None, stacklevel: int = 2) -> str:
    """As `io.text_encoding`, which tells the line that called our caller of a missing encoding;
    what `install` has put between the two does not count.
    """
    if encoding is None and sys.flags.warn_default_encoding:
        with suppress(ValueError):  # nobody called it, but a loop that is not Python's
            caller = sys._getframe(stacklevel)
            stacklevel += caller.f_code.co_filename.startswith(SWAPPED)
    return io.text_encoding(encoding, stacklevel + 1)
