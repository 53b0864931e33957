"""The table of states in ext/README.md is that of the code."""

from __future__ import annotations

import re
from pathlib import Path

EXT = Path(__file__).parents[2] / "ext"


def test_table_names_the_states_of_the_code() -> None:
    source = (EXT / "_uring.pyx").read_text(encoding="utf-8")
    enumeration = source.partition("# States of an operation")[2].partition("\n\n")[0]
    states = re.findall(r"^    _([A-Z]+) = \d+$", enumeration, re.MULTILINE)
    assert len(states) >= 4
    readme = (EXT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("### States")[2].partition("###")[0]
    assert re.findall(r"^\| `([A-Z]+)` \|", table, re.MULTILINE) == states
    transitions = readme.partition("### What leads where")[2].partition("###")[0]
    named = set(re.findall(r"`([A-Z]+)`", transitions))
    assert named == set(states)
