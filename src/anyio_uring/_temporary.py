"""Temporary files and directories: AnyIO's classes over our files.

**Without a name.**  `TemporaryFile` is opened with O_TMPFILE, on the ring if there is one; where
the kernel or the file system has no such thing, it is made with a name that is removed at once.

**Names do not get lost.**  What has a name is made in a thread, by `tempfile`, and a result that
nobody waits for any more is removed by that thread.  From then on the name belongs to a file, whose
`weakref.finalize` removes it once: at its close, at the end of the block, or when it is collected.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, AnyStr, overload

import anyio
from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled

from ._buffered import BufferedFile
from ._file import AsyncFile
from ._handle import fd_facts, plain_attributes
from ._modes import Mode
from ._open import as_text, check_arguments, finish
from ._ops import Opened
from ._raw import RawFile
from ._runtime import Runtime, current_runtime
from ._text import TextFile

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

# The name of a file is removed as late as its close has `delete_on_close`; 3.11 knows no other way.
HAS_DELETE_ON_CLOSE = sys.version_info >= (3, 12)
PERMISSIONS = 0o600
# As `tempfile`, whatever the mode is: it can be read and written, and nobody gives it a name
NAMELESS = os.O_RDWR | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


class _Once:
    """A function that runs in a thread, or for whoever leaves before the thread has begun."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._begun = threading.Lock()

    def __call__(self) -> None:
        if self._begun.acquire(blocking=False):
            self._function()


async def _see_through(function: Callable[[], object]) -> None:
    """Have a thread run this, whatever is cancelled meanwhile."""
    once = _Once(function)
    try:
        with CancelScope(shield=True):
            await current_runtime().threads.call_foreign(once, None, type)
    except BaseException:
        once()
        raise


# -- files with a name ----------------------------------------------------------------------------


class _Named(AsyncFile[AnyStr]):
    """A file whose name is removed when it is closed.

    :ivar delete: whether the name is to be removed at all
    """

    __slots__ = ()

    _remove: Callable[[], object] | None
    delete: bool

    @property
    def name(self) -> Any:
        """The path."""
        return self._name

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            if (remove := getattr(self, "_remove", None)) is not None:
                self._remove = None
                await _see_through(remove)

    def close(self) -> None:
        try:
            super().close()
        finally:
            if (remove := getattr(self, "_remove", None)) is not None:
                self._remove = None
                remove()


class NamedRawFile(_Named[bytes], RawFile):
    """Such a file with ``buffering=0``."""

    __slots__ = ("_remove", "delete")


class NamedBufferedFile(_Named[bytes], BufferedFile):
    """Such a file with a buffer."""

    __slots__ = ("_remove", "delete")


class NamedTextFile(_Named[str], TextFile):
    """Such a file in a text mode."""

    __slots__ = ("_remove", "delete")


for _kind in (NamedRawFile, NamedBufferedFile, NamedTextFile):
    plain_attributes(_kind)


def _close_and_unlink(made: tuple[int, Any]) -> None:
    os.close(made[0])
    os.unlink(made[1])


def _remove_name(path: Any) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        # Somebody else was faster, which `tempfile` takes for an error before Python 3.12
        if not HAS_DELETE_ON_CLOSE:
            raise


def _make_named(suffix: Any, prefix: Any, folder: Any) -> tuple[Opened, Any]:
    """In a thread: a new file's descriptor and its path."""
    made = tempfile.mkstemp(suffix, prefix, folder)
    fd, path = made
    try:
        return Opened(fd, fd_facts(fd)), path
    except BaseException:
        _close_and_unlink(made)
        raise


# -- the classes ----------------------------------------------------------------------------------


class TemporaryFile(anyio.TemporaryFile[AnyStr]):
    """A file without a name that is gone when it is closed; an ``anyio.TemporaryFile``.

    The arguments are those of ``tempfile.TemporaryFile``, and so are the errors:

    :raises OSError: EACCES, ENOSPC, ENOENT of the directory, and so on
    :raises ValueError: arguments that do not go together

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with anyio_uring.TemporaryFile() as f:
    ...         await f.write(b"data")
    ...         await f.seek(0)
    ...         return await f.read()
    >>> anyio.run(main)
    b'data'
    """

    @overload
    def __init__(
        self: TemporaryFile[bytes],
        mode: OpenBinaryMode = ...,
        buffering: int = ...,
        encoding: str | None = ...,
        newline: str | None = ...,
        suffix: str | None = ...,
        prefix: str | None = ...,
        dir: str | None = ...,
        *,
        errors: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: TemporaryFile[str],
        mode: OpenTextMode,
        buffering: int = ...,
        encoding: str | None = ...,
        newline: str | None = ...,
        suffix: str | None = ...,
        prefix: str | None = ...,
        dir: str | None = ...,
        *,
        errors: str | None = ...,
    ) -> None: ...

    def __init__(
        self,
        mode: OpenTextMode | OpenBinaryMode = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | None = None,  # noqa: A002 (the name it has in `tempfile`)
        *,
        errors: str | None = None,
    ) -> None:
        arguments: Any = (mode, buffering, encoding, newline, suffix, prefix, dir)
        base: Any = super()  # (an overload per mode)
        base.__init__(*arguments, errors=errors)

    async def __aenter__(self) -> AsyncFile[AnyStr]:
        encoding = self.encoding if "b" in self.mode else io.text_encoding(self.encoding)
        coding = encoding, self.errors, self.newline
        buffering = index(self.buffering)
        where = 0 if self.dir is None else self.dir  # `tempfile` opens that, with an opener
        mode = check_arguments(where, self.mode, buffering, *coding, True, None)
        runtime = current_runtime()
        await runtime.gate.admit()  # the kernel may be done before it could be asked to cancel
        opened = await _open_nameless(runtime, self.suffix, self.prefix, self.dir)
        file = await _finish(runtime, opened, opened.fd, mode, buffering)
        if not mode.binary:
            file = as_text(file, self.mode, buffering, *coding)
        self._async_file = file
        return file

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._async_file.aclose()


