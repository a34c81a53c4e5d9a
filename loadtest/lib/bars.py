"""The goals that ringway is held to, checked against a summary."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from .peers import BASELINE
from .summary import median

US = "ringway"
OTHERS = ("nginx", "haproxy", "envoy")
TLS_LIBRARY_KIB = 7.8
"""What the TLS library itself holds for an idle connection (`tools/tls_floor.rs`); the bars leave it out."""


@dataclass(frozen=True)
class Bar:
    """`value` gives the measured figure, or None when something for it was not measured; lower is better."""

    what: str
    limit: float
    value: Callable


def check(summary: dict, syscalls: list[dict]) -> list[dict]:
    """What each bar says, in order; bars without figures are left out."""
    verdicts = []
    for bar in _bars():
        value = bar.value(summary, syscalls)
        if value is not None:
            verdicts.append({"what": bar.what, "value": value, "limit": bar.limit, "met": value <= bar.limit})
    return verdicts


def _bars() -> list[Bar]:
    bars = []
    for row in ("get1k_64", "get1k_512"):
        for other, limit in ((BASELINE, 0.65), ("nginx-stream", 0.9), ("haproxy", 0.65), ("envoy", 0.25)):
            bars.append(Bar(f"{row}: CPU per request, × {other}", limit, _against(row, other, "cpu_us")))
    bars.append(Bar("get1k_64_full: CPU per request, × nginx without them", 0.75,
                    _against("get1k_64_full", BASELINE, "cpu_us")))
    for routes in (1_000, 10_000):
        bars.append(Bar(f"routes{routes}: CPU per request, × one route", 1.03, _against_one_route(f"routes{routes}")))
    for row in ("get64k", "get1m", "post4k", "post1m"):
        bars.append(Bar(f"{row}: CPU per request, × the best other", 1.0, _against_best(row)))
    bars.append(Bar("newconn: CPU per request, × nginx", 0.9, _against("newconn", BASELINE, "cpu_us")))
    for figure in ("p50_us", "p99_us", "p999_us"):
        bars.append(Bar(f"rate: {figure[:-3]}, × nginx", 1.0, _against("rate", BASELINE, figure)))
    bars += _bars_of_tls_and_http2()
    bars += [
        Bar("idle: PSS KiB per kept-alive client", 2.0, _own("idle", "pss_kib_per_connection")),
        Bar("idle_h2c: PSS KiB per client", 8.0, _own("idle_h2c", "pss_kib_per_connection")),
        Bar("rest: RSS MiB", 10.0, _own("rest", "rss_mib")),
        Bar("rest: start to first 200, ms", 15.0, _own("rest", "start_ms")),
        Bar("reload: p99 with reloads, × without", 1.5, _own("reload", "p99_ratio")),
        Bar("get1k_64: load of the workers, spread", 0.10, _own("get1k_64", "worker_spread")),
        Bar("get1k_64: ring operations per request", 4.05, _traced("get1k_64", "ring_operations")),
        Bar("get1k_64: io_uring_enter per request", 0.3, _traced("get1k_64", "io_uring_enter")),
    ]
    return bars


def _bars_of_tls_and_http2() -> list[Bar]:
    against = (
        ("tls_get1k", BASELINE, 0.75), ("h2_get1k", "haproxy", 1.0), ("h2_get1k", "envoy", 0.4),
        ("grpc_unary", "envoy", 0.5), ("grpc_unary", BASELINE, 0.9), ("tls_full", BASELINE, 1.0),
        ("tls_resumed", BASELINE, 1.0),
    )
    best = (("h2c_get1k", 1.0), ("h1_to_h2", 1.0), ("h2c_to_h2", 1.0), ("tls_get1m", 1.1))
    idle = (("idle_tls", 6.0), ("idle_h2", 8.0))
    what = lambda row: f"{row}: CPU per {'handshake' if row in ('tls_full', 'tls_resumed') else 'request'}"  # noqa: E731
    return [
        *(Bar(f"{what(row)}, × {other}", limit, _against(row, other, "cpu_us")) for row, other, limit in against),
        *(Bar(f"{what(row)}, × the best other", limit, _against_best(row)) for row, limit in best),
        *(Bar(f"{row}: PSS KiB per client, at most {limit:.0f} beside the {TLS_LIBRARY_KIB} of the TLS library",
              limit + TLS_LIBRARY_KIB, _own(row, "pss_kib_per_connection")) for row, limit in idle),
    ]


def _own(row: str, figure: str) -> Callable:
    return lambda summary, _syscalls: median(summary, row, US, figure)


def _against(row: str, other: str, figure: str) -> Callable:
    return lambda summary, _syscalls: _quotient(
        median(summary, row, US, figure), median(summary, row, other, figure))


def _against_one_route(row: str) -> Callable:
    return lambda summary, _syscalls: _quotient(
        median(summary, row, US, "cpu_us"), median(summary, "routes1", US, "cpu_us"))


def _against_best(row: str) -> Callable:
    def value(summary: dict, _syscalls: list) -> float | None:
        others = [cpu for other in OTHERS if (cpu := median(summary, row, other, "cpu_us")) is not None]
        return _quotient(median(summary, row, US, "cpu_us"), min(others, default=None))

    return value


def _traced(row: str, figure: str) -> Callable:
    def value(_summary: dict, syscalls: list) -> float | None:
        for record in syscalls:
            if (record["row"], record["peer"]) == (row, US):
                return (record["tracepoints"] or record["strace"]).get(figure)
        return None

    return value


def _quotient(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None
