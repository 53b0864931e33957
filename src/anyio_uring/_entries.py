"""The entries of a directory, and the steps of whoever goes through them: compiled, or the portable
twin.

A step costs no coroutine where the entry is there already, which decides what a long list costs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ._handle import COMPILED

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Children", "Entries", "directory_stamp", "names", "sorted_names"]


class PortableEntries:
    """An asynchronous iterator over what is held, the next one last, as long as it lasts.

    :param convert: makes of an entry what is handed out
    """

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self._chunk: list[Any] = []
        self._convert = convert

    async def _refill(self) -> Any:
        """The next entry, where none is held."""
        raise NotImplementedError

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Any]:
        return self._take()

    async def _take(self) -> Any:
        if self._chunk:
            return self._convert(self._chunk.pop())
        return await self._refill()


class PortableChildren:
    """Makes paths of names: of a class that takes ``_text`` for a path, with its ``_limiter``."""

    def __init__(self, kind: Any, limiter: Any, prefix: str) -> None:
        self._kind = kind
        self._limiter = limiter
        self._prefix = prefix

    def __call__(self, name: str) -> Any:
        kind = self._kind
        path = kind.__new__(kind)
        path._limiter = self._limiter
        path._text = self._prefix + name
        return path


class PortableNames(map):  # type: ignore[type-arg]
    """The names in a directory, without ``.`` and ``..``, as they are read."""

    entries: Any

    def sort(self, follow: bool) -> tuple[list[str], list[str]]:
        """What is left: the names of directories, and the others."""
        directories: list[str] = []
        others: list[str] = []
        for entry in self.entries:
            (directories if _is_directory(entry, follow) else others).append(entry.name)
        return directories, others

    def close(self) -> None:
        self.entries.close()


def _is_directory(entry: os.DirEntry[str], follow: bool) -> bool:
    try:
        if not entry.is_dir(follow_symlinks=follow):
            return False
        return follow or sys.version_info < (3, 12) or not entry.is_junction()
    except OSError:
        return False


def names(path: str) -> PortableNames | Names:
    """The names in a directory, as it is read.  Has `close`.

    :raises OSError: as `os.scandir`, here or at a step
    """
    if COMPILED and "\0" not in path:
        sys.audit("os.scandir", path)
        return Names(path)
    entries = os.scandir(path)
    found = PortableNames(attrgetter("name"), entries)
    found.entries = entries
    return found


def sorted_names(path: str, follow: bool) -> tuple[list[str], list[str]]:
    """The names of directories in a directory, and those of everything else, in its order.

    A symlink is a directory if to `follow` it leads to one.

    :raises OSError: as `os.scandir`
    """
    found = names(path)
    try:
        return found.sort(follow)
    finally:
        found.close()


def _no_stamp(path: str) -> None:
    """Of a directory, as the compiled form can tell it."""


if TYPE_CHECKING or not COMPILED:
    Entries = PortableEntries
    Children = PortableChildren
else:
    from ._uring import Children, Entries
if TYPE_CHECKING or COMPILED:
    from ._uring import Names, directory_stamp
else:
    directory_stamp = _no_stamp
