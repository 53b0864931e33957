"""`python -m anyio_uring bench`: rows measured and named, everything verified, no trace left."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import anyio.lowlevel
import pytest
from tests.support import mounts
from tests.support.fuse import cannot_mount
from tests.support.seccomp import cannot_filter, run_program_filtered

from anyio_uring import _bench, _bench_cases, _probe, current_settings
from anyio_uring.__main__ import main
from anyio_uring._bench_cases import CASES, Gauge
from anyio_uring._bench_material import Material
from anyio_uring._handle import COMPILED
from anyio_uring._mounts import NOWAIT

needs_core = pytest.mark.skipif(not COMPILED, reason="needs the compiled core")
needs_ring = pytest.mark.skipif(not _probe.probe().available, reason="needs io_uring")
needs_filter = pytest.mark.skipif(cannot_filter() is not None, reason=str(cannot_filter()))
needs_mount = pytest.mark.skipif(cannot_mount() is not None, reason=str(cannot_mount()))
needs_terminal = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")

TINY = ["--quick", "--scale", "0.01"]
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> None:
    """What thousands of tests have left would be looked at before each measurement."""
    gc.collect()
    gc.freeze()


def tiny(*arguments: object) -> list[str]:
    return ["bench", *TINY, *map(str, arguments)]


def run_tiny(
    folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[dict[str, Any], str]:
    """The report of a run in this process, and what it printed to stderr."""
    code = main(tiny("--json", *arguments, folder))
    out, err = capsys.readouterr()
    assert code == 0, err
    assert list(folder.glob(".anyio_uring*")) == []
    return json.loads(out), err


def fails(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a run that exits with 1 says; it prints no results."""
    assert main(tiny("--loop", "asyncio", *arguments, folder)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bench: ")
    assert err.count("\n") == 1
    return err


# -- what is measured -----------------------------------------------------------------------------


def test_json_has_every_case_on_every_loop_by_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, err = run_tiny(tmp_path, capsys)
    assert err == ""
    keys = ["ring", "thread", "anyio"] if _probe.probe().available else ["thread", "anyio"]
    expected = [
        (case.key, loop, key)
        for case in CASES
        for loop, key in [
            (None, "sync"),
            *((loop, key) for loop in report["loops"] for key in keys),
        ]
    ]
    assert [(row["case"], row["loop"], row["key"]) for row in report["rows"]] == expected
    for row in report["rows"]:
        assert len(row["rates"]) == report["plan"]["rounds"]
        assert min(row["rates"]) > 0
        assert row["served_by"]
        assert (row["lag_p99_ms"] is not None) == (row["tasks"] > 1 and row["loop"] is not None)
        assert sum(row["tiers"].values()) == pytest.approx(1, abs=0.001)
    assert {"kernel", "python", "packages", "driver", "reason", "file_system"} <= set(report)


def test_everybody_has_read_back_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = current_settings()
    report, _ = run_tiny(tmp_path, capsys, "--loop", "asyncio")
    assert current_settings() == before
    assert len(report["verified"]) == len({row["key"] for row in report["rows"]}) - 1
    for part in report["verified"].values():
        assert part["sha256"] == report["sha256"]
        assert part["files"] == 1 + report["plan"]["small_files"]
        assert part["bytes"] > report["plan"]["large_bytes"]


@pytest.mark.anyio
async def test_work_that_ends_while_others_warm_up_is_counted(anyio_backend: Any) -> None:
    gauge = Gauge(0.01, ticking=True, warm=False)
    end = time.perf_counter() + 0.005

    async def work() -> None:
        gauge.count += 5
        while time.perf_counter() < end:
            await anyio.lowlevel.checkpoint()

    await gauge.run([work])
    assert gauge.sample().rate > 0
    assert gauge.sample().gaps != []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, set[str]]]:
    """A directory, and the tiers that may serve a cold read there beside the one that is meant.

    A virtual disk whose host has the data may be done before the kernel has left the attempt that
    refuses to wait, and then that attempt was served.  A loop device takes its time.
    """
    with contextlib.ExitStack() as stack:
        folder, besides = tmp_path, {"now"}
        if cannot_mount() is None:
            with contextlib.suppress(mounts.MissingToolError):
                folder = stack.enter_context(mounts.loop("ext4", 256 << 20, tmp_path))
                besides = set()
        yield folder, besides


