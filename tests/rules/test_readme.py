"""The programs of the README run, and print what the README says they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
PROGRAMS = BLOCK.findall(README.read_text())


def test_readme_has_a_program_for_anyio_and_one_for_trio() -> None:
    assert len(PROGRAMS) >= 2
    assert "anyio.run(" in PROGRAMS[0][0]
    assert any("trio.open_nursery" in code and "move_on_after" in code for code, _ in PROGRAMS)


@pytest.mark.parametrize("driver", ["auto", "thread"])
@pytest.mark.parametrize(("code", "output"), PROGRAMS)
def test_program_prints_what_is_shown(code: str, output: str, driver: str, tmp_path: Path) -> None:
    if "import trio" in code and find_spec("trio") is None:
        pytest.skip("needs trio")
    if "mkfifo" in code and not hasattr(os, "mkfifo"):
        pytest.skip("needs FIFOs")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"ANYIO_URING_DRIVER": driver},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == output
