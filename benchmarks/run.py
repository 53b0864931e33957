"""The table: synchronous Python, AnyIO's files and ours, on each event loop and file system.

``python benchmarks/run.py [DIR]``; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio_uring
import cell
import machine
import places
import report
from anyio_uring._bench_material import MismatchError
from rows import FULL, HOSTS, QUICK, ROWS, Material, Row

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

EPILOG = """\
Nothing else should be at work on the machine.  With --filesystems, root is needed: the file systems
are made in image files (512 MiB each, one after the other) and removed again, also after Ctrl-C.
What was measured until then is written all the same.

exit codes:
  0    measured; whether the aims are reached is in the table
  1    something failed, or nothing could be measured
  2    wrong usage
  130  interrupted (143: terminated); everything is removed then, too
"""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came."""


def several(known: tuple[str, ...]) -> Any:
    """A type of argument: some of these names, separated by commas."""

    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r} among {', '.join(known)}")
        if not names:
            raise argparse.ArgumentTypeError(f"some of {', '.join(known)}")
        return names

    return parse


def arguments_of(command: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="measure here (default: the current directory, unless --filesystems is given)",
    )
    parser.add_argument(
        "--filesystems",
        type=several(places.KINDS),
        default=[],
        metavar="KIND,...",
        help=f"make and mount these: {', '.join(places.KINDS)}; those that cannot be had are told",
    )
    parser.add_argument(
        "--images",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="a directory for their image files (default: %(default)s)",
    )
    parser.add_argument(
        "--blocked",
        action="store_true",
        help="measure ours also where a seccomp filter refuses io_uring",
    )
    parser.add_argument(
        "--rows",
        type=several(tuple(ROWS)),
        default=list(ROWS),
        metavar="ROW,...",
        help=f"only these: {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--hosts",
        type=several(HOSTS),
        metavar="LOOP,...",
        help=f"only these: {', '.join(HOSTS)} (default: those that are installed)",
    )
    parser.add_argument(
        "--halt-poll",
        type=int,
        metavar="NS",
        help="in a virtual machine: so long an idle processor looks for work before it is given "
        "back to the host (Linux: 200000; default: as it is)",
    )
    parser.add_argument("--rounds", type=int, help=f"default: {FULL.rounds}")
    parser.add_argument(
        "--again",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="a cell that falls short while its rounds disagree is measured once more, with so "
        "many, which count; what was found before is noted",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"how long one measurement takes, about (default: {FULL.seconds})",
    )
    parser.add_argument(
        "--quick", action="store_true", help="next to no work: whether it runs, not how fast"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    arguments = parser.parse_args(command)
    amounts = QUICK if arguments.quick else FULL
    arguments.rounds = amounts.rounds if arguments.rounds is None else arguments.rounds
    arguments.seconds = amounts.seconds if arguments.seconds is None else arguments.seconds
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.again < 0:
        parser.error("--again must not be negative")
    if not 0.0001 <= arguments.seconds <= 10:
        parser.error("--seconds must be from 0.0001 to 10")
    if arguments.halt_poll is not None and not 0 <= arguments.halt_poll <= 10**9:
        parser.error("--halt-poll must be from 0 to 1000000000")
    if arguments.directory is None and not arguments.filesystems:
        arguments.directory = Path()
    return arguments


class Run:
    """One run of this program: the report grows as it goes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        wanted = arguments.hosts or HOSTS
        self._hosts = [
            host for host in wanted if host == "asyncio" or importlib.util.find_spec(host)
        ]
        self._blocked = arguments.blocked
        self.missing = [f"{host} is not installed" for host in wanted if host not in self._hosts]
        self.failed: list[str] = []
        self.notes: list[str] = []
        self.places: dict[str, str] = {}
        self.lines: list[dict[str, Any]] = []
        self._started = time.time()
        self._halt_poll = machine.halt_poll()

    def measure(self) -> None:
        """Measure everywhere; what cannot be measured is noted."""
        try:
            with machine.halt_polling(self._arguments.halt_poll):
                self._halt_poll = machine.halt_poll()
                self._measure()
        except places.PlaceError as error:
            self.failed.append(f"--halt-poll: {error}")

    def _measure(self) -> None:
        if self._blocked and (reason := cell.cannot_block()):
            self._blocked = False
            self.failed.append(f"--blocked: {reason}")
        arguments = self._arguments
        if arguments.directory is not None:
            self._measure_in(arguments.directory, "here")
        for kind in arguments.filesystems:
            try:
                with places.file_system(kind, arguments.images) as (path, note):
                    if note:
                        self.notes.append(f"{kind}: {note}.")
                    self._measure_in(path, kind)
            except places.PlaceError as error:
                self.missing.append(f"{kind}: {error}")

    def _measure_in(self, directory: Path, place: str) -> None:
        amounts = QUICK if self._arguments.quick else FULL
        try:
            with ExitStack() as stack:
                folder = stack.enter_context(places.folder_in(directory))
                info = anyio_uring.driver_info(folder)
                self.places[place] = f"{info.file_system}; {info.driver}: {info.reason}"
                print(f"-- {place}: {self.places[place]}", flush=True)
                material = Material(folder, amounts)
                material.write()
                for key in self._arguments.rows:
                    row = ROWS[key]
                    in_memory = info.file_system in ("tmpfs", "ramfs")
                    if in_memory and (row.cold or row.kind.startswith("direct")):
                        self.missing.append(f"{place}, {row.title}: it is all memory")
                        continue
                    if row.forget and not os.access(cell.CACHES, os.W_OK):
                        self.missing.append(f"{place}, {row.title}: it takes root")
                        continue
                    if row.kind == "walk" and not hasattr(anyio_uring.Path, "walk"):
                        self.missing.append(f"{row.title}: Path.walk is new in Python 3.12")
                        continue
                    for host in self._hosts:
                        self._measure_cell(row, host, material, place)
        except OSError as error:
            self.failed.append(f"{place}: {error}")

    def _measure_cell(self, row: Row, host: str, material: Material, place: str) -> None:
        arguments = self._arguments
        try:
            found = self._measured(row, host, material, arguments.rounds)
            if arguments.again and (short_of := found.in_doubt(row, host)):
                found = self._measured(row, host, material, arguments.again)
                self.notes.append(
                    f"{place}, {host}, {row.title}: the median of {arguments.again} rounds; that "
                    f"of {arguments.rounds} was {', '.join(short_of)}."
                )
        except (cell.ParticipantError, MismatchError) as error:
            self.failed.append(f"{place}, {host}, {row.title}: {error}")
            print(f"FAILED: {self.failed[-1]}", file=sys.stderr, flush=True)
            return
        if found.cached is not None and found.cached > cell.CACHED_SHARE_MAX:
            self.notes.append(
                f"{place}, {host}, {row.title}: up to {found.cached:.0%} was still in memory."
            )
        for line in found.lines(row, host, place):
            self.lines.append(line)
            print(report.terminal(line), flush=True)

    def _measured(self, row: Row, host: str, material: Material, rounds: int) -> cell.Measured:
        seconds = self._arguments.seconds
        return cell.measure(
            row, host, material, seconds=seconds, rounds=rounds, blocked=self._blocked
        )

    def report(self) -> dict[str, Any]:
        info = anyio_uring.driver_info()
        return {
            "machine": {
                "anyio_uring": anyio_uring.__version__,
                "python": platform.python_version(),
                "kernel": f"{platform.system()} {platform.release()}",
                "cpus": os.cpu_count(),
                "halt_poll_ns": self._halt_poll,
                "driver": info.driver,
                "reason": info.reason,
                "compiled": info.compiled,
                "setup_flags": info.setup_flags,
                "workers_max": info.workers_max,
            },
            "quick": self._arguments.quick,
            "rounds": self._arguments.rounds,
            "seconds_each": self._arguments.seconds,
            "rows": self._arguments.rows,
            "places": self.places,
            "lines": self.lines,
            "missing": self.missing,
            "failed": self.failed,
            "notes": self.notes,
            "seconds": round(time.time() - self._started, 1),
        }


def main(command: list[str] | None = None) -> int:
    arguments = arguments_of(command)
    if not hasattr(os, "pread"):
        print("run.py: needs a POSIX system", file=sys.stderr)
        return USAGE

    def terminate(*_: object) -> None:
        raise TerminatedError

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # it is under nohup
        signal.signal(signal.SIGHUP, terminate)
    run = Run(arguments)
    print(report.HEAD, flush=True)
    code = OK
    try:
        run.measure()
    except KeyboardInterrupt as interrupt:
        code = TERMINATED if isinstance(interrupt, TerminatedError) else INTERRUPTED
        run.failed.append("ended early")
        print("run.py: ended early; everything is removed", file=sys.stderr)
    found = run.report()
    print(*report.summary(found), f"{found['seconds']:.0f} s", sep="\n")
    try:
        write(found, arguments)
    except OSError as error:
        print(f"run.py: cannot write: {error}", file=sys.stderr)
        return code or FAILED
    return code or (FAILED if run.failed or not run.lines else OK)


def write(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write the files that were asked for."""
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
