"""The temporary of an `atomic_write`, and how it takes the target's place.

**Beside the target.**  The content is written to a temporary in the target's own directory and
renamed over the target at the end.  The directory is held open, so it is the same one at the end
as at the beginning, whatever has been renamed meanwhile.

**What a killed process leaves behind.**  A temporary without an owner.  Each writer holds a lock,
flock(2), on its own for as long as that has its name, and the kernel takes the lock away with the
process: it belongs to a descriptor that nothing else has a share in.  So a new writer looks through
the directory and removes what is called like a temporary of its target and can be locked.  Nobody
loses a live one: only who has a lock removes, and a new temporary counts if it still has its name
once it is locked.  (O_TMPFILE leaves nothing behind until it is given a name, which rename(2)
needs; then the same question comes up.  And it is not to be had everywhere.)  Where there are no
such locks, nothing is removed.

**Who is at it.**  The steps of a `Staged` are jobs of threads, and a task that is cancelled
natively leaves such a job behind.  So the steps, and the removal, exclude one another, and whoever
comes last clears up.  The last step renames and has the directory on the disk in one go: it is
never half done.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from errno import (
    EAGAIN,
    EBADF,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    ENOENT,
    ENOSYS,
    ENOTSUP,
    EOPNOTSUPP,
    EPERM,
)

from ._errors import os_error
from ._handle import fd_facts
from ._ops import Opened

POSIX = os.name == "posix"

# A temporary is called `.NAME.atomic-` and so many hexadecimal digits; of a long name only the
# begin, so that it is not too long for the file system if the target's is not.
MARK = ".atomic-"
DIGITS = 16
NAME_MAX = 128
# The path of a target may change while it is followed, a new temporary may be taken for a stale
# one: another attempt, but not for ever.
ATTEMPTS_MAX = 40

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
NEW_FILE |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
# Links that cannot be made here, by what link(2) says on FAT, FUSE and network file systems
NO_LINKS = frozenset({EPERM, ENOSYS, ENOTSUP, EOPNOTSUPP})
# Directories that cannot be synced: there is nothing that could be done
NO_SYNC = frozenset({EBADF, EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP})
RENAME_NOREPLACE = 1  # linux/fs.h
ACL = "system.posix_acl_access"


class Staged:
    """A temporary and its directory.  Its steps run in threads, one at a time, and not at all once
    it has been discarded.
    """

    def __init__(self, path: str | bytes, exclusive: bool, durable: bool) -> None:
        self._path = path  # as it was given, for errors
        self._exclusive = exclusive
        self._durable = durable
        self._mutex = threading.Lock()
        self._process = os.getpid()
        self._discarded = False
        self._directory = ""
        self._target = ""
        self._temporary = ""  # or its name, while it has it
        self._folder = -1  # the directory's descriptor
        self._fd = -1  # the temporary's, with the lock; the file has another
        self._opened: Opened | None = None

    # -- from the loop, or wherever ---------------------------------------------------------------

    def take(self) -> Opened:
        """The descriptor to write to, which is the caller's from now on."""
        opened, self._opened = self._opened, None
        assert opened is not None
        return opened

    def discard(self) -> None:
        """Remove the temporary now, or have the step that is under way do it at its end."""
        self._discarded = True
        if self._process != os.getpid():
            return  # forked: it is the parent's
        if self._mutex.acquire(blocking=False):
            try:
                self._clear()
            finally:
                self._mutex.release()

    # -- in a thread ------------------------------------------------------------------------------

    def discard_at_last(self) -> None:
        """The same, once the step that is under way has come to its end."""
        self._discarded = True
        with self._mutex:
            self._clear()

    def create(self) -> None:
        """Have a temporary beside the target."""
        self._step(self._create)

    def sync(self) -> None:
        """Have the temporary on the disk, although its file is closed."""
        self._step(self._sync)

    def commit(self) -> None:
        """Have the temporary take the target's place."""
        self._step(self._commit)

    def _step(self, function: Callable[[], object]) -> None:
        try:
            with self._mutex:
                if not self._discarded:
                    function()
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, self._path) from None
        finally:
            if self._discarded:
                self.discard()

    def _clear(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            os.close(opened.fd)
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary, **_in(self._folder))
            self._temporary = ""
        self._unlock()
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    def _unlock(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # it was the file's close that could tell of something lost
                os.close(fd)

    def _create(self) -> None:
        target = self._locate()
        prefix = _prefix(self._target)
        _remove_stale(self._folder, prefix)
        fd = self._make(prefix, 0o666 if target is None else 0o600)
        opened = self._open_again(fd) if POSIX else fd
        try:
            self._opened = Opened(opened, fd_facts(opened))
        except BaseException:
            os.close(opened)
            raise
        if target is not None and POSIX:
            _keep_attributes(fd, target, os.path.join(self._directory, self._target))

    def _locate(self) -> os.stat_result | None:
        """Find the file that open(2) would write to; returns what is there already."""
        path = os.fsdecode(self._path)
        if path.endswith(os.sep) and path.strip(os.sep):
            os.stat(os.path.join(os.path.dirname(path.rstrip(os.sep)) or os.curdir, ""))
            raise os_error(EISDIR)  # whatever may be there
        for _ in range(ATTEMPTS_MAX):
            # The kernel's answer first: which links may be followed is its affair
            found = _status(path, follow=not self._exclusive)
            self._directory, self._target = os.path.split(path if self._exclusive else _end(path))
            if found is not None and self._exclusive:
                raise os_error(EEXIST)
            if found is not None and not stat.S_ISREG(found.st_mode):
                raise os_error(EISDIR) if stat.S_ISDIR(found.st_mode) else _irregular()
            if not self._target:
                raise os_error(EISDIR if path else ENOENT)
            if not POSIX:
                return found
            self._open_folder()
            seen = _status(self._target, follow=False, folder=self._folder)
            if found is None and seen is None:
                return None
            if found is not None and seen is not None and os.path.samestat(found, seen):
                _check_writable(self._target, self._folder)
                return found
        raise os_error(ENOENT)

    def _open_folder(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._folder = os.open(self._directory or os.curdir, flags)

    def _make(self, prefix: str, permissions: int) -> int:
        """Create the temporary, and lock it; returns its descriptor."""
        for _ in range(ATTEMPTS_MAX):
            name = self._at(prefix + os.urandom(DIGITS // 2).hex())
            fd = os.open(name, NEW_FILE, permissions, **_in(self._folder))
            self._temporary = name
            if not POSIX:
                return fd  # which the file owns alone: what is open cannot be renamed
            self._fd = fd
            if _lock(fd) is not False and os.fstat(fd).st_nlink:
                return fd
            # Another writer has taken it for a stale one, and removes it
            self._temporary, self._fd = "", -1
            os.close(fd)
        raise os_error(EAGAIN)

    def _open_again(self, fd: int) -> int:
        """A descriptor for the file, which has no share in the lock: what is in the kernel when a
        process is killed holds on to its file for a while.
        """
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            again = os.open(self._temporary, flags, dir_fd=self._folder)
        except PermissionError:
            return os.dup(fd)  # such an umask
        if not os.path.samestat(os.fstat(again), os.fstat(fd)):
            os.close(again)
            raise os_error(ENOENT)
        return again

    def _sync(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
            return
        fd = os.open(self._temporary, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _commit(self) -> None:
        try:
            target = self._at(self._target)
            if not self._exclusive:
                os.replace(self._temporary, target, **_between(self._folder))
            elif POSIX:
                self._give_name(target)
            else:
                os.rename(self._temporary, target)
            self._temporary = ""
            self._unlock()
            if self._durable and POSIX:
                _sync_folder(self._folder)
        finally:
            self._clear()

    def _give_name(self, target: str) -> None:
        """Rename, unless there is something already."""
        try:
            os.link(self._temporary, target, **_between(self._folder), follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if not _rename_new(self._folder, self._temporary, target):
                raise
        else:
            os.unlink(self._temporary, **_in(self._folder))

    def _at(self, name: str) -> str:
        """A name in the directory, for functions that are given the directory, too, if they can."""
        return name if POSIX else os.path.join(self._directory, name)


# -- directories ----------------------------------------------------------------------------------


def _in(folder: int) -> dict[str, int]:
    return {"dir_fd": folder} if POSIX else {}


def _between(folder: int) -> dict[str, int]:
    return {"src_dir_fd": folder, "dst_dir_fd": folder} if POSIX else {}


def _status(path: str, *, follow: bool, folder: int | None = None) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=folder, follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _end(path: str) -> str:
    """Where the links lead that a path ends in; perhaps to nothing."""
    if not POSIX:
        return os.path.realpath(path)
    for _ in range(ATTEMPTS_MAX):
        try:
            content = os.readlink(path)
        except OSError:
            return path  # no link; or out of reach, as will be seen
        path = os.path.join(os.path.dirname(path), content)
    raise os_error(ELOOP)


def _irregular() -> OSError:
    return OSError(EINVAL, "Not a regular file")


def _check_writable(name: str, folder: int) -> None:
    """A file that could not be opened for writing is not replaced behind its back, either."""
    effective = os.access in os.supports_effective_ids
    if not os.access(name, os.W_OK, dir_fd=folder, effective_ids=effective):
        # Which error it is; and nothing, if the answer was wrong
        os.close(os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder))


def _sync_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def _rename_new(folder: int, source: str, target: str) -> bool:
    """renameat2(2) with RENAME_NOREPLACE; False where there is none."""
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    names = os.fsencode(source), os.fsencode(target)
    if function(folder, names[0], folder, names[1], RENAME_NOREPLACE) == 0:
        return True
    error = ctypes.get_errno()
    if error in (EINVAL, ENOSYS):
        return False  # not on this file system
    raise os_error(error)


# -- temporaries ----------------------------------------------------------------------------------


def _prefix(name: str) -> str:
    """What the names of a target's temporaries begin with."""
    encoded = os.fsencode(name)
    room = max(len(encoded), NAME_MAX) - len(MARK) - DIGITS - 1
    if len(encoded) > room:
        name = encoded[:room].decode(errors="ignore")
    return f".{name}{MARK}"


def _remove_stale(folder: int, prefix: str) -> None:
    """Remove the temporaries of a target whose writers are no more."""
    if not POSIX:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(prefix) and len(name) == len(prefix) + DIGITS:
                with suppress(OSError):
                    _remove_if_stale(name, folder)


def _remove_if_stale(name: str, folder: int) -> None:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder)
    try:
        # A shared lock is enough to be sure that no writer has the other, and network file systems
        # give it to a reader
        if stat.S_ISREG(os.fstat(fd).st_mode) and _lock(fd, shared=True):
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(fd)


def _lock(fd: int, shared: bool = False) -> bool | None:
    """Lock an open file, until it is closed.  False: another has it; None: there is no telling."""
    import fcntl

    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


# -- attributes -----------------------------------------------------------------------------------


def _keep_attributes(fd: int, target: os.stat_result, path: str) -> None:
    """Give a new file the owner, group, access control list and permission bits of another, as far
    as we may, and to nobody more than that one gave.
    """
    own = os.fstat(fd)
    if (own.st_uid, own.st_gid) != (target.st_uid, target.st_gid):
        for uid in target.st_uid, -1:
            try:
                os.fchown(fd, uid, target.st_gid)
                break
            except OSError:
                pass  # only root gives files away; others to their own groups
        own = os.fstat(fd)
    mode = stat.S_IMODE(target.st_mode)
    if own.st_uid != target.st_uid:
        mode &= ~stat.S_ISUID
    if own.st_gid != target.st_gid:
        mode &= ~stat.S_ISGID
    if own.st_gid != target.st_gid or not _copy_acl(path, fd):
        mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    if mode != stat.S_IMODE(own.st_mode):
        os.fchmod(fd, mode)


def _copy_acl(path: str, fd: int) -> bool:
    if sys.platform != "linux":
        return True
    try:
        acl = os.getxattr(path, ACL, follow_symlinks=False)
    except OSError:
        with suppress(OSError):
            os.removexattr(fd, ACL)  # of the directory's
        return True
    try:
        os.setxattr(fd, ACL, acl)
    except OSError:
        return False
    return True
