"""`open_file`: the arguments of ``builtins.open``, and how a path becomes a file."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from io import DEFAULT_BUFFER_SIZE
from operator import index
from typing import IO, TYPE_CHECKING, Any, AnyStr, TypeAlias, overload

import anyio
from anyio import CapacityLimiter

from ._arguments import text_encoding
from ._buffer import new_buffer
from ._buffered import BufferedFile
from ._direct import O_DIRECT, BlockGuard, alignment, check_system, switch_to_direct
from ._errors import os_error, unsupported
from ._file import AsyncFile
from ._handle import (
    COMPILED,
    Errand,
    Handle,
    admitted,
    ask_open,
    fd_facts,
    open_now,
    open_plain,
    open_quick,
    remember,
    set_plain_files,
)
from ._modes import Mode, parse_mode
from ._mounts import MADE_UP
from ._ops import Opened
from ._raw import RawFile
from ._runtime import Runtime, current_runtime

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode, StrOrBytesPath

    from ._text import TextFile

BufferedKind: TypeAlias = Callable[..., BufferedFile]

EISDIR = 21
# Opening and closing again keeps the loop as long as copying so much.
OPEN_COST_BYTES = 128 << 10
# Each trip to the device takes its time, since nothing is cached.
DIRECT_BUFFER_BYTES = 64 << 10
# As `open_now` reports an error of the path walk
WALK_ERROR_BASE = -4096
READING = parse_mode("rb")


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenBinaryMode,
    buffering: int = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
    *,
    limiter: CapacityLimiter | None = ...,
    direct: bool = ...,
    write_behind: int = ...,
) -> AsyncFile[bytes]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: OpenTextMode = ...,
    buffering: int = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
    *,
    limiter: CapacityLimiter | None = ...,
    direct: bool = ...,
    write_behind: int = ...,
) -> AsyncFile[str]: ...


@overload
async def open_file(
    file: StrOrBytesPath | int,
    mode: str,
    buffering: int = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
    closefd: bool = ...,
    opener: Callable[[str, int], int] | None = ...,
    *,
    limiter: CapacityLimiter | None = ...,
    direct: bool = ...,
    write_behind: int = ...,
) -> AsyncFile[Any]: ...


async def open_file(
    file: StrOrBytesPath | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    limiter: CapacityLimiter | None = None,
    direct: bool = False,
    write_behind: int = 0,
) -> AsyncFile[Any]:
    """Open a file without making the event loop wait for a disk.

    The arguments are those of :func:`open`.

    :param file: a path, or a file descriptor, whose offset then stays in step with the file
    :param limiter: for the worker threads this file may need; operations on the ring are bounded
        by ``Settings.inflight_max``
    :param direct: past the page cache, with O_DIRECT; offsets and sizes are any all the same, but
        what is not whole blocks costs more (and a write of it needs the permission to read).  A
        descriptor is switched to O_DIRECT for all who share it
    :param write_behind: *provisional.*  A write returns while up to so many bytes are on their way
        to the kernel, in several writes.  An error is raised by a later write, or by whatever
        waits for them all: `flush`, `seek`, `tell`, `fsync`, `aclose`.  Flush the file before
        another loop uses it: what is on its way ends in the loop that it began in.  For a path in
        binary mode ``w`` or ``x`` with a buffer; without a ring every write is waited for as always
    :raises OSError: as :func:`open`, with errno and file name; EINVAL if `direct` and the file
        system has no direct I/O
    :raises io.UnsupportedOperation: `direct`, and the system has no direct I/O
    :raises ValueError: arguments that do not go together
    :raises LookupError: no such encoding, or none for text
    :raises anyio.NoEventLoopError: outside of a run

    >>> import anyio, anyio_uring
    >>> async def main():
    ...     async with await anyio_uring.open_file("/etc/passwd", "rb", buffering=0) as f:
    ...         return await f.read(4)
    >>> anyio.run(main)
    b'root'
    """
    if not (direct or write_behind):
        found: Any = open_plain(
            file,
            mode,
            buffering,
            encoding,
            errors,
            newline,
            closefd,
            opener,
            limiter,
            OPEN_COST_BYTES,
        )
        if found is not None:
            if type(found) is Errand:
                found = await found  # (here, in a crowd, one coroutine less)
            if type(found) is not int:
                return found  # type: ignore[no-any-return]
            return await _plainly(found, file, buffering)
    buffering = index(buffering)
    parsed = check_arguments(file, mode, buffering, encoding, errors, newline, closefd, limiter)
    if direct:
        parsed = _direct_mode(parsed)
    buffered: BufferedKind = BufferedFile
    if write_behind:
        by_path = opener is None and not isinstance(file, int)
        buffered = _behind_kind(parsed, buffering, index(write_behind), by_path)
    opened: AsyncFile[Any]
    if isinstance(file, int):
        opened = await _from_descriptor(file, parsed, closefd, limiter, buffering)
    elif opener is not None:
        opened = await _from_opener(os.fspath(file), parsed, opener, limiter, buffering)
    else:
        path = os.fspath(file)
        sys.audit("open", path, parsed.audit_name, parsed.flags)
        asked = ask_open(path, parsed.flags)
        handle = _at_once(path, parsed.flags) if asked is None else await asked
        if type(handle) is Handle:
            opened = new_file(handle, path, parsed, limiter, buffering, (RawFile, buffered))
        else:
            opened = await _from_path(path, parsed, limiter, buffering, buffered, handle)
    if parsed.binary:
        return opened
    return as_text(opened, mode, buffering, encoding, errors, newline)


def open_quickly(
    file: Any,
    mode: Any = "r",
    buffering: Any = -1,
    encoding: Any = None,
    errors: Any = None,
    newline: Any = None,
    closefd: Any = True,
    opener: Any = None,
    *,
    limiter: Any = None,
) -> AsyncFile[Any] | Coroutine[Any, Any, AsyncFile[Any]] | None:
    """The commonest call: a file that can be opened at once, or what opens it; None for another
    call, and nothing has happened.  A busy server is spared the way through all the checks.
    """
    found = open_plain(
        file, mode, buffering, encoding, errors, newline, closefd, opener, limiter, OPEN_COST_BYTES
    )
    if type(found) is Errand or type(found) is int:
        return _plainly(found, file, buffering)
    return found  # type: ignore[no-any-return]


async def _plainly(found: Any, file: Any, buffering: int) -> AsyncFile[bytes]:
    """What `open_plain` has not found at once."""
    if type(found) is Errand:
        found = await found
    if type(found) is not int:
        return found  # type: ignore[no-any-return]
    return await _from_path(os.fspath(file), READING, None, buffering, BufferedFile, found)


def _direct_mode(mode: Mode) -> Mode:
    if not mode.binary:
        raise ValueError("direct I/O is for binary modes")
    check_system()
    # Without O_APPEND: the last block has to be written again
    return mode._replace(flags=(mode.flags | O_DIRECT) & ~os.O_APPEND, direct=True)


def _behind_kind(mode: Mode, buffering: int, write_behind: int, by_path: bool) -> BufferedKind:
    """The class of a file that writes behind."""
    if write_behind < 0:
        raise ValueError(f"write_behind must not be negative, not {write_behind}")
    if not mode.binary or mode.reading or mode.updating or mode.appending or buffering == 0:
        raise ValueError("write_behind is for binary modes 'w' and 'x' with a buffer")
    if not by_path:
        raise ValueError("write_behind is for a path, without an opener")
    from ._behind import BehindFile  # few programs need it

    return partial(BehindFile, behind_max=write_behind)


def check_arguments(
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    limiter: CapacityLimiter | None,
) -> Mode:
    """The checks of ``builtins.open``, in its order and with its texts."""
    if limiter is not None and not isinstance(limiter, CapacityLimiter):
        raise TypeError(
            f"limiter must be a CapacityLimiter or None, not {limiter.__class__.__name__}"
        )
    coded = encoding is not None or errors is not None or newline is not None
    if coded:
        for name, value in ("encoding", encoding), ("errors", errors), ("newline", newline):
            _check_string(name, value)
    if not isinstance(file, int):
        file = os.fspath(file)  # TypeError: expected str, bytes or os.PathLike object
    parsed = parse_mode(mode)
    if parsed.binary:
        if coded:
            _refuse_coding(encoding, errors)
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, the default buffer "
                "size will be used",
                RuntimeWarning,
                stacklevel=3,
            )
    elif buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    if isinstance(file, int):
        if isinstance(file, bool) and sys.version_info >= (3, 13):
            warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=3)
        if file < 0:
            raise ValueError("negative file descriptor")
    else:
        if not closefd:
            raise ValueError("Cannot use closefd=False with file name")
        if ("\0" if isinstance(file, str) else b"\0") in file:
            raise ValueError("embedded null byte")
    return parsed


def _refuse_coding(encoding: str | None, errors: str | None) -> None:
    if encoding is not None:
        raise ValueError("binary mode doesn't take an encoding argument")
    if errors is not None:
        raise ValueError("binary mode doesn't take an errors argument")
    raise ValueError("binary mode doesn't take a newline argument")


def _check_string(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"open() argument {name!r} must be str or None, not {type(value).__name__}")
    if "\0" in value:
        raise ValueError("embedded null character")


def as_text(
    file: AsyncFile[Any],
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    kind: type[TextFile] | None = None,
) -> AsyncFile[str]:
    """The text file over a buffered one, which is closed if that cannot be."""
    assert isinstance(file, BufferedFile)
    try:
        # A quarter of what importing the package would take otherwise
        from ._coding import Coding
        from ._text import TextFile

        line_buffering = buffering == 1 or (buffering < 0 and file.isatty())
        # A warning about a missing encoding points at the caller of `open_file`
        encoding = text_encoding(encoding, 3)
        return (kind or TextFile)(file, mode, Coding(encoding, errors, newline, line_buffering))
    except BaseException:
        file.close()
        raise


def _at_once(path: str | bytes, flags: int) -> Handle | None:
    """The file, if nothing stands against opening it at once: nothing is to be made, cut off or
    appended to, it is not for direct I/O, and what its path names is in memory.
    """
    meter = admitted(OPEN_COST_BYTES)
    if meter is None:
        remember(current_runtime().meter)
        meter = admitted(OPEN_COST_BYTES)
    return None if meter is None else open_quick(path, flags, OPEN_COST_BYTES, meter)


async def _from_path(
    path: str | bytes,
    mode: Mode,
    limiter: CapacityLimiter | None,
    buffering: int,
    buffered: BufferedKind,
    found: Any = None,
) -> AsyncFile[Any]:
    """:param found: what a crew has answered, of this path"""
    flags = mode.flags
    runtime = current_runtime()
    opened: Opened | None = None
    crew = runtime.gate.crew() if found is None else None
    if crew is not None:
        asked = crew.open(bytes(os.fsencode(path)), flags)
        found = None if asked is None else await asked
    if found is not None:
        if isinstance(found, Handle):
            return new_file(found, path, mode, limiter, buffering, (RawFile, buffered))
        if found <= WALK_ERROR_BASE:
            raise os_error(WALK_ERROR_BASE - found, path)
    await runtime.gate.admit(OPEN_COST_BYTES)
    found = open_now(bytes(os.fsencode(path)), flags, runtime.meter)
    if isinstance(found, tuple):
        opened = Opened(*found)
    elif found <= WALK_ERROR_BASE:
        raise os_error(WALK_ERROR_BASE - found, path)
    at_once = opened is not None
    if opened is None:
        opened = await runtime.ops.open(path, flags, 0o666, limiter)
    file = await finish(
        runtime,
        opened,
        flags,
        path,
        mode,
        True,
        limiter,
        buffering,
        exclusive=not mode.appending,
        kinds=(RawFile, buffered),
    )
    if at_once and not file._handle.writable:
        file._handle.closes_now = True  # with the same trust
    return file


async def _from_opener(
    path: str | bytes,
    mode: Mode,
    opener: Callable[[str, int], int],
    limiter: CapacityLimiter | None,
    buffering: int,
) -> AsyncFile[Any]:
    """The opener is the user's own, blocking code: it runs in a thread."""
    flags = mode.flags
    runtime = current_runtime()
    sys.audit("open", path, mode.audit_name, flags)

    def call() -> Opened:
        fd = opener(path, flags)  # type: ignore[arg-type]
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            # PEP 446's opener returns a descriptor or raises
            raise ValueError(f"opener returned {fd}")
        os.set_inheritable(fd, False)
        return Opened(fd, fd_facts(fd))

    opened = await runtime.threads.call_foreign(call, limiter, lambda opened: os.close(opened.fd))
    file = await finish(
        runtime,
        opened,
        _status_flags(opened.fd, flags),
        path,
        mode,
        True,
        limiter,
        buffering,
        exclusive=False,
    )
    _look_whether_it_is_written(file)
    return file


