"""What both flavours of `Path` do with a path: functions on its text, one job each.

Each of them looks for a cancellation before it has any effect.
"""

from __future__ import annotations

import os
import pathlib
import stat
import sys
from collections.abc import Callable
from errno import EBADF, ELOOP, ENOENT, ENOTDIR
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ._handle import stat_quick
from ._runtime import Runtime, current_runtime
from ._whole import STAT_COST_BYTES, decoded, facts, read_whole

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from anyio import CapacityLimiter

    from ._ops import AnyPath

T = TypeVar("T")

# What `pathlib` takes for "there is no such thing"; newer versions ask `os.path`, and take all.
ABSENT = frozenset({ENOENT, ENOTDIR, EBADF, ELOOP})


def is_absence(error: OSError) -> bool:
    """Whether the predicates of this Python's `pathlib` answer False to an error."""
    if sys.version_info >= (3, 14):
        return True
    return error.errno in ABSENT or getattr(error, "winerror", None) in {21, 123, 1921}


async def begin() -> Runtime:
    """Before any effect: cancelled?  The runtime."""
    runtime = current_runtime()
    await runtime.gate.admit()
    return runtime


async def change(function: Callable[[], T], limiter: CapacityLimiter | None) -> T:
    """One job in a thread that may change something: once begun, it is not cancelled."""
    runtime = await begin()
    return await runtime.paths.do(function, limiter)


# -- questions ------------------------------------------------------------------------------------


async def is_kind(
    path: str, kind: Callable[[int], bool], follow: bool, limiter: CapacityLimiter | None
) -> bool:
    """Whether there is something with a mode of this kind."""
    try:
        found = stat_quick(path, follow, STAT_COST_BYTES)
        return kind((found or await facts(path, follow, limiter)).st_mode)
    except OSError as error:
        if is_absence(error):
            return False
        raise
    except ValueError:
        return False  # a name that no file can have


def is_anything(mode: int) -> bool:
    """The kind that `exists` asks for."""
    return True


async def same_file(
    path: str, other: str | os.PathLike[str], limiter: CapacityLimiter | None
) -> bool:
    mine = await facts(path, True, limiter)
    return os.path.samestat(mine, await facts(os.fspath(other), True, limiter))


# -- files ----------------------------------------------------------------------------------------


async def read_text(
    path: str,
    encoding: str,
    errors: str | None,
    newline: str | None,
    limiter: CapacityLimiter | None,
) -> str:
    data = await read_whole(path, limiter)
    return await decoded(current_runtime(), data, encoding, errors, newline, limiter)


async def write_bytes(path: str, data: ReadableBuffer, limiter: CapacityLimiter | None) -> int:
    return await change(partial(_named, path, pathlib.Path(path).write_bytes, data), limiter)


async def write_text(
    path: str,
    data: str,
    encoding: str,
    errors: str | None,
    newline: str | None,
    limiter: CapacityLimiter | None,
) -> int:
    write = pathlib.Path(path).write_text
    return await change(partial(_named, path, write, data, encoding, errors, newline), limiter)


def _named(path: str, function: Callable[..., T], *arguments: object) -> T:
    """Call it, with the name in its error, also where write(2) or close(2) has failed."""
    try:
        return function(*arguments)
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


async def touch(path: str, mode: int, exist_ok: bool, limiter: CapacityLimiter | None) -> None:
    await change(partial(pathlib.Path(path).touch, mode, exist_ok), limiter)


# -- changes of directories -----------------------------------------------------------------------


async def mkdir(
    path: str, mode: int, parents: bool, exist_ok: bool, limiter: CapacityLimiter | None
) -> None:
    if parents:
        await change(partial(pathlib.Path(path).mkdir, mode, parents, exist_ok), limiter)
        return
    runtime = await begin()
    try:
        await runtime.paths.mkdir(path, mode, limiter)
    except FileNotFoundError:
        raise
    except OSError:
        # Another error than EEXIST may come first: the file system can be read-only
        if not exist_ok or not await is_kind(path, stat.S_ISDIR, True, limiter):
            raise


async def rmdir(path: str, limiter: CapacityLimiter | None) -> None:
    runtime = await begin()
    await runtime.paths.rmdir(path, limiter)


async def unlink(path: str, missing_ok: bool, limiter: CapacityLimiter | None) -> None:
    runtime = await begin()
    try:
        await runtime.paths.unlink(path, limiter)
    except FileNotFoundError:
        if not missing_ok:
            raise


async def rename(
    path: str, target: AnyPath | os.PathLike[str], limiter: CapacityLimiter | None
) -> None:
    runtime = await begin()
    await runtime.paths.rename(path, os.fspath(target), limiter)


async def replace(
    path: str, target: AnyPath | os.PathLike[str], limiter: CapacityLimiter | None
) -> None:
    runtime = await begin()
    await runtime.paths.replace(path, os.fspath(target), limiter)


async def symlink(
    path: str,
    target: AnyPath | os.PathLike[str] | os.PathLike[bytes],
    target_is_directory: bool,
    limiter: CapacityLimiter | None,
) -> None:
    content = os.fspath(target)
    if os.name != "posix":
        await change(partial(os.symlink, content, path, target_is_directory), limiter)
        return
    runtime = await begin()
    await runtime.paths.symlink(content, path, limiter)


async def hardlink(
    path: str,
    target: AnyPath | os.PathLike[str] | os.PathLike[bytes],
    limiter: CapacityLimiter | None,
) -> None:
    runtime = await begin()
    await runtime.paths.link(os.fspath(target), path, limiter)
