"""Download a file as the clients of web services do: each piece of it written as it arrives.

    python examples/download.py URL TARGET

`anyio.Path.open` is AnyIO's own; one line has it served by io_uring.  The pieces are gathered in
memory and written in blocks, so most of them cost no trip to the kernel.
"""

import sys

import anyio
import httpx

import anyio_uring

anyio_uring.install()

PIECE = 512


async def main(url: str, target: str) -> None:
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", url) as response,
        await anyio.Path(target).open("wb") as file,
    ):
        response.raise_for_status()
        async for piece in response.aiter_bytes(PIECE):
            await file.write(piece)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
