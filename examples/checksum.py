"""SHA-256 of files and whole trees, many at once; `sha256sum -c` reads what it prints.

    python examples/checksum.py PATH...  > SUMS
    sha256sum -c SUMS

Small files come from `anyio_uring.iter_files`, which reads ahead; big ones are read and hashed
piece by piece, so that memory stays bounded.  A bar on a terminal, nothing in a pipe; exit code 1
if something could not be read, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from itertools import groupby

import anyio
import anyio.to_thread

import anyio_uring

# Files up to this size are read whole.
SMALL = 1 << 20
# Big files are read and hashed in pieces of this size.
PIECE = 4 << 20
# Paths whose sizes are asked for at once.
BATCH = 1000


class Progress:
    """A line on a terminal that says how much has been done."""

    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.visible = sys.stderr.isatty()

    def add(self, size: int) -> None:
        self.files += 1
        self.bytes += size
        if self.visible and self.files % 100 == 0:
            self.show("\r")

    def show(self, end: str) -> None:
        if self.visible:
            print(f"\r{self.files} files, {self.bytes >> 20} MiB", end=end, file=sys.stderr)


async def files_below(path: anyio_uring.Path) -> AsyncIterator[str]:
    """The path itself, or the regular files in the tree, in the order in which they are found."""
    if not await path.is_dir():
        yield str(path)
        return
    batch: list[str] = []
    async for found in path.rglob("*"):
        batch.append(str(found))
        if len(batch) == BATCH:
            for regular in await regular_files(batch):
                yield regular
            batch.clear()
    for regular in await regular_files(batch):
        yield regular


async def regular_files(paths: Sequence[str]) -> list[str]:
    facts = await anyio_uring.stat_files(paths, follow_symlinks=False, return_exceptions=True)
    return [
        path
        for path, result in zip(paths, facts, strict=True)
        if isinstance(result, OSError) or stat.S_ISREG(result.st_mode)
    ]


async def hash_big(path: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    async with await anyio_uring.open_file(path, "rb", buffering=0) as file:
        while data := await file.read(PIECE):
            # hashlib lets the interpreter go on meanwhile, but this task waits for it
            await anyio.to_thread.run_sync(digest.update, data)
            size += len(data)
    return digest.hexdigest(), size


async def digests(paths: Sequence[str]) -> AsyncGenerator[tuple[str, str | OSError, int], None]:
    """(path, digest or error, bytes), in order."""
    facts = await anyio_uring.stat_files(paths, return_exceptions=True)

    def is_small(index: int) -> bool:
        found = facts[index]
        return not isinstance(found, OSError) and found.st_size <= SMALL

    for small, run in groupby(range(len(paths)), is_small):
        names = [paths[index] for index in run]
        if not small:
            for name in names:
                try:
                    digest, size = await hash_big(name)
                    yield name, digest, size
                except OSError as error:
                    yield name, error, 0
            continue
        async with anyio_uring.iter_files(names) as contents:
            for name in names:
                try:
                    _, data = await anext(contents)
                    yield name, hashlib.sha256(data).hexdigest(), len(data)
                except OSError as error:
                    yield name, error, 0


def line(path: str, digest: str) -> str:
    """As sha256sum writes it: a name with a line break or a backslash is escaped, and marked."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == path else chr(92)}{digest}  {escaped}"


async def report(paths: Sequence[str], progress: Progress) -> bool:
    """Print the digests; whether something could not be read."""
    failed = False
    # What holds files open inside of an asynchronous generator must not wait for the collector
    async with aclosing(digests(paths)) as found:
        async for name, result, size in found:
            if isinstance(result, OSError):
                failed = True
                print(f"{name}: {result.strerror}", file=sys.stderr)
            else:
                text = line(name, result) + "\n"
                sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            progress.add(size)
    return failed


async def main(paths: Sequence[str]) -> int:
    progress, failed = Progress(), False
    for path in paths:
        batch: list[str] = []
        async for name in files_below(anyio_uring.Path(path)):
            batch.append(name)
            if len(batch) == BATCH:
                failed |= await report(batch, progress)
                batch = []
        failed |= await report(batch, progress)
    sys.stdout.flush()
    progress.show("\n")
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", metavar="PATH")
    try:
        sys.exit(anyio.run(main, parser.parse_args().paths))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter's end would tell it
        sys.exit(1)
