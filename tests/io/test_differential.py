"""Random sequences of calls, the same on `io.FileIO` and on ours: nothing may differ.

Results with their types, exceptions with their texts, the position after each call, and the bytes
on the disk at the end.  The descriptor is sometimes asked for on the way, so that the kernel keeps
the position from there on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import HOSTS, TIERS
from tests.support.oracle import MODES, outcome

import anyio_uring
from anyio_uring.testing import force_tiers

Step = tuple[Any, ...]

sizes = st.one_of(st.none(), st.integers(-2, 40), st.sampled_from([1000, 70_000, 300_000]))
offsets = st.one_of(st.integers(-30, 60), st.sampled_from([-(1 << 40), 100_000, 1 << 33]))
data = st.one_of(
    st.binary(max_size=30),
    st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n"]), max_size=12).map(b"".join),
    st.integers(1, 3).map(lambda number: bytes([number]) * (number * 90_000)),
)
steps = st.one_of(
    st.tuples(st.just("read"), sizes),
    st.tuples(st.just("readall")),
    st.tuples(st.just("readinto"), st.sampled_from([0, 1, 13, 200_000])),
    st.tuples(st.just("readline"), sizes),
    st.tuples(st.just("readlines"), st.one_of(st.none(), st.integers(-1, 30))),
    st.tuples(st.just("lines"), st.integers(0, 3)),
    st.tuples(st.just("write"), data),
    st.tuples(st.just("writelines"), st.lists(st.binary(max_size=5), max_size=4)),
    st.tuples(st.just("seek"), offsets, st.integers(0, 2)),
    st.tuples(st.just("seek"), offsets, st.integers(3, 6)),
    st.tuples(st.just("tell")),
    st.tuples(st.just("truncate"), st.one_of(st.none(), st.integers(-2, 100))),
    st.tuples(st.just("flush")),
    st.tuples(st.just("pread"), st.integers(0, 300_000), st.integers(-3, 60)),
    st.tuples(st.just("preadinto"), st.integers(0, 50), st.integers(-3, 60)),
    st.tuples(st.just("pwrite"), data, st.integers(-3, 60)),
    st.tuples(st.just("fileno")),
    st.tuples(st.just("close")),
)
contents = st.lists(
    st.sampled_from([b"line\n", b"\n", b"x" * 40, b"\0\xff", b"y" * 9000 + b"\n", bytes(270_000)]),
    max_size=6,
).map(b"".join)


def do_oracle(file: Any, step: Step) -> Any:
    """A step on a FileIO; what it lacks is done with the system call."""
    name, *args = step
    if name == "readall" and not file.readable():
        return file.read()  # FileIO says EBADF here
    if name == "readinto":
        target = bytearray(args[0])
        return file.readinto(target), bytes(target)
    if name == "lines":
        return [line for _, line in zip(range(args[0]), file, strict=False)]
    if name == "fileno":
        return file.fileno() > 2
    if name in ("pread", "preadinto", "pwrite"):
        return positional(file, name, *args)
    return getattr(file, name)(*args)


def positional(file: Any, name: str, what: Any, offset: int) -> Any:
    fd = file.fileno()
    if name != "pwrite":
        if offset >= 0 and not file.readable():
            file.read(0)
        result = os.pread(fd, what, offset)
        return result if name == "pread" else (len(result), result.ljust(what, b"\0"))
    if offset >= 0 and not file.writable():
        file.write(b"")
    if offset >= 0 and "a" in file.mode:
        raise anyio_uring._errors.unsupported("pwrite in an append mode would append")
    return os.pwrite(fd, what, offset)


async def do_ours(file: Any, step: Step) -> Any:
    name, *args = step
    if name in ("readinto", "preadinto"):
        target = bytearray(args[0])
        return await getattr(file, name)(target, *args[1:]), bytes(target)
    if name == "lines":
        lines = [await file.readline() for _ in range(args[0])]
        return [line for line in lines if line]
    if name == "fileno":
        return file.fileno() > 2
    if name == "close":
        return await file.aclose()
    return await getattr(file, name)(*args)


async def compare(directory: Path, mode: str, content: bytes, sequence: list[Step]) -> None:
    paths = directory / "oracle", directory / "ours"
    for path in paths:
        if "x" in mode:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
    with open(paths[0], mode, 0) as oracle:
        async with await anyio_uring.open_file(paths[1], mode, 0) as ours:
            for number, step in enumerate(sequence):
                expected = await outcome(lambda f: do_oracle(f, step), oracle)  # noqa: B023
                result = await outcome(lambda f: do_ours(f, step), ours, str(paths[1]))  # noqa: B023
                assert result == expected, f"step {number}: {step}"
                assert ours.closed == oracle.closed
                if step[0] == "close":
                    break
                assert await ours.tell() == oracle.tell(), f"after step {number}: {step}"
            else:
                with open(paths[0], "rb") as one, open(paths[1], "rb") as other:
                    sizes = os.fstat(one.fileno()).st_size, os.fstat(other.fileno()).st_size
                    assert sizes[0] == sizes[1]
                    if sizes[0] < 1 << 24:
                        assert one.read() == other.read()


CELLS = [(host, tiers) for host in HOSTS for tiers in TIERS]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("cell", TIERS)
def test_sequences_of_calls_do_as_fileio(directory: Path, host: str, cell: str) -> None:
    backend, options = HOSTS[host]

    @settings(
        derandomize=True,  # what is found by chance belongs into a test of its own
        max_examples=40,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        examples=st.lists(
            st.tuples(st.sampled_from(MODES), contents, st.lists(steps, max_size=25)),
            min_size=1,
            max_size=3,
        )
    )
    def run(examples: list[tuple[str, bytes, list[Step]]]) -> None:
        async def main() -> None:
            for mode, content, sequence in examples:
                await compare(directory, mode, content, sequence)

        with force_tiers(*TIERS[cell]):
            anyio.run(main, backend=backend, backend_options=options)

    run()
