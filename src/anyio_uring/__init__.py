"""Asynchronous files for AnyIO, Trio and asyncio programs, served by io_uring.

>>> import anyio, anyio_uring
>>> async def main():
...     async with await anyio_uring.open_file("/etc/passwd", "rb", buffering=0) as f:
...         return await f.read(4)
>>> anyio.run(main)
b'root'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _private
from ._errors import UringUnavailableError
from ._file import AsyncFile
from ._info import DriverInfo, driver_info
from ._open import open_file, wrap_file
from ._runtime import Statistics, statistics
from ._settings import Settings, configure, current_settings

if TYPE_CHECKING:
    from ._atomic import atomic_write
    from ._batch import iter_files, read_files, stat_files
    from ._copy import copy_file
    from ._install import Installation, InstallError, install
    from ._path import Path
    from ._remove import remove_tree
    from ._spooled import SpooledTemporaryFile
    from ._streams import FileReadStream, FileWriteStream
    from ._temporary import (
        NamedTemporaryFile,
        TemporaryDirectory,
        TemporaryFile,
        gettempdir,
        gettempdirb,
        mkdtemp,
        mkstemp,
    )
    from ._trees import copy_tree
    from ._writes import write_files

__version__ = "0.1.0"

__all__ = [
    "AsyncFile",
    "DriverInfo",
    "FileReadStream",
    "FileWriteStream",
    "InstallError",
    "Installation",
    "NamedTemporaryFile",
    "Path",
    "Settings",
    "SpooledTemporaryFile",
    "Statistics",
    "TemporaryDirectory",
    "TemporaryFile",
    "UringUnavailableError",
    "__version__",
    "atomic_write",
    "configure",
    "copy_file",
    "copy_tree",
    "current_settings",
    "driver_info",
    "gettempdir",
    "gettempdirb",
    "install",
    "iter_files",
    "mkdtemp",
    "mkstemp",
    "open_file",
    "read_files",
    "remove_tree",
    "stat_files",
    "statistics",
    "wrap_file",
    "write_files",
]

# Imported when they are asked for, as AnyIO does: `tempfile` and AnyIO's streams behind them would
# cost every program as much as all the rest.
_LATE = {
    "FileReadStream": "_streams",
    "FileWriteStream": "_streams",
    "InstallError": "_install",
    "Installation": "_install",
    "NamedTemporaryFile": "_temporary",
    "Path": "_path",
    "SpooledTemporaryFile": "_spooled",
    "TemporaryDirectory": "_temporary",
    "TemporaryFile": "_temporary",
    "atomic_write": "_atomic",
    "copy_file": "_copy",
    "copy_tree": "_trees",
    "gettempdir": "_temporary",
    "gettempdirb": "_temporary",
    "install": "_install",
    "iter_files": "_batch",
    "mkdtemp": "_temporary",
    "mkstemp": "_temporary",
    "read_files": "_batch",
    "remove_tree": "_remove",
    "stat_files": "_batch",
    "write_files": "_writes",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


def _backend(library: str) -> Any:
    from ._backends import backend_class

    return backend_class(library)


# For ``anyio.run(main, backend="asyncio_uring")``; nothing is made before that.
_private.offer_backend("asyncio_uring", lambda: _backend("asyncio"))
_private.offer_backend("trio_uring", lambda: _backend("trio"))
