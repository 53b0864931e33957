"""Encodings and positions of text, without any file.

**A position in a text file** is a number that only says where to go on: a byte offset where
decoding can begin afresh, and in its upper bits what to do from there, if that is anything: the
decoder's flags, how many bytes to feed it (and whether the file ends with them), and how many of
the characters that come out were read already.  The fields lie where `io` puts them, so that a
position taken from one file can be used with the other.
"""

from __future__ import annotations

import codecs
import io
import os
from typing import Any, NamedTuple

# Where each field of a position ends, in bits; the first two are signed.
OFFSET_BITS, FLAGS_BITS, FED_BITS, SKIPPED_BITS, FINAL_BITS = 64, 96, 128, 160, 168
FLAGS_MASK = (1 << 32) - 1


def _keeps_to_chunks() -> bool:
    """Whether the io of this Python hands on what it holds before a write that would make it more
    than a chunk (up to 3.12), and not together with it.
    """
    below = io.BytesIO()
    wrapper = io.TextIOWrapper(below, "ascii")
    wrapper._CHUNK_SIZE = 4  # type: ignore[attr-defined]
    wrapper.write("abc")
    wrapper.write("de")
    return below.getvalue() == b"abc"


KEEPS_TO_CHUNKS = _keeps_to_chunks()


class Coding:
    """The settings of a text file, as `io.TextIOWrapper` checks and spells them.

    A wrapper over no bytes is asked, so that errors and their texts are those of the Python that
    runs, and the default encoding is, too.
    """

    __slots__ = ("_wrapper", "newline")

    def __init__(
        self,
        encoding: str | None,
        errors: str | None,
        newline: str | None,
        line_buffering: bool = False,
        write_through: bool = False,
    ) -> None:
        self._wrapper = io.TextIOWrapper(
            io.BytesIO(), encoding, errors, newline, line_buffering, write_through
        )
        self.newline = newline

    @property
    def encoding(self) -> str:
        return self._wrapper.encoding

    @property
    def errors(self) -> str:
        return self._wrapper.errors or "strict"

    @property
    def line_buffering(self) -> bool:
        return self._wrapper.line_buffering

    @property
    def write_through(self) -> bool:
        return self._wrapper.write_through

    @property
    def line_end(self) -> str | None:
        """What is written for a newline; None for itself."""
        found = os.linesep if self.newline is None else self.newline
        return None if found in {"", "\n"} else found

    def changed(self, **changes: Any) -> Coding:
        """Other settings, as ``TextIOWrapper.reconfigure`` would have them."""
        newline = changes.setdefault("newline", self.newline)
        coding = Coding(
            self.encoding, self.errors, self.newline, self.line_buffering, self.write_through
        )
        coding._wrapper.reconfigure(**changes)
        coding.newline = newline
        return coding

    def decoder(self) -> Any:
        """A new incremental decoder, which does to the ends of lines what is wanted."""
        decoder: Any = codecs.lookup(self.encoding).incrementaldecoder
        decoder = decoder(self.errors)
        if self.newline:
            return decoder
        return io.IncrementalNewlineDecoder(decoder, self.newline is None)

    def encoder(self) -> Any:
        """A new incremental encoder."""
        encoder: Any = codecs.lookup(self.encoding).incrementalencoder
        return encoder(self.errors)


def is_stateless(encoder: Any) -> bool:
    """Whether encoding a string leaves nothing behind for the next."""
    plain = codecs.IncrementalEncoder
    return type(encoder).getstate is plain.getstate and type(encoder).reset is plain.reset


