"""Load for a server on this machine: connections that ask again as soon as they are answered.

    python benchmarks/load.py PORT PATH [--connections N] (--seconds S | --count N | --until-eof)

prints one line of JSON.  `serving.py` uses wrk instead where it is installed, which takes less of
the processor.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

HINT = "apt-get install wrk"
LENGTH = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
# An answer that takes longer will not come.
ANSWER_SECONDS_MAX = 30.0
RUN_SECONDS_MAX = 300.0
SCRIPT = """\
done = function(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format('{"requests": %d, "bytes": %d, "seconds": %f, "p99": %f, "errors": %d}',
      summary.requests, summary.bytes, summary.duration / 1e6, latency:percentile(99) / 1e6,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def by_wrk(port: int, path: str, *, connections: int, seconds: float) -> dict[str, Any]:
    """Let wrk do it; it takes whole seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s"]
        command += ["--timeout", f"{ANSWER_SECONDS_MAX:.0f}s", "-s", script.name]
        return _answer([*command, f"http://127.0.0.1:{port}{path}"])


def by_ourselves(port: int, path: str, *options: object) -> dict[str, Any]:
    """Let this program do it, in a process of its own."""
    return _answer([sys.executable, __file__, str(port), path, *map(str, options)])


def _answer(command: list[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=RUN_SECONDS_MAX
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]}: no answer in {error.timeout:.0f} s") from None
    if done.returncode != 0:
        raise OSError(done.stderr.strip().rpartition("\n")[2] or f"{command[0]} failed")
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


class Connection:
    """One that is kept alive; it knows when its request went out and what is still to come."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = b""
        self._missing: int | None = None
        self.began = 0.0
        self.answers = 0

    def ask(self, path: str) -> None:
        self._head, self._missing = b"", None
        self.began = time.perf_counter()
        self.socket.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())

    def receive(self, buffer: bytearray) -> tuple[int, bool]:
        """(bytes that came, whether that was all)."""
        size = self.socket.recv_into(buffer)
        if size == 0:
            raise OSError("the server closed the connection")
        if self._missing is None:
            self._head += buffer[:size]
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return size, False
            found = LENGTH.search(head + b"\r")
            if not head.startswith(b"HTTP/1.1 200 ") or found is None:
                raise OSError(f"answered with {head.partition(bytes(2))[0][:100]!r}")
            self._missing = int(found[1]) - len(body)
        else:
            self._missing -= size
        return size, self._missing <= 0


class Load:
    """What is asked, until when, and what came of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._paths = self._asked(arguments)
        self._selector = selectors.DefaultSelector()
        self._until_eof: bool = arguments.until_eof
        self._pace: float = arguments.pace
        self._latencies: list[float] = []
        self._requests = 0
        self._bytes = 0
        if self._until_eof:
            self._selector.register(sys.stdin, selectors.EVENT_READ)
        for _ in range(arguments.connections):
            connection = Connection(arguments.port)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        if self._until_eof:
            print(flush=True)  # it has begun

    @staticmethod
    def _asked(arguments: argparse.Namespace) -> Iterator[str]:
        if arguments.count is not None:
            for number in range(arguments.count):
                yield arguments.path.format(number)
            return
        end = time.perf_counter() + (arguments.seconds or float("inf"))
        while time.perf_counter() < end:
            yield arguments.path

    def run(self) -> dict[str, Any]:
        start = due = time.perf_counter()
        idle = deque(key.data for key in self._selector.get_map().values() if key.data)
        active = 0
        buffer = bytearray(1 << 20)
        path: str | None = ""
        while active or path is not None:
            while idle and path is not None and time.perf_counter() >= due:
                path = next(self._paths, None)
                if path is not None:
                    idle.popleft().ask(path)
                    active += 1
                    due = max(due + self._pace, time.perf_counter())
            waits = bool(idle) and path is not None
            timeout = max(due - time.perf_counter(), 0) if waits else ANSWER_SECONDS_MAX
            events = self._selector.select(timeout) if active or waits else []
            if not events and not waits and active:
                raise TimeoutError("no answer")
            for key, _ in events:
                if key.data is None:  # the end of what tells us when
                    self._selector.unregister(sys.stdin)
                    self._paths = iter(())
                    continue
                size, ended = key.data.receive(buffer)
                self._bytes += size
                if ended:
                    self._note(key.data)
                    idle.append(key.data)
                    active -= 1
        latencies = sorted(self._latencies)
        return {
            "requests": self._requests,
            "bytes": self._bytes,
            "seconds": time.perf_counter() - start,
            "p99": latencies[len(latencies) * 99 // 100] if latencies else 0.0,
            "errors": 0,
        }

    def _note(self, connection: Connection) -> None:
        """An answer has come.  The first of a connection counts as no latency: it has waited to be
        accepted, on uvloop for one turn of the loop after the other.
        """
        self._requests += 1
        connection.answers += 1
        if connection.answers > 1:
            self._latencies.append(time.perf_counter() - connection.began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("path", help="with --count, {} is the number of the request")
    parser.add_argument("--connections", type=int, default=64, metavar="N")
    parser.add_argument(
        "--pace",
        type=float,
        default=0.0,
        metavar="S",
        help="at least so long between requests",
    )
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument("--seconds", type=float)
    until.add_argument("--count", type=int)
    until.add_argument("--until-eof", action="store_true", help="until standard input ends")
    print(json.dumps(Load(parser.parse_args()).run()))


if __name__ == "__main__":
    main()
