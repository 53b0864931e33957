"""Files served over HTTP: Starlette under uvicorn as it is, with ours, and without any thread.

``python benchmarks/serving.py [DIR]``; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Self

import anyio_uring
import load
import places
import serving_report
from cell import Ratio, cannot_block, filtered, forget
from run import FAILED, INTERRUPTED, OK, TERMINATED, TerminatedError, several
from serving_app import STACKS

CONNECTIONS = 64
SIZES = {"4KiB": 4 << 10, "64KiB": 64 << 10, "10MiB": 10 << 20}
ROUTES = ("files", "static")
TO_THREAD = "to_thread" in inspect.signature(anyio_uring.install).parameters
VARIANTS = ("plain", "install", *(["to_thread"] if TO_THREAD else []), "direct")
# Of install the share of plain, of the others that of direct
AIMS = {("install", "4KiB"): 1.5, ("to_thread", ""): 0.9, ("blocked", ""): 0.8}
# Cold files are asked for by so many connections, while one asks for memory now and then.
COLD_CONNECTIONS, COLD_BYTES, PACE_SECONDS = 16, 256 << 10, 0.004
COLD_PACE_SECONDS = 0.01
START_SECONDS_MAX = 30.0
TIERS = ("now", "ring", "thread")


class Server:
    """A process that runs `serving_app.py`."""

    def __init__(self, key: str, stack: str, folder: Path) -> None:
        self.key = key
        variant = VARIANTS[-2] if key == "blocked" else key
        script = str(Path(__file__).with_name("serving_app.py"))
        command = [sys.executable, script, variant, stack, str(folder)]
        self._process = subprocess.Popen(
            filtered(command) if key == "blocked" else command,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.port = 0

    def wait(self) -> None:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            selector.select(START_SECONDS_MAX)
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"{self.key}: ended with code {self._process.wait()}")
        self.port = int(line)

    def ask(self, path: str) -> tuple[bytes, int]:
        """The answer's body, and how many bytes all of it takes."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=load.ANSWER_SECONDS_MAX)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            head = sum(len(name) + len(value) + 4 for name, value in response.getheaders())
        finally:
            connection.close()
        if response.status != 200:
            raise OSError(f"{self.key}: {path} is answered with {response.status}")
        return body, len("HTTP/1.1 200 OK\r\n\r\n") + head + len(body)

    def tiers(self) -> dict[str, int]:
        found = json.loads(self.ask("/statistics")[0])
        if self.key == "blocked" and found["driver"] != "thread":
            raise OSError(f"blocked: io_uring was there, the driver is {found['driver']}")
        found["now"] += found["now_opened"] + found["now_closed"]
        return {tier: found[tier] for tier in TIERS}

    def dismiss(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def servers(keys: list[str], stack: str, folder: Path) -> Iterator[list[Server]]:
    """Start them all, and end them whatever happens."""
    with ExitStack() as exits:
        crew = []
        for key in keys:
            with places.held():
                crew.append(Server(key, stack, folder))
                exits.callback(crew[-1].dismiss)
        for server in crew:
            server.wait()
        yield crew


def turn(crew: list[Server], number: int) -> list[Server]:
    """The order of a round: each once, another first each time."""
    first = number % len(crew)
    return crew[first:] + crew[:first]


class Cell:
    """One line of the table for each way to serve."""

    def __init__(self, stack: str, route: str, title: str, keys: list[str]) -> None:
        self.stack, self.route, self.title = stack, route, title
        self.path = f"/{route}/{title}"
        self.failed = False
        self._rates: dict[str, list[float]] = {key: [] for key in keys}
        self._p99s: dict[str, list[float]] = {key: [] for key in keys}
        self._tiers = {key: dict.fromkeys(TIERS, 0) for key in keys}

    def add(self, key: str, found: dict[str, Any], answer_bytes: int) -> None:
        # By bytes: many big answers are not complete when the time is over
        self._rates[key].append(found["bytes"] / answer_bytes / found["seconds"])
        if found["p99"]:
            self._p99s[key].append(found["p99"])

    def tell(self, key: str, before: dict[str, int], after: dict[str, int]) -> None:
        for tier in TIERS:
            self._tiers[key][tier] += after[tier] - before[tier]

    def lines(self) -> Iterator[dict[str, Any]]:
        rounds = min(map(len, self._rates.values()))  # it may have been ended in the middle of one
        for key, found in self._rates.items() if rounds and not self.failed else ():
            rates = found[:rounds]
            to_plain = Ratio.of(rates, self._rates["plain"][:rounds])
            to_direct = Ratio.of(rates, self._rates["direct"][:rounds])
            aim = AIMS.get((key, self.title)) or AIMS.get((key, ""))
            ratio = to_plain if key == "install" else to_direct
            yield {
                "stack": self.stack,
                "route": self.route,
                "size": self.title,
                "participant": key,
                "rate": median(rates),
                "rates": rates,
                "p99": median(self._p99s[key] or [0.0]),
                "p99s": self._p99s[key],
                "to_plain": [to_plain.middle, to_plain.least, to_plain.greatest],
                "to_direct": [to_direct.middle, to_direct.least, to_direct.greatest],
                "aim": aim,
                "reached": ratio.verdict(aim),
                "tiers": self._tiers[key],
            }


class Run:
    """One run of this program: the report grows as it goes."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments = arguments
        self._folder = folder
        self._wrk = load.has_wrk() and not arguments.no_wrk
        self.keys = [*VARIANTS, *(["blocked"] if arguments.blocked else [])]
        self.lines: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.notes: set[str] = set()
        self.started = time.time()

    def _load(self, server: Server, path: str) -> dict[str, Any]:
        seconds = self._arguments.seconds
        options = ("--connections", CONNECTIONS, "--seconds", seconds)
        found = ours = load.by_ourselves(server.port, path, *options)
        if self._wrk:
            found = load.by_wrk(server.port, path, connections=CONNECTIONS, seconds=seconds)
        if found["errors"] or not found["bytes"]:
            raise OSError(f"{server.key}: {path}: {found}")
        # wrk counts among the latencies how long a connection waits to be accepted, and a long one
        # several times over
        return {**found, "p99": ours["p99"]}

    # -- cached ---------------------------------------------------------------------------------

    def measure_cached(self) -> None:
        chosen = self._arguments
        contents = {title: os.urandom(SIZES[title]) for title in chosen.sizes}
        for title, content in contents.items():
            (self._folder / title).write_bytes(content)
        os.sync()
        for stack in chosen.stacks:
            cells = [
                Cell(stack, route, title, self.keys)
                for route in chosen.routes
                for title in chosen.sizes
            ]
            try:
                for number in range(chosen.rounds):
                    # New ones each time: where a process has things in memory is worth up to 10%
                    with servers(self.keys, stack, self._folder) as crew:
                        for cell in cells:
                            self._measure_cell(crew, number, cell, contents[cell.title])
            except OSError as error:
                self._fail(f"{stack}: {error}")
            finally:
                for cell in cells:
                    for line in cell.lines():
                        self._add(**line)

    def _measure_cell(self, crew: list[Server], number: int, cell: Cell, content: bytes) -> None:
        """One round of it."""
        if cell.failed:
            return
        before: dict[str, dict[str, int]] = {}
        answer_bytes = 0
        try:
            for server in crew:
                for _ in range(20):
                    body, answer_bytes = server.ask(cell.path)
                    if body != content:
                        raise OSError(f"{server.key}: {cell.path}: not what was written")
                before[server.key] = server.tiers()
            for server in turn(crew, number):
                cell.add(server.key, self._load(server, cell.path), answer_bytes)
            for server in crew:
                cell.tell(server.key, before[server.key], server.tiers())
        except OSError as error:
            cell.failed = True
            self._fail(f"{cell.stack}, {cell.route}, {cell.title}: {error}")

    # -- cold -----------------------------------------------------------------------------------

    def measure_cold(self) -> None:
        count = 40 if self._arguments.quick else 400
        paths = [self._folder / f"cold{number}" for number in range(count)]
        for path in paths:
            path.write_bytes(os.urandom(COLD_BYTES))
        os.sync()
        for stack in self._arguments.stacks:
            try:
                self._measure_cold_cell(stack, paths)
            except OSError as error:
                self._fail(f"{stack}, cold: {error}")

    def _measure_cold_cell(self, stack: str, paths: list[Path]) -> None:
        idle: dict[str, list[float]] = {key: [] for key in self.keys}
        busy: dict[str, list[float]] = {key: [] for key in self.keys}
        warm: dict[str, list[float]] = {key: [] for key in self.keys}
        rates: dict[str, list[float]] = {key: [] for key in self.keys}
        tiers = {key: dict.fromkeys(TIERS, 0) for key in self.keys}
        for number in range(self._arguments.rounds):
            with servers(self.keys, stack, self._folder) as crew:
                for server in turn(crew, number):
                    key = server.key
                    for path in paths:
                        server.ask(f"/files/{path.name}")
                    with Probe(server) as probe:
                        time.sleep(self._arguments.seconds)
                    idle[key].append(probe.p99)
                    warm[key].append(self._busy(server, len(paths))[0])
                    before = server.tiers()
                    if not forget(paths):
                        self.notes.add("Not as root: the files' pages are dropped, nothing else.")
                    p99, rate = self._busy(server, len(paths))
                    busy[key].append(p99)
                    rates[key].append(rate)
                    for tier, count in server.tiers().items():
                        tiers[key][tier] += count - before[tier]
        for key in self.keys:
            ratio, ratio_warm = Ratio.of(busy[key], idle[key]), Ratio.of(warm[key], idle[key])
            self._add(
                stack=stack,
                participant=key,
                rate=median(rates[key]),
                idle=median(idle[key]),
                busy=median(busy[key]),
                warm=median(warm[key]),
                to_idle=[ratio.middle, ratio.least, ratio.greatest],
                warm_to_idle=[ratio_warm.middle, ratio_warm.least, ratio_warm.greatest],
                tiers=tiers[key],
            )

    def _busy(self, server: Server, count: int) -> tuple[float, float]:
        """What the probe finds while the files are asked for, and how many of them a second."""
        with Probe(server) as probe:
            found = load.by_ourselves(
                server.port,
                "/files/cold{}",
                *("--connections", COLD_CONNECTIONS, "--count", count),
                *("--pace", self._arguments.cold_pace),
            )
        return probe.p99, found["requests"] / found["seconds"]

    # -- the report -----------------------------------------------------------------------------

    def _fail(self, text: str) -> None:
        self.failed.append(text)
        print(f"FAILED: {text}", file=sys.stderr, flush=True)

    def _add(self, **line: Any) -> None:
        total = sum(line["tiers"].values())
        shares = sorted(line["tiers"].items(), key=lambda tier: -tier[1])
        served = [f"{tier} {count / total:.0%}" for tier, count in shares if count > total / 200]
        line["served_by"] = ", ".join(served) if total else ""
        self.lines.append(line)
        print(serving_report.terminal(line), flush=True)

    def report(self) -> dict[str, Any]:
        info = anyio_uring.driver_info(self._folder)
        return {
            "anyio_uring": anyio_uring.__version__,
            "python": platform.python_version(),
            "anyio": version("anyio"),
            "starlette": version("starlette"),
            "uvicorn": version("uvicorn"),
            "kernel": f"{platform.system()} {platform.release()}",
            "cpus": os.cpu_count(),
            "file_system": info.file_system,
            "driver": info.driver,
            "reason": info.reason,
            "load": "wrk" if self._wrk else "benchmarks/load.py",
            "cold": self._arguments.cold,
            "cold_pace": self._arguments.cold_pace,
            "rounds": self._arguments.rounds,
            "seconds_each": self._arguments.seconds,
            "lines": self.lines,
            "failed": self.failed,
            "notes": sorted(self.notes),
            "seconds": round(time.time() - self.started, 1),
        }


class Probe:
    """In a process of its own, one connection that asks what needs no file, now and then."""

    def __init__(self, server: Server) -> None:
        script = str(Path(load.__file__))
        options = ["--connections", "1", "--pace", str(PACE_SECONDS), "--until-eof"]
        self._process = subprocess.Popen(
            [sys.executable, script, str(server.port), "/memory", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self.p99 = 0.0

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            out, _ = self._process.communicate(timeout=load.ANSWER_SECONDS_MAX)
        finally:
            self._process.kill()
        if not out:
            raise OSError("the probe ended early")
        self.p99 = json.loads(out)["p99"]


def arguments_of(command: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR")
    parser.add_argument(
        "--blocked",
        action="store_true",
        help="measure ours also where a seccomp filter refuses io_uring",
    )
    parser.add_argument(
        "--cold",
        action="store_true",
        help="files that are not in memory, and how long a route that needs none takes meanwhile; "
        "as root, the kernel's caches are dropped",
    )
    parser.add_argument(
        "--cold-pace",
        type=float,
        default=COLD_PACE_SECONDS,
        metavar="S",
        help="rest between two requests for cold files (default: %(default)s; 0: none)",
    )
    parser.add_argument("--stacks", type=several(tuple(STACKS)), default=list(STACKS))
    parser.add_argument("--sizes", type=several(tuple(SIZES)), default=list(SIZES))
    parser.add_argument("--routes", type=several(ROUTES), default=list(ROUTES))
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--seconds", type=float, help="of one measurement (default: 2)")
    parser.add_argument("--no-wrk", action="store_true", help="load.py asks, also if there is wrk")
    parser.add_argument("--quick", action="store_true", help="whether it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    arguments = parser.parse_args(command)
    if arguments.quick:
        arguments.no_wrk = True  # which takes a second at least
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (0.1 if arguments.quick else 2.0)
    return arguments


def main(command: list[str] | None = None) -> int:
    arguments = arguments_of(command)
    if arguments.blocked and (reason := cannot_block()):
        print(f"serving.py: --blocked: {reason}", file=sys.stderr)
        return FAILED

    def terminate(*_: object) -> None:
        raise TerminatedError

    signal.signal(signal.SIGTERM, terminate)
    with ExitStack() as exits:
        code = OK
        try:
            folder = exits.enter_context(places.folder_in(arguments.directory))
            run = Run(arguments, folder)
            if not load.has_wrk() and not arguments.no_wrk:
                print(f"load.py asks, as there is no wrk: {load.HINT}", file=sys.stderr)
            try:
                run.measure_cold() if arguments.cold else run.measure_cached()
            except KeyboardInterrupt as interrupt:
                code = TERMINATED if isinstance(interrupt, TerminatedError) else INTERRUPTED
                run.failed.append("ended early")
            found = run.report()
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            if arguments.markdown:
                arguments.markdown.write_text(serving_report.markdown(found), encoding="utf-8")
        except OSError as error:
            print(f"serving.py: {error}", file=sys.stderr)
            return FAILED
    print(*serving_report.summary(found), sep="\n")
    return code or (FAILED if run.failed or not run.lines else OK)


if __name__ == "__main__":
    sys.exit(main())
