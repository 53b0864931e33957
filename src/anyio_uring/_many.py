"""What a worker thread does with many paths at once: compiled, without the interpreter's lock, or
its portable twin.

For each path there is an answer: what was asked for, or the OSError with its name, or a `Left`
(what is copied has a simpler one).

Whether it had to wait for a disk, the compiled form sees from how often the thread slept, which it
does for nothing else there; the portable one from the clock.
"""

from __future__ import annotations

import errno
import os
import stat
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from ._errors import os_error
from ._handle import COMPILED
from ._mounts import umask_is_kept

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import StrOrBytesPath

    from ._ops import AnyPath

if TYPE_CHECKING or COMPILED:
    from . import _uring


# A file that takes longer is none in memory.
COLD_SECONDS = 50e-6


class Found(NamedTuple):
    """What has been found: perhaps not of all paths, but of one at least.

    :ivar odd: where the answers are that want looking at: errors, and what is `Left`
    :ivar cold: it had to wait for a disk
    """

    results: list[Any]
    odd: list[int]
    cold: bool


class Left(NamedTuple):
    """A file that is not for a chunk.

    :ivar fd: of what is no regular file, which has been opened with O_NONBLOCK; -1: it is too big
    """

    fd: int


def names_of(paths: Iterable[StrOrBytesPath]) -> list[AnyPath]:
    """The paths as `os` takes them, after the checks that need no kernel."""
    refuse_one(paths)
    names: list[Any] = list(paths)
    if COMPILED and _uring.are_plain(names):
        return names
    return [
        name if type(name) is str and "\0" not in name else name_of(name)  # most are
        for name in names
    ]


def refuse_one(paths: Any) -> None:
    if isinstance(paths, str | bytes | os.PathLike):
        raise TypeError(f"expected an iterable of paths, not one path: {paths!r}")


def name_of(path: StrOrBytesPath) -> AnyPath:
    name = os.fspath(path)
    if ("\0" if isinstance(name, str) else b"\0") in name:  # type: ignore[operator]
        raise ValueError("embedded null byte")
    return name


def stat_chunk(paths: list[AnyPath], follow: bool) -> Found:
    """As `os.stat` of each, or `os.lstat` if not to `follow`."""
    if COMPILED:
        return Found(*_uring.stat_many(paths, follow))
    begin = perf_counter()
    results: list[os.stat_result | OSError] = []
    odd: list[int] = []
    for index, path in enumerate(paths):
        try:
            results.append(os.stat(path, follow_symlinks=follow))
        except OSError as error:
            results.append(_bare(error))
            odd.append(index)
    return Found(results, odd, _is_slow(begin, results))


def read_chunk(paths: list[AnyPath], limit: int, rings: _uring.FileRings | None = None) -> Found:
    """The content of each regular file, all of them together no more than `limit` bytes.

    Ends early, but not before the first one, where the next would be too much.

    :param rings: to be used, where io_uring serves the run
    """
    if COMPILED:
        return Found(*_uring.read_many(paths, limit, Left, rings))
    begin = perf_counter()
    results: list[bytes | OSError | Left] = []
    odd: list[int] = []
    left = limit
    for index, path in enumerate(paths):
        try:
            data = _read_regular(path, left)
        except OSError as error:
            results.append(_bare(error))
            odd.append(index)
            continue
        if data is None:
            if left < limit:
                break
            data = Left(-1)
        if isinstance(data, bytes):
            left -= len(data)
        else:
            odd.append(index)
        results.append(data)
    return Found(results, odd, _is_slow(begin, results))


def copy_chunk(
    names: list[str], source: int, target: int, metadata: bool, clone: bool
) -> tuple[list[int], bool, bool]:
    """Small regular files, from one open directory to another that has none of these names.

    :param clone: try to have files share blocks
    :returns: for each the bytes copied, or -1: nothing of it is there, and it is for another way;
        whether files could share blocks, as far as is known; whether the target refuses this way
    """
    if COMPILED and (metadata or umask_is_kept()):
        return _uring.copy_many(names, source, target, metadata, clone)
    return [-1] * len(names), clone, True


def _is_slow(begin: float, results: list[Any]) -> bool:
    return perf_counter() - begin > len(results) * COLD_SECONDS


def _read_regular(path: AnyPath, limit: int) -> bytes | Left | None:
    """None: it is more than `limit` bytes."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags)
    except BlockingIOError:
        return Left(-1)  # somebody has a lease on it
    keep = False
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise os_error(errno.EISDIR, path)
        if not stat.S_ISREG(mode):
            keep = True
            return Left(fd)
        with open(fd, "rb", 0, closefd=False) as file:
            data = b""
            while len(data) <= limit:
                more = file.read(limit + 1 - len(data))
                if not more:
                    return data
                data += more
            return None
    except OSError as error:
        error.filename = path
        raise
    finally:
        if not keep:
            os.close(fd)


def _bare(error: OSError) -> OSError:
    """Without its traceback, whose frames hold the results, and so the error itself."""
    return error.with_traceback(None)