async def _from_descriptor(
    fd: int,
    mode: Mode,
    closefd: bool,
    limiter: CapacityLimiter | None,
    buffering: int,
) -> AsyncFile[Any]:
    runtime = current_runtime()
    await runtime.gate.admit()
    sys.audit("open", fd, mode.audit_name, mode.flags)
    name, fd = fd, int(fd)  # of a bool, the functions of os would warn again
    if COMPILED:
        facts = fd_facts(fd)
    else:
        # fstat(2) may ask a server
        facts = await runtime.threads.call(lambda: fd_facts(fd), limiter, type)
    file = await finish(
        runtime,
        Opened(fd, facts),
        _status_flags(fd, mode.flags),
        name,
        mode,
        closefd,
        limiter,
        buffering,
        exclusive=False,
    )
    _look_whether_it_is_written(file)
    return file


def _look_whether_it_is_written(file: AsyncFile[Any]) -> None:
    """A descriptor that others have opened can be writable, whatever the mode says: then its close
    may have something to finish.
    """
    handle = file._handle
    if handle.closes_now:
        import fcntl

        handle.closes_now = not fcntl.fcntl(handle.fd, fcntl.F_GETFL) & os.O_ACCMODE


def _status_flags(fd: int, wanted: int) -> int:
    """The access mode that was asked for, with the flags the descriptor really has."""
    if os.name != "posix":
        return wanted
    import fcntl

    return wanted | (fcntl.fcntl(fd, fcntl.F_GETFL) & ~(os.O_RDWR | os.O_WRONLY))


