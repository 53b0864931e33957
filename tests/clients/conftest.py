"""Real clients: the servers of examples/, each a process, asked over loopback.

They need packages that are not ours: the nox session `clients` has them, elsewhere these tests are
not collected.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.support.serving import write_files

PACKAGES = ["fastapi", "httpx", "hypercorn", "litestar", "quart_trio", "starlette", "uvicorn"]

if not all(map(find_spec, PACKAGES)):
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "opens_nothing: the server needs no file for it")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    write_files(path)
    return path
