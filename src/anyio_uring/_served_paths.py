"""The services of `anyio.to_thread.run_sync`: functions of `os` and methods of paths.

Each takes a call apart.  What is unusual in it in the least - a type that somebody else has made,
an option that few use, an argument that is wrong - is left to a thread, which calls the function
itself.
"""

from __future__ import annotations

import io
import os
import pathlib
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import anyio

from ._handle import open_now, read_path_now, seen_quick, stat_now, stat_quick
from ._modes import parse_mode
from ._open import OPEN_COST_BYTES, WALK_ERROR_BASE
from ._ops import Opened
from ._path_jobs import is_kind
from ._path_ops import PathOps
from ._runtime import Runtime
from ._whole import DECODE_MAX, STAT_COST_BYTES, decode

# Starlette looks at each directory on the way, in Python: as much time as copying so much, for a
# path that is not out of the ordinary.
LOOKUP_COST_BYTES = 256 << 10
LOOKUP_LENGTH_MAX, LOOKUP_DEPTH_MAX, LOOKUP_DIRECTORIES_MAX = 1024, 32, 8
NOT_SERVED: Final = object()
OPEN_FUNCTION: Final = open  # whatever the name is made to mean later
PATHS: Final = (type(pathlib.Path()), type(pathlib.PurePath()), anyio.Path)
MODE_MAX = 0o7777


def _of_python() -> tuple[Any, ...]:
    return os.stat, os.lstat, os.path.abspath, os.path.realpath


# A program that watches over what is called in the loop replaces them, and cannot know what we do
OF_PYTHON: Final = _of_python()
ENCODINGS = frozenset({"locale", "utf-8", "utf8", "ascii", "us-ascii", "latin-1", "iso-8859-1"})


class Call:
    """A call of one of the functions.

    :ivar args: with the object of a bound method in front
    """

    __slots__ = ("_function", "args", "options")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._function = function
        self.args = args
        self.options = options

    def itself(self) -> Any:
        """Do it, as AnyIO's thread would."""
        return self._function(*self.args, **self.options)

    def path(self, count: int = 1) -> Any:
        """The path it is about, as `os.fspath` has it; None: it is called in an unusual way."""
        args = self.args
        return path_of(args[0]) if len(args) == count and not self.options else None

    def named(self, *names: str) -> dict[str, Any] | None:
        """The arguments by name; None if there are others, or the first is missing."""
        if not 1 <= len(self.args) <= len(names):
            return None
        given = dict(zip(names, self.args, strict=False))
        both = {**given, **self.options}
        if len(both) != len(given) + len(self.options) or not both.keys() <= set(names):
            return None
        return both


AtOnce = Callable[[Call, Any], Any]
Quick = Callable[[Callable[..., Any], tuple[Any, ...]], Any]
Waiting = Callable[[Call, Runtime], "Awaitable[Any] | None"]


class Service(NamedTuple):
    """How a function is served.

    :ivar at_once: its result if that needs no waiting, else `NOT_SERVED`; given the meter
    :ivar waiting: its result by another way than AnyIO's thread; or None
    :ivar cost: of `at_once`, in bytes that are copied in the same time
    :ivar quick: the same for a call without options, given the function and its arguments, before
        anything else is looked at: each line that a busy server comes by costs twice what it seems.
        Its result is never None, which says that it is not served
    """

    at_once: AtOnce | None = None
    waiting: Waiting | None = None
    cost: int = 0
    quick: Quick | None = None


def path_of(value: Any) -> Any:
    """The text of a path that nobody's own code makes; else None."""
    kind = type(value)
    if kind is str or kind is bytes:
        return value
    return os.fspath(value) if kind in PATHS else None


def encoded(path: Any) -> bytes | None:
    """As the kernel takes it; None if it is no path."""
    if path is None:
        return None
    try:
        found = os.fsencode(path)
    except UnicodeError:
        return None
    return None if b"\0" in found else found


# -- questions ------------------------------------------------------------------------------------


def _facts_at_once(path: Any, follow: bool, meter: Any) -> Any:
    """An os.stat_result, None for an error that the call will raise at once, or `NOT_SERVED`."""
    name = encoded(path)
    found = NOT_SERVED if name is None else stat_now(name, follow, meter)
    if not isinstance(found, int):
        return found
    return None if found <= WALK_ERROR_BASE and _of_python() == OF_PYTHON else NOT_SERVED


