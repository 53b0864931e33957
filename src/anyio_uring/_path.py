"""`Path`: AnyIO's, with the kernel doing the work."""

from __future__ import annotations

import os
import pathlib
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import anyio

from . import _path_jobs
from ._arguments import text_encoding
from ._entries import Children, names
from ._handle import ask_read, ask_stat, path_text, read_quick, stat_quick
from ._listing import Listing
from ._open import OPEN_COST_BYTES, open_file
from ._path_jobs import is_anything, is_kind
from ._walk import walk
from ._whole import STAT_COST_BYTES, facts, read_whole

if TYPE_CHECKING:
    from typing import Self

    from _typeshed import OpenBinaryMode, OpenTextMode, ReadableBuffer
    from anyio import CapacityLimiter

    from ._file import AsyncFile


# The type of a `pathlib.Path` that can stand within several others
PLAIN = type(pathlib.Path()) if sys.version_info < (3, 14) else None


class Path(anyio.Path):
    """A path in the file system, as :class:`anyio.Path`, of which it is a subclass.

    What only asks (`stat`, `exists`, `is_dir`, ...) and whole files (`read_bytes`, `read_text`)
    come from memory without a turn of the loop if they are there; otherwise, and for all that
    changes a directory, the kernel's io_uring is asked.  What it does not offer goes to a thread,
    as with AnyIO: lists of directories many entries at a time, everything else as one job.

    :param args: segments, as :class:`pathlib.Path` takes them
    :param limiter: for the worker threads that this path, paths made of it and files opened by
        it may need; AnyIO's default one if not given
    :raises TypeError: another type of segment or limiter

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     path = anyio_uring.Path("/etc") / "passwd"
    ...     return (await path.read_bytes())[:4], await path.is_file()
    >>> anyio.run(main)
    (b'root', True)
    """

    # The text of a path that was found in a directory: most are never looked into, and making a
    # `pathlib.Path` costs ten times as much as finding one
    __slots__ = ("_text",)
    _text: str

    def __init__(
        self, *args: str | os.PathLike[str], limiter: CapacityLimiter | None = None
    ) -> None:
        # Another `pathlib.Path` of the same text costs more than a cached stat of it, and would
        # put the text together again; these do not change.  (From 3.14 on they remember `info`.)
        if len(args) == 1 and type(args[0]) is PLAIN and limiter is None:
            self._path = args[0]  # type: ignore[misc]
            self._limiter = None
        else:
            super().__init__(*args, limiter=limiter)

    def __getattr__(self, name: str) -> Any:
        """The `pathlib.Path` within, made when it is asked for."""
        if name != "_path":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        path = pathlib.Path(self._text)
        self._path = path  # type: ignore[misc]
        return path

    # -- questions --------------------------------------------------------------------------------

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As :meth:`pathlib.Path.stat`.

        :raises OSError: as stat(2), with errno and file name

        >>> import anyio, anyio_uring
        >>> async def main():
        ...     return (await anyio_uring.Path("/etc/passwd").stat()).st_size > 0
        >>> anyio.run(main)
        True
        """
        text = path_text(self._path)
        found: os.stat_result | int | None = stat_quick(text, follow_symlinks, STAT_COST_BYTES)
        if found is None and (asked := ask_stat(text, follow_symlinks)) is not None:
            found = await asked
        if type(found) is os.stat_result:
            return found
        return await facts(text, follow_symlinks, self._limiter, found)

    async def lstat(self) -> os.stat_result:
        """As :meth:`pathlib.Path.lstat`: of a symlink itself."""
        text = path_text(self._path)
        found = stat_quick(text, False, STAT_COST_BYTES)
        return found or await facts(text, False, self._limiter)

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """As :meth:`pathlib.Path.exists`; `follow_symlinks` also where Python has it not yet."""
        return await is_kind(path_text(self._path), is_anything, follow_symlinks, self._limiter)

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """As :meth:`pathlib.Path.is_dir`."""
        return await is_kind(path_text(self._path), stat.S_ISDIR, follow_symlinks, self._limiter)

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """As :meth:`pathlib.Path.is_file`."""
        return await is_kind(path_text(self._path), stat.S_ISREG, follow_symlinks, self._limiter)

    async def is_symlink(self) -> bool:
        """As :meth:`pathlib.Path.is_symlink`."""
        return await is_kind(path_text(self._path), stat.S_ISLNK, False, self._limiter)

    async def is_socket(self) -> bool:
        """As :meth:`pathlib.Path.is_socket`."""
        return await is_kind(path_text(self._path), stat.S_ISSOCK, True, self._limiter)

    async def is_fifo(self) -> bool:
        """As :meth:`pathlib.Path.is_fifo`."""
        return await is_kind(path_text(self._path), stat.S_ISFIFO, True, self._limiter)

    async def is_block_device(self) -> bool:
        """As :meth:`pathlib.Path.is_block_device`."""
        return await is_kind(path_text(self._path), stat.S_ISBLK, True, self._limiter)

    async def is_char_device(self) -> bool:
        """As :meth:`pathlib.Path.is_char_device`."""
        return await is_kind(path_text(self._path), stat.S_ISCHR, True, self._limiter)

    async def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        """As :meth:`pathlib.Path.samefile`.

        :raises OSError: one of the two cannot be asked
        """
        return await _path_jobs.same_file(str(self._path), other_path, self._limiter)

    # -- files ------------------------------------------------------------------------------------

    @overload
    async def open(
        self,
        mode: OpenBinaryMode,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        *,
        direct: bool = ...,
    ) -> AsyncFile[bytes]: ...

    @overload
    async def open(
        self,
        mode: OpenTextMode = ...,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        *,
        direct: bool = ...,
    ) -> AsyncFile[str]: ...

    @overload
    async def open(
        self,
        mode: str,
        buffering: int = ...,
        encoding: str | None = ...,
        errors: str | None = ...,
        newline: str | None = ...,
        *,
        direct: bool = ...,
    ) -> AsyncFile[Any]: ...

    async def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        direct: bool = False,
    ) -> AsyncFile[Any]:
        """Open the file, as :func:`anyio_uring.open_file`."""
        if "b" not in mode:
            encoding = text_encoding(encoding)
        limiter = self._limiter
        return await open_file(
            str(self._path),
            mode,
            buffering,
            encoding,
            errors,
            newline,
            limiter=limiter,
            direct=direct,
        )

    async def read_bytes(self) -> bytes:
        """All bytes of the file, in one job.

        :raises OSError: as :func:`open` and read(2)
        """
        text = path_text(self._path)
        data: bytes | int | None = read_quick(text, OPEN_COST_BYTES)
        if data is None and (asked := ask_read(text)) is not None:
            data = await asked
        return data if type(data) is bytes else await read_whole(text, self._limiter, data)

    async def read_text(
        self,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> str:
        """All text of the file, in one job; `newline` also where Python has it not yet.

        :raises UnicodeError: it is none in this encoding
        """
        encoding = text_encoding(encoding)
        path, limiter = str(self._path), self._limiter
        return await _path_jobs.read_text(path, encoding, errors, newline, limiter)

    async def write_bytes(self, data: ReadableBuffer) -> int:
        """Make this the whole content of the file, in one job of a thread: once begun, it is not
        cancelled.  Returns the number of bytes.
        """
        return await _path_jobs.write_bytes(str(self._path), data, self._limiter)

    async def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """As `write_bytes`, for text.  Returns the number of characters.

        :raises TypeError: `data` is no string
        """
        encoding = text_encoding(encoding)
        path, limiter = str(self._path), self._limiter
        return await _path_jobs.write_text(path, data, encoding, errors, newline, limiter)

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """As :meth:`pathlib.Path.touch`."""
        await _path_jobs.touch(str(self._path), mode, exist_ok, self._limiter)

    # -- changes of directories -------------------------------------------------------------------

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """As :meth:`pathlib.Path.mkdir`."""
        await _path_jobs.mkdir(str(self._path), mode, parents, exist_ok, self._limiter)

    async def rmdir(self) -> None:
        """As :meth:`pathlib.Path.rmdir`."""
        await _path_jobs.rmdir(str(self._path), self._limiter)

    async def unlink(self, missing_ok: bool = False) -> None:
        """As :meth:`pathlib.Path.unlink`."""
        await _path_jobs.unlink(str(self._path), missing_ok, self._limiter)

    async def rename(self, target: str | pathlib.PurePath | anyio.Path) -> Self:
        """As :meth:`pathlib.Path.rename`; returns the new path.

        :raises OSError: as rename(2), with both file names
        """
        if isinstance(target, anyio.Path):
            target = target._path
        await _path_jobs.rename(str(self._path), target, self._limiter)
        return type(self)(target, limiter=self._limiter)

    async def replace(self, target: str | pathlib.PurePath | anyio.Path) -> Self:
        """As :meth:`pathlib.Path.replace`; returns the new path."""
        if isinstance(target, anyio.Path):
            target = target._path
        await _path_jobs.replace(str(self._path), target, self._limiter)
        return type(self)(target, limiter=self._limiter)

    async def symlink_to(
        self,
        target: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        target_is_directory: bool = False,
    ) -> None:
        """As :meth:`pathlib.Path.symlink_to`: this becomes a symlink to `target`."""
        path, limiter = str(self._path), self._limiter
        await _path_jobs.symlink(path, target, target_is_directory, limiter)

    async def hardlink_to(
        self, target: str | bytes | os.PathLike[str] | os.PathLike[bytes]
    ) -> None:
        """As :meth:`pathlib.Path.hardlink_to`: this becomes another name of `target`."""
        await _path_jobs.hardlink(str(self._path), target, self._limiter)

    # -- lists ------------------------------------------------------------------------------------

    def iterdir(self) -> AsyncIterator[Self]:
        """As :meth:`pathlib.Path.iterdir`; a thread reads many entries in one go, and at most about
        four thousand are held.

        :raises OSError: at the first step, or where the directory cannot be read on
        """
        text = str(self._path)
        kind: Any = type(self)
        limiter = self._limiter
        plain = issubclass(kind, Path) and kind.__init__ is Path.__init__
        if os.name != "posix" or not plain:
            return Listing(self._path.iterdir, limiter, partial(_child, self))
        prefix = "" if text == "." else text if text.endswith("/") else f"{text}/"
        child = Children(kind, limiter, prefix)
        return Listing(partial(names, text), limiter, child, search=False)

    if sys.version_info >= (3, 13):

        def glob(  # type: ignore[misc]
            self,
            pattern: str | os.PathLike[str],
            *,
            case_sensitive: bool | None = None,
            recurse_symlinks: bool = False,
        ) -> AsyncIterator[Self]:
            """As :meth:`pathlib.Path.glob`; a thread looks for many matches in one go."""
            options = {"case_sensitive": case_sensitive, "recurse_symlinks": recurse_symlinks}
            return _found(self, partial(self._path.glob, os.fspath(pattern), **options))

        def rglob(  # type: ignore[misc]
            self,
            pattern: str | os.PathLike[str],
            *,
            case_sensitive: bool | None = None,
            recurse_symlinks: bool = False,
        ) -> AsyncIterator[Self]:
            """As :meth:`pathlib.Path.rglob`; a thread looks for many matches in one go."""
            options = {"case_sensitive": case_sensitive, "recurse_symlinks": recurse_symlinks}
            return _found(self, partial(self._path.rglob, os.fspath(pattern), **options))

    elif sys.version_info >= (3, 12):

        def glob(self, pattern: str, *, case_sensitive: bool | None = None) -> AsyncIterator[Self]:
            """As :meth:`pathlib.Path.glob`; a thread looks for many matches in one go."""
            return _found(self, partial(self._path.glob, pattern, case_sensitive=case_sensitive))

        def rglob(self, pattern: str, *, case_sensitive: bool | None = None) -> AsyncIterator[Self]:
            """As :meth:`pathlib.Path.rglob`; a thread looks for many matches in one go."""
            return _found(self, partial(self._path.rglob, pattern, case_sensitive=case_sensitive))

    else:

        def glob(self, pattern: str) -> AsyncIterator[Self]:
            """As :meth:`pathlib.Path.glob`; a thread looks for many matches in one go."""
            return _found(self, partial(self._path.glob, pattern))

        def rglob(self, pattern: str) -> AsyncIterator[Self]:
            """As :meth:`pathlib.Path.rglob`; a thread looks for many matches in one go."""
            return _found(self, partial(self._path.rglob, pattern))

    if sys.version_info >= (3, 12):

        async def walk(
            self,
            top_down: bool = True,
            on_error: Callable[[OSError], object] | None = None,
            follow_symlinks: bool = False,
        ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
            """As :meth:`pathlib.Path.walk`; a thread reads many directories in one go.

            From the top down it is nevertheless as if each was read when it is its turn: until then
            its parent's list can be changed, and what is in it.
            """
            sys.audit("pathlib.Path.walk", self._path, on_error, follow_symlinks)
            if sys.version_info >= (3, 13):
                sys.audit("os.walk", str(self._path), top_down, on_error, follow_symlinks)
            source = walk(str(self._path), top_down, on_error, follow_symlinks, self._limiter)
            try:
                async for text, directories, others in source:
                    yield _child(self, pathlib.Path(text)), directories, others
            finally:
                source.close()


# (Functions, since the methods above also serve AnyIO's own class when they are installed there.)
def _found(path: Any, search: Callable[[], Iterator[pathlib.Path]]) -> Listing[Any, Any]:
    return Listing(search, path._limiter, partial(_child, path))


def _child(path: Any, found: pathlib.Path) -> Any:
    return type(path)(found, limiter=path._limiter)
