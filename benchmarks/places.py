"""Where the table is measured: a directory, or file systems made for it and removed after it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from anyio_uring._bench_material import write_all

KINDS = ("ext4", "tmpfs", "overlayfs", "xfs", "btrfs")
IMAGE_BYTES = 512 << 20
# Nothing left to do in the background, and no holes in the image: both would be measured, too
_MKFS = {
    "ext4": (
        "e2fsprogs",
        "mkfs.ext4",
        "-q",
        "-F",
        "-E",
        "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
    ),
    "xfs": ("xfsprogs", "mkfs.xfs", "-q", "-f", "-K"),
    "btrfs": ("btrfs-progs", "mkfs.btrfs", "-q", "-f", "-K"),
}
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class PlaceError(Exception):
    """This file system cannot be had here; the message says why."""


@contextmanager
def held() -> Iterator[None]:
    """Let Ctrl-C and the like wait, so that nothing is left half done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def folder_in(parent: Path) -> Iterator[Path]:
    """A new directory with a name of its own, which is gone afterwards."""
    with ExitStack() as stack:
        with held():
            path = Path(tempfile.mkdtemp(prefix="anyio_uring-table-", dir=parent))
            _later(stack, lambda: shutil.rmtree(path))
        yield path


@contextmanager
def file_system(kind: str, images: Path) -> Iterator[tuple[Path, str]]:
    """A new file system: where it is mounted, and what is to be said about it.

    :param images: a directory for the image file, if it takes one
    :raises PlaceError: no root, a program is missing, or the kernel does not know it
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise PlaceError("mounting needs root on Linux")
    with ExitStack() as stack:
        with held():
            path = Path(tempfile.mkdtemp(prefix=f"anyio_uring-{kind}-"))
            # Not its content: that would be the file system, if it is still mounted
            _later(stack, path.rmdir)
            if kind == "tmpfs":
                _mount(stack, path, "-t", "tmpfs", "-o", f"size={IMAGE_BYTES}", "tmpfs")
                note = ""
            elif kind == "overlayfs":
                path, note = _overlay(stack, path, images)
            else:
                note = _image(stack, kind, path, images)
        yield path, note


def _overlay(stack: ExitStack, path: Path, images: Path) -> tuple[Path, str]:
    """An overlay on an ext4 that is mounted at `path`."""
    note = _image(stack, "ext4", path, images)
    merged, lower, upper, work = (path / name for name in ("merged", "lower", "upper", "work"))
    for directory in (merged, lower, upper, work):
        directory.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    _mount(stack, merged, "-t", "overlay", "-o", options, "overlay")
    return merged, note


def _image(stack: ExitStack, kind: str, path: Path, images: Path) -> str:
    package, program, *options = _MKFS[kind]
    mkfs = _tool(program, package)
    losetup = _tool("losetup", "util-linux")
    number, name = tempfile.mkstemp(prefix=f"anyio_uring-{kind}-", suffix=".img", dir=images)
    _later(stack, lambda: os.unlink(name))
    _fill(number, name)
    _run(mkfs, *options, name)
    note = ""
    try:
        # Else what the file system reads from its disk would be in memory, as the image's pages
        device = _run(losetup, "--find", "--show", "--direct-io=on", name)
    except PlaceError:
        device = _run(losetup, "--find", "--show", name)
        note = "the image is cached, so cold reads are not: no O_DIRECT where it lies"
    _later(stack, lambda: _run(losetup, "--detach", device))
    _mount(stack, path, "-t", kind, "-o", "nosuid,nodev", device)
    return note


def _fill(number: int, name: str) -> None:
    """Write the image, so that the file system below has no blocks to find for it later."""
    block = bytes(4 << 20)
    try:
        with open(number, "wb", buffering=0) as image:
            for _ in range(IMAGE_BYTES // len(block)):
                write_all(image.write, block)
            os.fsync(image.fileno())
    except OSError as error:
        raise PlaceError(f"an image file of {IMAGE_BYTES >> 20} MiB, {name}: {error}") from None


def _mount(stack: ExitStack, path: Path, *arguments: str) -> None:
    _run(_tool("mount", "mount"), *arguments, str(path))
    _later(stack, lambda: _unmount(path))


def _unmount(path: Path) -> None:
    """Unmount; what a process that was killed had open may take a moment to go."""
    umount = _tool("umount", "mount")
    for _ in range(50):
        try:
            _run(umount, str(path))
            return
        except PlaceError:
            time.sleep(0.1)
    _run(umount, "-l", str(path))
    print(f"{path} was busy and is unmounted when it no longer is", file=sys.stderr)


def _later(stack: ExitStack, undo: Callable[[], object]) -> None:
    def quietly() -> None:
        with held():
            try:
                undo()
            except (PlaceError, OSError) as error:
                print(f"cannot clean up: {error}", file=sys.stderr)

    stack.callback(quietly)


def _tool(name: str, package: str) -> str:
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=search)
    if found is None:
        raise PlaceError(f"{name} is not installed: it is in the package {package}")
    return found


def _run(*command: str) -> str:
    """Run a program; what it printed.

    :raises PlaceError: it failed
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PlaceError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()
