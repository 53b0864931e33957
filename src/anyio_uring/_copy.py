"""Copies of files: cloned, copied by the kernel, or read and written, whichever can be had.

The kernel offers none of it asynchronously (FICLONE, copy_file_range(2)), so threads do it, chunk
by chunk.  A copy is written under a name of its own beside its target and renamed when it is
complete: whatever ends it early, a crash of the machine excepted, the target is what it was.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from errno import EINVAL, EISDIR, ENODATA, ENOENT, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, EXDEV
from typing import TYPE_CHECKING, Any

from ._arguments import check_progress
from ._chunks import Chunk, in_chunks
from ._errors import os_error

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

    from ._ops import AnyPath

# linux/fs.h: _IOW(0x94, 9, int)
FICLONE = 0x40049409
# One call of copy_file_range(2) cannot be interrupted, and may take 10 ms for this.
PIECE_BYTES = 8 << 20
BUFFER_BYTES = 1 << 20
# Of FICLONE: never between these two file systems.
NO_CLONES = frozenset({errno.ENOTSUP, EOPNOTSUPP, ENOTTY, EXDEV, ENOSYS})
# Of copy_file_range(2): not with these files, on some file system or kernel.  What is wrong with
# the files themselves, reading and writing find out as well.
NO_RANGES = NO_CLONES | {errno.EBADF, EINVAL, errno.EIO, EPERM, errno.ETXTBSY}
# Of attributes that cannot be had or set, as `shutil.copystat` ignores them.
NO_ATTRIBUTES = frozenset({errno.ENOTSUP, EOPNOTSUPP, ENODATA, EINVAL, EPERM, errno.EACCES})
BY_DESCRIPTOR = sys.platform == "linux"
DATA: Any = getattr(os, "SEEK_DATA", None)
HOLE: Any = getattr(os, "SEEK_HOLE", None)
_FLAGS = os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else getattr(os, "O_NOINHERIT", 0)
_FLAGS |= getattr(os, "O_BINARY", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
READ = os.O_RDONLY | _FLAGS
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW | _FLAGS


async def copy_file(
    src: StrOrBytesPath,
    dst: StrOrBytesPath,
    *,
    follow_symlinks: bool = True,
    metadata: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Copy a file's content, as :func:`shutil.copyfile`, but whole or not at all.

    The copy shares the blocks of the original where the file system can do that (btrfs, xfs), is
    copied by the kernel where possible, and has the original's holes.  Until it is complete it has
    a name of its own in the directory of `dst` (``.copy-*.tmp``), then it takes the place of
    `dst`: a copy that is cancelled or fails, or whose process is killed, leaves `dst` untouched.
    What was `dst` before remains under its other hard links; its permission bits, its extended
    attributes and, where that is allowed, its owner pass to the copy.  A symlink `dst` is written
    through.

    Threads do it, in chunks of some milliseconds; cancelled, it ends with the current chunk.  Of a
    file that grows meanwhile, the size that it had at first is copied.

    :param follow_symlinks: False: of a symlink, a symlink is made
    :param metadata: times, permission bits and extended attributes too, as :func:`shutil.copystat`
    :param progress: called in the task's thread with the bytes copied and their number in all;
        the last time when the copy is in its place.  An exception that it raises ends the copying,
        but for the last time
    :raises shutil.SameFileError: `src` and `dst` are the same file
    :raises TypeError: what is no path, or no `progress` that can be called; an async function is
        not, since nobody would await it
    :raises shutil.SpecialFileError: one is a FIFO, or `src` a socket or device
    :raises OSError: what concerns only one of the files has its name, else both

    >>> import anyio, anyio_uring, os, tempfile
    >>> async def main():
    ...     with tempfile.TemporaryDirectory() as directory:
    ...         copy = os.path.join(directory, "copy")
    ...         await anyio_uring.copy_file("/etc/passwd", copy)
    ...         return (await anyio_uring.Path(copy).read_bytes())[:4]
    >>> anyio.run(main)
    b'root'
    """
    check_progress(progress)
    copying = _copying(os.fspath(src), os.fspath(dst), follow_symlinks, metadata)
    tell = None if progress is None else lambda news: progress(*news)
    size = await in_chunks(copying, tell)
    if progress is not None and size is not None:
        progress(size, size)