@needs_core
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_cached_rows_are_served_at_once_and_cold_ones_by_the_ring(
    loop: str, disk: tuple[Path, set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    if _bench.find_spec(loop) is None:
        pytest.skip(f"needs {loop}")
    folder, besides = disk
    report, _ = run_tiny(folder, capsys, "--loop", loop, "--scale", "0.1")
    if report["file_system"] not in NOWAIT:
        pytest.skip(f"{report['file_system']} tells nobody what is cached")
    rows = {(row["case"], row["loop"], row["key"]): row for row in report["rows"]}
    for (case, _, key), row in rows.items():
        if key not in ("ring", "thread"):
            continue
        if case in ("cached_1", "cached_128", "small_1", "small_128"):
            assert row["served_by"] == "now", (case, key)
        elif case.startswith("cold"):
            assert row["cached_before"] == 0
            meant = sum(row["tiers"].get(tier, 0) for tier in {key, *besides})
            assert meant >= 0.95, (case, loop, key, row["tiers"])
        elif case == "write_64k":
            assert row["served_by"] == key


def test_table_names_machine_rows_and_tiers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny("--loop", "asyncio", tmp_path)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for case in CASES:
        assert f"{case.title}; synchronous Python:" in out
    assert "driver: " in out
    assert f"{tmp_path}: " in out
    assert "the same as written" in out
    assert "buffering=0" in out


def test_plot_is_a_picture_with_a_bar_for_each_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _ = run_tiny(
        tmp_path, capsys, "--loop", "asyncio", "--plot", os.fspath(tmp_path / "a.svg")
    )
    picture = ET.parse(tmp_path / "a.svg").getroot()
    bars = picture.findall("{http://www.w3.org/2000/svg}rect[@x]")
    assert len(bars) == len([row for row in report["rows"] if row["loop"]])


def test_loops_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bench, "find_spec", lambda name: None)
    loops, missing = _bench._loops(None)
    assert loops == ["asyncio"]
    assert missing == {"uvloop": "not installed", "trio": "not installed"}


@needs_core
@needs_filter
def test_without_io_uring_the_cause_is_told_and_the_rest_measured(tmp_path: Path) -> None:
    result = run_program_filtered(
        [sys.executable, "-m", "anyio_uring", *tiny("--loop", "asyncio", tmp_path)],
        {"io_uring_setup": errno.EPERM},
    )
    assert result.returncode == 0, result.stderr
    assert "no row for the ring: io_uring_setup failed with EPERM" in result.stdout
    assert "anyio_uring, no ring" in result.stdout
    assert list(tmp_path.iterdir()) == []


@needs_mount
def test_memory_that_cannot_be_dropped_is_not_called_a_disk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mounts.tmpfs() as path:
        report, _ = run_tiny(path, capsys, "--loop", "asyncio")
    assert report["file_system"] == "tmpfs"
    assert "no measure of a disk" in report["notes"][0]


# -- what is found to be wrong --------------------------------------------------------------------


def corrupt_pread(monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(file: Any) -> Callable[[int, int], Any]:
        async def read(size: int, offset: int) -> bytes:
            data: bytes = await file.pread(size, offset)
            return data[:-1] + bytes([data[-1] ^ 1])

        return read

    monkeypatch.setattr(_bench_cases.Ours, "pread", staticmethod(pread))


def corrupt_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Material.write

    def write_and_change(material: Material) -> None:
        write(material)
        with open(material.large, "r+b") as file:
            file.seek(5000)
            file.write(b"wrong")

    monkeypatch.setattr(Material, "write", write_and_change)


def corrupt_small_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Material.write

    def write_and_change(material: Material) -> None:
        write(material)
        os.truncate(next(iter(material.small)), 100)

    monkeypatch.setattr(Material, "write", write_and_change)


def lose_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fsync(file: Any) -> None:
        os.truncate(file.name, 4096)

    monkeypatch.setattr(_bench_cases.AnyIO, "fsync", staticmethod(fsync))


@pytest.mark.parametrize(
    ("corrupt", "words"),
    [
        (corrupt_pread, ["anyio_uring", "cached 4 KiB", "the large file at"]),
        (corrupt_disk, ["the large file", "checksum"]),
        (corrupt_small_file, ["asyncio: ", "small-00000"]),
        (lose_a_write, ["anyio.open_file on asyncio", "write", "checksum"]),
    ],
)
def test_wrong_data_is_found(
    corrupt: Callable[[pytest.MonkeyPatch], None],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corrupt(monkeypatch)
    message = fails(tmp_path, capsys)
    assert "FAILED" in message
    assert [word for word in words if word not in message] == []
    assert list(tmp_path.iterdir()) == []


@needs_mount
@pytest.mark.parametrize("room", [512 << 10, 1536 << 10], ids=["at once", "in the middle"])
def test_full_disk_is_told_and_nothing_left_behind(
    room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounts.tmpfs(room) as path:
        message = fails(path, capsys)
        assert f"no space left in {path}" in message
        assert list(path.iterdir()) == []


def test_directory_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "Not a directory" in fails(tmp_path / "file", capsys)
    assert "No such file or directory" in fails(tmp_path / "missing", capsys)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /sys")
def test_unwritable_directory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o555)
    folder = Path("/sys") if os.geteuid() == 0 else tmp_path  # root may write anywhere but there
    assert f"cannot write in {folder}" in fails(folder, capsys)


def test_picture_that_cannot_be_drawn_does_not_cost_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny("--loop", "asyncio", "--plot", tmp_path / "no" / "a.svg", tmp_path)) == 1
    out, err = capsys.readouterr()
    assert "the same as written" in out
    assert "cannot draw" in err


def test_wrong_driver_in_the_environment_is_wrong_usage(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "anyio_uring", *tiny(tmp_path)],
        env=os.environ | {"ANYIO_URING_DRIVER": "fast"},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "ANYIO_URING_DRIVER" in result.stderr


# -- interrupted ----------------------------------------------------------------------------------


@needs_terminal
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "moment",
    [
        "writing the files",
        "verifying: anyio.open_file on asyncio",
        "128 tasks: synchronous",
        "128 tasks: anyio_uring on asyncio",
        "128 tasks: anyio_uring on uvloop",
        "128 tasks: anyio.open_file on trio",
        "then fsync: anyio_uring on trio",
    ],
)
def test_interrupted_run_leaves_nothing(
    moment: str, number: signal.Signals, tmp_path: Path
) -> None:
    """The progress line says when the moment has come."""
    loop = moment.rsplit(maxsplit=1)[-1] if " on " in moment else "asyncio"
    if _bench.find_spec(loop) is None:
        pytest.skip(f"needs {loop}")
    if "anyio_uring on" in moment and not _probe.probe().available:
        pytest.skip("needs io_uring")
    terminal, its_side = os.openpty()
    command = [*BENCH_SLOWLY, "--loop", loop, os.fspath(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its_side) as process:
        os.close(its_side)
        seen = _read_until(terminal, moment.encode())
        process.send_signal(number)
        seen += _read_until(terminal, None)
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE_SECONDS) == 128 + number, seen
    os.close(terminal)
    assert b"its files are removed" in seen
    assert b"Traceback" not in seen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupt_is_not_lost_in_a_finalizer(number: signal.Signals, tmp_path: Path) -> None:
    script = f"""
        import gc, signal
        from anyio_uring import _bench

        class Finalized:
            def __del__(self):
                signal.raise_signal({number:d})

        _bench.gc.collect = Finalized  # dropped at once
        """
    command = [sys.executable, "-c", textwrap.dedent(script) + BENCH_SLOWLY[-1]]
    done = subprocess.run(
        [*command, "--loop", "asyncio", os.fspath(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 128 + number, done.stderr
    assert "its files are removed" in done.stderr


# Each measurement long enough to be interrupted, the files small
BENCH_SLOWLY = [
    sys.executable,
    "-c",
    (
        "import sys; from anyio_uring import _bench_material as material, __main__\n"
        "material.Plan.scaled = lambda plan, scale: material.Plan(rounds=1, seconds=0.05,"
        " large_bytes=8 << 20, hot_bytes=1 << 20, written_bytes=8 << 20, small_files=50)\n"
        "sys.exit(__main__.main(['bench', *sys.argv[1:]]))"
    ),
]


def _read_until(terminal: int, text: bytes | None) -> bytes:
    """What the program shows until `text`, or until it ends."""
    seen = b""
    while text is None or text not in seen:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # EIO: nobody has the other side any more
            part = b""
        if not part:
            assert text is None, seen
            break
        seen += part
    return seen
