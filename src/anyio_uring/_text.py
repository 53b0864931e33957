"""`TextFile`: characters and lines over a buffered file.

**One turn covers both layers.**  A text file has no waiting line of its own: an operation takes the
turn of the `BufferedFile` below and uses that file's steps, so text and bytes of one file stay in
order, whichever of the two is asked.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Iterable
from operator import index
from typing import IO, TYPE_CHECKING, Any, cast

import anyio

from ._arguments import as_size
from ._buffer import LineIterator, text_read_now, text_readline_now, text_write_now
from ._buffered import BufferedFile
from ._coding import Position
from ._errors import CLOSED, unsupported
from ._handle import Handle, close_quick, closes_quickly, plain_attributes
from ._runtime import current_runtime
from ._text_steps import Reading, TextSteps

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ._file import Advice

ON_BUFFER = "the positional methods of a text file are on its buffer"
READ_BEFORE = "It is not possible to set the encoding or newline of stream after the first read"


class TextFile(TextSteps):
    """A file opened in a text mode."""

    __slots__ = ()

    # -- what a synchronous file tells ------------------------------------------------------------

    @property
    def name(self) -> Any:
        return self._below().name

    @property
    def mode(self) -> str:
        """The mode as it was given."""
        return self._mode

    @property
    def buffer(self) -> BufferedFile:
        """The binary file below, always the same one; bytes that it gives are not decoded."""
        binary = self._binary
        if binary is not None:
            binary._above = weakref.ref(self)
        return cast("BufferedFile", binary)  # None once it was detached, as in `io`

    @property
    def encoding(self) -> str:
        """The name of the encoding."""
        return self._coding.encoding

    @property
    def errors(self) -> str:
        """The name of the error handler of encoder and decoder."""
        return self._coding.errors

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The ends of lines met so far, if they are translated or all known."""
        self._below()
        return cast("str | tuple[str, ...] | None", getattr(self._decoder, "newlines", None))

    @property
    def line_buffering(self) -> bool:
        """Whether a write with a newline is flushed."""
        return self._coding.line_buffering

    @property
    def write_through(self) -> bool:
        """Whether encoded bytes go to the buffer at once."""
        return self._coding.write_through

    @property
    def _CHUNK_SIZE(self) -> int:  # noqa: N802 (the name that `io` gave it)
        return self._text.chunk_size

    @_CHUNK_SIZE.setter
    def _CHUNK_SIZE(self, size: int) -> None:  # noqa: N802
        if size <= 0:
            raise ValueError("a strictly positive integer is required")
        self._text.chunk_size = size

    @property
    def closed(self) -> bool:
        return self._below().closed

    @property
    def wrapped(self) -> IO[str]:
        binary = self._below()
        if self._handle.twin is None:
            self._check_closed()
            self._flush_synchronously()
        return cast("IO[str]", binary.wrapped)

    def fileno(self) -> int:
        return self._below().fileno()

    def isatty(self) -> bool:
        return self._below().isatty()

    def readable(self) -> bool:
        return self._below().readable()

    def writable(self) -> bool:
        return self._below().writable()

    def seekable(self) -> bool:
        return self._below().seekable()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__module__}.{type(self).__name__} name={self._name!r} "
            f"mode={self._mode!r} encoding={self.encoding!r}>{self._state()}"
        )

    # -- settings ---------------------------------------------------------------------------------

    def reconfigure(
        self,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = ...,  # type: ignore[assignment]
        line_buffering: bool | None = None,
        write_through: bool | None = None,
    ) -> None:
        """Change settings, after a flush; synchronous, so it may block.

        :raises io.UnsupportedOperation: encoding, errors or newline after the first read
        :raises anyio.BusyResourceError: an operation of this file is under way
        """
        binary, text = self._below(), self._text
        changes: dict[str, Any] = {
            "encoding": encoding,
            "errors": errors,
            "line_buffering": line_buffering,
            "write_through": write_through,
        }
        if cast(Any, newline) is not ...:
            changes["newline"] = newline
        other = encoding is not None or errors is not None or "newline" in changes
        if text.chars is not None and other:
            raise unsupported(READ_BEFORE)
        coding = self._coding.changed(**changes)
        self._check_closed(CLOSED + ".")
        if self._handle.busy:
            raise anyio.BusyResourceError("using")
        self._flush_synchronously()
        if self._handle.writable:
            binary._forget_ahead()
        if other:
            self._configure(coding, text.chunk_size)
        else:
            self._coding = coding
            self._choose_writer()

    def detach(self) -> BufferedFile:
        """Flush, give up the binary file below and return it; this file is of no use then.

        Synchronous, as `reconfigure`.  Text that was decoded ahead is lost, as with `io`.

        :raises anyio.BusyResourceError: an operation of this file is under way
        """
        binary = self._below()
        self._check_closed(CLOSED + ".")
        if self._handle.busy:
            raise anyio.BusyResourceError("using")
        self._flush_synchronously()
        self._binary = None
        self._text.decoded(None)
        self._handle = Handle(-1, self._handle.open_flags)
        return binary

    async def pread(self, size: int, offset: int) -> bytes:
        """Its `buffer` has it.

        :raises io.UnsupportedOperation: always
        """
        raise unsupported(ON_BUFFER)

    async def preadinto(self, buffer: WriteableBuffer, offset: int) -> int:
        """Its `buffer` has it.

        :raises io.UnsupportedOperation: always
        """
        raise unsupported(ON_BUFFER)

    async def pread_many(self, requests: Iterable[tuple[int, int]]) -> list[bytes]:
        """Its `buffer` has it.

        :raises io.UnsupportedOperation: always
        """
        raise unsupported(ON_BUFFER)

    async def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        """Its `buffer` has it.

        :raises io.UnsupportedOperation: always
        """
        raise unsupported(ON_BUFFER)

    async def allocate(self, offset: int, size: int, *, keep_size: bool = False) -> None:
        await self._below().allocate(offset, size, keep_size=keep_size)

    async def advise(self, advice: Advice, offset: int = 0, size: int = 0) -> None:
        await self._below().advise(advice, offset, size)

    # -- reading ----------------------------------------------------------------------------------

    async def read(self, size: int | None = -1) -> str:
        """Read `size` characters, fewer only at the end; all that is left if it is negative or
        None.

        :raises UnicodeDecodeError: the bytes are not of this encoding
        :raises io.UnsupportedOperation: not opened for reading
        """
        chars = text_read_now(self, size)
        if chars is not None:
            return chars
        size = as_size(size)
        runtime, turn = await self._begin_reading(max(size, 0))
        reading = Reading(self._text)
        try:
            if size < 0:
                return await self._read_all(runtime, turn)
            return await self._read_exactly(runtime, turn, reading, size)
        except UnicodeError:
            raise
        except BaseException:
            reading.undo()
            raise
        finally:
            turn.leave()

    async def readline(self, size: int = -1) -> str:
        """Read until the end of a line, that included, or of the file, or `size` characters."""
        if size == -1:
            line = text_readline_now(self)
            if line is not None:
                return line
        limit = index(size)
        runtime, turn = await self._begin_reading(0)
        reading = Reading(self._text)
        try:
            return await self._read_line(runtime, turn, reading, limit)
        except UnicodeError:
            raise
        except BaseException:
            reading.undo()
            raise
        finally:
            turn.leave()

    def __aiter__(self) -> AsyncIterator[str]:
        return cast("AsyncIterator[str]", LineIterator(self, self._next_line))

    async def _next_line(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def read1(self, size: int = -1) -> bytes:
        """Binary files have it.

        :raises AttributeError: always
        """
        raise AttributeError("'TextFile' object has no attribute 'read1'")

    async def readinto(self, b: WriteableBuffer) -> int:
        """Binary files have it.

        :raises AttributeError: always
        """
        raise AttributeError("'TextFile' object has no attribute 'readinto'")

    async def readinto1(self, b: WriteableBuffer) -> int:
        """Binary files have it.

        :raises AttributeError: always
        """
        raise AttributeError("'TextFile' object has no attribute 'readinto1'")

    # -- writing ----------------------------------------------------------------------------------

    async def write(self, b: ReadableBuffer | str) -> int:
        """Write a string; returns the number of its characters.

        :raises TypeError: not a string
        :raises UnicodeEncodeError: not of this encoding; nothing is written then
        :raises io.UnsupportedOperation: not opened for writing
        """
        count = text_write_now(self, b)
        if count is not None:
            return count
        if not isinstance(b, str):
            given: Any = b
            name = "None" if given is None else type(b).__name__
            raise TypeError(f"write() argument must be str, not {name}")
        runtime = await self._begin(len(b), CLOSED + ".")
        if self._encoder is None:
            raise unsupported("not writable")
        turn = await self._take_turn(runtime)
        try:
            await self._write(runtime, turn, b)
        finally:
            turn.leave()
        return len(b)

    async def truncate(self, size: int | None = None) -> int:
        """Set the size of the file in bytes, by default to the position of `buffer`, which may be
        behind this file's own: call `seek` with `tell` before, if that is meant.
        """
        await self.flush()
        return await self._below().truncate(size)

    async def flush(self) -> None:
        """Hand the kernel all that is unwritten."""
        runtime = await self._begin(0, CLOSED + ".")
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
        finally:
            turn.leave()

    async def _sync(self, datasync: bool) -> None:
        await self.flush()
        await self._below()._sync(datasync)

    # -- the position -----------------------------------------------------------------------------

    async def tell(self) -> int:
        """Where to `seek` to come back here: a number that says nothing else.

        :raises io.UnsupportedOperation: a stream
        """
        runtime = await self._begin(0, CLOSED + ".")
        if not self._seekable:
            raise unsupported("underlying stream is not seekable")
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
            return await self._tell(runtime)
        finally:
            turn.leave()

    async def seek(self, offset: int, whence: int | None = os.SEEK_SET) -> int:
        """Go to where `tell` was asked, to the start (0), or with `whence` to the end (0, 2).

        :raises ValueError: a negative position
        :raises io.UnsupportedOperation: other distances from here or from the end, or a stream
        """
        whence = index(whence)  # type: ignore[arg-type]
        runtime = await self._begin(0, CLOSED + ".")
        if not self._seekable:
            raise unsupported("underlying stream is not seekable")
        if whence == os.SEEK_CUR and offset != 0:
            raise unsupported("can't do nonzero cur-relative seeks")
        if whence == os.SEEK_END and offset != 0:
            raise unsupported("can't do nonzero end-relative seeks")
        if not 0 <= whence <= os.SEEK_END:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if whence == os.SEEK_SET and offset < 0:
            raise ValueError(f"negative seek position {offset!r}")
        turn = await self._take_turn(runtime)
        try:
            await self._write_out(runtime, turn)
            if whence == os.SEEK_END:
                return await self._seek_end(runtime, turn)
            if whence == os.SEEK_CUR:
                offset = await self._tell(runtime)
            await self._seek(runtime, turn, Position.unpack(offset))
            return offset
        finally:
            turn.leave()

    # -- closing ----------------------------------------------------------------------------------

    @closes_quickly
    async def aclose(self) -> None:
        if close_quick(self):
            return
        if self.closed:
            return
        interrupted: BaseException | None = None
        try:
            if self._text.size or self._buffer.pending:
                interrupted = await self._flush_finally(current_runtime())
        finally:
            await super().aclose()
        if interrupted is not None:
            raise interrupted

    def close(self) -> None:
        self._below()._check_attached()
        super().close()


plain_attributes(TextFile)
