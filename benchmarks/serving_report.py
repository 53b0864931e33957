"""The table of `serving.py` in words: on the terminal while it is measured, and as Markdown."""

from __future__ import annotations

from typing import Any

from report import short

CACHED = {
    "stack": "---",
    "route": "---",
    "size": "--:",
    "files": "---",
    "requests/s": "--:",
    "p99 ms": "--:",
    "/plain": "--:",
    "/direct": "--:",
    "aim": "--:",
    "reached": "---",
    "served by": "---",
}
COLD = {
    "stack": "---",
    "files": "---",
    "cold files/s": "--:",
    "p99 ms, idle": "--:",
    "p99 ms, busy": "--:",
    "busy/idle": "--:",
    "warm/idle": "--:",
    "served by": "---",
}


def _ratio(ratio: list[float]) -> str:
    middle, least, greatest = ratio
    return f"{middle:.2f} ({least:.2f}-{greatest:.2f})"


def cells(line: dict[str, Any]) -> list[str]:
    """A line of the table."""
    if "idle" in line:
        return [
            line["stack"],
            line["participant"],
            short(line["rate"]),
            f"{line['idle'] * 1e3:.2f}",
            f"{line['busy'] * 1e3:.2f}",
            _ratio(line["to_idle"]),
            _ratio(line["warm_to_idle"]),
            line["served_by"],
        ]
    return [
        line["stack"],
        line["route"],
        line["size"],
        line["participant"],
        short(line["rate"]),
        f"{line['p99'] * 1e3:.0f}" if line["p99"] else "-",
        _ratio(line["to_plain"]),
        _ratio(line["to_direct"]),
        f"{line['aim']:.1f}" if line["aim"] else "",
        line["reached"],
        line["served_by"],
    ]


def terminal(line: dict[str, Any]) -> str:
    heads = COLD if "idle" in line else CACHED
    widths = (max(len(head), 18 if "/" in head and "/s" not in head else 9) for head in heads)
    pairs = zip(cells(line), widths, strict=True)
    return " ".join(f"{cell:>{width}}" for cell, width in pairs)


def summary(report: dict[str, Any]) -> list[str]:
    """How many of what is aimed at is reached."""
    aimed = [line for line in report["lines"] if line.get("aim")]
    missed = [line for line in aimed if line["reached"].startswith("NO")]
    texts = [f"{len(aimed) - len(missed)} of {len(aimed)} aims are reached."] if aimed else []
    texts += [f"FAILED: {text}" for text in report["failed"]] + report["notes"]
    return [*texts, f"{report['seconds']:.0f} s"]


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    intro = (
        f"anyio_uring {report['anyio_uring']}, Python {report['python']}, AnyIO {report['anyio']},"
        f" Starlette {report['starlette']}, uvicorn {report['uvicorn']}, {report['kernel']},"
        f" {report['cpus']} processors; {report['file_system']}; {report['driver']}:"
        f" {report['reason']} {report['rounds']} interleaved rounds of {report['seconds_each']} s,"
        f" asked by {report['load']}; ratios as median (least-greatest)."
    )
    heads = COLD if report["cold"] else CACHED
    rows = [list(heads), list(heads.values()), *map(cells, report["lines"])]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- {text}" for text in summary(report))
    return f"{intro}\n\n{table}\n\n{notes}\n"
