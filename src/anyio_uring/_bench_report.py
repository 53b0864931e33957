"""What ``bench`` found: as a table, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import Any

WIDTH, LEFT, RIGHT, BAR, GAP = 900, 250, 210, 11, 10
RATIO_MIN = 1e-3
COLOURS = {"ring": "#0b7285", "thread": "#74b816", "anyio": "#adb5bd"}


def render(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [*_header(report), ""]
    for _, rows in groupby(report["rows"], key=lambda row: row["case"]):
        lines += [*_case(list(rows)), ""]
    idle = report["idle_lag_p99_ms"]
    lines.append(
        "idle loop, lag p99: "
        + ", ".join(f"{loop} {_milliseconds(lag)}" for loop, lag in idle.items())
    )
    lines += _verdict(report)
    lines += ["", *report["notes"]]
    return "\n".join(lines)


def _header(report: dict[str, Any]) -> list[str]:
    packages = ", ".join(
        f"{name} {version}" if version else f"no {name}"
        for name, version in report["packages"].items()
    )
    mount = report["mount"]
    core = "with" if report["compiled"] else "without"
    lines = [
        f"anyio_uring {report['version']}, {core} the compiled core; {packages}",
        f"{report['python']} on {report['kernel']} ({report['machine']}, {report['processors']} "
        "processors" + (f", load {report['load']:.1f})" if report["load"] is not None else ")"),
        f"{report['directory']}: {report['file_system']}"
        + (f" ({mount['source']} on {mount['point']})" if mount else ""),
        f"driver: {report['driver']}, because {report['reason']}",
    ]
    if report["remedy"]:
        lines.append(f"  remedy: {report['remedy']}")
    if report["ring_missing"]:
        lines.append(f"no row for the ring: {report['ring_missing']}")
    lines += [f"no rows on {name}: {why}" for name, why in report["loops_missing"].items()]
    return lines


def _case(rows: list[dict[str, Any]]) -> Iterator[str]:
    sync = next(row for row in rows if row["key"] == "sync")
    yield f"{sync['title']}; synchronous Python: {_rate(sync)}"
    heads = ("to sync", "to AnyIO", "rate", "lag p99")
    yield f"  {'loop':<8} {'by':<21}" + "".join(f"{head:>11}" for head in heads) + "  served by"
    before = ""
    for row in rows:
        if row is sync:
            continue
        loop = row["loop"] if row["loop"] != before else ""
        before = row["loop"]
        cells = (
            _ratio(row["ratio_to_sync"]),
            _ratio(row["ratio_to_anyio"]),
            _rate(row),
            _milliseconds(row["lag_p99_ms"]),
        )
        numbers = "".join(f"{cell:>11}" for cell in cells)
        yield f"  {loop:<8} {row['participant']:<21}{numbers}  {row['served_by']}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3f} x" if ratio < 0.1 else f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"


def _rate(row: dict[str, Any]) -> str:
    rate = row["rate"]
    if row["unit"] == "byte":
        return f"{rate / 1e9:.2f} GB/s" if rate >= 1e9 else f"{rate / 1e6:.0f} MB/s"
    return f"{rate / 1e3:.0f}k/s" if rate >= 1e5 else f"{rate / 1e3:.1f}k/s"


def _milliseconds(lag: float | None) -> str:
    return "" if lag is None else f"{lag:.2f} ms"


def _verdict(report: dict[str, Any]) -> Iterator[str]:
    verified = report["verified"].values()
    size = sum(part["bytes"] for part in verified) / 1e6
    yield (
        f"verified: {size:.0f} MB read back, the same as written, by {len(verified)} participants; "
        f"SHA-256 of the large file {report['sha256'][:16]}..."
    )
    slower = report["slower_than_anyio"]
    yield "slower than anyio.open_file:" + ("" if slower else " nowhere")
    for row in slower:
        ratio = _ratio(row["ratio_to_anyio"])
        yield f"  {ratio:>7}  {row['title']}: {row['participant']}, {row['loop']}"
    yield f"took {report['seconds']:.0f} s, {report['plan']['rounds']} rounds"


# -- the picture ----------------------------------------------------------------------------------


def picture(report: dict[str, Any]) -> str:
    """An SVG: bars of the ratio to synchronous Python, on a logarithmic scale."""
    rows = [row for row in report["rows"] if row["key"] != "sync"]
    top = 10 ** math.ceil(math.log10(max([*(row["ratio_to_sync"] for row in rows), 1.0])))
    decades = round(math.log10(top / RATIO_MIN))
    room = WIDTH - LEFT - RIGHT

    def at(ratio: float) -> float:
        share = math.log10(max(ratio, RATIO_MIN) / RATIO_MIN) / decades
        return LEFT + room * share

    parts: list[str] = []
    y = 70.0
    for _, group in groupby(rows, key=lambda row: row["case"]):
        case = list(group)
        parts.append(_text(LEFT - 10, y + BAR, case[0]["title"], "end", bold=True))
        for row in case:
            width = at(row["ratio_to_sync"]) - LEFT
            fill = COLOURS[row["key"]]
            parts.append(
                f'<rect x="{LEFT}" y="{y:.0f}" width="{width:.1f}" height="{BAR - 2}" '
                f'fill="{fill}"/>'
            )
            label = f"{_ratio(row['ratio_to_sync'])}  {row['participant']}, {row['loop']}"
            parts.append(_text(LEFT + width + 5, y + BAR - 3, label, size=9))
            y += BAR
        y += GAP
    for step in range(decades + 1):
        ratio = RATIO_MIN * 10**step
        x, dash = at(ratio), "" if step == -math.log10(RATIO_MIN) else ' stroke-dasharray="2 4"'
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="62" y2="{y:.0f}" stroke="#868e96"{dash}/>'
        )
        parts.append(_text(x, 56, f"{ratio:g} x", "middle"))
    title = f"Ratio to synchronous Python on {report['file_system']}"
    where = f"{report['kernel']}, {report['python']}, {report['processors']} processors"
    head = [_text(10, 20, title, size=15, bold=True), _text(10, 38, where)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 10:.0f}" '
        'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(head + parts)
        + "\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, anchor: str = "start", *, size: int = 11, bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{weight}>'
        f"{escape(text)}</text>"
    )