def _stat(follows: bool) -> Service:
    def follow_of(call: Call) -> Any:
        if not call.options:
            return follows
        wanted = call.options.get("follow_symlinks") if len(call.options) == 1 else None
        return wanted if follows and isinstance(wanted, bool) else None

    def at_once(call: Call, meter: Any) -> Any:
        follow = follow_of(call)
        if follow is None or len(call.args) != 1:
            return NOT_SERVED
        found = _facts_at_once(path_of(call.args[0]), follow, meter)
        return call.itself() if found is None else found

    def waiting(call: Call, runtime: Runtime) -> Any:
        follow = follow_of(call)
        path: Any = path_of(call.args[0]) if len(call.args) == 1 else None
        if follow is None or encoded(path) is None:
            return None
        return runtime.paths.stat(path, follow, None)

    return Service(at_once, waiting, STAT_COST_BYTES, _quickly(lambda facts: facts, follows))


def _kind(kind: Callable[[int], bool], follow: bool = True) -> Service:
    def at_once(call: Call, meter: Any) -> Any:
        found = _facts_at_once(call.path(), follow, meter)
        if found is NOT_SERVED:
            return NOT_SERVED
        return call.itself() if found is None else kind(found.st_mode)

    def waiting(call: Call, runtime: Runtime) -> Any:
        path = call.path()
        return None if encoded(path) is None else is_kind(path, kind, follow, None)

    quick = _quickly(lambda facts: kind(facts.st_mode), follow)
    return Service(at_once, waiting, STAT_COST_BYTES, quick)


