"""The commonest call, a path and "rb", has a way of its own: what is nearly that has another one,
and nobody can tell.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.conftest import Tiers

import anyio_uring
from anyio_uring import _open
from anyio_uring._handle import COMPILED

pytestmark = pytest.mark.anyio


class Name(str):
    __slots__ = ()


class PathLike:
    """Counts how often it is asked."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.asked = 0

    def __fspath__(self) -> str:
        self.asked += 1
        return self.path


def entry(path: str) -> os.DirEntry[str]:
    with os.scandir(os.path.dirname(path)) as entries:
        return next(each for each in entries if each.path == path)


NAMES: dict[str, Callable[[str], Any]] = {
    "str": str,
    "subclass": Name,
    "bytes": os.fsencode,
    "pathlib": Path,
    "anyio": anyio.Path,
    "ours": anyio_uring.Path,
    "entry": entry,
    "descriptor": lambda path: os.open(path, os.O_RDONLY),
    "missing": lambda path: path + "-missing",
    "missing pathlib": lambda path: Path(path + "-missing"),
    "below a file": lambda path: path + "/x",
    "directory": os.path.dirname,
    "null": lambda path: path + "\0",
    "null in pathlib": lambda path: Path(path + "\0"),
    "no file has it": lambda path: path + "\ud800",
    "empty": lambda path: "",
    "none": lambda path: None,
    "float": lambda path: 1.5,
}


def told(error: BaseException, given: list[Any]) -> tuple[Any, ...]:
    return (
        type(error),
        str(error),
        getattr(error, "errno", None),
        getattr(error, "filename", None),
        given,
    )


def given(caught: list[warnings.WarningMessage]) -> list[tuple[Any, str, str]]:
    """The warnings, each with the file that it points at."""
    return [(each.category, str(each.message), each.filename) for each in caught]


def of_open(file: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with open(file, *args, **options) as opened:
                return opened.name, opened.mode, opened.read(), given(caught)
        except Exception as error:  # noqa: BLE001 (it is what is being compared)
            return told(error, given(caught))


async def of_ours(file: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            async with await anyio_uring.open_file(file, *args, **options) as opened:
                return opened.name, opened.mode, await opened.read(), given(caught)
        except Exception as error:  # noqa: BLE001 (it is what is being compared)
            return told(error, given(caught))


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "f").write_bytes(b"some\r\ndata")
    return str(tmp_path / "f")


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("args", [("rb",), ("rb", -1), ("r",)])
async def test_names(tiers: Tiers, path: str, kind: str, args: tuple[Any, ...]) -> None:
    make = NAMES[kind]
    theirs, ours = of_open(make(path), *args), await of_ours(make(path), *args)
    if kind == "descriptor":
        assert theirs[1:] == ours[1:]  # two of them
    else:
        assert ours == theirs
        assert type(ours[0]) is type(theirs[0])


async def test_path_likes_are_asked_twice_at_the_most(tiers: Tiers, path: str) -> None:
    ours = PathLike(path)
    async with await anyio_uring.open_file(ours, "rb") as file:
        assert await file.read() == b"some\r\ndata"
    assert ours.asked <= 2  # the checks of the arguments, and the opening


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "br"},
        {"mode": Name("rb")},
        {"mode": "r"},
        {"mode": "rt"},
        {"mode": "rb+"},
        {"mode": "rbb"},
        {"mode": b"rb"},
        {"mode": "rb", "buffering": 0},
        {"mode": "rb", "buffering": 1},
        {"mode": "rb", "buffering": True},
        {"mode": "rb", "buffering": -1.0},
        {"mode": "rb", "buffering": -2},
        {"mode": "rb", "buffering": 1 << 80},
        {"mode": "rb", "buffering": None},
        {"mode": "rb", "encoding": ""},
        {"mode": "rb", "encoding": "utf-8"},
        {"mode": "rb", "errors": ""},
        {"mode": "rb", "newline": ""},
        {"mode": "rb", "newline": 1},
        {"mode": "rb", "closefd": False},
        {"mode": "rb", "closefd": 0},
        {"mode": "rb", "closefd": 1},
        {"mode": "rb", "opener": os.open},
        {"mode": "rb", "opener": 1},
    ],
    ids=str,
)
async def test_arguments(tiers: Tiers, path: str, options: dict[str, Any]) -> None:
    theirs, ours = of_open(path, **options), await of_ours(path, **options)
    if (
        options.get("buffering") == 1 << 80
    ):  # which of C's types it is too large for is all the same
        assert ours[0] is theirs[0] is OverflowError
    else:
        assert ours == theirs


async def test_limiter_is_kept(tiers: Tiers, path: str) -> None:
    limiter = anyio.CapacityLimiter(1)
    async with await anyio_uring.open_file(path, "rb", limiter=limiter) as file:
        assert file.limiter is limiter
    with pytest.raises(TypeError, match="limiter must be"):
        await anyio_uring.open_file(path, "rb", limiter=1)  # type: ignore[call-overload]


@pytest.mark.tiers("auto")
@pytest.mark.skipif(not COMPILED, reason="the step is compiled")
async def test_it_is_opened_in_one_step(
    tiers: Tiers, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that all of this is about is the one taken."""
    async with await anyio_uring.open_file(path, "rb"):
        pass  # the loop is known from now on
    monkeypatch.delattr(_open, "check_arguments")
    for given_path in (path, Path(path)):
        async with await anyio_uring.open_file(given_path, "rb") as file:
            assert await file.read() == b"some\r\ndata"
            assert file.name == path
    with pytest.raises(FileNotFoundError) as caught:
        await anyio_uring.open_file(path + "-missing", "rb")
    assert caught.value.filename == path + "-missing"
