"""Trio's flavour: the same files and paths with the signatures and the promises of Trio's own.

They differ from :func:`anyio_uring.open_file` and :class:`anyio_uring.Path`, which work on Trio,
too, in what Trio promises: every call is a full checkpoint, a file has the attributes that its type
in `io` has and no others, it is its own iterator, and closing it in a cancelled scope closes it and
then raises ``Cancelled``; a path is a `pathlib.PurePath`.

>>> import trio
>>> from anyio_uring.trio import open_file
>>> async def main():
...     async with await open_file("/etc/passwd", "rb") as f:
...         return (await f.peek())[:4], await f.readline(4), hasattr(f, "encoding")
>>> trio.run(main)
(b'root', b'root', False)
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast, overload

import trio

from ._arguments import text_encoding
from ._buffered import BufferedFile
from ._file import AsyncFile
from ._open import open_file as open_anyio_file
from ._text import TextFile
from ._trio_path import Path, PosixPath, WindowsPath

if TYPE_CHECKING:
    from _typeshed import (
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenBinaryModeUpdating,
        OpenBinaryModeWriting,
        OpenTextMode,
        StrOrBytesPath,
    )

    from ._private import AsyncIOWrapper
else:
    # Trio's own class, which it has no public name for
    AsyncIOWrapper = type(trio.wrap_file(io.BytesIO()))

__all__ = ["Path", "PosixPath", "WindowsPath", "open_file", "wrap_file"]

_FileT_co = TypeVar("_FileT_co", covariant=True)
_FileT = TypeVar("_FileT")

# What Trio's documentation lists: whatever else a file may have is not there.
ATTRIBUTES = frozenset(
    {
        "buffer",
        "closed",
        "closefd",
        "encoding",
        "errors",
        "fileno",
        "getbuffer",
        "getvalue",
        "isatty",
        "line_buffering",
        "mode",
        "name",
        "newlines",
        "raw",
        "readable",
        "seekable",
        "writable",
    }
)
METHODS = frozenset(
    {
        "flush",
        "peek",
        "read",
        "read1",
        "readall",
        "readinto",
        "readinto1",
        "readline",
        "readlines",
        "seek",
        "tell",
        "truncate",
        "write",
        "writelines",
    }
)


def _names_of(kind: type) -> frozenset[str]:
    """Which of them a file has that `open` returns; some get name and mode only when opened."""
    found = {name for name in ATTRIBUTES | METHODS if hasattr(kind, name)}
    return frozenset(found | {"mode", "name"})


RAW = _names_of(io.FileIO)
READER = _names_of(io.BufferedReader)
WRITER = _names_of(io.BufferedWriter)
RANDOM = _names_of(io.BufferedRandom)
TEXT = _names_of(io.TextIOWrapper)


def _names(file: AsyncFile[Any]) -> frozenset[str]:
    """The attributes of the file that ``builtins.open`` would have returned instead."""
    if isinstance(file, TextFile):
        return TEXT
    if not isinstance(file, BufferedFile):
        return RAW
    handle = file._handle
    if handle.readable and handle.writable:
        return RANDOM
    return READER if handle.readable else WRITER


def _with_checkpoint(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A method that lets others run and looks for a cancellation before it has any effect."""

    @wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return await method(*args, **kwargs)

    return call


