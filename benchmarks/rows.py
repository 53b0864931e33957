"""The rows of the table: what is done, how much of it at most, and what is aimed at.

Also the files that all participants work on.  `run.py` makes them, `participant.py` uses them.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anyio_uring._bench_material import MIB, PAGE, SEED, Content, MismatchError, write_all

HOSTS = ("asyncio", "uvloop", "trio")
ANYIO_LEAST = 0.95

Kind = Literal[
    "pread", "read", "seek_read", "readline", "write", "append", "small",
    "whole", "whole_batch", "kept_batch", "stat", "stat_batch", "iterdir", "walk",
    "copy_tree", "remove_tree",
    "direct", "direct_batch", "write_behind",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One workload.

    :ivar size: bytes of one operation
    :ivar buffering: as for open()
    :ivar files: how many files are appended to
    :ivar cold: what is read is not in memory; with `forget` neither are the inodes
    :ivar least: operations that one measurement does at least
    :ivar behind: `write_behind`: bytes that may be on their way
    :ivar synced: what was written is on the disk at the end of the measurement
    :ivar most: operations that one measurement does at most
    :ivar target: the share of synchronous Python's rate that is aimed at, on asyncio and uvloop
    :ivar target_trio: the same on Trio
    """

    key: str
    title: str
    kind: Kind
    size: int = PAGE
    tasks: int = 1
    files: int = 1
    buffering: int = -1
    cold: bool = False
    forget: bool = False
    behind: int = 0
    synced: bool = False
    least: int = 1
    most: int = 200_000
    target: float | None = None
    target_trio: float | None = None

    def target_on(self, host: str) -> float | None:
        return self.target_trio if host == "trio" else self.target