class Position(NamedTuple):
    """Where to go on: seek, set the decoder's flags, feed it, skip.

    :ivar offset: in bytes
    :ivar final: the bytes fed are the last ones of the file
    """

    offset: int
    flags: int = 0
    fed: int = 0
    skipped: int = 0
    final: bool = False

    @property
    def at_start(self) -> bool:
        return self.offset == 0 and self.flags == 0

    def pack(self) -> int:
        return (
            self.offset
            | (self.flags & FLAGS_MASK) << OFFSET_BITS
            | self.fed << FLAGS_BITS
            | self.skipped << FED_BITS
            | self.final << SKIPPED_BITS
        )

    @classmethod
    def unpack(cls, number: Any) -> Position:
        """Undo `pack`.

        :raises OverflowError: too big a number
        """
        data = int(number).to_bytes(FINAL_BITS // 8, "little")

        def field(begin: int, end: int) -> int:
            return int.from_bytes(data[begin // 8 : end // 8], "little", signed=True)

        return cls(
            field(0, OFFSET_BITS),
            field(OFFSET_BITS, FLAGS_BITS),
            field(FLAGS_BITS, FED_BITS),
            field(FED_BITS, SKIPPED_BITS),
            field(SKIPPED_BITS, FINAL_BITS) != 0,
        )


def begin_at(decoder: Any, place: Position) -> None:
    """Have the decoder begin afresh; at the start of a file this forgets what newlines it saw."""
    if place.at_start:
        decoder.reset()
    else:
        decoder.setstate((b"", place.flags))


def as_flags(flags: int) -> int:
    """A decoder's flags, if they fit into a position: some codecs (iso2022_kr) have too many.

    :raises OverflowError: as `io` says it
    """
    if flags >= 1 << 31:
        raise OverflowError("signed integer is greater than maximum")
    if flags < -1 << 31:
        raise OverflowError("signed integer is less than minimum")
    return flags


def _state(decoder: Any) -> tuple[bytes, int]:
    held, flags = decoder.getstate()
    return held, as_flags(flags)


def locate(decoder: Any, start: Position, chunk: bytes, skipped: int, ratio: float) -> Position:
    """The position behind `skipped` characters of what `chunk` decodes to.

    Decoding begins afresh as late as it can.  A guess, corrected backwards, comes close with few
    calls of the decoder (with one, where each character takes as many bytes); from there it goes
    byte by byte.

    :param decoder: it is left in the state that it had
    :param start: where `chunk` begins, with the decoder's flags there
    :param ratio: about how many bytes a character takes
    :raises OSError: `chunk` does not decode to so many characters
    """
    state = decoder.getstate()
    try:
        start, begin = _come_close(decoder, start, chunk, skipped, ratio)
        if not start.skipped:
            return start
        return _walk(decoder, start, chunk[begin:])
    finally:
        decoder.setstate(state)


def _come_close(
    decoder: Any, start: Position, chunk: bytes, skipped: int, ratio: float
) -> tuple[Position, int]:
    """A place before the wanted one where the decoder holds nothing back, and its offset in
    `chunk`; the decoder is left in the state that it has there.
    """
    guess, step = int(ratio * skipped), 1
    while guess > 0:
        begin_at(decoder, start)
        count = len(decoder.decode(chunk[:guess]))
        if count > skipped:
            guess -= step
            step *= 2
            continue
        held, flags = _state(decoder)
        if not held:
            place = Position(start.offset + guess, flags, skipped=skipped - count)
            return place, guess
        guess -= len(held)
        step = 1
    begin_at(decoder, start)
    return start._replace(skipped=skipped), 0


def _walk(decoder: Any, start: Position, chunk: bytes) -> Position:
    """Feed the bytes one by one, until the characters to be skipped have come out."""
    fed = count = 0
    for byte in chunk:
        count += len(decoder.decode(bytes((byte,))))
        fed += 1
        held, flags = _state(decoder)
        if not held and count <= start.skipped:
            start = Position(start.offset + fed, flags, skipped=start.skipped - count)
            fed = count = 0
        if count >= start.skipped:
            return start._replace(fed=fed)
    count += len(decoder.decode(b"", True))
    if count < start.skipped:
        raise OSError("can't reconstruct logical file position")
    return start._replace(fed=fed, final=True)
