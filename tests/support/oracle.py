"""Comparing our files with ``io.FileIO``: the same call on both, and what came of it."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import anyio_uring

__all__ = ["CONTENT", "MODES", "Pair", "outcome"]

CONTENT = b"line one\nline two\n\nthe last line has no end"
MODES = ("rb", "r+b", "wb", "w+b", "ab", "a+b", "xb", "x+b")


async def outcome(call: Callable[[Any], Any], file: Any, name: Any = None) -> tuple[Any, ...]:
    """What a call on a file gives: its value with its type, or its error without a file name.

    FileIO names a file only if it cannot be opened.  Ours does in every OSError; with `name` that
    is checked.
    """
    try:
        value = call(file)
        if inspect.isawaitable(value):
            value = await value
    except OSError as error:
        named = name is None or isinstance(error, io.UnsupportedOperation)
        if not named and error.filename != name:
            return type(error), error.errno, f"without the file's name: {error}"
        return type(error), error.errno, error.strerror if error.errno else str(error)
    except Exception as error:  # noqa: BLE001 (it is what is being compared)
        return type(error), str(error)
    return type(value), value


class Pair:
    """A FileIO and one of our files in the same mode, on two files that begin the same."""

    def __init__(self, directory: Path, mode: str, content: bytes = CONTENT) -> None:
        self.paths = directory / "oracle", directory / "ours"
        self.mode = mode
        for path in self.paths:
            if "x" in mode:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)

    async def __aenter__(self) -> Self:
        self.oracle = io.open(self.paths[0], self.mode, buffering=0)  # noqa: SIM115, UP020
        self.ours = await anyio_uring.open_file(self.paths[1], self.mode, 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.oracle.close()
        await self.ours.aclose()

    async def same(self, call: Callable[[Any], Any], what: object = "") -> Any:
        """Do the same with both; the results must not differ, nor the positions, nor the disk."""
        expected = await outcome(call, self.oracle)
        result = await outcome(call, self.ours, str(self.paths[1]))
        assert result == expected, f"{what} in mode {self.mode}: {result} != {expected}"
        if not self.oracle.closed:
            assert await self.ours.tell() == self.oracle.tell(), f"{what} in mode {self.mode}"
        self.same_on_disk(what)
        return result

    def same_on_disk(self, what: object = "") -> None:
        sizes = [os.stat(path).st_size for path in self.paths]
        assert sizes[0] == sizes[1], f"{what} in mode {self.mode}"
        if sizes[0] < 1 << 20:
            contents = [path.read_bytes() for path in self.paths]
            assert contents[0] == contents[1], f"{what} in mode {self.mode}"
