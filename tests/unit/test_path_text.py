"""`path_text`: what `str` says of a path, whoever has asked before."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from anyio_uring._handle import path_text


class Loud(type(pathlib.Path())):  # type: ignore[misc]
    def __str__(self) -> str:
        return super().__str__().upper()


@pytest.mark.parametrize("asked", [False, True], ids=["new", "asked"])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: pathlib.Path("file"), "file"),
        (pathlib.Path, "."),
        (lambda: pathlib.PurePosixPath("file"), "file"),
        (lambda: Loud("file"), "FILE"),
        (lambda: "file", "file"),
        (lambda: 1, "1"),
    ],
    ids=["path", "here", "pure", "subclass", "str", "number"],
)
def test_it_is_what_str_says(make: Callable[[], Any], text: str, asked: bool) -> None:
    path = make()
    if asked:
        assert str(path) == text
    assert path_text(path) == text
    assert type(path_text(path)) is str


def test_what_a_path_keeps_is_given() -> None:
    path = pathlib.Path("file")
    kept = str(path)
    assert path_text(path) is kept
