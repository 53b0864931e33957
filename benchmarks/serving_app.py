"""The server that `serving.py` asks: Starlette under uvicorn, with its files served in some way.

    python benchmarks/serving_app.py VARIANT STACK FOLDER

It prints its port, then serves until it is ended.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import anyio_uring

STACKS = {
    "h11": {"loop": "asyncio", "http": "h11"},
    "httptools": {"loop": "uvloop", "http": "httptools"},
}


class DirectFile:
    """As little of a file as Starlette needs, called in the coroutine."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def read(self, size: int) -> bytes:
        return self._file.read(size)

    async def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    async def aclose(self) -> None:
        self._file.close()


async def open_directly(path: str, mode: str) -> DirectFile:
    return DirectFile(open(path, mode))


async def run_directly(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def choose(variant: str) -> None:
    """Have files served in this way: as they are, by us, or without leaving the coroutine."""
    if variant == "install":
        anyio_uring.install(strict=True)
    elif variant == "to_thread":
        options: dict[str, Any] = {"to_thread": True}  # not every version has it
        anyio_uring.install(strict=True, **options)
    elif variant == "direct":
        vars(anyio)["open_file"] = open_directly
        vars(anyio.to_thread)["run_sync"] = run_directly
    elif variant != "plain":
        sys.exit(f"serving_app.py: no {variant!r} among plain, install, to_thread, direct")


def application(folder: Path) -> Starlette:
    async def file(request: Request) -> Response:
        return FileResponse(folder / request.path_params["name"])

    async def memory(request: Request) -> Response:
        return PlainTextResponse("in memory")

    async def statistics(request: Request) -> Response:
        found = anyio_uring.statistics()
        threads = [thread.name for thread in threading.enumerate()]
        return JSONResponse(
            {**found._asdict(), "operations": dict(found.operations), "threads": threads}
        )

    return Starlette(
        routes=[
            Route("/files/{name}", file),
            Route("/memory", memory),
            Route("/statistics", statistics),
            Mount("/static", StaticFiles(directory=folder)),
        ]
    )


def main(variant: str, stack: str, folder: Path) -> None:
    choose(variant)
    # When the time is over the load goes away in the middle, and asyncio warns of each send
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    # Named, as asyncio sets TCP_NODELAY on connections of such a socket only
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    options: dict[str, Any] = {"access_log": False, "log_level": "warning", **STACKS[stack]}
    server = uvicorn.Server(uvicorn.Config(application(folder), **options))
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
