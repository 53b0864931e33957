"""The servers of examples/, with real packages: files, parts of files, clients that go away.

Whatever a test does, afterwards the server holds no more descriptors than before, and what was
allowed to serve has served.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
from tests.support.serving import MIB, SERVERS, SIZES, Server, files, serving, sockets

TIERS = {"auto": "now ring thread", "ring": "ring", "thread": "thread"}
# Where a file can be asked for, and what else can be asked there
ROUTES = {
    ("starlette", "files"): {"head", "range", "suffix", "several"},
    ("starlette", "static"): {"head", "range", "suffix", "several", "conditional"},
    ("fastapi", "files"): {"range", "suffix", "several"},
    ("litestar", "files"): set[str](),
    ("litestar", "static"): {"head"},
    ("quart", "files"): {"head", "range", "conditional"},
}
# What each hands to threads by itself: it never reads, opens or closes a file so
JOBS = {"starlette": {"stat", "StaticFiles.lookup_path"}, "fastapi": {"stat"}}


def cells(example: str) -> Iterator[tuple[str, str]]:
    """The servers that an example runs under, and the tiers there."""
    for server in SERVERS:
        if example != "quart" or server.endswith("trio"):
            yield server, "auto"
    if example == "starlette":
        yield from [("uvicorn-asyncio", "ring"), ("hypercorn-trio", "ring")]
        yield from [("uvicorn-uvloop", "thread"), ("hypercorn-trio", "thread")]


def everywhere(ability: str = "") -> pytest.MarkDecorator:
    """Run a test for each route that can do it, under each server."""
    cases = [
        pytest.param((example, *cell), route, id=f"{example}-{route}-{'-'.join(cell)}")
        for (example, route), abilities in ROUTES.items()
        for cell in cells(example)
        if not ability or ability in abilities
    ]
    return pytest.mark.parametrize(("server", "route"), cases, indirect=["server"], scope="module")


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    example, key, tiers = request.param
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(key, f"serve_{example}", TIERS[tiers], folder, log) as found:
        connections = sockets(found.state())
        for route in (route for name, route in ROUTES if name == example):
            for name in "small", "missing":
                found.ask(f"/{route}/{name}")  # a ring that the first one makes stays
        yield found
        found.until(lambda state: sockets(state) <= connections)


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server, request: pytest.FixtureRequest) -> Iterator[None]:
    example, _, tiers = request.node.callspec.params["server"]
    before = server.state()
    yield
    found = server.until(lambda state: files(state) <= files(before))
    served = {
        name: found["statistics"][name] - before["statistics"][name]
        for name in ("now", "now_opened", "now_closed", "ring", "thread")
    }
    assert found["statistics"]["inflight"] == found["statistics"]["queued"] == 0
    if tiers == "auto" and found["statistics"]["driver"] == "uring":
        assert served["thread"] == 0
        assert set(found["jobs"]) <= JOBS.get(example, set())
    if "opens_nothing" not in request.keywords:
        assert sum(served.values()) > 0
    if tiers != "auto":
        assert served["now"] == served["now_opened"] == 0
        assert served["ring"] == 0 or tiers == "ring"


@everywhere()
@pytest.mark.parametrize("name", [*SIZES, "sparse"])
def test_file_is_sent_whole(server: Server, route: str, folder: Path, name: str) -> None:
    with open(folder / name, "rb") as file:
        assert server.send_same(f"/{route}/{name}", file) == (folder / name).stat().st_size


@everywhere()
def test_many_at_once_each_get_their_own(server: Server, route: str, folder: Path) -> None:
    names = ["small", "chunk", "medium"] * 10
    with ThreadPoolExecutor(len(names)) as pool:
        answers = pool.map(lambda name: server.ask(f"/{route}/{name}"), names)
        for name, answer in zip(names, answers, strict=True):
            assert answer.body == (folder / name).read_bytes()


@everywhere()
def test_clients_that_go_away_leave_nothing_open(server: Server, route: str, folder: Path) -> None:
    clients = [server.connect() for _ in range(8)]
    for client in clients:
        client.request("GET", f"/{route}/sparse")
        assert len(client.getresponse().read(MIB)) == MIB
    held = server.state()["descriptors"]
    assert held.count(str(folder / "sparse")) == len(clients)
    for number, client in enumerate(clients):
        if number % 2:  # a reset rather than an end
            client.sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    server.until(lambda state: str(folder / "sparse") not in state["descriptors"])
    assert server.ask(f"/{route}/small").body == (folder / "small").read_bytes()


@everywhere()
@pytest.mark.opens_nothing
def test_file_that_is_missing_is_not_found(server: Server, route: str) -> None:
    assert server.ask(f"/{route}/missing").status == 404


@everywhere("head")
@pytest.mark.opens_nothing
def test_head_tells_the_size(server: Server, route: str) -> None:
    answer = server.ask(f"/{route}/medium", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(SIZES["medium"])


@everywhere("range")
@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (10, 99), (70_000, 2 * MIB + 5), (MIB, SIZES["medium"] - 1)]
)
def test_range_is_sent(server: Server, route: str, folder: Path, first: int, last: int) -> None:
    answer = server.ask(f"/{route}/medium", Range=f"bytes={first}-{last}")
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZES['medium']}"
    assert answer.body == (folder / "medium").read_bytes()[first : last + 1]


@everywhere("suffix")
@pytest.mark.parametrize("size", [1, 100_000])
def test_end_of_a_file_is_sent(server: Server, route: str, folder: Path, size: int) -> None:
    answer = server.ask(f"/{route}/medium", Range=f"bytes=-{size}")
    assert answer.status == 206
    assert answer.body == (folder / "medium").read_bytes()[-size:]


@everywhere("several")
def test_several_ranges_are_sent(server: Server, route: str, folder: Path) -> None:
    answer = server.ask(f"/{route}/medium", Range="bytes=0-4,100-199,1000000-1200000")
    assert answer.status == 206
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    whole = BytesParser().parsebytes(head + answer.body)
    data = (folder / "medium").read_bytes()
    assert [content(part) for part in whole.walk() if not part.is_multipart()] == [
        data[0:5],
        data[100:200],
        data[1_000_000:1_200_001],
    ]


def content(part: Message[str, str]) -> Any:
    return part.get_payload(decode=True)


@everywhere("range")
@pytest.mark.opens_nothing
def test_range_behind_the_end_is_refused(server: Server, route: str) -> None:
    assert server.ask(f"/{route}/medium", Range="bytes=99999999-").status == 416


@everywhere("suffix")
@pytest.mark.opens_nothing
def test_range_that_is_none_is_refused(server: Server, route: str) -> None:
    assert server.ask(f"/{route}/medium", Range="lines=1-2").status == 400


@everywhere("conditional")
@pytest.mark.opens_nothing
def test_file_that_the_client_has_is_not_sent(server: Server, route: str) -> None:
    tag = server.ask(f"/{route}/medium", "HEAD").headers["etag"]
    date = server.ask(f"/{route}/medium", "HEAD").headers["last-modified"]
    for headers in ({"If_None_Match": tag}, {"If_Modified_Since": date}):
        answer = server.ask(f"/{route}/medium", **headers)
        assert (answer.status, answer.body) == (304, b"")
    assert len(server.ask(f"/{route}/chunk", If_None_Match='"x"').body) == SIZES["chunk"]
