"""Copy a directory with all that is in it, several files at a time.

    python examples/copytree.py [--into-existing] SOURCE TARGET

A bar on a terminal, nothing in a pipe.  Each file appears under its name when it is complete: what
Ctrl-C leaves behind is whole.  Exit code 1 if something could not be copied, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import shutil
import sys

import anyio

import anyio_uring

WIDTH = 40


class Bar:
    """How many of the entries have been copied."""

    def __init__(self, total: int) -> None:
        self.total = max(total, 1)

    def __call__(self, entries: int, size: int) -> None:
        filled = min(WIDTH * entries // self.total, WIDTH)
        bar = "#" * filled + "." * (WIDTH - filled)
        print(f"\r[{bar}] {entries} of {self.total}, {size >> 20} MiB", end="", file=sys.stderr)


async def count(source: anyio_uring.Path) -> int:
    entries = 0
    async for _ in source.rglob("*"):
        entries += 1
    return entries


async def main(source: str, target: str, into_existing: bool) -> int:
    bar, failures = None, list[str]()
    if sys.stderr.isatty():
        bar = Bar(await count(anyio_uring.Path(source)))
    try:
        await anyio_uring.copy_tree(source, target, dirs_exist_ok=into_existing, progress=bar)
    except shutil.Error as error:
        for _, path, reason in error.args[0]:
            failures.append(f"{path}: {reason}")
    except OSError as error:
        failures.append(str(error))
    finally:
        if bar is not None:
            print(file=sys.stderr)
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument(
        "--into-existing", action="store_true", help="TARGET may exist; its files are replaced"
    )
    arguments = parser.parse_args()
    try:
        sys.exit(anyio.run(main, arguments.source, arguments.target, arguments.into_existing))
    except KeyboardInterrupt:
        sys.exit(130)
