"""File systems for tests to run on: context managers that mount and unmount them.

They need root on Linux (see :func:`cannot_mount`) and do not depend on pytest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .fuse import MS_NODEV, MS_NOSUID, cannot_mount, mount, umount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "MissingToolError",
    "Overlay",
    "cannot_mount",
    "drop_caches",
    "fs_type",
    "loop",
    "overlay",
    "tmpfs",
]

_MIB = 1 << 20


@dataclass(frozen=True)
class _Maker:
    """How to make an image of one file system."""

    package: str
    command: tuple[str, ...]
    size: int  # the smallest that mkfs takes, with some room


_MAKERS = {
    "ext4": _Maker("e2fsprogs", ("mkfs.ext4", "-q", "-F"), 64 * _MIB),
    "xfs": _Maker("xfsprogs", ("mkfs.xfs", "-q", "-f"), 320 * _MIB),
    "btrfs": _Maker("btrfs-progs", ("mkfs.btrfs", "-q", "-f"), 160 * _MIB),
}


class MissingToolError(RuntimeError):
    """A program is not installed; the message names the package that has it."""


@dataclass(frozen=True)
class Overlay:
    """A mounted overlay and the directories it is made of."""

    path: Path
    lower: Path
    upper: Path
    work: Path


def fs_type(path: str | os.PathLike[str]) -> str:
    """The type of the file system that holds this path, as the kernel names it."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    mount_id = next(line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            if left.split(" ", 1)[0] == mount_id:
                return right.split(" ", 1)[0]
    raise LookupError(f"no mount found for {os.fspath(path)}")


def drop_caches() -> None:
    """Write dirty pages back and drop all clean pages, dentries and inodes of the system."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


@contextlib.contextmanager
def tmpfs(size: int = 64 * _MIB) -> Iterator[Path]:
    """A tmpfs of so many bytes."""
    with _directory("tmpfs-") as path:
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=0755")
        with _unmounting(path):
            yield path


@contextlib.contextmanager
def overlay(lower: Mapping[str, bytes], base: Path | None = None) -> Iterator[Overlay]:
    """An overlay over a lower layer of these files.

    :param base: a directory for the layers, which stay there; a tmpfs of their own if not given
    """
    with contextlib.ExitStack() as stack:
        if base is None:
            base = stack.enter_context(tmpfs())
        made = Overlay(base / "merged", base / "lower", base / "upper", base / "work")
        for directory in (made.path, made.lower, made.upper, made.work):
            directory.mkdir()
        for name, content in lower.items():
            file = made.lower / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        options = f"lowerdir={made.lower},upperdir={made.upper},workdir={made.work}"
        mount("overlay", made.path, "overlay", MS_NOSUID | MS_NODEV, options)
        stack.enter_context(_unmounting(made.path))
        yield made


@contextlib.contextmanager
def loop(kind: str, size: int | None = None, directory: Path | None = None) -> Iterator[Path]:
    """A file system of this kind (ext4, xfs, btrfs) in a sparse image file.

    :param size: bytes; as small as the kind allows if not given
    :param directory: where to put the image while it is mounted
    :raises MissingToolError: if the program that makes it is not installed
    """
    maker = _MAKERS[kind]
    mkfs = [_tool(maker.command[0], maker.package), *maker.command[1:]]
    mount_command = _tool("mount", "mount")
    with (
        tempfile.NamedTemporaryFile(prefix=f"{kind}-", suffix=".img", dir=directory) as image,
        _directory(f"{kind}-") as path,
    ):
        image.truncate(maker.size if size is None else size)
        _run(*mkfs, image.name)
        # mount(8) rather than mount(2): it sets the loop device up to vanish with the mount.
        _run(mount_command, "-t", kind, "-o", "loop,nosuid,nodev", image.name, os.fspath(path))
        with _unmounting(path):
            yield path


@contextlib.contextmanager
def _directory(prefix: str) -> Iterator[Path]:
    """A temporary directory to mount on; removed only if empty, lest a mount be emptied."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        path.rmdir()


@contextlib.contextmanager
def _unmounting(path: Path) -> Iterator[None]:
    """Unmount at the end; lazily if a failed test has left a file open."""
    try:
        yield
    finally:
        try:
            umount(path, 0)
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            umount(path)


def _tool(name: str, package: str) -> str:
    """The path of a program; the directories of root's programs are searched as well."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    if found is None:
        raise MissingToolError(f"{name} is not installed: it is in the package {package}")
    return found


def _run(*command: str) -> None:
    """Run a program; its output is in the exception if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
