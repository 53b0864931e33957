"""Methods of Python's own binary files in `anyio.to_thread.run_sync`: which calls need no thread.

Whoever calls them that way may use the file without AnyIO as well, so it stays a file of Python's,
and its method is called as it is: in the loop's thread, if it is proven just before that it will
not wait for a disk - the bytes that it will read are in memory, the bytes that it writes fit into
its buffer - and otherwise in a thread.  A file of Python's has a lock, so nothing is called in the
loop's thread while a thread that came this way is in another of its methods; for one of another
kind the loop waits.
"""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final
from weakref import WeakKeyDictionary

from ._direct import O_DIRECT
from ._handle import COMPILED, MISS, Handle, fd_facts

# Of exactly these types: what a subclass does is its own affair.
KINDS: Final = (io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
READ_MAX: Final = 1 << 40
# Methods behind which a file that reads and writes holds nothing unwritten.
SETTLING: Final = frozenset({"read", "seek", "flush"})


class Known:
    """What is known of a file.

    :ivar handle: its descriptor, which stays the file's own; in use while a thread is in a method
    :ivar settled: it holds nothing unwritten, unless somebody has written to it past AnyIO since
    :ivar turn: counts the methods that were called
    """

    __slots__ = ("handle", "settled", "turn")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.settled = False
        self.turn = 0


_known: WeakKeyDictionary[Any, Known] = WeakKeyDictionary()
_known_lock = threading.Lock()


def _after_fork() -> None:
    global _known_lock
    _known_lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class FileCall:
    """One call of a method.

    :ivar call: does it
    :ivar file: one of `KINDS`, whose method of that `name` is called in the end
    """

    __slots__ = ("args", "call", "file", "name")

    def __init__(
        self, call: Callable[[], Any], file: Any, name: str, args: tuple[Any, ...] | None
    ) -> None:
        self.call = call
        self.file = file
        self.name = name
        self.args = args

    def known(self) -> Known | None:
        """None: nothing can be known, the file is somewhere else than in a local file system."""
        file = self.file
        try:
            raw = _raw(file)
            if type(raw) is not io.FileIO:
                return None
            fd = raw.fileno()
            known = _known.get(file)
            if known is None or known.handle.fd != fd:
                known = _get_to_know(file, raw, fd)
        except (OSError, ValueError):  # it is closed, or detached
            return None
        return known if known.handle.local else None

    def cost(self) -> int:
        """The bytes that are copied to see whether they are in memory, and by the call."""
        if self.name == "read" and self.args and type(self.args[0]) is int:
            return 2 * min(max(self.args[0], 0), READ_MAX)
        return 0  # what it does without a size is taken later

    def is_proven(self, known: Known) -> bool:
        """Whether it will not wait.  For a caller that was admitted."""
        proof = PROOFS.get(self.name)
        if proof is None or self.args is None or known.handle.inflight:
            return False
        try:
            return proof(self.file, known, self.args)
        except (OSError, ValueError):  # it is the method that raises
            return False


def _get_to_know(file: Any, raw: io.FileIO, fd: int) -> Known:
    import fcntl  # (not on Windows, where there is no core)

    st_mode, blksize, _, _, now, local = fd_facts(fd)
    local = local and not fcntl.fcntl(fd, fcntl.F_GETFL) & O_DIRECT
    access = os.O_RDONLY if not raw.writable() else os.O_RDWR if raw.readable() else os.O_WRONLY
    handle = Handle(
        fd, access, closefd=False, st_mode=st_mode, blksize=blksize, now=now, local=local
    )
    with _known_lock:
        known = _known.get(file)
        if known is None or known.handle.fd != fd:
            known = _known[file] = Known(handle)
    return known


def _raw(file: Any) -> Any:
    return file if type(file) is io.FileIO else file.raw


def file_call(function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> FileCall | None:
    """What a call of `function` comes to, if it is a method of such a file, or of a
    `tempfile.SpooledTemporaryFile` that has become one.
    """
    owner = function.__self__
    name = function.__name__
    if type(function) is MethodType:
        # Its attribute `_file` is documented: it tells what the file has become
        if type(owner) is not tempfile.SpooledTemporaryFile:
            return None
        if function.__func__ not in SPOOLED:
            name = ""  # never at once, but a thread is known to be in it
        owner = owner._file
    if not COMPILED or type(owner) not in KINDS:
        return None
    return FileCall(partial(function, *args, **options), owner, name, None if options else args)


# -- proofs ---------------------------------------------------------------------------------------


def _holds_nothing(file: Any, known: Known) -> bool:
    """Whether the file certainly has nothing to write."""
    if type(file) is io.BufferedWriter:
        return bool(file.tell() == file.raw.tell())
    return known.settled or type(file) is not io.BufferedRandom


def _buffer_size(file: Any) -> int:
    """An implementation detail of CPython: an object with a buffer counts it as its own."""
    return int(file.__sizeof__()) - type(file).__basicsize__


def _read(file: Any, known: Known, args: tuple[Any, ...]) -> bool:
    size = -1 if not args or args[0] is None else args[0]
    if len(args) > 1 or type(size) is not int or not file.readable():
        return False
    if not _holds_nothing(file, known):
        return False
    handle, raw = known.handle, _raw(file)
    position = raw.tell()
    ahead = position - file.tell()
    if 0 <= size <= ahead:
        return True
    if size < 0:
        end = handle.size_now()
        if end == MISS:
            return False
        wanted = max(end - position, 0) + 1  # it reads once more to see the end
    else:
        wanted = size - ahead
    if file is not raw:
        wanted += _buffer_size(file)  # what it reads ahead
    if wanted > READ_MAX or handle.pread_cached(wanted, position) is None:
        return False
    if size < 0 and handle.meter is not None:
        handle.meter.spend(2 * wanted)
    return True


def _write(file: Any, known: Known, args: tuple[Any, ...]) -> bool:
    if type(file) is not io.BufferedWriter or len(args) != 1:
        return False
    if type(args[0]) not in (bytes, bytearray):
        return False
    pending = file.tell() - file.raw.tell()
    return bool(0 <= pending <= _buffer_size(file) - len(args[0]))


def _seek(file: Any, known: Known, args: tuple[Any, ...]) -> bool:
    if not 1 <= len(args) <= 2 or any(type(value) is not int for value in args):
        return False
    if len(args) == 2 and args[1] not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
        return False  # SEEK_DATA asks the disk
    return _holds_nothing(file, known)


def _flush(file: Any, known: Known, args: tuple[Any, ...]) -> bool:
    return not args and _holds_nothing(file, known)


def _tell(file: Any, known: Known, args: tuple[Any, ...]) -> bool:
    return not args


def _close(file: Any, known: Known, args: tuple[Any, ...]) -> bool:
    # Nothing to write, no inode to delete
    return not args and not file.writable() and os.fstat(known.handle.fd).st_nlink > 0


PROOFS: Final[dict[str, Callable[[Any, Known, tuple[Any, ...]], bool]]] = {
    "read": _read,
    "write": _write,
    "seek": _seek,
    "tell": _tell,
    "flush": _flush,
    "close": _close,
}
SPOOLED: Final = tuple(
    method
    for name in PROOFS
    if type(method := vars(tempfile.SpooledTemporaryFile).get(name)) is FunctionType
)
