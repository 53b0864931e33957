"""`driver_info` says what a run would really have, and why."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from tests.support.mounts import fs_type
from tests.support.seccomp import cannot_filter, run_filtered

import anyio_uring
from anyio_uring import _mounts, _probe, _settings
from anyio_uring._handle import COMPILED
from anyio_uring._info import _tiers_of
from anyio_uring.testing import force_tiers

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="io_uring is a Linux interface")
needs_core = pytest.mark.skipif(not COMPILED, reason="needs the compiled core")
needs_ring = pytest.mark.skipif(not _probe.probe().available, reason="needs io_uring")
needs_filter = pytest.mark.skipif(cannot_filter() is not None, reason=str(cannot_filter()))

REPORT = """
import json
import anyio_uring
info = anyio_uring.driver_info({path!r})
print(json.dumps(info._asdict() | {{"tiers": dict(info.tiers)}}))
"""


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings that the test may change."""
    monkeypatch.setattr(_settings, "_current", None)
    monkeypatch.delenv("ANYIO_URING_DRIVER", raising=False)
    yield
    monkeypatch.undo()


def child_info(blocked: dict[str, int], path: str | None = None, **env: str) -> dict[str, object]:
    result = run_filtered(REPORT.format(path=path), blocked, env=env)
    assert result.returncode == 0, result.stderr
    report: dict[str, object] = json.loads(result.stdout)
    return report


def test_info_without_a_path_tells_of_the_driver_only() -> None:
    info = anyio_uring.driver_info()
    assert (info.path, info.file_system, dict(info.tiers)) == (None, None, {})
    assert info.compiled == COMPILED
    assert os.uname().release in info.kernel


def test_info_is_frozen_and_its_tiers_too(tmp_path: Path) -> None:
    info = anyio_uring.driver_info(tmp_path)
    with pytest.raises(AttributeError):
        info.driver = "thread"  # type: ignore[misc]
    with pytest.raises(TypeError):
        info.tiers["open"] = "now"  # type: ignore[index]


@pytest.mark.parametrize("driver", ["auto", "thread"])
def test_driver_is_the_one_of_a_run(driver: str, settings: None) -> None:
    async def of_run() -> str:
        return anyio_uring.statistics().driver

    anyio_uring.configure(driver=driver)
    info = anyio_uring.driver_info()
    assert info.driver == anyio.run(of_run)
    if driver == "thread":
        assert "setting is 'thread'" in info.reason


@needs_ring
def test_ring_is_described(settings: None) -> None:
    info = anyio_uring.driver_info()
    assert (info.driver, info.uring_available, info.remedy, info.errno) == ("uring", True, "", None)
    assert {"read", "write", "openat", "close"} <= set(info.operations)
    assert "NODROP" in info.features
    assert info.workers_max > 0
    anyio_uring.configure(workers_max=3)
    assert anyio_uring.driver_info().workers_max == 3


def test_forced_tiers_are_respected(tmp_path: Path, settings: None) -> None:
    with force_tiers("thread"):
        info = anyio_uring.driver_info(tmp_path)
    assert info.driver == "thread"
    assert set(info.tiers.values()) == {"thread"}


@needs_core
def test_threads_keep_the_now_tier(tmp_path: Path, settings: None) -> None:
    with force_tiers("now", "thread"):
        info = anyio_uring.driver_info(tmp_path)
    if info.file_system in {"ext4", "xfs", "btrfs"}:
        assert info.tiers["cached read"] == "now"
    assert info.tiers["cold read"] == info.tiers["write"] == "thread"


@on_linux
@pytest.mark.parametrize("path", ["/", "/proc/self/status", "/dev/shm"])
def test_file_system_is_the_one_of_the_mount(path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"needs {path}")
    assert anyio_uring.driver_info(path).file_system == fs_type(path)


def test_every_kind_of_path_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    name = str(tmp_path / "file")
    for path in (name, os.fsencode(name), tmp_path / "file"):
        assert anyio_uring.driver_info(path).path == name


