"""results.json and results.md."""
from __future__ import annotations

import json
from pathlib import Path

from . import bars
from .peers import BASELINE
from .rows import ALL

WRK_COLUMNS = (
    ("requests/s", "requests_per_s", "{:,.0f}"), ("p50 µs", "p50_us", "{:,.0f}"), ("p99 µs", "p99_us", "{:,.0f}"),
    ("CPU µs/request", "cpu_us", "{:.2f}"), ("user", "cpu_user_us", "{:.2f}"), ("system", "cpu_system_us", "{:.2f}"),
    ("core µs/request", "core_us", "{:.2f}"), ("peak RSS MiB", "rss_peak_mib", "{:.1f}"),
    ("PSS MiB", "pss_mib", "{:.1f}"),
    ("proxy busy", "proxy_busy", "{:.0%}"), ("load busy", "load_busy", "{:.0%}"),
    ("worker spread", "worker_spread", "{:.0%}"),
)
COLUMNS = {
    "wrk": WRK_COLUMNS,
    "h2load": (WRK_COLUMNS[0], ("mean µs", "mean_us", "{:,.0f}"), ("max µs", "max_us", "{:,.0f}"), *WRK_COLUMNS[3:]),
    "handshake": (("handshakes/s", *WRK_COLUMNS[0][1:]), WRK_COLUMNS[1], WRK_COLUMNS[2],
                  ("CPU µs/handshake", *WRK_COLUMNS[3][1:]), *WRK_COLUMNS[4:]),
    "rate": (
        ("rate/s", "rate_per_s", "{:,.0f}"), ("p50 µs", "p50_us", "{:,.0f}"), ("p99 µs", "p99_us", "{:,.0f}"),
        ("p99.9 µs", "p999_us", "{:,.0f}"), ("max µs", "max_us", "{:,.0f}"), ("CPU µs/request", "cpu_us", "{:.2f}"),
        ("sent late, p99 µs", "lag_p99_us", "{:,.0f}"), ("proxy busy", "proxy_busy", "{:.0%}"),
        ("load busy", "load_busy", "{:.0%}"),
    ),
    "idle": (
        ("RSS KiB/connection", "rss_kib_per_connection", "{:.2f}"),
        ("PSS KiB/connection", "pss_kib_per_connection", "{:.2f}"),
        ("anonymous KiB/connection", "anon_kib_per_connection", "{:.2f}"), ("RSS MiB", "rss_mib", "{:.1f}"),
        ("CPU ms/s while idle", "cpu_ms_per_s_idle", "{:.1f}"),
    ),
    "rest": (
        ("start to first 200, ms", "start_ms", "{:.1f}"), ("fastest", "start_ms_min", "{:.1f}"),
        ("slowest", "start_ms_max", "{:.1f}"), ("RSS MiB", "rss_mib", "{:.1f}"), ("PSS MiB", "pss_mib", "{:.1f}"),
        ("anonymous MiB", "anon_mib", "{:.1f}"),
    ),
    "reload": (
        ("rate/s", "rate_per_s", "{:,.0f}"), ("p99 calm µs", "p99_calm_us", "{:,.0f}"),
        ("p99 reloading µs", "p99_reload_us", "{:,.0f}"), ("ratio", "p99_ratio", "{:.2f}"),
        ("p99.9 µs", "p999_us", "{:,.0f}"), ("reloads", "reloads", "{:.0f}"),
        ("CPU µs/request", "cpu_us", "{:.2f}"), ("peak RSS MiB", "rss_peak_mib", "{:.1f}"),
    ),
}
RATIO_OF = {"wrk": "cpu_us", "h2load": "cpu_us", "handshake": "cpu_us", "rate": "p99_us", "idle": "pss_kib_per_connection", "rest": "start_ms",
            "reload": "cpu_us"}
"""The figure whose ratio to the baseline is shown."""


