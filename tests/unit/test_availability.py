"""A lack that passes is survived: of descriptors, of memory."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyio_uring
from anyio_uring import _probe
from anyio_uring._host import Host

pytestmark = pytest.mark.skipif(not _probe.probe().available, reason="needs io_uring")


def refusal(number: int) -> _probe.Verdict:
    return _probe._refused(OSError(number, "io_uring_setup: " + os.strerror(number)))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_lack_of_something_is_not_the_last_word(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_probe, "_verdict", (os.getpid(), refusal(number)))
    assert _probe.probe().available


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_prohibition_is_not_asked_about_twice(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "_verdict", (os.getpid(), refusal(number)))
    assert _probe.probe().errno == number


def test_loop_without_a_ring_uses_threads_says_so_once_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_ring = Host._make_ring
    full = True

    def make(host: Host) -> Any:
        if full:
            raise OSError(errno.EMFILE, "io_uring_setup: Too many open files")
        return make_ring(host)

    async def main() -> tuple[int, int]:
        nonlocal full
        async with await anyio_uring.open_file(tmp_path / "file", "wb", 0) as file:
            await file.write(b"a")
            await file.write(b"b")
            without = anyio_uring.statistics().ring
            full = False
            await file.write(b"c")
            return without, anyio_uring.statistics().ring

    monkeypatch.setattr(Host, "_make_ring", make)
    with caplog.at_level(logging.WARNING, logger="anyio_uring"):
        assert anyio.run(main) == (0, 1)
    assert (tmp_path / "file").read_bytes() == b"abc"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
