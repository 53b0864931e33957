"""What `install` swaps: AnyIO's and Trio's functions, and what serves them instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ._swap import Swap, copy_of

# The major versions whose functions are known, of the packages that have them.
TARGETS = {"anyio": 4, "trio": 0, "to_thread": 4}
PACKAGES = {"anyio": "anyio", "trio": "trio", "to_thread": "anyio"}

# Of a `Swap`: name, function, implementation, perhaps what is quick
Pieces = Iterator[tuple[Any, ...]]


def version_of(target: str) -> str:
    """The version of the target's package that is installed."""
    try:
        return version(PACKAGES[target])
    except PackageNotFoundError:  # it was made a part of something else
        return "of unknown version"


def version_obstacle(target: str) -> str | None:
    """Why this version cannot be served; None if it can."""
    found = re.match(r"\d+", version_of(target))
    if found is not None and int(found[0]) == TARGETS[target]:
        return None
    return f"only versions {TARGETS[target]}.* are known"


def swaps_of(target: str) -> list[Swap]:
    """All that is to be swapped, in the order of the documentation.

    :raises AttributeError: one of the functions is not there
    :raises ImportError: the package is not installed
    """
    pieces = {"anyio": _of_anyio, "trio": _of_trio, "to_thread": _of_to_thread}[target]
    return [Swap(*piece) for piece in pieces()]


def wrapped_obstacle(target: str, swap: Swap) -> str | None:
    """Whether the name leads to somebody else's function by now, whose body is his."""
    package = PACKAGES[target]
    module = getattr(swap.function, "__globals__", {}).get("__name__", package)
    if module.partition(".")[0] == package:
        return None
    return f"{swap.name} has been replaced by a function of {module}"


# -- AnyIO ----------------------------------------------------------------------------------------


def _of_anyio() -> Pieces:
    import anyio
    import anyio.streams.file as streams

    from ._open import open_file, open_quickly
    from ._path import Path
    from ._spooled import SpooledTemporaryFile
    from ._streams import FileReadStream, FileWriteStream
    from ._temporary import (
        NamedTemporaryFile,
        TemporaryDirectory,
        TemporaryFile,
        mkdtemp,
        mkstemp,
    )

    yield "anyio.open_file", anyio.open_file, open_file, open_quickly
    yield from _path_methods("anyio.Path", anyio.Path, Path)

    yield from _methods("anyio.TemporaryFile", anyio.TemporaryFile, TemporaryFile, "__aenter__")
    leave = copy_of(vars(anyio.NamedTemporaryFile)["__aexit__"])

    async def enter_named(self: Any) -> Any:
        served = NamedTemporaryFile(**self._params)
        self._async_file = await served.__aenter__()
        self._anyio_uring = served
        return self._async_file

    async def leave_named(self: Any, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        served = vars(self).pop("_anyio_uring", None)
        if served is None or served._async_file is not self._async_file:  # entered without us
            await leave(self, exc_type, exc_value, traceback)
        else:
            await served.__aexit__(exc_type, exc_value, traceback)

    named = vars(anyio.NamedTemporaryFile)
    yield "anyio.NamedTemporaryFile.__aenter__", named["__aenter__"], enter_named
    yield "anyio.NamedTemporaryFile.__aexit__", named["__aexit__"], leave_named

    spooled = anyio.SpooledTemporaryFile
    stay = copy_of(vars(spooled)["rollover"])

    async def roll_over(self: Any) -> None:
        if type(self) is spooled and not self._rolled:
            SpooledTemporaryFile.adopt(self)
            await self.rollover()
        else:
            await stay(self)

    yield "anyio.SpooledTemporaryFile.rollover", vars(spooled)["rollover"], roll_over
    yield from _methods(
        "anyio.TemporaryDirectory",
        anyio.TemporaryDirectory,
        TemporaryDirectory,
        *("__aenter__", "__aexit__", "cleanup"),
    )
    yield "anyio.mkstemp", anyio.mkstemp, mkstemp
    yield "anyio.mkdtemp", anyio.mkdtemp, mkdtemp

    for kind, ours in (
        (streams.FileReadStream, FileReadStream),
        (streams.FileWriteStream, FileWriteStream),
    ):
        name = f"anyio.streams.file.{kind.__name__}.from_path"
        function = vars(kind)["from_path"].__func__
        yield name, function, _from_path(kind, ours, copy_of(function))


def _from_path(kind: Any, ours: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """The class method that opens a stream; a subclass's own methods may want a plain file."""

    async def read(cls: Any, path: Any) -> Any:
        return await (ours.from_path(path) if cls is kind else original(cls, path))

    async def write(cls: Any, path: Any, append: bool = False) -> Any:
        return await (ours.from_path(path, append) if cls is kind else original(cls, path, append))

    return write if "append" in original.__code__.co_varnames else read


def _of_to_thread() -> Pieces:
    from anyio import to_thread

    from ._served import quickly, serving

    function = to_thread.run_sync
    yield "anyio.to_thread.run_sync", function, serving(copy_of(function)), quickly


# -- Trio -----------------------------------------------------------------------------------------


def _of_trio() -> Pieces:
    import trio

    from . import trio as ours

    yield "trio.open_file", trio.open_file, ours.open_file
    yield from _path_methods("trio.Path", trio.Path, ours.Path)


# -- what both have -------------------------------------------------------------------------------


def _methods(title: str, theirs: type, ours: type, *names: str) -> Pieces:
    for name in names:
        yield f"{title}.{name}", vars(theirs)[name], vars(ours)[name]


def _path_methods(title: str, theirs: type, ours: type) -> Pieces:
    """The methods that our class has and theirs too (it depends on the version of Python)."""
    for name, method in vars(ours).items():
        if name in vars(theirs) and not name.startswith("__"):
            yield f"{title}.{name}", vars(theirs)[name], method
