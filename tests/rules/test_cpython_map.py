"""Every test that CPython has of files is answered: by tests of ours, or by a reason."""

from __future__ import annotations

import ast
import sysconfig
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MAP: dict[str, dict[str, Any]] = tomllib.loads(
    (ROOT / "tests" / "cpython" / "map.toml").read_text("utf-8")
)
REASONS = MAP.pop("reasons")
MODULES = ("test_io", "test_fileio", "test_file", "test_bufio", "test_univnewlines")


def names_of(body: list[ast.stmt]) -> Iterator[str]:
    """What the statements of a class body define that is a test."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = [node.name]
        elif isinstance(node, ast.Assign):
            found = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.If | ast.With | ast.Try):
            found = [*names_of(node.body), *names_of(getattr(node, "orelse", []))]
        else:
            found = []
        yield from (name for name in found if name.startswith("test"))


def defined_tests(source: str, module: str) -> dict[str, set[str]]:
    """The tests that each class of a module defines itself."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and (names := set(names_of(node.body))):
            found.setdefault(f"{module}.{node.name}", set()).update(names)
    return found


def python_tests() -> dict[str, set[str]]:
    """The same of the running interpreter's own tests, which few distributions install."""
    directory = Path(sysconfig.get_path("stdlib")) / "test"
    found: dict[str, set[str]] = {}
    for module in MODULES:
        package = directory / module
        sources = sorted(package.glob("test_*.py")) if package.is_dir() else []
        for path in sources or [directory / f"{module}.py"]:
            if path.exists():
                found.update(defined_tests(path.read_text("utf-8"), module))
    return found


def gaps(tests: dict[str, set[str]], known: dict[str, dict[str, Any]]) -> list[str]:
    """Tests that the map does not answer."""
    return [
        f"{name}.{test}"
        for name, found in tests.items()
        for test in sorted(found)
        if test not in known.get(name, {})
    ]


@lru_cache
def own_tests(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def wrong_answer(answer: object) -> str | None:
    """What is wrong with an answer, or None."""
    answers = answer if isinstance(answer, list) else [answer]
    if not answers:
        return "says nothing"
    for each in answers:
        if not isinstance(each, str):
            return f"is no name: {each!r}"
        file, colons, test = each.partition("::")
        if not colons:
            if each not in REASONS:
                return f"is no reason: {each!r}"
        elif not (ROOT / file).is_file() or test not in own_tests(ROOT / file):
            return f"does not exist: {each}"
    return None


def test_each_test_of_this_python_is_in_the_map() -> None:
    tests = python_tests()
    if not tests:
        pytest.skip("this Python was installed without its own tests")
    assert len(tests) > 20
    assert not gaps(tests, MAP)


def test_each_answer_is_a_test_of_ours_or_a_reason() -> None:
    wrong = [
        f"{name}.{test} {problem}"
        for name, answers in MAP.items()
        for test, answer in answers.items()
        if (problem := wrong_answer(answer))
    ]
    assert not wrong


def test_each_reason_is_needed() -> None:
    used = {
        answer for answers in MAP.values() for answer in answers.values() if isinstance(answer, str)
    }
    assert not set(REASONS) - used


def test_gap_and_wrong_answer_are_found() -> None:
    source = "class T:\n    def test_a(self): ...\n    if 1:\n        def test_b(self): ...\n"
    source += "    test_c = 1"
    tests = defined_tests(source, "m")
    assert tests == {"m.T": {"test_a", "test_b", "test_c"}}
    assert gaps(tests, {"m.T": {"test_a": ""}}) == ["m.T.test_b", "m.T.test_c"]
    assert gaps(tests, {}) == ["m.T.test_a", "m.T.test_b", "m.T.test_c"]
    here = "tests/rules/test_cpython_map.py::"
    assert wrong_answer([here + "test_gap_and_wrong_answer_are_found"]) is None
    for answer in (here + "test_nothing", "tests/nothing.py::test_a", "nothing", [], 5):
        assert wrong_answer(answer)
