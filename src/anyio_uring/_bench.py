"""``python -m anyio_uring bench``: io_uring, threads, AnyIO and plain Python on the user's disk.

All participants take turns, round by round, in one process and on the same files, so that what
else the machine does meanwhile befalls all of them; what is compared are the medians of the
rounds' ratios.  Needs nothing beyond what the package itself needs.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import platform
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import anyio

from . import _mounts
from ._bench_cases import (
    CASES,
    AnyIO,
    Api,
    Ours,
    Sample,
    idle,
    measure,
    measure_synchronous,
    verify,
)
from ._bench_material import FULL, QUICK, Case, Material, MismatchError, Plan, is_full
from ._bench_report import picture, render
from ._errors import UringUnavailableError, first_of
from ._info import DriverInfo, driver_info
from ._settings import configure, current_settings

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM
PREFIX = ".anyio_uring-bench-"
# A cold file of which more is left in memory was not dropped.
COLD_SHARE_MAX = 0.05
IDLE_SECONDS = 0.3
# Less than one by no more than what two runs of the same differ.
SLOWER_BELOW = 0.95

METHOD = (
    (
        "All files are opened with buffering=0. anyio.open_file has no pread: there it is os.pread "
        "by anyio.to_thread.run_sync, in one trip."
    ),
    (
        "Ratios are medians of the rounds' ratios. Lag: by how much one tick in a hundred of a "
        "1 ms ticker was late; synchronous code blocks its loop all the time."
    ),
)

T = TypeVar("T")

EPILOG = """\
Writes about 120 MB with --quick, 300 MB without, into a directory of its own in DIR, and removes
it again.  Everything is read back by every participant and compared with what was written.

exit codes:
  0    measured, and everything that was read is what had been written
  1    DIR cannot be used, the disk is full, or something else was read than had been written
  2    wrong usage, or a wrong value in ANYIO_URING_DRIVER
  130  interrupted (143: terminated); the files are removed then, too
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "dir",
        nargs="?",
        default=".",
        metavar="DIR",
        help="a directory on the file system to measure (default: this directory)",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: half a minute")
    parser.add_argument("--json", action="store_true", help="print the results as a JSON object")
    parser.add_argument("--plot", metavar="FILE", help="also draw a bar chart (SVG)")
    parser.add_argument(
        "--loop",
        action="append",
        choices=list(LOOPS),
        help="measure on this loop only (can be given several times)",
    )
    parser.add_argument(
        "--scale",
        type=_scale,
        default=1.0,
        help="a factor for sizes and times; numbers below 1 tell little",
    )


def _scale(text: str) -> float:
    scale = float(text)
    if not 0.001 <= scale <= 100:
        raise argparse.ArgumentTypeError("must be from 0.001 to 100")
    return scale


def main(arguments: argparse.Namespace) -> int:
    """Measure, print, and return the exit code."""
    try:
        before = current_settings()
    except ValueError as error:
        return _complain(error, USAGE)
    folder = Path(arguments.dir)
    try:
        with _terminable():
            report = _collect(arguments, folder)
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, _TerminatedError):
            return _complain("terminated; its files are removed", TERMINATED)
        return _complain("interrupted; its files are removed", INTERRUPTED)
    except MismatchError as error:
        return _complain(f"FAILED: {error}", FAILED)
    except UringUnavailableError as error:
        return _complain(error, FAILED)
    except OSError as error:
        return _complain(_explain(error, folder), FAILED)
    finally:
        configure(**asdict(before))
    print(json.dumps(report, indent=2) if arguments.json else render(report))
    if arguments.plot:
        try:
            Path(arguments.plot).write_text(picture(report), encoding="utf-8")
        except OSError as error:
            return _complain(f"cannot draw: {error}", FAILED)
    return OK


def _complain(what: object, code: int) -> int:
    print(f"bench: {what}", file=sys.stderr)
    return code


def _explain(error: OSError, folder: Path) -> str:
    if is_full(error):
        return f"no space left in {folder}: it takes about 120 MB with --quick, 300 MB without"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write in {folder}: {error}"
    return str(error)