async def _finish(
    runtime: Runtime, opened: Opened, name: Any, mode: Mode, buffering: int, **kinds: Any
) -> AsyncFile[Any]:
    """`finish` for a descriptor of `tempfile`, which does not append in append modes, either."""
    flags = mode.flags & ~os.O_APPEND
    arguments = runtime, opened, flags, name, mode, True, None, buffering
    return await finish(*arguments, exclusive=True, **kinds)


async def _open_nameless(runtime: Runtime, suffix: Any, prefix: Any, folder: Any) -> Opened:
    tmpfile = getattr(os, "O_TMPFILE", 0)
    if tmpfile and all(isinstance(part, str | None) for part in (suffix, prefix, folder)):
        if folder is None:
            folder = await gettempdir()
        try:
            return await runtime.ops.open(folder, NAMELESS | tmpfile, PERMISSIONS, None)
        except OSError:
            pass  # with a name it may work, or give the error that `tempfile` would

    def make() -> Opened:
        opened, path = _make_named(suffix, prefix, folder)
        try:
            os.unlink(path)
        except BaseException:
            os.close(opened.fd)
            raise
        return opened

    return await runtime.threads.call_foreign(make, None, lambda opened: os.close(opened.fd))


class NamedTemporaryFile(anyio.NamedTemporaryFile[AnyStr]):
    """A file with a name that is removed when it is closed; an ``anyio.NamedTemporaryFile``.

    The arguments and errors are those of ``tempfile.NamedTemporaryFile``.  The file's `name`
    is its path.

    :param delete: remove it at all
    :param delete_on_close: remove it when the file is closed, instead of at the end of the block
        (Python 3.12+; before, it makes no difference)

    >>> import os, anyio, anyio_uring
    >>> async def main():
    ...     async with anyio_uring.NamedTemporaryFile("w", suffix=".txt") as f:
    ...         await f.write("data")
    ...     return os.path.exists(f.name)
    >>> anyio.run(main)
    False
    """

    @overload
    def __init__(
        self: NamedTemporaryFile[bytes],
        mode: OpenBinaryMode = ...,
        buffering: int = ...,
        encoding: str | None = ...,
        newline: str | None = ...,
        suffix: str | None = ...,
        prefix: str | None = ...,
        dir: str | None = ...,
        delete: bool = ...,
        *,
        errors: str | None = ...,
        delete_on_close: bool = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: NamedTemporaryFile[str],
        mode: OpenTextMode,
        buffering: int = ...,
        encoding: str | None = ...,
        newline: str | None = ...,
        suffix: str | None = ...,
        prefix: str | None = ...,
        dir: str | None = ...,
        delete: bool = ...,
        *,
        errors: str | None = ...,
        delete_on_close: bool = ...,
    ) -> None: ...

    def __init__(
        self,
        mode: OpenBinaryMode | OpenTextMode = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: str | None = None,  # noqa: A002
        delete: bool = True,
        *,
        errors: str | None = None,
        delete_on_close: bool = True,
    ) -> None:
        arguments: Any = (mode, buffering, encoding, newline, suffix, prefix, dir, delete)
        base: Any = super()
        base.__init__(*arguments, errors=errors, delete_on_close=delete_on_close)
        self._place = suffix, prefix, dir
        self._shape = mode, buffering
        self._coding = encoding, errors, newline
        self._delete = delete
        self._delete_late = delete and HAS_DELETE_ON_CLOSE and not delete_on_close
        self._remove: Callable[[], object] | None = None

    async def __aenter__(self) -> AsyncFile[AnyStr]:
        mode, buffering = self._shape
        encoding, errors, newline = self._coding
        if "b" not in mode:
            encoding = io.text_encoding(encoding)
        buffering = index(buffering)
        where = 0 if self._place[2] is None else self._place[2]
        parsed = check_arguments(where, mode, buffering, encoding, errors, newline, True, None)
        runtime = current_runtime()
        place = self._place  # (an idle thread holds on to the last function, and so to its self)
        opened, path = await runtime.threads.call_foreign(
            lambda: _make_named(*place),
            None,
            lambda made: _close_and_unlink((made[0].fd, made[1])),
        )
        file: Any = None
        try:
            kinds = NamedRawFile, NamedBufferedFile
            file = await _finish(runtime, opened, path, parsed, buffering, kinds=kinds)
            if not parsed.binary:
                file = as_text(file, mode, buffering, encoding, errors, newline, NamedTextFile)
        except BaseException:
            os.unlink(path)
            raise
        file.delete = self._delete
        if self._delete:
            remove = weakref.finalize(file, _remove_name, path)
            if self._delete_late:
                self._remove = remove
            else:
                file._remove = remove
        self._async_file = file
        return file  # type: ignore[no-any-return]

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._async_file.aclose()
        finally:
            remove, self._remove = self._remove, None
            if remove is not None:
                await _see_through(remove)