class TrioFile(AsyncIOWrapper[_FileT_co]):
    """A file as :func:`anyio_uring.trio.open_file` returns it: what Trio calls an asynchronous file
    object, and of the class that Trio's own are of.

    It has the methods and attributes of Trio's list that its type in `io` has, so ``hasattr`` and
    ``dir`` tell what the file can do.  Each method is a full checkpoint: in a cancelled scope it
    raises before it has any effect, and otherwise other tasks get their turn.

    Two attributes lead elsewhere than Trio's: ``buffer`` of a text file is asynchronous, too, since
    both share what was read ahead; ``wrapped`` and ``raw`` are an `io.FileIO` on the same
    descriptor (see :attr:`anyio_uring.AsyncFile.wrapped`).
    """

    def __init__(self, file: AsyncFile[Any]) -> None:
        # Trio's own initialiser wants a synchronous file to wrap; there is none.
        self._file = file
        self._names = _names(file)
        self._below: TrioFile[Any] | None = None

    @property
    def wrapped(self) -> _FileT_co:
        """A synchronous `io.FileIO` on the same descriptor, made on demand.

        :raises ValueError: the file is closed
        """
        return cast("_FileT_co", self._file.wrapped)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name not in self._names:
                raise AttributeError(name)
            if name == "raw":
                # None once there is none, as in `io`: asking whether it is there is no error
                lives = self._file._handle.twin or not self._file._handle.closed
                return self._file.wrapped if lives else None
            if name == "buffer":
                below = self._file.buffer
                return None if below is None else self._over(below)
            value = getattr(self._file, name)
            if name in METHODS:
                value = _with_checkpoint(value)
                setattr(self, name, value)  # found without this method the next time
            return value

    def __dir__(self) -> Iterable[str]:
        return {*object.__dir__(self), *self._names}

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} of {self._file!r}>"

    def _over(self, binary: AsyncFile[bytes]) -> TrioFile[Any]:
        """The same object each time for the file below this one."""
        if self._below is None:
            self._below = TrioFile(binary)
        return self._below

    async def detach(self) -> TrioFile[Any]:
        """Flush, give up the file below (a text file's buffer, a buffered file's raw file) and
        return it; this one is of no use then.  What was read ahead is lost, as with `io`.

        :raises AttributeError: an unbuffered file, which has nothing below
        :raises ValueError: the file is closed or detached
        :raises anyio.BusyResourceError: an operation of this file is under way
        """
        file = self._file
        if not isinstance(file, TextFile | BufferedFile):
            raise AttributeError("detach")
        await trio.lowlevel.checkpoint()
        await file.flush()
        below = file.detach()
        return self._over(below)

    async def aclose(self) -> None:
        """Close the file, and then raise ``Cancelled`` if the scope is cancelled.

        :raises OSError: what close(2) reports: EIO, ENOSPC, EDQUOT of earlier writes
        """
        try:
            await self._file.aclose()
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            raise
        await trio.lowlevel.checkpoint()


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenTextMode = ...,
    buffering: int = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
) -> AsyncIOWrapper[io.TextIOWrapper]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenBinaryMode,
    buffering: Literal[0],
    encoding: None = ...,
    errors: None = ...,
    newline: None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
) -> AsyncIOWrapper[io.FileIO]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenBinaryModeUpdating,
    buffering: Literal[-1, 1] = ...,
    encoding: None = ...,
    errors: None = ...,
    newline: None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
) -> AsyncIOWrapper[io.BufferedRandom]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenBinaryModeWriting,
    buffering: Literal[-1, 1] = ...,
    encoding: None = ...,
    errors: None = ...,
    newline: None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
) -> AsyncIOWrapper[io.BufferedWriter]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenBinaryModeReading,
    buffering: Literal[-1, 1] = ...,
    encoding: None = ...,
    errors: None = ...,
    newline: None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
) -> AsyncIOWrapper[io.BufferedReader]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenBinaryMode,
    buffering: int,
    encoding: None = ...,
    errors: None = ...,
    newline: None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
) -> AsyncIOWrapper[BinaryIO]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: str,
    buffering: int = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
) -> AsyncIOWrapper[IO[Any]]: ...


async def open_file(
    file: StrOrBytesPath | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> AsyncIOWrapper[Any]:
    """Open a file as ``trio.open_file`` does, without making Trio wait for a disk.

    The arguments are those of :func:`open`.  Must be called within ``trio.run``.

    :param buffering: the buffer's size in bytes, if it is more than 1
    :return: a `TrioFile`; ``isinstance`` takes it for one of Trio's own
    :raises OSError: as :func:`open`, with errno and file name
    :raises ValueError: arguments that do not go together
    :raises LookupError: no such encoding, or none for text

    >>> import trio
    >>> from anyio_uring.trio import open_file
    >>> async def main():
    ...     async with await open_file("/etc/passwd") as f:
    ...         return await f.readline(4)
    >>> trio.run(main)
    'root'
    """
    if encoding is None and "b" not in str(mode):
        encoding = text_encoding(None)  # a warning points at our caller
    await trio.lowlevel.checkpoint()
    return TrioFile(
        await open_anyio_file(file, mode, buffering, encoding, errors, newline, closefd, opener)
    )


def wrap_file(file: _FileT) -> AsyncIOWrapper[_FileT]:
    """Wrap any synchronous file object, as ``trio.wrap_file``, which does it: with threads, since
    what such an object does when it is called is its own affair.

    :raises TypeError: it has no ``close``, or neither ``read`` nor ``write``

    >>> import io, trio
    >>> from anyio_uring.trio import wrap_file
    >>> async def main():
    ...     return await wrap_file(io.StringIO("some text")).read(4)
    >>> trio.run(main)
    'some'
    """
    return trio.wrap_file(file)
