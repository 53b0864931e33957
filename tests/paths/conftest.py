"""File systems that what is about paths runs on."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from tests.support.places import NoPlaceError, place

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
