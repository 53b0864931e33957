"""One cell of the table: its participants, each a process, taking turns round by round."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from anyio_uring._bench_material import cached_share, drop
from places import held
from rows import ANYIO_LEAST, FULL, Material, Row

# What is written there makes the kernel forget.
CACHES = Path("/proc/sys/vm/drop_caches")
# An answer that takes longer will not come.
ANSWER_SECONDS_MAX = 60.0
# Of a cold file, more than this in memory before a measurement is told.
CACHED_SHARE_MAX = 0.05

_HERE = Path(__file__).resolve().parent
# As a program, this forbids system calls to itself and becomes another program.
_FILTER = _HERE.parent / "tests" / "support" / "seccomp.py"
_EPERM = 1
_BLOCKED = dict.fromkeys(("io_uring_setup", "io_uring_enter", "io_uring_register"), _EPERM)


class ParticipantError(Exception):
    """A participant did not do what it was told."""


def filtered(command: list[str]) -> list[str]:
    """This command, run where io_uring is refused by a seccomp filter, as containers do it."""
    return [sys.executable, str(_FILTER), json.dumps(_BLOCKED), *command]


def cannot_block() -> str | None:
    """Why io_uring cannot be blocked here, or None."""
    if not _FILTER.exists():
        return f"{_FILTER} is missing: run this from a checkout or an unpacked sdist"
    command = filtered([sys.executable, "-c", ""])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"


class Participant:
    """A process that runs `participant.py`."""

    def __init__(self, key: str, command: list[str]) -> None:
        self.key = key
        self.count = 0
        # A group of its own: Ctrl-C is for the one that cleans up.
        self._process = subprocess.Popen(
            filtered(command) if key == "blocked" else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def order(self, **what: Any) -> dict[str, Any]:
        """Give an order and wait for what comes of it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ParticipantError(f"{self.key}: ended early") from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # There is never more than one line on its way, so none waits in the buffer
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(ANSWER_SECONDS_MAX):
                raise ParticipantError(f"{self.key}: no answer in {ANSWER_SECONDS_MAX:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ParticipantError(f"{self.key}: ended with code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise ParticipantError(f"{self.key}: {found['error']}")
        return found

    def dismiss(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratios of two participants' rates, one a round."""

    middle: float
    least: float
    greatest: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Ratio:
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))

    def verdict(self, target: float | None) -> str:
        """Whether the median reaches the target, and in doubt if not all rounds agree."""
        if target is None:
            return ""
        doubt = "?" if self.least < target <= self.greatest else ""
        return ("yes" if self.middle >= target else "NO") + doubt


@dataclass(slots=True)
class Measured:
    """What a cell found: a list for each participant, one item a round."""

    counts: dict[str, int]
    rates: dict[str, list[float]]
    tiers: dict[str, dict[str, int]]
    cached: float | None = None

    def served_by(self, key: str) -> str:
        """The tiers, in the order of what they did."""
        total = sum(self.tiers[key].values())
        parts = sorted(self.tiers[key].items(), key=lambda part: -part[1])
        texts = [f"{tier} {count / total:.0%}" for tier, count in parts if count >= total / 200]
        return ", ".join(texts) if total else "buffer"

    def lines(self, row: Row, host: str, place: str) -> Iterator[dict[str, Any]]:
        """For each form of ours a line of the table, as plain values."""
        for key in ("ours", "blocked"):
            if key not in self.rates:
                continue
            to_sync = Ratio.of(self.rates[key], self.rates["sync"])
            to_anyio = Ratio.of(self.rates[key], self.rates["anyio"])
            # Without io_uring there is but one aim: not to be slower than AnyIO
            target = row.target_on(host) if key == "ours" else None
            rates = {"sync": "sync", "anyio": "anyio", "ours": key}
            yield {
                "place": place,
                "host": host,
                "row": row.key,
                "title": row.title,
                "participant": key,
                **{f"{name}_rate": median(self.rates[who]) for name, who in rates.items()},
                **{f"{name}_rates": self.rates[who] for name, who in rates.items()},
                **{f"{name}_operations": self.counts[who] for name, who in rates.items()},
                "to_sync": to_sync.middle,
                "to_sync_spread": [to_sync.least, to_sync.greatest],
                "target": target,
                "reached": to_sync.verdict(target),
                "to_anyio": to_anyio.middle,
                "to_anyio_spread": [to_anyio.least, to_anyio.greatest],
                "not_slower": to_anyio.verdict(ANYIO_LEAST),
                "tiers": self.tiers[key],
                "served_by": self.served_by(key),
                "cached": self.cached,
            }

    def in_doubt(self, row: Row, host: str) -> list[str]:
        """What falls short although some rounds do not, in words."""
        without = {"ours": "", "blocked": " with io_uring blocked"}
        return [
            f"{line[ratio]:.2f} of {other}{without[line['participant']]}"
            for line in self.lines(row, host, "")
            for ratio, verdict, other in (
                ("to_sync", "reached", "sync"),
                ("to_anyio", "not_slower", "AnyIO"),
            )
            if line[verdict] == "NO?"
        ]


