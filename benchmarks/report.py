"""The table in words: on the terminal while it is measured, and as Markdown."""

from __future__ import annotations

from typing import Any

HEAD = (
    f"{'file system':10} {'loop':8}{'row':15}{'':8} {'sync':>7} {'anyio':>7} {'ours':>7}"
    f" {'ours/sync':>22} {'aim':>5} {'':4}{'ours/anyio':>22} {'':4} served by"
)
COLUMNS = (
    "workload",
    "loop",
    "io_uring",
    "sync",
    "anyio",
    "ours",
    "ours/sync",
    "aim",
    "reached",
    "ours/anyio",
    "not slower",
    "served by",
)
RULE = "|---|---|---|--:|--:|--:|--:|--:|---|--:|---|---|"


def short(rate: float) -> str:
    """A rate with three digits: 1.23M, 45.6k, 789."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.{_digits(rate / size)}f}{unit}"
    return f"{rate:.{_digits(rate)}f}"


def _digits(number: float) -> int:
    return 2 if number < 10 else 1 if number < 100 else 0


def _ratio(line: dict[str, Any], name: str) -> str:
    least, greatest = line[f"{name}_spread"]
    return " ".join((f"{line[name]:.{_digits(line[name])}f}", f"({least:.2f}-{greatest:.2f})"))


def _target(line: dict[str, Any]) -> str:
    return "" if line["target"] is None else f"{line['target']:.2f}"


def terminal(line: dict[str, Any]) -> str:
    who = "blocked" if line["participant"] == "blocked" else ""
    return (
        f"{line['place'][-10:]:10} {line['host']:8}{line['row']:15}{who:8}"
        f" {short(line['sync_rate']):>7} {short(line['anyio_rate']):>7}"
        f" {short(line['ours_rate']):>7}"
        f" {_ratio(line, 'to_sync'):>22} {_target(line):>5} {line['reached']:4}"
        f"{_ratio(line, 'to_anyio'):>22} {line['not_slower']:4} {line['served_by']}"
    )


def summary(report: dict[str, Any]) -> list[str]:
    """How many cells reach what is aimed at, and which do not."""
    lines = report["lines"]
    aimed = [line for line in lines if line["target"] is not None]
    short_of = [line for line in aimed if line["reached"].startswith("NO")]
    slower = [line for line in lines if line["not_slower"].startswith("NO")]
    texts = [
        f"{len(aimed) - len(short_of)} of {len(aimed)} reach the share of sync aimed at.",
        f"{len(lines) - len(slower)} of {len(lines)} are not slower than anyio.open_file.",
    ]
    for title, found in (("Short of the aim", short_of), ("Slower than AnyIO", slower)):
        texts += [f"{title}: {_name(line)}" for line in found]
    texts += [f"Not measured: {text}" for text in report["missing"]]
    texts += [f"FAILED: {text}" for text in report["failed"]]
    texts += report["notes"]
    return texts


def _name(line: dict[str, Any]) -> str:
    blocked = ", io_uring blocked" if line["participant"] == "blocked" else ""
    return f"{line['place']}, {line['host']}, {line['title']}{blocked}"


def polling(machine: dict[str, Any]) -> str:
    """What an idle processor does, where that is known."""
    nanoseconds = machine["halt_poll_ns"]
    if nanoseconds is None:
        return ""
    if not nanoseconds:
        return ", given back to the host as soon as they are idle"
    return f", which look for work for {nanoseconds / 1000:.0f} us when they are idle"


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    machine = report["machine"]
    intro = (
        f"anyio_uring {machine['anyio_uring']}, Python {machine['python']}, {machine['kernel']},"
        f" {machine['cpus']} processors{polling(machine)}. {report['rounds']} interleaved rounds of"
        f" {report['seconds_each'] * 1000:.0f} ms, one process per participant; operations per"
        " second, ratios as median (least-greatest)."
    )
    parts = [intro]
    for place, about in report["places"].items():
        lines = [line for line in report["lines"] if line["place"] == place]
        if not lines:
            continue
        parts.append(f"## {place} ({about})")
        table = ["| " + " | ".join(COLUMNS) + " |", RULE]
        for line in sorted(lines, key=lambda line: report["rows"].index(line["row"])):
            cells = (
                line["title"],
                line["host"],
                "blocked" if line["participant"] == "blocked" else "",
                short(line["sync_rate"]),
                short(line["anyio_rate"]),
                short(line["ours_rate"]),
                _ratio(line, "to_sync"),
                _target(line),
                line["reached"],
                _ratio(line, "to_anyio"),
                line["not_slower"],
                line["served_by"],
            )
            table.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(table))
    parts.append("\n".join(f"- {text}" for text in summary(report)))
    return "\n\n".join(parts) + "\n"
