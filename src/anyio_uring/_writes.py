"""Many files written, several at a time, many in one hop."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from ._chunks import Add, Chunk, in_parallel
from ._runtime import current_runtime

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, StrOrBytesPath

    from ._ops import AnyPath

# What one task writes, and so many tasks' worth is held at once.
BATCH_FILES = 64
BATCH_BYTES = 8 << 20


@overload
async def write_files(
    pairs: Iterable[tuple[StrOrBytesPath, ReadableBuffer]],
    *,
    return_exceptions: Literal[False] = ...,
) -> list[int]: ...


@overload
async def write_files(
    pairs: Iterable[tuple[StrOrBytesPath, ReadableBuffer]], *, return_exceptions: bool
) -> list[int | Exception]: ...


async def write_files(
    pairs: Iterable[tuple[StrOrBytesPath, ReadableBuffer]], *, return_exceptions: bool = False
) -> list[Any]:
    """Make each buffer the whole content of its file, as :meth:`Path.write_bytes` does.

    *Provisional: the signature may change in a minor version.*

    Threads write several files at a time, so of two contents for one file either may remain.
    Cancelled, or after a failure, files that have been begun are written to their end, and within
    some milliseconds no other is begun.  `pairs` is taken piece by piece, as they are written.

    :return: the sizes, in order
    :param return_exceptions: put a failure in the place of its size, and go on; False: raise the
        first one
    :raises OSError: as :func:`open` and write(2), with the file's name

    >>> import anyio, anyio_uring, os, tempfile
    >>> async def main():
    ...     with tempfile.TemporaryDirectory() as directory:
    ...         names = [os.path.join(directory, name) for name in "abc"]
    ...         return await anyio_uring.write_files((name, b"content") for name in names)
    >>> anyio.run(main)
    [7, 7, 7]
    """
    results: list[Any] = []

    async def feed(add: Add[None]) -> None:
        batch: list[tuple[AnyPath, memoryview]] = []
        size = 0
        for path, data in pairs:
            view = memoryview(data)
            batch.append((os.fspath(path), view))
            results.append(None)
            size += view.nbytes
            if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                await add(_writing(batch, results, len(results), return_exceptions))
                batch, size = [], 0
        await add(_writing(batch, results, len(results), return_exceptions))

    await current_runtime().gate.admit()
    await in_parallel(feed, _nothing)
    return results


def _nothing(_: None) -> None:
    """To be told."""


def _writing(
    batch: list[tuple[AnyPath, memoryview]], results: list[Any], end: int, go_on: bool
) -> Generator[None, None, None]:
    """Write these files; their results are the ones before `end`."""
    chunk = Chunk()
    for index, (path, view) in enumerate(batch, end - len(batch)):
        try:
            with view, open(path, "wb") as file:
                results[index] = file.write(view)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.filename is None:
                error.filename = path
            if not go_on:
                raise
            results[index] = error
        if chunk.over():
            yield
            chunk.begin()
