"""Where io_uring, descriptors, locked memory or kernel workers are refused, files work the same.

One selection of the file tests runs in a child without a restriction, then in a child under each;
the same tests must pass, less `RING_ONLY`.  The children run the column `auto`, the one that users
have, whether there is a ring or not (``ANYIO_URING_EXPECT=restricted``).

Everything is done to the child alone: other programs on the machine keep their io_uring.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.seccomp import cannot_filter, run_filtered

from anyio_uring import _probe

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not _probe.probe().available, reason="needs io_uring, to take it away"),
    pytest.mark.timeout(600),  # on a busy machine,
]

ROOT = Path(__file__).parents[2]
SELECTION = (
    "tests/io/test_kernel_offset.py",
    "tests/io/test_order.py",
    "tests/io/test_positional.py",
    "tests/io/test_tiers.py",
    "tests/buffered/test_coherence.py",
    "tests/buffered/test_differential.py",
    "tests/buffered/test_errors_of_callers.py",
)
CELLS = "(asyncio-auto or trio-auto) and not debug"
LEAST = 90  # so many tests at least: a selection that finds nothing proves nothing

# Tests that pass only where a ring serves, as node ids without the cell, and why.
RING_ONLY = {
    "tests/buffered/test_coherence.py::"
    "test_cancelled_line_is_not_kept_if_it_is_older_than_a_pwrite": (
        "cancels a read that the server holds; a thread cannot be called back"
    ),
    "tests/io/test_kernel_offset.py::test_direct_reads_follow_each_other": (
        "reads with O_DIRECT; os.read gives no aligned memory"
    ),
    "tests/io/test_kernel_offset.py::test_direct_writes_follow_each_other": (
        "marked with those reads"
    ),
    "tests/io/test_kernel_offset.py::test_direct_append_ends_behind_what_it_wrote": (
        "marked with those reads"
    ),
    "tests/io/test_tiers.py::test_write_is_served_by_the_ring_or_a_thread": (
        "counts what the ring served"
    ),
    "tests/io/test_tiers.py::test_evicted_data_is_read_by_the_ring_or_a_thread": (
        "counts what the ring served"
    ),
}
# Tests that open more files at once than the tiny limit allows.
MANY_DESCRIPTORS = {
    "tests/io/test_tiers.py::"
    "test_files_closed_in_a_row_are_closed_once_each_with_and_without_a_turn": "150 files",
}

ALL_CALLS = ("io_uring_setup", "io_uring_enter", "io_uring_register")


def without_cell(test: str) -> str:
    return test.partition("[")[0]


@dataclass(frozen=True)
class Restriction:
    """`prelude` is run in the child before anything else; `blocked` are system calls that fail."""

    driver: str | None  # None: that depends on the kernel
    words: tuple[str, ...] = ()  # of the reason and the remedy
    blocked: dict[str, int] = field(default_factory=dict)
    prelude: str = ""
    selection: tuple[str, ...] = SELECTION
    unfit: tuple[str, ...] = ()  # tests that cannot pass here, whatever serves


LIMIT = "import resource\nresource.setrlimit(resource.{name}, ({limit}, {limit}))\n"

# Root may lock what it likes: take that capability from the bounding set, and with the program
# that is executed next it is gone.
LOCK_NOTHING = (
    LIMIT.format(name="RLIMIT_MEMLOCK", limit=0)
    + """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14
if "LOCKED_DOWN" not in os.environ:
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)
    os.execve(sys.executable, sys.orig_argv, os.environ | {"LOCKED_DOWN": "1"})
"""
)

# The sysctl is the whole machine's: to set it for a moment takes the ring from other programs.
# To a process it means EPERM and a number to read, so that is what the child gets.
SWITCHED_OFF = """
from anyio_uring import _probe
_probe.disabled_by_sysctl = lambda: 2
"""

# To the kernel its workers and Python's threads are the same.  The limit is below what runs
# already, so that nothing more can be made, and lifted while Python starts a thread or a program.
NO_WORKERS = """
import os, subprocess, threading
{limit}
set_limit(True)
start, run = threading.Thread.start, subprocess.Popen.__init__
def start_without_limit(thread):
    set_limit(False)
    try:
        start(thread)
    finally:
        set_limit(True)
def run_without_limit(process, *args, **kwargs):
    set_limit(False)
    try:
        run(process, *args, **kwargs)
        let_go(process.pid)
    finally:
        set_limit(True)
