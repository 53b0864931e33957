"""Litestar sends files: a File response and a router of static files, with io_uring by one line.

    FOLDER=/srv/files uvicorn --app-dir examples serve_litestar:app

/files/NAME and /static/NAME send a file of FOLDER, /statistics says what served it.
"""

import os
from pathlib import Path
from typing import Any

import anyio
from litestar import Litestar, get
from litestar.exceptions import NotFoundException
from litestar.response import File
from litestar.static_files import create_static_files_router

import anyio_uring

anyio_uring.install()

FOLDER = Path(os.environ.get("FOLDER", "."))


@get("/files/{name:str}")
async def file(name: str) -> File:
    if not await anyio.Path(FOLDER, name).is_file():
        raise NotFoundException
    return File(FOLDER / name, filename=name)


@get("/statistics")
async def statistics() -> dict[str, Any]:
    found = anyio_uring.statistics()
    return {**found._asdict(), "operations": dict(found.operations)}


app = Litestar([file, statistics, create_static_files_router("/static", [FOLDER])])
