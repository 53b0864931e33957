"""A server that does not answer holds up the task that asked, and nobody else.

Each request that a file operation can lead to is withheld until the loop has turned a number of
times; no test depends on how long anything takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.conftest import Tiers
from tests.support import ticker
from tests.support.fuse import FuseMount, cannot_fuse
from tests.support.ticker import turns_while_held

import anyio_uring
from anyio_uring import open_file
from anyio_uring._handle import COMPILED

REASON = cannot_fuse()
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]

CONTENT = bytes(range(256)) * 16
# Names are looked up once for each test, so each test takes the next file
NAMES = [f"file-{number}" for number in range(1200)]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FuseMount, Iterator[str]]]:
    with FuseMount(dict.fromkeys(NAMES, CONTENT), direct_io=True) as mount:
        yield mount, iter(NAMES)


@pytest.fixture
def mount(served: tuple[FuseMount, Iterator[str]]) -> Iterator[FuseMount]:
    mount, _ = served
    yield mount
    mount.release()


@pytest.fixture
def path(served: tuple[FuseMount, Iterator[str]]) -> str:
    mount, names = served
    return os.path.join(mount.path, next(names))


@pytest.fixture
def known(path: str) -> str:
    """A file whose name and attributes the kernel has in memory."""
    os.close(os.open(path, os.O_RDONLY))
    os.stat(path)
    return path


@pytest.mark.parametrize("opcode", ["LOOKUP", "OPEN"])
@pytest.mark.parametrize("mode", ["rb", "r+b", "wb", "ab"])
async def test_open_waits_alone(
    tiers: Tiers, mount: FuseMount, path: str, opcode: str, mode: str
) -> None:
    file = await turns_while_held(mount, opcode, lambda: open_file(path, mode, 0))
    await file.aclose()


async def test_open_of_a_known_name_waits_alone(tiers: Tiers, mount: FuseMount, known: str) -> None:
    # The walk and the attributes are cached, so that everything but the open itself is at hand
    async with await turns_while_held(mount, "OPEN", lambda: open_file(known, "rb", 0)) as file:
        assert await file.read(8) == CONTENT[:8]
        assert anyio_uring.statistics().now_opened == 0


async def test_creation_waits_alone(tiers: Tiers, mount: FuseMount, path: str) -> None:
    created = path + ".new"
    file = await turns_while_held(mount, "CREATE", lambda: open_file(created, "xb", 0))
    await file.aclose()
    assert os.stat(created).st_size == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda file: file.read(100),
        lambda file: file.read(),
        lambda file: file.read(1 << 20),
        lambda file: file.readinto(bytearray(100)),
        lambda file: file.readinto(bytearray(1 << 20)),
        lambda file: file.pread(100, 5),
        lambda file: file.readline(),
    ],
    ids=["some", "all", "much", "into", "much-into", "positional", "line"],
)
async def test_reading_waits_alone(tiers: Tiers, mount: FuseMount, known: str, call) -> None:
    async with await open_file(known, "rb", 0) as file:
        await turns_while_held(mount, "READ", lambda: call(file))


@pytest.mark.parametrize(
    ("opcode", "call"),
    [
        ("WRITE", lambda file: file.write(b"abc")),
        ("WRITE", lambda file: file.pwrite(b"abc", 5)),
        ("SETATTR", lambda file: file.truncate(10)),
        ("FSYNC", lambda file: file.fsync()),
        ("GETATTR", lambda file: file.seek(0, os.SEEK_END)),
    ],
    ids=["write", "pwrite", "truncate", "fsync", "seek"],
)
async def test_changing_waits_alone(
    tiers: Tiers, mount: FuseMount, known: str, opcode: str, call
) -> None:
    async with await open_file(known, "r+b", 0) as file:
        await turns_while_held(mount, opcode, lambda: call(file))


async def test_append_mode_finds_its_end_alone(tiers: Tiers, mount: FuseMount, known: str) -> None:
    file = await turns_while_held(mount, "GETATTR", lambda: open_file(known, "ab", 0))
    async with file:
        assert await file.tell() == len(CONTENT)


@pytest.mark.parametrize("mode", ["rb", "r+b"])
async def test_closing_waits_alone(tiers: Tiers, mount: FuseMount, known: str, mode: str) -> None:
    file = await open_file(known, mode, 0)
    await turns_while_held(mount, "FLUSH", file.aclose)
    assert anyio_uring.statistics().now_closed == 0


async def test_closing_does_not_wait_for_the_release(
    tiers: Tiers, mount: FuseMount, known: str
) -> None:
    file = await open_file(known, "rb", 0)
    before = mount.seen("RELEASE")
    mount.stall("RELEASE")
    await file.aclose()
    mount.wait_for("RELEASE", before + 1)


@pytest.mark.skipif(not COMPILED, reason="statx(2), which need not ask, is the compiled core's")
async def test_descriptor_is_adopted_without_asking_the_server(
    tiers: Tiers, mount: FuseMount, known: str
) -> None:
    fd = os.open(known, os.O_RDONLY)
    mount.stall("GETATTR", "STATX", "OPEN", "READ", "FLUSH")
    file = await open_file(fd, "rb", 0, closefd=False)
    await file.aclose()
    mount.release()
    os.close(fd)


async def test_position_is_published_without_asking_the_server(
    tiers: Tiers, mount: FuseMount, known: str
) -> None:
    async with await open_file(known, "rb", 0) as file:
        await file.read(10)
        mount.stall("GETATTR", "LSEEK", "READ")
        fd = file.fileno()
        assert await file.seek(20) == 20
        assert await file.tell() == 20
        mount.release()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 20


async def test_a_loop_that_stands_still_is_noticed(
    mount: FuseMount, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker, "PATIENCE_SECONDS", 0.1)

    async def block() -> None:
        os.close(os.open(known, os.O_RDONLY))

    with pytest.raises(AssertionError, match="the loop stood still while OPEN was held"):
        await turns_while_held(mount, "OPEN", block)
