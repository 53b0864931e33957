"""`TextSteps`: what the operations of a text file consist of, within one turn.

**What reading leaves behind** is decoded text and, for `tell`, the bytes that it came from with the
decoder's flags before them.  A read that does not come to its end puts both together again: it has
not moved the position, and no character is lost.

**What writing leaves behind** are encoded bytes, handed to the buffer in the portions in which
`io.TextIOWrapper` does it: other readers see the same bytes at the same time.  What the kernel has
to take of them goes in one job, so a write that has begun is whole, and one that has not leaves
the encoder as it was.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, cast

from ._buffer import Text
from ._buffered import BufferedFile
from ._coding import KEEPS_TO_CHUNKS, Coding, Position, as_flags, begin_at, is_stateless, locate
from ._errors import CLOSED, unsupported
from ._file import AsyncFile
from ._line import Turn
from ._runtime import Runtime

# As of `io.TextIOWrapper`: of reads in bytes, and the most that is kept of what is written
CHUNK_SIZE = 8192
# Reads of more characters come in pieces of so many bytes.
READ_MAX = 1 << 20
DETACHED = "underlying buffer has been detached"


class TextSteps(AsyncFile[str]):
    """A text file without its public operations."""

    __slots__ = (
        "_binary",
        "_coding",
        "_decoder",
        "_encoder",
        "_seekable",
        "_stateless",
    )

    def __init__(self, binary: BufferedFile, mode: str, coding: Coding) -> None:
        super().__init__(binary._handle, binary._name, mode, binary._limiter, binary._buffer)
        self._binary: BufferedFile | None = binary
        self._line = binary._line
        self._seekable = binary.seekable()
        self._configure(coding, CHUNK_SIZE)

    def _configure(self, coding: Coding, chunk_size: int) -> None:
        """Begin with an encoding; nothing is decoded or encoded at this time."""
        handle = self._handle
        self._coding = coding
        self._decoder: Any = coding.decoder() if handle.readable else None
        self._encoder: Any = coding.encoder() if handle.writable else None
        self._stateless = self._encoder is not None and is_stateless(self._encoder)
        self._text = Text(coding.newline, chunk_size)
        self._text.translated = coding.line_end
        self._text.decoder = self._decoder if handle.seekable else None
        self._choose_writer()
        if self._encoder is not None and self._seekable and self._position_now() != 0:
            self._encoder.setstate(0)  # no byte order mark in the middle of a file

    def _choose_writer(self) -> None:
        """Say whether `text_write_now` may serve writes."""
        coding = self._coding
        plain = self._stateless and not coding.line_buffering and not coding.write_through
        self._text.encode = self._encoder.encode if plain and self._encoder else None

    def _position_now(self) -> int:
        handle, buffer = self._handle, self._buffer
        position = handle.position
        if handle.shared or not handle.seekable:
            position = os.lseek(handle.fd, 0, os.SEEK_CUR)
        return position - buffer.unread + buffer.pending

    def _below(self) -> BufferedFile:
        if self._binary is None:
            raise ValueError(DETACHED)
        return self._binary

    def _closed_error(self, text: str = CLOSED) -> ValueError:
        return self._below()._closed_error(text)

    # -- what every operation begins with ---------------------------------------------------------

    async def _begin(self, size: int, closed: str = CLOSED) -> Runtime:
        self._below()
        return await super()._begin(size, closed)

    def _check_closed(self, text: str = CLOSED) -> None:
        self._below()
        super()._check_closed(text)

    # -- reading, within a turn -------------------------------------------------------------------

    async def _begin_reading(self, size: int) -> tuple[Runtime, Turn]:
        runtime = await self._begin(size, CLOSED + ".")
        if self._decoder is None:
            raise unsupported("not readable")
        turn = await self._take_turn(runtime)
        try:
            if self._text.size or self._buffer.pending:
                await self._write_out(runtime, turn)
        except BaseException:
            turn.leave()
            raise
        return runtime, turn

    async def _read_chunk(
        self, runtime: Runtime, turn: Turn, reading: Reading, wanted: int = 0
    ) -> bool:
        """Decode the next bytes, in place of what was decoded before; False at the end.

        :param wanted: characters; makes it read more than a chunk
        """
        binary, buffer, text = self._below(), self._buffer, self._text
        wanted = min(wanted, READ_MAX)
        size = max(text.chunk_size, int(max(self._text.ratio, 1.0) * wanted))
        if reading.chunks:
            await runtime.gate.admit(len(reading.chunks[-1]))  # a long read takes its turns, too
        data = buffer.take(size) if buffer.unread else None
        if data is None:
            data = await binary._read_once(runtime, turn, size)
            if data is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), self._name)
        chars = text.decode_chunk(self._decoder, data, self._seekable)
        reading.chunks.append(data)
        reading.decoded.append((chars, text.snapshot))
        return bool(data or chars)

    async def _read_all(self, runtime: Runtime, turn: Turn) -> str:
        text = self._text
        data = await self._below()._read_all(runtime, turn)
        if cast("bytes | None", data) is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), self._name)
        runtime.gate.spend(len(data))
        text.idle = False
        chars: str = self._decoder.decode(data, True)
        if text.unread:
            chars = text.take(text.unread) + chars
        text.decoded(None)
        self._text.snapshot = None
        return chars

    async def _read_exactly(self, runtime: Runtime, turn: Turn, reading: Reading, size: int) -> str:
        text = self._text
        chars = text.take(size)
        parts = [chars]
        rest = size - len(chars)
        while rest > 0 and await self._read_chunk(runtime, turn, reading, rest):
            chars = text.take(rest)
            parts.append(chars)
            rest -= len(chars)
        return "".join(parts)

    async def _read_line(self, runtime: Runtime, turn: Turn, reading: Reading, limit: int) -> str:
        text = self._text
        parts: list[str] = []
        rest = limit
        while True:
            while not text.chars:
                if not await self._read_chunk(runtime, turn, reading):
                    text.decoded(None)
                    self._text.snapshot = None
                    return "".join(parts)
            size = text.line_size(bool(parts) and parts[-1].endswith("\r"))
            found = size if size >= 0 else text.unread
            if limit >= 0 and found >= rest:
                parts.append(text.take(rest))
                return "".join(parts)
            if found:
                parts.append(text.take(found))
                rest -= found
            if size >= 0:
                return parts[0] if len(parts) == 1 else "".join(parts)
            text.decoded(None)

    # -- writing, within a turn -------------------------------------------------------------------

    async def _write(self, runtime: Runtime, turn: Turn, chars: str) -> None:
        text, encoder = self._text, self._encoder
        before = None if self._stateless else encoder.getstate()
        try:
            piece = self._encode(chars)
        except BaseException:
            if before is not None:
                encoder.setstate(before)
            raise
        after = None if self._stateless else encoder.getstate()
        flush = self._coding.line_buffering and ("\n" in chars or "\r" in chars)
        portions, rest = self._portions(piece, flush)
        if not portions:
            text.add(piece)
            self._forget_decoded()
            return

        def accept(kept: bytes) -> None:
            if after is not None:
                encoder.setstate(after)
            text.forget_encoded()
            if kept:
                text.add(kept)
            self._forget_decoded()

        def refuse() -> None:
            if before is not None:
                encoder.setstate(before)

        await self._hand_over(runtime, turn, portions, rest, flush, accept, refuse)

    def _encode(self, chars: str) -> bytes:
        translated = self._text.translated
        if translated is not None and "\n" in chars:
            chars = chars.replace("\n", translated)
        piece = self._encoder.encode(chars)
        if not isinstance(piece, bytes):
            raise TypeError(f"encoder should return a bytes object, not {type(piece).__name__!r}")
        return piece

    def _portions(self, piece: bytes, flush: bool) -> tuple[list[bytes], bytes]:
        """What the buffer gets now, write by write, as from `io`; and what is kept here."""
        text = self._text
        kept = [*text.encoded] if text.size else []
        portions = []
        limit = text.chunk_size - text.size if KEEPS_TO_CHUNKS else text.chunk_size - 1
        if kept and len(piece) > limit:
            portions.append(b"".join(kept))
            kept = []
        kept.append(piece)
        size = sum(map(len, kept)) if portions else text.size + len(piece)
        if size >= text.chunk_size or flush or self._coding.write_through:
            portions.append(b"".join(kept))
            kept = []
        return portions, b"".join(kept) if portions else b""

    async def _write_out(self, runtime: Runtime, turn: Turn) -> None:
        """Have all that is unwritten written; forget, as `io`, what the buffer has read ahead."""
        if self._encoder is None:
            return
        text = self._text
        portions = [b"".join(text.encoded)] if text.size else []

        def accept(kept: bytes) -> None:
            text.forget_encoded()
            if kept:
                text.add(kept)

        await self._hand_over(runtime, turn, portions, b"", True, accept, _nothing)

    async def _hand_over(
        self,
        runtime: Runtime,
        turn: Turn,
        portions: list[bytes],
        rest: bytes,
        flush: bool,
        accept: Callable[[bytes], None],
        refuse: Callable[[], None],
    ) -> None:
        """Give the buffer `portions` one by one, and let the kernel have what it would then get.

        That is a beginning of all bytes unwritten, whatever the sizes, so it goes in one job.

        :param rest: bytes of the operation that do not go to the buffer
        :param accept: called when it is done, with what stays with the text
        :param refuse: called if nothing of the operation's own bytes will be written
        """
        binary, buffer, handle = self._below(), self._buffer, self._handle
        await binary._rewind(runtime, turn)
        pending, held = buffer.unwritten(), buffer.pending
        for portion in portions:
            if len(portion) >= buffer.past:
                held = 0
            elif held + len(portion) > buffer.size:
                held = len(portion)
            else:
                held += len(portion)
        if flush:
            held = 0
        data = b"".join((pending, *portions))
        due = len(data) - held
        promised = len(pending) + self._text.size  # by operations before this one
        if not due:
            buffer.add(data[len(pending) :])
            accept(rest)
            return
        gone = 0

        def commit(moved: int | None) -> None:
            nonlocal gone
            moved = moved or 0
            buffer.written(moved)
            gone += moved
            if gone == due:
                buffer.add(data[due:])
                accept(rest)
            elif not handle.seekable and gone > promised:
                accept(data[gone:] + rest)  # a part is out: whatever comes after follows it
            else:
                refuse()
                if gone > len(pending):
                    self._text.forget_encoded()
                    if gone < promised:
                        self._text.add(data[gone:promised])

        if handle.seekable:
            await binary._transfer(runtime, turn, data[:due], commit)
        else:
            await self._hand_to_stream(runtime, turn, memoryview(data)[:due], commit)

    async def _hand_to_stream(
        self, runtime: Runtime, turn: Turn, data: memoryview, commit: Callable[[int | None], None]
    ) -> None:
        """A stream takes what it has room for."""
        while data:
            moved = await self._below()._transfer(runtime, turn, data, commit)
            data = data[moved:]

    def _forget_decoded(self) -> None:
        """After a write: what comes next begins afresh."""
        self._text.decoded(None)
        self._text.snapshot = None
        if self._decoder is not None and not self._text.idle:
            self._decoder.reset()
        self._text.idle = True

    def _flush_synchronously(self) -> None:
        if not self._handle.busy:
            self._flush_rest()

    def _flush_rest(self) -> None:
        binary, buffer, text = self._below(), self._buffer, self._text
        binary._flush_rest()
        if not text.size:
            return
        binary._step_back(buffer.drop())
        data = memoryview(b"".join(text.encoded))
        text.forget_encoded()
        while data:
            buffer.add(data[: buffer.size])
            data = data[buffer.size :]
            binary._flush_rest()

    def _publish(self) -> None:
        self._below()._publish()

    def _retire(self) -> None:
        self._below()._retire()

    # -- the position -----------------------------------------------------------------------------

    async def _tell(self, runtime: Runtime) -> int:
        position = await self._below()._tell(runtime)
        if self._decoder is None or self._text.snapshot is None:
            return position
        flags, chunk = self._text.snapshot
        start = Position(position - len(chunk), as_flags(flags))
        skipped = self._text.used if self._text.chars else 0
        if skipped:
            start = locate(self._decoder, start, chunk, skipped, self._text.ratio)
        return start.pack()

    async def _seek_end(self, runtime: Runtime, turn: Turn) -> int:
        position = await self._below()._seek(runtime, turn, 0, os.SEEK_END)
        self._forget_decoded()
        self._reset_encoder(position == 0)
        return position

    async def _seek(self, runtime: Runtime, turn: Turn, place: Position) -> None:
        """Go where decoding can begin, and decode again what is to be skipped."""
        binary, buffer, text, decoder = self._below(), self._buffer, self._text, self._decoder
        data = chunk = b""
        if place.skipped:
            if decoder is None:
                raise unsupported("read")
            # Before the position moves, so that a cancellation finds it where it was
            size = max(-(-place.fed // buffer.size), 1) * buffer.size
            data = await runtime.ops.read(binary._job(), size, place.offset) or b""
        await binary._seek(runtime, turn, place.offset, os.SEEK_SET)
        if place.skipped:
            if buffer.unread < place.fed:
                self._hold_ahead(data, place.offset)
            chunk = buffer.take(place.fed)
        text.decoded(None)
        self._text.snapshot = (place.flags, chunk)
        if decoder is not None:
            begin_at(decoder, place)
            text.idle = place.at_start
        if place.skipped:
            text.idle = False
            text.decoded(decoder.decode(chunk, place.final))
            if text.unread < place.skipped:
                raise OSError("can't restore logical file position")
            text.take(place.skipped)
        self._reset_encoder(place.at_start)

    def _hold_ahead(self, data: bytes, offset: int) -> None:
        """Have the buffer hold bytes that were read at `offset`."""
        handle, buffer = self._handle, self._buffer
        buffer.drop()
        handle.position = offset + len(data)
        if handle.shared or not handle.seekable:
            os.lseek(handle.fd, handle.position, os.SEEK_SET)
        buffer.fill(data)

    def _reset_encoder(self, at_start: bool) -> None:
        """A byte order mark belongs to the start of a file."""
        if self._encoder is None:
            return
        if at_start:
            self._encoder.reset()
        else:
            self._encoder.setstate(0)


def _nothing() -> None:
    pass


class Reading:
    """What a read began with and has consumed since, to put it together again."""

    __slots__ = ("_chars", "_snapshot", "_text", "_used", "chunks", "decoded")

    def __init__(self, text: Text) -> None:
        self._text = text
        self._chars = text.chars
        self._used = text.used
        self._snapshot = text.snapshot
        self.chunks: list[bytes] = []
        self.decoded: list[tuple[str, tuple[int, bytes] | None]] = []

    def undo(self) -> None:
        """All of it is still to be read: as if it had come in one chunk."""
        text = self._text
        if not self.decoded:
            text.decoded(self._chars, self._used)
            text.snapshot = self._snapshot
            return
        text.decoded(
            "".join((self._chars or "", *(chars for chars, _ in self.decoded))), self._used
        )
        chunks = b"".join(self.chunks)
        if self._snapshot is not None:
            text.snapshot = (self._snapshot[0], self._snapshot[1] + chunks)
        elif self.decoded[0][1] is not None:
            flags, chunk = self.decoded[0][1]
            text.snapshot = (flags, chunk + chunks[len(self.chunks[0]) :])
