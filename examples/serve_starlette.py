"""Starlette sends files: FileResponse and StaticFiles, read with io_uring by one line.

    FOLDER=/srv/files uvicorn --app-dir examples serve_starlette:app
    cd examples && FOLDER=/srv/files hypercorn --worker-class trio serve_starlette:app

/files/NAME and /static/NAME send a file of FOLDER, /statistics says what served it.
"""

import os
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import anyio_uring

anyio_uring.install()

FOLDER = Path(os.environ.get("FOLDER", "."))


async def file(request: Request) -> Response:
    name: str = request.path_params["name"]
    if not await anyio.Path(FOLDER, name).is_file():
        raise HTTPException(404)
    return FileResponse(FOLDER / name)


async def statistics(request: Request) -> Response:
    found = anyio_uring.statistics()
    return JSONResponse({**found._asdict(), "operations": dict(found.operations)})


app = Starlette(
    routes=[
        Route("/files/{name}", file),
        Route("/statistics", statistics),
        Mount("/static", StaticFiles(directory=FOLDER)),
    ]
)
