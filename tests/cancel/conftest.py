"""A hung mount, shared by the tests of a module: mounting one takes longer than most tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.fuse import FuseMount, cannot_fuse

CONTENT = bytes(range(256)) * 16


@pytest.fixture(scope="module")
def shared_mount() -> Iterator[FuseMount]:
    if reason := cannot_fuse():
        pytest.skip(reason)
    with FuseMount({"file": CONTENT, "other": CONTENT}, direct_io=True) as mount:
        yield mount


@pytest.fixture
def mount(shared_mount: FuseMount) -> Iterator[FuseMount]:
    """A FUSE mount; what a test stalls or delays there ends with the test."""
    yield shared_mount
    shared_mount.release()
    shared_mount.delay(READ=0, WRITE=0, OPEN=0, GETATTR=0, FLUSH=0, FSYNC=0)
