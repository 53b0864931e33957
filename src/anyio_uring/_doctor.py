"""``python -m anyio_uring doctor``: what serves files here, why, and what to do about the rest.

Needs nothing beyond what the package itself needs: it is run in bare containers, where something
is wrong.  `collect` finds out, `render` tells; ``--json`` prints what was collected.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import stat
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from typing import Any

import anyio

from . import _mounts, _probe
from ._errors import UringUnavailableError
from ._info import DriverInfo, driver_info
from ._open import open_file
from ._runtime import Statistics, statistics
from ._settings import DRIVER_VARIABLE, current_settings

OK, NOT_SERVED, USAGE, NO_URING = 0, 1, 2, 3

EPILOG = """\
PATH is a file, which is opened and read, or a directory, in which a small file is made, used and
removed again; where that is not allowed a file that is there is read.

exit codes:
  0  files can be served here, by io_uring or by threads
  1  they cannot: PATH is missing or fails, or io_uring is required by the setting and absent
  2  wrong usage, or a wrong value in ANYIO_URING_DRIVER
  3  with --require-uring: files can be served, but not by io_uring
"""

# Since which Linux; none is needed.
SETUP_FLAGS = {
    "COOP_TASKRUN": "5.19",
    "DEFER_TASKRUN": "6.1",
    "NO_SQARRAY": "6.6",
    "SINGLE_ISSUER": "6.0",
    "SUBMIT_ALL": "5.18",
    "TASKRUN_FLAG": "5.19",
}
MISSING_OPERATIONS = {
    "ftruncate": "truncate() goes to a thread; Linux 6.9 has it",
    "statx": "sizes of files that are not in memory are asked for in a thread",
}

SIZE = 64 << 10
READ = 4096
PATIENCE_SECONDS = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "path",
        nargs="?",
        default=".",
        metavar="PATH",
        help="a file or directory on the file system in question (default: this directory)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument(
        "--require-uring",
        action="store_true",
        help="exit with 3 if io_uring does not serve, e.g. to check a container in CI",
    )


def main(arguments: argparse.Namespace) -> int:
    """Examine, print, and return the exit code."""
    try:
        current_settings()
    except ValueError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return USAGE
    report = collect(arguments.path)
    code = OK if report["served"] else NOT_SERVED
    if code == OK and arguments.require_uring and report["driver"] != "uring":
        code = NO_URING
    report["exit_code"] = code
    print(json.dumps(report, indent=2) if arguments.json else render(report))
    if code == NO_URING and not arguments.json:
        why = report["reason"] or "threads were asked for"
        print(f"doctor: io_uring is required, and does not serve here: {why}", file=sys.stderr)
    return code


# -- finding out ----------------------------------------------------------------------------------


def collect(path: str) -> dict[str, Any]:
    """Everything the report says, as plain values."""
    from . import __version__

    problem = ""
    try:
        info = driver_info(path)
    except OSError as error:
        info, problem = driver_info(), str(error)
    report: dict[str, Any] = {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kernel": info.kernel,
        "machine": platform.machine(),
        "compiled": info.compiled,
        "packages": {name: _version(name) for name in ("anyio", "trio", "uvloop")},
        "driver": info.driver,
        "uring_available": info.uring_available,
        "reason": info.reason,
        "remedy": info.remedy,
        "errno": info.errno,
        "settings": asdict(current_settings()),
        "environment": {DRIVER_VARIABLE: os.environ.get(DRIVER_VARIABLE)},
        "setup_flags": list(info.setup_flags),
        "features": list(info.features),
        "operations": list(info.operations),
        "missing_operations": list(info.missing_operations),
        "workers_max": info.workers_max,
        "system": _system(),
        "path": path,
        "file_system": info.file_system,
        "mount": _mount(path),
        "tiers": dict(info.tiers),
        "notes": _notes(info),
        "tried": [],
        "problem": problem,
    }
    if not problem:
        report["tried"], report["problem"] = _try(path)
    if info.driver == "none" and not report["problem"]:
        report["problem"] = info.reason
    report["served"] = not report["problem"]
    return report


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _system() -> dict[str, Any]:
    """What decides about io_uring and the page cache; None where it cannot be known."""
    linux = sys.platform.startswith("linux")
    open_files: int | None = None
    if os.name == "posix":
        import resource

        open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return {
        "io_uring_disabled": _probe.disabled_by_sysctl(),
        "seccomp": _seccomp(),
        "open_files_max": open_files,
        "swap": _mounts.has_swap() if linux else None,
    }


def _seccomp() -> str | None:
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
            for line in status:
                if line.startswith("Seccomp:"):
                    return {"0": "none", "1": "strict", "2": "filter"}.get(line.split()[1])
    except OSError:
        pass
    return None


def _mount(path: str) -> dict[str, str] | None:
    mount = _mounts.mount_of(path)
    return None if mount is None else {"point": mount.mountpoint, "source": mount.source}


def _notes(info: DriverInfo) -> list[str]:
    """What is worth knowing about this file system."""
    file_system = info.file_system
    notes = []
    if file_system == "overlay":
        notes.append(
            "overlayfs has no reads that refuse to wait. What is cached is found by mincore(2), "
            "which tells the truth only about files that this user owns or may write; and what "
            "is evicted between that look and the read makes the loop wait for a disk. Opening for "
            "reading trusts that the layers are on local file systems."
        )
        notes.append(
            "Opening a file of a lower layer for writing copies all of it; that is never done on "
            "the loop's thread. A volume (ext4, xfs, btrfs) is faster than a container's root."
        )
    elif file_system == "tmpfs" and _mounts.has_swap():
        notes.append(
            "Swap is on: pages of tmpfs can be on a disk, so reads never run on the loop's thread."
        )
    elif file_system == "tmpfs":
        notes.append("No swap: all of tmpfs is in memory, and read directly.")
    elif file_system in _mounts.NOWAIT and not _mounts.nowait_is_sound():
        notes.append(
            "Linux 5.9 and 5.10 can report a false end of file to reads that refuse to wait, so "
            "cached data is read like any other."
        )
    elif file_system is not None and file_system not in _mounts.NOWAIT:
        notes.append(
            f"{file_system} is not known to answer without waiting: nothing is done on the loop's "
            "thread."
        )
    return notes


# -- trying ----------------------------------------------------------------------------------------


def _try(path: str) -> tuple[list[dict[str, str]], str]:
    """Use real files at `path`: what was done and by which tier, and what went wrong."""
    steps: list[dict[str, str]] = []
    try:
        if os.path.isdir(path):
            folder = _new_folder(path)
            if folder is not None:
                with folder:
                    anyio.run(_write_and_read, os.path.join(folder.name, "probe"), steps)
            else:
                found = _readable_file(path)
                if found is not None:
                    anyio.run(_read, found, steps)
        elif stat.S_ISREG(os.stat(path).st_mode):
            anyio.run(_read, path, steps)
        # Anything else is left alone: opening a FIFO waits for a peer, a device may act
    except TimeoutError:
        return steps, f"no answer from {path} within {PATIENCE_SECONDS:.0f} seconds"
    except (OSError, UringUnavailableError) as error:
        return steps, str(error)
    return steps, ""


def _new_folder(path: str) -> tempfile.TemporaryDirectory[str] | None:
    """None: nothing is to be made there, as in /proc, in /sys or on what is mounted read-only."""
    try:
        return tempfile.TemporaryDirectory(prefix=".anyio_uring-", dir=path)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
            return None
        raise


def _readable_file(folder: str) -> str | None:
    """Some regular file of a directory that may be read."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file() and os.access(entry.path, os.R_OK):
                return entry.path
    return None


