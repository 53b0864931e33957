"""Servers of files, each a process: started on a socket that listens already, asked, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30.0
SERVERS = {
    "uvicorn-asyncio": ("uvicorn", "--loop", "asyncio", "--http", "h11", "--fd", "{fd}"),
    "uvicorn-uvloop": ("uvicorn", "--loop", "uvloop", "--http", "httptools", "--fd", "{fd}"),
    # (no workers: in this process)
    "hypercorn-trio": (
        *("hypercorn", "--worker-class", "trio", "--workers", "0", "--keep-alive", "1"),
        *("--bind", "fd://{fd}"),
    ),
}
PIECE = 1 << 20
MIB = 1 << 20
SIZES = {"empty": 0, "small": 5, "chunk": 1 << 16, "medium": 3 * MIB + 1}
SPARSE_BYTES = 100 * MIB


def write_files(folder: Path) -> None:
    """Files of many sizes; `sparse` is a big one with a little in it."""
    for name, size in SIZES.items():
        (folder / name).write_bytes(os.urandom(size))
    with open(folder / "sparse", "wb") as file:
        for offset in (0, 1 << 16, 50 * MIB - 3):
            file.seek(offset)
            file.write(os.urandom(7))
        file.truncate(SPARSE_BYTES)


@dataclass
class Answer:
    """What a server answered, with the names of headers in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Server:
    """A server that runs.

    :ivar address: its URL
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=SECONDS_MAX)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        """One request on a connection of its own; `If_Range` is the header If-Range."""
        connection = self.connect()
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def send_same(self, path: str, expected: IO[bytes]) -> int:
        """Compare a file with what is sent for it, piece by piece; how many bytes were the same."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 200
            while True:
                piece = response.read(PIECE)
                assert piece == expected.read(PIECE)
                if not piece:
                    return expected.tell()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("/-/state").body)
        return found

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The state, once the condition holds."""
        end = time.monotonic() + SECONDS_MAX
        while not condition(found := self.state()):
            assert time.monotonic() < end, found["descriptors"]
        return found


def sockets(state: dict[str, Any]) -> int:
    return sum(name.startswith("socket:") for name in state["descriptors"])


def files(state: dict[str, Any]) -> Counter[str]:
    """The descriptors that are no connections: servers let go of those when it suits them."""
    return Counter(name for name in state["descriptors"] if not name.startswith("socket:"))


@contextmanager
def serving(key: str, example: str, tiers: str, folder: Path, log: Path) -> Iterator[Server]:
    """Run an example's application, watched, under a server; it must end when told, in peace."""
    environment = os.environ | {
        "EXAMPLE": example,
        "FOLDER": str(folder),
        "TIERS": tiers,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "examples", ROOT / "tests" / "clients"))),
    }
    # It listens before anybody runs: whoever connects waits until he is served
    with socket.create_server(("127.0.0.1", 0)) as listener, open(log, "wb") as output:
        number = listener.fileno()
        words = [word.format(fd=number) for word in SERVERS[key]]
        process = subprocess.Popen(
            [sys.executable, "-W", "error::RuntimeWarning", "-m", *words, "watched:app"],
            env=environment,
            pass_fds=[number],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        port = listener.getsockname()[1]
    try:
        yield Server(port)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_MAX) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()
