"""The files that ``bench`` works on: how much, what is in them, and whether they are in memory."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
MIB = 1 << 20
SEED = 20261101


class MismatchError(Exception):
    """Something else was read than had been written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    :ivar seconds: of one measurement
    :ivar large_bytes: size of the large file
    :ivar hot_bytes: the part of it that the cached random reads use
    :ivar written_bytes: written by one measurement of writing
    :ivar small_files: number of small files
    """

    rounds: int
    seconds: float
    large_bytes: int
    hot_bytes: int
    written_bytes: int
    small_files: int

    def scaled(self, scale: float) -> Plan:
        def whole(size: int) -> int:
            return max(int(size * scale) // MIB, 1) * MIB

        return Plan(
            rounds=self.rounds,
            seconds=self.seconds * scale,
            large_bytes=whole(self.large_bytes),
            hot_bytes=min(self.hot_bytes, whole(self.large_bytes)),
            written_bytes=whole(self.written_bytes),
            small_files=max(int(self.small_files * scale), 16),
        )


FULL = Plan(
    rounds=5,
    seconds=0.3,
    large_bytes=256 * MIB,
    hot_bytes=16 * MIB,
    written_bytes=32 * MIB,
    small_files=2000,
)
QUICK = Plan(
    rounds=3,
    seconds=0.1,
    large_bytes=96 * MIB,
    hot_bytes=16 * MIB,
    written_bytes=8 * MIB,
    small_files=500,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    :ivar kind: which of the functions below does it
    :ivar unit: what is counted, ``op`` or ``byte``
    """

    key: str
    title: str
    kind: str
    size: int = PAGE
    tasks: int = 1
    cold: bool = False
    unit: str = "op"


class Content:
    """Bytes that can be known again: no two pages are alike, and none compresses well."""

    def __init__(self) -> None:
        self._noise = random.Random(SEED).randbytes(MIB)

    def page(self, index: int) -> bytes:
        start = index * 4093 % (MIB - PAGE)
        return struct.pack("<Q", index) + self._noise[start : start + PAGE - 8]

    def block(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, both whole pages."""
        return b"".join(map(self.page, range(offset // PAGE, (offset + size) // PAGE)))


class Material:
    """The files of a run, in a directory of their own."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self.content = Content()
        self.large = folder / "large"
        self.written = folder / "written"
        self.small = {
            str(folder / f"small-{index:05}"): self.content.page(index)[: 512 + index * 997 % 3584]
            for index in range(plan.small_files)
        }
        self.checksum = ""
        self.chunks: list[bytes] = []

    def write(self) -> None:
        """Make all of them.

        :raises OSError: ENOSPC among others
        """
        digest = hashlib.sha256()
        with open(self.large, "xb", buffering=0) as file:
            for offset in range(0, self.plan.large_bytes, MIB):
                block = self.content.block(offset, MIB)
                digest.update(block)
                write_all(file.write, block)
            os.fsync(file.fileno())
        self.checksum = digest.hexdigest()
        for path, data in self.small.items():
            with open(path, "xb") as small:
                small.write(data)
        size = 64 << 10
        self.chunks = [
            self.content.block(offset, size) for offset in range(0, self.plan.written_bytes, size)
        ]

    def prepare(self, case: Case) -> float | None:
        """Drop the large file from memory, or bring it there; the share of it that is cached."""
        if case.kind not in ("random", "sequential"):
            return None
        if case.cold:
            drop(self.large)
            return cached_share(self.large)
        share = cached_share(self.large)
        if share is None or share < 1:
            with open(self.large, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass
        return share

    def check_page(self, offset: int, data: bytes) -> None:
        self.check(data, self.content.page(offset // PAGE), f"the large file at {offset}")

    @staticmethod
    def check(data: bytes | None, expected: bytes, where: str) -> None:
        if data != expected:
            raise MismatchError(f"{where}: read back something else than was written")

    def check_written(self) -> None:
        """Compare checksums, from the disk where that can be had; then remove the file."""
        expected, found = hashlib.sha256(), hashlib.sha256()
        drop(self.written)
        with open(self.written, "rb", buffering=0) as file:
            while data := file.read(MIB):
                found.update(data)
        for chunk in self.chunks:
            expected.update(chunk)
        if found.digest() != expected.digest():
            raise MismatchError("the file written: its checksum is not that of what was written")
        os.unlink(self.written)


def drop(path: Path) -> None:
    """Ask the kernel to forget a file's pages; written ones it forgets only when they are safe."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_ahead_nothing(fd: int) -> None:
    """Have each read get its own pages only: those around them are others' cold reads."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)


def cached_share(path: Path) -> float | None:
    """Which part of a file is in memory, from 0 to 1, by mincore(2); None if unknown."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes
        import mmap
    except ImportError:
        return None
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    with open(path, "rb") as file:
        # Unmapped when forgotten: closing it is an error while the view exists
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    view = (ctypes.c_char * size).from_buffer(mapping)
    failed = mincore(ctypes.addressof(view), size, found)
    return None if failed else sum(page & 1 for page in found) / pages


_pread_lock = threading.Lock()


def _pread(fd: int, size: int, offset: int) -> bytes:
    """pread(2) for systems without it."""
    with _pread_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)


pread: Callable[[int, int, int], bytes] = getattr(os, "pread", _pread)


def write_all(write: Callable[[memoryview], int | None], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[write(rest) or 0 :]


def is_full(error: OSError) -> bool:
    """Whether this error means that there is no room left."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