def _copying(
    source: AnyPath, target: AnyPath, follow: bool, metadata: bool
) -> Generator[tuple[int, int], None, int | None]:
    """Yields what is done, of what total, and returns the size; None: it was a symlink."""
    import shutil

    _refuse_pair(source, target)
    facts = os.stat(source) if follow else os.lstat(source)
    if stat.S_ISLNK(facts.st_mode):
        os.symlink(os.readlink(os.fsdecode(source)), target)
        if metadata:
            shutil.copystat(source, target, follow_symlinks=False)
        return None
    refuse_special(facts.st_mode, source)
    pair = Pair(source, target)
    descriptor, facts = open_source(pair, follow=True)
    try:
        place = _Place(target)
        try:
            pair.set_target(place.directory, place.name)
            if place.device is not None:
                # Nothing can be put in the place of /dev/null
                return (yield from transfer(pair, descriptor, facts, place.device, Chunk(), True))
            return (yield from copy_open(pair, descriptor, facts, Chunk(), metadata, place.facts))
        finally:
            place.close()
    finally:
        os.close(descriptor)


def _refuse_pair(source: AnyPath, target: AnyPath) -> None:
    """Raise if they are one file, or one of them is a FIFO."""
    from shutil import SameFileError

    found = []
    for path in (source, target):
        try:
            found.append((path, os.stat(path)))
        except OSError:
            continue  # told later, if it matters
    if len(found) == 2 and os.path.samestat(found[0][1], found[1][1]):
        raise SameFileError(f"{source!r} and {target!r} are the same file")
    for path, facts in found:
        if stat.S_ISFIFO(facts.st_mode):
            refuse_special(facts.st_mode, path)


def refuse_special(mode: int, path: AnyPath) -> None:
    """Raise if this is no regular file, before an open could wait or have an effect."""
    from shutil import SpecialFileError

    kinds = [
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
    ]
    for is_kind, name in kinds:
        if is_kind(mode):
            raise SpecialFileError(f"`{os.fsdecode(path)}` is {name}")
    if stat.S_ISDIR(mode):
        raise os_error(EISDIR, path)


class Pair:
    """A file and what is to become its copy, with their names for errors."""

    __slots__ = (
        "_paths",
        "no_clones",
        "source",
        "source_directory",
        "target",
        "target_device",
        "target_directory",
    )

    def __init__(self, source: AnyPath, target: AnyPath) -> None:
        self._paths: tuple[AnyPath, AnyPath] = (source, target)
        self.source: AnyPath = source
        self.target: AnyPath = target
        self.source_directory: int | None = None
        self.target_directory: int | None = None
        self.target_device = -1
        self.no_clones: set[tuple[int, int]] = set()  # devices that share no blocks

    def set_target(self, directory: int | None, name: AnyPath) -> None:
        self.target_directory, self.target = directory, name

    def paths(self) -> tuple[AnyPath, AnyPath]:
        return self._paths

    def source_error(self, error: OSError) -> OSError:
        return renamed(error, self.paths()[0])

    def target_error(self, error: OSError) -> OSError:
        return renamed(error, self.paths()[1])

    def error(self, error: OSError) -> OSError:
        """Of an operation on both."""
        return renamed(error, *self.paths())


def renamed(error: OSError, path: AnyPath, other: AnyPath | None = None) -> OSError:
    """The same error, of the files that the caller knows."""
    known = error.errno, error.strerror, path
    if other is None:
        return OSError(*known)
    return OSError(*known, getattr(error, "winerror", None), other)