class _Steps:
    """Notes, after each step, which tier's counters have moved."""

    def __init__(self, steps: list[dict[str, str]]) -> None:
        self._steps = steps
        self._before = statistics()

    def done(self, what: str) -> None:
        after = statistics()
        self._steps.append({"what": what, "tier": _tier(self._before, after)})
        self._before = after


def _tier(before: Statistics, after: Statistics) -> str:
    if after.thread > before.thread:
        return "thread"
    if after.ring > before.ring:
        return "ring"
    inline = ("now", "now_opened", "now_closed")
    if any(getattr(after, count) > getattr(before, count) for count in inline):
        return "now"
    return "none needed"


async def _read(path: str, steps: list[dict[str, str]]) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        note = _Steps(steps)
        async with await open_file(path, "rb", 0) as file:
            note.done("open")
            await file.pread(READ, 0)
            note.done("read")
            await file.pread(READ, 0)
            note.done("read again")
        note.done("close")


async def _write_and_read(path: str, steps: list[dict[str, str]]) -> None:
    content = os.urandom(SIZE)
    with anyio.fail_after(PATIENCE_SECONDS):
        note = _Steps(steps)
        async with await open_file(path, "xb", 0) as file:
            note.done("create")
            await file.write(content)
            note.done("write")
            await file.fsync()
            note.done("fsync")
        note.done("close after writing")
        async with await open_file(path, "rb", 0) as file:
            note.done("open")
            data = await file.pread(READ, 0)
            note.done("cached read")
            if _evict(path):
                note = _Steps(steps)
                data += await file.pread(SIZE - READ, READ)
                note.done("read after eviction")
        note.done("close")
    if data != content[: len(data)]:
        raise OSError(None, f"{path}: read back something else than was written")


