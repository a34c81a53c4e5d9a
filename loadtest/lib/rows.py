"""The rows of the comparison: what is measured, and how."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from . import routes, wire
from .load import H2load, Wrk
from .wire import Front

IDLE_CONNECTIONS = 5_000
IDLE_TLS_CONNECTIONS = 2_000
HANDSHAKES_AT_ONCE = 8
RATE_CONNECTIONS = 64
STARTS = 20
RELOAD_EVERY_S = 0.2


@dataclass(frozen=True)
class Row:
    """`kind` chooses the procedure: wrk, h2load, handshake, rate, idle, rest or reload."""

    name: str
    title: str
    kind: str = "wrk"
    wrk: Wrk = Wrk(64)
    routes: int = 1
    series: str = "plain"
    reloadable: bool = False
    layer4: bool = False
    """Layer-4 relays take part."""
    front: Front = Front()
    """What clients speak."""
    back: str = "h1"
    """What the gateway speaks to the upstream: h1, h2 or grpc."""
    streams: int = 1
    """Requests at a time on each connection, of an h2load row."""
    handshake: str = "full"
    """What a handshake row makes: full or resumed ones."""
    idle_connections: int = IDLE_CONNECTIONS

    def load(self, scratch: Path) -> Wrk:
        """The wrk set-up, with the file of paths written when the row hits many routes."""
        if self.wrk.mode[0] != "paths":
            return replace(self.wrk, scheme=self.front.scheme)
        return Wrk(self.wrk.connections, self.wrk.path, ("paths", str(self.paths_file(scratch))))

    def h2_load(self, message: Path) -> H2load:
        """The h2load set-up. `message` is the body of a gRPC call."""
        if self.back == "grpc":
            return H2load(self.wrk.connections, self.streams, wire.GRPC_PATH, self.front.scheme, message)
        return H2load(self.wrk.connections, self.streams, self.wrk.path, self.front.scheme)

    def paths_file(self, scratch: Path) -> Path:
        file = scratch / f"paths-{self.routes}.txt"
        file.write_text("".join(path + "\n" for path in routes.paths(self.routes)))
        return file


def _get(name: str, title: str, connections: int, path: str = "/1k", **more) -> Row:
    return Row(name, title, wrk=Wrk(connections, path), **more)


def _h2(name: str, title: str, **more) -> Row:
    return Row(name, title, kind="h2load", wrk=Wrk(16, "/1k"), streams=10, **more)


TLS, H2, H2C = Front(tls=True), Front(tls=True, http2=True), Front(http2=True)


def _post(name: str, title: str, connections: int, body_bytes: int) -> Row:
    return Row(name, title, wrk=Wrk(connections, "/post", ("post", str(body_bytes))))


def _table(count: int) -> Row:
    title = f"GET 1 KiB, 64 connections, {count:,} routes, random ones hit" if count > 1 else \
        "GET 1 KiB, 64 connections, one route, same script as the rows with many"
    return Row(f"routes{count}", title, wrk=Wrk(64, "/", ("paths",)), routes=count)


ALL = (
    _get("get1k_64", "GET 1 KiB, keep-alive, 64 connections", 64, layer4=True),
    _get("get1k_512", "GET 1 KiB, keep-alive, 512 connections", 512, layer4=True),
    _get("get1k_64_log", "GET 1 KiB, 64 connections, everybody writes a JSON access log to tmpfs", 64, series="log"),
    _get("get1k_64_full", "GET 1 KiB, 64 connections; ringway with rate_limit, headers and JSON access log, "
         "the peers without", 64, series="full"),
    _get("get64k", "GET 64 KiB, 64 connections", 64, "/64k"),
    _get("get1m", "GET 1 MiB, 16 connections", 16, "/1m"),
    _post("post4k", "POST 4 KiB, 64 connections", 64, 4_096),
    _post("post1m", "POST 1 MiB, 16 connections", 16, 1_048_576),
    _table(1),
    _table(1_000),
    _table(10_000),
    Row("newconn", "GET 1 KiB, a new connection per request, 64 at a time", wrk=Wrk(64, "/1k", ("close",))),
    Row("rate", f"GET 1 KiB at a constant rate of half of nginx's peak, {RATE_CONNECTIONS} connections", kind="rate"),
    Row("idle", f"{IDLE_CONNECTIONS:,} idle kept-alive connections that each made one request", kind="idle"),
    Row("rest", f"memory at rest; start to the first 200, median of {STARTS}", kind="rest"),
    Row("reload", "constant rate of half of its own peak, 1,000 routes, with a reload each 200 ms and without",
        kind="reload", wrk=Wrk(64, "/", ("paths",)), routes=1_000, reloadable=True),
    _get("tls_get1k", "TLS 1.3, HTTP/1.1: GET 1 KiB, keep-alive, 64 connections", 64, front=TLS),
    _get("tls_get1m", "TLS 1.3, HTTP/1.1: GET 1 MiB, 16 connections", 16, "/1m", front=TLS),
    Row("tls_full", f"full TLS 1.3 handshakes, no request, {HANDSHAKES_AT_ONCE} at a time", kind="handshake", front=TLS),
    Row("tls_resumed", f"TLS 1.3 handshakes resumed by a ticket, no request, {HANDSHAKES_AT_ONCE} at a time",
        kind="handshake", front=TLS, handshake="resumed"),
    _h2("h2_get1k", "TLS 1.3, HTTP/2: GET 1 KiB, 16 connections × 10 streams", front=H2),
    _h2("h2c_get1k", "HTTP/2 without TLS, HTTP/1.1 to the upstream: GET 1 KiB, 16 connections × 10 streams", front=H2C),
    _get("h1_to_h2", "HTTP/1.1, HTTP/2 to the upstream: GET 1 KiB, keep-alive, 64 connections", 64, back="h2"),
    _h2("h2c_to_h2", "HTTP/2 without TLS on both sides: GET 1 KiB, 16 connections × 10 streams", front=H2C, back="h2"),
    _h2("grpc_unary", "gRPC without TLS, end to end: a unary call with 105 bytes each way, 16 connections × 10 streams",
        front=H2C, back="grpc"),
    Row("idle_tls", f"{IDLE_TLS_CONNECTIONS:,} idle TLS 1.3 HTTP/1.1 clients that each made one request", kind="idle",
        front=TLS, idle_connections=IDLE_TLS_CONNECTIONS),
    Row("idle_h2", f"{IDLE_TLS_CONNECTIONS:,} idle TLS 1.3 HTTP/2 clients that each made one request", kind="idle",
        front=H2, idle_connections=IDLE_TLS_CONNECTIONS),
    Row("idle_h2c", f"{IDLE_TLS_CONNECTIONS:,} idle HTTP/2 clients without TLS that each made one request", kind="idle",
        front=H2C, idle_connections=IDLE_TLS_CONNECTIONS),
)

NAMES = tuple(row.name for row in ALL)
WIRES = tuple(row.name for row in ALL if row.front != Front() or row.back != "h1")
GROUPS = {"wires": WIRES, "engine": tuple(name for name in NAMES if name not in WIRES)}
"""Words for several rows: those with TLS or HTTP/2 on either side, and the others."""


def choose(names: list[str]) -> list[Row]:
    by_name = {row.name: row for row in ALL}
    names = [name for word in names for name in GROUPS.get(word, (word,))]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SystemExit(f"loadtest: unknown row {', '.join(unknown)}; there are {', '.join((*GROUPS, *NAMES))}")
    return [by_name[name] for name in names]
