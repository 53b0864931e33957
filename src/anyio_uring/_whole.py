"""Whole jobs on one path: what it is, and all that is in it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ._errors import os_error
from ._handle import read_path_now, remember, stat_now
from ._open import OPEN_COST_BYTES, WALK_ERROR_BASE, open_file
from ._runtime import Runtime, current_runtime

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from ._ops import AnyPath

# Three system calls: as much time as copying so many bytes.  With what every operation is charged
# that is 2.5 us; a stat takes 2.1 to 2.3.
STAT_COST_BYTES = 16 << 10
# Decoding more than this holds the loop up for milliseconds: a thread does it.
DECODE_MAX = 1 << 20


async def facts(
    path: AnyPath,
    follow: bool,
    limiter: CapacityLimiter | None,
    found: os.stat_result | int | None = None,
) -> os.stat_result:
    """As `os.stat`: from memory if that is certain not to wait.

    :param found: what a crew has answered, of this path
    """
    runtime = current_runtime()
    crew = runtime.gate.crew() if found is None else None
    if crew is not None and crew.takes_stats:
        found = await crew.stat(_encoded(path, os.stat), follow)
    if found is not None:
        if not isinstance(found, int):
            return found
        if found <= WALK_ERROR_BASE:
            raise os_error(WALK_ERROR_BASE - found, path)
    meter = runtime.meter
    if meter is None or not meter.admits(STAT_COST_BYTES):
        await runtime.gate.admit(STAT_COST_BYTES)
    if meter is not None:
        remember(meter)
        found = stat_now(_encoded(path, os.stat), follow, meter)
        if not isinstance(found, int):
            return found
        if found <= WALK_ERROR_BASE:
            raise os_error(WALK_ERROR_BASE - found, path)
    return await runtime.paths.stat(path, follow, limiter)


async def read_whole(
    path: AnyPath, limiter: CapacityLimiter | None, found: bytes | int | None = None
) -> bytes:
    """All bytes of a file.

    :param found: what a crew has answered, of this path
    """
    runtime = current_runtime()
    crew = runtime.gate.crew() if found is None else None
    if crew is not None:
        found = await crew.read(_encoded(path, open))
    if found is not None:
        if isinstance(found, bytes):
            return found
        if found <= WALK_ERROR_BASE:
            raise os_error(WALK_ERROR_BASE - found, path)
    meter = runtime.meter
    if meter is None or not meter.admits(OPEN_COST_BYTES):
        await runtime.gate.admit(OPEN_COST_BYTES)
    if meter is not None:
        remember(meter)
        found = read_path_now(_encoded(path, open), meter)
        if isinstance(found, bytes):
            return found
        if found <= WALK_ERROR_BASE:
            raise os_error(WALK_ERROR_BASE - found, path)
    return await read_waiting(runtime, path, limiter)


async def read_waiting(runtime: Runtime, path: AnyPath, limiter: CapacityLimiter | None) -> bytes:
    """All bytes of a file that are not in memory, as far as can be seen."""
    if runtime.ops is runtime.threads:
        return await runtime.paths.do(partial(_read, path), limiter)
    async with await open_file(path, "rb", 0, limiter=limiter) as file:
        data: bytes = await file.readall()
        return data


def _read(path: AnyPath) -> bytes:
    with open(path, "rb", 0) as file:
        return file.readall()


async def decoded(
    runtime: Runtime,
    data: bytes,
    encoding: str,
    errors: str | None,
    newline: str | None,
    limiter: CapacityLimiter | None,
) -> str:
    """The text that a text file with this content has."""
    decoding = partial(decode, data, encoding, errors, newline)
    if len(data) <= DECODE_MAX:
        return decoding()
    return await runtime.paths.do(decoding, limiter)


def decode(data: bytes, encoding: str, errors: str | None, newline: str | None) -> str:
    """The same at once, in the thread that calls it."""
    return io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline).read()


def _encoded(path: AnyPath, refuse: Callable[[AnyPath], object]) -> bytes:
    """As the kernel is given it, which would see the part before a NUL only.

    :param refuse: refuses such a path, in the words of this version of Python
    """
    encoded = bytes(os.fsencode(path))  # not of a subclass
    if b"\0" in encoded:
        refuse(path)
        raise ValueError("embedded null byte")
    return encoded
