"""The way down into a tree: directories by descriptor, so that nobody can lead it elsewhere.

A directory is opened by its name in the open directory above it, and never through a symlink, so
what is done in it happens where it was found, whatever is renamed or put in its place meanwhile.

A tree may be deeper than descriptors are many: only the lowest directories stay open.  One above
them is opened again by ``..`` of the one below, or, if that has been moved away, by the names from
the top; either way it must be the same directory as before.
"""

from __future__ import annotations

import os
import threading
from errno import ESTALE
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_needed: Any = {
    getattr(os, name, None)
    for name in ("mkdir", "open", "readlink", "rename", "rmdir", "stat", "symlink", "unlink")
}
# Whether this system has all of it.
BY_DESCRIPTOR = _needed <= os.supports_dir_fd and os.scandir in os.supports_fd

DIRECTORY = os.O_RDONLY
for _flag in ("O_DIRECTORY", "O_CLOEXEC", "O_NONBLOCK"):
    DIRECTORY |= getattr(os, _flag, 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

# So many of them stay open below the top.
OPEN_MAX = 32


class Folder:
    """A directory that is being worked on; in a copy two of them, the original and the copy.

    :ivar fds: () while it is closed
    :ivar users: who needs it open or has to do with its end: the way down, entries under way
    :ivar folders: names of directories in it that are still to be entered
    """

    __slots__ = (
        "_mutex",
        "_unwanted",
        "facts",
        "fds",
        "folders",
        "fresh",
        "identities",
        "listed",
        "name",
        "parent",
        "passes",
        "users",
    )

    def __init__(self, name: str, fds: Sequence[int], parent: Folder | None = None) -> None:
        self.name = name
        self.parent = parent
        self.fds = tuple(fds)
        found = [os.fstat(fd) for fd in fds]
        self.facts = found[0]
        self.identities = [(facts.st_dev, facts.st_ino) for facts in found]
        self.folders: list[str] = []
        self.passes: dict[str, int] = {}
        self.listed = self.fresh = False
        self.users = 1
        self._unwanted = False
        self._mutex = threading.Lock()

    def path(self, root: str) -> str:
        names = []
        folder: Folder | None = self
        while folder is not None and folder.parent is not None:
            names.append(folder.name)
            folder = folder.parent
        return os.path.join(root, *reversed(names))

    def use(self) -> None:
        with self._mutex:
            self.users += 1

    def leave(self) -> bool:
        """One user less; True for the last, who closes it."""
        with self._mutex:
            self.users -= 1
            if self.users == 1 and self._unwanted:
                self.close()
            return not self.users

    def dismiss(self) -> None:
        """Close it for now, or when the entries under way are done."""
        with self._mutex:
            self._unwanted = True
            if self.users == 1:
                self.close()

    def reopened(self, fds: Sequence[int]) -> None:
        self.fds = tuple(fds)
        self._unwanted = False

    def want(self) -> bool:
        """Keep it open; False if it is closed."""
        with self._mutex:
            self._unwanted = False
            return bool(self.fds)

    def close(self) -> None:
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)


class Descent:
    """The folders from the top to the one being worked on."""

    def __init__(self, top: Folder) -> None:
        self.folders = [top]

    @property
    def current(self) -> Folder:
        return self.folders[-1]

    def enter(self, folder: Folder) -> None:
        self.folders.append(folder)
        if len(self.folders) > OPEN_MAX + 1:
            self.folders[-1 - OPEN_MAX].dismiss()

    def back(self) -> Folder:
        """Leave the current folder, which is returned, for the one above it, opening that again.

        :raises OSError: it cannot be found any more; it is the current one all the same
        """
        below = self.folders.pop()
        above = self.current
        if not above.want():
            fds: list[int] = []
            try:
                for side in range(len(above.identities)):
                    fds.append(self._find(side, below))  # noqa: PERF401  # closed below if it fails
            except BaseException:
                for fd in fds:
                    os.close(fd)
                raise
            above.reopened(fds)
        return below

    def _find(self, side: int, below: Folder) -> int:
        """Open the current folder again."""
        above = self.current
        if below.fds:
            try:
                return _same(os.pardir, below.fds[side], above.identities[side])
            except OSError:
                pass  # it has been moved
        start = max(index for index, folder in enumerate(self.folders) if folder.fds)
        fd = os.dup(self.folders[start].fds[side])
        for folder in self.folders[start + 1 :]:
            try:
                lower = _same(folder.name, fd, folder.identities[side])
            finally:
                os.close(fd)
            fd = lower
        return fd


def open_folder(name: str, above: int, follow: bool = False) -> int:
    """A directory in an open one.

    :raises OSError: also if it is none, or, not to be followed, a symlink
    """
    return os.open(name, DIRECTORY | (0 if follow else NOFOLLOW), dir_fd=above)


def _same(name: str, above: int, identity: tuple[int, int]) -> int:
    fd = os.open(name, DIRECTORY | NOFOLLOW, dir_fd=above)
    facts = os.fstat(fd)
    if (facts.st_dev, facts.st_ino) != identity:
        os.close(fd)
        raise OSError(ESTALE, "The directory has been moved meanwhile")
    return fd
