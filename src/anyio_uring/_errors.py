"""Error types of our own, and the texts of ``io`` that callers know.

Everything else is raised as the type ``builtins.open`` or AnyIO would raise.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

CLOSED = "I/O operation on closed file"
NOT_READABLE = "File not open for reading"
NOT_WRITABLE = "File not open for writing"


class UringUnavailableError(RuntimeError):
    """io_uring was required (``driver="uring"``) and cannot be had.

    :ivar errno: what the kernel answered, if it was asked
    :ivar reason: what is missing
    :ivar remedy: what to do about it

    >>> import anyio_uring
    >>> error = anyio_uring.UringUnavailableError("it is switched off", "Switch it on.", 1)
    >>> error.errno, error.remedy
    (1, 'Switch it on.')
    """

    def __init__(self, reason: str, remedy: str, errno: int | None = None) -> None:
        super().__init__(f"io_uring is unavailable: {reason}. {remedy}")
        self.errno = errno
        self.reason = reason
        self.remedy = remedy


class InstallError(RuntimeError):
    """A target of :func:`install` is not as expected, and ``strict=True`` was given.

    :ivar target: what was to be patched
    :ivar version: the version that was found
    """

    def __init__(self, target: str, version: str) -> None:
        super().__init__(f"cannot install into {target} {version}")
        self.target = target
        self.version = version


def os_error(errno: int, filename: object = None) -> OSError:
    """The OSError subclass for `errno`, with its text and the file's name."""
    if filename is None:
        return OSError(errno, os.strerror(errno))
    return OSError(errno, os.strerror(errno), filename)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a task group has wrapped: an interrupt, or else what came first."""
    interrupts = group.subgroup(KeyboardInterrupt)
    error: BaseException = interrupts if interrupts is not None else group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def closed_error(text: str = CLOSED) -> ValueError:
    return ValueError(text)


def unsupported(text: str) -> io.UnsupportedOperation:
    return io.UnsupportedOperation(text)


def logger() -> logging.Logger:
    """The logger for what no caller is there to be told.

    Few runs need it, and importing `logging` would be a fifth of what importing us costs.
    """
    import logging

    return logging.getLogger("anyio_uring")
