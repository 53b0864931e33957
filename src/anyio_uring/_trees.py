"""Trees of files copied: one thread looks for what is there, others copy it, many entries a hop.

Everything is done below two open directories, the original's and the copy's, that were found there
entry by entry: a symlink that takes the place of a directory in either tree leads nowhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from errno import EACCES, EEXIST, ELOOP, ENOTDIR
from typing import TYPE_CHECKING, Any, NamedTuple

from ._arguments import check_progress
from ._chunks import Add, Chunk, Work, in_chunks, in_parallel
from ._copy import Pair, copy_facts, copy_open, may_write, open_source, refuse_special, renamed
from ._descent import BY_DESCRIPTOR, DIRECTORY, Descent, Folder, open_folder
from ._errors import os_error
from ._many import copy_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import StrOrBytesPath

# What one task copies; the folders stay open until then.
BATCH_ENTRIES = 256
BATCH_FOLDERS = 16
# Of small files so many at a time, in compiled code, which nothing interrupts.
QUICK_FILES = 32

Batch = Generator[tuple[int, int], None, tuple[int, int]]


async def copy_tree(
    src: StrOrBytesPath,
    dst: StrOrBytesPath,
    *,
    follow_symlinks: bool = False,
    metadata: bool = True,
    dirs_exist_ok: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Copy a directory with all that is in it, as :func:`shutil.copytree`.

    *Provisional: the signature may change in a minor version.*

    Each file is copied as :func:`copy_file` does it, whole or not at all, several at a time.  Small
    files in a directory that is new have no name at all until they are complete, where the file
    system can do that (``O_TMPFILE``).
    Symlinks become symlinks, and none is followed, in neither tree, also if one takes the place of
    a directory meanwhile.  A file of `dst`, or a symlink that is in the place of a file, is
    replaced; where a symlink is to go there must be nothing, as with `shutil`.  The depth of the
    tree does not matter.

    Cancelled, it stops within some milliseconds; what has been copied stays.

    :param follow_symlinks: True: copy what the symlinks of `src` lead to, outside of it as well
    :param metadata: of files and directories, as :func:`copy_file`
    :param dirs_exist_ok: `dst` and directories in it may exist already
    :param progress: called in the task's thread with the numbers of entries and of bytes that
        have been copied so far.  An exception that it raises ends the copying
    :raises TypeError: as :func:`copy_file`
    :raises FileExistsError: there is a `dst` already
    :raises shutil.SameFileError: `src` and `dst` are the same directory
    :raises shutil.Error: after everything else has been copied: what could not be, as a list of
        ``(source, target, reason)``; FIFOs, sockets and devices among it
    :raises OSError: `src` cannot be read or `dst` not be made

    >>> import anyio, anyio_uring, tempfile
    >>> async def main():
    ...     with tempfile.TemporaryDirectory() as directory:
    ...         path = anyio_uring.Path(directory)
    ...         await (path / "original" / "deep").mkdir(parents=True)
    ...         await (path / "original" / "deep" / "file").write_bytes(b"content")
    ...         await anyio_uring.copy_tree(path / "original", path / "copy")
    ...         return await (path / "copy" / "deep" / "file").read_bytes()
    >>> anyio.run(main)
    b'content'
    """
    check_progress(progress)
    how = _How(follow_symlinks, metadata, dirs_exist_ok)
    await _copy_tree(os.fsdecode(src), os.fsdecode(dst), how, progress)


async def _copy_tree(
    source: str, target: str, how: _How, progress: Callable[[int, int], object] | None
) -> None:
    entries = size = 0

    def tell(news: tuple[int, int]) -> None:
        nonlocal entries, size
        entries += news[0]
        size += news[1]
        if progress is not None and news != (0, 0):
            progress(entries, size)

    if not BY_DESCRIPTOR:
        tell(await in_chunks(_at_once(source, target, how)))
        return
    copying = _Copying(source, target, how)

    async def feed(add: Add[tuple[int, int]]) -> None:
        async with Work(copying.walk()) as walk:
            while not await walk.next():
                for batch, folders in walk.news:
                    tell((folders, 0))
                    if batch is not None:
                        await add(batch)

    await in_parallel(feed, tell)
    if copying.errors:
        from shutil import Error

        raise Error(copying.errors)


