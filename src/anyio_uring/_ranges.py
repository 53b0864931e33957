"""`pread_many`: many ranges of one file, for both drivers.

What is in memory is copied at once, request by request, as `pread` would; the gate gives other
tasks their turns.  Of what is not, requests that touch are read in one operation and cut apart;
all such operations are in the kernel side by side, or go to a thread together.
"""

from __future__ import annotations

from itertools import chain, repeat
from operator import index
from typing import TYPE_CHECKING, cast

from ._handle import COMPILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._ops import FileOps, Job, Span

# Requests side by side are read in one operation up to this size in bytes: then they cost one trip
# instead of several, and a device is not kept from working on two things at once.
MERGED_MAX = 128 << 10
# A bigger request is read by itself: drivers have their own way with such.
SINGLE_MAX = 1 << 20
# So many requests at a time are looked through for such, while the ones before are in the kernel.
BLOCK = 256


def ranges_of(
    requests: Iterable[tuple[int, int]],
) -> tuple[list[tuple[int, int]], tuple[int, int, int]]:
    """A list of the pairs; their least size, their least offset, and the greatest of either."""
    known = plain_ranges(requests)
    if known is not None:
        return known
    pairs = [(index(size), index(offset)) for size, offset in requests]
    if not pairs:
        return pairs, (0, 0, 0)
    sizes, offsets = zip(*pairs, strict=True)
    return pairs, (min(sizes), min(offsets), max(*sizes, *offsets))


async def read_many(ops: FileOps, job: Job, requests: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of each (size, offset) in order; each is short only at the end of the file."""
    handle = job.handle
    # It is one operation of its file: a close that has begun meanwhile waits for all of it
    handle.join()
    try:
        found = await _read_cached(ops, job, requests)
        missing = [number for number, data in enumerate(found) if data is None]
        if missing:
            await _read_missing(ops, job, requests, missing, found)
        return cast("list[bytes]", found)
    finally:
        handle.leave()


async def _read_cached(
    ops: FileOps, job: Job, requests: list[tuple[int, int]]
) -> list[bytes | None]:
    """Of each request what is in memory, or None."""
    handle, pace = job.handle, ops.pace
    found: list[bytes | None] = [None if size else b"" for size, _ in requests]
    if pace is None or not handle.now:
        return found
    for number, (size, offset) in enumerate(requests):
        if not 0 < size <= pace.piece:
            continue
        data = handle.pread(size, offset)
        if data is None and not handle.tried:
            # Not refused by the file, but by the gate
            await pace.admit(size)
            data = handle.pread_cached(size, offset)
            if data is None:
                pace.refund(size)
        found[number] = data
    return found


async def _read_missing(
    ops: FileOps,
    job: Job,
    requests: list[tuple[int, int]],
    missing: list[int],
    found: list[bytes | None],
) -> None:
    """Read the requests of these numbers."""
    small = [number for number in missing if requests[number][0] <= SINGLE_MAX]
    if len(small) < len(missing):
        for number in missing:
            size, offset = requests[number]
            if size > SINGLE_MAX:
                found[number] = await ops.read(job, size, offset) or b""
    alone: list[int] = []
    merged = await ops.read_spans(job, _spans(requests, small), found)
    while merged:
        numbers, data = merged.pop()  # so that nothing is held twice for long
        first = requests[numbers[0]][1]
        for number in numbers:
            size, offset = requests[number]
            begin = offset - first
            if begin + size <= len(data):
                found[number] = data[begin : begin + size]
            else:
                # The end of the file; or an error, which belongs to whoever asked for that part
                alone.append(number)
    if alone:
        await ops.read_spans(job, _apart(requests, alone, 0), found)


def _spans(requests: list[tuple[int, int]], numbers: list[int]) -> Iterator[Span]:
    """As ranges, made block by block: by compiled code alone, which no signal's handler interrupts,
    since completions ask for them.
    """
    blocks = [numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK)]
    return chain.from_iterable(map(touching, repeat(requests), blocks, repeat(MERGED_MAX)))


def _apart(requests: list[tuple[int, int]], numbers: list[int], most: int) -> list[Span]:
    """Each by itself: a thread pays nothing for one call more."""
    return [([number], *requests[number]) for number in numbers]


def _none_is_plain(requests: object) -> None:
    return None


if TYPE_CHECKING or COMPILED:
    from ._uring import plain_ranges, touching
else:
    plain_ranges = _none_is_plain
    touching = _apart
