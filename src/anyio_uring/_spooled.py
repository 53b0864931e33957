"""`SpooledTemporaryFile`: in memory at first, then a temporary file.

While its bytes move from the one to the other, other tasks' operations wait; if the move fails,
the file is still in memory, as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, AnyStr, cast, overload

import anyio
from anyio import CancelScope, Event
from anyio.lowlevel import checkpoint_if_cancelled

from ._file import AsyncFile
from ._temporary import TemporaryFile
from ._text import TextFile

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode, ReadableBuffer, WriteableBuffer


class SpooledTemporaryFile(anyio.SpooledTemporaryFile[AnyStr]):
    """A file in memory that becomes a temporary one when it grows; AnyIO's class of that name.

    Not to be opened: it is used as soon as it is made.  The other arguments are those of
    :class:`TemporaryFile`.

    :param max_size: bytes that stay in memory at most; 0: it moves only when told to
    :raises OSError: of the temporary file, when it moves; the data is still in memory then

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with anyio_uring.SpooledTemporaryFile(max_size=1000) as f:
    ...         await f.write(b"data" * 1000)
    ...         await f.seek(0)
    ...         return await f.read(4)
    >>> anyio.run(main)
    b'data'
    """

    _file: Any = None
    _moving: Event | None = None

    @overload
    def __init__(
        self: SpooledTemporaryFile[bytes],
        max_size: int = ...,
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
        self: SpooledTemporaryFile[str],
        max_size: int = ...,
        mode: OpenTextMode = ...,
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
        max_size: int = 0,
        mode: OpenBinaryMode | OpenTextMode = "w+b",
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
        base.__init__(max_size, *arguments, errors=errors)
        self._arguments = arguments
        self._errors = errors

    @classmethod
    def adopt(cls, file: Any) -> None:
        """Make one of these of a file of AnyIO's class that is still in memory, where there is no
        difference but in what happens when it moves.
        """
        file.__class__ = cls
        arguments = dict(file._tempfile_params)
        file._errors = arguments.pop("errors")
        file._arguments = tuple(
            arguments[name]
            for name in ("mode", "buffering", "encoding", "newline", "suffix", "prefix", "dir")
        )

    async def _place(self) -> AsyncFile[Any] | None:
        """The temporary file, or None while the data is in memory."""
        if self._file is None:
            await checkpoint_if_cancelled()
            while self._moving is not None:
                await self._moving.wait()
        return cast("AsyncFile[Any] | None", self._file)

    async def rollover(self) -> None:
        """Move to a temporary file, if that has not happened; not cancelled once it has begun.

        :raises OSError: as making and writing one
        """
        if await self._place() is not None:
            return
        self._moving = Event()
        try:
            with CancelScope(shield=True):
                file = await self._move()
            if self._fp.closed:  # meanwhile, by somebody who could not wait
                file.close()
                return
            self._file = file
            self._rolled = True
            self._fp.close()
        finally:
            self._moving.set()
            self._moving = None

    async def _move(self) -> AsyncFile[Any]:
        memory = self._fp
        position = memory.tell()
        # Bytes as they are: decoding and encoding them again might not give the same
        data = memoryview(getattr(memory, "buffer", memory).getvalue())
        file: Any = await TemporaryFile(*self._arguments, errors=self._errors).__aenter__()
        try:
            binary = file.buffer if isinstance(file, TextFile) else file
            while data:
                data = data[await binary.write(data) :]
            await file.seek(position)
        except BaseException:
            file.close()
            raise
        return cast("AsyncFile[Any]", file)

    async def aclose(self) -> None:
        """Close the file; its data is gone.  Closing twice is no error."""
        try:
            with CancelScope(shield=True):
                while self._moving is not None:
                    await self._moving.wait()
        except BaseException:
            self._fp.close()  # whoever moves it sees that
            raise
        if self._file is None:
            self._fp.close()
        else:
            await self._file.aclose()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return bool((self._file or self._fp).closed)

    @property
    def wrapped(self) -> IO[AnyStr]:
        """What is in memory, or, later, a synchronous file on the descriptor."""
        return cast("IO[AnyStr]", self._fp if self._file is None else self._file.wrapped)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fp if self._file is None else self._file, name)

    async def read(self, size: int = -1) -> AnyStr:
        """Read up to `size` bytes or characters; all that is left if it is negative."""
        file = await self._place()
        return cast(AnyStr, self._fp.read(size) if file is None else await file.read(size))

    async def read1(self: SpooledTemporaryFile[bytes], size: int = -1) -> bytes:
        """Read with at most one call of read(2)."""
        file = await self._place()
        return cast(bytes, self._fp.read1(size) if file is None else await file.read1(size))

    async def readline(self) -> AnyStr:
        """Read until a newline, or the end."""
        file = await self._place()
        return cast(AnyStr, self._fp.readline() if file is None else await file.readline())

    async def readlines(self) -> list[AnyStr]:
        """All lines that are left."""
        file = await self._place()
        lines = self._fp.readlines() if file is None else await file.readlines()
        return cast("list[AnyStr]", lines)

    async def readinto(self: SpooledTemporaryFile[bytes], b: WriteableBuffer) -> int:
        """Read into a buffer; returns the count of bytes."""
        file = await self._place()
        return cast(int, self._fp.readinto(b) if file is None else await file.readinto(b))

    async def readinto1(self: SpooledTemporaryFile[bytes], b: WriteableBuffer) -> int:
        """Read into a buffer with at most one call of read(2)."""
        file = await self._place()
        return cast(int, self._fp.readinto1(b) if file is None else await file.readinto1(b))

    async def seek(self, offset: int, whence: int | None = os.SEEK_SET) -> int:
        """Move the position and return it."""
        file = await self._place()
        if file is None:
            return cast(int, self._fp.seek(offset, whence))
        return await file.seek(offset, whence)

    async def tell(self) -> int:
        """The position."""
        file = await self._place()
        return cast(int, self._fp.tell()) if file is None else await file.tell()

    async def truncate(self, size: int | None = None) -> int:
        """Set the size in bytes, by default to the position; returns it."""
        file = await self._place()
        return cast(int, self._fp.truncate(size)) if file is None else await file.truncate(size)

    async def flush(self) -> None:
        """Hand the kernel what is buffered."""
        file = await self._place()
        if file is None:
            self._fp.flush()
        else:
            await file.flush()

    @overload
    async def write(self: SpooledTemporaryFile[bytes], b: ReadableBuffer) -> int: ...
    @overload
    async def write(self: SpooledTemporaryFile[str], b: str) -> int: ...

    async def write(self, b: ReadableBuffer | str) -> int:
        """Write, in memory as long as that is not more than `max_size`; returns the count.

        :raises OSError: as `rollover` and the write of a file
        """
        file = await self._place()
        if file is not None:
            return await file.write(b)
        count = self._fp.write(b)
        await self._check()
        return cast(int, count)

    @overload
    async def writelines(
        self: SpooledTemporaryFile[bytes], lines: Iterable[ReadableBuffer]
    ) -> None: ...
    @overload
    async def writelines(self: SpooledTemporaryFile[str], lines: Iterable[str]) -> None: ...

    async def writelines(self, lines: Iterable[str] | Iterable[ReadableBuffer]) -> None:
        """Write one after another, without adding newlines.

        :raises OSError: as `write`
        """
        file = await self._place()
        if file is not None:
            await file.writelines(lines)
            return
        self._fp.writelines(lines)
        await self._check()
