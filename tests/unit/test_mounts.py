"""The mount table: names of every kind, and devices that are memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import mounts
from tests.support.fuse import MS_NODEV, mount, umount

from anyio_uring import _mounts


@pytest.mark.skipif(mounts.cannot_mount() is not None, reason="mounting needs root")
@pytest.mark.parametrize(
    "name", ["a b", "\r", "\n", "\t\x0b\x0c", "\x85\xa0\u2028", "\\040", "\udcff"]
)
def test_mount_points_of_every_name(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    mount("tmpfs", place, "tmpfs", MS_NODEV, "size=64k")
    try:
        [found] = [entry for entry in _mounts.read_mounts() if entry.mountpoint == str(place)]
        assert found.fs_type == "tmpfs"
        assert _mounts.classify(found.mount_id, *found.device)[0] == "tmpfs"
    finally:
        umount(place, 0)


def test_memory_that_files_are_read_from_directly() -> None:
    assert not _mounts.may_be_dax(0, 5)  # tmpfs and the like
    assert _mounts.may_be_dax(4000, 1 << 19)  # there is none: unknown
    seen = set()
    for disk in Path("/sys/block").iterdir():
        [answer] = (disk / "queue" / "dax").read_bytes().split()
        major, minor = map(int, (disk / "dev").read_text().split(":"))
        assert _mounts.may_be_dax(major, minor) == (answer != b"0")
        seen.add(answer)
        for part in disk.glob(f"{disk.name}*/dev"):
            major, minor = map(int, part.read_text().split(":"))
            assert _mounts.may_be_dax(major, minor) == (answer != b"0")
    assert seen
