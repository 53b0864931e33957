"""How much longer `import anyio_uring` takes than `import anyio`, which it needs anyway.

Each import is a process of its own, in turns, with bytecode written.  Noise only adds to a time:
the least of each is the truest, and the median says how noisy it was.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

ANYIO = "import anyio; anyio.open_file"
OURS = f"{ANYIO}; import anyio_uring; anyio_uring.open_file"
AIM_MS = 15


def milliseconds(statements: str, cache: str) -> float:
    """What a new interpreter needs for some statements."""
    script = f"import time; t = time.perf_counter(); {statements}; print(time.perf_counter() - t)"
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="processes of each (default: 40)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as cache:
        milliseconds(OURS, cache)  # writes the bytecode
        anyio, ours = [], []
        for _ in range(rounds):
            anyio.append(milliseconds(ANYIO, cache))
            ours.append(milliseconds(OURS, cache))
    for name, pick in ("least", min), ("median", statistics.median):
        extra = pick(ours) - pick(anyio)
        print(f"{name}: anyio {pick(anyio):.1f} ms, anyio_uring {extra:.1f} ms more")
    print(f"aim: at most {AIM_MS} ms more")


if __name__ == "__main__":
    main()
