"""The matrix: every host and every tier under one suite.

A test that takes the fixture `tiers` (or is marked with it) runs once for each cell.  The fixture
forces the tiers before the loop starts, and at the end looks at the statistics of every run: a
tier that was not allowed must not have served anything.

A test that makes sense in some cells only names them: ``@pytest.mark.tiers("ring", "auto")``,
``@pytest.mark.hosts("asyncio", "uvloop")``.

Where io_uring is expected (``ANYIO_URING_EXPECT=uring``, as in CI) and absent, the run fails.  With
``ANYIO_URING_EXPECT=restricted`` the column ``auto`` stays without io_uring too, as users have it,
but for tests that are marked for the ring and not for threads.

``ANYIO_URING_MATRIX=small`` keeps the cells in which Python's version could matter; a test marked
for others only runs all the same, and one marked ``one_python`` does not: it is about the kernel,
and takes long.  CI has the whole matrix with one version of Python, and this with the others.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest

from anyio_uring import Statistics, _probe, _runtime
from anyio_uring._handle import COMPILED
from anyio_uring.testing import force_tiers

EXPECT = os.environ.get("ANYIO_URING_EXPECT", "")
MATRIX = os.environ.get("ANYIO_URING_MATRIX", "whole")
SMALL = {"asyncio", "uvloop", "trio", "auto", "thread"}

HOSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "asyncio-debug": ("asyncio", {"debug": True}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
if find_spec("uvloop") is None:
    del HOSTS["uvloop"]

TIERS: dict[str, tuple[Any, ...]] = {
    "auto": ("now", "ring", "thread"),
    "ring": ("ring",),
    "now+thread": ("now", "thread"),
    "thread": ("thread",),
}


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts its background jobs with SIGINT ignored, and they pass that on: tests that
    # interrupt, here or in a child, would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "tiers(*names): the columns of the matrix it runs in")
    config.addinivalue_line("markers", "hosts(*names): the rows of the matrix it runs in")
    config.addinivalue_line("markers", "one_python: not in the small matrix")
    if MATRIX not in ("whole", "small"):
        raise pytest.UsageError(f"ANYIO_URING_MATRIX is 'whole' or 'small', not {MATRIX!r}")
    verdict = _probe.probe()
    if EXPECT == "uring" and not verdict.available:
        raise pytest.UsageError(f"io_uring is expected here: {verdict.reason}. {verdict.remedy}")
    if EXPECT == "thread" and verdict.available:
        raise pytest.UsageError("no io_uring is expected here, but there is one")
    if not verdict.available:
        del TIERS["ring"]
        if EXPECT != "restricted":
            del TIERS["auto"]
    if not COMPILED:
        del TIERS["now+thread"]  # the now tier is compiled: the cell would be "thread" again


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if MATRIX == "small":
        left = [item for item in items if item.get_closest_marker("one_python")]
        items[:] = [item for item in items if not item.get_closest_marker("one_python")]
        config.hook.pytest_deselected(items=left)


def pytest_collection_finish() -> None:
    # Thousands of collected tests stay for good: spare each later collection from looking at them.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_report_header() -> list[str]:
    verdict = _probe.probe()
    return [
        f"io_uring: {verdict.reason} {verdict.remedy}".rstrip(),
        f"hosts: {', '.join(HOSTS)}; tiers: {', '.join(TIERS)}; {MATRIX}; {sys.platform}",
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "anyio_backend" in metafunc.fixturenames:
        hosts = _chosen(metafunc, "hosts", HOSTS)
        metafunc.parametrize(
            "anyio_backend", [HOSTS[name] for name in hosts], ids=hosts, indirect=True
        )
    if "tiers" in metafunc.fixturenames:
        tiers = _chosen(metafunc, "tiers", TIERS)
        if tiers == ["auto"] and "ring" not in TIERS and _wants_ring(metafunc):
            tiers = []
        metafunc.parametrize("tiers", tiers, indirect=True)


def _chosen(metafunc: pytest.Metafunc, marker: str, names: Iterable[str]) -> list[str]:
    found = metafunc.definition.get_closest_marker(marker)
    chosen = [name for name in names if found is None or name in found.args]
    if MATRIX == "small":
        chosen = [name for name in chosen if name in SMALL] or chosen
    return chosen


def _wants_ring(metafunc: pytest.Metafunc) -> bool:
    found = metafunc.definition.get_closest_marker("tiers")
    return found is not None and "ring" in found.args


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@dataclass
class Tiers:
    """The cell's tiers, and the statistics of the runs that have ended."""

    name: str
    allowed: tuple[str, ...]
    runs: list[Statistics] = field(default_factory=list)

    @property
    def now(self) -> bool:
        return "now" in self.allowed

    @property
    def ring(self) -> bool:
        return "ring" in self.allowed

    def check(self, statistics: Statistics) -> None:
        """No tier served that was not allowed.

        "ring" may use threads for what has no opcode, which is a promise and no accident; tests
        that care count.
        """
        if not self.now:
            assert statistics.now == statistics.now_opened == statistics.now_closed == 0
        if not self.ring:
            assert statistics.ring == statistics.rings == statistics.by_ring == 0
            assert statistics.driver == "thread"


@pytest.fixture
def tiers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiers]:
    """One cell of the matrix, by name: ``auto``, ``ring``, ``now+thread``, ``thread``."""
    cell = Tiers(request.param, TIERS[request.param])
    close = _runtime.Runtime.close

    def close_and_remember(runtime: _runtime.Runtime) -> None:
        cell.runs.append(runtime.statistics())
        close(runtime)

    monkeypatch.setattr(_runtime.Runtime, "close", close_and_remember)
    with force_tiers(*cell.allowed):
        yield cell
    for statistics in cell.runs:
        cell.check(statistics)
