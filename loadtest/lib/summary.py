"""From records to medians, spreads and ratios."""
from __future__ import annotations

import statistics

from .peers import BASELINE

LOAD_BUSY_MAX = 0.95
NOT_FIGURES = {"row", "peer", "round", "errors_by_kind"}


def summarise(records: list[dict]) -> dict:
    """row → peer → {"rounds", "figures": name → [median, min, max], "ratios": the same to the baseline, "flags"}.

    A ratio is taken inside a round, so that drift of the machine between rounds does not enter it.
    """
    summary: dict = {}
    for row in _in_order(record["row"] for record in records):
        of_row = [record for record in records if record["row"] == row]
        base = {record["round"]: record for record in of_row if record["peer"] == BASELINE}
        summary[row] = {
            peer: _of_peer([record for record in of_row if record["peer"] == peer], base)
            for peer in _in_order(record["peer"] for record in of_row)
        }
    return summary


def median(summary: dict, row: str, peer: str, figure: str) -> float | None:
    """The median of a figure, or None when it was not measured."""
    spread = summary.get(row, {}).get(peer, {}).get("figures", {}).get(figure)
    return spread[0] if spread else None


def _of_peer(records: list[dict], base: dict) -> dict:
    names = _in_order(name for record in records for name in record if name not in NOT_FIGURES)
    figures = {name: _spread([record[name] for record in records if record.get(name) is not None]) for name in names}
    ratios = {name: _spread(_ratios(records, base, name)) for name in names}
    return {
        "rounds": len(records),
        "figures": {name: spread for name, spread in figures.items() if spread},
        "ratios": {name: spread for name, spread in ratios.items() if spread},
        "errors_by_kind": _sum_errors(records),
        "flags": _flags(records),
    }


def _ratios(records: list[dict], base: dict, name: str) -> list[float]:
    pairs = ((record.get(name), base.get(record["round"], {}).get(name)) for record in records)
    return [value / reference for value, reference in pairs if value is not None and reference]


def _spread(values: list[float]) -> list[float] | None:
    return [statistics.median(values), min(values), max(values)] if values else None


def _sum_errors(records: list[dict]) -> dict:
    total: dict = {}
    for record in records:
        for kind, number in record.get("errors_by_kind", {}).items():
            total[kind] = total.get(kind, 0) + number
    return total


def _flags(records: list[dict]) -> list[str]:
    flags = []
    if any((record.get("load_busy") or 0) > LOAD_BUSY_MAX for record in records):
        flags.append("load side at its limit")
    if any(record.get("foreign_cores", 0) > 0.10 for record in records):
        flags.append("noisy")
    if any(record.get("errors") for record in records):
        flags.append("errors")
    return flags


def _in_order(names) -> list[str]:
    return list(dict.fromkeys(names))
