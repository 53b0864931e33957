"""``python -m anyio_uring run``: a program with `anyio_uring.install` in force."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

from ._install import VARIABLE, install, targets_of

USAGE = 2
EPILOG = f"""\
examples:
  python -m anyio_uring run server.py --port 8000
  python -m anyio_uring run -m uvicorn app:app

What is served: AnyIO's files, or what {VARIABLE} says: 1 for AnyIO's, or a list
of 'anyio' and 'trio'; 0 for nothing.  A process that the program starts
has to install it by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments on `parser`."""
    parser.epilog = EPILOG
    parser.usage = "%(prog)s [-h] (SCRIPT | -m MODULE) [ARGUMENT ...]"
    parser.add_argument(
        "-m",
        dest="module",
        metavar="MODULE",
        nargs=argparse.REMAINDER,
        help="a module, as 'python -m' runs it, and its arguments",
    )
    parser.add_argument(
        "script",
        metavar="SCRIPT",
        nargs=argparse.REMAINDER,
        help="a file, as 'python' runs it, and its arguments",
    )


def main(arguments: argparse.Namespace) -> int:
    """Run it; what it raises and how it exits is its own affair."""
    words = arguments.module or arguments.script
    if not words:
        print("run: say what: a script, or -m and a module", file=sys.stderr)
        return USAGE
    try:
        targets = targets_of(os.environ.get(VARIABLE, "1"))
    except ValueError as error:
        print(f"run: {error}", file=sys.stderr)
        return USAGE
    name = words[0]
    sys.argv = list(words)
    with install(**targets):
        if arguments.module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            if not os.path.exists(name):
                print(f"run: can't open file {name!r}", file=sys.stderr)
                return USAGE
            if not os.path.isdir(name):  # which runpy puts there by itself
                sys.path[0] = os.path.dirname(os.path.abspath(name))
            runpy.run_path(name, run_name="__main__")
    return 0
