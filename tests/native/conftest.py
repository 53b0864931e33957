"""What the tests of the compiled core have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def ring() -> Iterator[Any]:
    """A ring of two operations."""
    uring = pytest.importorskip("anyio_uring._uring")
    try:
        ring = uring.Ring(2, None, 8)
    except OSError as error:
        pytest.skip(f"needs io_uring: {error}")
    yield ring
    ring.leak()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)
