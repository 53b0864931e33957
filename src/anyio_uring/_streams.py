"""Byte streams of files, as ``anyio.streams.file`` has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams import file as anyio_file

from ._file import AsyncFile
from ._open import open_file

if TYPE_CHECKING:
    from os import PathLike


def _attributes(file: AsyncFile[bytes]) -> Mapping[Any, Callable[[], Any]]:
    """The typed attributes; only asking for the descriptor gives the position to the kernel."""
    if file.closed:
        raise ValueError("I/O operation on closed file")
    attribute = anyio_file.FileStreamAttribute
    return {
        attribute.file: lambda: file.wrapped,
        attribute.path: lambda: Path(file.name),
        attribute.fileno: file.fileno,
    }


async def _close(file: AsyncFile[bytes]) -> None:
    await file.aclose()
    await checkpoint_if_cancelled()


class FileReadStream(anyio_file.FileReadStream):
    """A byte stream that reads from a file; an ``anyio.streams.file.FileReadStream``.

    It has AnyIO's typed attributes: ``file`` is a synchronous file on the same descriptor.

    :param file: what is open for reading in binary mode: one of our files, or a synchronous one,
        which is then read in threads

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with await anyio_uring.FileReadStream.from_path("/etc/passwd") as stream:
    ...         return await stream.receive(4)
    >>> anyio.run(main)
    b'root'
    """

    def __init__(self, file: IO[bytes] | AsyncFile[bytes]) -> None:
        self._ours = file if isinstance(file, AsyncFile) else None
        super().__init__(file)  # type: ignore[arg-type]

    @classmethod
    async def from_path(cls, path: str | PathLike[str]) -> FileReadStream:
        """Open a file for reading.

        :raises OSError: as `open_file`
        """
        return cls(await open_file(Path(path), "rb"))

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """What AnyIO's typed attributes are served from."""
        return super().extra_attributes if self._ours is None else _attributes(self._ours)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes, up to `max_bytes`; a file gives fewer only at its end.

        :raises anyio.EndOfStream: there are no more
        :raises anyio.ClosedResourceError: the stream is closed
        :raises anyio.BrokenResourceError: from the OSError of the read
        :raises ValueError: `max_bytes` is less than 1
        """
        if self._ours is None:
            return await super().receive(max_bytes)
        if max_bytes < 1:
            raise ValueError("max_bytes must be a positive integer")
        try:
            data = await self._ours.read(max_bytes)
        except ValueError:
            raise ClosedResourceError from None
        except OSError as error:
            raise BrokenResourceError from error
        if not data:
            raise EndOfStream
        return data

    async def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Move the position and return it; `whence` as in lseek(2).

        :raises OSError: EINVAL for a position that cannot be, ESPIPE on a pipe
        """
        if self._ours is None:
            return await super().seek(position, whence)
        return await self._ours.seek(position, whence)

    async def tell(self) -> int:
        """The position in bytes.

        :raises OSError: ESPIPE on a pipe
        """
        if self._ours is None:
            return await super().tell()
        return await self._ours.tell()

    async def aclose(self) -> None:
        """Close the file, also in a cancelled scope.

        :raises OSError: what close(2) reports
        """
        if self._ours is None:
            await super().aclose()
        else:
            await _close(self._ours)


class FileWriteStream(anyio_file.FileWriteStream):
    """A byte stream that writes to a file; an ``anyio.streams.file.FileWriteStream``.

    :param file: what is open for writing in binary mode: one of our files, or a synchronous one,
        which is then written in threads

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with await anyio_uring.FileWriteStream.from_path("/dev/null") as stream:
    ...         await stream.send(b"data")
    >>> anyio.run(main)
    """

    def __init__(self, file: IO[bytes] | AsyncFile[bytes]) -> None:
        self._ours = file if isinstance(file, AsyncFile) else None
        super().__init__(file)  # type: ignore[arg-type]

    @classmethod
    async def from_path(cls, path: str | PathLike[str], append: bool = False) -> FileWriteStream:
        """Open a file for writing.

        :param append: write at the end of what is there, which is otherwise discarded
        :raises OSError: as `open_file`
        """
        return cls(await open_file(Path(path), "ab" if append else "wb"))

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """What AnyIO's typed attributes are served from."""
        return super().extra_attributes if self._ours is None else _attributes(self._ours)

    async def send(self, item: bytes) -> None:
        """Write all of `item`; it is buffered, as in a file.

        :raises anyio.ClosedResourceError: the stream is closed
        :raises anyio.BrokenResourceError: from the OSError of the write
        """
        if self._ours is None:
            await super().send(item)
            return
        try:
            await self._ours.write(item)
        except ValueError:
            raise ClosedResourceError from None
        except OSError as error:
            raise BrokenResourceError from error

    async def aclose(self) -> None:
        """Write what is buffered and close the file, also in a cancelled scope.

        :raises OSError: what write(2) and close(2) report
        """
        if self._ours is None:
            await super().aclose()
        else:
            await _close(self._ours)
