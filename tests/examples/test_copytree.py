"""examples/copytree.py, run as its users run it."""

from __future__ import annotations

import filecmp
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "copytree.py"
COMMAND = [sys.executable, str(SCRIPT)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "small").write_bytes(b"small")
    (root / "sub" / "big").write_bytes(os.urandom(3_000_001))
    (root / "sub" / "deeper" / "last").touch()
    (root / "link").symlink_to("small")
    return root


def same(one: Path, other: Path) -> bool:
    found = filecmp.dircmp(one, other)
    return not (found.left_only or found.right_only or found.diff_files or found.funny_files) and (
        all(same(one / name, other / name) for name in found.common_dirs)
    )


def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, timeout=60)


def test_copies(tree: Path, tmp_path: Path) -> None:
    result = run(tree, tmp_path / "copy")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert same(tree, tmp_path / "copy")
    assert os.readlink(tmp_path / "copy" / "link") == "small"
    result = run(tree, tmp_path / "copy")
    assert result.returncode == 1
    assert b"File exists" in result.stderr
    (tmp_path / "copy" / "link").unlink()  # as shutil, it replaces files only
    assert run("--into-existing", tree, tmp_path / "copy").returncode == 0


def test_what_cannot_be_copied_is_named(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "fifo")
    result = run(tree, tmp_path / "copy")
    assert result.returncode == 1
    assert b"fifo" in result.stderr
    os.unlink(tree / "fifo")
    assert same(tree, tmp_path / "copy")


def test_bar_on_a_terminal(tree: Path, tmp_path: Path) -> None:
    leader, terminal = pty.openpty()
    with open(leader, "rb", 0) as shown, open(terminal, "wb", 0) as stderr:
        subprocess.run([*COMMAND, tree, tmp_path / "copy"], stderr=stderr, check=True)
        assert b"of 6, 2 MiB" in shown.read(10_000)


def test_interrupted(tree: Path, tmp_path: Path) -> None:
    """Whenever it comes: what is there under a name of the tree is whole."""
    for number in range(200):
        (tree / f"{number:03}").write_bytes(bytes([number]) * 300_000)
    target = tmp_path / "copy"
    leader, terminal = pty.openpty()
    with (
        open(leader, "rb", 0) as shown,
        open(terminal, "wb", 0) as stderr,
        subprocess.Popen([*COMMAND, tree, target], stderr=stderr) as child,
    ):
        shown.read(1)  # it has begun
        child.send_signal(signal.SIGINT)
        assert child.wait(60) in (130, 0)
    for path in target.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tree / path.relative_to(target)).read_bytes()