async def finish(
    runtime: Runtime,
    opened: Opened,
    flags: int,
    name: Any,
    mode: Mode,
    closefd: bool,
    limiter: CapacityLimiter | None,
    buffering: int,
    *,
    exclusive: bool,
    kinds: tuple[type[RawFile], BufferedKind] = (RawFile, BufferedFile),
) -> AsyncFile[Any]:
    """From a descriptor to a file; the descriptor is not lost if that fails.

    :param kinds: the classes of an unbuffered and a buffered file
    """
    fd, (st_mode, blksize, size, fs_type, now, local) = opened
    if stat.S_ISDIR(st_mode):
        if not isinstance(name, int):
            os.close(fd)
        raise os_error(EISDIR, name)
    if mode.direct:
        try:
            flags = switch_to_direct(fd, flags) | (os.O_APPEND if mode.appending else 0)
        except OSError as error:
            if not isinstance(name, int):
                os.close(fd)
            error.filename = name
            raise
    handle = Handle(
        fd, flags, closefd=closefd, st_mode=st_mode, blksize=blksize, now=now, local=local
    )
    handle.meter = runtime.meter
    if mode.direct and handle.seekable:
        handle.align = alignment(fd)
        handle.guard = BlockGuard()
    # (elsewhere a file without a size may be one whose text is made up, too)
    made_up = fs_type in MADE_UP or (mode.reading and size == 0 and not local)
    handle.shared = not exclusive or not handle.seekable or made_up
    file = new_file(handle, name, mode, limiter, buffering, kinds)
    try:
        if mode.updating and buffering != 0 and not file.seekable():
            raise unsupported("File or stream is not seekable.")
        if mode.appending:
            await file._seek_to_end(runtime)
    except BaseException:
        file.close()
        raise
    return file


