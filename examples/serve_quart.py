"""Quart on Trio sends files, with io_uring by one line.

    cd examples && FOLDER=/srv/files hypercorn --worker-class trio serve_quart:app

/files/NAME sends a file of FOLDER, /statistics says what served it.
"""

import os
from pathlib import Path
from typing import Any

from quart import Response, send_from_directory
from quart_trio import QuartTrio

import anyio_uring

anyio_uring.install(trio=True)

FOLDER = Path(os.environ.get("FOLDER", "."))

app = QuartTrio(__name__)


@app.get("/files/<name>")
async def file(name: str) -> Response:
    return await send_from_directory(FOLDER, name, conditional=True)


@app.get("/statistics")
async def statistics() -> dict[str, Any]:
    found = anyio_uring.statistics()
    return {**found._asdict(), "operations": dict(found.operations)}