@contextmanager
def participants(
    row: Row, host: str, material: Material, *, blocked: bool
) -> Iterator[list[Participant]]:
    """Start them, and end them whatever happens."""
    keys = ["sync", "anyio", "ours"] + ["blocked"] * blocked
    options = [] if material.amounts == FULL else ["--quick"]
    script, folder = str(_HERE / "participant.py"), str(material.large.parent)
    with ExitStack() as stack:
        crew = []
        for key in keys:
            command = [sys.executable, script, key, host, row.key, folder, *options]
            with held():
                crew.append(Participant(key, command))
                stack.callback(crew[-1].dismiss)
        for participant in crew:
            participant.answer()
        yield crew


def measure(
    row: Row, host: str, material: Material, *, seconds: float, rounds: int, blocked: bool
) -> Measured:
    """Fix the work of each, then let them take turns.

    :raises ParticipantError: one of them failed
    """
    with participants(row, host, material, blocked=blocked) as crew:
        found = Measured({}, {}, {})
        for participant in crew:
            _prepare(row, material)
            participant.count = participant.order(calibrate=seconds)["count"]
            found.counts[participant.key] = participant.count
            found.rates[participant.key] = []
            found.tiers[participant.key] = {}
        for turn in range(rounds):
            first = turn % len(crew)
            for participant in crew[first:] + crew[:first]:
                _let(participant, row, material, found)
    return found


def _let(participant: Participant, row: Row, material: Material, found: Measured) -> None:
    """Let one participant do its work once."""
    cached = _prepare(row, material)
    if cached is not None:
        found.cached = max(found.cached or 0.0, cached)
    key = participant.key
    answer = participant.order(count=participant.count)
    if key == "blocked" and answer["driver"] != "thread":
        raise ParticipantError(f"blocked: io_uring was there, the driver is {answer['driver']}")
    found.rates[key].append(participant.count / max(answer["seconds"], 1e-9))
    for tier, count in answer["tiers"].items():
        found.tiers[key][tier] = found.tiers[key].get(tier, 0) + count


def forget(paths: list[Path]) -> bool:
    """Have the files cold: their pages and all else that the kernel has cached; False: it takes
    root, and more than a container has.
    """
    for path in paths:
        drop(path)
    try:
        CACHES.write_text("3")
    except OSError:
        return False
    return True


def _prepare(row: Row, material: Material) -> float | None:
    """Have the file cold where it is to be; the share of it that is in memory all the same."""
    if not row.cold:
        return None
    if row.forget:
        if not forget(material.small):
            raise ParticipantError("the kernel's caches cannot be dropped: it takes root")
        return None
    drop(material.large)
    return cached_share(material.large)