def write(directory: Path, result: dict) -> None:
    """Writes both files; the Markdown holds nothing that the JSON does not."""
    (directory / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (directory / "results.md").write_text(markdown(result))


def markdown(result: dict) -> str:
    parts = [_head(result), _bars(result)]
    parts += [_row(row, result["summary"][row.name]) for row in ALL if row.name in result["summary"]]
    parts += [_syscalls(result["syscalls"]), _trouble(result)]
    return "\n".join(part for part in parts if part)


def _head(result: dict) -> str:
    setting, machine = result["setting"], result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    where = "shared with the load" if setting["cores_shared"] else f"load and upstream on {setting['load_cores']}"
    return "\n".join((
        f"# Load test, {result['date']}, commit {result['commit']}",
        "",
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_mib']:,} MiB, "
        f"{machine['distribution']}, Linux {machine['kernel']}, TCP {machine['tcp_congestion_control']}",
        f"- Versions: {versions}",
        f"- {setting['workers']} worker(s) on core(s) {setting['proxy_cores']}, {where}; "
        f"{setting['rounds']} interleaved rounds of {setting['seconds']:g} s; upstream: {setting['upstream']}",
        "- Figures are medians, with lowest–highest of the rounds where they differ; × is the ratio to "
        f"{BASELINE} inside the same round.",
        "- Each peer's configuration lies in `configs/` beside this file.",
        "- **Taken with other work on the machine: worthless as a measurement.**" if setting["allow_noise"] else "",
        "",
    ))


def _bars(result: dict) -> str:
    verdicts = bars.check(result["summary"], result["syscalls"])
    if not verdicts:
        return ""
    lines = [_line([bar["what"], f"{bar['value']:.3g}", f"{bar['limit']:g}", "yes" if bar["met"] else "**no**"])
             for bar in verdicts]
    return "\n".join(["## Bars", "", "| bar | measured | at most | met |", "|---|---|---|---|", *lines, ""])


def _row(row, peers: dict) -> str:
    columns = [column for column in COLUMNS[row.kind] if any(column[1] in peer["figures"] for peer in peers.values())]
    ratio = RATIO_OF[row.kind]
    head = ["peer", *(title for title, _, _ in columns), f"× {BASELINE}", "errors", "rounds", "remarks"]
    lines = [f"## {row.name}", "", f"{row.title}. Ratio of: {ratio}.", "", _line(head), _line(["---"] * len(head))]
    for name, peer in peers.items():
        cells = [_cell(peer["figures"].get(figure), form) for _, figure, form in columns]
        errors = ", ".join(f"{kind} {number}" for kind, number in peer["errors_by_kind"].items()) or "0"
        flags = ", ".join(peer["flags"])
        lines.append(_line([name, *cells, _cell(peer["ratios"].get(ratio), "{:.2f}"), errors, peer["rounds"], flags]))
    return "\n".join(lines) + "\n"


def _syscalls(records: list[dict]) -> str:
    if not records:
        return ""
    head = ["row", "peer", "strace: all", "strace: io_uring_enter", "free: all", "free: io_uring_enter",
            "free: ring operations", "most frequent under strace"]
    lines = ["## System calls per request", "",
             "`strace` slows the gateway, which then does more per call; `free` is counted by tracepoints.", "",
             _line(head), _line(["---"] * len(head))]
    for record in records:
        traced, free = record["strace"], record["tracepoints"] or {}
        top = ", ".join(f"{name} {rate:.2f}" for name, rate in list(traced["by_name"].items())[:6])
        counted = [_number(free.get(key)) for key in ("all", "io_uring_enter", "ring_operations")]
        lines.append(_line([record["row"], record["peer"], _number(traced["per_request"]),
                            _number(traced["io_uring_enter"]), *counted, top]))
    return "\n".join(lines) + "\n"


def _trouble(result: dict) -> str:
    lines = [f"- {item['row']}, round {item['round'] + 1}: others used {item['foreign_cores']:.0%} of a core"
             for item in result["discarded"]]
    lines += [f"- {item['row']}, {item['peer']}, round {item['round'] + 1}: {item['error']}"
              for item in result["failures"]]
    return "\n".join(["## Discarded rounds and failures", "", *lines, ""]) if lines else ""


def _cell(spread: list | None, form: str) -> str:
    if not spread:
        return "–"
    middle, low, high = (form.format(value) for value in spread)
    return middle if low == high else f"{middle} ({low}–{high})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _line(cells: list) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
