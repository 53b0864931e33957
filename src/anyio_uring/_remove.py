"""Trees of files removed, entry by entry, by a thread that works in chunks."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator
from contextlib import suppress
from errno import EEXIST, EINVAL, EISDIR, ELOOP, ENOTDIR, ENOTEMPTY, EPERM
from itertools import islice
from typing import TYPE_CHECKING

from ._arguments import check_progress
from ._chunks import Chunk, in_chunks
from ._descent import BY_DESCRIPTOR, DIRECTORY, Descent, Folder, open_folder

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

# So many names are read, and removed, between two looks at the clock.
NAMES_MAX = 64
# How often one entry is tried again that others keep filling or swapping.
PASSES_MAX = 16


async def remove_tree(
    path: StrOrBytesPath,
    *,
    ignore_errors: bool = False,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Remove a directory with all that is in it, as :func:`shutil.rmtree`.

    *Provisional: the signature may change in a minor version.*

    Symlinks are removed, never followed, also if one takes the place of a directory meanwhile.
    What others remove at the same time is no error, and what they add is removed too, unless
    they go on with it.  The depth of the tree does not matter.

    A thread does it, many entries in one go; cancelled, it stops within some milliseconds, and
    what is left stays.  (Where the system cannot open by descriptor, Windows, it is one job.)

    :param ignore_errors: go on, and raise no :exc:`OSError`
    :param progress: called in the task's thread with the number of entries removed so far
    :raises TypeError: as :func:`copy_file`
    :raises NotADirectoryError: `path` is no directory, or a symlink to one
    :raises OSError: of the first entry that cannot be removed, with its name

    >>> import anyio, anyio_uring, os, tempfile
    >>> async def main():
    ...     path = anyio_uring.Path(tempfile.mkdtemp())
    ...     await (path / "some" / "directory").mkdir(parents=True)
    ...     await anyio_uring.remove_tree(path)
    ...     return await path.exists()
    >>> anyio.run(main)
    False
    """
    check_progress(progress)
    root = os.fsdecode(path)
    if BY_DESCRIPTOR:
        removing = _Removal(root, ignore_errors).run()
    else:
        removing = _at_once(root, ignore_errors)
    count = await in_chunks(removing, progress)
    if progress is not None:
        progress(count)


def _at_once(path: str, ignore_errors: bool) -> Generator[int, None, int]:
    import shutil

    yield from ()  # it cannot be interrupted
    shutil.rmtree(path, ignore_errors)
    return 1


class _Removal:
    def __init__(self, path: str, ignore_errors: bool) -> None:
        self._path = path
        self._ignore_errors = ignore_errors
        self._count = 0
        self._chunk = Chunk()
        self._spared: set[Folder] = set()  # something in them could not be removed

    def run(self) -> Generator[int, None, int]:
        """Yields and returns the number of entries removed."""
        try:
            descent, name = self._start()
        except OSError as error:
            if self._ignore_errors:
                return 0
            error.filename = self._path
            raise
        try:
            self._enter(descent, name)
            while True:
                folder = descent.current
                if not folder.listed:
                    folder.listed = True
                    yield from self._empty(descent)
                if folder.folders:
                    self._enter(descent, folder.folders.pop())
                elif len(descent.folders) > 1:
                    self._leave(descent)
                else:
                    return self._count
                if self._chunk.over():
                    yield self._count
                    self._chunk.begin()
        finally:
            for folder in descent.folders:
                folder.close()

    def _start(self) -> tuple[Descent, str]:
        """The directory above the tree, and the tree's name in it."""
        directory, name = os.path.split(self._path.rstrip(os.sep) or self._path)
        if name in {"", os.curdir, os.pardir}:
            os.stat(self._path)
            raise OSError(EINVAL, "A directory cannot be removed by this name")
        fd = os.open(directory or os.curdir, DIRECTORY)
        above = Folder("", [fd])
        above.listed = True
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(ENOTDIR, "Cannot call remove_tree on a symbolic link")
            if not stat.S_ISDIR(mode):
                raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        except BaseException:
            above.close()
            raise
        return Descent(above), name

    def _enter(self, descent: Descent, name: str) -> None:
        above = descent.current
        try:
            fd = open_folder(name, above.fds[0])
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in {ENOTDIR, ELOOP} or above is descent.folders[0]:
                self._failed(descent, name, error)
            else:
                self._unlink(descent, name)  # a file now, or a symlink: it is not followed
            return
        try:
            folder = Folder(name, [fd], above if len(descent.folders) > 1 else None)
        except BaseException:
            os.close(fd)
            raise
        descent.enter(folder)

    def _empty(self, descent: Descent) -> Generator[int, None, None]:
        """Remove the files of the current folder; its directories come later."""
        folder = descent.current
        try:
            entries = os.scandir(folder.fds[0])
        except OSError as error:
            self._failed(descent, "", error)
            return
        with entries:
            while True:
                # Some file systems lose their place if names vanish while they are read: whoever
                # finds the folder not empty reads it once more
                try:
                    some = list(islice(entries, NAMES_MAX))
                except OSError as error:
                    self._failed(descent, "", error)
                    return
                if not some:
                    return
                self._unlink_files(descent, some)
                if self._chunk.over():
                    yield self._count
                    self._chunk.begin()

    def _unlink_files(self, descent: Descent, entries: list[os.DirEntry[str]]) -> None:
        folder = descent.current
        fd = folder.fds[0]
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    folder.folders.append(entry.name)
                else:
                    os.unlink(entry.name, dir_fd=fd)
                    self._count += 1
            except OSError:
                self._unlink(descent, entry.name)

    def _unlink(self, descent: Descent, name: str) -> None:
        fd = descent.current.fds[0]
        try:
            os.unlink(name, dir_fd=fd)
            self._count += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in {EISDIR, EPERM} and _is_folder_now(name, fd):
                self._again(descent, name, error)
            else:
                self._failed(descent, name, error)

    def _leave(self, descent: Descent) -> None:
        """Remove the current folder, which should be empty."""
        folder = descent.current
        try:
            descent.back()
        except OSError:
            # The one above was moved out of the tree: on with what is above that
            descent.current.folders.clear()
            folder.close()
            return
        folder.close()
        try:
            os.rmdir(folder.name, dir_fd=descent.current.fds[0])
            self._count += 1
        except FileNotFoundError:
            pass
        except OSError as error:
            if folder in self._spared:
                return  # for a reason that was told, or was to be ignored
            if error.errno in {ENOTEMPTY, EEXIST}:
                self._again(descent, folder.name, error)
            elif error.errno == ENOTDIR and len(descent.folders) > 1:
                self._unlink(descent, folder.name)
            else:
                self._failed(descent, folder.name, error)

    def _again(self, descent: Descent, name: str, error: OSError) -> None:
        """Others have filled or swapped it: once more, but not for ever."""
        folder = descent.current
        passes = folder.passes[name] = folder.passes.get(name, 0) + 1
        if passes > PASSES_MAX:
            self._failed(descent, name, error)
        else:
            folder.folders.append(name)

    def _failed(self, descent: Descent, name: str, error: OSError) -> None:
        if not self._ignore_errors:
            folders = descent.folders
            path = self._path if len(folders) == 1 else descent.current.path(self._path)
            error.filename = os.path.join(path, name) if name and len(folders) > 1 else path
            raise error
        self._spared.update(descent.folders)


def _is_folder_now(name: str, fd: int) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    return False