class _Place:
    """Where a copy goes: its directory, held open where that can be, and what is there now."""

    def __init__(self, path: AnyPath) -> None:
        self.directory: int | None = None
        self.name: AnyPath
        self.device: int | None = None
        self.facts: os.stat_result | None = None
        try:
            self._look(path)
            real = os.path.realpath(path) if os.path.islink(path) else path
            directory, self.name = os.path.split(real)
            if not self.name:  # as open() would: "directory/" is no file
                raise os_error(ENOENT, path)
            if BY_DESCRIPTOR:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                self.directory = os.open(directory or os.curdir, flags)
            else:
                self.name = real
        except OSError as error:
            self.close()
            raise renamed(error, path) from None
        except BaseException:
            self.close()
            raise

    def _look(self, path: AnyPath) -> None:
        """At what is there; whoever may not write it may not replace it."""
        try:
            facts = os.stat(path)
        except FileNotFoundError:
            return
        if stat.S_ISREG(facts.st_mode):
            self.facts = facts
            # Not opened if it may be: overlayfs would copy it up
            if not may_write(path, None):
                os.close(os.open(path, os.O_WRONLY | _FLAGS))
        else:
            self.device = os.open(path, os.O_WRONLY | NONBLOCK | _FLAGS)

    def close(self) -> None:
        for descriptor in (self.directory, self.device):
            if descriptor is not None:
                os.close(descriptor)


def may_write(path: AnyPath, directory: int | None) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.W_OK, dir_fd=directory, effective_ids=effective)


def open_source(pair: Pair, follow: bool) -> tuple[int, os.stat_result]:
    """A file that must be a regular one, also if it has just been swapped."""
    try:
        flags = READ | NONBLOCK | (0 if follow else NOFOLLOW)
        descriptor = os.open(pair.source, flags, dir_fd=pair.source_directory)
    except OSError as error:
        raise pair.source_error(error) from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            refuse_special(facts.st_mode, pair.paths()[0])
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, facts


def copy_open(
    pair: Pair,
    source: int,
    facts: os.stat_result,
    chunk: Chunk,
    metadata: bool,
    replaced: os.stat_result | None = None,
) -> Generator[tuple[int, int], None, int]:
    """Copy an open file to its place; yields between chunks, and returns the size.

    :param replaced: the file that is there now
    """
    kept = facts if metadata else replaced
    temporary, target = _create(pair, 0o666 if kept is None else stat.S_IMODE(kept.st_mode))
    try:
        try:
            size = yield from transfer(pair, source, facts, target, chunk)
            try:
                if replaced is not None:
                    _keep_facts(pair, replaced, target, temporary)
                if metadata:
                    here = pair.target_directory is not None
                    copy_facts(facts, source, target, None if here else (pair.source, temporary))
            except OSError as error:
                raise pair.target_error(error) from None
        except BaseException:
            os.close(target)
            raise
        try:
            os.close(target)
            directory = pair.target_directory
            os.replace(temporary, pair.target, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            raise pair.target_error(error) from None
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=pair.target_directory)
        raise
    return size


def _create(pair: Pair, mode: int) -> tuple[AnyPath, int]:
    """A new file beside the target, which only those can open who will be able to open it."""
    directory, target = pair.target_directory, pair.target
    while True:
        name = f".copy-{os.urandom(8).hex()}.tmp"
        if directory is None:
            name = os.path.join(os.path.dirname(os.fsdecode(target)), name)
        try:
            return name, os.open(name, NEW, mode & 0o777, dir_fd=directory)
        except FileExistsError:
            continue
        except OSError as error:
            raise pair.target_error(error) from None


# -- the content ----------------------------------------------------------------------------------


def transfer(
    pair: Pair,
    source: int,
    facts: os.stat_result,
    target: int,
    chunk: Chunk,
    plain: bool = False,
) -> Generator[tuple[int, int], None, int]:
    """All bytes of a file into an empty one.  Yields what is done, of what total; returns it.

    :param plain: the target is no file: only write to it
    """
    size = facts.st_size
    try:
        if not plain and size and _clone(pair, source, target, facts):
            return os.fstat(target).st_size
        ranges = not plain and size > 0 and hasattr(os, "copy_file_range")
        done = 0
        for begin, end in [(0, size or sys.maxsize)] if plain else _extents(source, facts):
            done = begin
            while done < end:
                moved = _copy_range(source, target, done, end - done) if ranges else 0
                ranges = moved > 0
                moved = moved or _copy_plainly(source, target, done, end - done)
                if not moved:
                    return done  # it has become shorter, or said too much
                done += moved
                if chunk.over(moved) and done != size:
                    yield done, max(done, size)
                    chunk.begin()
        if done < size:  # a hole
            os.ftruncate(target, size)
        return size
    except OSError as error:
        raise pair.error(error) from None


