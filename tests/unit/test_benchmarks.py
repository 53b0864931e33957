"""`benchmarks/run.py`: its rows are measured, it tells what it was asked, and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from tests.support.mounts import cannot_mount
from tests.support.seccomp import cannot_filter

import anyio_uring
from anyio_uring import _probe
from anyio_uring._handle import COMPILED

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "run.py"
# One of each kind
ROWS = ["cached_1", "read_64k", "seek_read", "readline", "write_64k", "append_16", "small_1"]
PATH_ROWS = [
    *("read_bytes_128", "read_files", "read_files_kept", "stat_128", "stat_files", "iterdir"),
    *("cold_files", "copy_tree", "remove_tree"),
]
OPTIONAL_ROWS = ["write_behind", "direct_128", "pread_many"]

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX"),
]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def measured(folder: Path, *arguments: object) -> dict[str, Any]:
    """Measure in a new directory; the report, of which each line is complete."""
    place = folder / "place"
    place.mkdir()
    file = folder / "report.json"
    done = run(place, "--quick", "--rounds", 1, "--json", file, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert list(place.iterdir()) == []
    report: dict[str, Any] = json.loads(file.read_text())
    assert report["failed"] == []
    for line in report["lines"]:
        assert min(line["sync_rate"], line["anyio_rate"], line["ours_rate"]) > 0
        least, greatest = line["to_sync_spread"]
        assert least <= line["to_sync"] <= greatest
        assert (line["target"] is None) == (line["reached"] == "")
        assert line["not_slower"][:3] in ("yes", "NO", "NO?")
        assert line["served_by"]
    return report


def test_run_quick_measures_each_kind_of_row(tmp_path: Path) -> None:
    report = measured(tmp_path, "--hosts", "asyncio", "--rows", ",".join(ROWS))
    assert [line["row"] for line in report["lines"]] == ROWS


@pytest.mark.parametrize("rows", [PATH_ROWS, OPTIONAL_ROWS], ids=["paths", "options"])
def test_run_quick_measures_paths_and_what_is_opted_in(tmp_path: Path, rows: list[str]) -> None:
    report = measured(tmp_path, "--hosts", "asyncio", "--rows", ",".join(rows))
    in_memory = report["places"]["here"].startswith("tmpfs")
    known = {"cold_files", "direct_128", "pread_many"} if in_memory else set()
    if not os.access("/proc/sys/vm/drop_caches", os.W_OK):
        known.add("cold_files")
    assert [line["row"] for line in report["lines"]] == [row for row in rows if row not in known]
    assert len(report["missing"]) == len(known & set(rows))


def test_run_measures_walk_where_python_has_it(tmp_path: Path) -> None:
    if not hasattr(anyio_uring.Path, "walk"):
        done = run(tmp_path, "--quick", "--hosts", "asyncio", "--rows", "walk")
        assert "Path.walk is new in Python 3.12" in done.stdout
        return
    (line,) = measured(tmp_path, "--hosts", "asyncio", "--rows", "walk")["lines"]
    assert line["served_by"] == "thread 100%"


@pytest.mark.skipif(not COMPILED, reason="it is about the compiled core")
def test_floor_tells_what_the_calls_alone_take(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT.with_name("floor.py")), "--quick", "--rounds", "1"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    alone, tasks = done.stdout.split("\n\n")
    titles = ["read_bytes", "open + read + close", "stat"]
    assert [row[:20].strip() for row in alone.splitlines()[2:]] == titles
    first = tasks.splitlines()[1:4]
    assert [row[:11].strip() for row in first] == ["asyncio"] * 3
    assert [row[11:31].strip() for row in first] == titles
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not COMPILED, reason="the pure version has no io_uring")
def test_beside_fio(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT.with_name("beside_fio.py")), "--quick"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=100)
    if shutil.which("fio") is None or not anyio_uring.driver_info().uring_available:
        if shutil.which("fio"):
            assert (done.returncode, done.stdout) == (1, "")
            assert "no io_uring" in done.stderr
            return
        assert (done.returncode, done.stdout) == (1, "")
        assert "apt-get install fio" in done.stderr
        return
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[3:5]] == ["fio,", "asyncio,"]
    assert list(tmp_path.iterdir()) == []


def test_run_on_trio_writes_a_table(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    report = measured(tmp_path, "--hosts", "trio", "--rows", "cached_128", "--markdown", table)
    assert [(line["host"], line["row"]) for line in report["lines"]] == [("trio", "cached_128")]
    rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [rows[0].count("|")] * 3


def test_run_measures_again_what_rounds_disagree_about(tmp_path: Path) -> None:
    # Rounds of no length disagree about much that is near its aim
    rows = "cached_1,cached_128,read_64k,read_1m,cold_1m,read_32,readline,write_64k,write_fsync"
    options = ("--rounds", 2, "--again", 3)
    report = measured(tmp_path, "--hosts", "asyncio", "--rows", rows, *options)
    noted = {note.partition(":")[0] for note in report["notes"] if "that of 2 was" in note}
    for line in report["lines"]:
        again = f"here, asyncio, {line['title']}" in noted
        assert len(line["ours_rates"]) == (3 if again else 2)
        assert again or "NO?" not in (line["reached"], line["not_slower"])


def test_doubt_is_a_median_below_its_aim_that_some_round_reaches() -> None:
    code = """
        import cell, rows
        def doubt(sync, anyio, ours, blocked):
            rates = {"sync": sync, "anyio": anyio, "ours": ours, "blocked": blocked}
            nothing = dict.fromkeys(rates, 1)
            tiers = dict.fromkeys(rates, {"now": 1})
            return cell.Measured(nothing, rates, tiers).in_doubt(rows.ROWS["read_1m"], "asyncio")
        print(doubt([10, 10, 10], [2, 2, 2], [9, 9, 9.6], [1.8, 1.8, 2.0]))
        print(doubt([10, 10, 10], [2, 2, 2], [9, 9, 9], [1, 1, 1]))
        print(doubt([10, 10, 10], [2, 2, 2], [9, 9.6, 9.6], [1, 2, 2]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=SCRIPT.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "['0.90 of sync', '0.90 of AnyIO with io_uring blocked']",
        "[]",
        "[]",
    ]


@pytest.mark.skipif(cannot_filter() is not None, reason=str(cannot_filter()))
def test_run_blocked_measures_ours_without_a_ring(tmp_path: Path) -> None:
    report = measured(tmp_path, "--hosts", "asyncio", "--rows", "write_64k", "--blocked")
    ours, blocked = report["lines"]
    assert (ours["participant"], blocked["participant"]) == ("ours", "blocked")
    assert set(blocked["tiers"]) == {"now", "helper", "ring", "thread", "ring of a thread"}
    assert blocked["tiers"]["ring"] == 0 < blocked["tiers"]["thread"]
    assert (ours["tiers"]["ring"] > 0) == _probe.probe().available


HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
GOVERNOR = Path("/sys/devices/system/cpu/cpuidle/current_governor")


@pytest.mark.skipif(
    not os.access(HALT_POLL, os.W_OK) or GOVERNOR.read_text() != "haltpoll\n",
    reason="no haltpoll governor, or not root",
)
def test_run_sets_how_long_idle_processors_poll_and_puts_it_back(tmp_path: Path) -> None:
    before = HALT_POLL.read_text()
    table = tmp_path / "table.md"
    options = ("--halt-poll", 12_000, "--markdown", table)
    report = measured(tmp_path, "--hosts", "asyncio", "--rows", "cached_1", *options)
    assert report["machine"]["halt_poll_ns"] == 12_000
    assert "look for work for 12 us" in table.read_text()
    assert HALT_POLL.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rows", "cached_2"], "no 'cached_2' among"),
        (["--filesystems", "ext5"], "no 'ext5' among"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--again", "-1"], "--again must not be negative"),
        (["--halt-poll", "-1"], "--halt-poll must be from"),
        (["--seconds", "100"], "--seconds must be from"),
    ],
)
def test_run_with_wrong_arguments_names_them(arguments: list[str], text: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert text in done.stderr


def test_run_in_a_directory_that_is_missing_fails_and_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "missing", "--quick")
    assert done.returncode == 1
    assert "No such file or directory" in done.stdout


@pytest.mark.skipif(cannot_mount() is not None, reason=str(cannot_mount()))
def test_run_on_a_file_system_of_its_own_unmounts_it_when_terminated(tmp_path: Path) -> None:
    arguments = ["--quick", "--filesystems", "tmpfs", "--hosts", "asyncio"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("tmpfs") for line in process.stdout)  # the first cell is done
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "run.py: ended early; everything is removed\n")
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert list(tmp_path.iterdir()) == []
