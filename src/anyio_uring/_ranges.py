"""`pread_many`: many ranges of one file, for both drivers.

What is in memory is copied at once, request by request, as `pread` would; the gate gives other
tasks their turns.  Of what is not, requests that touch are read in one operation and cut apart;
all such operations are in the kernel side by side, or go to a thread together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._ops import FileOps, Job

# Requests side by side are read in one operation up to this size in bytes: then they cost one trip
# instead of several, and a device is not kept from working on two things at once.
MERGED_MAX = 128 << 10
# A bigger request is read by itself: drivers have their own way with such.
SINGLE_MAX = 1 << 20
# So many requests at a time are looked through for such, while the ones before are in the kernel.
BLOCK = 256


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
            found |= await _read_missing(ops, job, requests, missing)
        return [found.pop(number) for number in range(len(requests))]
    finally:
        handle.leave()


async def _read_cached(
    ops: FileOps, job: Job, requests: Sequence[tuple[int, int]]
) -> dict[int, bytes]:
    handle, pace = job.handle, ops.pace
    found: dict[int, bytes] = {}
    if pace is None or not handle.now:
        return {number: b"" for number, (size, _) in enumerate(requests) if not size}
    for number, (size, offset) in enumerate(requests):
        data: bytes | None = None if size else b""
        if data is None and size <= pace.piece:
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
) -> dict[int, bytes]:
    """Read the requests of these numbers."""
    merged: list[list[int]] = []  # known to the driver by -1, -2, and so on

    def spans() -> Iterator[tuple[int, tuple[int, int]]]:
        for start in range(0, len(missing), BLOCK):
            for begin, end, numbers in _merge(requests, missing[start : start + BLOCK]):
                if len(numbers) == 1:
                    yield numbers[0], (end - begin, begin)
                else:
                    merged.append(numbers)
                    yield -len(merged), (end - begin, begin)

    alone: list[int] = []
    found = await ops.read_spans(job, spans())
    for place, numbers in enumerate(merged, 1):
        data = found.pop(-place)
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
        found |= await ops.read_spans(job, ((number, requests[number]) for number in alone))
    return found


def _merge(
    requests: Sequence[tuple[int, int]], numbers: list[int]
) -> Iterator[tuple[int, int, list[int]]]:
    """What touches or overlaps becomes one, in the order of the file: its begin and end, and which
    requests are in it.
    """
    begin, end, inside = 0, 0, list[int]()
    for offset, size, number in sorted([(requests[n][1], requests[n][0], n) for n in numbers]):
        if inside and offset <= end and offset + size - begin <= MERGED_MAX:
            end = max(end, offset + size)
            inside.append(number)
            continue
        if inside:
            yield begin, end, inside
        begin, end, inside = offset, offset + size, [number]
    if inside:
        yield begin, end, inside