@on_linux
def test_fifo_is_not_opened_and_its_reads_wait_on_the_ring(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for a peer for ever
    info = anyio_uring.driver_info(tmp_path / "fifo")
    waiting = "ring" if info.driver == "uring" else "event loop, then thread"
    assert info.tiers["read"] == info.tiers["write"] == waiting
    assert "cached read" not in info.tiers


@pytest.mark.parametrize("path", ["missing", b"missing", "also/missing"])
def test_missing_path_raises_with_errno_and_name(
    path: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        anyio_uring.driver_info(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, path)


ALL = {"openat", "read", "write", "close", "statx", "fsync", "ftruncate"}
REGULAR = 0o100644


def test_operation_that_the_kernel_lacks_goes_to_a_thread() -> None:
    tiers = _tiers_of(REGULAR, "ext4", _mounts.NOW_NOWAIT, True, ALL - {"ftruncate", "statx"})
    assert tiers["truncate"] == "thread"
    assert tiers["size"] == "now, else thread"
    assert tiers["cold read"] == "ring"


def test_overlayfs_is_opened_and_closed_now_but_its_size_is_asked_elsewhere() -> None:
    tiers = _tiers_of(REGULAR, "overlay", _mounts.NOW_RESIDENT, False, ALL)
    assert tiers["open"].startswith("now, else ring")
    assert tiers["close"].startswith("now, else ring")
    assert tiers["close after writing"] == "ring (kernel worker)"
    assert tiers["cached read"].startswith("now if this user owns or may write")
    assert tiers["cold read"] == tiers["size"] == "ring (kernel worker)"


def test_nothing_is_cold_on_tmpfs_without_swap() -> None:
    assert _tiers_of(REGULAR, "tmpfs", _mounts.NOW_PLAIN, True, ALL)["cold read"] == "now"
    swapped = _tiers_of(REGULAR, "tmpfs", _mounts.NOW_NEVER, True, ALL)
    assert swapped["cached read"] == swapped["cold read"] == "ring (kernel worker)"


def test_network_file_system_is_never_touched_on_the_loops_thread() -> None:
    tiers = _tiers_of(REGULAR, "nfs4", _mounts.NOW_NEVER, False, ALL)
    assert not [text for text in tiers.values() if text.startswith("now")]


@needs_core
@needs_filter
@pytest.mark.parametrize(
    ("error", "code", "cure"),
    [
        (errno.EPERM, "EPERM", ("seccomp profile", "kernel.io_uring_disabled")),
        (errno.ENOSYS, "ENOSYS", ("gVisor",)),
        (errno.ENOMEM, "ENOMEM", ("RLIMIT_MEMLOCK",)),
        (errno.EMFILE, "EMFILE", ("RLIMIT_NOFILE",)),
    ],
)
def test_refused_ring_is_explained(error: int, code: str, cure: tuple[str, ...]) -> None:
    report = child_info({"io_uring_setup": error}, "/")
    assert report["driver"] == "thread"
    assert report["uring_available"] is False
    assert report["errno"] == error
    assert code in str(report["reason"])
    assert any(words in str(report["remedy"]) for words in cure)
    assert report["tiers"]["write"] == "thread"  # type: ignore[index]


@needs_ring
@needs_filter
@pytest.mark.parametrize("call", ["io_uring_enter", "io_uring_register"])
def test_profile_that_allows_setup_only_is_found_out(call: str) -> None:
    report = child_info({call: errno.EPERM})
    assert report["driver"] == "thread"
    assert call in str(report["reason"])


@needs_core
@needs_filter
def test_required_ring_that_is_refused_is_reported_not_raised() -> None:
    report = child_info({"io_uring_setup": errno.EPERM}, ANYIO_URING_DRIVER="uring")
    assert report["driver"] == "none"
    assert "setting is 'uring'" in str(report["reason"])
    assert report["remedy"]