def _clone(pair: Pair, source: int, target: int, facts: os.stat_result) -> bool:
    """Let the copy share the blocks of the original, if the file system can do that."""
    key = facts.st_dev, pair.target_device
    if not BY_DESCRIPTOR or key in pair.no_clones:
        return False
    from fcntl import ioctl

    try:
        ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in NO_CLONES:
            pair.no_clones.add(key)
        return False
    return True


def _extents(source: int, facts: os.stat_result) -> Iterator[tuple[int, int]]:
    """Begin and end of what is not holes; of a size of 0, which /proc says always, all there is."""
    size = facts.st_size
    if DATA is None or not size or facts.st_blocks * 512 >= size:
        yield 0, size or sys.maxsize
        return
    end = 0
    while end < size:
        try:
            begin = os.lseek(source, end, DATA)
            end = min(os.lseek(source, begin, HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole
            begin, end = end, size  # it does not say
        if begin < end:
            yield begin, end


def _copy_range(source: int, target: int, offset: int, count: int) -> int:
    """Some of it, by the kernel; 0 if it will not, or there is no more."""
    try:
        return os.copy_file_range(source, target, min(count, PIECE_BYTES), offset, offset)
    except OSError as error:
        if error.errno in NO_RANGES:
            return 0
        raise


def _copy_plainly(source: int, target: int, offset: int, count: int) -> int:
    """Some of it, read and written; 0 at the end."""
    count = min(count, BUFFER_BYTES)
    if hasattr(os, "pread"):
        data = os.pread(source, count, offset)
    else:
        data = os.read(source, count)  # all of it is read this way, and written
    rest = memoryview(data)
    while rest:
        try:
            written = os.pwrite(target, rest, offset) if hasattr(os, "pwrite") else -1
        except OSError as error:
            if error.errno != errno.ESPIPE:
                raise
            written = -1
        if written < 0:
            written = os.write(target, rest)
        offset += written
        rest = rest[written:]
    return len(data)


# -- the rest -------------------------------------------------------------------------------------


def copy_facts(
    facts: os.stat_result, source: int, target: int, paths: tuple[AnyPath, AnyPath] | None = None
) -> None:
    """As `shutil.copystat`.

    :param paths: of both, where descriptors alone would not do
    """
    if paths is not None:
        import shutil

        shutil.copystat(*paths)
        return
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    _copy_attributes(source, target)
    # Last: whoever may not write the file any more may not set attributes either
    os.fchmod(target, stat.S_IMODE(facts.st_mode))


def _copy_attributes(source: int, target: int) -> None:
    if not hasattr(os, "listxattr"):
        return
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno not in NO_ATTRIBUTES:
            raise
        return
    for name in names:
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in NO_ATTRIBUTES:
                raise


def _keep_facts(pair: Pair, replaced: os.stat_result, target: int, path: AnyPath) -> None:
    """What a file that is overwritten keeps, its access control list among it.

    :param path: what the target's path is now
    """
    mode = stat.S_IMODE(replaced.st_mode)
    if not hasattr(os, "fchown"):
        os.chmod(path, mode)
        return
    now = os.fstat(target)
    if (now.st_uid, now.st_gid) != (replaced.st_uid, replaced.st_gid):
        try:
            os.fchown(target, replaced.st_uid, replaced.st_gid)
        except OSError:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they were another's
    if NOFOLLOW:
        with suppress(OSError):
            flags = READ | NONBLOCK | NOFOLLOW
            before = os.open(pair.target, flags, dir_fd=pair.target_directory)
            try:
                _copy_attributes(before, target)
            finally:
                os.close(before)
    os.fchmod(target, mode)