def _evict(path: str) -> bool:
    """Ask the kernel to drop the file from its cache; a hint, not an order."""
    if not hasattr(os, "posix_fadvise"):
        return False
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    return True


# -- telling ---------------------------------------------------------------------------------------


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"anyio_uring {report['version']}, "
        + ("with the compiled core" if report["compiled"] else "without the compiled core"),
        f"{report['python']} on {report['kernel']} ({report['machine']})",
        ", ".join(
            f"{name} {version}" if version else f"no {name}"
            for name, version in report["packages"].items()
        ),
        "",
        f"driver: {report['driver']}",
        f"  because {report['reason']}",
    ]
    if report["remedy"]:
        lines.append(f"  remedy: {report['remedy']}")
    lines += ["", "system"]
    lines += _rows(_system_rows(report["system"]))
    if report["setup_flags"] or report["features"]:
        lines += ["", "io_uring"]
        lines += _rows(_ring_rows(report))
    lines += ["", *_path_lines(report)]
    if report["tried"]:
        lines += ["", "tried there"]
        lines += _rows([(step["what"], step["tier"]) for step in report["tried"]])
    lines += ["", _conclusion(report)]
    return "\n".join(lines)


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<22}{text}" for name, text in rows]


def _system_rows(system: dict[str, Any]) -> list[tuple[str, str]]:
    disabled = {
        None: "no such sysctl",
        0: "0: allowed",
        1: "1: privileged processes and kernel.io_uring_group only",
        2: "2: off for everybody",
    }
    sysctl = system["io_uring_disabled"]
    swap = {None: "unknown", False: "none", True: "on"}
    return [
        ("io_uring_disabled", disabled.get(sysctl, str(sysctl))),
        ("seccomp", system["seccomp"] or "unknown"),
        ("open files", f"{system['open_files_max']} at most"),
        ("swap", swap[system["swap"]]),
    ]


def _ring_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    flags = report["setup_flags"]
    rows = [("set-up flags", ", ".join(flags) or "none")]
    absent = [f"{name} (Linux {since})" for name, since in SETUP_FLAGS.items() if name not in flags]
    if absent:
        rows.append(("  not here", ", ".join(absent) + ": fine without, a little slower"))
    rows.append(("features", ", ".join(report["features"])))
    lacking = [name for name in _probe.REQUIRED_FEATURES if name not in report["features"]]
    if lacking:
        rows.append(("  missing", ", ".join(lacking) + ": needed, so threads serve"))
    if report["operations"]:
        rows.append(("operations", ", ".join(report["operations"])))
    rows += [
        ("  missing", f"{name}: {MISSING_OPERATIONS.get(name, 'needed')}")
        for name in report["missing_operations"]
    ]
    if report["workers_max"]:
        rows.append(("kernel workers", f"{report['workers_max']} at most for each loop"))
    return rows


def _path_lines(report: dict[str, Any]) -> list[str]:
    if report["file_system"] is None:
        return [f"{report['path']}: {report['problem']}"]
    where = report["file_system"]
    if report["mount"]:
        where += f", {report['mount']['source']} on {report['mount']['point']}"
    lines = [f"what serves what in {report['path']} ({where})"]
    lines += _rows(list(report["tiers"].items()))
    return lines + [f"  note: {note}" for note in report["notes"]]


def _conclusion(report: dict[str, Any]) -> str:
    if report["problem"]:
        return f"PROBLEM: {report['problem']}"
    served_by = {"uring": "io_uring", "thread": "threads"}[report["driver"]]
    inline = any(text.startswith("now") for text in report["tiers"].values())
    return f"OK: files are served by {served_by}" + (", cached ones at once." if inline else ".")
