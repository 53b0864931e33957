"""Mode strings: what they mean, and what is wrong with the others."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import pytest

from anyio_uring._modes import parse_mode

LETTERS = "rwaxbt+U"


def told(mode: str) -> tuple[type[BaseException], str] | None:
    """What builtins.open finds wrong with a mode; None if it takes it.

    A descriptor that is not open ends it before anything is created.
    """
    try:
        open(9999, mode).close()
    except OSError:
        return None
    except ValueError as error:
        return type(error), str(error)
    raise AssertionError


def test_each_combination_of_letters_is_judged_as_open_does() -> None:
    taken = refused = 0
    for length in range(5):
        for letters in itertools.product(LETTERS, repeat=length):
            mode = "".join(letters)
            expected = told(mode)
            found = None
            try:
                parse_mode(mode)
            except ValueError as error:
                found = type(error), str(error)
            assert found == expected, mode
            refused += found is not None
            taken += found is None
    assert taken > 50
    assert refused > 1000


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("rb", os.O_RDONLY),
        ("r+b", os.O_RDWR),
        ("wb", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ("w+b", os.O_RDWR | os.O_CREAT | os.O_TRUNC),
        ("ab", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ("a+b", os.O_RDWR | os.O_CREAT | os.O_APPEND),
        ("xb", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        ("x+b", os.O_RDWR | os.O_CREAT | os.O_EXCL),
    ],
)
def test_flags_and_name_are_those_of_fileio(mode: str, flags: int, tmp_path: Path) -> None:
    given = []

    def opener(path: str, flags: int) -> int:
        given.append(flags)
        return os.open(path, flags | os.O_CREAT)

    parsed = parse_mode(mode)
    with io.FileIO(tmp_path / mode, mode, opener=opener) as oracle:
        assert parsed.raw_name == oracle.mode
    assert parsed.flags == given[0] == flags | os.O_CLOEXEC
    assert parsed.binary


@pytest.mark.parametrize("mode", [None, 1, b"rb", ["r"], object()])
def test_mode_that_is_no_string_is_a_type_error(mode: object) -> None:
    with pytest.raises(TypeError) as expected:
        open(9999, mode)  # type: ignore[call-overload]  # noqa: SIM115
    with pytest.raises(TypeError) as caught:
        parse_mode(mode)  # type: ignore[arg-type]
    assert str(caught.value) == str(expected.value)