threading.Thread.start = start_without_limit
subprocess.Popen.__init__ = run_without_limit
"""
BY_CGROUP = """
from pathlib import Path
group, home = Path({group!r}), Path({home!r})
(group / "cgroup.procs").write_text(str(os.getpid()))
def set_limit(on):
    (group / "pids.max").write_text("1" if on else "max")
def let_go(pid):
    (home / "cgroup.procs").write_text(str(pid))
"""
BY_RLIMIT = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
def set_limit(on):
    resource.setrlimit(resource.RLIMIT_NPROC, (1 if on else hard, hard))
def let_go(pid):
    pass  # it has the limit of the moment
"""

RESTRICTIONS = {
    "docker's profile": Restriction(
        "thread", ("io_uring_setup", "EPERM", "seccomp"), dict.fromkeys(ALL_CALLS, errno.EPERM)
    ),
    "no such call": Restriction(
        "thread", ("io_uring_setup", "ENOSYS", "gVisor"), dict.fromkeys(ALL_CALLS, errno.ENOSYS)
    ),
    "setup without enter": Restriction(
        "thread", ("io_uring_enter", "EPERM", "seccomp"), {"io_uring_enter": errno.EPERM}
    ),
    "setup without register": Restriction(
        "thread", ("io_uring_register", "EPERM", "seccomp"), {"io_uring_register": errno.EPERM}
    ),
    "sysctl": Restriction(
        "thread",
        ("EPERM", "kernel.io_uring_disabled is 2"),
        dict.fromkeys(ALL_CALLS, errno.EPERM),
        prelude=SWITCHED_OFF,
        selection=(),  # as docker's profile
    ),
    "few descriptors": Restriction(
        "uring",
        prelude=LIMIT.format(name="RLIMIT_NOFILE", limit=64),
        unfit=tuple(MANY_DESCRIPTORS),
    ),
    "no locked memory": Restriction(None, prelude=LOCK_NOTHING),
    "no kernel workers": Restriction(
        "uring",
        prelude=NO_WORKERS,
        # The kernel tries for some 50 ms to make a worker, in each loop: not all of them
        selection=(
            "tests/io/test_order.py",
            "tests/io/test_tiers.py",
            "tests/buffered/test_errors_of_callers.py",
        ),
        unfit=tuple(RING_ONLY),
    ),
}


def run(code: str, blocked: dict[str, int]) -> subprocess.CompletedProcess[str]:
    return run_filtered(code, blocked, env={"ANYIO_URING_EXPECT": "restricted"}, timeout=300)


def answer(restriction: Restriction, code: str) -> Any:
    result = run(restriction.prelude + code, restriction.blocked)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def info_of(restriction: Restriction) -> tuple[str, str]:
    """The driver in a child, and the reason and remedy."""
    driver, words = answer(
        restriction,
        "\nimport json, anyio_uring\ninfo = anyio_uring.driver_info()\n"
        "print(json.dumps([info.driver, info.reason + '. ' + info.remedy]))",
    )
    return driver, words


