"""`benchmarks/serving.py`: each variant is measured, what it was asked is told, nothing is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.seccomp import cannot_filter

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"


def measured(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Measure in a new directory; the lines of the report."""
    place, report, table = folder / "place", folder / "report.json", folder / "table.md"
    place.mkdir()
    command = [sys.executable, str(SCRIPT), str(place), "--quick", *arguments]
    done = subprocess.run(
        [*command, "--json", str(report), "--markdown", str(table)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(place.iterdir()) == []
    rows = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
    found = json.loads(report.read_text())
    assert found["failed"] == []
    assert len(rows) == 2 + len(found["lines"])
    lines: list[dict[str, Any]] = found["lines"]
    assert min(line["rate"] for line in lines) > 0
    return lines


@pytest.mark.parametrize("stack", ["h11", "httptools"])
def test_cached_files_are_measured(tmp_path: Path, stack: str) -> None:
    lines = measured(tmp_path, "--stacks", stack, "--routes", "static", "--sizes", "4KiB,64KiB")
    who = [line["participant"] for line in lines if line["size"] == "64KiB"]
    assert who[:2] == ["plain", "install"]
    assert who[-1] == "direct"
    for line in lines:
        assert bool(line["served_by"]) == (line["participant"] in ("install", "to_thread"))


@pytest.mark.skipif(cannot_filter() is not None, reason=str(cannot_filter()))
def test_blocked_is_measured_without_a_ring(tmp_path: Path) -> None:
    options = ("--stacks", "h11", "--routes", "files", "--sizes", "4KiB", "--blocked")
    blocked = measured(tmp_path, *options)[-1]
    assert blocked["participant"] == "blocked"
    assert blocked["tiers"]["ring"] == 0 < sum(blocked["tiers"].values())


def test_cold_files_are_measured(tmp_path: Path) -> None:
    for line in measured(tmp_path, "--stacks", "httptools", "--cold"):
        assert line["idle"] > 0
        assert line["busy"] > 0


def test_wrong_arguments_are_named() -> None:
    command = [sys.executable, str(SCRIPT), "--stacks", "gunicorn"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no 'gunicorn' among h11, httptools" in done.stderr
