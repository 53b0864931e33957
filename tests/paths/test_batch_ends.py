"""What is left of a batch when it is over: nothing."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anyio_uring import iter_files, read_files, stat_files
from anyio_uring._batch import AHEAD_MIN, _Parts

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]


@pytest.fixture
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}" for number in range(50)]
    for path in found:
        path.write_bytes(os.urandom(1000))
    return found


def batches() -> list[Any]:
    return [thing for thing in gc.get_objects() if isinstance(thing, _Parts)]


@pytest.mark.usefixtures("_uncollected")
async def test_results_are_the_callers_alone(paths: list[Path]) -> None:
    assert batches() == []
    for results in [await read_files(paths), await stat_files(paths)]:
        assert batches() == []
        assert len(results) == len(paths)


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("batch", [read_files, stat_files])
async def test_failure_leaves_no_results(paths: list[Path], tmp_path: Path, batch: Any) -> None:
    failed = False
    try:
        # Few: with more another thread is given up, and may be at it still
        await batch([*paths[:10], tmp_path / "none"])
    except FileNotFoundError:  # let go of at once, with the frames that it holds
        failed = True
    assert failed
    assert batches() == []


@pytest.mark.usefixtures("_uncollected")
async def test_files_ahead_are_let_go_one_by_one(paths: list[Path]) -> None:
    seen = []
    async with iter_files(paths * 20, bytes_ahead_max=AHEAD_MIN) as files:
        async for _, data in files:
            seen.append(sys.getrefcount(data))
    alone = bytes(1000)
    assert seen == [sys.getrefcount(alone)] * len(paths) * 20