class TemporaryDirectory(anyio.TemporaryDirectory[AnyStr]):
    """A directory that is removed, with all that is in it; an ``anyio.TemporaryDirectory``.

    The arguments are those of ``tempfile.TemporaryDirectory``; the block gets the path.

    :param delete: remove it at the end of the block (Python 3.12+; before, it always is)
    :raises OSError: what mkdir(2) and the removal report

    >>> import os, anyio, anyio_uring
    >>> async def main():
    ...     async with anyio_uring.TemporaryDirectory() as path:
    ...         assert os.path.isdir(path)
    ...     return os.path.exists(path)
    >>> anyio.run(main)
    False
    """

    async def __aenter__(self) -> str:
        arguments: dict[str, Any] = {
            "suffix": self.suffix,
            "prefix": self.prefix,
            "dir": self.dir,
            "ignore_cleanup_errors": self.ignore_cleanup_errors,
        }
        if sys.version_info >= (3, 12):
            arguments["delete"] = self.delete
        self._tempdir = directory = await current_runtime().threads.call_foreign(
            lambda: tempfile.TemporaryDirectory(**arguments),
            None,
            lambda directory: directory.cleanup(),
        )
        return directory.name  # type: ignore[no-any-return]

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        directory = self._tempdir
        if directory is not None:
            await _see_through(lambda: directory.__exit__(None, None, None))

    async def cleanup(self) -> None:
        """Remove the directory now."""
        if self._tempdir is not None:
            await _see_through(self._tempdir.cleanup)
            await checkpoint_if_cancelled()


# -- the functions --------------------------------------------------------------------------------


@overload
async def mkstemp(
    suffix: str | None = None,
    prefix: str | None = None,
    dir: str | None = None,
    text: bool = False,
) -> tuple[int, str]: ...


@overload
async def mkstemp(
    suffix: bytes | None = None,
    prefix: bytes | None = None,
    dir: bytes | None = None,
    text: bool = False,
) -> tuple[int, bytes]: ...


async def mkstemp(
    suffix: AnyStr | None = None,
    prefix: AnyStr | None = None,
    dir: AnyStr | None = None,  # noqa: A002
    text: bool = False,
) -> tuple[int, str | bytes]:
    """Make a temporary file; returns its open descriptor and its path, ``tempfile.mkstemp``.

    Both are the caller's; a cancelled call leaves neither.

    >>> import os, anyio, anyio_uring
    >>> fd, path = anyio.run(anyio_uring.mkstemp)
    >>> os.close(fd), os.unlink(path)
    (None, None)
    """
    return await current_runtime().threads.call_foreign(
        lambda: tempfile.mkstemp(suffix, prefix, dir, text), None, _close_and_unlink
    )


@overload
async def mkdtemp(
    suffix: str | None = None,
    prefix: str | None = None,
    dir: str | None = None,
) -> str: ...


@overload
async def mkdtemp(
    suffix: bytes | None = None,
    prefix: bytes | None = None,
    dir: bytes | None = None,
) -> bytes: ...


async def mkdtemp(
    suffix: AnyStr | None = None,
    prefix: AnyStr | None = None,
    dir: AnyStr | None = None,  # noqa: A002
) -> str | bytes:
    """Make a temporary directory; returns its path, as ``tempfile.mkdtemp``.

    It is the caller's; a cancelled call leaves none.

    >>> import os, anyio, anyio_uring
    >>> os.rmdir(anyio.run(anyio_uring.mkdtemp))
    """
    return await current_runtime().threads.call_foreign(
        lambda: tempfile.mkdtemp(suffix, prefix, dir), None, os.rmdir
    )


async def gettempdir() -> str:
    """The directory for temporary files, as ``tempfile.gettempdir``.

    >>> import anyio, anyio_uring, tempfile
    >>> anyio.run(anyio_uring.gettempdir) == tempfile.gettempdir()
    True
    """
    if isinstance(tempfile.tempdir, str):
        await current_runtime().gate.admit()
        return tempfile.gettempdir()
    return await current_runtime().threads.call_foreign(tempfile.gettempdir, None, type)


async def gettempdirb() -> bytes:
    """The directory for temporary files, as ``tempfile.gettempdirb``.

    >>> import anyio, anyio_uring, tempfile
    >>> anyio.run(anyio_uring.gettempdirb) == tempfile.gettempdirb()
    True
    """
    return os.fsencode(await gettempdir())
