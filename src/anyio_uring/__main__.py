"""``python -m anyio_uring``: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__

# Command -> (one line for the list of commands).  Each is the module of the same name with an
# underscore, which has `add_arguments(parser)` and `main(arguments) -> int`; it is imported only
# when it is asked for, so that `doctor` starts where the others' needs are not met.  `run` is not
# argparse's affair.
COMMANDS = {
    "doctor": "say what serves files here, why, and what to do about what is missing",
    "run": "run a program with AnyIO's files served by anyio_uring, without changing a line of it",
    "bench": "measure it on real files: io_uring, threads, AnyIO and synchronous Python",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:  # whose words are another program's
        from ._run import main as run

        return run(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m anyio_uring",
        description="Asynchronous files on io_uring: find out how they are served, and how fast.",
        epilog="'python -m anyio_uring COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"anyio_uring {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if words[:1] == [name]:
            import_module(f"{__package__}._{name}").add_arguments(command)
    arguments = parser.parse_args(words)
    code: int = import_module(f"{__package__}._{arguments.command}").main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