def passed(restriction: Restriction, folder: Path, without: Iterable[str] = ()) -> set[str]:
    """The tests of the selection that pass in a child, in which none may fail."""
    arguments = [
        *("-q", "-rpfE", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={folder}"),
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
        *("--rootdir", str(ROOT), "-k", CELLS, "--timeout=60"),
        *(f"--deselect={test}" for test in without),
        *(str(ROOT / path) for path in restriction.selection),
    ]
    code = f"{restriction.prelude}\nimport sys, pytest\nsys.exit(pytest.main({arguments!r}))"
    result = run(code, restriction.blocked)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    return {line.split(" ", 1)[1] for line in lines if line.startswith("PASSED ")}


@pytest.fixture(scope="module")
def unrestricted(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return passed(Restriction("uring"), tmp_path_factory.mktemp("unrestricted") / "tests")


def current_cgroup(mount: Path, controller: str) -> Path:
    """Where this process is in a hierarchy: `controller` names one of version 1, "" is version 2's.

    From inside a container the path may lead nowhere; then the top is all that can be seen.
    """
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (mount / path.lstrip("/")).is_dir():
            return mount / path.lstrip("/")
    return mount


@contextmanager
def pids_cgroup() -> Iterator[tuple[Path, Path] | None]:
    """A new cgroup with a pids controller, of either version, and the one to return to.

    None if none can be made.
    """
    for mount, controller in ((Path("/sys/fs/cgroup/pids"), "pids"), (Path("/sys/fs/cgroup"), "")):
        try:
            group = Path(tempfile.mkdtemp(prefix="anyio_uring-", dir=mount))
        except OSError:
            continue
        try:
            if (group / "pids.max").exists():
                yield group, current_cgroup(mount, controller)
                return
        finally:
            group.rmdir()
    yield None


@pytest.fixture(params=RESTRICTIONS)
def restriction(request: pytest.FixtureRequest) -> Iterator[Restriction]:
    found = RESTRICTIONS[request.param]
    if found.blocked and (obstacle := cannot_filter()):
        pytest.skip(obstacle)
    if found.prelude != NO_WORKERS:
        yield found
        return
    with pids_cgroup() as made:
        if made is None and os.geteuid() == 0:
            pytest.skip("no cgroup can be made, and root is not subject to RLIMIT_NPROC")
        limit = BY_RLIMIT
        if made is not None:
            limit = BY_CGROUP.format(group=str(made[0]), home=str(made[1]))
        yield replace(found, prelude=found.prelude.format(limit=limit))


# The kernel refuses the same to every Python: the oldest is asked all of it, the others a part.
OLDEST = (3, 11)
FOR_ALL = ("docker's profile", "no kernel workers")


@pytest.mark.parametrize(
    "restriction",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                sys.version_info[:2] != OLDEST and name not in FOR_ALL,
                reason="shown with the oldest Python",
            ),
        )
        for name, found in RESTRICTIONS.items()
        if found.selection
    ],
    indirect=True,
)
def test_restricted_process_passes_the_same_file_tests(
    restriction: Restriction, unrestricted: set[str], tmp_path: Path
) -> None:
    assert len(unrestricted) >= LEAST
    driver, _ = info_of(restriction)
    without = {*restriction.unfit, *(RING_ONLY if driver == "thread" else ())}
    here = passed(restriction, tmp_path / "tests", without)
    expected = {test for test in unrestricted if test.startswith(restriction.selection)}
    print(f"{driver}: {len(here)} of {len(expected)} pass")
    assert here == {test for test in expected if without_cell(test) not in without}


def test_restricted_process_names_the_cause(restriction: Restriction) -> None:
    driver, words = info_of(restriction)
    assert restriction.driver in (driver, None)
    assert [word for word in restriction.words if word not in words] == []
    if restriction.driver is None:
        assert driver == "uring" or "ENOMEM" in words
        assert driver == "uring" or "RLIMIT_MEMLOCK is too small: raise it" in words


def test_lists_of_tests_left_out_are_up_to_date(unrestricted: set[str]) -> None:
    assert {*RING_ONLY, *MANY_DESCRIPTORS} - {without_cell(test) for test in unrestricted} == set()


def test_lack_of_descriptors_names_the_limit_and_passes() -> None:
    code = """
import json, os, platform, anyio_uring, anyio_uring._uring
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
lacking = anyio_uring.driver_info()
for fd in taken:
    os.close(fd)
print(json.dumps([lacking.driver, lacking.reason, lacking.remedy,
                  anyio_uring.driver_info().driver]))
"""
    driver, reason, remedy, later = answer(RESTRICTIONS["few descriptors"], code)
    assert (driver, later) == ("thread", "uring")
    assert "EMFILE" in reason
    assert "RLIMIT_NOFILE" in remedy


@pytest.mark.parametrize("restriction", ["no kernel workers"], indirect=True)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_lack_of_kernel_workers_costs_one_attempt_and_passes(
    restriction: Restriction, backend: str, tmp_path: Path
) -> None:
    code = f"""
import json, anyio, anyio_uring
from anyio_uring import _workers, testing
now = 0.0
_workers.monotonic = lambda: now
async def main():
    global now
    async with await anyio_uring.open_file({str(tmp_path / "file")!r}, "w+b", 0) as file:
        written = await file.write(b"abc" * 100_000)
        await file.fsync()
        data = await file.pread(300_000, 0)
        counts = anyio_uring.statistics()
        set_limit(False)
        with anyio.fail_after(30):
            while "fsync" not in anyio_uring.statistics().operations:
                now += _workers.ASK_SECONDS
                await file.fsync()
    print(json.dumps([written, data == b"abc" * 100_000, counts.driver, counts.workers,
                      counts.ring_refused, counts.thread >= 4]))
with testing.force_tiers("ring"):
    anyio.run(main, backend={backend!r})
"""
    assert answer(restriction, code) == [300_000, True, "uring", 0, 1, True]
