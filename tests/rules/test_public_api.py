"""The public surface is what was agreed, is explained, and costs nothing to import."""

import inspect
import subprocess
import sys
from importlib.resources import files

import pytest

import anyio_uring

PUBLIC = [
    "AsyncFile",
    "DriverInfo",
    "FileReadStream",
    "FileWriteStream",
    "InstallError",
    "Installation",
    "NamedTemporaryFile",
    "Path",
    "Settings",
    "SpooledTemporaryFile",
    "Statistics",
    "TemporaryDirectory",
    "TemporaryFile",
    "UringUnavailableError",
    "__version__",
    "atomic_write",
    "configure",
    "copy_file",
    "copy_tree",
    "current_settings",
    "driver_info",
    "gettempdir",
    "gettempdirb",
    "install",
    "iter_files",
    "mkdtemp",
    "mkstemp",
    "open_file",
    "read_files",
    "remove_tree",
    "stat_files",
    "statistics",
    "wrap_file",
    "write_files",
]

CALLABLES = [name for name in PUBLIC if name != "__version__"]
# A doctest, a literal block or a code block.
EXAMPLE_MARKS = (">>> ", "::\n", ".. code-block::", ".. testcode::")

# Importing costs no thread, no descriptor and no event loop: what a run needs is made on first use.
SIDE_EFFECTS = """
import os, sys, threading

def resources():
    # Listing a folder opens it: its own descriptor is gone again when its link is read.
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink("/proc/self/fd/" + fd))
        except FileNotFoundError:
            pass
    return sorted(links), len(os.listdir("/proc/self/task"))

on_proc = os.path.isdir("/proc/self/task")
import anyio
anyio.AsyncFile, anyio.CapacityLimiter, anyio.to_thread  # AnyIO loads these when they are asked for
modules, threads = set(sys.modules), threading.active_count()
before = resources() if on_proc else None
import anyio_uring
for name in anyio_uring.__all__:
    getattr(anyio_uring, name)
loaded = set(sys.modules) - modules
families = {"asyncio", "trio", "uvloop"}
offered = {f"anyio._backends.{m}_uring" for m in ("_asyncio", "_trio")}  # by name: made later
loops = {m for m in loaded - offered if m.split(".")[0] in families or "_backends" in m}
assert not loops, f"imported {loops}"
assert threading.active_count() == threads
if on_proc:
    after = resources()
    assert after == before, f"{before} became {after}"
    assert not any("io_uring" in link or "eventfd" in link for link in after[0])
"""


def public_methods() -> list[tuple[str, str]]:
    """Name every public method that one of our public classes defines itself."""
    return [
        (name, attribute)
        for name in CALLABLES
        if inspect.isclass(getattr(anyio_uring, name, None))
        for attribute, value in vars(getattr(anyio_uring, name)).items()
        if not attribute.startswith("_") and callable(value)
    ]


def test_all_is_the_agreed_list() -> None:
    assert list(anyio_uring.__all__) == PUBLIC


def test_all_names_exist_and_nothing_public_is_missing_from_it() -> None:
    visible = {
        name
        for name, value in vars(anyio_uring).items()
        if not name.startswith("_")
        and str(getattr(value, "__module__", None)).split(".")[0] == "anyio_uring"
    }
    assert visible <= set(PUBLIC)
    assert [name for name in PUBLIC if not hasattr(anyio_uring, name)] == []


@pytest.mark.parametrize("name", CALLABLES)
def test_public_callable_has_a_docstring_with_an_example(name: str) -> None:
    doc = getattr(anyio_uring, name).__doc__
    assert doc, f"{name} has no docstring of its own"
    assert any(mark in doc for mark in EXAMPLE_MARKS), f"{name}'s docstring has no example"


@pytest.mark.parametrize(("name", "method"), public_methods())
def test_public_method_has_a_docstring(name: str, method: str) -> None:
    assert inspect.getdoc(getattr(getattr(anyio_uring, name), method))


def test_package_says_it_is_typed() -> None:
    assert files("anyio_uring").joinpath("py.typed").is_file()


def test_import_starts_no_thread_opens_no_ring_and_loads_no_event_loop() -> None:
    command = [sys.executable, "-W", "error", "-c", SIDE_EFFECTS]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
