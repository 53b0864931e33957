"""A pytest plugin: ``pytest --anyio-uring`` runs the tests with `anyio_uring.install` in force."""

from __future__ import annotations

import os

import pytest

from ._install import VARIABLE, Installation, install, targets_of

INSTALLATION = pytest.StashKey[Installation]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Define ``--anyio-uring``."""
    group = parser.getgroup("anyio_uring")
    group.addoption(
        "--anyio-uring",
        dest="anyio_uring",
        action="store_const",
        const="1",
        help="have AnyIO's files served by anyio_uring",
    )
    group.addoption(
        "--anyio-uring-targets",
        dest="anyio_uring",
        metavar="TARGETS",
        help="the same for a list of 'anyio', 'trio' and 'to_thread', 1 or 0 "
        f"(environment, without an option: {VARIABLE})",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Install, before the tests are imported."""
    wanted = config.getoption("anyio_uring")
    try:
        targets = targets_of(os.environ.get(VARIABLE, "0") if wanted is None else wanted)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if any(targets.values()):
        config.stash[INSTALLATION] = install(**targets)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave everything as it was."""
    installation = config.stash.get(INSTALLATION, None)
    if installation is not None:
        installation.uninstall()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that it is so, and what serves."""
    installation = config.stash.get(INSTALLATION, None)
    if installation is None:
        return None
    from ._info import driver_info

    targets = sorted(installation._served) or ["nothing"]
    info = driver_info()
    return f"anyio_uring: serves {', '.join(targets)}; driver {info.driver}: {info.reason}"