ROWS = {
    row.key: row
    for row in (
        Row(
            key="cached_1",
            title="cached 4 KiB pread, 1 task",
            kind="pread",
            buffering=0,
            target=0.6,
            target_trio=0.5,
        ),
        Row(
            key="cached_128",
            title="cached 4 KiB pread, 128 tasks",
            kind="pread",
            tasks=128,
            buffering=0,
            target=0.6,
            target_trio=0.5,
        ),
        # The targets are rates: 14 k (Trio: 12 k) where synchronous Python does 24 k
        Row(
            key="cold_1",
            title="cold 4 KiB pread, 1 task",
            kind="pread",
            buffering=0,
            cold=True,
            target=0.58,
            target_trio=0.5,
        ),
        # 72 k (52 k) where it does 31 k
        Row(
            key="cold_128",
            title="cold 4 KiB pread, 128 tasks",
            kind="pread",
            tasks=128,
            buffering=0,
            cold=True,
            target=2.3,
            target_trio=1.7,
        ),
        Row(
            key="read_64k",
            title="sequential read, warm, 64 KiB, unbuffered",
            kind="read",
            size=64 << 10,
            buffering=0,
            target=0.85,
            target_trio=0.85,
        ),
        Row(
            key="read_1m",
            title="sequential read, warm, 1 MiB, unbuffered",
            kind="read",
            size=MIB,
            buffering=0,
            target=0.95,
            target_trio=0.95,
        ),
        Row(
            key="cold_64k",
            title="sequential read, cold, 64 KiB, unbuffered",
            kind="read",
            size=64 << 10,
            buffering=0,
            cold=True,
            target=1.0,
            target_trio=1.0,
        ),
        Row(
            key="cold_1m",
            title="sequential read, cold, 1 MiB, unbuffered",
            kind="read",
            size=MIB,
            buffering=0,
            cold=True,
            target=1.0,
            target_trio=1.0,
        ),
        Row(
            key="seek_read",
            title="buffered seek + read(4096), random",
            kind="seek_read",
            target=0.5,
            target_trio=0.45,
        ),
        Row(
            key="read_32",
            title="buffered read(32), sequential",
            kind="read",
            size=32,
            most=2_000_000,
            target=0.3,
            target_trio=0.25,
        ),
        Row(
            key="readline",
            title="buffered readline()",
            kind="readline",
            most=1_000_000,
            target=0.3,
            target_trio=0.25,
        ),
        Row(
            key="write_64k",
            title="buffered write, 64 KiB, sequential",
            kind="write",
            size=64 << 10,
            most=1024,
            target=0.35,
            target_trio=0.35,
        ),
        Row(
            key="write_fsync",
            title="buffered write, 1 MiB, sequential, and fsync at the end",
            kind="write",
            size=MIB,
            synced=True,
            most=64,
            target=1.0,
            target_trio=1.0,
        ),
        # 7.5 k (6.5 k) where it does 3.8 k
        Row(
            key="append_16",
            title="append 4 KiB + fdatasync, 16 tasks, a file each",
            kind="append",
            tasks=16,
            files=16,
            buffering=0,
            most=4096,
            target=1.97,
            target_trio=1.71,
        ),
        Row(
            key="append_16_one",
            title="append 4 KiB + fdatasync, 16 tasks, one file",
            kind="append",
            tasks=16,
            buffering=0,
            most=4096,
        ),
        Row(key="small_1", title="small files: open + read + close, 1 task", kind="small"),
        # 65 k (50 k) where open() does 65 k
        Row(
            key="small_128",
            title="small files: open + read + close, 128 tasks",
            kind="small",
            tasks=128,
            target=1.0,
            target_trio=0.75,
        ),
        # From here on sync is a loop of os.open, os.read, os.close; of os.stat; of os.scandir; is
        # os.walk, shutil.copytree, shutil.rmtree
        Row(
            key="read_bytes_128",
            title="Path.read_bytes of small files, 128 tasks",
            kind="whole",
            tasks=128,
            target=0.75,
            target_trio=0.6,
        ),
        Row(
            key="read_files",
            title="read_files of small files",
            kind="whole_batch",
            tasks=128,
            target=1.4,
            target_trio=1.4,
        ),
        Row(
            key="read_files_kept",
            title="read_files, beside a loop that keeps what it reads",
            kind="kept_batch",
            tasks=128,
        ),
        Row(
            key="stat_128",
            title="Path.stat, 128 tasks",
            kind="stat",
            tasks=128,
            target=0.5,
            target_trio=0.4,
        ),
        Row(
            key="stat_files",
            title="stat_files",
            kind="stat_batch",
            tasks=128,
            target=1.2,
            target_trio=1.2,
        ),
        Row(
            key="iterdir",
            title="Path.iterdir, entries of a big directory",
            kind="iterdir",
            target=0.5,
            target_trio=0.5,
        ),
        Row(
            key="walk",
            title="Path.walk, entries of a tree",
            kind="walk",
            target=0.5,
            target_trio=0.5,
        ),
        Row(
            key="cold_files",
            title="read_files of small files, cold",
            kind="whole_batch",
            tasks=128,
            cold=True,
            forget=True,
            least=10_000,
            most=10_000,
            target=3.0,
            target_trio=3.0,
        ),
        Row(
            key="copy_tree",
            title="copy_tree, files",
            kind="copy_tree",
            least=10_000,
            most=10_000,
            target=1.0,
            target_trio=1.0,
        ),
        Row(
            key="remove_tree",
            title="remove_tree, files",
            kind="remove_tree",
            least=10_000,
            most=10_000,
            target=1.0,
            target_trio=1.0,
        ),
        # What follows is past the page cache, or opted in
        Row(
            key="direct_128",
            title="O_DIRECT 4 KiB pread, 128 tasks",
            kind="direct",
            tasks=128,
            target=2.5,
            target_trio=1.4,
        ),
        Row(
            key="pread_many",
            title="O_DIRECT 4 KiB pread_many, 128 in flight",
            kind="direct_batch",
            tasks=128,
        ),
        Row(
            key="write_behind",
            title="buffered write, 64 KiB, sequential, write_behind",
            kind="write_behind",
            size=64 << 10,
            behind=4 << 20,
            most=1024,
            target=0.7,
            target_trio=0.7,
        ),
        Row(
            key="write_behind_1m",
            title="the same with 1 MiB on its way instead of 4 MiB",
            kind="write_behind",
            size=64 << 10,
            behind=1 << 20,
            most=1024,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Sizes of the files, and how long one measurement takes by default."""

    large_bytes: int
    hot_bytes: int
    small_files: int
    entries: int  # of the big directory
    seconds: float
    rounds: int
    settled: float  # seconds from the making of the files to the first measurement


FULL = Amounts(
    large_bytes=64 * MIB,
    hot_bytes=16 * MIB,
    small_files=10_000,
    entries=100_000,
    seconds=0.1,
    rounds=5,
    settled=2.5,
)
QUICK = Amounts(
    large_bytes=2 * MIB,
    hot_bytes=MIB,
    small_files=64,
    entries=300,
    seconds=0.005,
    rounds=2,
    settled=0,
)
# A file has no more names than this.
LINKS_MAX = 50_000
FOLDER_FILES = 100


class Material:
    """The files, in a folder that is theirs alone."""

    def __init__(self, folder: Path, amounts: Amounts) -> None:
        self.amounts = amounts
        self.content = Content()
        self.large = folder / "large"
        self.lines = folder / "lines"
        self.written = folder / "written"
        self.appended = [folder / f"appended-{index:02}" for index in range(16)]
        self.big = folder / "big"
        self.tree = folder / "tree"
        self.copy = folder / "copy"
        self.small = [folder / "small" / f"{index:04}" for index in range(amounts.small_files)]

    def write(self) -> None:
        """Make all files, and have them on the disk, and old enough for `walk` to read ahead."""
        with open(self.large, "xb", buffering=0) as file:
            for offset in range(0, self.amounts.large_bytes, MIB):
                write_all(file.write, self.content.block(offset, MIB))
            os.fsync(file.fileno())
        numbers = random.Random(SEED)
        with open(self.lines, "xb") as lines:
            lines.writelines(
                b"%08d %s\n" % (index, b"x" * numbers.randrange(110))
                for index in range(self.amounts.large_bytes // 8 // 64)
            )
        self.write_small()
        self.big.mkdir()
        for index in range(self.amounts.entries):
            path = self.big / f"{index:06}"
            if index % LINKS_MAX:
                os.link(self.big / f"{index - index % LINKS_MAX:06}", path)
            else:
                path.touch()
        for number in range(self.amounts.entries // FOLDER_FILES):
            folder = self.tree / f"{number // 10:03}" / f"{number % 10}"
            folder.mkdir(parents=True)
            (folder / "00").touch()
            for index in range(1, FOLDER_FILES):
                os.link(folder / "00", folder / f"{index:02}")
        os.sync()
        time.sleep(self.amounts.settled)

    def write_small(self) -> None:
        self.small[0].parent.mkdir()
        for index, path in enumerate(self.small):
            path.write_bytes(self.small_content(index))

    def small_content(self, index: int) -> bytes:
        return self.content.page(index)[: 512 + index * 997 % 3584]

    def pages(self, row: Row) -> list[int]:
        """The offsets that random reads use, each once; where pages are to be cold, of all."""
        size = self.amounts.large_bytes if row.cold else self.amounts.hot_bytes
        offsets = list(range(0, size, PAGE))
        random.Random(SEED).shuffle(offsets)
        return offsets

    def most(self, row: Row) -> int:
        """Operations of one measurement: what is cold can be read but once."""
        if row.kind in ("copy_tree", "remove_tree") or row.forget:
            return min(row.most, self.amounts.small_files)
        return min(row.most, self.amounts.large_bytes // row.size) if row.cold else row.most

    def check_page(self, offset: int, data: bytes) -> None:
        if data != self.content.page(offset // PAGE):
            raise MismatchError(f"{self.large} at {offset}: not what was written")

    @staticmethod
    def check_end(path: Path, end: int, data: bytes) -> None:
        """`data` was the last that a stream read, and it is now at `end`."""
        with open(path, "rb", buffering=0) as file:
            if os.pread(file.fileno(), len(data), end - len(data)) != data:
                raise MismatchError(f"{path} before {end}: not what was written")

    def check_small(self, index: int, data: bytes) -> None:
        if data != self.small_content(index):
            raise MismatchError(f"{self.small[index]}: not what was written")

    def check_copy(self) -> None:
        for index, path in enumerate(self.small):
            if (self.copy / path.name).read_bytes() != self.small_content(index):
                raise MismatchError(f"{self.copy / path.name}: not what was written")

    def check_written(self, path: Path, size: int, last: bytes) -> None:
        found = path.stat().st_size
        if found != size:
            raise MismatchError(f"{path}: {found} bytes rather than {size}")
        if size:
            self.check_end(path, size, last)
