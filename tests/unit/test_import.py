"""Importing costs little, compared with AnyIO, which every program that imports us imports too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import anyio_uring

ANYIO = "import anyio; anyio.open_file"
# Loaded by what a file may need one day, and as dear as AnyIO itself.
DEAR = ["ssl", "socket", "ctypes", "platform", "asyncio", "trio", "logging", "tempfile", "select"]
# `benchmarks/imports.py` measures; each module takes 0.3 to 0.5 ms.
MODULES_MAX = 40


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With bytecode, as installed packages have it."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def test_import_loads_nothing_dear(environment: dict[str, str]) -> None:
    script = (
        f"{ANYIO}; import sys; before = set(sys.modules); import anyio_uring; "
        "anyio_uring.open_file; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert sorted(set(DEAR) & set(loaded)) == []
    assert len(loaded) <= MODULES_MAX, loaded


def test_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'anyio_uring' has no attribute 'nothing'$"):
        anyio_uring.nothing  # noqa: B018


def test_late_names_are_listed() -> None:
    assert set(anyio_uring.__all__) <= set(dir(anyio_uring))
