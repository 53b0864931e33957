"""FastAPI takes files and gives them back, with io_uring by one line.

    FOLDER=/srv/files uvicorn --app-dir examples serve_fastapi:app
    curl -F file=@/etc/services http://127.0.0.1:8000/files
    curl http://127.0.0.1:8000/files/services

/statistics says what served it.
"""

import os
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.responses import FileResponse

import anyio_uring

anyio_uring.install()

FOLDER = Path(os.environ.get("FOLDER", "."))
PIECE = 1 << 20

app = FastAPI()


@app.get("/files/{name}")
async def download(name: str) -> FileResponse:
    if not await anyio.Path(FOLDER, name).is_file():
        raise HTTPException(404)
    return FileResponse(FOLDER / name)


@app.post("/files", status_code=201)
async def upload(file: UploadFile) -> dict[str, Any]:
    name = Path(file.filename or "").name
    if not name:
        raise HTTPException(400, "a file without a name")
    size = 0
    async with await anyio.open_file(FOLDER / name, "wb") as target:
        while piece := await file.read(PIECE):
            size += await target.write(piece)
    return {"name": name, "size": size}


@app.get("/statistics")
async def statistics() -> dict[str, Any]:
    found = anyio_uring.statistics()
    return {**found._asdict(), "operations": dict(found.operations)}
