"""File systems that what is about paths runs on."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Tiers
from tests.support.places import NoPlaceError, place

from anyio_uring._handle import COMPILED

KINDS = ["ext4", "xfs", "btrfs", "tmpfs", "overlay"]


@pytest.fixture(scope="module", params=KINDS)
def somewhere(request: pytest.FixtureRequest) -> Iterator[tuple[str, pathlib.Path]]:
    found = place(request.param)
    try:
        directory = found.__enter__()
    except NoPlaceError as error:
        pytest.skip(str(error))
    yield request.param, directory
    found.__exit__(None, None, None)


@pytest.fixture
def rings(tiers: Tiers) -> Iterator[Any]:
    """What `read_chunk` wants: rings, or None in a cell without."""
    if not (COMPILED and tiers.ring):
        yield None
        return
    from anyio_uring import _uring

    rings = _uring.FileRings()
    yield rings
    rings.close()
