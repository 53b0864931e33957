"""Modes of ``open``: what a mode string means, with the messages of ``builtins.open``."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple


class Mode(NamedTuple):
    """A parsed mode.

    :ivar flags: those of open(2)
    :ivar raw_name: the `mode` attribute of an unbuffered file, as `io.FileIO` spells it
    :ivar audit_name: the mode as the audit event ``open`` tells it
    """

    creating: bool
    reading: bool
    writing: bool
    appending: bool
    updating: bool
    binary: bool
    flags: int
    raw_name: str
    audit_name: str
    direct: bool = False


def parse_mode(mode: str) -> Mode:
    """Parse a mode string.

    :raises TypeError: not a string
    :raises ValueError: not a mode; the texts are those of ``builtins.open``
    """
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {_type_name(mode)}")
    return _parse(mode)


@lru_cache(maxsize=64)
def _parse(mode: str) -> Mode:
    if "\0" in mode:
        raise ValueError("embedded null character")
    letters = set(mode)
    if letters - set("axrwb+t") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    creating, reading, writing, appending, updating = (letter in letters for letter in "xrwa+")
    binary = "b" in letters
    if "t" in letters and binary:
        raise ValueError("can't have text and binary mode at once")
    if creating + reading + writing + appending != 1:
        raise ValueError(
            "must have exactly one of create/read/write/append mode"
            if creating + reading + writing + appending > 1
            else "Must have exactly one of create/read/write/append mode and at most one plus"
        )
    if updating:
        flags = os.O_RDWR
    else:
        flags = os.O_RDONLY if reading else os.O_WRONLY
    if creating:
        flags |= os.O_CREAT | os.O_EXCL
    elif writing:
        flags |= os.O_CREAT | os.O_TRUNC
    elif appending:
        flags |= os.O_CREAT | os.O_APPEND
    flags |= getattr(os, "O_CLOEXEC", 0)
    letter = "x" if creating else "a" if appending else "w" if writing and not updating else "r"
    raw_name = letter + ("b+" if updating else "b")
    audit_name = "w+" if writing and updating else raw_name.replace("b", "")
    return Mode(
        creating, reading, writing, appending, updating, binary, flags, raw_name, audit_name
    )


def _type_name(value: object) -> str:
    return "None" if value is None else type(value).__name__
