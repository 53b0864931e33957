"""`pread_many`: many ranges of one file, for both drivers.

What is in memory is copied at once, request by request, as `pread` would; the gate gives other
tasks their turns.  Of what is not, requests that touch are read in one operation and cut apart;
all such operations are in the kernel side by side, or go to a thread together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._ops import FileOps, Job

# Requests side by side are read in one operation up to this size in bytes: then they cost one trip
# instead of several, and a device is not kept from working on two things at once.
MERGED_MAX = 128 << 10
# A bigger request is read by itself: drivers have their own way with such.
SINGLE_MAX = 1 << 20


class _Span:
    """A range of the file, and the numbers of the requests in it."""

    __slots__ = ("begin", "end", "numbers")

    def __init__(self, begin: int, end: int, number: int) -> None:
        self.begin = begin
        self.end = end
        self.numbers = [number]


async def read_many(ops: FileOps, job: Job, requests: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of each (size, offset) in order; each is short only at the end of the file."""
    handle = job.handle
    # It is one operation of its file: a close that has begun meanwhile waits for all of it
    handle.join()
    try:
        found = await _read_cached(ops, job, requests)
        missing: list[int] = []
        for number, (size, offset) in enumerate(requests):
            if number in found:
                continue
            if size > SINGLE_MAX:
                found[number] = await ops.read(job, size, offset) or b""
            else:
                missing.append(number)
        if missing:
            await _read_missing(ops, job, requests, missing, found)
        return [found[number] for number in range(len(requests))]
    finally:
        handle.leave()


async def _read_cached(
    ops: FileOps, job: Job, requests: Sequence[tuple[int, int]]
) -> dict[int, bytes]:
    handle, pace = job.handle, ops.pace
    found: dict[int, bytes] = {}
    for number, (size, offset) in enumerate(requests):
        data: bytes | None = None if size else b""
        if data is None and pace is not None and handle.now and size <= pace.piece:
            data = handle.pread(size, offset)
            if data is None and not handle.tried:
                # Not refused by the file, but by the gate
                await pace.admit(size)
                data = handle.pread_cached(size, offset)
                if data is None:
                    pace.refund(size)
        if data is not None:
            found[number] = data
    return found


async def _read_missing(
    ops: FileOps,
    job: Job,
    requests: Sequence[tuple[int, int]],
    missing: list[int],
    found: dict[int, bytes],
) -> None:
    """Read the requests of these numbers."""
    spans = _merge(requests, missing)
    alone: list[int] = []
    datas = await ops.read_spans(job, [(span.end - span.begin, span.begin) for span in spans])
    for span, data in zip(spans, datas, strict=True):
        if len(span.numbers) == 1:
            found[span.numbers[0]] = data
            continue
        for number in span.numbers:
            size, offset = requests[number]
            begin = offset - span.begin
            if begin + size <= len(data):
                found[number] = data[begin : begin + size]
            else:
                # The end of the file; or an error, which belongs to whoever asked for that part
                alone.append(number)
    if alone:
        datas = await ops.read_spans(job, [requests[number] for number in alone])
        found.update(zip(alone, datas, strict=True))


def _merge(requests: Sequence[tuple[int, int]], numbers: list[int]) -> list[_Span]:
    """What touches or overlaps becomes one, in the order of the file."""
    spans: list[_Span] = []
    offsets = [offset for _, offset in requests]
    for number in sorted(numbers, key=offsets.__getitem__):
        size, begin = requests[number]
        end = begin + size
        last = spans[-1] if spans else None
        if last is not None and begin <= last.end and end - last.begin <= MERGED_MAX:
            last.end = max(last.end, end)
            last.numbers.append(number)
        else:
            spans.append(_Span(begin, end, number))
    return spans
