"""Fairness: do tasks that read cached data get equal shares, and does the loop stay on time?

``python benchmarks/fairness.py [--seconds S] [DIR]``; README.md has the method.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import tempfile
import time
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

import anyio_uring

SIZE = 4096
TASKS = [1, 16, 128, 1000]
TICK = 0.001
HOSTS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


async def tick(seconds: float) -> list[float]:
    """How late a sleep of TICK wakes up, again and again."""
    late = []
    end = time.perf_counter() + seconds
    before = time.perf_counter()
    while before < end:
        await anyio.sleep(TICK)
        now = time.perf_counter()
        late.append(now - before - TICK)
        before = now
    return late


async def turns(count: int = 3000) -> list[float]:
    """The processor's time between two turns of the loop: what another program does, it ignores."""
    spent = []
    before = time.thread_time()
    for _ in range(count):
        await checkpoint()
        now = time.thread_time()
        spent.append(now - before)
        before = now
    return spent


async def timeout_late() -> float:
    start = time.perf_counter()
    with anyio.move_on_after(0.1):
        await anyio.sleep_forever()
    return time.perf_counter() - start - 0.1


async def measure(path: str, tasks: int, seconds: float) -> dict[str, float]:
    counts = [0] * tasks

    async def read(number: int) -> None:
        while True:
            await file.pread(SIZE, 0)
            counts[number] += 1

    async with await anyio_uring.open_file(path, "rb", 0) as file:
        idle = sorted(await tick(seconds))
        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(read, number)
            await anyio.sleep(0.05)
            before = list(counts)
            start = time.perf_counter()
            busy = sorted(await tick(seconds))
            elapsed = time.perf_counter() - start
            done = [now - then for now, then in zip(counts, before, strict=True)]
            timeout = await timeout_late()
            turn = sorted(await turns())
            group.cancel_scope.cancel()
    return {
        "rate": sum(done) / elapsed,
        "ratio": max(done) / max(min(done), 1),
        "idle": idle[int(len(idle) * 0.99)],
        "busy": busy[int(len(busy) * 0.99)],
        "timeout": timeout,
        "turn": turn[int(len(turn) * 0.99)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", nargs="?", default=None)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    hosts = [name for name in HOSTS if name == "asyncio" or importlib.util.find_spec(name)]
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(dir=arguments.directory))
        file.write(os.urandom(SIZE))
        file.flush()
        print("best of", arguments.rounds, "rounds; times in ms, late; 4 KiB reads, cached")
        print(
            f"{'':14}{'k reads/s':>10}{'max/min':>9}{'idle p99':>10}{'p99':>8}{'more':>8}", end=""
        )
        print(f"{'0.1 s timeout':>15}{'CPU of a turn, p99':>20}")
        for host in hosts:
            for tasks in TASKS:
                results = [
                    anyio.run(measure, file.name, tasks, arguments.seconds, **HOSTS[host])
                    for _ in range(arguments.rounds)
                ]
                best = {name: min(result[name] for result in results) for name in results[0]}
                best["rate"] = max(result["rate"] for result in results)
                print(
                    f"{host:8}{tasks:6}{best['rate'] / 1e3:10.0f}{best['ratio']:9.2f}"
                    f"{best['idle'] * 1e3:10.2f}{best['busy'] * 1e3:8.2f}"
                    f"{(best['busy'] - best['idle']) * 1e3:8.2f}{best['timeout'] * 1e3:15.2f}"
                    f"{best['turn'] * 1e3:20.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