def new_file(
    handle: Handle,
    name: Any,
    mode: Mode,
    limiter: CapacityLimiter | None,
    buffering: int,
    kinds: tuple[type[RawFile], BufferedKind] = (RawFile, BufferedFile),
) -> AsyncFile[Any]:
    """The file object over a handle."""
    if buffering == 0:
        return kinds[0](handle, name, mode.raw_name, limiter)
    buffer_size = buffering if buffering > 1 else default_buffer_size(handle.blksize)
    if buffering <= 1 and handle.align:
        buffer_size = max(buffer_size, DIRECT_BUFFER_BYTES)
    return kinds[1](handle, name, mode.raw_name, limiter, new_buffer(buffer_size))


if sys.version_info >= (3, 14):

    def default_buffer_size(blksize: int) -> int:
        """The buffer's size in bytes where none is asked for, as ``builtins.open`` chooses it."""
        return max(min(blksize, 8 << 20), DEFAULT_BUFFER_SIZE)

else:

    def default_buffer_size(blksize: int) -> int:
        """The buffer's size in bytes where none is asked for, as ``builtins.open`` chooses it."""
        return blksize if blksize > 1 else DEFAULT_BUFFER_SIZE


set_plain_files(RawFile, BufferedFile, default_buffer_size)


def wrap_file(
    file: IO[AnyStr], *, limiter: CapacityLimiter | None = None
) -> anyio.AsyncFile[AnyStr]:
    """Wrap any synchronous file object, as ``anyio.wrap_file``, which does it: with threads, since
    what such an object does when it is called is its own affair.

    :param file: whatever has the methods that will be called; not checked
    :param limiter: for the worker threads, instead of AnyIO's default one
    :raises TypeError: something else as `limiter`

    >>> import anyio, anyio_uring, io
    >>> async def main():
    ...     return await anyio_uring.wrap_file(io.BytesIO(b"some data")).read(4)
    >>> anyio.run(main)
    b'some'
    """
    return anyio.wrap_file(file, limiter=limiter)
