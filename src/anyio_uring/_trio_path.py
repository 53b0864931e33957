"""Trio's flavour of `Path`: Trio's class, with the kernel doing the work."""

from __future__ import annotations

import os
import pathlib
import stat
from typing import TYPE_CHECKING, Any

import trio

from . import _path_jobs
from ._arguments import text_encoding
from ._path_jobs import is_anything, is_kind
from ._private import trio_path_over
from ._whole import facts, read_whole

if TYPE_CHECKING:
    from typing import Self

    from _typeshed import ReadableBuffer

# Trio's paths have no limiter of their own.
LIMITER = None


class Path(trio.Path):
    """A path in the file system, as ``trio.Path``, of which it is a subclass.

    It does what :class:`anyio_uring.Path` does, with the signatures of Trio's: `glob`, `rglob` and
    `iterdir` are awaited and return an iterable of all they have found, `open` returns a
    `TrioFile`.  Every method that is awaited is a full checkpoint: in a cancelled scope it raises
    before it has any effect, and otherwise other tasks get their turn.  What is not listed here
    is Trio's own.

    Calling it makes a `PosixPath` or a `WindowsPath`, as the system has them.

    :param args: segments, as :class:`pathlib.Path` takes them
    :raises TypeError: another type of segment

    >>> import trio
    >>> from anyio_uring.trio import Path
    >>> async def main():
    ...     path = Path("/etc") / "passwd"
    ...     return (await path.read_bytes())[:4], await path.is_file()
    >>> trio.run(main)
    (b'root', True)
    """

    __slots__ = ()

    def __new__(cls, *args: str | os.PathLike[str]) -> Self:
        """Make one for this system."""
        kind: type[Any] = cls
        if cls is Path:
            kind = WindowsPath if os.name == "nt" else PosixPath
        made: Self = super().__new__(kind, *args)
        return made

    # -- questions --------------------------------------------------------------------------------

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As :meth:`pathlib.Path.stat`.

        :raises OSError: as stat(2), with errno and file name
        """
        await trio.lowlevel.checkpoint()
        return await facts(str(self), follow_symlinks, LIMITER)

    async def lstat(self) -> os.stat_result:
        """As :meth:`pathlib.Path.lstat`: of a symlink itself."""
        await trio.lowlevel.checkpoint()
        return await facts(str(self), False, LIMITER)

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """As :meth:`pathlib.Path.exists`; `follow_symlinks` also where Python has it not yet."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), is_anything, follow_symlinks, LIMITER)

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """As :meth:`pathlib.Path.is_dir`."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), stat.S_ISDIR, follow_symlinks, LIMITER)

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """As :meth:`pathlib.Path.is_file`."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), stat.S_ISREG, follow_symlinks, LIMITER)

    async def is_symlink(self) -> bool:
        """As :meth:`pathlib.Path.is_symlink`."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), stat.S_ISLNK, False, LIMITER)

    async def is_socket(self) -> bool:
        """As :meth:`pathlib.Path.is_socket`."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), stat.S_ISSOCK, True, LIMITER)

    async def is_fifo(self) -> bool:
        """As :meth:`pathlib.Path.is_fifo`."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), stat.S_ISFIFO, True, LIMITER)

    async def is_block_device(self) -> bool:
        """As :meth:`pathlib.Path.is_block_device`."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), stat.S_ISBLK, True, LIMITER)

    async def is_char_device(self) -> bool:
        """As :meth:`pathlib.Path.is_char_device`."""
        await trio.lowlevel.checkpoint()
        return await is_kind(str(self), stat.S_ISCHR, True, LIMITER)

    async def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        """As :meth:`pathlib.Path.samefile`.

        :raises OSError: one of the two cannot be asked
        """
        await trio.lowlevel.checkpoint()
        return await _path_jobs.same_file(str(self), other_path, LIMITER)

    # -- files ------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # type checkers see Trio's overloads, by mode

        async def open(
            self,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
        ) -> Any:
            """Open the file, as :func:`anyio_uring.trio.open_file`."""
            from .trio import open_file  # which imports this module

            if "b" not in str(mode):
                encoding = text_encoding(encoding)
            return await open_file(str(self), mode, buffering, encoding, errors, newline)

    async def read_bytes(self) -> bytes:
        """All bytes of the file, in one job.

        :raises OSError: as :func:`open` and read(2)
        """
        await trio.lowlevel.checkpoint()
        return await read_whole(str(self), LIMITER)

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
        await trio.lowlevel.checkpoint()
        return await _path_jobs.read_text(str(self), encoding, errors, newline, LIMITER)

    async def write_bytes(self, data: ReadableBuffer) -> int:
        """Make this the whole content of the file, in one job of a thread: once begun, it is not
        cancelled.  Returns the number of bytes.
        """
        await trio.lowlevel.checkpoint()
        return await _path_jobs.write_bytes(str(self), data, LIMITER)

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
        await trio.lowlevel.checkpoint()
        return await _path_jobs.write_text(str(self), data, encoding, errors, newline, LIMITER)

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """As :meth:`pathlib.Path.touch`."""
        await trio.lowlevel.checkpoint()
        await _path_jobs.touch(str(self), mode, exist_ok, LIMITER)

    # -- changes of directories -------------------------------------------------------------------

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """As :meth:`pathlib.Path.mkdir`."""
        await trio.lowlevel.checkpoint()
        await _path_jobs.mkdir(str(self), mode, parents, exist_ok, LIMITER)

    async def rmdir(self) -> None:
        """As :meth:`pathlib.Path.rmdir`."""
        await trio.lowlevel.checkpoint()
        await _path_jobs.rmdir(str(self), LIMITER)

    async def unlink(self, missing_ok: bool = False) -> None:
        """As :meth:`pathlib.Path.unlink`."""
        await trio.lowlevel.checkpoint()
        await _path_jobs.unlink(str(self), missing_ok, LIMITER)

    async def rename(self, target: str | os.PathLike[str]) -> Self:
        """As :meth:`pathlib.Path.rename`; returns the new path.

        :raises OSError: as rename(2), with both file names
        """
        await trio.lowlevel.checkpoint()
        await _path_jobs.rename(str(self), target, LIMITER)
        return self.__class__(target)

    async def replace(self, target: str | os.PathLike[str]) -> Self:
        """As :meth:`pathlib.Path.replace`; returns the new path."""
        await trio.lowlevel.checkpoint()
        await _path_jobs.replace(str(self), target, LIMITER)
        return self.__class__(target)

    async def symlink_to(
        self,
        target: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        target_is_directory: bool = False,
    ) -> None:
        """As :meth:`pathlib.Path.symlink_to`: this becomes a symlink to `target`."""
        await trio.lowlevel.checkpoint()
        await _path_jobs.symlink(str(self), target, target_is_directory, LIMITER)

    async def hardlink_to(
        self, target: str | bytes | os.PathLike[str] | os.PathLike[bytes]
    ) -> None:
        """As :meth:`pathlib.Path.hardlink_to`: this becomes another name of `target`."""
        await trio.lowlevel.checkpoint()
        await _path_jobs.hardlink(str(self), target, LIMITER)


@trio_path_over(pathlib.PosixPath)
class PosixPath(Path, pathlib.PurePosixPath):
    """A `Path` on a POSIX system; unlike Trio's, it can be subclassed.

    >>> from anyio_uring.trio import Path, PosixPath
    >>> isinstance(Path("/etc"), PosixPath)
    True
    """

    __slots__ = ()


@trio_path_over(pathlib.WindowsPath)
class WindowsPath(Path, pathlib.PureWindowsPath):
    """A `Path` on Windows."""

    __slots__ = ()
