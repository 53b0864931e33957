"""One participant in a process of its own: waits for orders, works, answers with the time it took.

Started by `cell.py`, which writes orders to its input, a JSON object in each line, and reads the
answers from its output.  While one participant works, the others wait for a line: the event loop
of those stands still.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio

import anyio_uring
import on_files
import on_paths
from rows import FULL, QUICK, ROWS, Material
from work import AnyIO, Ours, Work

KEYS = ("sync", "anyio", "ours", "blocked")
HOSTS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
SYNC = on_files.SYNC | on_paths.SYNC
ASYNC = on_files.ASYNC | on_paths.ASYNC


def answer(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def tiers() -> dict[str, int]:
    """Operations so far by the tier that served them; those that ended in a buffer are in none."""
    counts = anyio_uring.statistics()
    now = counts.now + counts.now_opened + counts.now_closed
    return {
        "now": max(now - counts.helped, 0),
        "helper": counts.helped,
        "ring": counts.ring - counts.ring_refused,
        "thread": counts.thread,
        "ring of a thread": counts.by_ring,
    }


async def obey(measure: Callable[[int], Awaitable[float]], work: Work, *, ours: bool) -> None:
    """Do as told until there are no more orders."""
    answer(ready=True)
    for line in sys.stdin:
        order = json.loads(line)
        work.rewind()
        if "calibrate" in order:
            answer(count=await calibrate(measure, work, order["calibrate"]))
            continue
        before = tiers() if ours else {}
        seconds = await measure(order["count"])
        after = tiers() if ours else {}
        driver = anyio_uring.statistics().driver if ours else ""
        served = {tier: after[tier] - before[tier] for tier in after}
        answer(seconds=seconds, tiers=served, driver=driver)


async def calibrate(measure: Callable[[int], Awaitable[float]], work: Work, seconds: float) -> int:
    """How many operations take so many seconds; doing them warms up as well."""
    most, least = work.material.most(work.row), max(work.row.tasks, work.row.least)
    count = min(least * 4, most)
    await measure(count)
    while True:
        took = await measure(count)
        if took >= seconds / 4:
            # Once may have been a hiccup
            took = min(took, await measure(count))
        if took >= seconds / 4 or count == most:
            return max(min(int(count * seconds / max(took, 1e-9)), most), min(least, most))
        count = min(count * 4, most)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("key", choices=KEYS)
    parser.add_argument("host", choices=HOSTS)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    row = ROWS[arguments.row]
    work = Work(row, Material(arguments.folder, QUICK if arguments.quick else FULL))
    ours = arguments.key in ("ours", "blocked")

    async def measure_sync(count: int) -> float:
        return SYNC[row.kind](work, count)

    measure: Callable[[int], Awaitable[float]]
    if arguments.key == "sync":
        measure = measure_sync
    else:
        measure = partial(ASYNC[row.kind], Ours if ours else AnyIO, work)
    try:
        anyio.run(partial(obey, measure, work, ours=ours), **HOSTS[arguments.host])
    except BrokenPipeError:
        os._exit(1)  # nobody is there any more
    except Exception as error:  # noqa: BLE001 - whoever gave the order tells the user
        answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
