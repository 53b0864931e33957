"""What a worker thread runs, where the kernel does what it rarely does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from anyio_uring import _transfers


@pytest.mark.parametrize("whole", [False, True])
def test_write_that_the_kernel_takes_nothing_of_ends(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 0])  # once more is StopIteration
    monkeypatch.setattr(_transfers, "pwrite", lambda *_: next(counts))
    told: list[int | None] = []
    view = memoryview(b"content")
    if whole:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            _transfers.write_all(-1, view, 0, True, told.append)
    else:
        assert _transfers.write_all(-1, view, 0, False, told.append) == 3
    assert told == [3]


def test_line_whose_end_cannot_be_had_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read

    def broken(fd: int, size: int) -> bytes:
        if os.lseek(fd, 0, os.SEEK_CUR) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, size)

    (tmp_path / "file").write_bytes(b"0123\n")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "read", broken)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                _transfers.read_line(fd, 100)
        assert _transfers.read_line(fd, 100) == b"0123\n"
    finally:
        os.close(fd)
