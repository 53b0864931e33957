"""A mount whose reads and writes can be held, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fuse import FuseMount, cannot_fuse

CONTENT = b"".join(b"%07d\n" % number for number in range(1000))


@pytest.fixture(scope="module")
def shared_mount() -> Iterator[FuseMount]:
    if reason := cannot_fuse():
        pytest.skip(reason)
    with FuseMount({}, direct_io=True) as mount:
        yield mount


@pytest.fixture
def mount(shared_mount: FuseMount) -> Iterator[FuseMount]:
    """Without a page cache: what is written is in the server, and each read asks it."""
    yield shared_mount
    shared_mount.release()


@pytest.fixture
def slow(mount: FuseMount) -> Path:
    """A file of CONTENT on the mount."""
    path = mount.path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of CONTENT in an ordinary directory."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path
