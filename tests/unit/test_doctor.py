"""`python -m anyio_uring doctor`: the right verdict, the right exit code, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import mounts
from tests.support.fuse import cannot_mount
from tests.support.seccomp import cannot_filter, run_program_filtered

from anyio_uring import _mounts, _probe
from anyio_uring.__main__ import main
from anyio_uring._doctor import collect, render
from anyio_uring._handle import COMPILED
from anyio_uring._info import DriverInfo

needs_core = pytest.mark.skipif(not COMPILED, reason="needs the compiled core")
needs_ring = pytest.mark.skipif(not _probe.probe().available, reason="needs io_uring")
needs_filter = pytest.mark.skipif(cannot_filter() is not None, reason=str(cannot_filter()))
needs_mount = pytest.mark.skipif(cannot_mount() is not None, reason=str(cannot_mount()))

OK, NOT_SERVED, USAGE, NO_URING = 0, 1, 2, 3
DOCTOR = [sys.executable, "-m", "anyio_uring", "doctor"]


def run_doctor(
    *arguments: str | Path, blocked: dict[str, int] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [*DOCTOR, *map(str, arguments)]
    if blocked is not None:
        return run_program_filtered(command, blocked, env=env)
    clean = {key: value for key, value in os.environ.items() if key != "ANYIO_URING_DRIVER"}
    return subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=60)


def report_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.stderr == ""
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["exit_code"] == result.returncode
    return report


def test_directory_is_tried_and_nothing_is_left_behind(tmp_path: Path) -> None:
    result = run_doctor(tmp_path)
    assert result.returncode == OK, result.stdout + result.stderr
    assert "OK: files are served" in result.stdout
    assert f"what serves what in {tmp_path}" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_holds_what_was_tried(tmp_path: Path) -> None:
    report = report_of(run_doctor(tmp_path, "--json"))
    assert report["served"] is True
    assert [step["what"] for step in report["tried"]][:5] == [
        "create",
        "write",
        "fsync",
        "close after writing",
        "open",
    ]
    assert report["packages"]["anyio"]


def test_what_was_tried_agrees_with_what_is_told(tmp_path: Path) -> None:
    """The table is made from rules, the trial from counters."""
    report = collect(os.fspath(tmp_path))
    assert report["problem"] == ""
    for step in report["tried"]:
        if step["what"] in report["tiers"]:
            told = report["tiers"][step["what"]]
            assert step["tier"] in told, (step, told)
    if report["driver"] == "uring":
        assert {step["tier"] for step in report["tried"]} <= {"now", "ring"}


@contextlib.contextmanager
def file_system(kind: str) -> Iterator[Path]:
    if kind == "tmpfs":
        with mounts.tmpfs() as path:
            yield path
    elif kind == "overlay":
        with mounts.loop("ext4") as base, mounts.overlay({"file": b"content"}, base) as overlay:
            yield overlay.path
    else:
        with mounts.loop(kind) as path:
            yield path


@needs_mount
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs", "overlay"])
def test_what_was_tried_agrees_on_every_file_system(kind: str) -> None:
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(file_system(kind))
        except mounts.MissingToolError as error:
            pytest.skip(str(error))
        test_what_was_tried_agrees_with_what_is_told(path)
        assert collect(os.fspath(path))["file_system"] == kind


def test_file_is_only_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    before = file.stat()
    report = collect(os.fspath(file))
    assert [step["what"] for step in report["tried"]] == ["open", "read", "read again", "close"]
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.read_bytes() == b"content"


def test_directory_that_may_not_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"content")

    def refuse(**_: Any) -> None:  # (root may write anywhere)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    report = collect(os.fspath(tmp_path))
    assert report["served"]
    assert [step["what"] for step in report["tried"]] == ["open", "read", "read again", "close"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_fifo_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    report = collect(os.fspath(tmp_path / "fifo"))
    assert report["served"]
    assert report["tried"] == []


def test_missing_path_fails_and_is_named(tmp_path: Path) -> None:
    result = run_doctor(tmp_path / "missing")
    assert result.returncode == NOT_SERVED
    assert f"No such file or directory: '{tmp_path / 'missing'}'" in result.stdout


@needs_core
@needs_filter
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.EPERM, ["EPERM", "remedy:", "seccomp"]),
        (errno.ENOSYS, ["ENOSYS", "Linux 5.13", "gVisor"]),
        (errno.ENOMEM, ["ENOMEM", "RLIMIT_MEMLOCK"]),
    ],
)
def test_refused_ring_names_cause_and_cure_and_files_are_served(
    error: int, words: list[str], tmp_path: Path
) -> None:
    result = run_doctor(tmp_path, blocked={"io_uring_setup": error})
    assert result.returncode == OK, result.stdout + result.stderr
    assert "driver: thread" in result.stdout
    assert [word for word in words if word not in result.stdout] == []


@needs_core
@needs_filter
def test_require_uring_fails_where_it_is_refused(tmp_path: Path) -> None:
    result = run_doctor(
        "--require-uring", "--json", tmp_path, blocked={"io_uring_setup": errno.EPERM}
    )
    assert result.returncode == NO_URING
    report = report_of(result)
    assert report["system"]["seccomp"] == "filter"
    assert {step["tier"] for step in report["tried"]} <= {"now", "thread"}


@needs_ring
def test_require_uring_passes_where_there_is_one(tmp_path: Path) -> None:
    assert run_doctor("--require-uring", tmp_path).returncode == OK


def test_require_uring_fails_when_the_setting_is_thread(tmp_path: Path) -> None:
    result = run_doctor("--require-uring", tmp_path, ANYIO_URING_DRIVER="thread")
    assert result.returncode == NO_URING
    assert "the driver setting is 'thread'" in result.stdout
    assert "io_uring is required" in result.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_where_nothing_can_be_made_a_file_that_is_there_is_read() -> None:
    result = run_doctor(Path("/proc/self"))
    assert (result.returncode, result.stderr) == (OK, "")
    assert "PROBLEM" not in result.stdout


@needs_core
@needs_filter
def test_setting_that_requires_a_refused_ring_cannot_serve(tmp_path: Path) -> None:
    result = run_doctor(
        tmp_path, blocked={"io_uring_setup": errno.EPERM}, ANYIO_URING_DRIVER="uring"
    )
    assert result.returncode == NOT_SERVED
    assert "PROBLEM: io_uring is unavailable" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_wrong_value_in_the_environment_is_a_usage_error(tmp_path: Path) -> None:
    result = run_doctor(tmp_path, ANYIO_URING_DRIVER="fast")
    assert (result.returncode, result.stdout) == (USAGE, "")
    assert "ANYIO_URING_DRIVER" in result.stderr


def test_few_descriptors_are_named_as_the_cause(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))

    result = subprocess.run(
        [*DOCTOR, str(tmp_path)], preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == NOT_SERVED, result.stderr
    assert "open files            6 at most" in result.stdout
    assert "Too many open files" in result.stdout


@needs_mount
@pytest.mark.parametrize("swap", [False, True])
def test_tmpfs_note_depends_on_swap(swap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mounts, "has_swap", lambda: swap)
    with mounts.tmpfs() as path:
        report = collect(os.fspath(path))
    assert report["file_system"] == "tmpfs"
    assert report["mount"]["point"] == os.fspath(path)
    [note] = report["notes"]
    assert ("Swap is on" in note) == swap


@needs_mount
@needs_core
def test_overlayfs_caveat_is_told() -> None:
    with mounts.overlay({"file": b"content" * 1000}) as overlay:
        report = collect(os.fspath(overlay.path / "file"))
    assert report["file_system"] == "overlay"
    assert "mincore" in report["notes"][0]
    assert report["served"]


def test_old_kernel_is_rendered_with_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = DriverInfo(
        driver="uring",
        uring_available=True,
        reason="io_uring works here",
        compiled=True,
        kernel="Linux 5.15.0",
        setup_flags=("COOP_TASKRUN",),
        features=_probe.REQUIRED_FEATURES[:-1],
        operations=("read", "write"),
        missing_operations=("ftruncate",),
        path=os.fspath(tmp_path),
        file_system="ext4",
    )
    monkeypatch.setattr("anyio_uring._doctor.driver_info", lambda path=None: old)
    text = render(collect(os.fspath(tmp_path)))
    assert "DEFER_TASKRUN (Linux 6.1)" in text
    assert "COOP_TASKRUN (Linux" not in text
    assert "ftruncate: truncate() goes to a thread" in text
    assert f"{_probe.REQUIRED_FEATURES[-1]}: needed" in text


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["doctor", "--nonsense"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == USAGE


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    text = capsys.readouterr().out
    assert "exit codes:" in text
    assert "--require-uring" in text