class _How(NamedTuple):
    follow_symlinks: bool
    metadata: bool
    dirs_exist_ok: bool


def _at_once(source: str, target: str, how: _How) -> Generator[tuple[int, int], None, Any]:
    import shutil

    yield from ()  # it cannot be interrupted
    shutil.copytree(
        source,
        target,
        symlinks=not how.follow_symlinks,
        copy_function=shutil.copy2 if how.metadata else shutil.copyfile,
        dirs_exist_ok=how.dirs_exist_ok,
    )
    return 1, 0


class _Item(NamedTuple):
    """What is in a folder, and no folder.

    :ivar is_file: a regular one, as its directory says
    """

    folder: Folder
    name: str
    is_link: bool
    is_file: bool


class _Entry(Pair):
    """A file in a folder; of the same name in the copy."""

    __slots__ = ("_copying", "_folder")

    def __init__(self, copying: _Copying, folder: Folder, name: str) -> None:
        self._copying = copying
        self._folder = folder
        self.source = self.target = name
        self.source_directory, self.target_directory = folder.fds
        self.target_device = folder.identities[1][0]
        self.no_clones = copying.no_clones

    def paths(self) -> tuple[str, str]:
        return self._copying.paths(self._folder, str(self.source))


class _Copying:
    """One tree and its copy.  Its methods run in threads, `walk` in one at a time."""

    def __init__(self, source: str, target: str, how: _How) -> None:
        self._source = source
        self._target = target
        self._how = how
        self._batch: list[_Item] = []
        self._batch_folders: set[Folder] = set()
        self._folders = 0  # made since they were last told
        self._chunk = Chunk()
        self._refusing: set[tuple[int, int]] = set()  # devices that are not for `copy_chunk`
        self.no_clones: set[tuple[int, int]] = set()
        self.errors: list[tuple[str, str, str]] = []

    def paths(self, folder: Folder, name: str) -> tuple[str, str]:
        if not name:
            return folder.path(self._source), folder.path(self._target)
        return (
            os.path.join(folder.path(self._source), name),
            os.path.join(folder.path(self._target), name),
        )

    def failed(self, folder: Folder, name: str, error: OSError) -> None:
        self.errors.append((*self.paths(folder, name), str(error)))

    # -- the way through the tree -----------------------------------------------------------------

    def walk(self) -> Generator[tuple[Batch | None, int], None, None]:
        """Make the folders; yields batches of what is in them, and the number of new folders."""
        self._chunk.begin()
        top = self._open_top()
        descent = Descent(top)
        complete = False
        try:
            while True:
                folder = descent.current
                if not folder.listed:
                    folder.listed = True
                    yield from self._list(folder)
                if folder.folders:
                    self._enter(descent, folder.folders.pop())
                elif len(descent.folders) > 1:
                    self._back(descent)
                else:
                    break
                if self._chunk.over():
                    yield None, self._told()
                    self._chunk.begin()
            if self._batch or self._folders:
                yield self._flush(), self._told()
            complete = True
        finally:
            for item in self._batch:
                self._release(item.folder, complete)
            for folder in reversed(descent.folders):
                self._release(folder, complete)

    def _told(self) -> int:
        folders, self._folders = self._folders, 0
        return folders

    def _open_top(self) -> Folder:
        how = self._how
        source = os.open(self._source, DIRECTORY)
        try:
            fresh = not os.path.lexists(self._target)
            if not fresh and os.path.samefile(self._source, self._target):
                from shutil import SameFileError

                message = f"{self._source!r} and {self._target!r} are the same directory"
                raise SameFileError(message)
            os.makedirs(self._target, 0o700 if how.metadata else 0o777, how.dirs_exist_ok)
            target = os.open(self._target, DIRECTORY)
        except BaseException:
            os.close(source)
            raise
        top = Folder("", (source, target))
        top.fresh = fresh
        self._made = top.identities[1]
        return top

    def _enter(self, descent: Descent, name: str) -> None:
        above = descent.current
        fds: list[int] = []
        try:
            fds.append(open_folder(name, above.fds[0], self._how.follow_symlinks))
            facts = os.fstat(fds[0])
            identity = facts.st_dev, facts.st_ino
            if identity == self._made:
                os.close(fds.pop())  # a copy inside of its original has no copy of itself
                return
            follow = self._how.follow_symlinks  # else there are no loops
            if follow and any(identity == folder.identities[0] for folder in descent.folders):
                raise os_error(ELOOP)
            fresh = True
            try:
                os.mkdir(name, 0o700 if self._how.metadata else 0o777, dir_fd=above.fds[1])
                self._folders += 1
            except FileExistsError:
                if not self._how.dirs_exist_ok:
                    raise
                fresh = False
            try:
                fds.append(open_folder(name, above.fds[1]))
            except OSError as error:
                if fresh or error.errno not in {ENOTDIR, ELOOP}:
                    raise
                raise os_error(EEXIST) from None  # something else of this name
            folder = Folder(name, fds, above)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            path = self.paths(above, name)[1 if fds else 0]
            self.failed(above, name, renamed(error, path))
            return
        folder.fresh = fresh
        descent.enter(folder)

    def _back(self, descent: Descent) -> None:
        folder = descent.current
        try:
            descent.back()
        except OSError as error:
            lost = descent.current
            if lost.folders:
                self.failed(lost, "", renamed(error, self.paths(lost, "")[0]))
                lost.folders.clear()
        self._release(folder, True)

    def _list(self, folder: Folder) -> Iterator[tuple[Batch | None, int]]:
        try:
            entries = os.scandir(folder.fds[0])
        except OSError as error:
            self.failed(folder, "", renamed(error, self.paths(folder, "")[0]))
            return
        with entries:
            while True:
                try:
                    entry = next(entries, None)
                    if entry is None:
                        return
                    is_folder = entry.is_dir(follow_symlinks=self._how.follow_symlinks)
                    is_link = not self._how.follow_symlinks and entry.is_symlink()
                    is_file = entry.is_file(follow_symlinks=False)
                except OSError as error:
                    self.failed(folder, "", renamed(error, self.paths(folder, "")[0]))
                    return
                if is_folder:
                    folder.folders.append(entry.name)
                else:
                    folder.use()
                    self._batch.append(_Item(folder, entry.name, is_link, is_file))
                    self._batch_folders.add(folder)
                    if (
                        len(self._batch) >= BATCH_ENTRIES
                        or len(self._batch_folders) >= BATCH_FOLDERS
                    ):
                        yield self._flush(), self._told()
                        self._chunk.begin()
                if self._chunk.over():
                    yield None, self._told()
                    self._chunk.begin()

    def _flush(self) -> Batch | None:
        if not self._batch:
            return None
        batch = self._copy_batch(self._batch)
        self._batch = []
        self._batch_folders = set()
        next(batch)
        return batch

    def _release(self, folder: Folder, complete: bool) -> None:
        """One user less; the last one sets the facts of the copy, which no entry changes now."""
        if not folder.leave():
            return
        try:
            if complete and self._how.metadata and folder.fds:
                source, target = folder.fds
                copy_facts(folder.facts, source, target)
        except OSError as error:
            self.failed(folder, "", renamed(error, self.paths(folder, "")[1]))
        finally:
            folder.close()

    # -- what is in it ----------------------------------------------------------------------------

    def _copy_batch(self, batch: list[_Item]) -> Batch:
        """Yields and returns the entries and bytes that it has copied since it last did."""
        batch.reverse()
        slow: list[_Item] = []
        chunk = Chunk()
        entries = size = 0
        try:
            yield 0, 0  # begun: from here on, whatever becomes of it, it lets go of the folders
            chunk.begin()
            while batch or slow:
                if not slow:
                    number, moved = self._copy_quickly(batch, slow)
                    entries += number
                    size += moved
                else:
                    folder, name, is_link, _ = slow[-1]
                    try:
                        if is_link:
                            self._copy_link(folder, name)
                        else:
                            size += yield from self._copy_file(folder, name, chunk)
                        entries += 1
                    except OSError as error:
                        self.failed(folder, name, error)
                    slow.pop()
                    self._release(folder, True)
                if chunk.over():
                    yield entries, size
                    entries = size = 0
                    chunk.begin()
            return entries, size
        finally:
            for item in batch + slow:
                self._release(item.folder, False)

    def _copy_quickly(self, batch: list[_Item], slow: list[_Item]) -> tuple[int, int]:
        """The small files that are next, all together: how many, and their bytes.

        What is not copied in this way, the next entry at least, is moved to `slow`.
        """
        folder = batch[-1].folder
        devices = folder.identities[0][0], folder.identities[1][0]
        names: list[str] = []
        if folder.fresh and devices not in self._refusing:
            for item in reversed(batch[-QUICK_FILES:]):
                if item.folder is not folder or not item.is_file:
                    break
                names.append(item.name)
        if not names:
            slow.append(batch.pop())
            return 0, 0
        clone = devices not in self.no_clones
        source, target = folder.fds
        found, clone, refused = copy_chunk(names, source, target, self._how.metadata, clone)
        if not clone:
            self.no_clones.add(devices)
        if refused:
            self._refusing.add(devices)
        for moved in found:
            item = batch.pop()
            if moved < 0:
                slow.append(item)
            else:
                self._release(folder, True)
        copied = [moved for moved in found if moved >= 0]
        return len(copied), sum(copied)

    def _copy_file(
        self, folder: Folder, name: str, chunk: Chunk
    ) -> Generator[tuple[int, int], None, int]:
        """Yields and returns what it has copied since it last did."""
        entry = _Entry(self, folder, name)
        source, facts = open_source(entry, self._how.follow_symlinks)
        told = 0
        try:
            replaced = None if folder.fresh else self._replaced(entry, facts)
            copying = copy_open(entry, source, facts, chunk, self._how.metadata, replaced)
            with closing(copying):
                while True:
                    try:
                        done, _ = next(copying)
                    except StopIteration as end:
                        return int(end.value) - told
                    yield 0, done - told
                    told = done
        finally:
            os.close(source)

    def _replaced(self, entry: _Entry, source: os.stat_result) -> os.stat_result | None:
        """The file that the copy takes the place of, if there is one, and it may."""
        name, directory = entry.target, entry.target_directory
        try:
            facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(facts.st_mode):
            return None
        paths = entry.paths()
        if os.path.samestat(facts, source):
            from shutil import SameFileError

            raise SameFileError(f"{paths[0]!r} and {paths[1]!r} are the same file")
        refuse_special(facts.st_mode, paths[1])
        if not may_write(name, directory):
            raise os_error(EACCES, paths[1])
        return facts

    def _copy_link(self, folder: Folder, name: str) -> None:
        source, target = folder.fds
        try:
            content = os.readlink(name, dir_fd=source)
        except OSError as error:
            raise renamed(error, self.paths(folder, name)[0]) from None
        try:
            os.symlink(content, name, dir_fd=target)
        except OSError as error:
            raise renamed(error, self.paths(folder, name)[1]) from None
        if self._how.metadata:
            with suppress(FileNotFoundError):
                facts = os.stat(name, dir_fd=source, follow_symlinks=False)
                times = facts.st_atime_ns, facts.st_mtime_ns
                os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
