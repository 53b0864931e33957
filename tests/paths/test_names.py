"""`names`: as `os.scandir` in what it gives and refuses, and in what it tells audit hooks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.state import descriptors

from anyio_uring._entries import names
from anyio_uring._handle import COMPILED

pytestmark = pytest.mark.skipif(os.name != "posix", reason="names of bytes")

# As long as they may be, so that these are many times what is asked for at once.
MANY = [f"{number:0255}" for number in range(1000)]


def fill(folder: Path, entries: list[str]) -> list[str]:
    folder.mkdir()
    for name in entries:
        (folder / name).touch()
    return sorted(entries)


def test_names_are_all_there_but_the_two_of_each_directory(tmp_path: Path) -> None:
    odd = [".a", "..a", "...", ".\n", "-", " ", "\u00fc", os.fsdecode(b"\xff.\xfe")]
    made = fill(tmp_path / "odd", odd)
    assert sorted(names(str(tmp_path / "odd"))) == made == sorted(os.listdir(tmp_path / "odd"))
    assert sorted(names(str(tmp_path / "odd") + "/")) == made
    made = fill(tmp_path / "many", MANY)
    assert sorted(names(str(tmp_path / "many"))) == made
    assert list(names(str(tmp_path / "many"))) == os.listdir(tmp_path / "many")


@pytest.mark.parametrize(
    "wrong", ["none", "file", "file/below", "loop", "x" * 300, "", "no\0name", "\ud800", "closed"]
)
def test_error_is_that_of_scandir(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    Path("closed").mkdir(0)
    try:
        os.scandir(wrong).close()
    except Exception as error:  # noqa: BLE001  # whatever it is
        expected = error
    else:
        pytest.skip("root may list any directory")
    before = descriptors()
    with pytest.raises(type(expected)) as caught:
        names(wrong)
    assert type(caught.value) is type(expected)
    assert str(caught.value) == str(expected)
    assert caught.value.args == expected.args
    if isinstance(expected, OSError):
        assert vars_of(caught.value) == vars_of(expected)
    assert descriptors() == before


def vars_of(error: Any) -> tuple[Any, ...]:
    return error.errno, error.strerror, error.filename, error.filename2


def test_directory_that_is_removed_meanwhile_ends(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for take in 0, 1:
        made = fill(folder, MANY)
        found = names(str(folder))
        taken = [next(found) for _ in range(take)]
        shutil.rmtree(folder)
        taken += found
        assert len(set(taken)) == len(taken) < len(made)
        assert set(taken) <= set(made)
        assert next(found, None) is None


def test_closing_in_the_middle_leaves_nothing_open(tmp_path: Path) -> None:
    fill(tmp_path / "many", MANY)
    fill(tmp_path / "few", ["a", "b"])
    before = descriptors()
    found: Any = names(str(tmp_path / "many"))
    next(found)
    assert descriptors() != before
    for _ in range(2):
        found.close()
        assert next(found, None) is None
    assert descriptors() == before
    found = names(str(tmp_path / "many"))
    next(found)
    found.close()
    # What it had has one owner again
    first: Any = names(str(tmp_path / "few"))
    second: Any = names(str(tmp_path / "many"))
    taken = [next(first), next(second)]
    assert sorted([taken[0], *first]) == ["a", "b"]
    assert taken[1] in MANY
    if not COMPILED:
        second.close()  # os.scandir warns of what is dropped
    del first, second
    assert descriptors() == before


# -- audit ----------------------------------------------------------------------------------------

listening: list[Any] | None = None


def hook(event: str, args: tuple[Any, ...]) -> None:
    if listening is not None and event in {"os.scandir", "os.listdir"}:
        listening.append((event, *args))
        if args[0] == "forbidden":
            raise LookupError("not allowed")


@pytest.fixture
def events() -> Iterator[list[Any]]:
    global listening
    if not hook.__dict__:
        sys.addaudithook(hook)
        hook.__dict__["added"] = True
    listening = []
    yield listening
    listening = None


def told(events: list[Any], function: Callable[[], Any]) -> list[Any]:
    events.clear()
    try:
        function()
    except OSError:
        events.append("failed")
    return list(events)


def test_audit_event_is_that_of_scandir(tmp_path: Path, events: list[Any]) -> None:
    for path in str(tmp_path), str(tmp_path / "none"):
        expected = told(events, lambda path=path: os.scandir(path).close())  # type: ignore[misc]
        assert expected[0] == ("os.scandir", path)
        assert told(events, lambda path=path: list(names(path))) == expected  # type: ignore[misc]


def test_audit_hook_that_raises_prevents_the_opening(events: list[Any]) -> None:
    # There is no such directory, which nobody comes to know
    with pytest.raises(LookupError, match="not allowed"):
        names("forbidden")
