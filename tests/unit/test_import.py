"""Importing costs little, compared with AnyIO, which every program that imports us imports too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import anyio_uring

ANYIO = "import anyio; anyio.open_file"
OURS = f"{ANYIO}; import anyio_uring; anyio_uring.open_file"
# Loaded by what a file may need one day, and as dear as AnyIO itself.
DEAR = ["ssl", "socket", "ctypes", "platform", "asyncio", "trio", "logging", "tempfile"]
EXTRA_SECONDS_MAX = 0.015


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With bytecode, as installed packages have it."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def seconds_of(statements: str, environment: dict[str, str]) -> float:
    script = f"import time; t = time.perf_counter(); {statements}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_import_loads_nothing_dear(environment: dict[str, str]) -> None:
    script = (
        f"{ANYIO}; import sys; before = set(sys.modules); import anyio_uring; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert sorted(set(DEAR) & set(done.stdout.split())) == []


def test_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'anyio_uring' has no attribute 'nothing'$"):
        anyio_uring.nothing  # noqa: B018


def test_late_names_are_listed() -> None:
    assert set(anyio_uring.__all__) <= set(dir(anyio_uring))


def test_import_takes_little_longer_than_that_of_anyio(environment: dict[str, str]) -> None:
    seconds_of(OURS, environment)  # writes the bytecode
    anyio, ours = [], []
    # Noise only adds: the quickest run of each is the truest
    for _ in range(10):
        for _ in range(4):
            anyio.append(seconds_of(ANYIO, environment))
            ours.append(seconds_of(OURS, environment))
        extra = min(ours) - min(anyio)
        if extra <= EXTRA_SECONDS_MAX:
            return
    pytest.fail(f"importing takes {extra * 1000:.1f} ms more")
