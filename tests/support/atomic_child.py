"""Writes a file atomically, again and again, until it is killed: the child of a test.

Started once with a descriptor, a backend and the tiers, it forks a writer for each line on stdin,
``MODE DURABLE PATH``, whose process id it prints.  The writer writes a byte to the descriptor
whenever it has come a bit further.  When it is dead, a second line is printed.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import anyio

from anyio_uring import atomic_write
from anyio_uring.testing import force_tiers

PIECES = 4


def content(number: int) -> bytes:
    """Any whole content is a number of 8 digits over and over."""
    return b"%08d" % number * (1024 * PIECES)


async def write(progress: int, mode: str, durable: bool, path: str) -> None:
    for number in range(10**8):
        if "x" in mode:
            with suppress(FileNotFoundError):
                os.unlink(path)
        data = content(number)
        async with atomic_write(path, mode, durable=durable) as file:
            os.write(progress, b"o")
            for begin in range(0, len(data), len(data) // PIECES):
                await file.write(data[begin : begin + len(data) // PIECES])
                os.write(progress, b"w")
        os.write(progress, b"c")


def main(progress: int, backend: str, tiers: list[str]) -> None:
    for line in sys.stdin:
        mode, durable, path = line.rstrip("\n").split(" ", 2)
        child = os.fork()
        if child == 0:
            with force_tiers(*tiers):
                anyio.run(write, progress, mode, durable == "True", path, backend=backend)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