# -- interrupting ---------------------------------------------------------------------------------


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, which asyncio and Trio know to do cleanly."""
    came = False

    def terminate(*_: object) -> None:
        nonlocal came
        came = True
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, terminate)
    hook = threading.getprofile()
    threading.setprofile(_leave_signals)
    try:
        yield
    except KeyboardInterrupt:
        if came:
            raise _TerminatedError from None
        raise
    finally:
        threading.setprofile(hook)
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def _leave_signals(*_: object) -> None:
    """Called as a new thread begins: signals are for the main thread, which may block them."""
    sys.setprofile(None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


@contextmanager
def _signals(*, blocked: bool) -> Iterator[None]:
    """Let the signals that end a run wait, or let them come again."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    how = signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK
    before = signal.pthread_sigmask(how, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _directory(parent: Path) -> Iterator[Path]:
    """A new directory, which is gone afterwards, whatever happens."""
    folder = parent / f"{PREFIX}{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        # A second Ctrl-C must not leave half of it
        handlers = {
            number: signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            shutil.rmtree(folder, ignore_errors=not folder.exists())
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


# -- participants ---------------------------------------------------------------------------------

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
TITLES = {
    "sync": "synchronous",
    "ring": "anyio_uring",
    "thread": "anyio_uring, no ring",
    "anyio": "anyio.open_file",
}


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody who does the cases; `loop` is None for synchronous Python."""

    key: str
    loop: str | None = None

    @property
    def api(self) -> Api:
        return AnyIO if self.key == "anyio" else Ours

    def measure(self, case: Case, material: Material) -> Sample:
        try:
            if self.loop is None:
                return measure_synchronous(case, material)
            return self.run(partial(measure, case, self.api, material))
        except MismatchError as error:
            raise MismatchError(f"{self}, {case.title}: {error}") from None

    def verify(self, material: Material) -> dict[str, Any]:
        try:
            return self.run(partial(verify, self.api, material))
        except MismatchError as error:
            raise MismatchError(f"{self}: {error}") from None

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        """In a loop of its own, with the driver that is meant."""
        assert self.loop is not None
        backend, options = LOOPS[self.loop]
        configure(driver="thread" if self.key == "thread" else "auto")

        async def interruptible() -> T:
            with _signals(blocked=False):
                return await main()

        try:
            # Not while the loop is made or taken apart, where nobody cleans up
            with _signals(blocked=True):
                return anyio.run(interruptible, backend=backend, backend_options=options)
        except BaseExceptionGroup as group:
            raise first_of(group) from None

    def __str__(self) -> str:
        return TITLES[self.key] + (f" on {self.loop}" if self.loop else "")


def _loops(wanted: list[str] | None) -> tuple[list[str], dict[str, str]]:
    """The loops there are, and why others are not used."""
    found, missing = ["asyncio"], {}
    for name in ("uvloop", "trio"):
        if find_spec(name) is None:
            missing[name] = "not installed"
        else:
            found.append(name)
    return [name for name in found if not wanted or name in wanted], missing


# -- the run --------------------------------------------------------------------------------------


def _collect(arguments: argparse.Namespace, parent: Path) -> dict[str, Any]:
    """Measure everything; what is to be told, as plain values."""
    if not parent.is_dir():
        code = errno.ENOTDIR if parent.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), os.fspath(parent))
    plan = (QUICK if arguments.quick else FULL).scaled(arguments.scale)
    loops, missing = _loops(arguments.loop)
    started = time.time()
    with _directory(parent) as folder:
        info = driver_info(folder)
        keys = ["ring", "thread", "anyio"] if info.driver == "uring" else ["thread", "anyio"]
        participants = [Participant("sync")]
        participants += [Participant(key, loop) for loop in loops for key in keys]
        total = len(CASES) * plan.rounds * len(participants) + len(participants)
        with _progress(total) as step:
            step("writing the files")
            material = Material(folder, plan)
            material.write()
            verified = {}
            for participant in participants[1:]:
                step(f"verifying: {participant}")
                verified[str(participant)] = participant.verify(material)
            idle_gaps = _idle(loops, plan)
            results = [_measure_case(case, participants, material, step) for case in CASES]
        report = _machine(info, parent)
        report.update(
            quick=arguments.quick,
            scale=arguments.scale,
            plan=asdict(plan),
            loops=loops,
            loops_missing=missing,
            ring_missing="" if "ring" in keys else info.reason,
            verified=verified,
            sha256=material.checksum,
            idle_lag_p99_ms={loop: _p99(gaps) for loop, gaps in idle_gaps.items()},
        )
    rows = [row for result in results for row in result.rows(report["idle_lag_p99_ms"])]
    report.update(
        rows=rows,
        notes=_notes(results, info),
        slower_than_anyio=[
            {name: row[name] for name in ("case", "title", "loop", "participant", "ratio_to_anyio")}
            for row in rows
            if row["loop"] and row["ratio_to_anyio"] < SLOWER_BELOW
        ],
        seconds=round(time.time() - started, 1),
    )
    return report


def _idle(loops: list[str], plan: Plan) -> dict[str, list[float]]:
    seconds = IDLE_SECONDS * min(plan.seconds / QUICK.seconds, 1)
    return {loop: Participant("anyio", loop).run(partial(idle, seconds)) for loop in loops}


@dataclass(slots=True)
class Result:
    """One case: a list of samples, one a round, for each participant."""

    case: Case
    samples: dict[Participant, list[Sample]]
    cached: list[float]

    def ratio(self, participant: Participant, to: Participant) -> float:
        pairs = zip(self.samples[participant], self.samples[to], strict=True)
        return median(ours.rate / theirs.rate for ours, theirs in pairs)

    def rows(self, idle_p99: dict[str, float | None]) -> list[dict[str, Any]]:
        return [self._row(participant, idle_p99) for participant in self.samples]

    def _row(self, who: Participant, idle_p99: dict[str, float | None]) -> dict[str, Any]:
        samples = self.samples[who]
        tiers = {
            tier: sum(sample.tiers[tier] for sample in samples) for tier in samples[0].tiers
        } or {"caller" if who.key == "sync" else "thread": 1}
        counted = sum(tiers.values())
        shares = {tier: count / counted for tier, count in tiers.items() if count}
        anyio_row = Participant("anyio", who.loop)
        return {
            "case": self.case.key,
            "title": self.case.title,
            "tasks": self.case.tasks,
            "unit": self.case.unit,
            "loop": who.loop,
            "key": who.key,
            "participant": TITLES[who.key],
            "rate": median(sample.rate for sample in samples),
            "rates": [sample.rate for sample in samples],
            "ratio_to_sync": self.ratio(who, Participant("sync")),
            "ratio_to_anyio": self.ratio(who, anyio_row) if who.loop else None,
            "lag_p99_ms": _p99([gap for sample in samples for gap in sample.gaps]),
            "idle_lag_p99_ms": idle_p99.get(who.loop or ""),
            "tiers": {tier: round(share, 4) for tier, share in shares.items()},
            "served_by": _served_by(shares),
            "cached_before": max(self.cached, default=None),
        }


def _served_by(shares: dict[str, float]) -> str:
    parts = sorted(shares.items(), key=lambda part: -part[1])
    texts = [f"{tier} {share:.0%}" for tier, share in parts if share >= 0.005]
    return ", ".join(texts) if len(texts) > 1 else (parts[0][0] if parts else "")


def _p99(gaps: list[float]) -> float | None:
    """Milliseconds."""
    if not gaps:
        return None
    return round(sorted(gaps)[min(int(len(gaps) * 0.99), len(gaps) - 1)] * 1e3, 3)


def _measure_case(
    case: Case, participants: list[Participant], material: Material, step: Callable[[str], None]
) -> Result:
    samples: dict[Participant, list[Sample]] = {participant: [] for participant in participants}
    cached: list[float] = []
    for number in range(material.plan.rounds):
        # Another one begins each round, lest one always comes after the same other
        shift = number * len(participants) // material.plan.rounds
        for participant in participants[shift:] + participants[:shift]:
            step(f"{case.title}: {participant}")
            share = material.prepare(case)
            if share is not None and case.cold:
                cached.append(share)
            with _signals(blocked=True):  # a finalizer would swallow them
                gc.collect()
            samples[participant].append(participant.measure(case, material))
    return Result(case, samples, cached)


def _notes(results: list[Result], info: DriverInfo) -> list[str]:
    notes = []
    shares = [share for result in results for share in result.cached]
    if any(result.case.cold and not result.cached for result in results):
        notes.append("Whether the cold files were out of memory cannot be told on this system.")
    elif max(shares, default=0) > COLD_SHARE_MAX:
        notes.append(
            f"{info.file_system} kept up to {max(shares):.0%} of the cold file in memory when told "
            "to drop it: those rows are no measure of a disk."
        )
    notes += METHOD
    return notes


def _machine(info: DriverInfo, parent: Path) -> dict[str, Any]:
    from . import __version__

    mount = _mounts.mount_of(os.fspath(parent))
    return {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in ("anyio", "trio", "uvloop")},
        "kernel": info.kernel,
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "compiled": info.compiled,
        "directory": os.fspath(parent.resolve()),
        "file_system": info.file_system,
        "mount": None if mount is None else {"point": mount.mountpoint, "source": mount.source},
        "driver": info.driver,
        "reason": info.reason,
        "remedy": info.remedy,
        "tiers": dict(info.tiers),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# -- progress -------------------------------------------------------------------------------------


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Call what this gives at the begin of each step.  Says nothing where nobody looks on.

    Nothing is drawn during a measurement.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    if find_spec("rich") is not None:
        progress: Any = import_module("rich.progress").Progress
        console = import_module("rich.console").Console(stderr=True)
        with progress(console=console, transient=True, auto_refresh=False) as bar:
            task = bar.add_task("", total=total)

            def draw(text: str) -> None:
                bar.update(task, advance=1, description=text, refresh=True)

            yield draw
        return
    done = 0

    def write(text: str) -> None:
        nonlocal done
        done += 1
        line = f"{done / total:4.0%} {text}"
        sys.stderr.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        sys.stderr.flush()

    try:
        yield write
    finally:
        sys.stderr.write("\r\x1b[K")
