"""An example's application as it is, and /-/state, which tells what its process holds and did.

Servers load this by name; the variable EXAMPLE names the module of the example, TIERS what may
serve it.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import anyio.to_thread
import trio

import anyio_uring
from anyio_uring.testing import force_tiers

example = import_module(os.environ["EXAMPLE"])
forced = force_tiers(*os.environ["TIERS"].split())
forced.__enter__()  # until the process ends
# What AnyIO or Trio was asked to do in a thread, by the name of the function
jobs: Counter[str] = Counter()


def counted(run_sync: Callable[..., Any]) -> Callable[..., Any]:
    async def count_and_run(function: Any, *arguments: Any, **options: Any) -> Any:
        named = function.func if isinstance(function, partial) else function
        named = named if hasattr(named, "__qualname__") else type(named)
        if not f"{named.__module__}.".startswith(
            "anyio."
        ):  # it was counted before AnyIO wrapped it
            jobs[named.__qualname__] += 1
        return await run_sync(function, *arguments, **options)

    return count_and_run


for module in (anyio.to_thread, trio.to_thread):
    vars(module)["run_sync"] = counted(vars(module)["run_sync"])


def state() -> dict[str, Any]:
    found = anyio_uring.statistics()
    files = []
    for name in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the one that listed the directory
    return {
        "statistics": {**found._asdict(), "operations": dict(found.operations)},
        "descriptors": files,
        "threads": [thread.name for thread in threading.enumerate()],
        "jobs": jobs,
    }


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http" or scope["path"] != "/-/state":
        await example.app(scope, receive, send)
        return
    body = json.dumps(state()).encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
