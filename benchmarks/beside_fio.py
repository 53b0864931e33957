"""`pread_many` of 4 KiB with O_DIRECT beside fio's io_uring engine at the same depth.

``python benchmarks/beside_fio.py [DIR]``; README.md says how to read it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import anyio

import anyio_uring
import places
from participant import HOSTS
from rows import FULL, QUICK, ROWS, Material

OK, FAILED = 0, 1
DEPTH, PAGE = 128, 4096
# So many ranges in one call: as many as are in flight, and all have to end before the next call;
# many times that, the next of which begin when the first ones end, as fio's do; or all of the file
LISTS = (DEPTH, 16 * DEPTH, 128 * DEPTH)
FIO = {"fio": False, "fio, 32 a call": True}
clock = time.perf_counter


def fio_rate(fio: str, file: Path, seconds: float, batch: bool) -> float:
    command = [
        fio, "--name=randread", f"--filename={file}", "--readonly", "--rw=randread",
        "--ioengine=io_uring", "--direct=1", f"--bs={PAGE}", f"--iodepth={DEPTH}",
        "--time_based", f"--runtime={max(round(seconds * 1000), 1)}ms", "--output-format=json",
    ]  # fmt: skip
    if batch:  # many reads with one system call, as ours
        command += ["--iodepth_batch_submit=32", f"--iodepth_batch_complete_max={DEPTH}"]
    found: dict[str, Any] = json.loads(subprocess.check_output(command))
    return float(found["jobs"][0]["read"]["iops"])


async def our_rate(material: Material, offsets: list[int], length: int, seconds: float) -> float:
    requests = [(PAGE, offset) for offset in offsets]
    async with await anyio_uring.open_file(material.large, "rb", 0, direct=True) as file:
        count, start, took = 0, clock(), 0.0
        pages: list[bytes] = []
        while took < seconds:
            first = count % len(requests)
            pages = await file.pread_many(requests[first : first + length])
            count += len(pages)
            took = clock() - start
    material.check_page(requests[(count - 1) % len(requests)][1], pages[-1])
    return count / took


def measure(fio: str, material: Material, rounds: int, seconds: float) -> None:
    offsets = material.pages(ROWS["cold_128"])  # all of the file
    hosts = [name for name in HOSTS if name == "asyncio" or importlib.util.find_spec(name)]
    work: dict[str, Callable[[], float]] = {
        title: partial(fio_rate, fio, material.large, seconds, batch)
        for title, batch in FIO.items()
    }
    for host in hosts:
        for length in LISTS:
            run = partial(anyio.run, our_rate, material, offsets, length, seconds, **HOSTS[host])
            work[f"{host}, {length} a call"] = run
    rates: dict[str, list[float]] = {title: [] for title in work}
    for number in range(rounds):
        first = number % len(work)
        for title in [*work, *work][first : first + len(work)]:
            rates[title].append(work[title]())
    print(f"{'':22} {'reads/s':>8}   " + "   ".join(f"{'of ' + title:20}" for title in FIO))
    for title, found in rates.items():
        columns = []
        for other in FIO:
            shares = [mine / theirs for mine, theirs in zip(found, rates[other], strict=True)]
            spread = f"({min(shares):.2f}-{max(shares):.2f})"
            columns.append(f"{median(shares):.2f} {spread:15}")
        print(f"{title:22} {median(found) / 1e3:7.1f}k   " + "   ".join(columns))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.5, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="whether it runs, not how fast")
    arguments = parser.parse_args()
    fio = shutil.which("fio")
    if fio is None:
        print("fio is not installed (apt-get install fio)", file=sys.stderr)
        return FAILED
    anyio_uring.configure(inflight_max=DEPTH)
    with places.folder_in(arguments.directory) as folder:
        material = Material(folder, QUICK if arguments.quick else FULL)
        material.write()
        info = anyio_uring.driver_info(folder)
        if info.driver != "uring":
            print(f"there is no io_uring to compare: {info.reason}", file=sys.stderr)
            return FAILED
        print(f"{info.file_system}, O_DIRECT, {PAGE} bytes, {DEPTH} in flight")
        try:
            if arguments.quick:
                measure(fio, material, 1, 0.01)
            else:
                measure(fio, material, arguments.rounds, arguments.seconds)
        except subprocess.CalledProcessError as error:
            print(f"fio failed: {error}\n{error.output.decode()}", file=sys.stderr)
            return FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())