def _quickly(answer: Callable[[os.stat_result], Any], follow: bool) -> Quick:
    def quick(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if len(args) != 1:
            return None
        try:
            facts = stat_quick(path_of(args[0]), follow, STAT_COST_BYTES)
        except OSError:
            facts = None
        except UnicodeError:
            return None
        else:
            return None if facts is None else answer(facts)
        # It raises the error by itself, or has another answer to it
        return function(*args) if _of_python() == OF_PYTHON else None

    return quick


def _lookup(call: Call, meter: Any) -> Any:
    """Starlette's own method, once the directories on the way are seen to be in memory."""
    if len(call.args) != 2 or call.options:
        return NOT_SERVED
    files, path = call.args
    texts = _looked_up(files, path)
    if texts is None:
        return NOT_SERVED
    for number, text in enumerate(texts, 1):
        found = _facts_at_once(text, True, meter)
        if found is NOT_SERVED:
            return NOT_SERVED
        # An error does not say on what file system, and Starlette asks for more than the walk
        if found is None and not _is_seen(os.path.dirname(text), meter):
            return NOT_SERVED
        if found is not None:
            if number < len(texts) and _may_lead_out(text, path):
                return NOT_SERVED  # it looks into the next one, too
            break
    return call.itself()


def _lookup_quick(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The same for a file that is there, in a single directory."""
    texts = _looked_up(*args) if len(args) == 2 else None
    try:
        if texts is None or len(texts) != 1 or not seen_quick(texts[0], LOOKUP_COST_BYTES):
            return None
    except UnicodeError:
        return None
    return function(*args)


def _looked_up(files: Any, path: Any) -> list[str] | None:
    """What the method will ask for; None if that is unusual."""
    # (A property would be somebody else's code)
    given = getattr(files, "__dict__", {}).get("all_directories")
    if type(path) is not str or type(given) is not list or len(given) > LOOKUP_DIRECTORIES_MAX:
        return None
    if _of_python() != OF_PYTHON:
        return None
    texts = []
    for directory in given:
        known = path_of(directory)
        if not isinstance(known, str):
            return None
        text = os.path.join(known, path)
        if len(text) > LOOKUP_LENGTH_MAX or text.count(os.sep) > LOOKUP_DEPTH_MAX:
            return None
        texts.append(text)
    return texts


def _is_seen(directory: str, meter: Any) -> bool:
    found = _facts_at_once(directory, True, meter)
    return found is not None and found is not NOT_SERVED


def _may_lead_out(text: str, path: str) -> bool:
    return ".." in path or os.path.realpath(text) != os.path.abspath(text)


# -- files ----------------------------------------------------------------------------------------


def _content(path: Any, meter: Any) -> Any:
    """All bytes of a file, None for an error that the call will raise at once, or `NOT_SERVED`."""
    name = encoded(path)
    found = NOT_SERVED if name is None else read_path_now(name, meter)
    if not isinstance(found, int):
        return found
    return None if found <= WALK_ERROR_BASE else NOT_SERVED


def _audit_read(path: Any) -> None:
    # It comes late; nothing has happened yet that could be seen
    sys.audit("open", path, "r", parse_mode("rb").flags)


def _read_bytes(call: Call, meter: Any) -> Any:
    path = call.path()
    data = _content(path, meter)
    if data is None:
        return call.itself()
    if data is not NOT_SERVED:
        _audit_read(path)
    return data


def _read_text(call: Call, meter: Any) -> Any:
    given = call.named("path", "encoding", "errors")
    if given is None:
        return NOT_SERVED
    encoding, errors = given.get("encoding"), given.get("errors")
    if not _is_at_hand(encoding) or not _is_text(errors):
        return NOT_SERVED
    path = path_of(given["path"])
    data = _content(path, meter)
    if data is None:
        return call.itself()
    if data is NOT_SERVED or len(data) > DECODE_MAX:
        return NOT_SERVED
    _audit_read(path)
    return decode(data, io.text_encoding(encoding), errors, None)


def _is_text(value: Any) -> bool:
    return value is None or type(value) is str


def _is_at_hand(encoding: Any) -> bool:
    """Whether an encoding needs no module, nor anybody's code; nor does Python want to tell that it
    is missing.
    """
    if encoding is None:
        return not sys.flags.warn_default_encoding
    return type(encoding) is str and encoding.lower() in ENCODINGS


class Opening(NamedTuple):
    """A usual call of `open`, or of `pathlib.Path.open`."""

    path: Any
    mode: str = "r"
    buffering: int = -1
    encoding: Any = None
    errors: Any = None
    newline: Any = None

    @classmethod
    def of(cls, call: Call) -> Opening | None:
        """None: an unusual one, or one that has an error."""
        given = call.named(*cls._fields)
        if given is None:
            return None
        path = path_of(given.pop("path"))
        made = cls(path, **given)
        texts = (made.encoding, made.errors, made.newline)
        if encoded(path) is None or type(made.buffering) is not int:
            return None
        if type(made.mode) is not str or not all(map(_is_text, texts)):
            return None
        try:
            binary = parse_mode(made.mode).binary
        except ValueError:
            return None
        if binary and (made.buffering == 1 or any(text is not None for text in texts)):
            return None
        if not binary and (made.buffering == 0 or not _is_at_hand(made.encoding)):
            return None
        return made

    def over(self, fd: int) -> Any:
        """Python's own file over a descriptor; that is closed if it cannot be made.

        Audit hooks are told only here.  So it has to be of an open that could not be seen: for
        reading, or for both without truncating.
        """
        left = [fd]
        try:
            return OPEN_FUNCTION(*self, opener=lambda path, flags: left.pop())
        finally:
            for unused in left:
                os.close(unused)


def _open_at_once(call: Call, meter: Any) -> Any:
    opening = Opening.of(call)
    name = None if opening is None else encoded(opening.path)
    if opening is None or name is None:
        return NOT_SERVED
    found = open_now(name, parse_mode(opening.mode).flags, meter)
    if isinstance(found, int):
        return call.itself() if found <= WALK_ERROR_BASE else NOT_SERVED
    return opening.over(found[0])


def _open_waiting(call: Call, runtime: Runtime) -> Awaitable[Any] | None:
    opening = Opening.of(call)
    if opening is None or runtime.ops is runtime.threads or not parse_mode(opening.mode).reading:
        return None
    return _open_on_ring(opening, runtime)


async def _open_on_ring(opening: Opening, runtime: Runtime) -> Any:
    mode = parse_mode(opening.mode)
    try:
        opened = await runtime.ops.open(opening.path, mode.flags, 0o666, None)
    except OSError:
        sys.audit("open", opening.path, mode.audit_name, mode.flags)
        raise
    if is_simple(opened):
        return opening.over(opened.fd)
    # It asks for the file's facts, and perhaps where its end is
    left = [opened.fd]  # whoever takes it has it: the thread, or the task that leaves
    try:
        return await runtime.threads.call(
            lambda: opening.over(left.pop()), None, lambda file: file.close()
        )
    except BaseException:
        for unused in left:  # the thread has not begun
            os.close(unused)
        raise


def is_simple(opened: Opened) -> bool:
    """A regular file of a local file system: what asks about it does not wait."""
    st_mode, *_, local = opened.facts
    return local and stat.S_ISREG(st_mode)


# -- changes of directories -----------------------------------------------------------------------


def _on_path(change: Callable[[PathOps, Any], Awaitable[None]]) -> Service:
    def waiting(call: Call, runtime: Runtime) -> Awaitable[Any] | None:
        path = call.path()
        return None if encoded(path) is None else change(runtime.paths, path)

    return Service(waiting=waiting)


def _rename(name: str, returns_path: bool) -> Service:
    def waiting(call: Call, runtime: Runtime) -> Any:
        source = call.path(2)
        target = None if source is None else path_of(call.args[1])
        if encoded(source) is None or encoded(target) is None:
            return None
        change = getattr(runtime.paths, name)
        if not returns_path:
            return change(source, target, None)
        return _then(change(source, target, None), call) if type(target) is str else None

    return Service(waiting=waiting)


async def _then(change: Awaitable[None], call: Call) -> Any:
    path, target = call.args
    await change
    return type(path)(target)


def _mkdir(call: Call, runtime: Runtime) -> Awaitable[None] | None:
    mode = call.args[1] if len(call.args) == 2 else 0o777
    path: Any = call.path(len(call.args)) if len(call.args) in (1, 2) else None
    if encoded(path) is None or type(mode) is not int or not 0 <= mode <= MODE_MAX:
        return None
    return runtime.paths.mkdir(path, mode, None)


def _unlink_path(call: Call, runtime: Runtime) -> Awaitable[None] | None:
    given = call.named("path", "missing_ok")
    path: Any = None if given is None else path_of(given["path"])
    if given is None or encoded(path) is None:
        return None
    missing_ok = given.get("missing_ok", False)
    return _unlink(runtime, path, missing_ok) if isinstance(missing_ok, bool) else None


async def _unlink(runtime: Runtime, path: str, missing_ok: bool) -> None:
    try:
        await runtime.paths.unlink(path, None)
    except FileNotFoundError:
        if not missing_ok:
            raise


def _list(call: Call, runtime: Runtime) -> Awaitable[Any] | None:
    return None if call.path() is None else runtime.paths.do(call.itself, None)


# -- the tables ----------------------------------------------------------------------------------


def _anything(mode: int) -> bool:
    return True


STAT: Final = _stat(follows=True)
LSTAT: Final = _stat(follows=False)
OPEN: Final = Service(_open_at_once, _open_waiting, OPEN_COST_BYTES)
LOOKUP: Final = Service(_lookup, cost=LOOKUP_COST_BYTES, quick=_lookup_quick)
UNLINK: Final = _on_path(lambda paths, path: paths.unlink(path, None))
RMDIR: Final = _on_path(lambda paths, path: paths.rmdir(path, None))
OF_OS: Final = {
    "stat": STAT,
    "lstat": LSTAT,
    "rename": _rename("rename", returns_path=False),
    "replace": _rename("replace", returns_path=False),
    "unlink": UNLINK,
    "remove": UNLINK,
    "mkdir": Service(waiting=_mkdir),
    "rmdir": RMDIR,
    "listdir": Service(waiting=_list),
}
OF_PATHS: Final = {
    "stat": STAT,
    "lstat": LSTAT,
    "exists": _kind(_anything),
    "is_file": _kind(stat.S_ISREG),
    "is_dir": _kind(stat.S_ISDIR),
    "is_symlink": _kind(stat.S_ISLNK, follow=False),
    "is_socket": _kind(stat.S_ISSOCK),
    "is_fifo": _kind(stat.S_ISFIFO),
    "is_block_device": _kind(stat.S_ISBLK),
    "is_char_device": _kind(stat.S_ISCHR),
    "open": OPEN,
    "read_bytes": Service(_read_bytes, cost=OPEN_COST_BYTES),
    "read_text": Service(_read_text, cost=OPEN_COST_BYTES),
    "rename": _rename("rename", returns_path=True),
    "replace": _rename("replace", returns_path=True),
    "unlink": Service(waiting=_unlink_path),
    "mkdir": Service(waiting=_mkdir),
    "rmdir": RMDIR,
}
