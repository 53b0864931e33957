"""examples/checksum.py, run as its users run it."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "checksum.py"
COMMAND = [sys.executable, str(SCRIPT)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "small").write_bytes(b"small")
    (root / "empty").touch()
    (root / "sub" / "big").write_bytes(os.urandom(9_000_001))
    (root / "sub" / "deeper" / "line\nbreak \\ back").write_bytes(b"odd")
    (root / "sub" / os.fsdecode(b"no utf-8 \xff")).write_bytes(b"name")
    (root / "link").symlink_to("small")
    (root / "out").symlink_to("/etc")
    os.mkfifo(root / "fifo")
    return root


def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, timeout=60)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_accepts_it(tree: Path, tmp_path: Path) -> None:
    result = run(tree)
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(result.stdout.splitlines()) == 5
    (tmp_path / "SUMS").write_bytes(result.stdout)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SUMS"], cwd=tmp_path, check=True)


def test_order_of_the_arguments_and_errors(tree: Path) -> None:
    result = run(tree / "sub" / "big", tree / "none", tree / "small")
    assert result.returncode == 1
    assert result.stdout.decode().splitlines() == [
        f"{hashlib.sha256((tree / name).read_bytes()).hexdigest()}  {tree / name}"
        for name in ("sub/big", "small")
    ]
    assert result.stderr.decode() == f"{tree / 'none'}: No such file or directory\n"


def test_reader_that_goes_away(tree: Path) -> None:
    for number in range(3000):
        (tree / f"{number}").touch()
    with subprocess.Popen(
        [*COMMAND, tree], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(60) == 1


def test_bar_on_a_terminal(tree: Path) -> None:
    leader, terminal = pty.openpty()
    with open(leader, "rb", 0) as shown, open(terminal, "wb", 0) as stderr:
        subprocess.run([*COMMAND, tree], stdout=subprocess.DEVNULL, stderr=stderr, check=True)
        assert b"5 files, 8 MiB" in shown.read(1000)


def test_interrupted(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(
        [*COMMAND, fifo], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        writer = os.open(fifo, os.O_WRONLY)  # until the example has opened it
        child.send_signal(signal.SIGINT)
        out, error = child.communicate(timeout=60)
        os.close(writer)
    assert (child.returncode, out, error) == (130, b"", b"")
